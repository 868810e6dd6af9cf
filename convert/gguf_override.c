/* gguf_override.c - see gguf_override.h. The keys and their order are those of gguf-py's Metadata.set_gguf_meta_model.
 */
#include "convert/gguf_override.h"

#include "formats/base/file.h"
#include "formats/base/options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum kind { TEXT, WHOLE, REAL, WORDS, RELATIVES } kind;

/* RELATIVES are "general.base_models" in the file and "general.base_model.N.FIELD" in a GGUF. */
static const struct row {
    const char *key;
    kind kind;
    const char *stored; /* of RELATIVES: what its keys begin with */
} rows[] = {
    {"general.sampling.sequence", TEXT, NULL},
    {"general.sampling.top_k", WHOLE, NULL},
    {"general.sampling.top_p", REAL, NULL},
    {"general.sampling.min_p", REAL, NULL},
    {"general.sampling.xtc_probability", REAL, NULL},
    {"general.sampling.xtc_threshold", REAL, NULL},
    {"general.sampling.temp", REAL, NULL},
    {"general.sampling.penalty_last_n", WHOLE, NULL},
    {"general.sampling.penalty_repeat", REAL, NULL},
    {"general.sampling.mirostat", WHOLE, NULL},
    {"general.sampling.mirostat_tau", REAL, NULL},
    {"general.sampling.mirostat_eta", REAL, NULL},
    {"general.name", TEXT, NULL},
    {"general.author", TEXT, NULL},
    {"general.version", TEXT, NULL},
    {"general.organization", TEXT, NULL},
    {"general.finetune", TEXT, NULL},
    {"general.basename", TEXT, NULL},
    {"general.description", TEXT, NULL},
    {"general.quantized_by", TEXT, NULL},
    {"general.size_label", TEXT, NULL},
    {"general.license", TEXT, NULL},
    {"general.license.name", TEXT, NULL},
    {"general.license.link", TEXT, NULL},
    {"general.url", TEXT, NULL},
    {"general.doi", TEXT, NULL},
    {"general.uuid", TEXT, NULL},
    {"general.repo_url", TEXT, NULL},
    {"general.source.url", TEXT, NULL},
    {"general.source.doi", TEXT, NULL},
    {"general.source.uuid", TEXT, NULL},
    {"general.source.repo_url", TEXT, NULL},
    {"general.base_models", RELATIVES, "general.base_model."},
    {"general.datasets", RELATIVES, "general.dataset."},
    {"general.tags", WORDS, NULL},
    {"general.languages", WORDS, NULL},
};
enum { N_ROWS = sizeof rows / sizeof *rows };

static const char *const fields[] = {"name", "author", "version", "organization", "description",
                                     "url",  "doi",    "uuid",    "repo_url",     NULL};
enum { N_FIELDS = sizeof fields / sizeof *fields - 1 };

/* ---- checking ---- */

static mg_status unknown(const char *what, const char *key, const char *const *names, mg_error *err) {
    const char *near = mg_nearest(key, names);
    return mg_fail(err, MG_ERR_USAGE, "unknown %s '%s'%s%s%s", what, key, near ? ", did you mean '" : "",
                   near ? near : "", near ? "'?" : "");
}

static mg_status check_words(const mg_json *v, const char *key, mg_error *err) {
    bool good = mg_json_type(v) == MG_JSON_ARRAY;
    for (const mg_json *c = good ? mg_json_first(v) : NULL; c && good; c = mg_json_next(c))
        good = mg_json_str(c) != NULL;
    return good ? MG_OK : mg_fail(err, MG_ERR_FORMAT, "'%s' must be a list of strings", key);
}

static mg_status check_relatives(const mg_json *v, const char *key, mg_error *err) {
    if (mg_json_type(v) != MG_JSON_ARRAY) return mg_fail(err, MG_ERR_FORMAT, "'%s' must be a list of objects", key);
    for (const mg_json *c = mg_json_first(v); c; c = mg_json_next(c)) {
        if (mg_json_type(c) != MG_JSON_OBJECT)
            return mg_fail(err, MG_ERR_FORMAT, "'%s' must be a list of objects", key);
        for (const mg_json *f = mg_json_first(c); f; f = mg_json_next(f)) {
            size_t i = 0;
            while (i < N_FIELDS && strcmp(fields[i], mg_json_key(f)) != 0) i++;
            if (i == N_FIELDS) return unknown("field of a model or data set", mg_json_key(f), fields, err);
            if (!mg_json_str(f)) return mg_fail(err, MG_ERR_FORMAT, "'%s' in '%s' must be a string", fields[i], key);
        }
    }
    return MG_OK;
}

static mg_status check_value(const struct row *r, const mg_json *v, mg_error *err) {
    int64_t n;
    double x;
    if (mg_json_type(v) == MG_JSON_NULL) return MG_OK;
    switch (r->kind) {
    case TEXT:
        return mg_json_str(v) ? MG_OK : mg_fail(err, MG_ERR_FORMAT, "'%s' must be a string", r->key);
    case WHOLE:
        if (mg_json_i64(v, &n) && n >= INT32_MIN && n <= INT32_MAX) return MG_OK;
        return mg_fail(err, MG_ERR_FORMAT, "'%s' must be a whole number of 32 bits", r->key);
    case REAL:
        return mg_json_f64(v, &x) ? MG_OK : mg_fail(err, MG_ERR_FORMAT, "'%s' must be a number", r->key);
    case WORDS:
        return check_words(v, r->key, err);
    case RELATIVES:
        return check_relatives(v, r->key, err);
    }
    return MG_OK;
}

static mg_status check(const mg_json *o, mg_error *err) {
    const char *names[N_ROWS + 1] = {0};
    for (size_t i = 0; i < N_ROWS; i++) names[i] = rows[i].key;
    if (mg_json_type(o) != MG_JSON_OBJECT)
        return mg_fail(err, MG_ERR_FORMAT, "must be a JSON object of general.* keys");
    for (const mg_json *c = mg_json_first(o); c; c = mg_json_next(c)) {
        size_t i = 0;
        while (i < N_ROWS && strcmp(rows[i].key, mg_json_key(c)) != 0) i++;
        if (i == N_ROWS) return unknown("key", mg_json_key(c), names, err);
        MG_TRY(check_value(&rows[i], c, err));
    }
    return MG_OK;
}

mg_status mg_gguf_override_load(mg_json **out, const char *path, mg_error *err) {
    enum { CAP = 1 << 20 };
    *out = NULL;
    MG_TRY(mg_json_load(out, path, CAP, err));
    mg_status st = check(*out, err);
    if (st == MG_OK) return MG_OK;
    mg_error_at(err, path, NULL);
    mg_json_free(*out);
    *out = NULL;
    return st;
}

/* ---- applying ---- */

/* An empty string is no value: the reference writer skips it. */
static mg_status put_text(mg_kvs *kv, const char *key, const char *s, mg_error *err) {
    return s && s[0] ? mg_kvs_set_str(kv, key, s, strlen(s), err) : MG_OK;
}

static mg_status put_words(mg_kvs *kv, const char *key, const mg_json *v, mg_error *err) {
    const size_t n = mg_json_len(v);
    size_t i = 0;
    mg_str *s = calloc(n + 1, sizeof *s);
    if (!s) return mg_fail_nomem(err, n * sizeof *s);
    for (const mg_json *c = mg_json_first(v); c; c = mg_json_next(c), i++)
        s[i] = (mg_str){mg_json_str(c), strlen(mg_json_str(c))};
    mg_status st = n ? mg_kvs_set_arr(kv, key, MG_KV_STR, n, s, err) : MG_OK;
    free(s);
    return st;
}

static mg_status put_relatives(mg_kvs *kv, const char *stem, const mg_json *v, mg_error *err) {
    char key[128];
    uint32_t i = 0;
    snprintf(key, sizeof key, "%scount", stem);
    MG_TRY(mg_kvs_set_u32(kv, key, (uint32_t)mg_json_len(v), err));
    for (const mg_json *c = mg_json_first(v); c; c = mg_json_next(c), i++)
        for (size_t f = 0; f < N_FIELDS; f++) {
            snprintf(key, sizeof key, "%s%u.%s", stem, i, fields[f]);
            MG_TRY(put_text(kv, key, mg_json_str(mg_json_get(c, fields[f])), err));
        }
    return MG_OK;
}

static mg_status put_value(mg_kvs *kv, const struct row *r, const mg_json *v, mg_error *err) {
    int64_t n = 0;
    double x = 0;
    if (mg_json_type(v) == MG_JSON_NULL) return MG_OK;
    switch (r->kind) {
    case TEXT:
        return put_text(kv, r->key, mg_json_str(v), err);
    case WHOLE: {
        if (!mg_json_i64(v, &n)) return mg_fail(err, MG_ERR_FORMAT, "'%s' must be a whole number", r->key);
        const int32_t w = (int32_t)n;
        return mg_kvs_set(kv, r->key, MG_KV_I32, &w, err);
    }
    case REAL:
        if (!mg_json_f64(v, &x)) return mg_fail(err, MG_ERR_FORMAT, "'%s' must be a number", r->key);
        return mg_kvs_set_f32(kv, r->key, (float)x, err);
    case WORDS:
        return put_words(kv, r->key, v, err);
    case RELATIVES:
        return put_relatives(kv, r->stored, v, err);
    }
    return MG_OK;
}

/* Is this key of a GGUF said by row r? */
static bool is_of(const struct row *r, const char *key) {
    return r->stored ? strncmp(key, r->stored, strlen(r->stored)) == 0 : strcmp(key, r->key) == 0;
}

static bool is_meta(const char *key) {
    for (size_t i = 0; i < N_ROWS; i++)
        if (is_of(&rows[i], key)) return true;
    return false;
}

/* All rows: from the file, else as they were. */
static mg_status put_rows(mg_kvs *to, const mg_kvs *from, const mg_json *o, const char *name, mg_error *err) {
    for (size_t i = 0; i < N_ROWS; i++) {
        const mg_json *v = mg_json_get(o, rows[i].key);
        const bool named = name && strcmp(rows[i].key, "general.name") == 0;
        /* a model without a name or a size gets the ones that are derived */
        const bool kept = v && mg_json_type(v) == MG_JSON_NULL &&
                          (!strcmp(rows[i].key, "general.name") || !strcmp(rows[i].key, "general.size_label"));
        if (named)
            MG_TRY(put_text(to, rows[i].key, name, err));
        else if (v && !kept)
            MG_TRY(put_value(to, &rows[i], v, err));
        else
            for (uint32_t k = 0; k < from->n; k++)
                if (is_of(&rows[i], from->items[k].key.data)) MG_TRY(mg_kvs_copy(to, &from->items[k], err));
    }
    return MG_OK;
}

static mg_status rebuild(mg_kvs *to, const mg_kvs *from, const mg_json *o, const char *name, mg_error *err) {
    bool put = false;
    for (uint32_t i = 0; i < from->n; i++) {
        const char *key = from->items[i].key.data;
        const bool head = !strcmp(key, "general.architecture") || !strcmp(key, "general.type");
        if (!put && !head) {
            MG_TRY(put_rows(to, from, o, name, err));
            put = true;
        }
        if (!is_meta(key)) MG_TRY(mg_kvs_copy(to, &from->items[i], err));
    }
    return put ? MG_OK : put_rows(to, from, o, name, err);
}

mg_status mg_gguf_override_apply(mg_kvs *kv, const mg_json *override, const char *name, mg_error *err) {
    mg_kvs made;
    if (!override) return MG_OK;
    mg_kvs_init(&made);
    mg_status st = rebuild(&made, kv, override, name, err);
    if (st != MG_OK) {
        mg_kvs_release(&made);
        return st;
    }
    mg_kvs_release(kv);
    *kv = made;
    return MG_OK;
}
