/* plain_avx512.c - the AVX-512 twins of F16 and BF16 (quant/simd/plain.inc). */
#if defined(__x86_64__)
#include "quant/x86/codec_avx512.inc"
#define MG_FILL(family) mg_codecs_fill_avx512_##family
#include "quant/simd/plain.inc"
#else
#include "quant/codec_twins.h"
void mg_codecs_fill_avx512_plain(mg_codec *table) {
    (void)table;
}
#endif
