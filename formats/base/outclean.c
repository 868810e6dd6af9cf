/* outclean.c - see outclean.h. Part files go first and the journal last, so that a run of this that is cut short is
 * just repeated. */
#include "formats/base/outclean.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/base/file.h"
#include "formats/base/journal.h"

typedef struct cleaner {
    const char *dir;
    int dirfd;
    const mg_clean_options *opt;
    mg_clean_fn fn;
    void *ctx;
    char **names; /* [n] entries that are called like ours, sorted */
    bool *named;  /* [n] part files that a journal names */
    size_t n;
    bool busy; /* a journal is held by a process: which part files are its is not known */
} cleaner;

static bool called(const char *name, const char *ending) {
    const size_t n = strlen(name), k = strlen(ending);
    return name[0] == '.' && n > k + 1 && !strcmp(name + n - k, ending);
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static mg_status list(cleaner *c, DIR *d, mg_error *err) {
    size_t cap = 0;
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        if (!called(e->d_name, ".journal") && !called(e->d_name, ".part")) continue;
        if (c->n == cap) {
            cap = cap ? 2 * cap : 16;
            char **names = realloc(c->names, cap * sizeof *names);
            if (!names) return mg_fail_nomem(err, cap * sizeof *names);
            c->names = names;
        }
        c->names[c->n] = strdup(e->d_name);
        if (!c->names[c->n++]) return mg_fail_nomem(err, strlen(e->d_name));
    }
    if (c->n) qsort(c->names, c->n, sizeof *c->names, by_name);
    c->named = calloc(c->n + 1, sizeof *c->named);
    return c->named ? MG_OK : mg_fail_nomem(err, c->n);
}

static bool regular(const cleaner *c, const char *name, struct stat *st) {
    return fstatat(c->dirfd, name, st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st->st_mode);
}

static void keep(const cleaner *c, const char *name, const char *why) {
    struct stat st;
    c->fn(c->ctx, c->dir, name, regular(c, name, &st) ? (uint64_t)st.st_size : 0, why);
}

static mg_status drop(const cleaner *c, const char *name, mg_error *err) {
    struct stat st;
    if (!regular(c, name, &st)) return MG_OK;
    if (!c->opt->dry_run && unlinkat(c->dirfd, name, 0) != 0) return mg_fail_errno(err, "cannot remove '%s'", name);
    c->fn(c->ctx, c->dir, name, (uint64_t)st.st_size, NULL);
    return MG_OK;
}

/* The entry ".NAME.part", c->n when it is not there. NAME comes out of a journal and may be anything. */
static size_t part_of(const cleaner *c, const char *name) {
    char part[264];
    size_t i = 0;
    if (mg_path_check_plain(name, NULL) != MG_OK || strlen(name) > 240) return c->n;
    snprintf(part, sizeof part, ".%s.part", name);
    while (i < c->n && strcmp(c->names[i], part)) i++;
    return i;
}

/* The set of an open journal. */
static mg_status clean_set(cleaner *c, mg_journal *j, const mg_journal_image *image, mg_error *err) {
    bool committed = false, parts = false;
    for (size_t i = 0; i < image->n_records; i++) committed = committed || image->records[i].kind == MG_JOURNAL_COMMIT;
    for (size_t i = 0; i < image->n_files; i++) {
        const size_t at = part_of(c, image->files[i].name);
        if (at == c->n) continue;
        c->named[at] = parts = true;
    }
    const bool wait = committed && parts; /* without parts every file has its name and the journal alone is left */
    if (wait) keep(c, j->name, "its files are complete and only lack their names: run its command again");
    for (size_t i = 0; i < image->n_files && !wait; i++) {
        const size_t at = part_of(c, image->files[i].name);
        if (at < c->n) MG_TRY(drop(c, c->names[at], err));
    }
    if (wait) return MG_OK;
    const char *name = j->name;
    struct stat st;
    const uint64_t bytes = regular(c, name, &st) ? (uint64_t)st.st_size : 0;
    if (!c->opt->dry_run) MG_TRY(mg_journal_remove(j, err));
    c->fn(c->ctx, c->dir, name, bytes, NULL);
    return MG_OK;
}

static mg_status clean_journal(cleaner *c, const char *name, mg_error *err) {
    mg_journal j;
    mg_journal_image image;
    struct stat st;
    mg_error why = {0};
    char path[4096];
    MG_TRY(mg_path_join(path, sizeof path, c->dir, name, err));
    if (!regular(c, name, &st)) {
        keep(c, name, "is no regular file");
        return MG_OK;
    }
    if (mg_journal_open(&j, c->dirfd, path, &why) != MG_OK) {
        c->busy = true;
        keep(c, name, why.message);
        return MG_OK;
    }
    mg_status s = MG_OK;
    if (mg_journal_load(&j, &image, &why) != MG_OK) {
        c->busy = true;
        keep(c, name, why.message);
    } else {
        s = clean_set(c, &j, &image, err);
        mg_journal_image_release(&image);
    }
    mg_journal_close(&j);
    return s;
}

/* A small file is locked itself while it is written. */
static bool is_locked(const cleaner *c, const char *name) {
    bool busy = true;
    const int fd = openat(c->dirfd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return true;
    if (mg_fd_lock(fd, &busy, NULL) != MG_OK) busy = true;
    close(fd);
    return busy;
}

static mg_status clean_orphan(cleaner *c, const char *name, mg_error *err) {
    struct stat st;
    const char *why = !regular(c, name, &st) ? "is no regular file"
                      : c->busy              ? "a journal beside it may name it"
                      : is_locked(c, name)   ? "another process is writing it"
                      : !c->opt->orphans     ? "no journal names it (--all removes it)"
                                             : NULL;
    if (!why) return drop(c, name, err);
    keep(c, name, why);
    return MG_OK;
}

static mg_status clean_all(cleaner *c, DIR *d, mg_error *err) {
    MG_TRY(list(c, d, err));
    for (size_t i = 0; i < c->n; i++)
        if (called(c->names[i], ".journal")) MG_TRY(clean_journal(c, c->names[i], err));
    for (size_t i = 0; i < c->n; i++)
        if (called(c->names[i], ".part") && !c->named[i]) MG_TRY(clean_orphan(c, c->names[i], err));
    return c->opt->dry_run ? MG_OK : mg_fd_sync_dir(c->dirfd, err);
}

mg_status mg_outset_clean(const char *dir, const mg_clean_options *opt, mg_clean_fn fn, void *ctx, mg_error *err) {
    cleaner c = {.dir = dir, .opt = opt, .fn = fn, .ctx = ctx};
    DIR *d = opendir(dir);
    if (!d) {
        mg_status st = mg_fail_errno(err, "cannot read the directory");
        mg_error_at(err, dir, NULL);
        return st;
    }
    c.dirfd = dirfd(d);
    mg_status st = clean_all(&c, d, err);
    if (st != MG_OK) mg_error_at(err, dir, NULL);
    for (size_t i = 0; i < c.n; i++) free(c.names[i]);
    free(c.names);
    free(c.named);
    closedir(d);
    return st;
}
