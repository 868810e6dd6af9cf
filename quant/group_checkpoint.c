/* group_checkpoint.c - see group_checkpoint.h. */
#include "quant/group_checkpoint.h"

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quant/fp4_repack.h"
#include "quant/gguf_scales.h"
#include "quant/group_decode.h"

#define CHUNK 1024 /* weights decoded at once; the destination of a read need not be aligned */

/* One band in memory. */
typedef struct slot {
    bool used, loading;
    uint32_t matrix;
    uint64_t at;   /* number of the band in its matrix */
    unsigned pins; /* reads that are decoding from it */
    uint64_t last; /* clock of its last use */
    mg_group_band band;
} slot;

typedef struct dense {
    mg_checkpoint base; /* first: an mg_checkpoint * is a dense * */
    mg_checkpoint *inner;
    mg_group_keep keep;
    mg_group_layout layout;
    mg_json *config;
    const char **notes;
    char note[160];
    uint32_t *stored;    /* per tensor of base: its index in inner (of the codes, for a matrix) */
    uint64_t *band_rows; /* per matrix */
    pthread_mutex_t lock;
    pthread_cond_t change;
    bool has_lock;
    uint64_t clock;
    slot slots[MG_GROUP_BANDS];
} dense;

/* ---- bands ---- */

/* The slot of a band, or the one to load it into (*load), or NULL: wait. Called with the lock held. */
static slot *find_slot(dense *d, uint32_t matrix, uint64_t at, bool *load) {
    slot *victim = NULL;
    *load = false;
    for (slot *s = d->slots; s < d->slots + MG_GROUP_BANDS; s++) {
        if (s->used && s->matrix == matrix && s->at == at) return s->loading ? NULL : s;
        if (s->pins || s->loading) continue;
        if (!victim || (victim->used && (!s->used || s->last < victim->last))) victim = s;
    }
    *load = victim != NULL;
    return victim;
}

static mg_status load_slot(dense *d, slot *s, mg_error *err) {
    const mg_group_matrix *m = &d->layout.matrices[s->matrix];
    uint64_t row = s->at * d->band_rows[s->matrix], n = d->band_rows[s->matrix];
    if (n > m->rows - row) n = m->rows - row;
    mg_group_band_release(&s->band);
    return mg_group_band_load(&s->band, d->inner, m, row, n, err);
}

/* The band, pinned until release_band. */
static mg_status take_band(dense *d, uint32_t matrix, uint64_t at, slot **out, mg_error *err) {
    bool load;
    mg_status st = MG_OK;
    pthread_mutex_lock(&d->lock);
    slot *s = find_slot(d, matrix, at, &load);
    for (; !s; s = find_slot(d, matrix, at, &load)) pthread_cond_wait(&d->change, &d->lock);
    s->pins++;
    s->last = ++d->clock;
    if (load) {
        s->used = s->loading = true;
        s->matrix = matrix;
        s->at = at;
        pthread_mutex_unlock(&d->lock);
        st = load_slot(d, s, err);
        pthread_mutex_lock(&d->lock);
        s->loading = false;
        if (st != MG_OK) {
            s->used = false;
            s->pins--;
        }
        pthread_cond_broadcast(&d->change);
    }
    pthread_mutex_unlock(&d->lock);
    *out = s;
    return st;
}

static void release_band(dense *d, slot *s) {
    pthread_mutex_lock(&d->lock);
    if (--s->pins == 0) pthread_cond_broadcast(&d->change);
    pthread_mutex_unlock(&d->lock);
}

mg_status mg_group_checkpoint_pin(mg_checkpoint *c, uint32_t t, uint64_t row, const mg_group_band **band, void **pin,
                                  mg_error *err) {
    dense *d = (dense *)c;
    const uint32_t matrix = d->layout.matrix_of[d->stored[t]];
    slot *s;
    mg_status st = take_band(d, matrix, row / d->band_rows[matrix], &s, err);
    if (st != MG_OK) {
        mg_error_at(err, c->path, c->tensors[t].name);
        return st;
    }
    *band = &s->band;
    *pin = s;
    return MG_OK;
}

void mg_group_checkpoint_unpin(mg_checkpoint *c, void *pin) {
    release_band((dense *)c, pin);
}

/* ---- reading ---- */

/* n bytes from `offset` of the f32 weights; all of them lie in the rows of one band. */
static void decode_bytes(const mg_group_band *b, uint64_t offset, uint8_t *dst, uint64_t n) {
    float chunk[CHUNK];
    const uint64_t cols = b->m->cols;
    while (n) {
        const uint64_t e = offset / 4, cut = offset % 4, col = e % cols;
        uint64_t many = (cut + n + 3) / 4;
        if (many > CHUNK) many = CHUNK;
        if (many > cols - col) many = cols - col;
        uint64_t bytes = many * 4 - cut;
        if (bytes > n) bytes = n;
        mg_group_band_decode(b, e / cols, col, many, chunk);
        memcpy(dst, (const uint8_t *)chunk + cut, bytes);
        dst += bytes;
        offset += bytes;
        n -= bytes;
    }
}

/* Whole blocks from number `at` on, through a few KiB of codes and scales. */
static mg_status pack_blocks(dense *d, const mg_group_matrix *m, mg_dtype type, uint64_t at, uint64_t n, uint8_t *dst,
                             mg_error *err) {
    enum { MANY = 512 };
    uint8_t codes[MANY * 32], scales[MANY * 4];
    const uint64_t code_bytes = mg_fp4_code_bytes(type), scale_bytes = mg_fp4_scale_bytes(type);
    for (uint64_t k; n; n -= k, at += k, dst += k * mg_dtype_get(type)->block_bytes) {
        k = n < MANY ? n : MANY;
        MG_TRY(mg_checkpoint_read(d->inner, m->codes.tensor, at * code_bytes, codes, k * code_bytes, err));
        MG_TRY(mg_checkpoint_read(d->inner, m->scales, at * scale_bytes, scales, k * scale_bytes, err));
        mg_fp4_pack(type, codes, scales, k, dst);
    }
    return MG_OK;
}

/* n bytes from `offset` of a weight as blocks; a block that is cut goes through `one`. */
static mg_status read_blocks(dense *d, const mg_group_matrix *m, mg_dtype type, uint64_t offset, uint8_t *dst,
                             uint64_t n, mg_error *err) {
    const uint64_t size = mg_dtype_get(type)->block_bytes;
    uint8_t one[64];
    while (n) {
        const uint64_t cut = offset % size;
        uint64_t take = size - cut;
        if (cut == 0 && n >= size) {
            take = n - n % size;
            MG_TRY(pack_blocks(d, m, type, offset / size, n / size, dst, err));
        } else {
            if (take > n) take = n;
            MG_TRY(pack_blocks(d, m, type, offset / size, 1, one, err));
            memcpy(dst, one + cut, take);
        }
        dst += take;
        offset += take;
        n -= take;
    }
    return MG_OK;
}

static mg_status read_dense(mg_checkpoint *base, uint32_t t, uint64_t offset, void *dst, uint64_t n, mg_error *err) {
    dense *d = (dense *)base;
    uint8_t *to = dst;
    const uint32_t stored = d->stored[t];
    if (d->layout.use[stored] != MG_USE_MATRIX) return mg_checkpoint_read(d->inner, stored, offset, dst, n, err);
    const uint32_t matrix = d->layout.matrix_of[stored];
    if (base->tensors[t].dtype != MG_F32)
        return read_blocks(d, &d->layout.matrices[matrix], base->tensors[t].dtype, offset, dst, n, err);
    const uint64_t row_bytes = d->layout.matrices[matrix].cols * 4, band_bytes = row_bytes * d->band_rows[matrix];
    while (n) {
        uint64_t take = band_bytes - offset % band_bytes;
        const mg_group_band *band;
        void *pin;
        if (take > n) take = n;
        MG_TRY(mg_group_checkpoint_pin(base, t, offset / row_bytes, &band, &pin, err));
        decode_bytes(band, offset, to, take);
        mg_group_checkpoint_unpin(base, pin);
        to += take;
        offset += take;
        n -= take;
    }
    return MG_OK;
}

static mg_status recheck(mg_checkpoint *base, mg_error *err) {
    return mg_checkpoint_recheck(((dense *)base)->inner, err);
}

static mg_status identity(mg_checkpoint *base, uint8_t id[16], mg_error *err) {
    return mg_checkpoint_identity(((dense *)base)->inner, id, err);
}

/* ---- life ---- */

/* Everything but inner. */
static void free_view(dense *d) {
    for (slot *s = d->slots; s < d->slots + MG_GROUP_BANDS; s++) mg_group_band_release(&s->band);
    if (d->has_lock) {
        pthread_mutex_destroy(&d->lock);
        pthread_cond_destroy(&d->change);
    }
    mg_strmap_release(&d->base.by_name);
    mg_json_free(d->config);
    free(d->notes);
    mg_group_layout_release(&d->layout);
    free(d->base.tensors);
    free(d->stored);
    free(d->band_rows);
    free(d);
}

static void free_dense(mg_checkpoint *base) {
    dense *d = (dense *)base;
    mg_checkpoint_free(d->inner);
    free_view(d);
}

static const mg_checkpoint_ops ops = {read_dense, recheck, identity, free_dense};

/* Are codes and scales those of MXFP4, one for one? */
static bool is_mxfp4(const mg_group_matrix *m) {
    return m->value == MG_CODE_E2M1 && m->scale_dtype == MG_F8_E8M0 && m->divisor == MG_STRMAP_NONE &&
           m->group_size == 32 && m->cols % 32 == 0 && m->row_block == 1 && m->scale_rows == m->rows;
}

static bool is_nvfp4(const mg_group_matrix *m) {
    return m->value == MG_CODE_E2M1 && m->scale_dtype == MG_F8_E4M3 && m->divisor != MG_STRMAP_NONE &&
           m->group_size == 16 && m->cols % 64 == 0 && m->row_block == 1 && m->scale_rows == m->rows;
}

static mg_dtype kept_type(const mg_group_matrix *m, mg_group_keep keep) {
    if (keep >= MG_KEEP_MXFP4 && is_mxfp4(m)) return MG_MXFP4;
    return keep >= MG_KEEP_FP4 && is_nvfp4(m) ? MG_NVFP4 : MG_F32;
}

static mg_status dense_tensor(mg_tensor *out, const mg_tensor *codes, const mg_group_matrix *m, mg_group_keep keep,
                              mg_error *err) {
    *out = (mg_tensor){.name = m->name, .dtype = kept_type(m, keep), .rank = m->rank, .file = codes->file};
    memcpy(out->shape, m->shape, sizeof out->shape);
    if (mg_tensor_set_sizes(out)) return MG_OK;
    mg_status st = mg_fail(err, MG_ERR_LIMIT, "its dense form is too large");
    mg_error_at(err, NULL, codes->name);
    return st;
}

static mg_status fill_tensors(dense *d, mg_error *err) {
    const mg_checkpoint *in = d->inner;
    d->base.tensors = calloc((size_t)in->n_tensors + 1, sizeof *d->base.tensors);
    d->stored = calloc((size_t)in->n_tensors + 1, sizeof *d->stored);
    d->band_rows = calloc((size_t)d->layout.n_matrices + 1, sizeof *d->band_rows);
    if (!d->base.tensors || !d->stored || !d->band_rows) return mg_fail_nomem(err, in->n_tensors);
    for (uint32_t i = 0; i < in->n_tensors; i++) {
        if (d->layout.use[i] == MG_USE_HIDE) continue;
        mg_tensor *t = &d->base.tensors[d->base.n_tensors];
        *t = in->tensors[i];
        if (d->layout.use[i] == MG_USE_MATRIX) {
            const uint32_t m = d->layout.matrix_of[i];
            MG_TRY(dense_tensor(t, &in->tensors[i], &d->layout.matrices[m], d->keep, err));
            d->band_rows[m] = mg_group_band_rows(&d->layout.matrices[m], MG_GROUP_BAND_BYTES);
        }
        MG_TRY(mg_strmap_put(&d->base.by_name, t->name, strlen(t->name), d->base.n_tensors, NULL, err));
        d->stored[d->base.n_tensors++] = i;
    }
    return MG_OK;
}

/* The model that these weights are has no quantization_config. */
static mg_status dense_config(dense *d, mg_error *err) {
    if (!d->inner->config) return MG_OK;
    MG_TRY(mg_json_dup(&d->config, d->inner->config, err));
    mg_json_remove(d->config, "quantization_config");
    if (d->layout.config.method == MG_GROUPS_MLX) mg_json_remove(d->config, "quantization");
    d->base.config = d->config;
    return MG_OK;
}

/* "56 weights are decoded from AWQ" after the notes on the container. */
static mg_status add_note(dense *d, mg_error *err) {
    static const char *const names[] = {"nothing", "AWQ", "GPTQ", "compressed-tensors", "FP8", "MLX", "MXFP4"};
    const uint32_t n = d->inner->n_notes;
    d->notes = calloc((size_t)n + 1, sizeof *d->notes);
    if (!d->notes) return mg_fail_nomem(err, n);
    if (n) memcpy(d->notes, d->inner->notes, n * sizeof *d->notes);
    snprintf(d->note, sizeof d->note, "%" PRIu32 " weights are quantized (%s) and %s as they are read",
             d->layout.n_matrices, names[d->layout.config.method], d->keep ? "repacked or decoded" : "decoded to F32");
    d->notes[n] = d->note;
    d->base.notes = d->notes;
    d->base.n_notes = n + 1;
    return MG_OK;
}

static mg_status fill(dense *d, mg_checkpoint *inner, mg_group_keep keep, mg_error *err) {
    d->inner = inner;
    d->keep = keep;
    d->base = *inner;
    d->base.ops = &ops;
    d->base.tensors = NULL;
    d->base.n_tensors = 0;
    mg_strmap_init(&d->base.by_name);
    MG_TRY(mg_group_layout_init(&d->layout, inner, err));
    if (pthread_mutex_init(&d->lock, NULL) != 0 || pthread_cond_init(&d->change, NULL) != 0)
        return mg_fail(err, MG_ERR_LIMIT, "no lock for reading quantized weights");
    d->has_lock = true;
    MG_TRY(fill_tensors(d, err));
    MG_TRY(add_note(d, err));
    return dense_config(d, err);
}

static mg_status wrap(mg_checkpoint **out, mg_checkpoint *inner, mg_group_keep keep, mg_error *err) {
    *out = inner;
    if (inner->container == MG_CONTAINER_GGUF) return mg_gguf_scales_wrap(out, inner, err);
    if (inner->container != MG_CONTAINER_HF_DIR && inner->container != MG_CONTAINER_SAFETENSORS &&
        inner->container != MG_CONTAINER_PLAN)
        return MG_OK;
    dense *d = calloc(1, sizeof *d);
    if (!d) return mg_fail_nomem(err, sizeof *d);
    mg_status st = fill(d, inner, keep, err);
    if (st == MG_OK && d->layout.config.method != MG_GROUPS_NONE) {
        *out = &d->base;
        return MG_OK;
    }
    free_view(d);
    return st;
}

mg_status mg_group_checkpoint_wrap(mg_checkpoint **out, mg_checkpoint *inner, mg_error *err) {
    return wrap(out, inner, MG_KEEP_NONE, err);
}

mg_checkpoint *mg_group_checkpoint_stored(mg_checkpoint *c, uint32_t t, uint32_t *stored) {
    *stored = t;
    if (c->ops != &ops) return c;
    *stored = ((dense *)c)->stored[t];
    return ((dense *)c)->inner;
}

const mg_group_matrix *mg_group_checkpoint_matrix(const mg_checkpoint *c, uint32_t t) {
    if (c->ops != &ops) return NULL;
    const dense *d = (const dense *)c;
    const uint32_t stored = d->stored[t];
    return d->layout.use[stored] == MG_USE_MATRIX ? &d->layout.matrices[d->layout.matrix_of[stored]] : NULL;
}

const mg_group_config *mg_group_checkpoint_config(const mg_checkpoint *c) {
    return c->ops == &ops ? &((const dense *)c)->layout.config : NULL;
}

bool mg_group_checkpoint_is_view(const mg_checkpoint *c) {
    return c->ops == &ops;
}

mg_status mg_group_checkpoint_open_keeping(mg_checkpoint **out, const char *path, mg_group_keep keep, mg_error *err) {
    mg_checkpoint *inner = NULL;
    *out = NULL;
    MG_TRY(mg_checkpoint_open(&inner, path, err));
    mg_status st = wrap(out, inner, keep, err);
    if (st == MG_OK) return MG_OK;
    mg_error_at(err, path, NULL);
    mg_checkpoint_free(inner);
    *out = NULL;
    return st;
}

mg_status mg_group_checkpoint_open(mg_checkpoint **out, const char *path, mg_error *err) {
    return mg_group_checkpoint_open_keeping(out, path, MG_KEEP_NONE, err);
}

/* One over a stored number; a number that has no such is malformed. */
static mg_status reciprocal(dense *d, uint32_t t, float *out, mg_error *err) {
    float v;
    MG_TRY(mg_checkpoint_read(d->inner, t, 0, &v, sizeof v, err));
    *out = 1.0f / v;
    if (isfinite(*out) && *out > 0) return MG_OK;
    mg_status st = mg_fail(err, MG_ERR_FORMAT, "a global scale of %g", (double)v);
    mg_error_at(err, NULL, d->inner->tensors[t].name);
    return st;
}

mg_status mg_group_checkpoint_factors(mg_checkpoint *c, uint32_t t, float *weight, float *input, mg_error *err) {
    dense *d = (dense *)c;
    *weight = *input = 1;
    if (c->ops != &ops || c->tensors[t].dtype != MG_NVFP4) return MG_OK;
    const mg_group_matrix *m = &d->layout.matrices[d->layout.matrix_of[d->stored[t]]];
    char name[512];
    MG_TRY(reciprocal(d, m->divisor, weight, err));
    const int stem = (int)strlen(m->name) - (int)strlen(".weight");
    if (stem < 0 || snprintf(name, sizeof name, "%.*s.input_global_scale", stem, m->name) >= (int)sizeof name)
        return MG_OK;
    const uint32_t at = mg_checkpoint_find(d->inner, name);
    if (at == MG_STRMAP_NONE || d->inner->tensors[at].dtype != MG_F32 || d->inner->tensors[at].n_elements != 1)
        return MG_OK;
    return reciprocal(d, at, input, err);
}
