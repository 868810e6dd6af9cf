/* outfile_start.c - how a set of output files begins: what is on disk decides whether this is a first run, the
 * continuation of an interrupted one, or a mistake.
 *
 * For each file of the set the bytes are, in this order of belief: in the part file; under the final name, when the
 * journal's commit record names exactly that inode (an earlier run was stopped between its renames); nowhere yet.
 * Claims of the journal are only believed after re-hashing, so a missing or damaged part file costs time, never bytes.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "formats/base/checked.h"
#include "formats/base/crash.h"
#include "formats/base/file.h"
#include "formats/base/outranks.h"

/* Inodes of the last complete commit block: n = number of files, NULL when there is none. Points into the image. */
static const mg_journal_record *last_commit(const mg_journal_image *image) {
    const mg_journal_record *found = NULL;
    for (size_t i = 0; i < image->n_records; i++) {
        const mg_journal_record *r = &image->records[i];
        if (r->kind != MG_JOURNAL_COMMIT || r->a != image->n_files || r->a > image->n_records - i - 1) continue;
        bool whole = true;
        for (size_t k = 0; k < image->n_files; k++)
            whole = whole && r[1 + k].kind == MG_JOURNAL_FILE && r[1 + k].a == k;
        if (whole) found = r + 1;
    }
    return found;
}

static uint64_t recorded_inode(const mg_journal_record *r) {
    uint64_t inode;
    memcpy(&inode, r->b + 8, 8);
    return inode;
}

static bool stat_file(const mg_outset *s, const char *name, struct stat *st) {
    return fstatat(s->dirfd, name, st, AT_SYMLINK_NOFOLLOW) == 0;
}

/* True when name is the file that a commit recorded: same inode, same size. */
static bool is_recorded(const mg_outset *s, const mg_journal_file *f, const mg_journal_record *commit) {
    struct stat st;
    return commit && stat_file(s, f->name, &st) && S_ISREG(st.st_mode) && (uint64_t)st.st_size == f->size &&
           (uint64_t)st.st_ino == recorded_inode(commit);
}

static mg_status refuse_existing(const mg_outset *s, const char *name, mg_error *err) {
    struct stat st;
    if (s->options.force || !stat_file(s, name, &st)) return MG_OK;
    return mg_outset_place(s, name, mg_fail(err, MG_ERR_USAGE, "exists already; --force replaces it"), err);
}

/* Every file of the journal's set already has its final name: that run had only its journal left to remove. */
static bool is_complete(const mg_outset *s, const mg_journal_image *image) {
    const mg_journal_record *commit = last_commit(image);
    if (image->empty || !commit) return false;
    for (size_t i = 0; i < image->n_files; i++)
        if (!is_recorded(s, &image->files[i], commit + i)) return false;
    return true;
}

static bool plain(const char *name) {
    return mg_path_check_plain(name, NULL) == MG_OK && strlen(name) <= 240;
}

static void part_name(char out[264], const char *name) {
    strcpy(stpcpy(stpcpy(out, "."), name), ".part"); /* 240 bytes at most, checked by mg_outset_add and plain() */
}

/* Restart: remove what an interrupted run left, its half-renamed set included, but not a set that is complete. */
static mg_status discard(mg_outset *s, const mg_journal_image *image, mg_error *err) {
    const mg_journal_record *commit = last_commit(image);
    bool complete = is_complete(s, image);
    /* a rank's part files are the others' too */
    for (size_t i = 0; i < image->n_files && !complete && !s->options.world; i++) {
        const mg_journal_file *f = &image->files[i];
        char part[264];
        if (!plain(f->name)) continue;
        part_name(part, f->name);
        unlinkat(s->dirfd, part, 0);
        if (commit && is_recorded(s, f, commit + i)) unlinkat(s->dirfd, f->name, 0);
        mg_crash_point("restart: a file discarded");
    }
    return mg_journal_wipe(&s->journal, err);
}

bool mg_outset_same_layout(const mg_outset *s, const mg_journal_image *image) {
    if (image->n_units != s->n_units || image->n_files != s->n_files) return false;
    for (size_t i = 0; i < s->n_files; i++)
        if (image->files[i].size != s->specs[i].size || strcmp(image->files[i].name, s->specs[i].name) != 0)
            return false;
    return true;
}

static mg_status conflict(const mg_outset *s, const mg_journal_image *image, mg_error *err) {
    char theirs[33], ours[33];
    mg_hex(image->plan.bytes, 16, theirs);
    mg_hex(s->plan.bytes, 16, ours);
    mg_status st =
        mg_fail(err, MG_ERR_CONFLICT,
                "an interrupted run with other inputs or options is waiting here (plan %s, this one is %s); repeat its "
                "command to finish it, or discard it with --restart",
                theirs, ours);
    mg_error_at(err, s->journal_path, NULL);
    return st;
}

/* Read the journal and decide; on return image is empty for a first run. */
static mg_status examine(mg_outset *s, mg_journal_image *image, mg_error *err) {
    mg_error unreadable = {0};
    mg_status st = mg_journal_load(&s->journal, image, &unreadable);
    if (st != MG_OK && !s->options.restart) {
        if (err && err->code == MG_OK) *err = unreadable;
        return st;
    }
    bool mine = !image->empty && memcmp(image->plan.bytes, s->plan.bytes, 16) == 0 && mg_outset_same_layout(s, image);
    if (!image->empty && !mine && !s->options.restart && !is_complete(s, image)) return conflict(s, image, err);
    if (s->options.restart || (!image->empty && !mine)) {
        MG_TRY(discard(s, image, err));
        mg_journal_image_release(image);
    }
    return MG_OK;
}

/* Another's note goes into our journal, too: theirs may be gone when ours is read again. */
static mg_status take_note(mg_outset *s, const mg_journal_record *r, uint8_t claim, mg_error *err) {
    mg_xxh128 value, known;
    memcpy(value.bytes, r->b, sizeof value.bytes);
    if (claim == MG_CLAIM_OWN) return mg_outset_keep_note(s, r->a, value, err);
    return mg_outset_noted(s, r->a, &known) ? MG_OK : mg_outset_note(s, r->a, value, err);
}

mg_status mg_outset_take_claims(mg_outset *s, const mg_journal_image *image, uint8_t claim, mg_error *err) {
    for (size_t i = 0; i < image->n_records; i++) {
        const mg_journal_record *r = &image->records[i];
        if (r->kind == MG_JOURNAL_NOTE) MG_TRY(take_note(s, r, claim, err));
        if (r->kind != MG_JOURNAL_UNIT || r->a >= s->n_units) continue;
        if (!s->claimed) {
            s->claimed = calloc((size_t)s->n_units, 1);
            s->hashes = calloc((size_t)s->n_units, sizeof *s->hashes);
            if (!s->claimed || !s->hashes) return mg_fail_nomem(err, s->n_units * (1 + sizeof *s->hashes));
        }
        if (s->claimed[r->a] == MG_CLAIM_OWN && claim == MG_CLAIM_OTHER) continue;
        s->claimed[r->a] = claim;
        memcpy(s->hashes[r->a].bytes, r->b, 16);
    }
    return MG_OK;
}

/* Open the bytes of file i. fresh: nothing in an old part file is wanted. */
static mg_status open_file(mg_outset *s, size_t i, const mg_journal_record *commit, bool fresh, mg_error *err) {
    mg_outset_file *f = &s->files[i];
    const char *name = s->specs[i].name;
    struct stat st;
    f->renamed = !fresh && !stat_file(s, f->part, &st) && commit && is_recorded(s, &s->specs[i], commit + i);
    if (f->renamed) {
        f->fd = openat(s->dirfd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    } else {
        MG_TRY(refuse_existing(s, name, err));
        f->fd = openat(s->dirfd, f->part, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | (fresh ? O_TRUNC : 0), 0666);
    }
    if (f->fd < 0 && (errno == EMFILE || errno == ENFILE))
        return mg_outset_place(s, name,
                               mg_fail(err, MG_ERR_LIMIT,
                                       "too many open files for a set of %zu; raise ulimit -n or write larger shards",
                                       s->n_files),
                               err);
    if (f->fd < 0 || fstat(f->fd, &st) != 0)
        return mg_outset_place(s, f->part, mg_fail_errno(err, "cannot create"), err);
    if (!S_ISREG(st.st_mode)) return mg_outset_place(s, f->part, mg_fail(err, MG_ERR_IO, "is not a regular file"), err);
    f->inode = (uint64_t)st.st_ino;
    mg_crash_point("start: a part file opened");
    return MG_OK;
}

/* Bytes the set still has to get from the file system. */
static uint64_t missing_bytes(const mg_outset *s) {
    uint64_t missing = 0;
    for (size_t i = 0; i < s->n_files; i++) {
        struct stat st;
        uint64_t have = fstat(s->files[i].fd, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
        if (s->specs[i].size > have) missing += s->specs[i].size - have;
    }
    return missing;
}

static mg_status no_room(const mg_outset *s, uint64_t need, uint64_t room, mg_error *err) {
    mg_status st = mg_fail(
        err, MG_ERR_IO, "not enough room: the output needs %llu more bytes, %llu are free, %llu are missing",
        (unsigned long long)need, (unsigned long long)room, (unsigned long long)(need > room ? need - room : 0));
    if (err) err->sys_errno = ENOSPC;
    return mg_outset_place(s, s->dir, st, err);
}

static mg_status check_room(const mg_outset *s, uint64_t *need, uint64_t *room, mg_error *err) {
    struct statvfs v;
    *need = missing_bytes(s);
    *room = UINT64_MAX;
    if (fstatvfs(s->dirfd, &v) != 0 || v.f_blocks == 0) return MG_OK; /* some network file systems do not say */
    *room = (uint64_t)v.f_bavail * v.f_frsize;
    return *need > *room ? no_room(s, *need, *room, err) : MG_OK;
}

/* Reserve the final size, so that the disk cannot fill up half way. A part file of another size loses nothing: what is
 * claimed is re-hashed. */
static mg_status reserve(mg_outset *s, size_t i, uint64_t need, uint64_t room, mg_error *err) {
    mg_outset_file *f = &s->files[i];
    uint64_t size = s->specs[i].size;
    if (f->renamed) return MG_OK;
    bool ok = ftruncate(f->fd, (off_t)size) == 0;
    while (ok && size && fallocate(f->fd, 0, 0, (off_t)size) != 0) {
        if (errno == EINTR) continue;
        if (errno == EOPNOTSUPP || errno == ENOSYS) break; /* written as it comes, then */
        ok = false;
    }
    if (!ok && (errno == ENOSPC || errno == EDQUOT)) return no_room(s, need, room, err);
    if (!ok && errno == EFBIG)
        mg_fail_errno(err, "the file may not have %llu bytes; split the output into smaller files",
                      (unsigned long long)size);
    if (!ok)
        return mg_outset_place(s, f->part, mg_fail_errno(err, "cannot reserve %llu bytes", (unsigned long long)size),
                               err);
    mg_crash_point("start: a part file reserved");
    return MG_OK;
}

static mg_status open_files(mg_outset *s, const mg_journal_image *image, mg_error *err) {
    const mg_journal_record *commit = last_commit(image);
    uint64_t need, room;
    const bool fresh = image->empty && !s->claimed && !s->options.world; /* no other rank's bytes are in them */
    for (size_t i = 0; i < s->n_files; i++) MG_TRY(open_file(s, i, commit, fresh, err));
    MG_TRY(check_room(s, &need, &room, err));
    for (size_t i = 0; i < s->n_files; i++) MG_TRY(reserve(s, i, need, room, err));
    return mg_outset_place(s, s->dir, mg_fd_sync_dir(s->dirfd, err), err);
}

static mg_status begin(mg_outset *s, mg_journal_image *image, mg_error *err) {
    MG_TRY(examine(s, image, err));
    if (image->empty) {
        s->disposable = true;
        for (size_t i = 0; i < s->n_files; i++) MG_TRY(refuse_existing(s, s->specs[i].name, err));
        MG_TRY(mg_journal_begin(&s->journal, s->plan, s->n_units, s->specs, s->n_files, err));
    } else {
        MG_TRY(mg_outset_take_claims(s, image, MG_CLAIM_OWN, err));
        s->disposable = !s->claimed && !last_commit(image);
    }
    MG_TRY(mg_outset_ranks_claims(s, err));
    if (s->claimed) s->disposable = false;
    MG_TRY(open_files(s, image, err));
    mg_journal_record owner = {.kind = MG_JOURNAL_OWNER, .a = (uint64_t)getpid()};
    return mg_journal_append(&s->journal, &owner, 1, false, err);
}

mg_status mg_outset_start(mg_outset *s, uint64_t n_units, mg_error *err) {
    if (s->started) return mg_fail(err, MG_ERR_INTERNAL, "an output set was started twice");
    s->n_units = n_units;
    s->done = calloc(n_units ? (size_t)n_units : 1, 1);
    if (!s->done) return mg_fail_nomem(err, n_units);
    /* without a journal nothing is resumed: refuse before leaving any trace */
    if (!mg_path_exists(s->journal_path))
        for (size_t i = 0; i < s->n_files; i++) MG_TRY(refuse_existing(s, s->specs[i].name, err));
    MG_TRY(mg_outset_ranks_begin(s, err));
    MG_TRY(mg_journal_open(&s->journal, s->dirfd, s->journal_path, err));
    mg_crash_point("start: journal locked");
    mg_journal_image image = {.empty = true};
    mg_status r = begin(s, &image, err);
    mg_journal_image_release(&image);
    s->started = r == MG_OK;
    if (r == MG_OK && s->options.world) mg_outset_ranks_release(s); /* the next rank may begin */
    s->last_sync = mg_outset_clock();
    mg_outset_settle_init(s);
    return r;
}

mg_status mg_outset_sweep(const char *dir, const char *name, mg_error *err) {
    mg_outset *s;
    mg_journal_image image = {.empty = true};
    if (!mg_outset_pending(dir, name)) return MG_OK;
    MG_TRY(mg_outset_new(&s, dir, name, (mg_xxh128){0}, NULL, err));
    mg_status st = mg_journal_open(&s->journal, s->dirfd, s->journal_path, err);
    if (st == MG_OK) st = mg_journal_load(&s->journal, &image, err);
    if (st == MG_OK && (image.empty || is_complete(s, &image))) st = mg_journal_remove(&s->journal, err);
    mg_journal_image_release(&image);
    mg_outset_free(s);
    return st;
}
