/* zfile.c - bounded zstd reading, and captures in unlinked temporary files. */
#include "formats/base/zfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "formats/base/file.h"
#include "formats/base/journal.h"

enum { WINDOW_LOG = 27, IN_BLOCK = 128 << 10, FIRST_OUT = 64 << 10 };

static mg_status zstd_failed(size_t code, mg_error *err) {
    switch (ZSTD_getErrorCode(code)) {
    case ZSTD_error_memory_allocation:
        return mg_fail(err, MG_ERR_LIMIT, "zstd: out of memory");
    case ZSTD_error_frameParameter_windowTooLarge:
        return mg_fail(err, MG_ERR_LIMIT, "zstd: the window is larger than %d MiB", (1 << WINDOW_LOG) >> 20);
    case ZSTD_error_checksum_wrong:
        return mg_fail(err, MG_ERR_INTEGRITY, "zstd: the content does not match its checksum");
    default:
        return mg_fail(err, MG_ERR_FORMAT, "zstd: %s", ZSTD_getErrorName(code));
    }
}

/* A file being decompressed into one growing buffer. */
struct reader {
    mg_file file;
    ZSTD_DStream *zstd;
    uint8_t *in;
    uint8_t *out;
    size_t n, capacity;
    uint64_t cap;
};

/* Room for at least one more byte, or for all that a frame header announces. */
static mg_status make_room(struct reader *r, mg_error *err) {
    if (r->n < r->capacity) return MG_OK;
    if (r->n >= r->cap)
        return mg_fail(err, MG_ERR_LIMIT, "decompresses to more than %llu bytes", (unsigned long long)r->cap);
    uint64_t want = r->capacity ? (uint64_t)r->capacity * 2 : FIRST_OUT;
    if (want > r->cap) want = r->cap;
    uint8_t *bigger = want <= SIZE_MAX ? realloc(r->out, (size_t)want) : NULL;
    if (!bigger) return mg_fail_nomem(err, want);
    r->out = bigger;
    r->capacity = (size_t)want;
    return MG_OK;
}

/* A bomb that announces itself is refused before anything is decompressed. */
static mg_status check_announced(const struct reader *r, const uint8_t *in, size_t n, mg_error *err) {
    unsigned long long size = ZSTD_getFrameContentSize(in, n);
    if (size == ZSTD_CONTENTSIZE_ERROR) return mg_fail(err, MG_ERR_FORMAT, "not a zstd file");
    if (size != ZSTD_CONTENTSIZE_UNKNOWN && size > r->cap)
        return mg_fail(err, MG_ERR_LIMIT, "decompresses to %llu bytes, at most %llu are read", size,
                       (unsigned long long)r->cap);
    return MG_OK;
}

static mg_status decompress_block(struct reader *r, size_t n_in, size_t *hint, mg_error *err) {
    ZSTD_inBuffer in = {r->in, n_in, 0};
    bool flushed = false;
    while (in.pos < in.size || !flushed) {
        uint8_t probe; /* at the cap there is no room, yet the frame may end exactly here */
        bool full = r->n >= r->cap && r->n >= r->capacity;
        if (!full) MG_TRY(make_room(r, err));
        ZSTD_outBuffer out = {full ? &probe : r->out + r->n, full ? 1 : r->capacity - r->n, 0};
        size_t before = in.pos;
        *hint = ZSTD_decompressStream(r->zstd, &out, &in);
        if (ZSTD_isError(*hint)) return zstd_failed(*hint, err);
        if (full && out.pos)
            return mg_fail(err, MG_ERR_LIMIT, "decompresses to more than %llu bytes", (unsigned long long)r->cap);
        r->n += out.pos;
        flushed = out.pos < out.size || (out.pos == 0 && in.pos == before) || *hint == 0;
    }
    return MG_OK;
}

static mg_status decompress(struct reader *r, mg_error *err) {
    size_t hint = 1;
    for (uint64_t at = 0; at < r->file.size;) {
        uint64_t n = r->file.size - at < IN_BLOCK ? r->file.size - at : IN_BLOCK;
        MG_TRY(mg_file_read(&r->file, at, r->in, n, err));
        if (at == 0) MG_TRY(check_announced(r, r->in, (size_t)n, err));
        MG_TRY(decompress_block(r, (size_t)n, &hint, err));
        at += n;
    }
    return hint == 0 ? MG_OK : mg_fail(err, MG_ERR_FORMAT, "zstd: truncated");
}

mg_status mg_zfile_read(const char *path, uint64_t cap, uint8_t **out, size_t *n, mg_error *err) {
    struct reader r = {.cap = cap};
    *out = NULL;
    *n = 0;
    MG_TRY(mg_file_open(&r.file, path, err));
    r.in = malloc(IN_BLOCK);
    r.out = malloc(1); /* an empty file's content is a pointer too */
    r.zstd = ZSTD_createDStream();
    mg_status st = r.in && r.out && r.zstd ? MG_OK : mg_fail_nomem(err, IN_BLOCK);
    if (st == MG_OK) ZSTD_DCtx_setParameter(r.zstd, ZSTD_d_windowLogMax, WINDOW_LOG);
    if (st == MG_OK) st = decompress(&r, err);
    if (st == MG_OK) {
        *out = r.out;
        *n = r.n;
    } else {
        mg_error_at(err, path, NULL);
        free(r.out);
    }
    ZSTD_freeDStream(r.zstd);
    free(r.in);
    mg_file_close(&r.file);
    return st;
}

struct mg_zcapture {
    int fd;
    bool reading;
    uint64_t size; /* compressed bytes in the file */
    uint64_t at;   /* of those, read so far */
    ZSTD_CStream *writer;
    ZSTD_DStream *reader;
    uint8_t *block; /* compressed bytes on their way; holds [pos, filled) when reading */
    size_t capacity, pos, filled;
};

static int open_unlinked(const char *dir) {
    char path[4096];
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT)) return fd;
    int n = snprintf(path, sizeof path, "%s/moegraft.XXXXXX", dir);
    if (n < 0 || (size_t)n >= sizeof path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0) unlink(path);
    return fd;
}

mg_status mg_zcapture_new(mg_zcapture **out, const char *dir, mg_error *err) {
    *out = NULL;
    if (!dir || !dir[0]) dir = mg_path_temporary();
    mg_zcapture *c = calloc(1, sizeof *c);
    if (!c) return mg_fail_nomem(err, sizeof *c);
    c->capacity = ZSTD_CStreamOutSize();
    c->block = malloc(c->capacity);
    c->writer = ZSTD_createCStream();
    c->fd = open_unlinked(dir);
    mg_status st = MG_OK;
    if (c->fd < 0) {
        st = mg_fail_errno(err, "cannot create a temporary file");
        mg_error_at(err, dir, NULL);
    } else if (!c->block || !c->writer) {
        st = mg_fail_nomem(err, c->capacity);
    }
    if (st != MG_OK) {
        mg_zcapture_free(c);
        return st;
    }
    ZSTD_CCtx_setParameter(c->writer, ZSTD_c_compressionLevel, 1); /* activations hardly compress: be quick */
    ZSTD_CCtx_setParameter(c->writer, ZSTD_c_checksumFlag, 1);
    *out = c;
    return MG_OK;
}

static mg_status compress(mg_zcapture *c, const void *data, size_t n, ZSTD_EndDirective end, mg_error *err) {
    ZSTD_inBuffer in = {data, n, 0};
    for (bool more = true; more;) {
        ZSTD_outBuffer out = {c->block, c->capacity, 0};
        size_t left = ZSTD_compressStream2(c->writer, &out, &in, end);
        if (ZSTD_isError(left)) return mg_fail(err, MG_ERR_INTERNAL, "zstd: %s", ZSTD_getErrorName(left));
        mg_status st = mg_fd_write(c->fd, c->size, c->block, out.pos, err);
        if (st != MG_OK) return st;
        c->size += out.pos;
        more = end == ZSTD_e_end ? left > 0 : in.pos < in.size;
    }
    return MG_OK;
}

mg_status mg_zcapture_write(mg_zcapture *c, const void *data, size_t n, mg_error *err) {
    if (c->reading) return mg_fail(err, MG_ERR_INTERNAL, "a capture is written before it is read");
    mg_status st = n ? compress(c, data, n, ZSTD_e_continue, err) : MG_OK;
    if (st != MG_OK) mg_error_at(err, "temporary capture", NULL);
    return st;
}

mg_status mg_zcapture_rewind(mg_zcapture *c, mg_error *err) {
    if (!c->reading) {
        MG_TRY(compress(c, "", 0, ZSTD_e_end, err));
        ZSTD_freeCStream(c->writer);
        c->writer = NULL;
        c->reader = ZSTD_createDStream();
        if (!c->reader) return mg_fail(err, MG_ERR_LIMIT, "zstd: out of memory");
        c->reading = true;
    }
    ZSTD_DCtx_reset(c->reader, ZSTD_reset_session_only);
    c->at = 0;
    c->pos = c->filled = 0;
    return MG_OK;
}

static mg_status refill(mg_zcapture *c, mg_error *err) {
    uint64_t n = c->size - c->at < c->capacity ? c->size - c->at : c->capacity;
    MG_TRY(mg_fd_read(c->fd, c->at, c->block, n, err));
    c->at += n;
    c->pos = 0;
    c->filled = (size_t)n;
    return MG_OK;
}

mg_status mg_zcapture_read(mg_zcapture *c, void *data, size_t n, mg_error *err) {
    if (!c->reading) return mg_fail(err, MG_ERR_INTERNAL, "a capture is read after a rewind");
    ZSTD_outBuffer out = {data, n, 0};
    while (out.pos < n) {
        if (c->pos == c->filled) MG_TRY(refill(c, err));
        ZSTD_inBuffer in = {c->block, c->filled, c->pos};
        size_t before = out.pos, r = ZSTD_decompressStream(c->reader, &out, &in);
        if (ZSTD_isError(r)) return zstd_failed(r, err);
        bool moved = in.pos > c->pos || out.pos > before;
        c->pos = in.pos;
        if (!moved && c->at == c->size && c->pos == c->filled)
            return mg_fail(err, MG_ERR_INTERNAL, "a capture was read past its end (%zu bytes missing)", n - out.pos);
    }
    return MG_OK;
}

void mg_zcapture_free(mg_zcapture *c) {
    if (!c) return;
    ZSTD_freeCStream(c->writer);
    ZSTD_freeDStream(c->reader);
    if (c->fd >= 0) close(c->fd);
    free(c->block);
    free(c);
}
