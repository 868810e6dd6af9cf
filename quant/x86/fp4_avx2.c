/* fp4_avx2.c - the AVX2 twins of MXFP4, NVFP4 (quant/simd/fp4.inc). */
#if defined(__x86_64__)
#include "quant/x86/codec_avx2.inc"
#define MG_FILL(family) mg_codecs_fill_avx2_##family
#include "quant/simd/fp4.inc"
#else
#include "quant/codec_twins.h"
void mg_codecs_fill_avx2_fp4(mg_codec *table) {
    (void)table;
}
#endif
