/* ksigned_neon.c - the NEON twins of Q3_K and Q6_K (quant/simd/ksigned.inc). */
#if defined(__aarch64__)
#include "quant/arm/codec_neon.inc"
#define MG_FILL(family) mg_codecs_fill_neon_##family
#include "quant/simd/ksigned.inc"
#else
#include "quant/codec_twins.h"
void mg_codecs_fill_neon_ksigned(mg_codec *table) {
    (void)table;
}
#endif
