/* onefile.c - see onefile.h. */
#include "verify/onefile.h"

#include <stdlib.h>
#include <string.h>

mg_status mg_onefile_open(mg_onefile *o, const char *path, uint64_t size, bool force, mg_error *err) {
    *o = (mg_onefile){0};
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    if (!*name) return mg_fail(err, MG_ERR_USAGE, "'%s' names no file", path);
    char *dir = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
    if (!dir) return mg_fail_nomem(err, strlen(path));
    const mg_outset_options opt = {.restart = true, .force = force};
    mg_status st = mg_outset_new(&o->set, dir, name, mg_xxh128_of(name, strlen(name)), &opt, err);
    if (st == MG_OK) st = mg_outset_add(o->set, name, size, &o->file, err);
    if (st == MG_OK) st = mg_outset_start(o->set, 0, err);
    free(dir);
    if (st != MG_OK) mg_onefile_close(o);
    return st;
}

mg_status mg_onefile_write(mg_onefile *o, uint64_t offset, const void *data, uint64_t n, mg_error *err) {
    return mg_outset_write(o->set, o->file, offset, data, n, err);
}

mg_status mg_onefile_commit(mg_onefile *o, mg_error *err) {
    return mg_outset_commit(o->set, err);
}

void mg_onefile_close(mg_onefile *o) {
    mg_outset_free(o->set);
    *o = (mg_onefile){0};
}
