/* iq23_neon.c - the NEON twins of IQ2_*, IQ3_* (quant/simd/iq_fit.inc). */
#if defined(__aarch64__)
#include "quant/arm/codec_neon.inc"

#include "quant/arm/eight_neon.inc"
#define MG_FILL(family) mg_codecs_fill_neon_##family
#include "quant/simd/iq_fit.inc"
#else
#include "quant/codec_twins.h"
void mg_codecs_fill_neon_iq23(mg_codec *table) {
    (void)table;
}
#endif
