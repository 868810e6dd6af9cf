/* codec.c - the codec table, built from codecs.inc. */
#include "quant/codec.h"

#include "quant/ref/ref.h"

static const mg_codec table[MG_DTYPE_COUNT] = {
#define MG_CODEC(type, stem, use)                                                                                      \
    [MG_##type] = {MG_##type, MG_IMATRIX_##use, mg_ref_##stem##_encode, mg_ref_##stem##_decode},
#include "quant/codecs.inc"
#undef MG_CODEC
};

const mg_codec *mg_codec_get(mg_dtype t) {
    return t >= 0 && t < MG_DTYPE_COUNT && table[t].encode ? &table[t] : NULL;
}
