/* journal.c - see journal.h for the format. A journal is input too: lengths and numbers in it are checked. */
#include "formats/base/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/base/checked.h"
#include "formats/base/crash.h"

struct header {
    uint8_t magic[8];
    uint32_t version;
    uint32_t layout_bytes;
    mg_xxh128 plan;
    uint64_t n_units;
    uint64_t n_files;
    uint64_t zero;
    uint64_t check;
};

_Static_assert(sizeof(struct header) == 64, "the header is written as it lies in memory");
_Static_assert(sizeof(mg_journal_record) == 40, "a record is written as it lies in memory");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "little-endian hosts only");

static const uint8_t magic[8] = {'M', 'G', 'J', 'O', 'U', 'R', 'N', '\n'};

enum { MAX_LAYOUT = 64 << 20 };
#define MAX_JOURNAL (UINT64_C(1) << 30) /* 26 million units */

static mg_status in_journal(const mg_journal *j, mg_status st, mg_error *err) {
    if (st != MG_OK) mg_error_at(err, j->path, NULL);
    return st;
}

static uint64_t record_check(const mg_journal *j, const mg_journal_record *r) {
    uint8_t text[48];
    memcpy(text, j->plan.bytes, 16);
    memcpy(text + 16, r, 32);
    return mg_xxh64_of(text, sizeof text);
}

/* The process named by the last OWNER record, 0 when none can be read. For a message only. */
static uint64_t owner_of(mg_journal *j) {
    mg_journal_image image = {0};
    uint64_t pid = 0;
    if (mg_journal_load(j, &image, NULL) == MG_OK)
        for (size_t i = 0; i < image.n_records; i++)
            if (image.records[i].kind == MG_JOURNAL_OWNER) pid = image.records[i].a;
    mg_journal_image_release(&image);
    return pid;
}

/* Open and lock once; *again when the file was removed by its former owner between the two. */
static mg_status open_once(mg_journal *j, bool *again, mg_error *err) {
    struct stat open_one, named;
    bool busy = false;
    *again = false;
    j->fd = openat(j->dirfd, j->name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (j->fd < 0) return mg_fail_errno(err, "cannot open the journal");
    MG_TRY(mg_fd_lock(j->fd, &busy, err));
    if (busy) {
        unsigned long long pid = owner_of(j);
        if (pid)
            return mg_fail(err, MG_ERR_IO, "another process (%llu) is writing this output and holds the lock", pid);
        return mg_fail(err, MG_ERR_IO, "another process is writing this output and holds the lock");
    }
    if (fstat(j->fd, &open_one) != 0) return mg_fail_errno(err, "cannot stat the journal");
    if (!S_ISREG(open_one.st_mode))
        return mg_fail(err, MG_ERR_IO, "the journal's name is taken by something that is no file");
    *again = fstatat(j->dirfd, j->name, &named, AT_SYMLINK_NOFOLLOW) != 0 || named.st_ino != open_one.st_ino ||
             named.st_dev != open_one.st_dev;
    return MG_OK;
}

mg_status mg_journal_open(mg_journal *j, int dirfd, const char *path, mg_error *err) {
    const char *slash = strrchr(path, '/');
    bool again = true;
    *j = (mg_journal){.fd = -1, .dirfd = dirfd, .path = path, .name = slash ? slash + 1 : path};
    while (again) {
        mg_status st = open_once(j, &again, err);
        if (st != MG_OK || again) mg_journal_close(j);
        if (st != MG_OK) return in_journal(j, st, err);
    }
    return MG_OK;
}

void mg_journal_close(mg_journal *j) {
    if (j->fd >= 0) close(j->fd);
    j->fd = -1;
}

static mg_status damaged(mg_error *err) {
    return mg_fail(err, MG_ERR_INTEGRITY, "the journal's header is damaged; --restart discards it");
}

/* The layout block as files. */
static mg_status parse_layout(mg_journal_image *image, const uint8_t *at, uint64_t left, uint64_t n_files,
                              mg_error *err) {
    if (n_files > left / 16) return damaged(err);
    image->files = calloc(n_files ? (size_t)n_files : 1, sizeof *image->files);
    if (!image->files) return mg_fail_nomem(err, n_files * sizeof *image->files);
    for (; image->n_files < n_files; image->n_files++) {
        mg_journal_file *f = &image->files[image->n_files];
        uint64_t length, padded;
        if (left < 16) return damaged(err);
        memcpy(&f->size, at, 8);
        memcpy(&length, at + 8, 8);
        if (!mg_align_u64(length, 8, &padded) || padded > left - 16 || length == 0 || length > 255) return damaged(err);
        f->name = malloc((size_t)length + 1); /* no strndup: the name is not terminated */
        if (!f->name) return mg_fail_nomem(err, length);
        memcpy(f->name, at + 16, (size_t)length);
        f->name[length] = 0;
        at += 16 + padded;
        left -= 16 + padded;
    }
    return MG_OK;
}

/* Check and parse header and layout, total bytes at text (which is changed). */
static mg_status parse_header(mg_journal_image *image, uint8_t *text, uint64_t total, mg_error *err) {
    struct header h;
    memcpy(&h, text, sizeof h);
    memset(text + offsetof(struct header, check), 0, sizeof h.check);
    if (mg_xxh64_of(text, (size_t)total) != h.check) return damaged(err);
    return parse_layout(image, text + sizeof h, total - sizeof h, h.n_files, err);
}

static mg_status load_header(mg_journal *j, mg_journal_image *image, uint64_t size, mg_error *err) {
    struct header h;
    image->empty = true;
    if (size < sizeof h) return MG_OK;
    MG_TRY(mg_fd_read(j->fd, 0, &h, sizeof h, err));
    static const uint8_t zeros[sizeof magic] = {0};
    if (memcmp(h.magic, zeros, sizeof zeros) == 0) return MG_OK;
    if (memcmp(h.magic, magic, sizeof magic) != 0)
        return mg_fail(err, MG_ERR_INTEGRITY, "this is no journal of moegraft; --restart discards it");
    if (h.version > MG_JOURNAL_VERSION)
        return mg_fail(err, MG_ERR_UNSUPPORTED,
                       "written by a newer moegraft (journal version %u, this one reads %d); --restart discards it",
                       h.version, MG_JOURNAL_VERSION);
    uint64_t total = sizeof h + (uint64_t)h.layout_bytes;
    if (h.layout_bytes > MAX_LAYOUT || total > size) return damaged(err);
    uint8_t *text = malloc((size_t)total);
    if (!text) return mg_fail_nomem(err, total);
    mg_status st = mg_fd_read(j->fd, 0, text, total, err);
    if (st == MG_OK) st = parse_header(image, text, total, err);
    free(text);
    if (st != MG_OK) return st;
    image->empty = false;
    image->plan = j->plan = h.plan;
    image->n_units = h.n_units;
    j->end = total;
    return MG_OK;
}

static mg_status load_records(mg_journal *j, mg_journal_image *image, uint64_t size, mg_error *err) {
    uint64_t n = (size - j->end) / sizeof *image->records;
    image->records = malloc(n ? (size_t)n * sizeof *image->records : 1);
    if (!image->records) return mg_fail_nomem(err, n * sizeof *image->records);
    MG_TRY(mg_fd_read(j->fd, j->end, image->records, n * sizeof *image->records, err));
    for (; image->n_records < n; image->n_records++) {
        const mg_journal_record *r = &image->records[image->n_records];
        if (r->sequence != (uint32_t)image->n_records || r->check != record_check(j, r)) break;
    }
    j->n_records = (uint32_t)image->n_records;
    j->end += image->n_records * sizeof *image->records;
    return MG_OK;
}

mg_status mg_journal_load(mg_journal *j, mg_journal_image *image, mg_error *err) {
    struct stat st;
    *image = (mg_journal_image){.empty = true};
    j->end = 0;
    j->n_records = 0;
    if (fstat(j->fd, &st) != 0) return in_journal(j, mg_fail_errno(err, "cannot stat the journal"), err);
    uint64_t size = (uint64_t)st.st_size;
    if (size > MAX_JOURNAL)
        return in_journal(j, mg_fail(err, MG_ERR_LIMIT, "a journal of %llu bytes", (unsigned long long)size), err);
    mg_status r = load_header(j, image, size, err);
    if (r == MG_OK && !image->empty) r = load_records(j, image, size, err);
    if (r != MG_OK) mg_journal_image_release(image);
    return in_journal(j, r, err);
}

void mg_journal_image_release(mg_journal_image *image) {
    for (size_t i = 0; i < image->n_files; i++) free(image->files[i].name);
    free(image->files);
    free(image->records);
    *image = (mg_journal_image){.empty = true};
}

static mg_status sync_journal(mg_journal *j, mg_error *err) {
    if (fdatasync(j->fd) == 0) return MG_OK;
    return mg_fail_errno(err, "cannot bring the journal to disk");
}

mg_status mg_journal_wipe(mg_journal *j, mg_error *err) {
    j->end = 0;
    j->n_records = 0;
    if (ftruncate(j->fd, 0) == 0) return MG_OK;
    return in_journal(j, mg_fail_errno(err, "cannot empty the journal"), err);
}

static void layout_text(uint8_t *at, const mg_journal_file *files, size_t n_files) {
    for (size_t i = 0; i < n_files; i++) {
        uint64_t length = strlen(files[i].name);
        memcpy(at, &files[i].size, 8);
        memcpy(at + 8, &length, 8);
        memcpy(at + 16, files[i].name, (size_t)length);
        at += 16 + ((length + 7) & ~UINT64_C(7));
    }
}

static mg_status write_header(mg_journal *j, uint8_t *text, uint64_t total, mg_error *err) {
    MG_TRY(mg_fd_write(j->fd, sizeof magic, text + sizeof magic, total - sizeof magic, err));
    mg_crash_point("journal: header without its magic");
    MG_TRY(sync_journal(j, err));
    MG_TRY(mg_fd_write(j->fd, 0, text, sizeof magic, err));
    mg_crash_point("journal: header written");
    MG_TRY(sync_journal(j, err));
    MG_TRY(mg_fd_sync_dir(j->dirfd, err));
    mg_crash_point("journal: header on disk");
    return MG_OK;
}

mg_status mg_journal_begin(mg_journal *j, mg_xxh128 plan, uint64_t n_units, const mg_journal_file *files,
                           size_t n_files, mg_error *err) {
    uint64_t total = sizeof(struct header);
    for (size_t i = 0; i < n_files; i++) total += 16 + ((strlen(files[i].name) + 7) & ~(uint64_t)7);
    if (total - sizeof(struct header) > MAX_LAYOUT)
        return in_journal(j, mg_fail(err, MG_ERR_LIMIT, "%zu output files are too many for one journal", n_files), err);
    MG_TRY(mg_journal_wipe(j, err));
    uint8_t *text = calloc(1, (size_t)total);
    if (!text) return mg_fail_nomem(err, total);
    struct header h = {.version = MG_JOURNAL_VERSION,
                       .layout_bytes = (uint32_t)(total - sizeof h),
                       .plan = plan,
                       .n_units = n_units,
                       .n_files = n_files};
    memcpy(h.magic, magic, sizeof magic);
    memcpy(text, &h, sizeof h);
    layout_text(text + sizeof h, files, n_files);
    h.check = mg_xxh64_of(text, (size_t)total);
    memcpy(text, &h, sizeof h);
    mg_status st = write_header(j, text, total, err);
    free(text);
    j->plan = plan;
    j->end = total;
    return in_journal(j, st, err);
}

mg_status mg_journal_append(mg_journal *j, mg_journal_record *records, size_t n, bool sync, mg_error *err) {
    for (size_t i = 0; i < n; i++) {
        records[i].sequence = j->n_records + (uint32_t)i;
        records[i].check = record_check(j, &records[i]);
    }
    mg_status st = mg_fd_write(j->fd, j->end, records, n * sizeof *records, err);
    if (st != MG_OK) return in_journal(j, st, err);
    j->n_records += (uint32_t)n;
    j->end += n * sizeof *records;
    mg_crash_point("journal: records written");
    return sync ? in_journal(j, sync_journal(j, err), err) : MG_OK;
}

mg_status mg_journal_remove(mg_journal *j, mg_error *err) {
    /* removed while still locked, so that nobody resumes from a journal that is about to go */
    mg_status st = unlinkat(j->dirfd, j->name, 0) == 0 ? MG_OK : mg_fail_errno(err, "cannot remove the journal");
    mg_journal_close(j);
    return in_journal(j, st, err);
}
