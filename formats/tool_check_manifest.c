/* tool_check_manifest.c - see tool_check_manifest.h. */
#include "formats/tool_check_manifest.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "formats/base/file.h"
#include "formats/base/md5.h"
#include "quant/scan.h"

#define MANIFEST_CAP  (256u << 20)
#define LIST_NAME_MAX 4096u

typedef struct job {
    const char *manifest, *path;
    mg_checkpoint *ckpt;
    mg_pool *pool;
    uint64_t n_files;
} job;

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* The file an entry means: below a directory PATH, or PATH itself when the names agree. false: not about this PATH. */
static bool resolve(const job *j, const char *name, char *buf, size_t size) {
    if (name[0] == '.' && name[1] == '/') name += 2;
    if (mg_path_is_dir(j->path)) return mg_path_join(buf, size, j->path, name, NULL) == MG_OK;
    if (strcmp(base_name(j->path), base_name(name)) != 0) return false;
    return snprintf(buf, size, "%s", j->path) < (int)size;
}

static mg_status compare_file(job *j, const char *path, const char *want, mg_error *err) {
    char got[65];
    MG_TRY(strlen(want) == 32 ? mg_md5_file(path, got, err) : mg_sha256_file(path, got, err));
    j->n_files++;
    if (strcasecmp(got, want) == 0) return MG_OK;
    mg_fail(err, MG_ERR_INTEGRITY, "%s is %s, the manifest says %s", strlen(want) == 32 ? "MD5" : "SHA-256", got, want);
    mg_error_at(err, path, NULL);
    return MG_ERR_INTEGRITY;
}

/* A list names each file once per line: HEX, two separators of md5sum ("  " text, " *" binary), NAME. */
static mg_status check_list(job *j, char *text, mg_error *err) {
    unsigned line = 0;
    for (char *at = text, *next; *at; at = next) {
        char path[LIST_NAME_MAX];
        size_t n = strcspn(at, "\n");
        next = at + n + (at[n] == '\n');
        line++;
        if (n && at[n - 1] == '\r') n--;
        at[n] = 0;
        if (n == 0 || at[0] == '#') continue;
        size_t hex = strspn(at, "0123456789abcdefABCDEF");
        if ((hex != 64 && hex != 32) || at[hex] != ' ' || (at[hex + 1] != ' ' && at[hex + 1] != '*') || !at[hex + 2])
            return mg_fail(err, MG_ERR_FORMAT, "line %u is no 'HASH  NAME' of sha256sum or md5sum, and no JSON", line);
        at[hex] = 0;
        if (!resolve(j, at + hex + 2, path, sizeof path)) continue;
        MG_TRY(compare_file(j, path, at, err));
    }
    return MG_OK;
}

/* Which tensors changed: only worth the second pass when the file's hash was wrong. */
static mg_status name_changed_tensors(job *j, const mg_json *tensors, mg_error *err) {
    char hex[33], list[600] = "";
    uint32_t bad = 0;
    mg_scan *scan = calloc(j->ckpt->n_tensors + 1u, sizeof *scan);
    mg_status st =
        scan ? mg_scan_checkpoint(j->ckpt, MG_SCAN_HASH, j->pool, NULL, scan, err) : mg_fail_nomem(err, sizeof *scan);
    for (const mg_json *t = mg_json_first(tensors); st == MG_OK && t; t = mg_json_next(t)) {
        const char *name = mg_json_str(mg_json_get(t, "name")), *want = mg_json_str(mg_json_get(t, "xxh3"));
        uint32_t i = name ? mg_checkpoint_find(j->ckpt, name) : MG_STRMAP_NONE;
        if (!name || !want) continue;
        if (i != MG_STRMAP_NONE) mg_hex(scan[i].xxh3.bytes, 16, hex);
        if (i != MG_STRMAP_NONE && strcmp(hex, want) == 0) continue;
        size_t at = strlen(list);
        if (at + strlen(name) + 4 < sizeof list) snprintf(list + at, sizeof list - at, "%s'%s'", bad ? ", " : "", name);
        bad++;
    }
    free(scan);
    MG_TRY(st);
    if (bad == 0) return mg_fail(err, MG_ERR_INTEGRITY, "bytes outside the tensors differ from the manifest");
    return mg_fail(err, MG_ERR_INTEGRITY, "%" PRIu32 " tensors differ from the manifest: %s", bad, list);
}

/* Our NAME.manifest.json: files with size and sha256, tensors with xxh3 (docs/plan.md). */
static mg_status check_ours(job *j, const mg_json *m, mg_error *err) {
    uint64_t schema = 0;
    if (!mg_json_u64(mg_json_get(m, "schema"), &schema) || schema != 1)
        return mg_fail(err, MG_ERR_UNSUPPORTED,
                       "manifest schema is not 1: written by a newer version or not a manifest");
    for (const mg_json *f = mg_json_first(mg_json_get(m, "files")); f; f = mg_json_next(f)) {
        const char *name = mg_json_str(mg_json_get(f, "name")), *sha = mg_json_str(mg_json_get(f, "sha256"));
        char path[LIST_NAME_MAX];
        if (!name || !sha || strlen(sha) != 64)
            return mg_fail(err, MG_ERR_FORMAT, "manifest file entry lacks name or sha256");
        MG_TRY(mg_path_check_plain(name, err));
        if (!resolve(j, name, path, sizeof path)) continue;
        mg_error diff = {0};
        mg_status st = compare_file(j, path, sha, &diff);
        if (st == MG_ERR_INTEGRITY && j->ckpt)
            st = name_changed_tensors(j, mg_json_get(m, "tensors"), err);
        else if (st != MG_OK && err->code == MG_OK)
            *err = diff;
        mg_error_at(err, path, NULL);
        if (st != MG_OK) return st;
    }
    return MG_OK;
}

mg_status mg_tool_manifest_check(const char *manifest, const char *path, mg_checkpoint *ckpt, mg_pool *pool,
                                 uint64_t *n_files, mg_error *err) {
    job j = {.manifest = manifest, .path = path, .ckpt = ckpt, .pool = pool};
    char *text = NULL;
    size_t n = 0;
    mg_json *m = NULL;
    MG_TRY(mg_file_slurp(manifest, MANIFEST_CAP, &text, &n, err));
    mg_status st;
    if (text[strspn(text, " \t\r\n")] == '{') {
        st = mg_json_parse(&m, (mg_span){(const uint8_t *)text, n}, manifest, err);
        if (st == MG_OK) st = check_ours(&j, m, err);
        mg_json_free(m);
    } else {
        st = check_list(&j, text, err);
    }
    free(text);
    if (st == MG_OK && j.n_files == 0) st = mg_fail(err, MG_ERR_FORMAT, "names no file of '%s'", path);
    if (st != MG_OK) mg_error_at(err, manifest, NULL);
    *n_files = j.n_files;
    return st;
}
