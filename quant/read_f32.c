/* read_f32.c - see read_f32.h. */
#include "quant/read_f32.h"

#include <stdlib.h>

/* Stored bytes decoded at once by mg_read_f32. */
#define TILE_BYTES (2u << 20)

/* Additions commute with every view that moves elements, so they can be made after decoding, in f32. */
static float take_additions(mg_bound *b) {
    float add = 0.0f;
    unsigned to = 0;
    for (unsigned i = 0; i < MG_MAX_VIEWS && b->views[i].kind != MG_VIEW_END; i++) {
        if (b->views[i].kind == MG_VIEW_ADD)
            add += (float)b->views[i].value;
        else
            b->views[to++] = b->views[i];
    }
    for (; to < MG_MAX_VIEWS; to++) b->views[to] = (mg_view){.kind = MG_VIEW_END};
    return add;
}

mg_status mg_f32_source_init(mg_f32_source *s, mg_model *m, const mg_bound *b, mg_error *err) {
    const mg_tensor *t = mg_model_tensor(m, b);
    *s = (mg_f32_source){.model = m, .bound = *b, .dtype = t->dtype, .codec = mg_codec_get(t->dtype)};
    if (!s->codec) {
        mg_status st = mg_fail(err, MG_ERR_UNSUPPORTED, "no decoder for element type %s", mg_dtype_get(t->dtype)->name);
        mg_error_at(err, NULL, t->name);
        return st;
    }
    s->add = take_additions(&s->bound);
    s->rows = mg_bound_rows(b);
    s->cols = b->rank ? b->shape[b->rank - 1] : 1;
    s->row_bytes = mg_model_row_bytes(m, &s->bound);
    return MG_OK;
}

mg_status mg_f32_source_read(const mg_f32_source *s, uint64_t row, uint64_t n, void *raw, mg_error *err) {
    return mg_model_read_rows(s->model, &s->bound, row, n, raw, err);
}

void mg_f32_source_decode(const mg_f32_source *s, const void *raw, uint64_t n, uint64_t k0, uint64_t kc, float *dst,
                          uint64_t ld) {
    const mg_dtype_info *d = mg_dtype_get(s->dtype);
    const uint8_t *p = (const uint8_t *)raw + k0 / d->block * d->block_bytes;
    for (uint64_t r = 0; r < n; r++) {
        s->codec->decode(p + r * s->row_bytes, kc, dst + r * ld);
        if (s->add != 0.0f)
            for (uint64_t i = 0; i < kc; i++) dst[r * ld + i] += s->add;
    }
}

mg_status mg_read_f32(mg_model *m, const mg_bound *b, uint64_t row, uint64_t n, float *dst, mg_error *err) {
    mg_f32_source s;
    MG_TRY(mg_f32_source_init(&s, m, b, err));
    if (n == 0 || s.row_bytes == 0) return MG_OK;
    uint64_t step = TILE_BYTES / s.row_bytes;
    if (step == 0) step = 1;
    if (step > n) step = n;
    void *raw = malloc(step * s.row_bytes);
    if (!raw) return mg_fail_nomem(err, step * s.row_bytes);
    mg_status st = MG_OK;
    for (uint64_t at = 0; at < n && st == MG_OK; at += step) {
        uint64_t take = n - at < step ? n - at : step;
        st = mg_f32_source_read(&s, row + at, take, raw, err);
        if (st == MG_OK) mg_f32_source_decode(&s, raw, take, 0, s.cols, dst + at * s.cols, s.cols);
    }
    free(raw);
    return st;
}
