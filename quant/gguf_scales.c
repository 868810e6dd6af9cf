/* gguf_scales.c - see gguf_scales.h. */
#include "quant/gguf_scales.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quant/codec.h"

enum { CHUNK = 1024 }; /* weights decoded at once: whole blocks of every type */

typedef struct scaled {
    mg_checkpoint base; /* first: an mg_checkpoint * is a scaled * */
    mg_checkpoint *inner;
    uint32_t *stored; /* [base.n_tensors] index in inner */
    float **factors;  /* [base.n_tensors] [shape[0]] or [1]; NULL: the tensor is as stored */
    uint64_t *each;   /* [base.n_tensors] elements that share a factor */
    const char **notes;
    char note[128];
} scaled;

/* ---- reading ---- */

/* Elements first..first+n of a weight into out; first and n are whole blocks, n at most CHUNK. */
static mg_status decode(scaled *s, uint32_t t, uint64_t first, uint64_t n, float *out, mg_error *err) {
    const mg_tensor *w = &s->inner->tensors[s->stored[t]];
    const mg_dtype_info *d = mg_dtype_get(w->dtype);
    uint8_t raw[CHUNK * 4];
    MG_TRY(mg_checkpoint_read(s->inner, s->stored[t], first / d->block * d->block_bytes, raw,
                              n / d->block * d->block_bytes, err));
    mg_codec_get(w->dtype)->decode(raw, n, out);
    for (uint64_t i = 0; i < n; i++) out[i] *= s->factors[t][(first + i) / s->each[t]];
    return MG_OK;
}

static mg_status read_scaled(mg_checkpoint *base, uint32_t t, uint64_t offset, void *dst, uint64_t n, mg_error *err) {
    scaled *s = (scaled *)base;
    uint8_t *to = dst;
    float chunk[CHUNK];
    if (!s->factors[t]) return mg_checkpoint_read(s->inner, s->stored[t], offset, dst, n, err);
    const uint64_t all = base->tensors[t].n_elements;
    while (n) {
        const uint64_t first = offset / 4 / CHUNK * CHUNK, cut = offset - 4 * first;
        const uint64_t many = all - first < CHUNK ? all - first : CHUNK;
        uint64_t bytes = 4 * many - cut;
        if (bytes > n) bytes = n;
        MG_TRY(decode(s, t, first, many, chunk, err));
        memcpy(to, (const uint8_t *)chunk + cut, bytes);
        to += bytes;
        offset += bytes;
        n -= bytes;
    }
    return MG_OK;
}

static mg_status recheck(mg_checkpoint *base, mg_error *err) {
    return mg_checkpoint_recheck(((scaled *)base)->inner, err);
}

static mg_status identity(mg_checkpoint *base, uint8_t id[16], mg_error *err) {
    return mg_checkpoint_identity(((scaled *)base)->inner, id, err);
}

/* ---- life ---- */

/* Everything but inner. */
static void free_view(scaled *s) {
    for (uint32_t i = 0; s->factors && i < s->base.n_tensors; i++) free(s->factors[i]);
    mg_strmap_release(&s->base.by_name);
    free(s->base.tensors);
    free(s->stored);
    free(s->factors);
    free(s->each);
    free(s->notes);
    free(s);
}

static void free_scaled(mg_checkpoint *base) {
    mg_checkpoint_free(((scaled *)base)->inner);
    free_view((scaled *)base);
}

static const mg_checkpoint_ops ops = {read_scaled, recheck, identity, free_scaled};

static size_t stem(const char *name, const char *suffix) {
    const size_t n = strlen(name), m = strlen(suffix);
    return n > m && strcmp(name + n - m, suffix) == 0 ? n - m : 0;
}

/* The tensor stem + suffix, MG_STRMAP_NONE when it is absent or stem is 0. */
static uint32_t sibling(const mg_checkpoint *c, const char *name, size_t n, const char *suffix) {
    char buf[128];
    if (!n || snprintf(buf, sizeof buf, "%.*s%s", (int)n, name, suffix) >= (int)sizeof buf) return MG_STRMAP_NONE;
    return mg_checkpoint_find(c, buf);
}

/* Is it a factor of a weight that is there? */
static bool is_factor(const mg_checkpoint *c, const mg_tensor *t) {
    size_t n = stem(t->name, ".input_scale");
    if (!n) n = stem(t->name, ".scale");
    return sibling(c, t->name, n, ".weight") != MG_STRMAP_NONE;
}

static mg_status load(scaled *s, uint32_t t, uint32_t factor, mg_error *err) {
    const mg_tensor *w = &s->base.tensors[t], *f = &s->inner->tensors[factor];
    const uint64_t slabs = w->rank == 3 ? w->shape[0] : 1;
    mg_status st = MG_OK;
    if (f->dtype != MG_F32 || f->n_elements == 0 || (f->n_elements != 1 && f->n_elements != slabs))
        st = mg_fail(err, MG_ERR_FORMAT, "%" PRIu64 " factors of type %s for '%s', expected F32, one or %" PRIu64,
                     f->n_elements, mg_dtype_get(f->dtype)->name, w->name, slabs);
    if (st == MG_OK && !(s->factors[t] = malloc(f->n_bytes))) st = mg_fail_nomem(err, f->n_bytes);
    if (st == MG_OK) st = mg_checkpoint_read(s->inner, factor, 0, s->factors[t], f->n_bytes, err);
    for (uint64_t i = 0; st == MG_OK && i < f->n_elements; i++)
        if (!isfinite(s->factors[t][i])) st = mg_fail(err, MG_ERR_FORMAT, "a factor is not finite");
    if (st == MG_OK) s->each[t] = w->n_elements / f->n_elements;
    mg_error_at(st == MG_OK ? NULL : err, NULL, f->name);
    return st;
}

/* The weight as F32. */
static mg_status widen(scaled *s, uint32_t t, uint32_t factor, mg_error *err) {
    mg_tensor *w = &s->base.tensors[t];
    if (!mg_codec_get(w->dtype) || w->n_elements == 0)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "'%s' of type %s has factors", w->name, mg_dtype_get(w->dtype)->name);
    w->dtype = MG_F32;
    if (!mg_tensor_set_sizes(w)) return mg_fail(err, MG_ERR_LIMIT, "'%s': its F32 form is too large", w->name);
    return load(s, t, factor, err);
}

static mg_status add_note(scaled *s, uint32_t scales, mg_error *err) {
    const uint32_t n = s->inner->n_notes;
    s->notes = calloc((size_t)n + 1, sizeof *s->notes);
    if (!s->notes) return mg_fail_nomem(err, n);
    if (n) memcpy(s->notes, s->inner->notes, n * sizeof *s->notes);
    snprintf(s->note, sizeof s->note,
             "%" PRIu32 " weights have factors beside them and are decoded to F32 as they are read", scales);
    s->notes[n] = s->note;
    s->base.notes = s->notes;
    s->base.n_notes = n + 1;
    return MG_OK;
}

static mg_status fill(scaled *s, mg_checkpoint *inner, mg_error *err) {
    uint32_t scales = 0;
    s->inner = inner;
    s->base = *inner;
    s->base.ops = &ops;
    s->base.n_tensors = 0;
    mg_strmap_init(&s->base.by_name);
    s->base.tensors = calloc((size_t)inner->n_tensors + 1, sizeof *s->base.tensors);
    s->stored = calloc((size_t)inner->n_tensors + 1, sizeof *s->stored);
    s->factors = calloc((size_t)inner->n_tensors + 1, sizeof *s->factors);
    s->each = calloc((size_t)inner->n_tensors + 1, sizeof *s->each);
    if (!s->base.tensors || !s->stored || !s->factors || !s->each) return mg_fail_nomem(err, inner->n_tensors);
    for (uint32_t i = 0; i < inner->n_tensors; i++) {
        const mg_tensor *t = &inner->tensors[i];
        if (is_factor(inner, t)) continue;
        const uint32_t at = s->base.n_tensors++, factor = sibling(inner, t->name, stem(t->name, ".weight"), ".scale");
        s->base.tensors[at] = *t;
        s->stored[at] = i;
        MG_TRY(mg_strmap_put(&s->base.by_name, t->name, strlen(t->name), at, NULL, err));
        if (factor == MG_STRMAP_NONE) continue;
        MG_TRY(widen(s, at, factor, err));
        scales++;
    }
    return add_note(s, scales, err);
}

mg_status mg_gguf_scales_wrap(mg_checkpoint **out, mg_checkpoint *inner, mg_error *err) {
    bool any = false;
    *out = inner;
    for (uint32_t i = 0; inner->container == MG_CONTAINER_GGUF && i < inner->n_tensors && !any; i++)
        any = is_factor(inner, &inner->tensors[i]);
    if (!any) return MG_OK;
    scaled *s = calloc(1, sizeof *s);
    if (!s) return mg_fail_nomem(err, sizeof *s);
    mg_status st = fill(s, inner, err);
    if (st == MG_OK)
        *out = &s->base;
    else
        free_view(s);
    return st;
}
