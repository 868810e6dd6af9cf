/* gguf_set.c - see gguf_set.h. */
#include "formats/gguf_set.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "formats/gguf.h"

static const char key_no[] = "split.no", key_count[] = "split.count", key_tensors[] = "split.tensors.count";

/* ---- names ---- */

size_t mg_gguf_stem(const char *path) {
    size_t n = strlen(path);
    return n > 5 && strcasecmp(path + n - 5, ".gguf") == 0 ? n - 5 : n;
}

mg_status mg_gguf_part_name(char *buf, size_t size, const char *stem, size_t n, uint32_t no, uint32_t count,
                            mg_error *err) {
    int len = snprintf(buf, size, "%.*s-%05u-of-%05u.gguf", (int)n, stem, no + 1, count);
    if (len < 0 || (size_t)len >= size) return mg_fail(err, MG_ERR_LIMIT, "'%s': name is too long", stem);
    return MG_OK;
}

/* Five digits and the text that follows them. */
static bool take_number(const char **s, const char *after, uint32_t *v) {
    *v = 0;
    for (int i = 0; i < 5; i++, (*s)++) {
        if (**s < '0' || **s > '9') return false;
        *v = *v * 10 + (uint32_t)(**s - '0');
    }
    size_t n = strlen(after);
    bool found = strncmp(*s, after, n) == 0;
    *s += found ? n : 0;
    return found;
}

bool mg_gguf_is_part_name(const char *name, size_t *stem, uint32_t *no, uint32_t *count) {
    static const char shape[] = "-00000-of-00000.gguf";
    size_t n = strlen(name), tail = sizeof shape - 1;
    if (n <= tail || name[n - tail] != '-') return false;
    const char *s = name + n - tail + 1;
    if (!take_number(&s, "-of-", no) || !take_number(&s, ".gguf", count) || *no == 0) return false;
    --*no;
    *stem = n - tail;
    return true;
}

/* ---- keys ---- */

mg_status mg_gguf_part_keys(mg_kvs *out, const mg_kvs *all, uint32_t no, uint32_t count, uint32_t n_tensors,
                            bool count_last, mg_error *err) {
    mg_kvs_init(out);
    for (uint32_t i = 0; all && i < all->n; i++)
        if (strncmp(all->items[i].key.data, "split.", 6) != 0) MG_TRY(mg_kvs_copy(out, &all->items[i], err));
    if (count > MG_GGUF_MAX_PARTS)
        return mg_fail(err, MG_ERR_LIMIT, "%u parts: a set has at most %u", count, MG_GGUF_MAX_PARTS);
    if (n_tensors > INT32_MAX) return mg_fail(err, MG_ERR_LIMIT, "%u tensors in a set", n_tensors);
    uint16_t small_no = (uint16_t)no, small_count = (uint16_t)count;
    int32_t total = (int32_t)n_tensors;
    MG_TRY(mg_kvs_set(out, key_no, MG_KV_U16, &small_no, err));
    MG_TRY(mg_kvs_set(out, key_count, MG_KV_U16, &small_count, err));
    MG_TRY(mg_kvs_set(out, key_tensors, MG_KV_I32, &total, err));
    return count_last ? mg_kvs_set(out, key_count, MG_KV_U16, &small_count, err)
                      : MG_OK; /* set again: moves to the end */
}

/* An integer key; MG_ERR_FORMAT when it is there and none. */
static mg_status get_number(const mg_kvs *kv, const char *key, bool *found, uint64_t *v, mg_error *err) {
    const mg_kv *item = mg_kvs_get(kv, key);
    *found = item != NULL;
    if (item && !mg_kv_u64(item, v)) return mg_fail(err, MG_ERR_FORMAT, "key '%s' is no whole number", key);
    return MG_OK;
}

static mg_status expect_number(const mg_kvs *kv, const char *key, uint64_t expected, const char *why, mg_error *err) {
    bool found;
    uint64_t v = 0;
    MG_TRY(get_number(kv, key, &found, &v, err));
    if (!found)
        return mg_fail(err, MG_ERR_FORMAT, "key '%s' is missing, expected %" PRIu64 " (%s)", key, expected, why);
    if (v != expected)
        return mg_fail(err, MG_ERR_FORMAT, "key '%s' is %" PRIu64 ", expected %" PRIu64 " (%s)", key, v, expected, why);
    return MG_OK;
}

/* ---- the other files ---- */

/* A later part may repeat the model's keys; those that do must be the same model's. */
static mg_status check_kin(const mg_kvs *first, const mg_kvs *part, mg_error *err) {
    static const char *const told[] = {"general.architecture", "general.name"};
    for (size_t i = 0; i < sizeof told / sizeof *told; i++) {
        mg_str a, b;
        if (!mg_kv_str(mg_kvs_get(part, told[i]), &b)) continue;
        if (!mg_kv_str(mg_kvs_get(first, told[i]), &a) || a.size != b.size || memcmp(a.data, b.data, a.size) != 0)
            return mg_fail(err, MG_ERR_FORMAT, "is of another model than the first part: key '%s' is '%s'", told[i],
                           b.data);
    }
    return MG_OK;
}

/* Descriptors of a part, with names that outlive its header. */
static mg_status adopt(mg_files_ckpt *c, mg_gguf *g, mg_error *err) {
    for (uint32_t i = 0; i < g->n_tensors; i++) {
        g->tensors[i].name = mg_arena_strdup(&c->arena, g->tensors[i].name);
        if (!g->tensors[i].name) return mg_fail_nomem(err, MG_GGUF_MAX_NAME);
    }
    return mg_files_ckpt_add_tensors(c, g->tensors, g->n_tensors, err);
}

static mg_status add_part(mg_files_ckpt *c, const char *path, uint32_t no, uint32_t count, mg_error *err) {
    mg_gguf g;
    const char *slash = strrchr(path, '/');
    if (!mg_path_exists(path)) return mg_fail(err, MG_ERR_FORMAT, "part %u of %u is missing", no + 1, count);
    MG_TRY(mg_files_ckpt_add_file(c, path, slash ? slash + 1 : path, err));
    MG_TRY(mg_gguf_read(&g, c->files[no], err));
    mg_status st = expect_number(&g.kv, key_no, no, "its name, counted from 0", err);
    if (st == MG_OK) st = expect_number(&g.kv, key_count, count, "the first part", err);
    if (st == MG_OK) st = check_kin(&c->kv, &g.kv, err);
    uint64_t total;
    if (st == MG_OK && mg_kv_u64(mg_kvs_get(&c->kv, key_tensors), &total))
        st = expect_number(&g.kv, key_tensors, total, "the first part", err);
    if (st == MG_OK) st = adopt(c, &g, err);
    mg_gguf_release(&g);
    return st;
}

/* The first part's numbers against its name. */
static mg_status check_first(const mg_kvs *kv, const char *path, uint32_t count, mg_error *err) {
    size_t stem;
    uint32_t no, named;
    if (!mg_gguf_is_part_name(path, &stem, &no, &named) || named != count)
        return mg_fail(err, MG_ERR_FORMAT,
                       "is a part of a set of %u files, but not named so (NAME-00001-of-%05u.gguf): the others "
                       "cannot be found",
                       count, count);
    MG_TRY(expect_number(kv, key_no, no, "its name, counted from 0", err));
    if (no == 0) return MG_OK;
    return mg_fail(err, MG_ERR_USAGE, "is part %u of %u: name the first part, '%.*s-00001-of-%05u.gguf'", no + 1, count,
                   (int)stem, path, count);
}

mg_status mg_gguf_add_parts(mg_files_ckpt *c, const char *path, mg_error *err) {
    bool found;
    uint64_t count = 0, total = 0;
    MG_TRY(get_number(&c->kv, key_count, &found, &count, err));
    if (!found || count <= 1) return MG_OK; /* gguf-split leaves 0 in a file it has merged */
    if (count > MG_GGUF_MAX_PARTS)
        return mg_fail(err, MG_ERR_FORMAT, "key '%s' is %" PRIu64 ", at most %u", key_count, count, MG_GGUF_MAX_PARTS);
    MG_TRY(check_first(&c->kv, path, (uint32_t)count, err));
    size_t stem = strlen(path) - strlen("-00000-of-00000.gguf");
    char other[4096];
    for (uint32_t no = 1; no < count; no++) {
        MG_TRY(mg_gguf_part_name(other, sizeof other, path, stem, no, (uint32_t)count, err));
        mg_status st = add_part(c, other, no, (uint32_t)count, err);
        if (st != MG_OK) {
            mg_error_at(err, other, NULL);
            return st;
        }
    }
    MG_TRY(get_number(&c->kv, key_tensors, &found, &total, err));
    if (found && total != c->base.n_tensors)
        return mg_fail(err, MG_ERR_FORMAT, "key '%s' is %" PRIu64 ", the %" PRIu64 " parts hold %" PRIu32, key_tensors,
                       total, count, c->base.n_tensors);
    return MG_OK;
}
