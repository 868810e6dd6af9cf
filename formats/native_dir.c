/* native_dir.c - the files of a native release. */
#include "formats/native_dir.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/container.h"
#include "formats/hf_dir.h"
#include "formats/slices.h"
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

/* Files that each hold a slice of every matrix share all their names; those that are united share none: the first of
 * the second file tells. */
static bool share_names(const mg_files_ckpt *c) {
    const char *name = NULL;
    for (uint32_t i = 0; i < c->base.n_tensors && !name; i++)
        if (c->tensors[i].file == 1) name = c->tensors[i].name;
    for (uint32_t i = 0; name && i < c->base.n_tensors; i++)
        if (c->tensors[i].file == 0 && strcmp(c->tensors[i].name, name) == 0) return true;
    return false;
}

/* consolidated.00.pth, .01.pth ...: slices lie in this order. */
static mg_status check_numbers(const names *list, mg_error *err) {
    for (uint32_t i = 0; i < list->n; i++) {
        char *end, *number = strchr(list->items[i], '.') + 1; /* the name has a suffix */
        const unsigned long n = strtoul(number, &end, 10);
        if (end == number || *end != '.' || n != i)
            return mg_fail(err, MG_ERR_FORMAT,
                           "its files each hold a slice of every matrix, but '%s' stands where slice %" PRIu32
                           " of %" PRIu32 " is expected",
                           list->items[i], i, list->n);
    }
    return MG_OK;
}

static mg_status add_pickles(mg_files_ckpt *c, const char *dir, const names *list, mg_error *err) {
    if (list->n == 0)
        return mg_fail(err, MG_ERR_FORMAT, "has params.json, but no consolidated.safetensors, .pth or .pt");
    for (uint32_t i = 0; i < list->n; i++) {
        if (strcmp(tail_of(list->items[i]), tail_of(list->items[0])) != 0)
            return mg_fail(err, MG_ERR_CONFLICT, "holds both '%s' and '%s': remove one form", list->items[0],
                           list->items[i]);
        MG_TRY(mg_hf_add_shard(c, dir, list->items[i], err));
    }
    return MG_OK;
}

/* United, or joined: *out is the result. */
static mg_status fill_pickles(mg_checkpoint **out, mg_files_ckpt *c, const char *dir, mg_error *err) {
    names *list = calloc(1, sizeof *list);
    if (!list) return mg_fail_nomem(err, sizeof *list);
    mg_status st = list_pickles(list, dir, err);
    if (st == MG_OK) st = add_pickles(c, dir, list, err);
    const bool sliced = st == MG_OK && share_names(c);
    if (sliced) st = check_numbers(list, err);
    if (st == MG_OK) st = sliced ? mg_slices_join(out, c, err) : mg_files_ckpt_index(c, err);
    for (uint32_t i = 0; i < list->n; i++) free(list->items[i]);
    free(list);
    return st;
}

static mg_status fill(mg_checkpoint **out, mg_files_ckpt *c, const char *dir, mg_error *err) {
    *out = &c->base;
    MG_TRY(mg_files_ckpt_load_params(c, dir, err));
    if (has(dir, INDEX)) return mg_hf_add_indexed(c, dir, INDEX, ".safetensors", has(dir, SINGLE) ? SINGLE : NULL, err);
    if (!has(dir, SINGLE)) return fill_pickles(out, c, dir, err);
    MG_TRY(mg_hf_add_shard(c, dir, SINGLE, err));
    return mg_files_ckpt_index(c, err);
}

mg_status mg_native_dir_open(mg_checkpoint **out, const char *dir, mg_error *err) {
    mg_files_ckpt *c = NULL;
    mg_checkpoint *opened;
    MG_TRY(mg_files_ckpt_new(&c, MG_CONTAINER_NATIVE, dir, err));
    c->base.dir = c->base.path;
    mg_status st = fill(&opened, c, dir, err);
    if (st != MG_OK) {
        mg_error_at(err, dir, NULL);
        mg_files_ckpt_free(c);
        return st;
    }
    *out = opened;
    return MG_OK;
}
