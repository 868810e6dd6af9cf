/* plain_avx2.c - the AVX2 twins of F16 and BF16 (quant/simd/plain.inc). */
#if defined(__x86_64__)
#include "quant/x86/codec_avx2.inc"
#define MG_FILL(family) mg_codecs_fill_avx2_##family
#include "quant/simd/plain.inc"
#else
#include "quant/codec_twins.h"
void mg_codecs_fill_avx2_plain(mg_codec *table) {
    (void)table;
}
#endif
