/* reuse.c - see reuse.h. */
#include "convert/reuse.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/expr_tile.h"
#include "convert/plan_private.h"
#include "mg_version.h"

#define MANIFEST_CAP (UINT64_C(256) << 20)

struct mg_reuse {
    mg_checkpoint *ckpt;
    mg_json *manifest;
    mg_strmap by_name;       /* name -> index in tensors */
    const mg_json **tensors; /* [n] items of the manifest */
    mg_eval ev;
    bool comparable; /* made by this version */
    uint32_t n_taken;
    uint64_t taken_bytes;
};

/* ---- digests ---- */

void mg_reuse_source_begin(mg_xxh128_state *s, const mg_expr *e) {
    const char *dtype = mg_dtype_get(e->t.dtype)->name;
    mg_xxh128_update(s, dtype, strlen(dtype) + 1);
    mg_xxh128_update(s, e->t.shape, e->t.rank * sizeof e->t.shape[0]);
}

/* Digest of dtype, shape and rows, as 32 hex digits. */
static mg_status source_hash(const mg_expr *e, mg_eval *ev, char hex[33], mg_error *err) {
    mg_xxh128_state *s;
    MG_TRY(mg_xxh128_new(&s, err));
    mg_reuse_source_begin(s, e);
    mg_status st = mg_expr_digest_rows(e, ev, s, err);
    const mg_xxh128 h = mg_xxh128_final(s);
    mg_xxh128_free(s);
    mg_hex(h.bytes, sizeof h.bytes, hex);
    return st;
}

/* XXH3-128 of a tensor's bytes in the earlier file, as the manifest states it. */
static mg_status stored_hash(mg_reuse *r, uint32_t t, char hex[33], mg_error *err) {
    enum { CHUNK = 1 << 20 };
    mg_xxh128_state *s;
    void *buf;
    r->ev.depth = 0;
    MG_TRY(mg_eval_push(&r->ev, CHUNK, &buf, err));
    MG_TRY(mg_xxh128_new(&s, err));
    mg_status st = MG_OK;
    for (uint64_t at = 0, all = r->ckpt->tensors[t].n_bytes; at < all && st == MG_OK; at += CHUNK) {
        const uint64_t n = all - at < CHUNK ? all - at : CHUNK;
        st = mg_checkpoint_read(r->ckpt, t, at, buf, n, err);
        if (st == MG_OK) mg_xxh128_update(s, buf, (size_t)n);
    }
    const mg_xxh128 h = mg_xxh128_final(s);
    mg_xxh128_free(s);
    mg_eval_pop(&r->ev);
    mg_hex(h.bytes, sizeof h.bytes, hex);
    return st;
}

/* ---- the earlier file ---- */

static bool says(const mg_json *v, const char *key, const char *want) {
    const char *s = mg_json_str(mg_json_get(v, key));
    return s && strcmp(s, want) == 0;
}

static mg_status index_tensors(mg_reuse *r, mg_error *err) {
    const mg_json *list = mg_json_get(r->manifest, "tensors");
    uint64_t version = 0;
    uint32_t n = 0;
    if (!says(r->manifest, "tool", "moegraft") || !list)
        return mg_fail(err, MG_ERR_FORMAT, "this is no manifest of ours");
    mg_json_u64(mg_json_get(r->manifest, "plan_version"), &version);
    r->comparable = says(r->manifest, "version", MG_VERSION) && version == MG_PLAN_VERSION;
    r->tensors = calloc(mg_json_len(list) + 1, sizeof *r->tensors);
    if (!r->tensors) return mg_fail_nomem(err, mg_json_len(list) * sizeof *r->tensors);
    for (const mg_json *t = mg_json_first(list); t; t = mg_json_next(t), n++) {
        const char *name = mg_json_str(mg_json_get(t, "name"));
        if (!name) return mg_fail(err, MG_ERR_FORMAT, "tensor %u has no name", n);
        r->tensors[n] = t;
        MG_TRY(mg_strmap_put(&r->by_name, name, strlen(name), n, NULL, err));
    }
    return MG_OK;
}

static mg_status load(mg_reuse *r, const char *path, mg_error *err) {
    char manifest[4096];
    MG_TRY(mg_checkpoint_open(&r->ckpt, path, err));
    if (r->ckpt->container != MG_CONTAINER_GGUF || r->ckpt->n_files != 1)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "'%s': only a GGUF in one file can be reused", path);
    const int n = snprintf(manifest, sizeof manifest, "%s.manifest.json", path);
    if (n < 0 || (size_t)n >= sizeof manifest) return mg_fail(err, MG_ERR_LIMIT, "path of %zu bytes", strlen(path));
    mg_status st = mg_json_load(&r->manifest, manifest, MANIFEST_CAP, err);
    if (st == MG_OK) st = index_tensors(r, err);
    if (st != MG_OK) mg_error_at(err, manifest, NULL);
    return st;
}

mg_status mg_reuse_open(mg_reuse **out, const char *path, mg_error *err) {
    mg_reuse *r = calloc(1, sizeof *r);
    if (!r) return mg_fail_nomem(err, sizeof *r);
    mg_strmap_init(&r->by_name);
    mg_eval_init(&r->ev);
    mg_status st = load(r, path, err);
    if (st != MG_OK) {
        mg_reuse_free(r);
        return st;
    }
    *out = r;
    return MG_OK;
}

void mg_reuse_free(mg_reuse *r) {
    if (!r) return;
    mg_checkpoint_free(r->ckpt);
    mg_json_free(r->manifest);
    mg_strmap_release(&r->by_name);
    mg_eval_release(&r->ev);
    free(r->tensors);
    free(r);
}

/* ---- the proof ---- */

/* The encoder's part of two recipes, ["cast", dtype, digest of weights ...]: strings up to the child. */
static bool same_encoder(const mg_json *a, const mg_json *b) {
    const mg_json *x = a ? mg_json_first(a) : NULL, *y = b ? mg_json_first(b) : NULL;
    if (!x || !mg_json_str(x) || strcmp(mg_json_str(x), "cast") != 0) return false;
    for (; x && y; x = mg_json_next(x), y = mg_json_next(y)) {
        const char *s = mg_json_str(x), *t = mg_json_str(y);
        if (!s || !t) return !s && !t; /* both have come to their child */
        if (strcmp(s, t) != 0) return false;
    }
    return false;
}

static bool same_layout(const mg_tensor *old, const mg_expr *e) {
    if (old->dtype != e->t.dtype || old->rank != e->t.rank || old->n_bytes != e->t.n_bytes) return false;
    return memcmp(old->shape, e->t.shape, e->t.rank * sizeof e->t.shape[0]) == 0;
}

mg_status mg_reuse_apply(mg_reuse *r, mg_plan *p, const char *name, const mg_expr **e, const char **source,
                         mg_error *err) {
    char hex[33];
    const uint32_t k = mg_strmap_get(&r->by_name, name, strlen(name)), t = mg_checkpoint_find(r->ckpt, name);
    if (!r->comparable || k == MG_STRMAP_NONE || t == MG_STRMAP_NONE || (*e)->op != MG_EX_CAST) return MG_OK;
    const mg_json *old = r->tensors[k];
    mg_json *recipe = mg_expr_json(*e);
    const bool same = same_encoder(mg_json_get(old, "recipe"), recipe) && same_layout(&r->ckpt->tensors[t], *e);
    mg_json_free(recipe);
    if (!same || !mg_json_str(mg_json_get(old, "source_xxh3"))) return MG_OK;
    MG_TRY(source_hash((*e)->children[0], &r->ev, hex, err));
    if (!says(old, "source_xxh3", hex)) return MG_OK;
    *source = mg_arena_strdup(&p->arena, hex);
    if (!*source) return mg_fail_nomem(err, sizeof hex);
    MG_TRY(stored_hash(r, t, hex, err));
    if (!says(old, "xxh3", hex)) {
        mg_status st = mg_fail(err, MG_ERR_INTEGRITY, "its bytes are not those its manifest states");
        mg_error_at(err, r->ckpt->path, name);
        return st;
    }
    r->n_taken++;
    r->taken_bytes += r->ckpt->tensors[t].n_bytes;
    return mg_expr_source(p, r->ckpt, t, e, err);
}

void mg_reuse_counts(const mg_reuse *r, uint32_t *tensors, uint64_t *bytes) {
    *tensors = r->n_taken;
    *bytes = r->taken_bytes;
}
