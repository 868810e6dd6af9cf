/* checkpoint.c - which container a path is, and the range-checked reads that every implementation shares. */
#include "formats/checkpoint.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "formats/base/file.h"
#include "formats/container.h"
#include "formats/gguf.h"
#include "formats/hf_cache.h"
#include "formats/hf_dir.h"
#include "formats/native_dir.h"
#include "formats/torch_file.h"

static bool ends_with(const char *s, const char *tail) {
    size_t n = strlen(s), m = strlen(tail);
    return n >= m && strcasecmp(s + n - m, tail) == 0;
}

static mg_status refuse_kind(const char *path, mg_error *err) {
    if (ends_with(path, ".yml") || ends_with(path, ".yaml"))
        return mg_fail(err, MG_ERR_UNSUPPORTED, "a merge YAML cannot be opened as a model here");
    if (ends_with(path, ".json")) return mg_fail(err, MG_ERR_FORMAT, "is JSON, no weights: name the directory");
    return mg_fail(err, MG_ERR_UNSUPPORTED,
                   "name tells no model kind: expected a directory, .safetensors, .gguf, .pth, .pt or .bin");
}

static mg_status open_kind(mg_checkpoint **out, const char *path, mg_error *err) {
    struct stat sb;
    char kind[4096]; /* the path without what says that it is one of several pieces */
    size_t stem = strlen(path);
    unsigned no, of;
    if (lstat(path, &sb) != 0) return mg_fail_errno(err, "cannot open");
    (void)mg_path_is_piece(path, &stem, &no, &of);
    if (stem >= sizeof kind) return mg_fail(err, MG_ERR_LIMIT, "path of %zu bytes", stem);
    memcpy(kind, path, stem);
    kind[stem] = 0;
    if (mg_path_is_dir(path))
        return mg_native_dir_is(path) ? mg_native_dir_open(out, path, err) : mg_hf_dir_open(out, path, err);
    if (mg_torch_is_name(path)) return mg_torch_open(out, path, err);
    if (ends_with(kind, ".safetensors")) return mg_safetensors_open(out, path, err);
    if (ends_with(kind, ".gguf")) return mg_gguf_open(out, path, err);
    return refuse_kind(path, err);
}

/* A model from the cache is called by its name, not by the commit its folder is called after. */
static mg_status open_cached(mg_checkpoint **out, const char *path, const char *name, mg_error *err) {
    mg_hf_name n;
    MG_TRY(open_kind(out, path, err));
    mg_files_ckpt *c = (mg_files_ckpt *)*out; /* what every kind above makes */
    const char *shown = mg_hf_parse_name(&n, name) ? mg_arena_strdup(&c->arena, n.file ? n.file : n.repo) : NULL;
    if (shown) {
        c->base.path = shown;
        return MG_OK;
    }
    mg_checkpoint_free(*out);
    *out = NULL;
    return mg_fail_nomem(err, strlen(name));
}

mg_status mg_checkpoint_open(mg_checkpoint **out, const char *path, mg_error *err) {
    char found[4096];
    bool cached = false;
    *out = NULL;
    mg_status st =
        path[0] ? mg_hf_resolve(found, sizeof found, path, &cached, err) : mg_fail(err, MG_ERR_USAGE, "path is empty");
    if (st == MG_OK) st = cached ? open_cached(out, found, path, err) : open_kind(out, path, err);
    if (st != MG_OK) mg_error_at(err, path, NULL);
    return st;
}

void mg_checkpoint_free(mg_checkpoint *c) {
    if (c) c->ops->free(c);
}

uint32_t mg_checkpoint_find(const mg_checkpoint *c, const char *name) {
    return mg_strmap_get(&c->by_name, name, strlen(name));
}

static mg_status out_of_range(const mg_checkpoint *c, uint32_t t, const char *unit, uint64_t at, uint64_t n,
                              uint64_t size, mg_error *err) {
    if (t >= c->n_tensors)
        return mg_fail(err, MG_ERR_INTERNAL, "tensor %" PRIu32 " of %" PRIu32 " asked for", t, c->n_tensors);
    mg_fail(err, MG_ERR_FORMAT, "%" PRIu64 " %s at %" PRIu64 " asked for, the tensor has %" PRIu64, n, unit, at, size);
    mg_error_at(err, c->n_files ? c->files[c->tensors[t].file] : c->path, c->tensors[t].name);
    return MG_ERR_FORMAT;
}

mg_status mg_checkpoint_read(mg_checkpoint *c, uint32_t t, uint64_t byte_offset, void *dst, uint64_t n, mg_error *err) {
    if (t >= c->n_tensors || !mg_range_fits(byte_offset, n, c->tensors[t].n_bytes))
        return out_of_range(c, t, "bytes", byte_offset, n, t < c->n_tensors ? c->tensors[t].n_bytes : 0, err);
    return n ? c->ops->read(c, t, byte_offset, dst, n, err) : MG_OK;
}

mg_status mg_checkpoint_read_rows(mg_checkpoint *c, uint32_t t, uint64_t row, uint64_t n_rows, void *dst,
                                  mg_error *err) {
    uint64_t rows = t < c->n_tensors ? mg_tensor_rows(&c->tensors[t]) : 0;
    if (t >= c->n_tensors || !mg_range_fits(row, n_rows, rows))
        return out_of_range(c, t, "rows", row, n_rows, rows, err);
    uint64_t bytes = mg_tensor_row_bytes(&c->tensors[t]); /* row * bytes <= n_bytes: no overflow */
    return mg_checkpoint_read(c, t, row * bytes, dst, n_rows * bytes, err);
}

mg_status mg_checkpoint_recheck(mg_checkpoint *c, mg_error *err) {
    return c->ops->recheck(c, err);
}

mg_status mg_checkpoint_identity(mg_checkpoint *c, uint8_t id[16], mg_error *err) {
    return c->ops->identity(c, id, err);
}
