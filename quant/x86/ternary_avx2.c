/* ternary_avx2.c - the AVX2 twins of Q1_0, Q2_0, TQ1_0, TQ2_0 (quant/simd/ternary.inc). */
#if defined(__x86_64__)
#include "quant/x86/codec_avx2.inc"
#define MG_FILL(family) mg_codecs_fill_avx2_##family
#include "quant/simd/ternary.inc"
#else
#include "quant/codec_twins.h"
void mg_codecs_fill_avx2_ternary(mg_codec *table) {
    (void)table;
}
#endif
