/* codec.c - the codec table, built from codecs.inc, and the twins of an instruction set laid over it. */
#include "quant/codec.h"

#include "quant/codec_twins.h"
#include "quant/ref/ref.h"

#include <pthread.h>
#include <string.h>

static const mg_codec scalar[MG_DTYPE_COUNT] = {
#define MG_CODEC(type, stem, use)                                                                                      \
    [MG_##type] = {MG_##type, MG_IMATRIX_##use, mg_ref_##stem##_encode, mg_ref_##stem##_decode},
#include "quant/codecs.inc"
#undef MG_CODEC
};

static mg_codec twins[MG_ISA_NEON + 1][MG_DTYPE_COUNT];
static pthread_once_t twins_once = PTHREAD_ONCE_INIT;

static void build_twins(void) {
    for (mg_isa isa = MG_ISA_SCALAR; isa <= MG_ISA_NEON; isa++) memcpy(twins[isa], scalar, sizeof scalar);
    /* what has no AVX-512 twin has an AVX2 one */
    for (mg_isa isa = MG_ISA_AVX2; isa <= MG_ISA_AVX512 && mg_cpu_has(isa); isa++) {
        mg_codecs_fill_avx2_plain(twins[isa]);
        mg_codecs_fill_avx2_legacy(twins[isa]);
        mg_codecs_fill_avx2_kmin(twins[isa]);
        mg_codecs_fill_avx2_ksigned(twins[isa]);
        mg_codecs_fill_avx2_iq4(twins[isa]);
        mg_codecs_fill_avx2_iq23(twins[isa]);
        mg_codecs_fill_avx2_iq1(twins[isa]);
        mg_codecs_fill_avx2_fp4(twins[isa]);
        mg_codecs_fill_avx2_ternary(twins[isa]);
    }
    if (mg_cpu_has(MG_ISA_AVX512)) {
        mg_codecs_fill_avx512_plain(twins[MG_ISA_AVX512]);
        mg_codecs_fill_avx512_legacy(twins[MG_ISA_AVX512]);
        mg_codecs_fill_avx512_kmin(twins[MG_ISA_AVX512]);
        mg_codecs_fill_avx512_ksigned(twins[MG_ISA_AVX512]);
        mg_codecs_fill_avx512_iq4(twins[MG_ISA_AVX512]);
        mg_codecs_fill_avx512_iq23(twins[MG_ISA_AVX512]);
        mg_codecs_fill_avx512_iq1(twins[MG_ISA_AVX512]);
        mg_codecs_fill_avx512_fp4(twins[MG_ISA_AVX512]);
        mg_codecs_fill_avx512_ternary(twins[MG_ISA_AVX512]);
    }
    if (mg_cpu_has(MG_ISA_NEON)) {
        mg_codecs_fill_neon_plain(twins[MG_ISA_NEON]);
        mg_codecs_fill_neon_legacy(twins[MG_ISA_NEON]);
        mg_codecs_fill_neon_kmin(twins[MG_ISA_NEON]);
        mg_codecs_fill_neon_ksigned(twins[MG_ISA_NEON]);
        mg_codecs_fill_neon_iq4(twins[MG_ISA_NEON]);
        mg_codecs_fill_neon_iq23(twins[MG_ISA_NEON]);
        mg_codecs_fill_neon_iq1(twins[MG_ISA_NEON]);
        mg_codecs_fill_neon_fp4(twins[MG_ISA_NEON]);
        mg_codecs_fill_neon_ternary(twins[MG_ISA_NEON]);
    }
}

const mg_codec *mg_codec_for(mg_dtype t, mg_isa isa) {
    if ((int)t < 0 || t >= MG_DTYPE_COUNT || !scalar[t].encode) return NULL;
    pthread_once(&twins_once, build_twins);
    return &twins[isa][t];
}

const mg_codec *mg_codec_get(mg_dtype t) {
    return mg_codec_for(t, mg_cpu_isa());
}
