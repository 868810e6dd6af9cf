/* outfile.c - writing a set of output files, remembering finished units, and giving the files their final names.
 *
 * Locks: `lock` guards the queue of finished units and is held for moments; `sync_lock` is held through a flush (which
 * may take seconds) so that there is one at a time, and is only tried, not waited for, by a worker that finishes a
 * unit. After a failed write or fsync the set is broken: nothing is claimed any more, because a second fsync may report
 * success for bytes the system has already dropped. The rerun writes them again. */
#include "formats/base/outfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "formats/base/checked.h"
#include "formats/base/crash.h"
#include "formats/base/file.h"
#include "formats/base/outranks.h"

#define SYNC_BYTES   (UINT64_C(1) << 30)
#define SYNC_SECONDS 10.0

enum { MAX_NAME = 240, BLOCK = 1 << 20 };

double mg_outset_clock(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

mg_status mg_outset_place(const mg_outset *s, const char *file, mg_status st, mg_error *err) {
    char path[512];
    if (st == MG_OK || !err) return st;
    if (file == s->dir || mg_path_join(path, sizeof path, s->dir, file, NULL) != MG_OK)
        mg_error_at(err, file, NULL);
    else
        mg_error_at(err, path, NULL);
    return st;
}

/* MOEGRAFT_SYNC_BYTES: how much work may be lost to a kill, for tests and for very slow machines. */
static uint64_t sync_bytes(void) {
    const char *text = getenv("MOEGRAFT_SYNC_BYTES");
    unsigned long long n = text ? strtoull(text, NULL, 10) : 0;
    return n ? n : SYNC_BYTES;
}

static mg_status check_name(const char *name, mg_error *err) {
    MG_TRY(mg_path_check_plain(name, err));
    if (strlen(name) <= MAX_NAME) return MG_OK;
    return mg_fail(err, MG_ERR_LIMIT, "file name of %zu bytes, at most %d leave room for the partial file's name",
                   strlen(name), MAX_NAME);
}

/* Of a set, or of one of `world` ranks that write it. */
static char *journal_path(const char *dir, const char *name, uint32_t rank, uint32_t world) {
    size_t size = strlen(dir) + strlen(name) + 48;
    char *path = malloc(size), of[32] = "";
    if (world) snprintf(of, sizeof of, ".%u-of-%u", rank, world);
    if (path) snprintf(path, size, "%s/.%s%s.journal", dir[0] ? dir : ".", name, of);
    return path;
}

mg_status mg_outset_new(mg_outset **out, const char *dir, const char *name, mg_xxh128 plan_id,
                        const mg_outset_options *opt, mg_error *err) {
    *out = NULL;
    MG_TRY(check_name(name, err));
    mg_outset *s = calloc(1, sizeof *s);
    if (!s) return mg_fail_nomem(err, sizeof *s);
    s->dirfd = -1;
    s->journal.fd = -1;
    s->ranks_fd = -1;
    s->plan = plan_id;
    s->options = opt ? *opt : (mg_outset_options){0};
    s->sync_bytes = sync_bytes();
    mg_strmap_init(&s->names);
    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->sync_lock, NULL);
    s->dir = strdup(dir[0] ? dir : ".");
    s->name = strdup(name);
    s->journal_path = journal_path(dir, name, s->options.rank, s->options.world);
    mg_status st = s->dir && s->name && s->journal_path ? MG_OK : mg_fail_nomem(err, strlen(dir) + strlen(name));
    if (st == MG_OK && (s->dirfd = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
        st = mg_outset_place(s, s->dir, mg_fail_errno(err, "cannot open the output directory"), err);
    if (st == MG_OK)
        *out = s;
    else
        mg_outset_free(s);
    return st;
}

bool mg_outset_pending(const char *dir, const char *name) {
    char *path = journal_path(dir, name, 0, 0);
    bool pending = path && mg_path_exists(path);
    if (path) strcpy(path + strlen(path) - strlen("journal"), "ranks");
    pending = pending || (path && mg_path_exists(path));
    free(path);
    return pending;
}

static mg_status grow(mg_outset *s, mg_error *err) {
    size_t cap = s->cap_files ? s->cap_files * 2 : 8;
    mg_journal_file *specs = realloc(s->specs, cap * sizeof *specs);
    if (specs) s->specs = specs;
    mg_outset_file *files = specs ? realloc(s->files, cap * sizeof *files) : NULL;
    if (!files) return mg_fail_nomem(err, cap * (sizeof *files + sizeof *specs));
    s->files = files;
    s->cap_files = cap;
    return MG_OK;
}

mg_status mg_outset_add(mg_outset *s, const char *name, uint64_t size, uint32_t *index, mg_error *err) {
    uint32_t before;
    if (s->started) return mg_fail(err, MG_ERR_INTERNAL, "a file was added to a set that has started");
    MG_TRY(check_name(name, err));
    if (size > INT64_MAX) return mg_fail(err, MG_ERR_LIMIT, "a file of %llu bytes", (unsigned long long)size);
    if (s->n_files == s->cap_files) MG_TRY(grow(s, err));
    char *copy = strdup(name);
    if (!copy) return mg_fail_nomem(err, strlen(name));
    mg_status st = mg_strmap_put(&s->names, copy, strlen(copy), (uint32_t)s->n_files, &before, err);
    if (st == MG_OK && before != MG_STRMAP_NONE)
        st = mg_fail(err, MG_ERR_INTERNAL, "the output file '%s' is declared twice", name);
    if (st != MG_OK) {
        free(copy);
        return st;
    }
    mg_outset_file *f = &s->files[s->n_files];
    memset(f, 0, sizeof *f);
    f->fd = -1;
    snprintf(f->part, sizeof f->part, ".%s.part", name);
    s->specs[s->n_files] = (mg_journal_file){.name = copy, .size = size};
    *index = (uint32_t)s->n_files++;
    return MG_OK;
}

mg_status mg_outset_in_file(const mg_outset *s, size_t i, mg_status st, mg_error *err) {
    return mg_outset_place(s, s->files[i].renamed ? s->specs[i].name : s->files[i].part, st, err);
}

static mg_status check_range(const mg_outset *s, uint32_t file, uint64_t offset, uint64_t n, mg_error *err) {
    if (s->started && file < s->n_files && mg_range_fits(offset, n, s->specs[file].size)) return MG_OK;
    return mg_fail(err, MG_ERR_INTERNAL, "output range [%llu, +%llu) is outside file %u", (unsigned long long)offset,
                   (unsigned long long)n, file);
}

mg_status mg_outset_broken(mg_outset *s, mg_status st) {
    int none = MG_OK;
    atomic_compare_exchange_strong(&s->broken, &none, (int)st);
    return st;
}

static mg_status check_broken(mg_outset *s, mg_error *err) {
    mg_status st = (mg_status)atomic_load(&s->broken);
    if (st == MG_OK) return MG_OK;
    return mg_fail(err, st, "output '%s' had an earlier write error; run the same command again to go on", s->name);
}

/* True when the file already holds these bytes. */
static bool holds(int fd, uint64_t offset, const uint8_t *data, uint64_t n) {
    uint8_t block[4096];
    for (uint64_t at = 0; at < n;) {
        uint64_t k = n - at < sizeof block ? n - at : sizeof block;
        if (mg_fd_read(fd, offset + at, block, k, NULL) != MG_OK || memcmp(block, data + at, (size_t)k) != 0)
            return false;
        at += k;
    }
    return true;
}

mg_status mg_outset_write(mg_outset *s, uint32_t file, uint64_t offset, const void *data, uint64_t n, mg_error *err) {
    MG_TRY(check_range(s, file, offset, n, err));
    MG_TRY(check_broken(s, err));
    mg_outset_file *f = &s->files[file];
    /* what has its final name already is not touched unless it is damaged */
    if (f->renamed && holds(f->fd, offset, data, n)) return MG_OK;
    mg_status st = mg_fd_write(f->fd, offset, data, n, err);
    if (st != MG_OK) return mg_outset_in_file(s, file, mg_outset_broken(s, st), err);
    atomic_store(&f->dirty, true); /* after the bytes: a flush that clears the mark has synced them */
    atomic_fetch_add(&s->unsynced, n);
    mg_crash_point("write: bytes written");
    return MG_OK;
}

mg_status mg_outset_read(mg_outset *s, uint32_t file, uint64_t offset, void *dst, uint64_t n, mg_error *err) {
    MG_TRY(check_range(s, file, offset, n, err));
    return mg_outset_in_file(s, file, mg_fd_read(s->files[file].fd, offset, dst, n, err), err);
}

static void mark_done(mg_outset *s, uint64_t unit) {
    if (!s->done[unit]) s->n_done++;
    s->done[unit] = 1;
}

static bool rehash(mg_outset *s, const mg_extent *extents, size_t n_extents, mg_xxh128 *hash) {
    mg_xxh128_state *state = NULL;
    uint8_t *block = malloc(BLOCK);
    bool good = block && mg_xxh128_new(&state, NULL) == MG_OK;
    for (size_t i = 0; good && i < n_extents; i++) {
        const mg_extent *e = &extents[i];
        for (uint64_t at = 0; good && at < e->size;) {
            uint64_t n = e->size - at < BLOCK ? e->size - at : BLOCK;
            good = mg_outset_read(s, e->file, e->offset + at, block, n, NULL) == MG_OK;
            if (good) mg_xxh128_update(state, block, (size_t)n);
            at += n;
        }
    }
    if (good) *hash = mg_xxh128_final(state);
    mg_xxh128_free(state);
    free(block);
    return good;
}

/* Call with lock held. */
static bool push(mg_outset *s, mg_journal_kind kind, uint64_t a, mg_xxh128 hash) {
    if (s->n_queue == s->cap_queue) {
        size_t cap = s->cap_queue ? s->cap_queue * 2 : 64;
        mg_journal_record *bigger = realloc(s->queue, cap * sizeof *bigger);
        if (!bigger) return false;
        s->queue = bigger;
        s->cap_queue = cap;
    }
    mg_journal_record *r = &s->queue[s->n_queue++];
    *r = (mg_journal_record){.kind = kind, .a = a};
    memcpy(r->b, hash.bytes, 16);
    return true;
}

bool mg_outset_is_claimed(const mg_outset *s, uint64_t unit) {
    return unit < s->n_units && s->claimed && s->claimed[unit] != MG_CLAIM_NONE;
}

bool mg_outset_is_done(mg_outset *s, uint64_t unit, const mg_extent *extents, size_t n_extents) {
    mg_xxh128 hash;
    if (!s->started || unit >= s->n_units) return false;
    if (n_extents) { /* a unit without bytes in this set is done */
        if (!mg_outset_is_claimed(s, unit)) return false;
        if (!rehash(s, extents, n_extents, &hash) || memcmp(hash.bytes, s->hashes[unit].bytes, 16) != 0) return false;
    }
    pthread_mutex_lock(&s->lock);
    /* another's claim, confirmed, becomes ours */
    bool ok = !n_extents || s->claimed[unit] == MG_CLAIM_OWN || push(s, MG_JOURNAL_UNIT, unit, hash);
    if (ok) mark_done(s, unit);
    pthread_mutex_unlock(&s->lock);
    return ok;
}

/* fdatasync (or, before renaming, fsync) every file written since the last time. */
static mg_status sync_files(mg_outset *s, bool whole, mg_error *err) {
    for (size_t i = 0; i < s->n_files; i++) {
        mg_outset_file *f = &s->files[i];
        bool dirty = atomic_exchange(&f->dirty, false);
        if (!dirty && !whole) continue;
        if ((whole ? fsync(f->fd) : fdatasync(f->fd)) != 0)
            return mg_outset_in_file(s, i, mg_outset_broken(s, mg_fail_errno(err, "cannot bring the data to disk")),
                                     err);
        mg_crash_point("flush: a file synced");
    }
    return MG_OK;
}

/* Data first, then the records that claim it. Call with sync_lock held. */
static mg_status flush_locked(mg_outset *s, mg_error *err) {
    MG_TRY(check_broken(s, err));
    pthread_mutex_lock(&s->lock);
    mg_journal_record *taken = s->queue;
    size_t n = s->n_queue;
    s->queue = NULL;
    s->n_queue = s->cap_queue = 0;
    s->last_sync = mg_outset_clock();
    pthread_mutex_unlock(&s->lock);
    atomic_store(&s->unsynced, 0);
    mg_crash_point("flush: begins");
    mg_status st = sync_files(s, false, err);
    if (st == MG_OK && n) {
        mg_crash_point("flush: data on disk");
        s->disposable = false;
        st = mg_journal_append(&s->journal, taken, n, true, err);
        if (st != MG_OK) mg_outset_broken(s, st);
        mg_crash_point("flush: records on disk");
    }
    free(taken);
    return st;
}

mg_status mg_outset_unit_done(mg_outset *s, uint64_t unit, mg_xxh128 hash, mg_error *err) {
    if (!s->started || unit >= s->n_units)
        return mg_fail(err, MG_ERR_INTERNAL, "unit %llu of %llu", (unsigned long long)unit,
                       (unsigned long long)s->n_units);
    MG_TRY(check_broken(s, err));
    pthread_mutex_lock(&s->lock);
    bool ok = push(s, MG_JOURNAL_UNIT, unit, hash);
    if (ok) mark_done(s, unit);
    double since = mg_outset_clock() - s->last_sync;
    pthread_mutex_unlock(&s->lock);
    if (!ok) return mg_fail_nomem(err, sizeof(mg_journal_record));
    if (atomic_load(&s->unsynced) < s->sync_bytes && since < SYNC_SECONDS) return MG_OK;
    if (pthread_mutex_trylock(&s->sync_lock) != 0) return MG_OK; /* someone is at it */
    mg_status st = flush_locked(s, err);
    pthread_mutex_unlock(&s->sync_lock);
    return st;
}

mg_status mg_outset_keep_note(mg_outset *s, uint64_t key, mg_xxh128 value, mg_error *err) {
    if (s->n_notes == s->cap_notes) {
        const size_t cap = s->cap_notes ? s->cap_notes * 2 : 64;
        mg_journal_record *more = realloc(s->notes, cap * sizeof *more);
        if (!more) return mg_fail_nomem(err, cap * sizeof *more);
        s->notes = more;
        s->cap_notes = cap;
    }
    mg_journal_record *r = &s->notes[s->n_notes++];
    *r = (mg_journal_record){.kind = MG_JOURNAL_NOTE, .a = key};
    memcpy(r->b, value.bytes, sizeof value.bytes);
    return MG_OK;
}

mg_status mg_outset_note(mg_outset *s, uint64_t key, mg_xxh128 value, mg_error *err) {
    pthread_mutex_lock(&s->lock);
    mg_status st = mg_outset_keep_note(s, key, value, err);
    if (st == MG_OK && !push(s, MG_JOURNAL_NOTE, key, value)) st = mg_fail_nomem(err, sizeof(mg_journal_record));
    pthread_mutex_unlock(&s->lock);
    return st;
}

bool mg_outset_noted(mg_outset *s, uint64_t key, mg_xxh128 *value) {
    bool found = false;
    pthread_mutex_lock(&s->lock);
    for (size_t i = s->n_notes; i-- > 0 && !found;) {
        found = s->notes[i].a == key;
        if (found) memcpy(value->bytes, s->notes[i].b, sizeof value->bytes);
    }
    pthread_mutex_unlock(&s->lock);
    return found;
}

/* The list of files and their inodes goes to the journal before the first of them is renamed. */
static mg_status record_commit(mg_outset *s, mg_error *err) {
    mg_journal_record *block = calloc(s->n_files + 1, sizeof *block);
    if (!block) return mg_fail_nomem(err, (s->n_files + 1) * sizeof *block);
    block[0] = (mg_journal_record){.kind = MG_JOURNAL_COMMIT, .a = s->n_files};
    for (size_t i = 0; i < s->n_files; i++) {
        block[1 + i] = (mg_journal_record){.kind = MG_JOURNAL_FILE, .a = i};
        memcpy(block[1 + i].b + 8, &s->files[i].inode, 8);
    }
    s->disposable = false;
    mg_status st = mg_journal_append(&s->journal, block, s->n_files + 1, true, err);
    free(block);
    return st == MG_OK ? MG_OK : mg_outset_broken(s, st);
}

int mg_outset_rename(int dirfd, const char *from, const char *to, bool force) {
    struct stat st;
    if (force) return renameat(dirfd, from, dirfd, to);
    if (renameat2(dirfd, from, dirfd, to, RENAME_NOREPLACE) == 0) return 0;
    if (errno != EINVAL && errno != ENOSYS) return -1;
    /* a file system that cannot do it in one step */
    if (fstatat(dirfd, to, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        errno = EEXIST;
        return -1;
    }
    return renameat(dirfd, from, dirfd, to);
}

static mg_status sync_dir(const mg_outset *s, mg_error *err) {
    return mg_outset_place(s, s->dir, mg_fd_sync_dir(s->dirfd, err), err);
}

static mg_status rename_failed(const mg_outset *s, const char *name, mg_error *err) {
    mg_status st = errno == EEXIST
                       ? mg_fail(err, MG_ERR_USAGE, "appeared while this run was writing it; --force replaces it")
                       : mg_fail_errno(err, "cannot give the finished file its name");
    return mg_outset_place(s, name, st, err);
}

static mg_status rename_all(mg_outset *s, mg_error *err) {
    for (size_t i = 0; i < s->n_files; i++) {
        mg_outset_file *f = &s->files[i];
        if (f->renamed) continue;
        if (mg_outset_rename(s->dirfd, f->part, s->specs[i].name, s->options.force) != 0)
            return rename_failed(s, s->specs[i].name, err);
        f->renamed = true;
        mg_crash_point("commit: a file renamed");
    }
    MG_TRY(sync_dir(s, err));
    mg_crash_point("commit: names on disk");
    return MG_OK;
}

static mg_status flush(mg_outset *s, mg_error *err) {
    pthread_mutex_lock(&s->sync_lock);
    mg_status st = flush_locked(s, err);
    pthread_mutex_unlock(&s->sync_lock);
    return st;
}

mg_status mg_outset_share_done(mg_outset *s, mg_error *err) {
    if (!s->started || s->finished || !s->options.world)
        return mg_fail(err, MG_ERR_INTERNAL, "a rank's share ends once, after it started");
    MG_TRY(flush(s, err));
    mg_crash_point("share: on disk");
    s->disposable = false;
    s->finished = true;
    mg_journal_close(&s->journal);
    return MG_OK;
}

mg_status mg_outset_commit(mg_outset *s, mg_error *err) {
    if (!s->started || s->finished || s->options.world)
        return mg_fail(err, MG_ERR_INTERNAL, "an output set is committed once, after it started");
    if (s->n_done != s->n_units)
        return mg_fail(err, MG_ERR_INTERNAL, "%llu of %llu units of output '%s' are not written",
                       (unsigned long long)(s->n_units - s->n_done), (unsigned long long)s->n_units, s->name);
    MG_TRY(flush(s, err));
    mg_crash_point("commit: begins");
    MG_TRY(sync_files(s, true, err));
    MG_TRY(record_commit(s, err));
    mg_crash_point("commit: recorded");
    MG_TRY(rename_all(s, err));
    MG_TRY(mg_outset_ranks_remove(s, err));
    MG_TRY(mg_journal_remove(&s->journal, err));
    s->finished = true;
    mg_crash_point("commit: journal removed");
    return sync_dir(s, err);
}

/* Interrupted: keep what is finished. Nothing finished: leave no trace. */
static void leave(mg_outset *s) {
    if (s->started && !s->finished && atomic_load(&s->broken) == MG_OK && s->n_queue) {
        mg_status st = flush(s, NULL);
        if (st != MG_OK) mg_outset_broken(s, st); /* nothing was claimed; the rerun does it again */
    }
    if (s->options.world && !s->finished && (s->journal.fd < 0 || s->disposable)) mg_outset_ranks_leave(s);
    if (s->finished || s->journal.fd < 0 || !s->disposable) return;
    for (size_t i = 0; i < s->n_files; i++)
        if (s->files[i].fd >= 0 && !s->files[i].renamed) unlinkat(s->dirfd, s->files[i].part, 0);
    mg_status st = mg_journal_remove(&s->journal, NULL);
    (void)st; /* a journal that claims nothing is harmless */
}

void mg_outset_free(mg_outset *s) {
    if (!s) return;
    leave(s);
    mg_journal_close(&s->journal);
    mg_outset_ranks_release(s);
    for (size_t i = 0; i < s->n_files; i++) {
        if (s->files[i].fd >= 0) close(s->files[i].fd);
        free(s->specs[i].name);
    }
    if (s->dirfd >= 0) close(s->dirfd);
    mg_strmap_release(&s->names);
    pthread_mutex_destroy(&s->lock);
    pthread_mutex_destroy(&s->sync_lock);
    free(s->specs);
    free(s->files);
    free(s->claimed);
    free(s->hashes);
    free(s->done);
    free(s->queue);
    free(s->notes);
    free(s->dir);
    free(s->name);
    free(s->journal_path);
    free(s);
}
