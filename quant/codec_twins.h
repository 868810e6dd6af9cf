/* codec_twins.h - functions that put faster codecs of an instruction set over the scalar ones (private to quant/).
 * A twin gives the scalar reference's bytes for every input; tests/check_kernels.c compares them. */
#ifndef MG_QUANT_CODEC_TWINS_H
#define MG_QUANT_CODEC_TWINS_H

#include "quant/codec.h"

/* One per file of quant/x86; table[MG_DTYPE_COUNT]. On other processors than x86-64 they change nothing. */
void mg_codecs_fill_avx2_plain(mg_codec *table);   /* F16, BF16 */
void mg_codecs_fill_avx2_legacy(mg_codec *table);  /* Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 */
void mg_codecs_fill_avx2_kmin(mg_codec *table);    /* Q2_K, Q4_K, Q5_K */
void mg_codecs_fill_avx2_ksigned(mg_codec *table); /* Q3_K, Q6_K */
void mg_codecs_fill_avx2_iq4(mg_codec *table);     /* IQ4_NL, IQ4_XS */
void mg_codecs_fill_avx2_iq23(mg_codec *table);    /* IQ2_*, IQ3_* */
void mg_codecs_fill_avx2_iq1(mg_codec *table);     /* IQ1_S, IQ1_M */
void mg_codecs_fill_avx2_fp4(mg_codec *table);     /* MXFP4, NVFP4 */
void mg_codecs_fill_avx2_ternary(mg_codec *table); /* Q1_0, Q2_0, TQ1_0, TQ2_0 */
void mg_codecs_fill_avx512_plain(mg_codec *table);
void mg_codecs_fill_avx512_legacy(mg_codec *table);
void mg_codecs_fill_avx512_kmin(mg_codec *table);
void mg_codecs_fill_avx512_ksigned(mg_codec *table);
void mg_codecs_fill_avx512_iq4(mg_codec *table);
void mg_codecs_fill_avx512_iq23(mg_codec *table);
void mg_codecs_fill_avx512_iq1(mg_codec *table);
void mg_codecs_fill_avx512_fp4(mg_codec *table);
void mg_codecs_fill_avx512_ternary(mg_codec *table);
/* quant/arm, on AArch64 only. */
void mg_codecs_fill_neon_plain(mg_codec *table);
void mg_codecs_fill_neon_legacy(mg_codec *table);
void mg_codecs_fill_neon_kmin(mg_codec *table);
void mg_codecs_fill_neon_ksigned(mg_codec *table);
void mg_codecs_fill_neon_iq4(mg_codec *table);
void mg_codecs_fill_neon_iq23(mg_codec *table);
void mg_codecs_fill_neon_iq1(mg_codec *table);
void mg_codecs_fill_neon_fp4(mg_codec *table);
void mg_codecs_fill_neon_ternary(mg_codec *table);

#endif
