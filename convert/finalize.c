/* finalize.c - what ranks have written, completed (docs/ranks.md). */
#include "convert/exec.h"

#include "convert/stage_id.h"
#include "formats/base/file.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct mg_finalized {
    mg_stored *stored;
};

/* "a/b/" -> "a", "b"; "x" -> ".", "x". */
static mg_status split(const char *path, char dir[4096], char name[256], mg_error *err) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    size_t at = n;
    while (at > 0 && path[at - 1] != '/') at--;
    if (n == 0 || n - at >= 256 || at >= 4096) return mg_fail(err, MG_ERR_USAGE, "'%s' cannot be an output", path);
    snprintf(name, 256, "%.*s", (int)(n - at), path + at);
    size_t d = at;
    while (d > 1 && path[d - 1] == '/') d--;
    if (at)
        snprintf(dir, 4096, "%.*s", (int)d, path);
    else
        snprintf(dir, 4096, ".");
    return MG_OK;
}

typedef struct shared {
    char dir[4096];
    uint32_t world;
    mg_xxh128 plan;
    uint8_t *data;
    uint64_t size;
} shared;

static mg_status read_shared(shared *s, const char *name, mg_error *err) {
    return mg_outset_shared(s->dir, name, &s->world, &s->plan, &s->data, &s->size, err);
}

/* Does the stored plan write a file of this name? */
static bool writes(const mg_stored *stored, const char *name) {
    const mg_plan *p = mg_stored_plan((mg_stored *)(uintptr_t)stored);
    for (uint32_t i = 0; i < p->n_outputs; i++) {
        if (!strcmp(p->outputs[i]->base, name)) return true;
        for (uint32_t f = 0; f < p->outputs[i]->n_files; f++)
            if (!strcmp(p->outputs[i]->files[f].name, name)) return true;
    }
    return false;
}

/* A file that was written together with others is in what its first is named after. */
static mg_status search(mg_stored **stored, shared *s, const char *name, mg_error *err) {
    DIR *d = opendir(s->dir);
    mg_status st = MG_OK;
    for (struct dirent *e; d && st == MG_OK && !*stored && (e = readdir(d));) {
        size_t n;
        char other[264];
        if (!mg_outset_is_shared(e->d_name, &n)) continue;
        snprintf(other, sizeof other, "%.*s", (int)n, e->d_name + 1);
        st = read_shared(s, other, err);
        if (st != MG_OK || !s->data) continue;
        st = mg_stored_read(stored, s->dir, s->world, s->plan, s->data, s->size, err);
        if (st == MG_OK && !writes(*stored, name)) {
            mg_stored_free(*stored);
            *stored = NULL;
        }
        free(s->data);
        s->data = NULL;
    }
    if (d) closedir(d);
    return st;
}

/* Where the files of an output are, and what their set is called. */
static mg_status place(const char *out, char dir[4096], char name[256], mg_error *err) {
    MG_TRY(split(out, dir, name, err));
    if (!mg_path_is_dir(out)) return MG_OK;
    if (snprintf(dir, 4096, "%s", out) >= 4096) return mg_fail(err, MG_ERR_LIMIT, "path of %zu bytes", strlen(out));
    for (size_t n = strlen(dir); n > 1 && dir[n - 1] == '/';) dir[--n] = 0;
    return MG_OK;
}

/* *stored NULL: no ranks have been here. */
static mg_status find(mg_stored **stored, const char *out, mg_error *err) {
    shared s = {0};
    char name[256];
    *stored = NULL;
    MG_TRY(place(out, s.dir, name, err));
    MG_TRY(read_shared(&s, name, err));
    if (!s.data) return mg_path_is_dir(out) ? MG_OK : search(stored, &s, name, err);
    mg_status st = mg_stored_read(stored, s.dir, s.world, s.plan, s.data, s.size, err);
    free(s.data);
    return st;
}

/* ---- what stages left for the ranks ---- */

static void remove_stage_dir(const char *path) {
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        char file[8192];
        mg_checkpoint *c;
        mg_error unused = {0};
        const size_t n = strlen(e->d_name);
        if (n < 13 || strcmp(e->d_name + n - 12, ".safetensors") != 0) continue;
        if (mg_path_join(file, sizeof file, path, e->d_name, &unused) != MG_OK) continue;
        if (mg_checkpoint_open(&c, file, &unused) != MG_OK) continue;
        const bool ours = mg_stage_is(c);
        mg_checkpoint_free(c);
        if (ours) unlink(file);
    }
    if (d) closedir(d);
    rmdir(path); /* fails when something else is in it, which stays */
}

void mg_finalize_stages(const char *out) {
    static const char *const kept[] = {"router.safetensors", "trunk.safetensors", "exchange.safetensors"};
    char dir[4096], name[256], path[8192];
    mg_error unused = {0};
    if (split(out, dir, name, &unused) != MG_OK) return;
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
        snprintf(path, sizeof path, "%s/.%s.%s", dir, name, kept[i]);
        unlink(path);
    }
    snprintf(path, sizeof path, "%s/.%s.stage-lock", dir, name);
    unlink(path);
    snprintf(path, sizeof path, "%s/.%s.stage", dir, name);
    remove_stage_dir(path);
}

/* ---- the whole ---- */

static mg_finalize_state state_of(const mg_error *err, bool checked) {
    if (err->code == MG_ERR_INTEGRITY && !checked) return MG_FINALIZE_INCOMPLETE;
    if (err->code == MG_ERR_IO && err->sys_errno == 0) return MG_FINALIZE_BUSY; /* a lock, no failed call */
    return MG_FINALIZE_FAILED;
}

/* Has another process completed it meanwhile? Then its names and journals are as they should be. */
static bool is_gone(const char *path) {
    mg_stored *stored;
    mg_error unused = {0};
    const bool gone = find(&stored, path, &unused) == MG_OK && !stored;
    if (!gone) mg_stored_free(stored);
    return gone;
}

mg_status mg_finalize(mg_finalized **out, const char *path, const mg_exec_options *opt, mg_exec_result *res,
                      mg_finalize_state *state, mg_error *err) {
    mg_stored *stored;
    mg_exec_options o = *opt;
    *out = NULL;
    *state = MG_FINALIZE_FAILED;
    MG_TRY(find(&stored, path, err));
    if (!stored) {
        char dir[4096], name[256];
        *state = MG_FINALIZE_NOTHING;
        MG_TRY(place(path, dir, name, err));
        return mg_path_exists(path) ? mg_outset_sweep(dir, name, err) : MG_OK;
    }
    mg_stored_options(stored, &o);
    mg_exec x = {.p = mg_stored_plan(stored), .opt = &o, .stored = stored};
    mg_status st = mg_exec_run(&x, res, err);
    if (st != MG_OK) {
        *state = err ? state_of(err, x.stored_checked) : MG_FINALIZE_FAILED;
        mg_stored_free(stored);
        if (!is_gone(path)) return st;
        *state = MG_FINALIZE_NOTHING;
        if (err) *err = (mg_error){0};
        return MG_OK;
    }
    const mg_plan *p = mg_stored_plan(stored);
    for (uint32_t i = 0; i < p->n_outputs; i++) mg_finalize_stages(p->outputs[i]->path);
    *state = MG_FINALIZE_DONE;
    *out = calloc(1, sizeof **out);
    if (!*out) {
        mg_stored_free(stored);
        return mg_fail_nomem(err, sizeof **out);
    }
    (*out)->stored = stored;
    return MG_OK;
}

void mg_finalized_free(mg_finalized *f) {
    if (f) mg_stored_free(f->stored);
    free(f);
}
