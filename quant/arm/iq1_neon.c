/* iq1_neon.c - the NEON twins of IQ1_S, IQ1_M (quant/simd/iq1.inc). */
#if defined(__aarch64__)
#include "quant/arm/codec_neon.inc"

#include "quant/arm/eight_neon.inc"
#define MG_FILL(family) mg_codecs_fill_neon_##family
#include "quant/simd/iq1.inc"
#else
#include "quant/codec_twins.h"
void mg_codecs_fill_neon_iq1(mg_codec *table) {
    (void)table;
}
#endif
