/* iq1_avx512.c - the AVX-512 twins of IQ1_S, IQ1_M (quant/simd/iq1.inc). */
#if defined(__x86_64__)
#include "quant/x86/codec_avx512.inc"

#include "quant/x86/eight_avx2.inc"
#define MG_FILL(family) mg_codecs_fill_avx512_##family
#include "quant/simd/iq1.inc"
#else
#include "quant/codec_twins.h"
void mg_codecs_fill_avx512_iq1(mg_codec *table) {
    (void)table;
}
#endif
