/* variant.c - see variant.h. The variant is a second model over a checkpoint that has the base's tensors, and behind
 * them one more for each replaced weight. */
#include "quant/variant.h"

#include <stdlib.h>
#include <string.h>

#include "formats/base/hash.h"
#include "quant/group_kernels.h"
#include "quant/math/mathops.h"
#include "quant/read_f32.h"

typedef struct entry {
    mg_patch p;
    mg_bound from, home; /* in the base; in the variant before it was patched */
    uint64_t rows, cols, groups;
} entry;

/* A tensor of the base in another type. */
typedef struct stored {
    mg_stored_slice *slices;
    uint64_t slice_bytes;
} stored;

struct mg_variant {
    mg_checkpoint ckpt; /* first: ops receive it */
    mg_model *base, *model;
    uint32_t n_base; /* tensors of the base */
    entry *entries;  /* [ckpt.n_tensors - n_base] */
    uint32_t cap;
    stored *stored; /* [n_base] slices NULL: as the base has it */
    uint8_t id[16];
};

/* ---- reading ---- */

static mg_status stage_rows(const entry *e, uint32_t at, uint64_t row, uint64_t n, uint64_t width, uint64_t size,
                            void *dst, mg_error *err) {
    return mg_checkpoint_read(e->p.stage, at, row * width * size, dst, n * width * size, err);
}

static mg_status limit_rows(const entry *e, uint64_t row, uint64_t n, float *dst, mg_error *err) {
    const uint64_t width = 2 * e->groups;
    const float *limits = e->p.limits ? e->p.limits + row * width : NULL;
    float *own = NULL;
    if (!limits) {
        limits = own = malloc((size_t)(n * width) * sizeof *own);
        if (!own) return mg_fail_nomem(err, n * width * sizeof *own);
        mg_status st = stage_rows(e, e->p.limits_at, row, n, width, sizeof *own, own, err);
        if (st != MG_OK) {
            free(own);
            return st;
        }
    }
    for (uint64_t g = 0; g < n * e->groups; g++) {
        const uint64_t at = g % e->groups * e->p.group, left = e->cols - at;
        const float lo = limits[2 * g], hi = limits[2 * g + 1];
        float *w = dst + g / e->groups * e->cols + at;
        for (uint64_t k = 0; k < (left < e->p.group ? left : e->p.group); k++)
            w[k] = w[k] < lo ? lo : w[k] > hi ? hi : w[k];
    }
    free(own);
    return MG_OK;
}

/* Codes of n rows with their parameters; zeros or biases are NULL. */
static void decode_rows(const entry *e, uint64_t n, const uint8_t *codes, const float *scales, const uint8_t *zeros,
                        const float *biases, float *dst) {
    const mg_group_kernels *kernels = mg_group_kernels_get();
    for (uint64_t g = 0; g < n * e->groups; g++) {
        const uint64_t k = g % e->groups * e->p.group, at = g / e->groups * e->cols + k, left = e->cols - k;
        const uint64_t len = left < e->p.group ? left : e->p.group;
        if (biases)
            kernels->affine(codes + at, len, scales[g], biases[g], dst + at);
        else
            kernels->values(codes + at, len, (float)zeros[g], scales[g], dst + at);
    }
}

static mg_status code_rows(const entry *e, uint64_t row, uint64_t n, float *dst, mg_error *err) {
    const mg_patch *p = &e->p;
    const uint64_t first = row * e->groups, each = n * e->groups;
    if (p->codes) {
        decode_rows(e, n, p->codes + row * e->cols, p->scales + first, p->zeros ? p->zeros + first : NULL,
                    p->biases ? p->biases + first : NULL, dst);
        return MG_OK;
    }
    const bool edge = p->biases_at != MG_STRMAP_NONE;
    uint8_t *codes = malloc((size_t)(n * e->cols)), *zeros = malloc((size_t)each + 1);
    float *scales = malloc((size_t)(2 * each) * sizeof *scales), *biases = scales ? scales + each : NULL;
    mg_status st = codes && zeros && scales ? MG_OK : mg_fail_nomem(err, n * e->cols);
    if (st == MG_OK) st = stage_rows(e, p->codes_at, row, n, e->cols, 1, codes, err);
    if (st == MG_OK) st = stage_rows(e, p->scales_at, row, n, e->groups, sizeof *scales, scales, err);
    if (st == MG_OK && edge) st = stage_rows(e, p->biases_at, row, n, e->groups, sizeof *biases, biases, err);
    if (st == MG_OK && !edge) st = stage_rows(e, p->zeros_at, row, n, e->groups, 1, zeros, err);
    if (st == MG_OK) decode_rows(e, n, codes, scales, zeros, edge ? biases : NULL, dst);
    free(codes);
    free(zeros);
    free(scales);
    return st;
}

static mg_status round_rows(const entry *e, uint64_t n, float *dst, mg_error *err) {
    const mg_group_scheme *s = e->p.round;
    const uint64_t size = s->group_size && s->group_size < e->cols ? s->group_size : e->cols;
    for (uint64_t r = 0; r < n; r++)
        for (uint64_t at = 0; at < e->cols; at += size) {
            float *w = dst + r * e->cols + at, lo, hi;
            const uint64_t len = e->cols - at < size ? e->cols - at : size;
            uint8_t codes[256];
            mg_group_params p;
            MG_TRY(mg_group_range(w, len, &lo, &hi, err));
            MG_TRY(mg_group_choose(s, lo, hi, &p, err));
            for (uint64_t k = 0; k < len; k += sizeof codes) {
                const uint64_t m = len - k < sizeof codes ? len - k : sizeof codes;
                mg_group_round(s, &p, w + k, m, codes);
                mg_group_unround(s, &p, codes, m, w + k);
            }
        }
    return MG_OK;
}

static mg_status eval_rows(mg_variant *v, const entry *e, uint64_t row, uint64_t n, float *dst, mg_error *err) {
    const mg_patch *p = &e->p;
    if (p->values) {
        memcpy(dst, p->values + row * e->cols, (size_t)(n * e->cols) * sizeof *dst);
        return MG_OK;
    }
    if (p->codes || p->codes_at != MG_STRMAP_NONE) return code_rows(e, row, n, dst, err);
    MG_TRY(mg_read_f32(v->base, &e->from, row, n, dst, err));
    for (uint64_t r = 0; p->col && r < n; r++) mg_math_get()->mul(dst + r * e->cols, p->col, e->cols);
    for (uint64_t r = 0; p->row && r < n; r++)
        for (uint64_t k = 0; k < e->cols; k++) dst[r * e->cols + k] *= p->row[row + r];
    if (p->limits || p->limits_at != MG_STRMAP_NONE) MG_TRY(limit_rows(e, row, n, dst, err));
    return p->round ? round_rows(e, n, dst, err) : MG_OK;
}

/* n bytes at `at`: whole aligned rows straight into dst, others through a scratch row. */
static mg_status read_bytes(mg_variant *v, const entry *e, uint64_t at, uint8_t *dst, uint64_t n, mg_error *err) {
    const uint64_t bytes = e->cols * sizeof(float);
    float *scratch = NULL;
    mg_status st = MG_OK;
    while (n && st == MG_OK) {
        const uint64_t row = at / bytes, skip = at % bytes;
        uint64_t take = bytes - skip < n ? bytes - skip : n;
        if (skip == 0 && n >= bytes && (uintptr_t)dst % sizeof(float) == 0) {
            take = n / bytes * bytes;
            st = eval_rows(v, e, row, n / bytes, (float *)(void *)dst, err);
        } else {
            if (!scratch && !(scratch = malloc((size_t)bytes))) return mg_fail_nomem(err, bytes);
            st = eval_rows(v, e, row, 1, scratch, err);
            if (st == MG_OK) memcpy(dst, (const uint8_t *)scratch + skip, (size_t)take);
        }
        at += take;
        dst += take;
        n -= take;
    }
    free(scratch);
    return st;
}

static mg_status read_stored(const stored *s, uint64_t at, uint8_t *dst, uint64_t n, mg_error *err) {
    while (n) {
        const mg_stored_slice *slice = &s->slices[at / s->slice_bytes];
        const uint64_t skip = at % s->slice_bytes, take = s->slice_bytes - skip < n ? s->slice_bytes - skip : n;
        if (slice->bytes)
            memcpy(dst, slice->bytes + skip, (size_t)take);
        else
            MG_TRY(mg_checkpoint_read(slice->stage, slice->at, skip, dst, take, err));
        at += take;
        dst += take;
        n -= take;
    }
    return MG_OK;
}

static mg_status ckpt_read(mg_checkpoint *c, uint32_t t, uint64_t offset, void *dst, uint64_t n, mg_error *err) {
    mg_variant *v = (mg_variant *)(void *)c;
    if (t < v->n_base && v->stored[t].slices) return read_stored(&v->stored[t], offset, dst, n, err);
    if (t < v->n_base) return mg_checkpoint_read(v->base->ckpt, t, offset, dst, n, err);
    mg_status st = read_bytes(v, &v->entries[t - v->n_base], offset, dst, n, err);
    if (st != MG_OK) mg_error_at(err, c->path, c->tensors[t].name);
    return st;
}

static mg_status ckpt_recheck(mg_checkpoint *c, mg_error *err) {
    return mg_checkpoint_recheck(((mg_variant *)(void *)c)->base->ckpt, err);
}

static mg_status ckpt_identity(mg_checkpoint *c, uint8_t id[16], mg_error *err) {
    mg_variant *v = (mg_variant *)(void *)c;
    uint8_t both[32];
    MG_TRY(mg_checkpoint_identity(v->base->ckpt, both, err));
    memcpy(both + 16, v->id, 16);
    const mg_xxh128 h = mg_xxh128_of(both, sizeof both);
    memcpy(id, h.bytes, 16);
    return MG_OK;
}

static void ckpt_free(mg_checkpoint *c) {
    (void)c; /* belongs to the variant */
}

static const mg_checkpoint_ops ops = {ckpt_read, ckpt_recheck, ckpt_identity, ckpt_free};

bool mg_variant_is(const mg_checkpoint *c) {
    return c->ops == &ops;
}

/* ---- patches ---- */

static mg_status grow(mg_variant *v, mg_error *err) {
    const uint32_t used = v->ckpt.n_tensors - v->n_base;
    if (used < v->cap) return MG_OK;
    const uint32_t cap = v->cap ? 2 * v->cap : 64;
    entry *e = realloc(v->entries, cap * sizeof *e);
    if (e) v->entries = e;
    mg_tensor *t = realloc(v->ckpt.tensors, ((size_t)v->n_base + cap) * sizeof *t);
    if (t) v->ckpt.tensors = t;
    if (!e || !t) return mg_fail_nomem(err, cap * sizeof *e);
    v->cap = cap;
    return MG_OK;
}

static entry *find(mg_variant *v, const mg_patch *p) {
    for (uint32_t i = 0; i < v->ckpt.n_tensors - v->n_base; i++) {
        entry *e = &v->entries[i];
        if (e->p.role == p->role && e->p.layer == p->layer && e->p.expert == p->expert) return e;
    }
    return NULL;
}

static mg_status add(mg_variant *v, const mg_patch *p, mg_error *err) {
    const mg_bound *b = mg_model_find(v->base, p->role, p->layer, p->expert);
    if (!b) return mg_fail(err, MG_ERR_INTERNAL, "layer %u has no %s to replace", p->layer, mg_role_name(p->role));
    MG_TRY(grow(v, err));
    const uint32_t at = v->ckpt.n_tensors;
    const mg_tensor *from = mg_model_tensor(v->base, b);
    mg_tensor *t = &v->ckpt.tensors[at];
    *t = (mg_tensor){.name = from->name, .dtype = MG_F32, .rank = b->rank, .file = from->file};
    memcpy(t->shape, b->shape, sizeof t->shape);
    if (!mg_tensor_set_sizes(t)) return mg_fail(err, MG_ERR_LIMIT, "'%s' is too large in F32", from->name);
    entry *e = &v->entries[at - v->n_base];
    *e = (entry){.p = *p, .from = *b, .rows = mg_bound_rows(b), .cols = b->rank ? b->shape[b->rank - 1] : 1};
    mg_bound to = {.tensor = at, .rank = b->rank};
    memcpy(to.shape, b->shape, sizeof to.shape);
    mg_model_redirect(v->model, p->role, p->layer, p->expert, &to, &e->home);
    v->ckpt.n_tensors++;
    return MG_OK;
}

mg_status mg_variant_set(mg_variant *v, const mg_patch *p, mg_error *err) {
    entry *e = find(v, p);
    if (e)
        e->p = *p;
    else
        MG_TRY(add(v, p, err));
    e = find(v, p);
    if (e->p.group == 0 || e->p.group > e->cols) e->p.group = e->cols;
    e->groups = (e->cols - 1) / e->p.group + 1;
    return MG_OK;
}

mg_status mg_variant_store(mg_variant *v, uint32_t tensor, mg_dtype dtype, const mg_stored_slice *slices, uint32_t n,
                           mg_error *err) {
    mg_tensor t = v->base->ckpt->tensors[tensor];
    t.dtype = dtype;
    if (n == 0 || !mg_tensor_set_sizes(&t) || t.n_bytes % n)
        return mg_fail(err, MG_ERR_INTERNAL, "'%s' in %u parts of %s", t.name, n, mg_dtype_get(dtype)->name);
    mg_stored_slice *own = malloc(n * sizeof *own);
    if (!own) return mg_fail_nomem(err, n * sizeof *own);
    memcpy(own, slices, n * sizeof *own);
    free(v->stored[tensor].slices);
    v->stored[tensor] = (stored){own, t.n_bytes / n};
    v->ckpt.tensors[tensor] = t;
    return MG_OK;
}

static void clear_stored(mg_variant *v) {
    for (uint32_t i = 0; i < v->n_base; i++) {
        if (!v->stored[i].slices) continue;
        free(v->stored[i].slices);
        v->stored[i].slices = NULL;
        v->ckpt.tensors[i] = v->base->ckpt->tensors[i];
    }
}

void mg_variant_clear(mg_variant *v) {
    clear_stored(v);
    for (uint32_t i = 0; i < v->ckpt.n_tensors - v->n_base; i++) {
        const entry *e = &v->entries[i];
        mg_model_redirect(v->model, e->p.role, e->p.layer, e->p.expert, &e->home, NULL);
    }
    v->ckpt.n_tensors = v->n_base;
}

/* ---- life ---- */

mg_status mg_variant_new(mg_variant **out, mg_model *base, mg_error *err) {
    mg_variant *v = calloc(1, sizeof *v);
    if (!v) return mg_fail_nomem(err, sizeof *v);
    v->base = base;
    v->ckpt = *base->ckpt;
    v->ckpt.ops = &ops;
    v->n_base = base->ckpt->n_tensors;
    v->ckpt.tensors = malloc(((size_t)v->n_base + 1) * sizeof *v->ckpt.tensors);
    v->stored = calloc((size_t)v->n_base + 1, sizeof *v->stored);
    mg_status st = v->ckpt.tensors && v->stored ? MG_OK : mg_fail_nomem(err, v->n_base * sizeof *v->ckpt.tensors);
    if (st == MG_OK) memcpy(v->ckpt.tensors, base->ckpt->tensors, v->n_base * sizeof *v->ckpt.tensors);
    if (st == MG_OK) st = mg_model_copy(&v->model, base, &v->ckpt, err);
    if (st != MG_OK) {
        mg_variant_free(v);
        return st;
    }
    *out = v;
    return MG_OK;
}

void mg_variant_free(mg_variant *v) {
    if (!v) return;
    mg_model_free(v->model);
    if (v->stored && v->ckpt.tensors) clear_stored(v);
    free(v->stored);
    free(v->ckpt.tensors);
    free(v->entries);
    free(v);
}

mg_model *mg_variant_model(mg_variant *v) {
    return v->model;
}

void mg_variant_set_id(mg_variant *v, const uint8_t id[16]) {
    memcpy(v->id, id, 16);
}
