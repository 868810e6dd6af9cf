/* stage_id.c - see stage_id.h. */
#include "convert/stage_id.h"

#include "convert/plan_private.h"
#include "formats/base/file.h"
#include "formats/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool mg_stage_id_is(const mg_checkpoint *c, mg_xxh128 id) {
    char hex[33];
    mg_str found;
    mg_hex(id.bytes, sizeof id.bytes, hex);
    return c->st_metadata && mg_kv_str(mg_kvs_get(c->st_metadata, "stage_id"), &found) && found.size == 32 &&
           memcmp(found.data, hex, 32) == 0;
}

bool mg_stage_id_at(const char *path, mg_xxh128 id) {
    mg_checkpoint *c = NULL;
    mg_error quiet = {0};
    if (!mg_path_exists(path) || mg_checkpoint_open(&c, path, &quiet) != MG_OK) return false;
    const bool same = mg_stage_id_is(c, id);
    mg_checkpoint_free(c);
    return same;
}

bool mg_stage_is(const mg_checkpoint *c) {
    return c->st_metadata && mg_kvs_get(c->st_metadata, "stage_id");
}

mg_status mg_stage_identity(mg_checkpoint *c, uint8_t id[16], mg_error *err) {
    char hex[33];
    uint64_t size;
    if (!mg_stage_is(c) || !c->dir || c->n_files != 1) return mg_checkpoint_identity(c, id, err);
    MG_TRY(mg_manifest_edges(c->dir, c->files[0], &size, hex, err));
    const mg_xxh128 h = mg_xxh128_of(hex, sizeof hex - 1);
    memcpy(id, h.bytes, sizeof h.bytes);
    return MG_OK;
}

/* ---- writing ---- */

mg_status mg_stage_layout_begin(mg_stage_layout *l, uint32_t n, mg_error *err) {
    mg_arena_init(&l->arena, 0);
    l->n = n;
    MG_TRY(MG_ARENA_NEW(&l->arena, &l->tensors, n + 1u, err));
    return MG_ARENA_NEW(&l->arena, &l->offsets, n + 1u, err);
}

void mg_stage_layout_release(mg_stage_layout *l) {
    free(l->header);
    mg_arena_release(&l->arena);
    *l = (mg_stage_layout){0};
}

mg_status mg_stage_layout_tensor(mg_stage_layout *l, uint32_t i, const char *name, mg_dtype dtype, uint32_t rank,
                                 const uint64_t *shape, mg_error *err) {
    mg_tensor *t = &l->tensors[i];
    *t = (mg_tensor){.name = mg_arena_strdup(&l->arena, name), .dtype = dtype, .rank = rank};
    if (!t->name) return mg_fail_nomem(err, strlen(name));
    memcpy(t->shape, shape, rank * sizeof *shape);
    return mg_tensor_set_sizes(t) ? MG_OK : mg_fail(err, MG_ERR_LIMIT, "'%s' is too large", name);
}

mg_status mg_stage_layout_end(mg_stage_layout *l, mg_xxh128 id, const char *note, mg_error *err) {
    char hex[33];
    mg_kvs meta;
    mg_hex(id.bytes, sizeof id.bytes, hex);
    mg_kvs_init(&meta);
    mg_status st = mg_kvs_set_str(&meta, "stage_id", hex, 32, err);
    if (st == MG_OK && note) st = mg_kvs_set_str(&meta, "note", note, strlen(note), err);
    if (st == MG_OK)
        st = mg_safetensors_layout(l->tensors, l->n, &meta, &l->header, &l->header_size, l->offsets, &l->total, err);
    mg_kvs_release(&meta);
    return st;
}

mg_status mg_stage_set_begin(mg_outset **out, const char *path, mg_xxh128 id, const mg_stage_layout *l, mg_error *err) {
    char dir[4096];
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    const mg_outset_options opt = {.restart = true, .force = true};
    const int n = snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
    uint32_t file;
    if (n < 0 || (size_t)n >= sizeof dir) return mg_fail(err, MG_ERR_LIMIT, "path of %zu bytes", strlen(path));
    MG_TRY(mg_outset_new(out, dir[0] ? dir : "/", name, id, &opt, err));
    MG_TRY(mg_outset_add(*out, name, l->total, &file, err));
    return mg_outset_start(*out, 1, err);
}

mg_status mg_stage_set_end(mg_outset *set, const mg_stage_layout *l, mg_error *err) {
    const mg_xxh128 none = {0}; /* one unit, never resumed */
    MG_TRY(mg_outset_unit_done(set, 0, none, err));
    MG_TRY(mg_outset_write(set, 0, 0, l->header, l->header_size, err));
    return mg_outset_commit(set, err);
}
