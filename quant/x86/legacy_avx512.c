/* legacy_avx512.c - the AVX-512 twins of the blocks of 32 (quant/simd/legacy.inc). */
#if defined(__x86_64__)
#include "quant/x86/codec_avx512.inc"
#define MG_FILL(family) mg_codecs_fill_avx512_##family
#include "quant/simd/legacy.inc"
#else
#include "quant/codec_twins.h"
void mg_codecs_fill_avx512_legacy(mg_codec *table) {
    (void)table;
}
#endif
