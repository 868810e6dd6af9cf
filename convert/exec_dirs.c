/* exec_dirs.c - what may already lie where a plan writes. */
#include "convert/exec.h"

#include "formats/base/file.h"
#include "formats/gguf_set.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* A stale weight file of another layout would be loaded beside or instead of ours. */
static bool is_stale_weight(const mg_plan_output *o, const char *name) {
    size_t n = strlen(name);
    bool weight = (n > 12 && !strcmp(name + n - 12, ".safetensors")) || !strcmp(name, "model.safetensors.index.json");
    for (uint32_t i = 0; weight && i < o->n_files; i++)
        if (!strcmp(o->files[i].name, name)) return false;
    return weight;
}

mg_status mg_exec_check_dir(const mg_plan_output *o, const char *set_name, bool force, mg_error *err) {
    DIR *d = opendir(o->dir);
    if (!d) return errno == ENOENT ? MG_OK : mg_fail_errno(err, "cannot list '%s'", o->dir);
    char used[256] = "", stale[256] = "";
    const bool resume = mg_outset_pending(o->dir, set_name);
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        snprintf(used, sizeof used, "%s", e->d_name);
        if (is_stale_weight(o, e->d_name)) snprintf(stale, sizeof stale, "%s", e->d_name);
    }
    closedir(d);
    if (stale[0])
        return mg_fail(err, MG_ERR_USAGE, "'%s' holds '%s', which would be mixed up with the new model; remove it",
                       o->dir, stale);
    if (used[0] && !force && !resume)
        return mg_fail(err, MG_ERR_USAGE, "'%s' exists and is not empty ('%s'); --force writes into it", o->dir, used);
    return MG_OK;
}

mg_status mg_exec_check_parts(const mg_plan_output *o, mg_error *err) {
    size_t stem, n = mg_gguf_stem(o->base);
    uint32_t no, count;
    if (o->kind != MG_OUT_GGUF || o->n_files < 2) return MG_OK;
    DIR *d = opendir(o->dir);
    if (!d) return mg_fail_errno(err, "cannot list '%s'", o->dir);
    mg_status st = MG_OK;
    for (struct dirent *e; st == MG_OK && (e = readdir(d));) {
        if (!mg_gguf_is_part_name(e->d_name, &stem, &no, &count) || stem != n || strncmp(e->d_name, o->base, n) != 0)
            continue;
        if (count != o->n_files)
            st = mg_fail(err, MG_ERR_USAGE, "'%s/%s' is a part of another set of this name; remove it", o->dir,
                         e->d_name);
    }
    closedir(d);
    return st;
}

static bool is_same_file(const struct stat *a, const struct stat *b) {
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Files of an output against one file of an input. */
static mg_status check_not_input(const mg_plan_output *o, const struct stat *in, mg_error *err) {
    for (uint32_t f = 0; f < o->n_files; f++) {
        char path[4096];
        struct stat out;
        MG_TRY(mg_path_join(path, sizeof path, o->dir, o->files[f].name, err));
        if (stat(path, &out) == 0 && is_same_file(in, &out))
            return mg_fail(err, MG_ERR_USAGE, "input and output are the same file: '%s'", path);
    }
    return MG_OK;
}

mg_status mg_exec_check_inputs(const mg_plan *p, mg_error *err) {
    for (uint32_t i = 0; i < p->n_inputs; i++) {
        const mg_checkpoint *c = p->inputs[i];
        for (uint32_t k = 0; c->dir && k < c->n_files; k++) {
            char path[4096];
            struct stat in;
            MG_TRY(mg_path_join(path, sizeof path, c->dir, c->files[k], err));
            if (stat(path, &in) != 0) continue;
            for (uint32_t o = 0; o < p->n_outputs; o++) MG_TRY(check_not_input(p->outputs[o], &in, err));
        }
    }
    return MG_OK;
}
