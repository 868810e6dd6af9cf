/* fp4_neon.c - the NEON twins of MXFP4, NVFP4 (quant/simd/fp4.inc). */
#if defined(__aarch64__)
#include "quant/arm/codec_neon.inc"
#define MG_FILL(family) mg_codecs_fill_neon_##family
#include "quant/simd/fp4.inc"
#else
#include "quant/codec_twins.h"
void mg_codecs_fill_neon_fp4(mg_codec *table) {
    (void)table;
}
#endif
