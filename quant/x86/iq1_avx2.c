/* iq1_avx2.c - the AVX2 twins of IQ1_S, IQ1_M (quant/simd/iq1.inc). */
#if defined(__x86_64__)
#include "quant/x86/codec_avx2.inc"

#include "quant/x86/eight_avx2.inc"
#define MG_FILL(family) mg_codecs_fill_avx2_##family
#include "quant/simd/iq1.inc"
#else
#include "quant/codec_twins.h"
void mg_codecs_fill_avx2_iq1(mg_codec *table) {
    (void)table;
}
#endif
