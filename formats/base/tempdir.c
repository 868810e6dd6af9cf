/* tempdir.c - see tempdir.h. Everything is done below an open folder, so that a link put in its place leads nowhere. */
#include "formats/base/tempdir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/base/file.h"

#define PREFIX "moegraft-tmp-"

typedef enum held { HELD_BY_US, HELD_BY_OTHER, NO_LOCKS } held;

static held lock(int fd) {
    while (flock(fd, LOCK_EX | LOCK_NB) != 0)
        if (errno != EINTR) return errno == EWOULDBLOCK ? HELD_BY_OTHER : NO_LOCKS;
    return HELD_BY_US;
}

/* Bytes of the files in a folder; they are removed unless dry_run. */
static uint64_t empty(int fd, bool dry_run) {
    uint64_t bytes = 0;
    struct stat st;
    const int list = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = list < 0 ? NULL : fdopendir(list);
    if (!d && list >= 0) close(list);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0 || S_ISDIR(st.st_mode)) continue;
        bytes += (uint64_t)st.st_size;
        if (!dry_run) unlinkat(fd, e->d_name, 0);
    }
    if (d) closedir(d);
    return bytes;
}

/* Is what is open still what the name leads to? */
static bool is_there(int fd, const char *path) {
    struct stat a, b;
    return fstat(fd, &a) == 0 && lstat(path, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* One try: fd -1 and no error when a process that sweeps took it for one that was left, before it was locked. */
static mg_status make(mg_tempdir *t, const char *in, mg_error *err) {
    MG_TRY(mg_path_join(t->path, sizeof t->path, in, PREFIX "XXXXXX", err));
    t->fd = -1;
    if (!mkdtemp(t->path)) return mg_fail_errno(err, "'%s' (TMPDIR): cannot make a folder", in);
    t->fd = open(t->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (t->fd < 0 && errno == ENOENT) return MG_OK;
    if (t->fd < 0) {
        mg_status st = mg_fail_errno(err, "'%s': cannot open", t->path);
        rmdir(t->path);
        return st;
    }
    if (lock(t->fd) != HELD_BY_OTHER && is_there(t->fd, t->path)) return MG_OK;
    close(t->fd);
    t->fd = -1;
    return MG_OK;
}

mg_status mg_tempdir_new(mg_tempdir *t, mg_error *err) {
    const char *in = mg_path_temporary();
    mg_status st = MG_OK;
    mg_tempdir_sweep(in, false, NULL, NULL);
    t->fd = -1;
    for (int tries = 0; st == MG_OK && t->fd < 0 && tries < 16; tries++) st = make(t, in, err);
    if (st == MG_OK && t->fd < 0)
        st = mg_fail(err, MG_ERR_IO, "'%s' (TMPDIR): another process removes what is made there", in);
    if (st != MG_OK) t->path[0] = 0;
    return st;
}

void mg_tempdir_remove(mg_tempdir *t) {
    if (!t->path[0]) return;
    empty(t->fd, false);
    rmdir(t->path);
    close(t->fd);
    t->path[0] = 0;
}

void mg_tempdir_sweep(const char *dir, bool dry_run, void (*found)(void *ctx, const char *name, uint64_t bytes),
                      void *ctx) {
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        struct stat st;
        if (strncmp(e->d_name, PREFIX, strlen(PREFIX)) != 0) continue;
        const int fd = openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0) continue;
        if (fstat(fd, &st) == 0 && st.st_uid == geteuid() && lock(fd) == HELD_BY_US) {
            const uint64_t bytes = empty(fd, dry_run);
            if ((dry_run || unlinkat(dirfd(d), e->d_name, AT_REMOVEDIR) == 0) && found) found(ctx, e->d_name, bytes);
        }
        close(fd);
    }
    if (d) closedir(d);
}
