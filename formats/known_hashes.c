/* known_hashes.c - see known_hashes.h. A record is input like any other: what it says is a name and hex digits, or it
 * is passed over. */
#include "formats/known_hashes.h"

#include <ctype.h>
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/json.h"
#include "formats/base/md5.h"

enum { LIST_CAP = 16 << 20, MANIFEST_CAP = 1 << 30 };

/* ---- records ---- */

/* Hex digits at the start of a text: 64 or 32 of them, lower case, else nothing. */
static size_t take_hex(mg_known_hash *k, const char *text) {
    size_t n = 0;
    while (n < 65 && isxdigit((unsigned char)text[n])) n++;
    if (n != 64 && n != 32) return 0;
    for (size_t i = 0; i < n; i++) k->hex[i] = (char)tolower((unsigned char)text[i]);
    k->hex[n] = 0;
    return n;
}

static void found_in(mg_known_hash *k, const char *path) {
    snprintf(k->from, sizeof k->from, "%.511s", path);
}

static mg_status from_manifest(mg_known_hash *k, const char *dir, const char *name, const char *file, mg_error *err) {
    char path[4096];
    mg_json *m = NULL;
    if (mg_path_join(path, sizeof path, dir, name, NULL) != MG_OK || !mg_path_exists(path)) return MG_OK;
    MG_TRY(mg_json_load(&m, path, MANIFEST_CAP, err));
    for (const mg_json *f = mg_json_first(mg_json_get(m, "files")); f; f = mg_json_next(f)) {
        const char *n = mg_json_str(mg_json_get(f, "name")), *hex = mg_json_str(mg_json_get(f, "sha256"));
        if (n && hex && !strcmp(n, file) && take_hex(k, hex) == 64) found_in(k, path);
    }
    mg_json_free(m);
    return MG_OK;
}

/* A link into the blobs of a cache is called by the hash of what it points to; git's own hashes have 40 digits. */
static void from_cache(mg_known_hash *k, const char *dir, const char *file) {
    char path[4096], to[4096];
    if (mg_path_join(path, sizeof path, dir, file, NULL) != MG_OK) return;
    const ssize_t n = readlink(path, to, sizeof to - 1);
    if (n <= 0) return;
    to[n] = 0;
    const char *slash = strrchr(to, '/'), *name = slash ? slash + 1 : to;
    if (!slash || slash - to < 5 || strncmp(slash - 5, "blobs", 5) != 0 || strlen(name) != 64) return;
    if (take_hex(k, name) == 64) found_in(k, "the name of its blob in the cache");
}

static void from_download(mg_known_hash *k, const char *dir, const char *file) {
    char path[8192], *text = NULL;
    size_t n;
    mg_error unused = {0};
    const int len = snprintf(path, sizeof path, "%s/.cache/huggingface/download/%s.metadata", dir, file);
    if (len < 0 || (size_t)len >= sizeof path || !mg_path_exists(path)) return;
    if (mg_file_slurp(path, LIST_CAP, &text, &n, &unused) != MG_OK) return;
    const char *second = strchr(text, '\n');
    if (second && strcspn(second + 1, "\r\n") == 64 && take_hex(k, second + 1) == 64) found_in(k, path);
    free(text);
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Lines of sha256sum or md5sum; a list of one hash without a name is of the file it is named after. */
static void from_list(mg_known_hash *k, const char *path, const char *file, bool own) {
    char *text = NULL;
    size_t size;
    mg_error unused = {0};
    if (mg_file_slurp(path, LIST_CAP, &text, &size, &unused) != MG_OK) return;
    for (char *save = NULL, *line = strtok_r(text, "\r\n", &save); line; line = strtok_r(NULL, "\r\n", &save)) {
        mg_known_hash here = {0};
        const size_t n = take_hex(&here, line);
        const char *name = line + n;
        if (!n || (strlen(k->hex) == 64 && n == 32)) continue;
        while (*name == ' ' || *name == '*' || *name == '\t') name++;
        if (*name ? strcmp(base_name(name), file) != 0 : !own) continue;
        memcpy(k->hex, here.hex, sizeof k->hex);
        found_in(k, path);
    }
    free(text);
}

static bool contains(const char *text, const char *word) {
    return strcasestr(text, word) != NULL;
}

static bool is_list(const char *name) {
    const size_t n = strlen(name);
    if (n > 12 && !strcasecmp(name + n - 12, ".safetensors")) return false;
    return contains(name, "sha256") || contains(name, "md5") || !strcasecmp(name, "checklist.chk") ||
           !strcmp(name, "RELEASE");
}

static void from_lists(mg_known_hash *k, const char *dir, const char *file) {
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        char path[4096];
        struct stat st;
        const size_t n = strlen(file);
        const bool own = !strncmp(e->d_name, file, n) && e->d_name[n] == '.';
        if (!is_list(e->d_name) || mg_path_join(path, sizeof path, dir, e->d_name, NULL) != MG_OK) continue;
        if (stat(path, &st) == 0 && S_ISREG(st.st_mode)) from_list(k, path, file, own);
    }
    if (d) closedir(d);
}

mg_status mg_known_hash_find(mg_known_hash *k, const char *dir, const char *file, mg_error *err) {
    char name[512];
    *k = (mg_known_hash){0};
    if (snprintf(name, sizeof name, "%s.manifest.json", file) < (int)sizeof name)
        MG_TRY(from_manifest(k, dir, name, file, err));
    if (!k->hex[0]) MG_TRY(from_manifest(k, dir, "model.manifest.json", file, err));
    if (!k->hex[0]) from_cache(k, dir, file);
    if (!k->hex[0]) from_download(k, dir, file);
    if (!k->hex[0]) from_lists(k, dir, file);
    return MG_OK;
}

/* ---- comparing ---- */

typedef struct job {
    char path[4096];
    mg_known_hash known;
    uint64_t size;
} job;

typedef struct jobs {
    job *items;
    size_t n, cap;
} jobs;

static mg_status add_file(jobs *j, const char *dir, const char *file, uint32_t share, uint32_t of, uint64_t *seen,
                          mg_known_counts *counts, mg_error *err) {
    job x = {0};
    struct stat st;
    MG_TRY(mg_path_join(x.path, sizeof x.path, dir, file, err));
    for (size_t i = 0; i < j->n; i++)
        if (!strcmp(j->items[i].path, x.path)) return MG_OK;
    if (of && (*seen)++ % of != share) return MG_OK;
    MG_TRY(mg_known_hash_find(&x.known, dir, file, err));
    if (!x.known.hex[0]) {
        if (!counts->unknown++) snprintf(counts->first_unknown, sizeof counts->first_unknown, "%.511s", x.path);
        return MG_OK;
    }
    if (stat(x.path, &st) == 0) x.size = (uint64_t)st.st_size;
    if (j->n == j->cap) {
        const size_t cap = j->cap ? 2 * j->cap : 16;
        job *more = realloc(j->items, cap * sizeof *more);
        if (!more) return mg_fail_nomem(err, cap * sizeof *more);
        j->items = more;
        j->cap = cap;
    }
    j->items[j->n++] = x;
    counts->files++;
    counts->bytes += x.size;
    return MG_OK;
}

static mg_status compare(void *ctx, uint64_t i, unsigned worker, mg_error *err) {
    const job *x = &((jobs *)ctx)->items[i];
    const bool md5 = strlen(x->known.hex) == 32;
    char got[65];
    (void)worker;
    MG_TRY(md5 ? mg_md5_file(x->path, got, err) : mg_sha256_file(x->path, got, err));
    if (!strcmp(got, x->known.hex)) return MG_OK;
    mg_status st = mg_fail(err, MG_ERR_INTEGRITY, "%s is %s, expected %s by %s", md5 ? "MD5" : "sha256", got,
                           x->known.hex, x->known.from);
    mg_error_at(err, x->path, NULL);
    return st;
}

/* metadata.total_size of an index: bytes of all tensors. */
static mg_status check_total(const mg_checkpoint *c, mg_error *err) {
    static const char name[] = "model.safetensors.index.json";
    char path[4096];
    mg_json *index = NULL;
    mg_checkpoint *stored = NULL;
    uint64_t total, sum = 0;
    if (!c->dir || mg_path_join(path, sizeof path, c->dir, name, NULL) != MG_OK || !mg_path_exists(path)) return MG_OK;
    MG_TRY(mg_json_load(&index, path, MANIFEST_CAP, err));
    const bool has = mg_json_u64(mg_json_path(index, "metadata.total_size"), &total);
    mg_json_free(index);
    if (!has) return MG_OK;
    MG_TRY(mg_checkpoint_open(&stored, c->dir, err));
    for (uint32_t i = 0; i < stored->n_tensors; i++) sum += stored->tensors[i].n_bytes;
    mg_checkpoint_free(stored);
    if (sum == total) return MG_OK;
    mg_status st =
        mg_fail(err, MG_ERR_INTEGRITY, "total_size is %" PRIu64 ", the tensors have %" PRIu64 " bytes", total, sum);
    mg_error_at(err, path, NULL);
    return st;
}

mg_status mg_known_hashes_check(mg_checkpoint *const *c, uint32_t n, mg_pool *pool, uint32_t share, uint32_t of,
                                mg_known_counts *counts, mg_error *err) {
    jobs j = {0};
    uint64_t seen = 0;
    mg_status st = MG_OK;
    *counts = (mg_known_counts){0};
    for (uint32_t i = 0; st == MG_OK && i < n; i++) {
        if (c[i]->st_metadata && mg_kvs_get(c[i]->st_metadata, "stage_id")) continue; /* made by this job */
        st = check_total(c[i], err);
        for (uint32_t f = 0; st == MG_OK && c[i]->dir && f < c[i]->n_files; f++)
            st = add_file(&j, c[i]->dir, c[i]->files[f], share, of, &seen, counts, err);
    }
    if (st == MG_OK) st = mg_pool_run(pool, j.n, compare, &j, err);
    free(j.items);
    return st;
}
