/* kmin_neon.c - the NEON twins of Q2_K, Q4_K, Q5_K (quant/simd/kmin.inc). */
#if defined(__aarch64__)
#include "quant/arm/codec_neon.inc"
#define MG_FILL(family) mg_codecs_fill_neon_##family
#include "quant/simd/kmin.inc"
#else
#include "quant/codec_twins.h"
void mg_codecs_fill_neon_kmin(mg_codec *table) {
    (void)table;
}
#endif
