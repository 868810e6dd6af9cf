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
#include "formats/base/outranks.h"

typedef struct cleaner {
    const char *dir;
    int dirfd;
    const mg_clean_options *opt;
    mg_clean_fn fn;
    void *ctx;
    char **names; /* [n] entries that are called like ours, sorted */
    bool *named;  /* [n] part files that a journal names, and journals of ranks that are dealt with */
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
        if (!called(e->d_name, ".journal") && !called(e->d_name, ".part") && !called(e->d_name, ".ranks") &&
            !called(e->d_name, ".stage-lock"))
            continue;
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

/* ---- ranks ---- */

/* The journals of a set that ranks write: theirs, and that of whoever completes it. */
typedef struct group {
    const char *name; /* of the set */
    size_t len;
    size_t *at; /* [n] entries */
    mg_journal *journals;
    mg_journal_image *images;
    size_t n, n_open;
    char (*paths)[4096];
} group;

static bool is_of(const group *g, const char *entry) {
    size_t len;
    uint32_t rank, world;
    if (mg_ranks_journal_name(entry, &len, &rank, &world)) return len == g->len && !strncmp(entry + 1, g->name, len);
    return called(entry, ".journal") && strlen(entry) == g->len + 9 && !strncmp(entry + 1, g->name, g->len);
}

static mg_status open_group(cleaner *c, group *g, mg_error *err) {
    g->at = calloc(c->n, sizeof *g->at);
    g->journals = calloc(c->n, sizeof *g->journals);
    g->images = calloc(c->n, sizeof *g->images);
    g->paths = calloc(c->n, sizeof *g->paths);
    if (!g->at || !g->journals || !g->images || !g->paths) return mg_fail_nomem(err, c->n * sizeof *g->paths);
    for (size_t i = 0; i < c->n; i++)
        if (is_of(g, c->names[i])) g->at[g->n++] = i;
    for (; g->n_open < g->n; g->n_open++) {
        mg_journal *j = &g->journals[g->n_open];
        MG_TRY(mg_path_join(g->paths[g->n_open], sizeof *g->paths, c->dir, c->names[g->at[g->n_open]], err));
        MG_TRY(mg_journal_open(j, c->dirfd, g->paths[g->n_open], err));
        mg_status st = mg_journal_load(j, &g->images[g->n_open], err);
        if (st != MG_OK) {
            mg_journal_close(j);
            return st;
        }
    }
    return MG_OK;
}

static void close_group(group *g) {
    for (size_t i = 0; i < g->n_open; i++) {
        mg_journal_image_release(&g->images[i]);
        mg_journal_close(&g->journals[i]);
    }
    free(g->at);
    free(g->journals);
    free(g->images);
    free(g->paths);
}

/* Do the journals together claim every unit? */
static bool is_covered(const group *g) {
    uint64_t units = 0, claimed = 0;
    for (size_t i = 0; i < g->n_open; i++)
        if (!g->images[i].empty) units = g->images[i].n_units;
    uint8_t *seen = units ? calloc((size_t)units, 1) : NULL;
    for (size_t i = 0; seen && i < g->n_open; i++)
        for (size_t k = 0; k < g->images[i].n_records; k++) {
            const mg_journal_record *r = &g->images[i].records[k];
            if (r->kind != MG_JOURNAL_UNIT || r->a >= units || seen[r->a]) continue;
            seen[r->a] = 1;
            claimed++;
        }
    free(seen);
    return units && claimed == units;
}

static void keep_group(cleaner *c, const group *g, const char *file, const char *why) {
    keep(c, file, why);
    for (size_t i = 0; i < g->n; i++) {
        keep(c, c->names[g->at[i]], why);
        c->named[g->at[i]] = true;
    }
    for (size_t i = 0; i < g->n_open; i++)
        for (size_t k = 0; k < g->images[i].n_files; k++) {
            const size_t at = part_of(c, g->images[i].files[k].name);
            if (at < c->n) c->named[at] = true;
        }
}

static mg_status drop_group(cleaner *c, const group *g, const char *file, mg_error *err) {
    for (size_t i = 0; i < g->n_open; i++)
        for (size_t k = 0; k < g->images[i].n_files; k++) {
            const size_t at = part_of(c, g->images[i].files[k].name);
            if (at == c->n || c->named[at]) continue;
            c->named[at] = true;
            MG_TRY(drop(c, c->names[at], err));
        }
    for (size_t i = 0; i < g->n; i++) {
        c->named[g->at[i]] = true;
        MG_TRY(drop(c, c->names[g->at[i]], err)); /* still locked */
    }
    return drop(c, file, err);
}

/* What ranks agreed on, with all that is theirs: either everything goes or nothing. */
static mg_status clean_ranks(cleaner *c, const char *file, mg_error *err) {
    group g = {.name = file + 1};
    mg_error why = {0};
    struct stat st;
    bool busy = false;
    int fd = -1;
    char path[4096];
    MG_TRY(mg_path_join(path, sizeof path, c->dir, file, err));
    if (!mg_outset_is_shared(file, &g.len) || !regular(c, file, &st)) {
        keep(c, file, "is no regular file");
        return MG_OK;
    }
    mg_status s = mg_lock_file(&fd, path, 0, &busy, &why);
    if (s == MG_OK && busy) s = mg_fail(&why, MG_ERR_IO, "another process is completing this output");
    if (s == MG_OK) s = open_group(c, &g, &why);
    if (s != MG_OK) {
        c->busy = true;
        keep_group(c, &g, file, why.message);
        s = MG_OK;
    } else if (is_covered(&g)) {
        keep_group(c, &g, file, "all ranks are done: moegraft finalize completes it");
    } else {
        s = drop_group(c, &g, file, err);
    }
    close_group(&g);
    if (fd >= 0) close(fd);
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
        if (called(c->names[i], ".ranks")) MG_TRY(clean_ranks(c, c->names[i], err));
    for (size_t i = 0; i < c->n; i++)
        if (called(c->names[i], ".stage-lock") && !is_locked(c, c->names[i])) MG_TRY(drop(c, c->names[i], err));
    for (size_t i = 0; i < c->n; i++)
        if (called(c->names[i], ".journal") && !c->named[i]) MG_TRY(clean_journal(c, c->names[i], err));
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
