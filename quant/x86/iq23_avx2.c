/* iq23_avx2.c - the AVX2 twins of IQ2_*, IQ3_* (quant/simd/iq_fit.inc). */
#if defined(__x86_64__)
#include "quant/x86/codec_avx2.inc"

#include "quant/x86/eight_avx2.inc"
#define MG_FILL(family) mg_codecs_fill_avx2_##family
#include "quant/simd/iq_fit.inc"
#else
#include "quant/codec_twins.h"
void mg_codecs_fill_avx2_iq23(mg_codec *table) {
    (void)table;
}
#endif
