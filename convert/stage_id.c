/* stage_id.c - see stage_id.h. */
#include "convert/stage_id.h"

#include "formats/base/file.h"

#include <stdio.h>
#include <string.h>

mg_status mg_stage_id_put(mg_kvs *metadata, mg_xxh128 id, mg_error *err) {
    char hex[33];
    mg_hex(id.bytes, sizeof id.bytes, hex);
    return mg_kvs_set_str(metadata, "stage_id", hex, 32, err);
}

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

mg_status mg_stage_set_begin(mg_outset **out, const char *path, mg_xxh128 id, uint64_t total, mg_error *err) {
    char dir[4096];
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    const mg_outset_options opt = {.restart = true, .force = true};
    const int n = snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
    uint32_t file;
    if (n < 0 || (size_t)n >= sizeof dir) return mg_fail(err, MG_ERR_LIMIT, "path of %zu bytes", strlen(path));
    MG_TRY(mg_outset_new(out, dir[0] ? dir : "/", name, id, &opt, err));
    MG_TRY(mg_outset_add(*out, name, total, &file, err));
    return mg_outset_start(*out, 1, err);
}

mg_status mg_stage_set_end(mg_outset *set, const void *header, uint64_t size, mg_error *err) {
    const mg_xxh128 none = {0}; /* one unit, never resumed */
    MG_TRY(mg_outset_unit_done(set, 0, none, err));
    MG_TRY(mg_outset_write(set, 0, 0, header, size, err));
    return mg_outset_commit(set, err);
}
