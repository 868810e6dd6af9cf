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

static mg_codec avx2[MG_DTYPE_COUNT];
static pthread_once_t avx2_once = PTHREAD_ONCE_INIT;

static void build_avx2(void) {
    memcpy(avx2, scalar, sizeof avx2);
    mg_codecs_fill_avx2_legacy(avx2);
    mg_codecs_fill_avx2_kmin(avx2);
    mg_codecs_fill_avx2_ksigned(avx2);
}

const mg_codec *mg_codec_for(mg_dtype t, mg_isa isa) {
    if ((int)t < 0 || t >= MG_DTYPE_COUNT || !scalar[t].encode) return NULL;
    if (isa != MG_ISA_AVX2 && isa != MG_ISA_AVX512) return &scalar[t];
    pthread_once(&avx2_once, build_avx2);
    return &avx2[t];
}

const mg_codec *mg_codec_get(mg_dtype t) {
    return mg_codec_for(t, mg_cpu_isa());
}
