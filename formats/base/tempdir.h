/* tempdir.h - a folder for files that one run needs and nobody wants afterwards. It is locked while it is in use: a
 * process that is killed leaves its folder, and the next one that makes one removes it. */
#ifndef MG_BASE_TEMPDIR_H
#define MG_BASE_TEMPDIR_H

#include <stdbool.h>
#include <stdint.h>

#include "formats/base/status.h"

typedef struct mg_tempdir {
    char path[4096]; /* empty: there is none */
    int fd;
} mg_tempdir;

/* A new folder in mg_path_temporary(). MG_ERR_IO. */
mg_status mg_tempdir_new(mg_tempdir *t, mg_error *err) MG_MUST_CHECK;
/* Remove it with what is in it (no folders); nothing when there is none. */
void mg_tempdir_remove(mg_tempdir *t);
/* Remove the folders of this user in dir that no process holds. found (may be NULL) is told the name and the bytes in
 * it of each; dry_run: nothing else happens. Where the file system has no locks, none is removed. */
void mg_tempdir_sweep(const char *dir, bool dry_run, void (*found)(void *ctx, const char *name, uint64_t bytes),
                      void *ctx);

#endif
