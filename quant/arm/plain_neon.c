/* plain_neon.c - the NEON twins of F16 and BF16 (quant/simd/plain.inc). */
#if defined(__aarch64__)
#include "quant/arm/codec_neon.inc"
#define MG_FILL(family) mg_codecs_fill_neon_##family
#include "quant/simd/plain.inc"
#else
#include "quant/codec_twins.h"
void mg_codecs_fill_neon_plain(mg_codec *table) {
    (void)table;
}
#endif
