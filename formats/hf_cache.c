/* hf_cache.c - see hf_cache.h. */
#include "formats/hf_cache.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "formats/base/file.h"

enum { COMMIT = 40, REF_CAP = 4096 };

/* ---- names ---- */

/* n bytes that are one component of a hub name: letters, digits, '-', '_', '.', and not "." or "..". */
static bool is_component(const char *s, size_t n) {
    if (n == 0 || n > 96 || s[0] == '.' || s[0] == '-') return false;
    for (size_t i = 0; i < n; i++) {
        const char c = s[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!plain && c != '-' && c != '_' && c != '.') return false;
    }
    return true;
}

/* Components separated by '/'; nothing that leaves the folder. */
static bool is_inner_path(const char *s, size_t n) {
    for (size_t at = 0; at <= n;) {
        const char *slash = memchr(s + at, '/', n - at);
        size_t len = slash ? (size_t)(slash - s) - at : n - at;
        if (!is_component(s + at, len)) return false;
        at += len + 1;
    }
    return true;
}

static bool keep(char *to, size_t size, const char *s, size_t n) {
    if (n >= size) return false;
    memcpy(to, s, n);
    to[n] = 0;
    return true;
}

/* "org/name", or a single name when one may be. Returns its length, 0 when it is none. */
static size_t repo_length(const char *s, bool single) {
    size_t a = strcspn(s, "/@");
    if (!is_component(s, a)) return 0;
    if (s[a] != '/') return single ? a : 0;
    size_t b = strcspn(s + a + 1, "/@");
    return is_component(s + a + 1, b) ? a + 1 + b : 0;
}

bool mg_hf_parse_name(mg_hf_name *name, const char *path) {
    bool forced = strncmp(path, "hf:", 3) == 0;
    const char *s = forced ? path + 3 : path;
    size_t n = repo_length(s, forced);
    *name = (mg_hf_name){.revision = "main"};
    if (n == 0 || !keep(name->repo, sizeof name->repo, s, n)) return false;
    s += n;
    if (*s == '@') {
        size_t r = forced && strncmp(s + 1, "refs/", 5) != 0 ? strcspn(s + 1, "/") : strlen(s + 1);
        if (!is_inner_path(s + 1, r) || !keep(name->revision, sizeof name->revision, s + 1, r)) return false;
        s += 1 + r;
    }
    if (*s == 0) return true;
    name->file = s + 1;
    return forced && strchr(name->repo, '/') && is_inner_path(s + 1, strlen(s + 1));
}

/* ---- the cache ---- */

static const char *set_variable(const char *name) {
    const char *v = getenv(name);
    return v && *v ? v : NULL;
}

/* dir/tail into buf, a leading "~/" of dir being the home folder. */
static mg_status under(char *buf, size_t size, const char *dir, const char *tail, mg_error *err) {
    const char *home = set_variable("HOME");
    bool tilde = dir[0] == '~' && (dir[1] == '/' || dir[1] == 0);
    if (tilde && !home)
        return mg_fail(err, MG_ERR_IO, "HOME is not set: where the Hugging Face cache is cannot be told");
    int n = snprintf(buf, size, "%s%s%s%s", tilde ? home : "", tilde ? dir + 1 : dir, *tail ? "/" : "", tail);
    return n >= 0 && (size_t)n < size ? MG_OK
                                      : mg_fail(err, MG_ERR_LIMIT, "path of the Hugging Face cache is too long");
}

static mg_status cache_dir(char *buf, size_t size, mg_error *err) {
    const char *v;
    if ((v = set_variable("HF_HUB_CACHE")) || (v = set_variable("HUGGINGFACE_HUB_CACHE")))
        return under(buf, size, v, "", err);
    if ((v = set_variable("HF_HOME"))) return under(buf, size, v, "hub", err);
    if ((v = set_variable("XDG_CACHE_HOME"))) return under(buf, size, v, "huggingface/hub", err);
    return under(buf, size, "~/.cache", "huggingface/hub", err);
}

/* CACHE/models--org--name */
static mg_status repo_dir(char *buf, size_t size, const mg_hf_name *name, mg_error *err) {
    char cache[4096], folder[300];
    const char *slash = strchr(name->repo, '/');
    int org = slash ? (int)(slash - name->repo) : 0;
    snprintf(folder, sizeof folder, "models--%.*s%s%s", org, name->repo, slash ? "--" : "",
             slash ? slash + 1 : name->repo);
    MG_TRY(cache_dir(cache, sizeof cache, err));
    return mg_path_join(buf, size, cache, folder, err);
}

static bool is_commit(const char *s) {
    return strspn(s, "0123456789abcdef") == COMMIT && s[COMMIT] == 0;
}

/* "main, v1" - the plain entries of a folder, for messages. */
static void list_entries(const char *dir, char *list, size_t size) {
    DIR *d = opendir(dir);
    size_t at = 0;
    list[0] = 0;
    for (struct dirent *e; d && (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        int n = snprintf(list + at, size - at, "%s%s", at ? ", " : "", e->d_name);
        if (n < 0 || (size_t)n >= size - at) break;
        at += (size_t)n;
    }
    if (d) closedir(d);
}

static mg_status unknown_revision(const char *repo, const mg_hf_name *name, mg_error *err) {
    char refs[4096], list[256] = "";
    if (mg_path_join(refs, sizeof refs, repo, "refs", NULL) == MG_OK) list_entries(refs, list, sizeof list);
    return mg_fail(err, MG_ERR_IO, "'%s' is in the Hugging Face cache, its revision '%s' is not (there: %s)",
                   name->repo, name->revision, list[0] ? list : "none");
}

/* The commit behind a revision: itself, or what refs/REVISION says. */
static mg_status find_commit(char commit[COMMIT + 1], const char *repo, const mg_hf_name *name, mg_error *err) {
    char path[4096], *text;
    size_t n;
    if (is_commit(name->revision)) {
        memcpy(commit, name->revision, COMMIT + 1);
        return MG_OK;
    }
    int len = snprintf(path, sizeof path, "%s/refs/%s", repo, name->revision);
    if (len < 0 || (size_t)len >= sizeof path) return mg_fail(err, MG_ERR_LIMIT, "path is too long");
    if (!mg_path_exists(path) || mg_path_is_dir(path)) return unknown_revision(repo, name, err);
    MG_TRY(mg_file_slurp(path, REF_CAP, &text, &n, err));
    while (n && (text[n - 1] == '\n' || text[n - 1] == '\r' || text[n - 1] == ' ')) text[--n] = 0;
    bool good = is_commit(text);
    if (good) memcpy(commit, text, COMMIT + 1);
    free(text);
    if (good) return MG_OK;
    mg_fail(err, MG_ERR_FORMAT, "holds no commit (40 hexadecimal digits)");
    mg_error_at(err, path, NULL);
    return MG_ERR_FORMAT;
}

static mg_status find_snapshot(char *buf, size_t size, const mg_hf_name *name, mg_error *err) {
    char repo[4096], commit[COMMIT + 1];
    MG_TRY(repo_dir(repo, sizeof repo, name, err));
    if (!mg_path_is_dir(repo))
        return mg_fail(err, MG_ERR_IO, "no such file or directory, and not in the Hugging Face cache ('%s')", repo);
    MG_TRY(find_commit(commit, repo, name, err));
    int n = snprintf(buf, size, "%s/snapshots/%s", repo, commit);
    if (n < 0 || (size_t)n >= size) return mg_fail(err, MG_ERR_LIMIT, "path is too long");
    if (!mg_path_is_dir(buf))
        return mg_fail(err, MG_ERR_IO,
                       "the Hugging Face cache has no snapshot of '%s' at %s: the download was interrupted or is not "
                       "there",
                       name->repo, commit);
    if (!name->file) return MG_OK;
    int m = snprintf(buf + n, size - (size_t)n, "/%s", name->file);
    if (m < 0 || (size_t)m >= size - (size_t)n) return mg_fail(err, MG_ERR_LIMIT, "path is too long");
    if (mg_path_exists(buf)) return MG_OK;
    buf[n] = 0;
    char list[256];
    list_entries(buf, list, sizeof list);
    return mg_fail(err, MG_ERR_IO, "the snapshot of '%s' in the Hugging Face cache has no '%s' (there: %s)", name->repo,
                   name->file, list);
}

mg_status mg_hf_resolve(char *buf, size_t size, const char *path, bool *cached, mg_error *err) {
    mg_hf_name name;
    struct stat sb;
    bool forced = strncmp(path, "hf:", 3) == 0;
    *cached = forced || (lstat(path, &sb) != 0 && mg_hf_parse_name(&name, path));
    if (!*cached) {
        int n = snprintf(buf, size, "%s", path);
        return n >= 0 && (size_t)n < size ? MG_OK : mg_fail(err, MG_ERR_LIMIT, "path is too long");
    }
    if (forced && !mg_hf_parse_name(&name, path))
        return mg_fail(err, MG_ERR_USAGE, "expected hf:[org/]name[@revision] or hf:org/name[@revision]/FILE");
    return find_snapshot(buf, size, &name, err);
}
