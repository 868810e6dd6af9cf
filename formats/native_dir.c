/* native_dir.c - the files of a native release. */
#include "formats/native_dir.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/container.h"
#include "formats/hf_dir.h"
#include "formats/torch_file.h"

#define SINGLE "consolidated.safetensors"
#define INDEX  "consolidated.safetensors.index.json"

enum { MAX_FILES = 4096 };

static bool has(const char *dir, const char *name) {
    char path[4096];
    return mg_path_join(path, sizeof path, dir, name, NULL) == MG_OK && mg_path_exists(path);
}

/* Releases on the Hugging Face hub often carry both forms; the one with config.json is read. */
bool mg_native_dir_is(const char *dir) {
    return has(dir, "params.json") && !(has(dir, "config.json") && mg_hf_has_weights(dir));
}

typedef struct names {
    char *items[MAX_FILES];
    uint32_t n;
} names;

static int by_string(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* consolidated*.pth and .pt, in the order of their names. */
static mg_status list_pickles(names *out, const char *dir, mg_error *err) {
    DIR *d = opendir(dir);
    mg_status st = d ? MG_OK : mg_fail_errno(err, "cannot list");
    for (struct dirent *e; st == MG_OK && (e = readdir(d)) != NULL;) {
        if (strncmp(e->d_name, "consolidated", 12) != 0 || !mg_torch_is_name(e->d_name)) continue;
        if (out->n == MAX_FILES)
            st = mg_fail(err, MG_ERR_LIMIT, "more than %d consolidated files", MAX_FILES);
        else if (!(out->items[out->n] = strdup(e->d_name)))
            st = mg_fail_nomem(err, strlen(e->d_name));
        else
            out->n++;
    }
    if (d) closedir(d);
    if (out->n) qsort(out->items, out->n, sizeof *out->items, by_string);
    return st;
}

static const char *tail_of(const char *name) {
    return strrchr(name, '.');
}

/* Files that each hold a slice of every matrix, as Meta's larger releases do, share all their names. */
static mg_status explain_slices(const mg_files_ckpt *c, uint32_t before, mg_error *err) {
    for (uint32_t i = before; i < c->base.n_tensors; i++) {
        for (uint32_t k = 0; k < before; k++) {
            if (strcmp(c->tensors[k].name, c->tensors[i].name) != 0) continue;
            mg_fail(err, MG_ERR_UNSUPPORTED,
                    "stands in '%s' and in '%s': files that each hold a slice of every matrix (model parallel) are "
                    "not joined by this version",
                    c->base.files[c->tensors[k].file], c->base.files[c->tensors[i].file]);
            mg_error_at(err, c->base.path, c->tensors[i].name);
            return MG_ERR_UNSUPPORTED;
        }
        break; /* united files share no name, sliced ones all: the first tells */
    }
    return MG_OK;
}

static mg_status add_pickles(mg_files_ckpt *c, const char *dir, const names *list, mg_error *err) {
    if (list->n == 0)
        return mg_fail(err, MG_ERR_FORMAT, "has params.json, but no consolidated.safetensors, .pth or .pt");
    for (uint32_t i = 0; i < list->n; i++) {
        uint32_t before = c->base.n_tensors;
        if (strcmp(tail_of(list->items[i]), tail_of(list->items[0])) != 0)
            return mg_fail(err, MG_ERR_CONFLICT, "holds both '%s' and '%s': remove one form", list->items[0],
                           list->items[i]);
        MG_TRY(mg_hf_add_shard(c, dir, list->items[i], err));
        if (before) MG_TRY(explain_slices(c, before, err));
    }
    return mg_files_ckpt_index(c, err);
}

static mg_status fill(mg_files_ckpt *c, const char *dir, mg_error *err) {
    MG_TRY(mg_files_ckpt_load_params(c, dir, err));
    if (has(dir, INDEX)) return mg_hf_add_indexed(c, dir, INDEX, ".safetensors", has(dir, SINGLE) ? SINGLE : NULL, err);
    if (has(dir, SINGLE)) {
        MG_TRY(mg_hf_add_shard(c, dir, SINGLE, err));
        return mg_files_ckpt_index(c, err);
    }
    names *list = calloc(1, sizeof *list);
    if (!list) return mg_fail_nomem(err, sizeof *list);
    mg_status st = list_pickles(list, dir, err);
    if (st == MG_OK) st = add_pickles(c, dir, list, err);
    for (uint32_t i = 0; i < list->n; i++) free(list->items[i]);
    free(list);
    return st;
}

mg_status mg_native_dir_open(mg_checkpoint **out, const char *dir, mg_error *err) {
    mg_files_ckpt *c = NULL;
    MG_TRY(mg_files_ckpt_new(&c, MG_CONTAINER_NATIVE, dir, err));
    c->base.dir = c->base.path;
    mg_status st = fill(c, dir, err);
    if (st != MG_OK) {
        mg_error_at(err, dir, NULL);
        mg_files_ckpt_free(c);
        return st;
    }
    *out = &c->base;
    return MG_OK;
}
