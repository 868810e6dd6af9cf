/* fdio.c - positional transfer loops and the advisory lock under outfile.c and journal.c. */
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "formats/base/journal.h"
#include "formats/base/outfile.h"
#include "formats/base/pool.h"

#define MAX_CALL (UINT64_C(1) << 30)

static mg_status write_failed(uint64_t left, mg_error *err) {
    if (errno == ENOSPC || errno == EDQUOT)
        return mg_fail_errno(err, "no room for %llu more bytes; free some and run the same command again",
                             (unsigned long long)left);
    if (errno == EFBIG)
        return mg_fail_errno(err, "the file may not grow by %llu bytes; split the output into smaller files",
                             (unsigned long long)left);
    return mg_fail_errno(err, "cannot write %llu bytes", (unsigned long long)left);
}

mg_status mg_fd_write(int fd, uint64_t offset, const void *data, uint64_t n, mg_error *err) {
    const uint8_t *from = data;
    while (n > 0) {
        ssize_t put = pwrite(fd, from, (size_t)(n < MAX_CALL ? n : MAX_CALL), (off_t)offset);
        if (put < 0 && errno == EINTR) continue;
        if (put == 0) errno = ENOSPC;
        if (put <= 0) {
            mg_status st = write_failed(n, err);
            mg_error_offset(err, offset);
            return st;
        }
        from += put;
        offset += (uint64_t)put;
        n -= (uint64_t)put;
    }
    return MG_OK;
}

mg_status mg_fd_read(int fd, uint64_t offset, void *dst, uint64_t n, mg_error *err) {
    uint8_t *to = dst;
    while (n > 0) {
        ssize_t got = pread(fd, to, (size_t)(n < MAX_CALL ? n : MAX_CALL), (off_t)offset);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) {
            mg_status st = got < 0 ? mg_fail_errno(err, "cannot read back %llu bytes", (unsigned long long)n)
                                   : mg_fail(err, MG_ERR_IO, "ends %llu bytes too early", (unsigned long long)n);
            mg_error_offset(err, offset);
            return st;
        }
        to += got;
        offset += (uint64_t)got;
        n -= (uint64_t)got;
    }
    return MG_OK;
}

mg_status mg_fd_lock(int fd, bool *held_by_other, mg_error *err) {
    *held_by_other = false;
    while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EINTR) continue;
        if (errno == ENOLCK || errno == ENOSYS || errno == EOPNOTSUPP) return MG_OK;
        if (errno != EWOULDBLOCK) return mg_fail_errno(err, "cannot lock");
        *held_by_other = true;
        return MG_OK;
    }
    return MG_OK;
}

mg_status mg_fd_lock_wait(int fd, double seconds, bool *held_by_other, mg_error *err) {
    const struct timespec pause = {.tv_nsec = 20 * 1000 * 1000}; /* network file systems wake nobody */
    for (double waited = 0;; waited += 0.02) {
        MG_TRY(mg_fd_lock(fd, held_by_other, err));
        if (!*held_by_other || waited >= seconds) return MG_OK;
        if (mg_interrupted()) return mg_fail(err, (mg_status)mg_interrupted(), "interrupted");
        nanosleep(&pause, NULL);
    }
}

mg_status mg_lock_file(int *fd, const char *path, double seconds, bool *held_by_other, mg_error *err) {
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    mg_status st = *fd < 0 ? mg_fail_errno(err, "cannot open") : mg_fd_lock_wait(*fd, seconds, held_by_other, err);
    if (st != MG_OK) mg_error_at(err, path, NULL);
    if (*fd >= 0 && (st != MG_OK || *held_by_other)) {
        close(*fd);
        *fd = -1;
    }
    return st;
}

mg_status mg_fd_sync_dir(int dirfd, mg_error *err) {
    if (fsync(dirfd) == 0 || errno == EINVAL || errno == EOPNOTSUPP) return MG_OK;
    return mg_fail_errno(err, "cannot bring the directory to disk");
}
