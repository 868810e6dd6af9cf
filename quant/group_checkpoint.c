/* group_checkpoint.c - see group_checkpoint.h. */
#include "quant/group_checkpoint.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static mg_status read_dense(mg_checkpoint *base, uint32_t t, uint64_t offset, void *dst, uint64_t n, mg_error *err) {
    dense *d = (dense *)base;
    uint8_t *to = dst;
    const uint32_t stored = d->stored[t];
    if (d->layout.use[stored] != MG_USE_MATRIX) return mg_checkpoint_read(d->inner, stored, offset, dst, n, err);
    const uint32_t matrix = d->layout.matrix_of[stored];
    const uint64_t band_bytes = d->layout.matrices[matrix].cols * 4 * d->band_rows[matrix];
    while (n) {
        uint64_t take = band_bytes - offset % band_bytes;
        slot *s;
        if (take > n) take = n;
        mg_status st = take_band(d, matrix, offset / band_bytes, &s, err);
        if (st != MG_OK) {
            mg_error_at(err, base->path, base->tensors[t].name);
            return st;
        }
        decode_bytes(&s->band, offset, to, take);
        release_band(d, s);
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

static mg_status dense_tensor(mg_tensor *out, const mg_tensor *codes, const mg_group_matrix *m, mg_error *err) {
    *out = (mg_tensor){.name = m->name, .dtype = MG_F32, .rank = m->rank, .file = codes->file};
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
            MG_TRY(dense_tensor(t, &in->tensors[i], &d->layout.matrices[m], err));
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
    static const char *const names[] = {"nothing", "AWQ", "GPTQ", "compressed-tensors", "FP8", "MLX"};
    const uint32_t n = d->inner->n_notes;
    d->notes = calloc((size_t)n + 1, sizeof *d->notes);
    if (!d->notes) return mg_fail_nomem(err, n);
    if (n) memcpy(d->notes, d->inner->notes, n * sizeof *d->notes);
    snprintf(d->note, sizeof d->note, "%" PRIu32 " weights are quantized (%s) and decoded to F32 as they are read",
             d->layout.n_matrices, names[d->layout.config.method]);
    d->notes[n] = d->note;
    d->base.notes = d->notes;
    d->base.n_notes = n + 1;
    return MG_OK;
}

static mg_status fill(dense *d, mg_checkpoint *inner, mg_error *err) {
    d->inner = inner;
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

mg_status mg_group_checkpoint_wrap(mg_checkpoint **out, mg_checkpoint *inner, mg_error *err) {
    *out = inner;
    if (inner->container != MG_CONTAINER_HF_DIR && inner->container != MG_CONTAINER_SAFETENSORS) return MG_OK;
    dense *d = calloc(1, sizeof *d);
    if (!d) return mg_fail_nomem(err, sizeof *d);
    mg_status st = fill(d, inner, err);
    if (st == MG_OK && d->layout.config.method != MG_GROUPS_NONE) {
        *out = &d->base;
        return MG_OK;
    }
    free_view(d);
    return st;
}

bool mg_group_checkpoint_is_view(const mg_checkpoint *c) {
    return c->ops == &ops;
}

mg_status mg_group_checkpoint_open(mg_checkpoint **out, const char *path, mg_error *err) {
    mg_checkpoint *inner = NULL;
    *out = NULL;
    MG_TRY(mg_checkpoint_open(&inner, path, err));
    mg_status st = mg_group_checkpoint_wrap(out, inner, err);
    if (st == MG_OK) return MG_OK;
    mg_error_at(err, path, NULL);
    mg_checkpoint_free(inner);
    *out = NULL;
    return st;
}
