/* legacy_neon.c - the NEON twins of Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 (quant/simd/legacy.inc). */
#if defined(__aarch64__)
#include "quant/arm/codec_neon.inc"
#define MG_FILL(family) mg_codecs_fill_neon_##family
#include "quant/simd/legacy.inc"
#else
#include "quant/codec_twins.h"
void mg_codecs_fill_neon_legacy(mg_codec *table) {
    (void)table;
}
#endif
