/* read_f32.h - weights of a model as f32, whatever they are stored as: views from formats/arch, codecs from quant/. */
#ifndef MG_QUANT_READ_F32_H
#define MG_QUANT_READ_F32_H

#include "formats/arch/model.h"
#include "quant/codec.h"

/* A weight prepared for reading in pieces. Thread safe once initialised; owns nothing. */
typedef struct mg_f32_source {
    mg_model *model;
    mg_bound bound; /* as found in the model, without additions: those are made on the exact f32 (add) */
    const mg_codec *codec;
    mg_dtype dtype;
    float add;
    uint64_t rows, cols; /* logical; a vector is one row */
    uint64_t row_bytes;  /* stored */
} mg_f32_source;

/* b from mg_model_find or mg_target_bind. MG_ERR_UNSUPPORTED when the dtype has no codec. */
mg_status mg_f32_source_init(mg_f32_source *s, mg_model *m, const mg_bound *b, mg_error *err) MG_MUST_CHECK;
/* n stored rows from `row` into raw [n * row_bytes]. */
mg_status mg_f32_source_read(const mg_f32_source *s, uint64_t row, uint64_t n, void *raw, mg_error *err) MG_MUST_CHECK;
/* Columns k0..k0+kc of n stored rows at raw, decoded into dst (row stride ld). k0 and kc: whole blocks. */
void mg_f32_source_decode(const mg_f32_source *s, const void *raw, uint64_t n, uint64_t k0, uint64_t kc, float *dst,
                          uint64_t ld);

/* n logical rows of b from `row` as f32 into dst [n][cols], a few MiB at a time. Thread safe. */
mg_status mg_read_f32(mg_model *m, const mg_bound *b, uint64_t row, uint64_t n, float *dst,
                      mg_error *err) MG_MUST_CHECK;

#endif
