/* kmin_avx512.c - the AVX-512 twins of Q2_K, Q4_K, Q5_K (quant/simd/kmin.inc). */
#if defined(__x86_64__)
#include "quant/x86/codec_avx512.inc"
#define MG_FILL(family) mg_codecs_fill_avx512_##family
#include "quant/simd/kmin.inc"
#else
#include "quant/codec_twins.h"
void mg_codecs_fill_avx512_kmin(mg_codec *table) {
    (void)table;
}
#endif
