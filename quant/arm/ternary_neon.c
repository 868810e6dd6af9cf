/* ternary_neon.c - the NEON twins of Q1_0, Q2_0, TQ1_0, TQ2_0 (quant/simd/ternary.inc). */
#if defined(__aarch64__)
#include "quant/arm/codec_neon.inc"
#define MG_FILL(family) mg_codecs_fill_neon_##family
#include "quant/simd/ternary.inc"
#else
#include "quant/codec_twins.h"
void mg_codecs_fill_neon_ternary(mg_codec *table) {
    (void)table;
}
#endif
