/* file.c - positional reads and small path helpers. Sizes are checked against the size seen at open before anything is
 * allocated or read; what disappears after that is an integrity error, not a malformed file. */
#include "formats/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/base/checked.h"

/* Linux moves at most 0x7ffff000 bytes a call; 1 GiB keeps every system's limits and stays page aligned. */
#define MAX_CALL (UINT64_C(1) << 30)

static int64_t mtime_of(const struct stat *st) {
    return (int64_t)st->st_mtim.tv_sec * INT64_C(1000000000) + st->st_mtim.tv_nsec;
}

static const char *kind_of(mode_t mode) {
    if (S_ISDIR(mode)) return "a directory";
    if (S_ISFIFO(mode)) return "a pipe";
    if (S_ISSOCK(mode)) return "a socket";
    return S_ISCHR(mode) || S_ISBLK(mode) ? "a device" : "no regular file";
}

static mg_status open_fd(mg_file *f, const char *path, mg_error *err) {
    struct stat st;
    /* O_NONBLOCK: opening a FIFO for reading must not wait for a writer. A socket cannot be opened at all. */
    f->fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    if (f->fd < 0) {
        if (errno == ENXIO) return mg_fail(err, MG_ERR_FORMAT, "not a regular file");
        return mg_fail_errno(err, "cannot open for reading");
    }
    if (fstat(f->fd, &st) != 0) return mg_fail_errno(err, "cannot stat");
    if (!S_ISREG(st.st_mode))
        return mg_fail(err, MG_ERR_FORMAT, "expected a regular file, found %s", kind_of(st.st_mode));
    f->size = f->own = (uint64_t)st.st_size;
    f->dev = (uint64_t)st.st_dev;
    f->ino = (uint64_t)st.st_ino;
    f->mtime_ns = mtime_of(&st);
    return MG_OK;
}

mg_status mg_file_open(mg_file *f, const char *path, mg_error *err) {
    *f = (mg_file){.fd = -1};
    size_t len = strlen(path);
    if (len >= sizeof f->path) {
        mg_status st = mg_fail(err, MG_ERR_LIMIT, "path of %zu bytes is longer than %zu", len, sizeof f->path - 1);
        mg_error_at(err, path, NULL);
        return st;
    }
    memcpy(f->path, path, len + 1);
    mg_status st = open_fd(f, path, err);
    if (st != MG_OK) {
        mg_error_at(err, path, NULL);
        mg_file_close(f);
    }
    return st;
}

bool mg_path_is_piece(const char *path, size_t *stem, unsigned *no, unsigned *of) {
    const char *slash = strrchr(path, '/'), *part = strstr(slash ? slash : path, ".part");
    int used = 0;
    if (!part || sscanf(part, ".part%3uof%3u%n", no, of, &used) != 2 || part[used] != 0) return false;
    *stem = (size_t)(part - path);
    return *no > 0 && *no <= *of;
}

mg_status mg_file_open_pieces(mg_file *f, const char *path, mg_error *err) {
    size_t stem;
    unsigned no, of;
    MG_TRY(mg_file_open(f, path, err));
    mg_status st = MG_OK;
    if (!mg_path_is_piece(path, &stem, &no, &of)) return MG_OK;
    if (no != 1)
        st = mg_fail(err, MG_ERR_FORMAT, "is piece %u of %u of a file cut by bytes: name the first one", no, of);
    mg_file **end = &f->next;
    for (no = 2; st == MG_OK && no <= of; no++) {
        char name[sizeof f->path + 32];
        mg_file *next = malloc(sizeof *next);
        if (!next) {
            st = mg_fail_nomem(err, sizeof *next);
            break;
        }
        snprintf(name, sizeof name, "%.*s.part%uof%u", (int)stem, path, no, of);
        mg_error why = {0};
        st = mg_file_open(next, name, &why);
        if (st != MG_OK) {
            st = mg_fail(err, st, "piece %u of %u, '%s': %s", no, of, name, why.message);
            free(next);
            break;
        }
        *end = next;
        end = &next->next;
        if (!mg_add_u64(f->size, next->own, &f->size)) st = mg_fail(err, MG_ERR_LIMIT, "the pieces are too large");
    }
    if (st != MG_OK) {
        mg_error_at(err, path, NULL);
        mg_file_close(f);
    }
    return st;
}

void mg_file_close(mg_file *f) {
    if (f->fd >= 0) close(f->fd);
    f->fd = -1;
    for (mg_file *p = f->next, *next; p; p = next) {
        next = p->next;
        if (p->fd >= 0) close(p->fd);
        free(p);
    }
    f->next = NULL;
}

static mg_status read_failed(const mg_file *f, uint64_t offset, mg_status st, mg_error *err) {
    mg_error_at(err, f->path, NULL);
    mg_error_offset(err, offset);
    return st;
}

mg_status mg_file_read(const mg_file *f, uint64_t offset, void *dst, uint64_t n, mg_error *err) {
    if (!mg_range_fits(offset, n, f->size))
        return read_failed(f, offset,
                           mg_fail(err, MG_ERR_FORMAT, "truncated: needs %llu bytes, file ends at %llu",
                                   (unsigned long long)n, (unsigned long long)f->size),
                           err);
    const mg_file *piece = f;
    uint64_t at = offset; /* in the piece */
    for (uint8_t *to = dst; n > 0;) {
        for (; at >= piece->own; piece = piece->next) at -= piece->own;
        uint64_t k = piece->own - at < n ? piece->own - at : n;
        ssize_t got = pread(piece->fd, to, (size_t)(k < MAX_CALL ? k : MAX_CALL), (off_t)at);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            return read_failed(f, offset, mg_fail_errno(err, "cannot read %llu bytes", (unsigned long long)n), err);
        if (got == 0)
            return read_failed(f, offset,
                               mg_fail(err, MG_ERR_INTEGRITY, "truncated by someone while it was being read"), err);
        to += got;
        at += (uint64_t)got;
        offset += (uint64_t)got;
        n -= (uint64_t)got;
    }
    return MG_OK;
}

mg_status mg_file_recheck(const mg_file *f, mg_error *err) {
    struct stat now, named;
    mg_status st = MG_OK;
    if (fstat(f->fd, &now) != 0)
        st = mg_fail_errno(err, "cannot stat");
    else if ((uint64_t)now.st_size != f->own)
        st = mg_fail(err, MG_ERR_INTEGRITY, "changed while in use: had %llu bytes, now %llu",
                     (unsigned long long)f->own, (unsigned long long)now.st_size);
    else if (mtime_of(&now) != f->mtime_ns)
        st = mg_fail(err, MG_ERR_INTEGRITY, "modified while in use");
    else if (stat(f->path, &named) != 0 || (uint64_t)named.st_dev != f->dev || (uint64_t)named.st_ino != f->ino)
        st = mg_fail(err, MG_ERR_INTEGRITY, "removed or replaced while in use");
    if (st != MG_OK) mg_error_at(err, f->path, NULL);
    return st == MG_OK && f->next ? mg_file_recheck(f->next, err) : st;
}

mg_status mg_file_slurp(const char *path, uint64_t cap, char **out, size_t *n, mg_error *err) {
    mg_file f;
    *out = NULL;
    *n = 0;
    MG_TRY(mg_file_open(&f, path, err));
    mg_status st = MG_OK;
    char *text = NULL;
    if (f.size > cap || f.size >= SIZE_MAX)
        st = mg_fail(err, MG_ERR_LIMIT, "%llu bytes, at most %llu are read", (unsigned long long)f.size,
                     (unsigned long long)cap);
    else if (!(text = malloc((size_t)f.size + 1)))
        st = mg_fail_nomem(err, f.size + 1);
    else
        st = mg_file_read(&f, 0, text, f.size, err);
    if (st == MG_OK) {
        text[f.size] = 0;
        *out = text;
        *n = (size_t)f.size;
    } else {
        mg_error_at(err, path, NULL);
        free(text);
    }
    mg_file_close(&f);
    return st;
}

bool mg_path_exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0;
}

bool mg_path_is_dir(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

mg_status mg_path_join(char *buf, size_t size, const char *dir, const char *name, mg_error *err) {
    size_t d = strlen(dir), n = strlen(name);
    bool slash = d > 0 && dir[d - 1] != '/';
    if (d >= size || n >= size - d || (slash && n + 1 >= size - d))
        return mg_fail(err, MG_ERR_LIMIT, "path of %zu bytes is longer than %zu", d + n + slash, size ? size - 1 : 0);
    memcpy(buf, dir, d);
    if (slash) buf[d++] = '/';
    memcpy(buf + d, name, n + 1);
    return MG_OK;
}

mg_status mg_path_check_plain(const char *name, mg_error *err) {
    const char *why = NULL;
    if (name[0] == 0)
        why = "is empty";
    else if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        why = "names a directory";
    else if (strpbrk(name, "/\\"))
        why = "holds a path separator";
    if (!why) return MG_OK;
    return mg_fail(err, MG_ERR_FORMAT, "file name '%s' %s, expected a plain name in the same directory", name, why);
}

const char *mg_path_temporary(void) {
    const char *dir = getenv("TMPDIR");
    return dir && dir[0] ? dir : "/tmp";
}

mg_status mg_path_mkdir(const char *path, mg_error *err) {
    if (mkdir(path, 0777) == 0) return MG_OK;
    int why = errno;
    if (why == EEXIST && mg_path_is_dir(path)) return MG_OK;
    errno = why;
    mg_status st = mg_fail_errno(err, "cannot create directory");
    mg_error_at(err, path, NULL);
    return st;
}
