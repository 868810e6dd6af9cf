/* iq4_neon.c - the NEON twins of IQ4_NL and IQ4_XS (quant/simd/iq4.inc). */
#if defined(__aarch64__)
#include "quant/arm/codec_neon.inc"
#define MG_FILL(family) mg_codecs_fill_neon_##family
#include "quant/simd/iq4.inc"
#else
#include "quant/codec_twins.h"
void mg_codecs_fill_neon_iq4(mg_codec *table) {
    (void)table;
}
#endif
