/* outfile_small.c - one small file in one go: partial file, fsync, rename, fsync of the directory. There is nothing to
 * resume, so no journal; the lock is on the partial file itself. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/base/crash.h"
#include "formats/base/file.h"
#include "formats/base/outset.h"

struct target {
    char dir[4096];
    char part[264]; /* ".NAME.part" */
    const char *name;
    int dirfd, fd;
};

static mg_status split(struct target *t, const char *path, mg_error *err) {
    const char *slash = strrchr(path, '/');
    t->name = slash ? slash + 1 : path;
    size_t n = slash ? (size_t)(slash - path) : 0;
    if (n >= sizeof t->dir) return mg_fail(err, MG_ERR_LIMIT, "path of %zu bytes", strlen(path));
    MG_TRY(mg_path_check_plain(t->name, err));
    if (strlen(t->name) > 240) return mg_fail(err, MG_ERR_LIMIT, "file name of %zu bytes", strlen(t->name));
    snprintf(t->dir, sizeof t->dir, "%.*s", (int)n, path);
    if (n == 0) strcpy(t->dir, slash ? "/" : ".");
    snprintf(t->part, sizeof t->part, ".%s.part", t->name);
    return MG_OK;
}

static mg_status open_part(struct target *t, bool force, mg_error *err) {
    struct stat open_one, named;
    bool busy;
    t->dirfd = open(t->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (t->dirfd < 0) return mg_fail_errno(err, "cannot open the output directory");
    if (!force && fstatat(t->dirfd, t->name, &named, AT_SYMLINK_NOFOLLOW) == 0)
        return mg_fail(err, MG_ERR_USAGE, "exists already; --force replaces it");
    t->fd = openat(t->dirfd, t->part, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (t->fd < 0) return mg_fail_errno(err, "cannot create '%s'", t->part);
    MG_TRY(mg_fd_lock(t->fd, &busy, err));
    /* locked only after its owner renamed or removed it: that owner was faster by a moment, which is the same case */
    if (busy || fstat(t->fd, &open_one) != 0 || fstatat(t->dirfd, t->part, &named, AT_SYMLINK_NOFOLLOW) != 0 ||
        open_one.st_ino != named.st_ino || open_one.st_dev != named.st_dev)
        return mg_fail(err, MG_ERR_IO, "another process is writing this file and holds the lock on '%s'", t->part);
    if (ftruncate(t->fd, 0) != 0) return mg_fail_errno(err, "cannot empty '%s'", t->part);
    return MG_OK;
}

static mg_status fill(struct target *t, const void *data, size_t n, bool force, mg_error *err) {
    mg_crash_point("small file: opened");
    mg_status st = mg_fd_write(t->fd, 0, data, n, err);
    if (st == MG_OK) mg_crash_point("small file: written");
    if (st == MG_OK && fsync(t->fd) != 0) st = mg_fail_errno(err, "cannot bring the data to disk");
    if (st == MG_OK && mg_outset_rename(t->dirfd, t->part, t->name, force) != 0)
        st = errno == EEXIST ? mg_fail(err, MG_ERR_USAGE, "exists already; --force replaces it")
                             : mg_fail_errno(err, "cannot give the finished file its name");
    if (st != MG_OK) {
        unlinkat(t->dirfd, t->part, 0);
        return st;
    }
    mg_crash_point("small file: renamed");
    return mg_fd_sync_dir(t->dirfd, err);
}

mg_status mg_outfile_write_all(const char *path, const void *data, size_t n, bool force, mg_error *err) {
    struct target t = {.dirfd = -1, .fd = -1};
    mg_status st = split(&t, path, err);
    if (st == MG_OK) st = open_part(&t, force, err);
    if (st == MG_OK) st = fill(&t, data, n, force, err);
    if (t.fd >= 0) close(t.fd);
    if (t.dirfd >= 0) close(t.dirfd);
    if (st != MG_OK) mg_error_at(err, path, NULL);
    return st;
}
