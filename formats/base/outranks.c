/* outranks.c - see outranks.h.
 *
 * .NAME.ranks: 64 bytes (magic, version, ranks, plan id, bytes that follow, check), then mg_outset_options.shared. The
 * check is XXH3-64 over header (check = 0) and what follows; the magic is written last, so that a file whose creation
 * was cut short says nothing. It is never replaced, only written in place under its lock and removed. */
#include "formats/base/outranks.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/base/crash.h"
#include "formats/base/file.h"

#define MAX_SHARED   (UINT64_C(4) << 30)
#define WAIT_SECONDS 60.0

enum { RANKS_VERSION = 1 };

struct header {
    uint8_t magic[8];
    uint32_t version;
    uint32_t world;
    mg_xxh128 plan;
    uint64_t size;
    uint64_t zero[2];
    uint64_t check;
};
_Static_assert(sizeof(struct header) == 64, "the header is written as it lies in memory");

static const uint8_t magic[8] = {'M', 'G', 'R', 'A', 'N', 'K', 'S', '\n'};

/* ---- names ---- */

static bool number(const char **p, uint32_t *out) {
    const char *s = *p;
    uint64_t v = 0;
    if (*s < '0' || *s > '9' || (*s == '0' && s[1] >= '0' && s[1] <= '9')) return false;
    for (; *s >= '0' && *s <= '9' && v <= MG_RANKS_MAX; s++) v = v * 10 + (uint64_t)(*s - '0');
    *p = s;
    *out = (uint32_t)v;
    return v <= MG_RANKS_MAX;
}

bool mg_ranks_journal_name(const char *file, size_t *name_len, uint32_t *rank, uint32_t *world) {
    static const char end[] = ".journal";
    const size_t n = strlen(file), k = sizeof end - 1;
    if (file[0] != '.' || n < k + 2 || strcmp(file + n - k, end) != 0) return false;
    size_t dot = n - k;
    while (dot > 1 && file[dot - 1] != '.') dot--;
    if (dot < 3) return false;
    const char *p = file + dot;
    if (!number(&p, rank) || strncmp(p, "-of-", 4) != 0) return false;
    p += 4;
    if (!number(&p, world) || p != file + n - k || *rank >= *world) return false;
    *name_len = dot - 2;
    return true;
}

bool mg_outset_is_shared(const char *file, size_t *name_len) {
    static const char end[] = ".ranks";
    const size_t n = strlen(file), k = sizeof end - 1;
    if (file[0] != '.' || n < k + 2 || strcmp(file + n - k, end) != 0) return false;
    *name_len = n - k - 1;
    return true;
}

static void file_name(char out[264], const char *name) {
    snprintf(out, 264, ".%s.ranks", name); /* 240 bytes at most, checked by mg_outset_new */
}

/* ---- the file ---- */

static mg_status damaged(mg_error *err) {
    return mg_fail(err, MG_ERR_INTEGRITY, "what the ranks agreed on is damaged; --restart of all ranks discards it");
}

/* *data NULL: there is nothing in it yet. */
static mg_status load(int fd, uint32_t *world, mg_xxh128 *plan, uint8_t **data, uint64_t *size, mg_error *err) {
    struct header h;
    struct stat st;
    static const uint8_t zeros[sizeof magic] = {0};
    *data = NULL;
    if (fstat(fd, &st) != 0) return mg_fail_errno(err, "cannot stat");
    if ((uint64_t)st.st_size < sizeof h) return MG_OK;
    MG_TRY(mg_fd_read(fd, 0, &h, sizeof h, err));
    if (memcmp(h.magic, zeros, sizeof zeros) == 0) return MG_OK;
    if (memcmp(h.magic, magic, sizeof magic) != 0) return damaged(err);
    if (h.version > RANKS_VERSION)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "written by a newer moegraft (version %u, this one reads %d)",
                       h.version, RANKS_VERSION);
    if (h.size > MAX_SHARED || h.size != (uint64_t)st.st_size - sizeof h || h.world < 1 || h.world > MG_RANKS_MAX)
        return damaged(err);
    uint8_t *text = malloc((size_t)h.size + sizeof h);
    if (!text) return mg_fail_nomem(err, h.size + sizeof h);
    mg_status r = mg_fd_read(fd, 0, text, h.size + sizeof h, err);
    if (r == MG_OK) {
        memset(text + offsetof(struct header, check), 0, sizeof h.check);
        if (mg_xxh64_of(text, (size_t)h.size + sizeof h) != h.check) r = damaged(err);
    }
    if (r != MG_OK) {
        free(text);
        return r;
    }
    memmove(text, text + sizeof h, (size_t)h.size);
    *data = text;
    *size = h.size;
    *world = h.world;
    *plan = h.plan;
    return MG_OK;
}

static mg_status store(mg_outset *s, mg_error *err) {
    const uint64_t size = s->options.shared_size, total = size + sizeof(struct header);
    uint8_t *text = malloc((size_t)total);
    if (!text) return mg_fail_nomem(err, total);
    struct header h = {.version = RANKS_VERSION, .world = s->options.world, .plan = s->plan, .size = size};
    memcpy(h.magic, magic, sizeof magic);
    memcpy(text, &h, sizeof h);
    if (size) memcpy(text + sizeof h, s->options.shared, (size_t)size);
    h.check = mg_xxh64_of(text, (size_t)total);
    memcpy(text, &h, sizeof h);
    mg_status st = ftruncate(s->ranks_fd, 0) == 0 ? MG_OK : mg_fail_errno(err, "cannot empty");
    if (st == MG_OK) st = mg_fd_write(s->ranks_fd, sizeof magic, text + sizeof magic, total - sizeof magic, err);
    mg_crash_point("ranks: file without its magic");
    if (st == MG_OK && fdatasync(s->ranks_fd) != 0) st = mg_fail_errno(err, "cannot bring it to disk");
    if (st == MG_OK) st = mg_fd_write(s->ranks_fd, 0, text, sizeof magic, err);
    if (st == MG_OK && fdatasync(s->ranks_fd) != 0) st = mg_fail_errno(err, "cannot bring it to disk");
    free(text);
    mg_crash_point("ranks: file on disk");
    return st;
}

mg_status mg_outset_shared(const char *dir, const char *name, uint32_t *world, mg_xxh128 *plan, uint8_t **data,
                           uint64_t *size, mg_error *err) {
    char file[264], path[4096];
    *data = NULL;
    if (mg_path_check_plain(name, NULL) != MG_OK || strlen(name) > 240) return MG_OK;
    file_name(file, name);
    MG_TRY(mg_path_join(path, sizeof path, dir, file, err));
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT) return MG_OK;
    mg_status st = fd < 0 ? mg_fail_errno(err, "cannot open") : load(fd, world, plan, data, size, err);
    if (fd >= 0) close(fd);
    if (st != MG_OK) mg_error_at(err, path, NULL);
    return st;
}

/* ---- the ranks' journals ---- */

typedef mg_status (*rank_fn)(mg_outset *s, const char *file, uint32_t rank, uint32_t world, mg_error *err);

static mg_status each_journal(mg_outset *s, rank_fn fn, size_t *found, mg_error *err) {
    const int fd = openat(s->dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    mg_status st = MG_OK;
    *found = 0;
    if (!d) {
        st = mg_fail_errno(err, "cannot list the output directory");
        if (fd >= 0) close(fd);
        return st;
    }
    for (struct dirent *e; st == MG_OK && (e = readdir(d));) {
        size_t n;
        uint32_t rank, world;
        if (!mg_ranks_journal_name(e->d_name, &n, &rank, &world)) continue;
        if (n != strlen(s->name) || strncmp(e->d_name + 1, s->name, n) != 0) continue;
        ++*found;
        if (fn) st = fn(s, e->d_name, rank, world, err);
    }
    closedir(d);
    return st;
}

/* Open and lock one, and keep it so. */
static mg_status hold(mg_outset *s, const char *file, uint32_t rank, uint32_t world, mg_error *err) {
    char path[4608], why[sizeof err->message];
    mg_journal *more = realloc(s->others, (s->n_others + 1) * sizeof *more);
    if (more) s->others = more;
    char **paths = more ? realloc(s->other_paths, (s->n_others + 1) * sizeof *paths) : NULL;
    if (paths) s->other_paths = paths;
    snprintf(path, sizeof path, "%s/%s", s->dir, file);
    char *copy = paths ? strdup(path) : NULL;
    if (!copy) return mg_fail_nomem(err, sizeof *more + strlen(path));
    s->other_paths[s->n_others] = copy;
    mg_status st = mg_journal_open(&s->others[s->n_others], s->dirfd, copy, err);
    if (st == MG_OK) {
        s->n_others++;
        return MG_OK;
    }
    free(copy);
    if (st == MG_ERR_IO && err) {
        snprintf(why, sizeof why, "%s", err->message);
        snprintf(err->message, sizeof err->message, "rank %u of %u is at work: %.900s", rank, world, why);
    }
    return st;
}

static void let_go(mg_outset *s) {
    for (size_t i = 0; i < s->n_others; i++) {
        mg_journal_close(&s->others[i]);
        free(s->other_paths[i]);
    }
    free(s->others);
    free(s->other_paths);
    s->others = NULL;
    s->other_paths = NULL;
    s->n_others = 0;
}

static mg_status remove_journals(mg_outset *s, mg_error *err) {
    for (size_t i = 0; i < s->n_others; i++) {
        MG_TRY(mg_journal_remove(&s->others[i], err));
        mg_crash_point("ranks: a journal removed");
    }
    return MG_OK;
}

static void remove_parts(mg_outset *s) {
    for (size_t i = 0; i < s->n_files; i++) {
        unlinkat(s->dirfd, s->files[i].part, 0);
        mg_crash_point("ranks: a part file removed");
    }
}

/* --restart: no rank may be at work, and nothing of theirs is wanted. */
static mg_status discard(mg_outset *s, mg_error *err) {
    size_t n;
    if (!s->n_others) MG_TRY(each_journal(s, hold, &n, err));
    remove_parts(s); /* of another plan they may have other names: those have no journal then, and clean finds them */
    mg_status st = remove_journals(s, err);
    let_go(s);
    return st;
}

/* ---- beginning ---- */

/* Open and lock .NAME.ranks; ranks_fd stays -1 when it is absent and create is not set. */
static mg_status lock(mg_outset *s, bool create, mg_error *err) {
    char file[264];
    struct stat open_one, named;
    bool busy, again = true;
    file_name(file, s->name);
    while (again) {
        s->ranks_fd = openat(s->dirfd, file, O_RDWR | O_CLOEXEC | O_NOFOLLOW | (create ? O_CREAT : 0), 0666);
        if (s->ranks_fd < 0 && errno == ENOENT && !create) return MG_OK;
        if (s->ranks_fd < 0) return mg_fail_errno(err, "cannot open '%s'", file);
        MG_TRY(mg_fd_lock_wait(s->ranks_fd, WAIT_SECONDS, &busy, err));
        if (busy)
            return mg_fail(err, MG_ERR_IO, "another process is completing this output and holds the lock on '%s'",
                           file);
        if (fstat(s->ranks_fd, &open_one) != 0) return mg_fail_errno(err, "cannot stat '%s'", file);
        again = fstatat(s->dirfd, file, &named, AT_SYMLINK_NOFOLLOW) != 0 || named.st_ino != open_one.st_ino;
        if (again) close(s->ranks_fd);
    }
    return MG_OK;
}

static mg_status conflict(const mg_outset *s, uint32_t world, mg_xxh128 plan, mg_error *err) {
    char theirs[33], ours[33];
    mg_hex(plan.bytes, 16, theirs);
    mg_hex(s->plan.bytes, 16, ours);
    if (memcmp(plan.bytes, s->plan.bytes, 16) == 0)
        return mg_fail(err, MG_ERR_CONFLICT,
                       "ranks of %u have begun this output, this one is of %u; the number must be the same for all, or "
                       "--restart discards what they did",
                       world, s->options.world);
    return mg_fail(err, MG_ERR_CONFLICT,
                   "ranks with other inputs or options have begun this output (plan %s, this one is %s); all must be "
                   "given the same, or --restart discards what they did",
                   theirs, ours);
}

/* Compare what the others agreed on with ours. *same false: there is nothing, or it was discarded. */
static mg_status agree(mg_outset *s, bool *same, mg_error *err) {
    uint32_t world;
    mg_xxh128 plan;
    uint8_t *data;
    uint64_t size;
    *same = false;
    mg_status st = load(s->ranks_fd, &world, &plan, &data, &size, s->options.restart ? NULL : err);
    if (st != MG_OK && !s->options.restart) return st;
    if (st != MG_OK) return discard(s, err);
    if (!data) return MG_OK;
    *same = memcmp(plan.bytes, s->plan.bytes, 16) == 0;
    if (s->options.world)
        *same = *same && world == s->options.world && size == s->options.shared_size &&
                memcmp(data, s->options.shared, (size_t)size) == 0;
    free(data);
    if (!s->options.world && s->options.restart) *same = false;
    if (*same) return MG_OK;
    return s->options.restart ? discard(s, err) : conflict(s, world, plan, err);
}

static mg_status begin_rank(mg_outset *s, mg_error *err) {
    bool same;
    MG_TRY(lock(s, true, err));
    MG_TRY(agree(s, &same, err));
    return same ? MG_OK : store(s, err);
}

/* A process that works alone takes over what ranks did. */
static mg_status begin_alone(mg_outset *s, mg_error *err) {
    bool same;
    size_t n;
    MG_TRY(lock(s, false, err));
    if (s->ranks_fd < 0) return MG_OK;
    MG_TRY(each_journal(s, hold, &n, err));
    return agree(s, &same, err);
}

mg_status mg_outset_ranks_begin(mg_outset *s, mg_error *err) {
    return mg_outset_place(s, s->dir, s->options.world ? begin_rank(s, err) : begin_alone(s, err), err);
}

static mg_status take(mg_outset *s, mg_journal *j, bool whole, mg_error *err) {
    mg_journal_image image;
    MG_TRY(mg_journal_load(j, &image, err));
    mg_status st = MG_OK;
    bool committed = false;
    for (size_t i = 0; i < image.n_records; i++) committed = committed || image.records[i].kind == MG_JOURNAL_COMMIT;
    if (!image.empty && (memcmp(image.plan.bytes, s->plan.bytes, 16) != 0 || !mg_outset_same_layout(s, &image)))
        st = mg_fail(err, MG_ERR_CONFLICT, "this journal is of another run; --restart discards it");
    else if (committed && whole)
        st = mg_fail(err, MG_ERR_CONFLICT, "the output is complete and only lacks its names: moegraft finalize");
    else if (!image.empty)
        st = mg_outset_take_claims(s, &image, MG_CLAIM_OTHER, err);
    if (st != MG_OK) mg_error_at(err, j->path, NULL);
    mg_journal_image_release(&image);
    return st;
}

/* The journal of a run without ranks that was interrupted before. */
static mg_status take_alone(mg_outset *s, mg_error *err) {
    char path[4608];
    mg_journal j;
    snprintf(path, sizeof path, "%s/.%s.journal", s->dir, s->name);
    if (!mg_path_exists(path)) return MG_OK;
    MG_TRY(mg_journal_open(&j, s->dirfd, path, err));
    mg_status st = take(s, &j, true, err);
    mg_journal_close(&j);
    return st;
}

mg_status mg_outset_ranks_claims(mg_outset *s, mg_error *err) {
    if (s->options.world) return take_alone(s, err);
    for (size_t i = 0; i < s->n_others; i++) MG_TRY(take(s, &s->others[i], false, err));
    return MG_OK;
}

/* ---- ending ---- */

static mg_status remove_file(mg_outset *s, mg_error *err) {
    char file[264];
    file_name(file, s->name);
    if (unlinkat(s->dirfd, file, 0) != 0 && errno != ENOENT)
        return mg_outset_place(s, s->dir, mg_fail_errno(err, "cannot remove '%s'", file), err);
    mg_crash_point("ranks: file removed");
    return MG_OK;
}

mg_status mg_outset_ranks_remove(mg_outset *s, mg_error *err) {
    if (s->ranks_fd < 0) return MG_OK;
    MG_TRY(remove_journals(s, err));
    return remove_file(s, err);
}

void mg_outset_ranks_leave(mg_outset *s) {
    size_t n = 0;
    char alone[4608];
    if (s->ranks_fd < 0 && lock(s, false, NULL) != MG_OK) return;
    if (s->ranks_fd < 0) return;
    if (s->journal.fd >= 0 && mg_journal_remove(&s->journal, NULL) != MG_OK) return;
    snprintf(alone, sizeof alone, "%s/.%s.journal", s->dir, s->name);
    if (each_journal(s, NULL, &n, NULL) != MG_OK || n || mg_path_exists(alone)) return;
    remove_parts(s);
    mg_status st = remove_file(s, NULL);
    (void)st; /* it names nothing any more */
}

void mg_outset_ranks_release(mg_outset *s) {
    let_go(s);
    if (s->ranks_fd >= 0) close(s->ranks_fd);
    s->ranks_fd = -1;
}
