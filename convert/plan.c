/* plan.c - a plan's life, its outputs and what belongs to them. */
#include "convert/plan_private.h"

#include "formats/base/file.h"
#include "formats/known_hashes.h"

#include <stdlib.h>
#include <string.h>

mg_status mg_plan_new(mg_plan **out, mg_error *err) {
    mg_plan *p = calloc(1, sizeof *p);
    if (!p) return mg_fail_nomem(err, sizeof *p);
    mg_arena_init(&p->arena, 0);
    mg_strmap_init(&p->interned);
    p->unit_bytes = MG_UNIT_BYTES;
    *out = p;
    return MG_OK;
}

static void output_release(mg_plan_output *o) {
    free(o->tensors);
    free(o->sides);
    mg_strmap_release(&o->names);
    mg_kvs_release(&o->kv);
    mg_json_free(o->config);
}

void mg_plan_free(mg_plan *p) {
    if (!p) return;
    for (uint32_t i = 0; i < p->n_outputs; i++) output_release(p->outputs[i]);
    free(p->outputs);
    free(p->inputs);
    free(p->nodes);
    free(p->result_files);
    free(p->made);
    mg_strmap_release(&p->interned);
    mg_arena_release(&p->arena);
    free(p);
}

mg_status mg_plan_grow(void *array_ptr, uint32_t *cap, uint32_t n, size_t item, mg_error *err) {
    if (n < *cap) return MG_OK;
    if (n >= UINT32_MAX / 2) return mg_fail(err, MG_ERR_LIMIT, "a plan cannot hold more than %u items of a kind", n);
    uint32_t want = *cap ? *cap * 2 : 16;
    while (want <= n) want *= 2;
    void *old;
    memcpy(&old, array_ptr, sizeof old);
    void *now = reallocarray(old, want, item);
    if (!now) return mg_fail_nomem(err, (uint64_t)want * item);
    memcpy(array_ptr, &now, sizeof now);
    *cap = want;
    return MG_OK;
}

mg_status mg_plan_verify_inputs(mg_plan *p, const mg_exec_options *opt, struct mg_known_counts *counts, mg_error *err) {
    mg_pool *pool;
    MG_TRY(mg_pool_new(&pool, opt->threads, err));
    mg_status st = mg_known_hashes_check(p->inputs, p->n_inputs, pool, opt->rank, opt->world, counts, err);
    mg_pool_free(pool);
    return st;
}

mg_status mg_plan_output_get(mg_plan *p, uint32_t out, mg_plan_output **o, mg_error *err) {
    if (out >= p->n_outputs) return mg_fail(err, MG_ERR_INTERNAL, "output %u of a plan with %u", out, p->n_outputs);
    *o = p->outputs[out];
    return MG_OK;
}

/* "a/b/" -> dir "a", base "b"; "x" -> ".", "x". */
static mg_status split_path(mg_plan *p, const char *path, const char **dir, const char **base, mg_error *err) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    size_t b = n;
    while (b > 0 && path[b - 1] != '/') b--;
    *base = mg_arena_strndup(&p->arena, path + b, n - b);
    size_t d = b;
    while (d > 1 && path[d - 1] == '/') d--;
    *dir = d ? mg_arena_strndup(&p->arena, path, d) : mg_arena_strdup(&p->arena, ".");
    if (!*base || !*dir) return mg_fail_nomem(err, n);
    if (!**base || !strcmp(*base, ".") || !strcmp(*base, ".."))
        return mg_fail(err, MG_ERR_USAGE, "'%s' cannot be the name of an output", path);
    return MG_OK;
}

mg_status mg_plan_add_output(mg_plan *p, mg_out_kind kind, const char *path, uint32_t *out, mg_error *err) {
    MG_TRY(mg_plan_grow(&p->outputs, &p->cap_outputs, p->n_outputs, sizeof *p->outputs, err));
    mg_plan_output *o;
    MG_TRY(MG_ARENA_NEW(&p->arena, &o, 1, err));
    o->kind = kind;
    o->path = mg_arena_strdup(&p->arena, path);
    if (!o->path) return mg_fail_nomem(err, strlen(path));
    MG_TRY(split_path(p, path, &o->dir, &o->base, err));
    if (kind == MG_OUT_HF_DIR) o->dir = o->path;
    o->stem = "model";
    o->config_name = "config.json";
    o->shard_size = 5000000000u;
    mg_strmap_init(&o->names);
    mg_kvs_init(&o->kv);
    p->laid_out = false;
    p->outputs[p->n_outputs] = o;
    *out = p->n_outputs++;
    return MG_OK;
}

mg_status mg_plan_add_tensor(mg_plan *p, uint32_t out, const char *name, const mg_expr *e, mg_error *err) {
    mg_plan_output *o;
    MG_TRY(mg_plan_output_get(p, out, &o, err));
    const mg_dtype_info *d = mg_dtype_get(e->t.dtype);
    if (o->kind == MG_OUT_GGUF ? d->gguf_id < 0 : !d->st_name)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "tensor '%s': %s files cannot hold the type %s", name,
                       o->kind == MG_OUT_GGUF ? "GGUF" : "safetensors", d->name);
    MG_TRY(mg_plan_grow(&o->tensors, &o->cap_tensors, o->n_tensors, sizeof *o->tensors, err));
    mg_plan_tensor *t = &o->tensors[o->n_tensors];
    memset(t, 0, sizeof *t);
    t->name = mg_arena_strdup(&p->arena, name);
    if (!t->name) return mg_fail_nomem(err, strlen(name));
    t->e = t->recipe = e;
    uint32_t before = MG_STRMAP_NONE;
    MG_TRY(mg_strmap_put(&o->names, t->name, strlen(t->name), o->n_tensors, &before, err));
    if (before != MG_STRMAP_NONE)
        return mg_fail(err, MG_ERR_INTERNAL, "tensor '%s' is written twice into '%s'", name, o->path);
    o->n_tensors++;
    p->laid_out = false;
    return MG_OK;
}

mg_status mg_plan_add_reused(mg_plan *p, uint32_t out, const char *name, const mg_expr *e, const mg_expr *encoded,
                             const char *source, mg_error *err) {
    MG_TRY(mg_plan_add_tensor(p, out, name, e, err));
    mg_plan_tensor *t = &p->outputs[out]->tensors[p->outputs[out]->n_tensors - 1];
    t->recipe = encoded;
    t->source = source;
    return MG_OK;
}

const mg_expr *mg_plan_tensor_expr(const mg_plan *p, uint32_t out, uint32_t i) {
    return out < p->n_outputs && i < p->outputs[out]->n_tensors ? p->outputs[out]->tensors[i].e : NULL;
}

mg_status mg_plan_set_kv(mg_plan *p, uint32_t out, const mg_kvs *kv, mg_error *err) {
    mg_plan_output *o;
    MG_TRY(mg_plan_output_get(p, out, &o, err));
    mg_kvs_release(&o->kv);
    mg_kvs_init(&o->kv);
    for (uint32_t i = 0; i < kv->n; i++) MG_TRY(mg_kvs_copy(&o->kv, &kv->items[i], err));
    o->has_kv = true;
    p->laid_out = false;
    return MG_OK;
}

mg_status mg_plan_set_config(mg_plan *p, uint32_t out, const mg_json *config, mg_error *err) {
    mg_plan_output *o;
    MG_TRY(mg_plan_output_get(p, out, &o, err));
    mg_json *copy;
    MG_TRY(mg_json_dup(&copy, config, err));
    mg_json_free(o->config);
    o->config = copy;
    p->laid_out = false;
    return MG_OK;
}

mg_status mg_plan_set_names(mg_plan *p, uint32_t out, const char *stem, const char *config, mg_error *err) {
    mg_plan_output *o;
    MG_TRY(mg_plan_output_get(p, out, &o, err));
    o->stem = stem;
    o->config_name = config;
    p->laid_out = false;
    return MG_OK;
}

mg_status mg_plan_add_side_file(mg_plan *p, uint32_t out, const char *name, const void *data, size_t n, mg_error *err) {
    mg_plan_output *o;
    MG_TRY(mg_plan_output_get(p, out, &o, err));
    if (o->kind != MG_OUT_HF_DIR)
        return mg_fail(err, MG_ERR_INTERNAL, "'%s' is no directory and has no side files", o->path);
    MG_TRY(mg_path_check_plain(name, err));
    for (uint32_t i = 0; i < o->n_sides; i++)
        if (!strcmp(o->sides[i].name, name))
            return mg_fail(err, MG_ERR_INTERNAL, "side file '%s' is added twice to '%s'", name, o->path);
    MG_TRY(mg_plan_grow(&o->sides, &o->cap_sides, o->n_sides, sizeof *o->sides, err));
    char *copy = mg_arena_strndup(&p->arena, data, n);
    const char *own = mg_arena_strdup(&p->arena, name);
    if (!copy || !own) return mg_fail_nomem(err, n);
    o->sides[o->n_sides++] = (mg_plan_side){.name = own, .data = (const uint8_t *)copy, .size = n};
    p->laid_out = false;
    return MG_OK;
}

mg_status mg_plan_set_shard_size(mg_plan *p, uint32_t out, uint64_t bytes, mg_error *err) {
    mg_plan_output *o;
    MG_TRY(mg_plan_output_get(p, out, &o, err));
    if (bytes == 0) return mg_fail(err, MG_ERR_USAGE, "a shard of 0 bytes cannot hold a tensor");
    o->shard_size = bytes;
    p->laid_out = false;
    return MG_OK;
}

mg_status mg_plan_set_split(mg_plan *p, uint32_t out, uint64_t max_bytes, uint32_t max_tensors, bool like_gguf_split,
                            mg_error *err) {
    mg_plan_output *o;
    MG_TRY(mg_plan_output_get(p, out, &o, err));
    if (o->kind != MG_OUT_GGUF) return mg_fail(err, MG_ERR_INTERNAL, "'%s' is no GGUF and has no parts", o->path);
    o->split_size = max_bytes;
    o->split_tensors = max_tensors;
    o->like_gguf_split = like_gguf_split;
    o->n_parts = 0;
    p->laid_out = false;
    return MG_OK;
}

mg_status mg_plan_set_parts(mg_plan *p, uint32_t out, uint32_t n_parts, const uint32_t *part, mg_error *err) {
    mg_plan_output *o;
    MG_TRY(mg_plan_output_get(p, out, &o, err));
    if (o->kind != MG_OUT_GGUF) return mg_fail(err, MG_ERR_INTERNAL, "'%s' is no GGUF and has no parts", o->path);
    for (uint32_t i = 0; i < o->n_tensors; i++) {
        if (part[i] >= n_parts || (i && part[i] < part[i - 1]))
            return mg_fail(err, MG_ERR_INTERNAL, "tensor %u of '%s' goes into part %u of %u", i, o->path, part[i],
                           n_parts);
        o->tensors[i].part = part[i];
    }
    o->n_parts = n_parts;
    p->laid_out = false;
    return MG_OK;
}
