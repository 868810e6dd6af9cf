/* container.c - the part of a checkpoint that is the same for every container made of files. */
#include "formats/container.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/hash.h"
#include "formats/hf_dir.h"
#include "formats/safetensors.h"
#include "formats/strided.h"
#include "formats/torch_file.h"

#define EDGE (64u << 10) /* bytes hashed at each end of a file for its identity */

static mg_status read_bytes(mg_checkpoint *base, uint32_t t, uint64_t offset, void *dst, uint64_t n, mg_error *err) {
    mg_files_ckpt *c = (mg_files_ckpt *)base;
    const mg_tensor *tensor = &base->tensors[t];
    const mg_file *f = c->files[tensor->file];
    const uint64_t *strides = c->strides ? c->strides[t] : NULL;
    mg_status st = strides ? mg_strided_read(f, tensor, strides, offset, dst, n, err)
                           : mg_file_read(f, tensor->offset + offset, dst, n, err);
    if (st != MG_OK) mg_error_at(err, base->files[tensor->file], tensor->name);
    return st;
}

static mg_status recheck(mg_checkpoint *base, mg_error *err) {
    mg_files_ckpt *c = (mg_files_ckpt *)base;
    for (uint32_t i = 0; i < base->n_files; i++) MG_TRY(mg_file_recheck(c->files[i], err));
    return MG_OK;
}

static mg_status hash_file(mg_xxh128_state *s, const mg_file *f, uint8_t *edge, mg_error *err) {
    uint64_t n = f->size < EDGE ? f->size : EDGE;
    uint64_t facts[2] = {f->size, (uint64_t)f->mtime_ns};
    mg_xxh128_update(s, facts, sizeof facts);
    MG_TRY(mg_file_read(f, 0, edge, n, err));
    mg_xxh128_update(s, edge, n);
    MG_TRY(mg_file_read(f, f->size - n, edge, n, err));
    mg_xxh128_update(s, edge, n);
    return MG_OK;
}

static mg_status identity(mg_checkpoint *base, uint8_t id[16], mg_error *err) {
    mg_files_ckpt *c = (mg_files_ckpt *)base;
    mg_xxh128_state *s = NULL;
    uint8_t *edge = malloc(EDGE);
    mg_status st = edge ? mg_xxh128_new(&s, err) : mg_fail_nomem(err, EDGE);
    if (st == MG_OK) {
        uint32_t head[2] = {(uint32_t)base->container, base->n_files};
        mg_xxh128_update(s, head, sizeof head);
    }
    for (uint32_t i = 0; st == MG_OK && i < base->n_files; i++) st = hash_file(s, c->files[i], edge, err);
    if (st == MG_OK) memcpy(id, mg_xxh128_final(s).bytes, 16);
    if (s) mg_xxh128_free(s);
    free(edge);
    return st;
}

static void free_ckpt(mg_checkpoint *base) {
    mg_files_ckpt_free((mg_files_ckpt *)base);
}

static const mg_checkpoint_ops ops = {read_bytes, recheck, identity, free_ckpt};

mg_status mg_files_ckpt_new(mg_files_ckpt **out, mg_container kind, const char *path, mg_error *err) {
    mg_files_ckpt *c = calloc(1, sizeof *c);
    if (!c) return mg_fail_nomem(err, sizeof *c);
    c->base.ops = &ops;
    c->base.container = kind;
    mg_arena_init(&c->arena, 0);
    mg_kvs_init(&c->kv);
    mg_kvs_init(&c->metadata);
    mg_strmap_init(&c->base.by_name);
    c->base.path = mg_arena_strdup(&c->arena, path);
    if (!c->base.path) {
        mg_files_ckpt_free(c);
        return mg_fail_nomem(err, strlen(path));
    }
    *out = c;
    return MG_OK;
}

void mg_files_ckpt_free(mg_files_ckpt *c) {
    if (!c) return;
    for (uint32_t i = 0; i < c->base.n_files; i++) {
        mg_file_close(c->files[i]);
        free(c->files[i]);
    }
    free(c->files);
    free(c->base.files);
    free(c->tensors);
    free(c->notes);
    free(c->strides);
    if (c->config) mg_json_free(c->config);
    if (c->generation_config) mg_json_free(c->generation_config);
    if (c->params) mg_json_free(c->params);
    mg_strmap_release(&c->base.by_name);
    mg_kvs_release(&c->kv);
    mg_kvs_release(&c->metadata);
    mg_arena_release(&c->names);
    mg_arena_release(&c->arena);
    free(c);
}

mg_status mg_files_ckpt_set_dir_of(mg_files_ckpt *c, const char *path, mg_error *err) {
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) : 1;
    c->base.dir = mg_arena_strndup(&c->arena, !slash ? "." : n ? path : "/", n ? n : 1);
    return c->base.dir ? MG_OK : mg_fail_nomem(err, n);
}

/* Room for one more element of *array; doubling. */
static mg_status grow(void **array, uint32_t n, uint32_t *cap, size_t size, mg_error *err) {
    if (n < *cap) return MG_OK;
    uint32_t want = *cap ? *cap * 2 : 16;
    void *p = want > *cap ? realloc(*array, want * size) : NULL;
    if (!p) return mg_fail_nomem(err, (uint64_t)want * size);
    *array = p;
    *cap = want;
    return MG_OK;
}

mg_status mg_files_ckpt_add_file(mg_files_ckpt *c, const char *path, const char *name, mg_error *err) {
    uint32_t names_cap = c->files_cap;
    MG_TRY(grow((void **)&c->base.files, c->base.n_files, &names_cap, sizeof *c->base.files, err));
    MG_TRY(grow((void **)&c->files, c->base.n_files, &c->files_cap, sizeof *c->files, err));
    const char *shown = mg_arena_strdup(&c->arena, name);
    mg_file *f = malloc(sizeof *f);
    mg_status st = shown && f ? mg_file_open_pieces(f, path, err) : mg_fail_nomem(err, sizeof *f);
    if (st != MG_OK) {
        mg_error_at(err, path, NULL);
        free(f);
        return st;
    }
    c->base.files[c->base.n_files] = shown;
    c->files[c->base.n_files++] = f;
    return MG_OK;
}

mg_status mg_files_ckpt_add_tensors(mg_files_ckpt *c, const mg_tensor *t, uint32_t n, mg_error *err) {
    uint64_t total = (uint64_t)c->base.n_tensors + n;
    if (total >= MG_STRMAP_NONE) return mg_fail(err, MG_ERR_LIMIT, "more than 2^32 tensors");
    if (total > c->tensors_cap) {
        mg_tensor *p = realloc(c->tensors, total * sizeof *p);
        if (!p) return mg_fail_nomem(err, total * sizeof *p);
        c->tensors = p;
        const uint64_t **s = realloc(c->strides, total * sizeof *s);
        if (!s) return mg_fail_nomem(err, total * sizeof *s);
        c->strides = s;
        c->tensors_cap = (uint32_t)total;
    }
    for (uint32_t i = 0; i < n; i++) {
        c->tensors[c->base.n_tensors + i] = t[i];
        c->tensors[c->base.n_tensors + i].file = c->base.n_files - 1;
        c->strides[c->base.n_tensors + i] = NULL;
    }
    c->base.n_tensors = (uint32_t)total;
    c->base.tensors = c->tensors;
    return MG_OK;
}

mg_status mg_files_ckpt_add_safetensors(mg_files_ckpt *c, const char *path, const char *name, mg_error *err) {
    mg_st_header h;
    bool first = c->base.n_files == 0;
    MG_TRY(mg_files_ckpt_add_file(c, path, name, err));
    MG_TRY(mg_safetensors_read(&h, c->files[c->base.n_files - 1], &c->arena, first ? &c->metadata : NULL, err));
    if (first && h.has_metadata) c->base.st_metadata = &c->metadata;
    return mg_files_ckpt_add_tensors(c, h.tensors, h.n_tensors, err);
}

mg_status mg_files_ckpt_add_torch(mg_files_ckpt *c, const char *path, const char *name, mg_error *err) {
    mg_torch_file t;
    uint32_t before = c->base.n_tensors;
    MG_TRY(mg_files_ckpt_add_file(c, path, name, err));
    MG_TRY(mg_torch_read(&t, c->files[c->base.n_files - 1], &c->arena, err));
    MG_TRY(mg_files_ckpt_add_tensors(c, t.tensors, t.n_tensors, err));
    for (uint32_t i = 0; i < t.n_tensors; i++) c->strides[before + i] = t.strides[i];
    if (t.inside) MG_TRY(mg_files_ckpt_note(c, err, "%s: the tensors are those of its entry '%s'", name, t.inside));
    if (!t.n_skipped) return MG_OK;
    return mg_files_ckpt_note(c, err, "%s: %" PRIu32 " entries are no tensors and were not read, the first is '%.200s'",
                              name, t.n_skipped, t.skipped);
}

mg_status mg_files_ckpt_index(mg_files_ckpt *c, mg_error *err) {
    mg_checkpoint *b = &c->base;
    for (uint32_t i = 0; i < b->n_tensors; i++) {
        uint32_t before;
        const mg_tensor *t = &b->tensors[i];
        MG_TRY(mg_strmap_put(&b->by_name, t->name, strlen(t->name), i, &before, err));
        if (before == MG_STRMAP_NONE) continue;
        mg_fail(err, MG_ERR_FORMAT, "also stored in '%s'", b->files[b->tensors[before].file]);
        mg_error_at(err, c->files[t->file]->path, t->name);
        return MG_ERR_FORMAT;
    }
    return MG_OK;
}

mg_status mg_files_ckpt_note(mg_files_ckpt *c, mg_error *err, const char *fmt, ...) {
    MG_TRY(grow((void **)&c->notes, c->base.n_notes, &c->notes_cap, sizeof *c->notes, err));
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    const char *kept = mg_arena_strdup(&c->arena, text);
    if (!kept) return mg_fail_nomem(err, sizeof text);
    c->notes[c->base.n_notes++] = kept;
    c->base.notes = c->notes;
    return MG_OK;
}

static mg_status load_object(mg_json **out, const char *dir, const char *name, mg_error *err) {
    char path[4096];
    MG_TRY(mg_path_join(path, sizeof path, dir, name, err));
    MG_TRY(mg_hf_check_link(dir, name, err));
    mg_status st = mg_json_load(out, path, MG_HF_CONFIG_CAP, err);
    if (st == MG_OK && mg_json_type(*out) != MG_JSON_OBJECT) st = mg_fail(err, MG_ERR_FORMAT, "is not a JSON object");
    if (st != MG_OK) mg_error_at(err, path, NULL);
    return st;
}

static bool has_entry(const char *dir, const char *name) {
    char path[4096];
    return mg_path_join(path, sizeof path, dir, name, NULL) == MG_OK && mg_path_exists(path);
}

mg_status mg_files_ckpt_load_config(mg_files_ckpt *c, const char *dir, bool required, mg_error *err) {
    mg_status link = mg_hf_check_link(dir, "config.json", err); /* a dangling link is not "absent" */
    if (link != MG_OK) return link;
    if (has_entry(dir, "config.json")) {
        MG_TRY(load_object(&c->config, dir, "config.json", err));
    } else if (required) {
        mg_fail(err, MG_ERR_FORMAT, "directory has no config.json");
        mg_error_at(err, dir, NULL);
        return MG_ERR_FORMAT;
    }
    if (has_entry(dir, "generation_config.json"))
        MG_TRY(load_object(&c->generation_config, dir, "generation_config.json", err));
    c->base.config = c->config;
    c->base.generation_config = c->generation_config;
    return MG_OK;
}

mg_status mg_files_ckpt_load_params(mg_files_ckpt *c, const char *dir, mg_error *err) {
    MG_TRY(load_object(&c->params, dir, "params.json", err));
    c->base.params = c->params;
    return MG_OK;
}

mg_status mg_files_ckpt_load_side(mg_files_ckpt *c, const char *name, mg_error *err) {
    const char *dir = c->base.dir;
    bool params = has_entry(dir, "params.json"), native = strncmp(name, "consolidated", 12) == 0;
    if (params && (native || !has_entry(dir, "config.json"))) return mg_files_ckpt_load_params(c, dir, err);
    return mg_files_ckpt_load_config(c, dir, false, err);
}
