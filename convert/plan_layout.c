/* plan_layout.c - final names, offsets and sizes of every file of every output, and the identity of the plan.
 *
 * Files are ordered as they are renamed at the end: weights first, side files next, then config.json and the index, so
 * that a directory whose renames were cut short is not yet a model. */
#include "convert/plan_private.h"
#include "convert/stage_id.h"

#include "formats/gguf.h"
#include "formats/gguf_set.h"
#include "formats/safetensors.h"

#include <stdlib.h>
#include <string.h>

/* Descriptors of tensors [first, first+n) of an output, as the containers want them; malloc'ed. */
static mg_tensor *describe(const mg_plan_output *o, const uint32_t *which, uint32_t n) {
    mg_tensor *t = calloc(n ? n : 1, sizeof *t);
    if (!t) return NULL;
    for (uint32_t i = 0; i < n; i++) {
        t[i] = o->tensors[which[i]].e->t;
        t[i].name = o->tensors[which[i]].name;
        t[i].file = 0;
        t[i].offset = 0;
    }
    return t;
}

typedef mg_status (*layout_fn)(const mg_kvs *kv, const mg_tensor *t, uint32_t n, uint8_t **head, uint64_t *head_size,
                               uint64_t *offsets, uint64_t *size, mg_error *err);

static mg_status layout_gguf(const mg_kvs *kv, const mg_tensor *t, uint32_t n, uint8_t **head, uint64_t *head_size,
                             uint64_t *offsets, uint64_t *size, mg_error *err) {
    return mg_gguf_layout(kv, t, n, 0, head, head_size, offsets, size, err);
}

static mg_status layout_safetensors(const mg_kvs *kv, const mg_tensor *t, uint32_t n, uint8_t **head,
                                    uint64_t *head_size, uint64_t *offsets, uint64_t *size, mg_error *err) {
    (void)kv;
    return mg_safetensors_layout(t, n, NULL, head, head_size, offsets, size, err);
}

/* One weight file holding tensors which[0..n). */
static mg_status weight_file(mg_plan *p, mg_plan_output *o, layout_fn layout, const mg_kvs *kv, const char *name,
                             const uint32_t *which, uint32_t n, mg_error *err) {
    mg_tensor *t = describe(o, which, n);
    uint64_t *offsets = calloc(n ? n : 1, sizeof *offsets);
    uint8_t *head = NULL;
    mg_plan_file f = {.name = name, .weights = true};
    mg_status st = t && offsets ? MG_OK : mg_fail_nomem(err, n * sizeof *t);
    if (st == MG_OK) st = layout(kv, t, n, &head, &f.head_size, offsets, &f.size, err);
    if (st == MG_OK) {
        uint8_t *own = (uint8_t *)mg_arena_strndup(&p->arena, (const char *)head, (size_t)f.head_size);
        f.head = own;
        if (!own) st = mg_fail_nomem(err, f.head_size);
    }
    for (uint32_t i = 0; i < n && st == MG_OK; i++) {
        o->tensors[which[i]].file = o->n_files;
        o->tensors[which[i]].offset = offsets[i];
    }
    if (st == MG_OK)
        o->files[o->n_files++] = f;
    else
        mg_error_at(err, o->path, NULL);
    free(head);
    free(t);
    free(offsets);
    return st;
}

static mg_status text_file(mg_plan *p, mg_plan_output *o, const char *name, const char *text, size_t n, mg_error *err) {
    const char *own = mg_arena_strndup(&p->arena, text, n);
    if (!own) return mg_fail_nomem(err, n);
    o->files[o->n_files++] = (mg_plan_file){.name = name, .size = n, .head = (const uint8_t *)own, .head_size = n};
    return MG_OK;
}

/* JSON as Python's json.dump(indent=2) and a newline. */
static mg_status json_file(mg_plan *p, mg_plan_output *o, const char *name, const mg_json *v, mg_error *err) {
    char *text;
    MG_TRY(mg_json_print(&text, v, 2, err));
    size_t n = strlen(text);
    text[n] = '\n'; /* in place of the NUL: text_file takes a length */
    mg_status st = text_file(p, o, name, text, n + 1, err);
    free(text);
    return st;
}

/* Greedy, in plan order: a shard is closed when the next tensor would push its data over the limit. */
static uint32_t assign_shards(const mg_plan_output *o, uint32_t *shard) {
    uint32_t n = 0;
    uint64_t used = 0;
    for (uint32_t i = 0; i < o->n_tensors; i++) {
        uint64_t size = o->tensors[i].e->t.n_bytes;
        if (n == 0 || (used > 0 && (size > o->shard_size || used > o->shard_size - size))) {
            n++;
            used = 0;
        }
        shard[i] = n - 1;
        used += size;
    }
    return n ? n : 1;
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(const mg_plan_tensor *const *)a)->name, (*(const mg_plan_tensor *const *)b)->name);
}

static mg_status index_file(mg_plan *p, mg_plan_output *o, mg_error *err) {
    const mg_plan_tensor **sorted = calloc(o->n_tensors, sizeof *sorted);
    if (!sorted) return mg_fail_nomem(err, o->n_tensors * sizeof *sorted);
    uint64_t total = 0;
    for (uint32_t i = 0; i < o->n_tensors; i++) {
        sorted[i] = &o->tensors[i];
        total += o->tensors[i].e->t.n_bytes;
    }
    qsort(sorted, o->n_tensors, sizeof *sorted, by_name);
    mg_json *root = mg_json_new_object(), *meta = mg_json_new_object(), *map = mg_json_new_object();
    mg_json_set_u64(meta, "total_size", total);
    for (uint32_t i = 0; i < o->n_tensors; i++) mg_json_set_str(map, sorted[i]->name, o->files[sorted[i]->file].name);
    mg_json_set(root, "metadata", meta);
    mg_json_set(root, "weight_map", map);
    const char *name = mg_arena_printf(&p->arena, "%s.safetensors.index.json", o->stem);
    mg_status st = name ? json_file(p, o, name, root, err) : mg_fail_nomem(err, 64);
    mg_json_free(root);
    free(sorted);
    return st;
}

static mg_status layout_dir(mg_plan *p, mg_plan_output *o, mg_error *err) {
    uint32_t *shard = calloc(o->n_tensors + 1, sizeof *shard), *which = calloc(o->n_tensors + 1, sizeof *which);
    if (!shard || !which) {
        free(shard);
        free(which);
        return mg_fail_nomem(err, o->n_tensors * sizeof *shard);
    }
    mg_status st = MG_OK;
    uint32_t n = assign_shards(o, shard);
    st = MG_ARENA_NEW(&p->arena, &o->files, (size_t)n + o->n_sides + 3, err);
    for (uint32_t s = 0; s < n && st == MG_OK; s++) {
        uint32_t k = 0;
        for (uint32_t i = 0; i < o->n_tensors; i++)
            if (shard[i] == s) which[k++] = i;
        const char *name = n == 1 ? mg_arena_printf(&p->arena, "%s.safetensors", o->stem)
                                  : mg_arena_printf(&p->arena, "%s-%05u-of-%05u.safetensors", o->stem, s + 1, n);
        st = name ? weight_file(p, o, layout_safetensors, NULL, name, which, k, err) : mg_fail_nomem(err, 64);
    }
    for (uint32_t i = 0; i < o->n_sides && st == MG_OK; i++)
        st = text_file(p, o, o->sides[i].name, (const char *)o->sides[i].data, (size_t)o->sides[i].size, err);
    if (st == MG_OK && o->config) st = json_file(p, o, o->config_name, o->config, err);
    if (st == MG_OK && n > 1) st = index_file(p, o, err);
    free(shard);
    free(which);
    return st;
}

/* Tensors [first, first+n) as one file. */
static mg_status layout_run(mg_plan *p, mg_plan_output *o, const mg_kvs *kv, const char *name, uint32_t first,
                            uint32_t n, mg_error *err) {
    uint32_t *which = calloc(n + 1, sizeof *which);
    if (!which) return mg_fail_nomem(err, n * sizeof *which);
    for (uint32_t i = 0; i < n; i++) which[i] = first + i;
    mg_status st =
        weight_file(p, o, o->kind == MG_OUT_GGUF ? layout_gguf : layout_safetensors, kv, name, which, n, err);
    free(which);
    return st;
}

static mg_status layout_single(mg_plan *p, mg_plan_output *o, mg_error *err) {
    MG_TRY(MG_ARENA_NEW(&p->arena, &o->files, 1, err));
    return layout_run(p, o, &o->kv, o->base, 0, o->n_tensors, err);
}

/* Greedy, in order; no part is without a tensor. Returns the number of parts. */
static uint32_t assign_parts(mg_plan_output *o) {
    uint32_t n = 1, in_part = 0;
    uint64_t used = 0;
    for (uint32_t i = 0; i < o->n_tensors; i++) {
        uint64_t size = o->tensors[i].e->t.n_bytes, padded;
        if (o->like_gguf_split && mg_align_u64(size, MG_GGUF_DEFAULT_ALIGNMENT, &padded)) size = padded;
        bool full = o->split_size && (size > o->split_size || used > o->split_size - size);
        if (in_part && (full || (o->split_tensors && in_part == o->split_tensors))) {
            n++;
            in_part = 0;
            used = 0;
        }
        o->tensors[i].part = n - 1;
        in_part++;
        used += size;
    }
    return n;
}

static mg_status layout_part(mg_plan *p, mg_plan_output *o, uint32_t no, uint32_t n_parts, uint32_t first, uint32_t n,
                             mg_error *err) {
    char name[4096];
    mg_kvs kv;
    MG_TRY(mg_gguf_part_name(name, sizeof name, o->base, mg_gguf_stem(o->base), no, n_parts, err));
    const char *own = mg_arena_strdup(&p->arena, name);
    if (!own) return mg_fail_nomem(err, sizeof name);
    mg_status st = mg_gguf_part_keys(&kv, no ? NULL : &o->kv, no, n_parts, o->n_tensors, o->like_gguf_split, err);
    if (st == MG_OK) st = layout_run(p, o, &kv, own, first, n, err);
    mg_kvs_release(&kv);
    return st;
}

static mg_status layout_parts(mg_plan *p, mg_plan_output *o, mg_error *err) {
    uint32_t n_parts = o->n_parts ? o->n_parts : assign_parts(o), first = 0;
    if (n_parts == 1) return layout_single(p, o, err);
    MG_TRY(MG_ARENA_NEW(&p->arena, &o->files, n_parts, err));
    for (uint32_t s = 0; s < n_parts; s++) {
        uint32_t n = 0;
        while (first + n < o->n_tensors && o->tensors[first + n].part == s) n++;
        MG_TRY(layout_part(p, o, s, n_parts, first, n, err));
        first += n;
    }
    return MG_OK;
}

static mg_status layout_output(mg_plan *p, mg_plan_output *o, mg_error *err) {
    if (o->kind == MG_OUT_HF_DIR) return layout_dir(p, o, err);
    return o->split_size || o->split_tensors || o->n_parts ? layout_parts(p, o, err) : layout_single(p, o, err);
}

/* Two outputs must not write the same file. */
static mg_status check_distinct(const mg_plan *p, mg_error *err) {
    for (uint32_t a = 0; a < p->n_outputs; a++)
        for (uint32_t b = a + 1; b < p->n_outputs; b++) {
            const mg_plan_output *x = p->outputs[a], *y = p->outputs[b];
            if (!strcmp(x->path, y->path) || (!strcmp(x->dir, y->dir) && !strcmp(x->base, y->base)))
                return mg_fail(err, MG_ERR_USAGE, "'%s' is written twice", x->path);
        }
    return MG_OK;
}

mg_status mg_plan_layout(mg_plan *p, mg_error *err) {
    if (p->laid_out) return MG_OK;
    MG_TRY(check_distinct(p, err));
    for (uint32_t i = 0; i < p->n_outputs; i++) {
        mg_plan_output *o = p->outputs[i];
        o->n_files = 0;
        MG_TRY(layout_output(p, o, err));
    }
    p->laid_out = true;
    return MG_OK;
}

static void put_u64(mg_xxh128_state *s, uint64_t v) {
    mg_xxh128_update(s, &v, sizeof v);
}

static void put_str(mg_xxh128_state *s, const char *t) {
    put_u64(s, strlen(t));
    mg_xxh128_update(s, t, strlen(t));
}

static void put_output(mg_xxh128_state *s, const mg_plan_output *o) {
    put_u64(s, (uint64_t)o->kind);
    put_u64(s, o->n_tensors);
    for (uint32_t i = 0; i < o->n_tensors; i++) {
        put_str(s, o->tensors[i].name);
        put_u64(s, o->tensors[i].e->index);
        put_u64(s, o->tensors[i].file);
        put_u64(s, o->tensors[i].offset);
    }
    put_u64(s, o->n_files);
    for (uint32_t i = 0; i < o->n_files; i++) {
        put_str(s, o->files[i].name);
        put_u64(s, o->files[i].size);
        put_u64(s, o->files[i].head_size);
        mg_xxh128_update(s, o->files[i].head, (size_t)o->files[i].head_size);
    }
}

mg_status mg_plan_id(mg_plan *p, mg_xxh128 *id, mg_error *err) {
    MG_TRY(mg_plan_layout(p, err));
    mg_xxh128_state *s;
    MG_TRY(mg_xxh128_new(&s, err));
    put_str(s, "moegraft plan");
    put_u64(s, MG_PLAN_VERSION);
    put_u64(s, p->unit_bytes);
    mg_status st = MG_OK;
    put_u64(s, p->n_inputs);
    for (uint32_t i = 0; i < p->n_inputs && st == MG_OK; i++) {
        uint8_t in[16];
        st = mg_stage_identity(p->inputs[i], in, err);
        if (st == MG_OK) mg_xxh128_update(s, in, sizeof in);
    }
    put_u64(s, p->n_nodes);
    for (uint32_t i = 0; i < p->n_nodes && st == MG_OK; i++) st = mg_expr_hash(p->nodes[i], s, err);
    put_u64(s, p->n_outputs);
    for (uint32_t i = 0; i < p->n_outputs && st == MG_OK; i++) put_output(s, p->outputs[i]);
    if (p->made) put_str(s, p->made); /* it is part of a file */
    if (st == MG_OK) *id = mg_xxh128_final(s);
    mg_xxh128_free(s);
    return st;
}
