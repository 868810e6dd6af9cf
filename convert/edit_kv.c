/* edit_kv.c - see edit_kv.h. */
#include "convert/edit_kv.h"

#include "formats/base/json.h"
#include "formats/base/options.h"
#include "formats/base/utf8.h"
#include "formats/gguf.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A value that was read: its bytes, or a string. */
typedef struct scalar {
    uint8_t bytes[8];
    mg_str str;
} scalar;

MG_PRINTF(3, 4)
static mg_status refuse(mg_error *err, const char *key, const char *fmt, ...) {
    char why[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    return mg_fail(err, MG_ERR_USAGE, "key '%s': %s", key, why);
}

/* ---- scalars ---- */

static bool is_signed(mg_kv_type t) {
    return t == MG_KV_I8 || t == MG_KV_I16 || t == MG_KV_I32 || t == MG_KV_I64;
}

/* A whole number in decimal digits as type t; false when it does not fit. */
static bool read_int(mg_kv_type t, const char *text, uint8_t out[8]) {
    char *end;
    const unsigned bits = 8 * (unsigned)mg_kv_type_size(t);
    const char *digits = text + (*text == '-');
    if (*digits < '0' || *digits > '9') return false;
    errno = 0;
    if (is_signed(t)) {
        const int64_t v = strtoll(text, &end, 10), high = (int64_t)(UINT64_MAX >> (65 - bits));
        if (*end || errno || v > high || v < -high - 1) return false;
        memcpy(out, &v, sizeof v); /* little-endian: the low bytes come first */
        return true;
    }
    const uint64_t v = strtoull(digits, &end, 10);
    if (*end || errno || (digits != text && v) || v > UINT64_MAX >> (64 - bits)) return false;
    memcpy(out, &v, sizeof v);
    return true;
}

static bool read_float(mg_kv_type t, const char *text, uint8_t out[8]) {
    double d;
    if (mg_parse_f64(text, &d, NULL) != MG_OK || !isfinite(d)) return false;
    const float f = (float)d;
    if (t == MG_KV_F64) memcpy(out, &d, sizeof d);
    if (t == MG_KV_F32) memcpy(out, &f, sizeof f);
    return t == MG_KV_F64 || isfinite(f);
}

static bool read_scalar(mg_kv_type t, const char *text, size_t n, scalar *out) {
    *out = (scalar){.str = {text, n}};
    if (t == MG_KV_STR) return mg_utf8_valid_prefix((const uint8_t *)text, n) == n;
    if (strlen(text) != n) return false;
    if (t == MG_KV_BOOL) {
        out->bytes[0] = strcmp(text, "true") == 0;
        return out->bytes[0] || strcmp(text, "false") == 0;
    }
    return t == MG_KV_F32 || t == MG_KV_F64 ? read_float(t, text, out->bytes) : read_int(t, text, out->bytes);
}

static mg_status push_scalar(mg_kvs *out, const char *key, mg_kv_type t, const char *text, size_t n, mg_error *err) {
    scalar v;
    if (!read_scalar(t, text, n, &v)) {
        if (t == MG_KV_STR) return refuse(err, key, "the text is not UTF-8");
        return refuse(err, key, "'%.100s' is no %s", text, mg_kv_type_name(t));
    }
    if (t == MG_KV_STR) return mg_kvs_set_str(out, key, text, n, err);
    return mg_kvs_set(out, key, t, v.bytes, err);
}

/* ---- arrays ---- */

/* Element as text: a string's characters, a number's digits, true, false. buf is for reals. */
static const char *element_text(const mg_json *v, char *buf, size_t size) {
    bool b;
    double d;
    if (mg_json_str(v)) return mg_json_str(v);
    if (mg_json_digits(v)) return mg_json_digits(v);
    if (mg_json_bool(v, &b)) return b ? "true" : "false";
    if (!mg_json_f64(v, &d)) return NULL;
    snprintf(buf, size, "%.17g", d);
    return buf;
}

static mg_status read_elements(mg_arena *a, const mg_json *list, mg_kv_type elem, const char *key, uint8_t *bytes,
                               mg_str *strings, mg_error *err) {
    const size_t size = mg_kv_type_size(elem);
    size_t i = 0;
    for (const mg_json *v = mg_json_first(list); v; v = mg_json_next(v), i++) {
        char buf[64];
        scalar s;
        const char *text = element_text(v, buf, sizeof buf);
        if (!text || (elem == MG_KV_STR) != (mg_json_type(v) == MG_JSON_STRING) ||
            !read_scalar(elem, text, strlen(text), &s))
            return refuse(err, key, "element %zu is no %s", i, mg_kv_type_name(elem));
        if (elem != MG_KV_STR) {
            memcpy(bytes + i * size, s.bytes, size);
            continue;
        }
        const char *copy = mg_arena_strndup(a, s.str.data, s.str.size);
        if (!copy) return mg_fail_nomem(err, s.str.size);
        strings[i] = (mg_str){copy, s.str.size};
    }
    return MG_OK;
}

static mg_status push_list(mg_kvs *out, const char *key, mg_kv_type elem, const mg_json *list, mg_error *err) {
    const size_t n = mg_json_len(list);
    mg_arena a;
    uint8_t *bytes = NULL;
    mg_str *strings = NULL;
    mg_arena_init(&a, 0);
    mg_status st =
        elem == MG_KV_STR ? MG_ARENA_NEW(&a, &strings, n + 1, err) : MG_ARENA_NEW(&a, &bytes, 8 * n + 8, err);
    if (st == MG_OK) st = read_elements(&a, list, elem, key, bytes, strings, err);
    if (st == MG_OK) st = mg_kvs_set_arr(out, key, elem, n, strings ? (const void *)strings : bytes, err);
    mg_arena_release(&a);
    return st;
}

/* The element type a new array gets; false when its elements are of different kinds. */
static bool infer_elem(const mg_json *list, mg_kv_type *elem) {
    static const struct {
        mg_jtype json;
        mg_kv_type kv;
    } kinds[] = {
        {MG_JSON_STRING, MG_KV_STR}, {MG_JSON_BOOL, MG_KV_BOOL}, {MG_JSON_INT, MG_KV_I32}, {MG_JSON_REAL, MG_KV_F32}};
    bool real = false;
    for (const mg_json *v = mg_json_first(list); v; v = mg_json_next(v)) real |= mg_json_type(v) == MG_JSON_REAL;
    bool first = true;
    for (const mg_json *v = mg_json_first(list); v; v = mg_json_next(v), first = false) {
        mg_jtype t = mg_json_type(v);
        if (real && t == MG_JSON_INT) t = MG_JSON_REAL;
        size_t k = 0;
        while (k < 4 && kinds[k].json != t) k++;
        if (k == 4 || (!first && kinds[k].kv != *elem)) return false;
        *elem = kinds[k].kv;
    }
    return !first; /* an empty list says nothing */
}

/* elem MG_KV_TYPE_COUNT: inferred. */
static mg_status push_array(mg_kvs *out, const char *key, mg_kv_type elem, const char *text, size_t n, mg_error *err) {
    mg_json *list;
    mg_error why = {0};
    if (mg_json_parse(&list, (mg_span){(const uint8_t *)text, n}, "value", &why) != MG_OK)
        return refuse(err, key, "an array is written as JSON: %s", why.message);
    mg_status st = MG_OK;
    if (mg_json_type(list) != MG_JSON_ARRAY)
        st = refuse(err, key, "the value is no JSON array");
    else if (elem == MG_KV_TYPE_COUNT && !infer_elem(list, &elem))
        st = refuse(err, key, "the elements have no common type; state one, such as u32[]:[1,2]");
    if (st == MG_OK) st = push_list(out, key, elem, list, err);
    mg_json_free(list);
    return st;
}

/* ---- new keys ---- */

static mg_status push_int(mg_kvs *out, const char *key, const char *text, size_t n, mg_error *err) {
    static const mg_kv_type order[] = {MG_KV_U32, MG_KV_I32, MG_KV_U64, MG_KV_I64};
    scalar v;
    for (size_t i = 0; i < sizeof order / sizeof *order; i++)
        if (read_scalar(order[i], text, n, &v)) return mg_kvs_set(out, key, order[i], v.bytes, err);
    return refuse(err, key, "'%.100s' is no 64-bit integer", text);
}

/* "TYPE:VALUE": handled here when TYPE is one. */
static mg_status push_typed(mg_kvs *out, const mg_kv_edit *e, bool *typed, mg_error *err) {
    const char *colon = memchr(e->text, ':', e->n);
    const size_t n = colon ? (size_t)(colon - e->text) : 0;
    const bool list = n > 2 && memcmp(colon - 2, "[]", 2) == 0;
    const size_t word = list ? n - 2 : n;
    *typed = true;
    for (int t = 0; colon && t < MG_KV_TYPE_COUNT; t++) {
        const char *name = mg_kv_type_name((mg_kv_type)t);
        if (t == MG_KV_ARR || strlen(name) != word || memcmp(name, e->text, word) != 0) continue;
        return list ? push_array(out, e->key, (mg_kv_type)t, colon + 1, e->n - n - 1, err)
                    : push_scalar(out, e->key, (mg_kv_type)t, colon + 1, e->n - n - 1, err);
    }
    if (n == 3 && memcmp(e->text, "int", 3) == 0) return push_int(out, e->key, colon + 1, e->n - n - 1, err);
    if (n == 5 && memcmp(e->text, "float", 5) == 0)
        return push_scalar(out, e->key, MG_KV_F32, colon + 1, e->n - n - 1, err);
    *typed = false;
    return MG_OK;
}

static mg_status push_new(mg_kvs *out, const mg_kv_edit *e, mg_error *err) {
    scalar v;
    bool typed;
    if (e->from_file) return push_scalar(out, e->key, MG_KV_STR, e->text, e->n, err);
    MG_TRY(push_typed(out, e, &typed, err));
    if (typed) return MG_OK;
    if (read_scalar(MG_KV_I64, e->text, e->n, &v) || read_scalar(MG_KV_U64, e->text, e->n, &v))
        return push_int(out, e->key, e->text, e->n, err);
    if (read_scalar(MG_KV_BOOL, e->text, e->n, &v)) return push_scalar(out, e->key, MG_KV_BOOL, e->text, e->n, err);
    if (read_scalar(MG_KV_F32, e->text, e->n, &v)) return push_scalar(out, e->key, MG_KV_F32, e->text, e->n, err);
    if (e->n && e->text[0] == '[') return push_array(out, e->key, MG_KV_TYPE_COUNT, e->text, e->n, err);
    return push_scalar(out, e->key, MG_KV_STR, e->text, e->n, err);
}

/* ---- keys that exist ---- */

static mg_status push_changed(mg_kvs *out, const mg_kv *old, const mg_kv_edit *e, mg_error *err) {
    size_t n = e->n;
    if (old->type == MG_KV_STR) return push_scalar(out, e->key, MG_KV_STR, e->text, n, err);
    while (e->from_file && n && (e->text[n - 1] == '\n' || e->text[n - 1] == '\r')) n--; /* of a file's last line */
    if (old->type == MG_KV_ARR) return push_array(out, e->key, old->elem, e->text, n, err);
    char word[128];
    if (n >= sizeof word) return refuse(err, e->key, "%zu bytes are no %s", n, mg_kv_type_name(old->type));
    memcpy(word, e->text, n);
    word[n] = 0;
    return push_scalar(out, e->key, old->type, word, n, err);
}

static bool same_value(const mg_kv *a, const mg_kv *b) {
    if (a->type != b->type || a->elem != b->elem || a->count != b->count) return false;
    if (a->elem != MG_KV_STR) return memcmp(a->data, b->data, a->count * mg_kv_type_size(a->elem)) == 0;
    const mg_str *x = a->data, *y = b->data;
    for (uint64_t i = 0; i < a->count; i++)
        if (x[i].size != y[i].size || memcmp(x[i].data, y[i].data, x[i].size) != 0) return false;
    return true;
}

/* ---- the whole ---- */

static mg_status check_key(const char *key, mg_error *err) {
    const size_t n = strlen(key);
    if (strcmp(key, "general.alignment") == 0)
        return refuse(err, key, "the layout of the tensor data depends on it, so it is not edited");
    if (n == 0 || n > 65535) return mg_fail(err, MG_ERR_USAGE, "a key of %zu bytes", n);
    for (size_t i = 0; i < n; i++)
        if (key[i] < 0x21 || key[i] > 0x7e)
            return mg_fail(err, MG_ERR_USAGE, "'%s' is no GGUF key: printable ASCII", key);
    return MG_OK;
}

static mg_status no_such_key(const mg_kvs *in, const char *key, mg_error *err) {
    const char **names = calloc(in->n + 1u, sizeof *names);
    if (!names) return mg_fail_nomem(err, in->n * sizeof *names);
    for (uint32_t i = 0; i < in->n; i++) names[i] = in->items[i].key.data;
    const char *near = mg_nearest(key, names);
    mg_status st = mg_fail(err, MG_ERR_USAGE, "no key '%s' to remove%s%s%s", key, near ? "; nearest: '" : "",
                           near ? near : "", near ? "'" : "");
    free(names);
    return st;
}

static mg_status check_edits(const mg_kvs *in, mg_kv_edit *sets, size_t n_sets, const char *const *removes,
                             size_t n_removes, mg_error *err) {
    for (size_t i = 0; i < n_sets; i++) {
        MG_TRY(check_key(sets[i].key, err));
        sets[i].used = false;
        for (size_t k = 0; k < i; k++)
            if (strcmp(sets[i].key, sets[k].key) == 0) return refuse(err, sets[i].key, "set twice");
    }
    for (size_t i = 0; i < n_removes; i++) {
        MG_TRY(check_key(removes[i], err));
        if (!mg_kvs_get(in, removes[i])) return no_such_key(in, removes[i], err);
    }
    return MG_OK;
}

static bool is_removed(const char *key, const char *const *removes, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(key, removes[i]) == 0) return true;
    return false;
}

mg_status mg_kvs_edit(mg_kvs *out, const mg_kvs *in, mg_kv_edit *sets, size_t n_sets, const char *const *removes,
                      size_t n_removes, bool *changed, mg_error *err) {
    *changed = n_removes > 0;
    MG_TRY(check_edits(in, sets, n_sets, removes, n_removes, err));
    for (uint32_t i = 0; i < in->n; i++) {
        const mg_kv *old = &in->items[i];
        if (is_removed(old->key.data, removes, n_removes)) continue;
        mg_kv_edit *e = NULL;
        for (size_t k = 0; k < n_sets && !e; k++)
            if (strcmp(sets[k].key, old->key.data) == 0) e = &sets[k];
        if (!e) {
            MG_TRY(mg_kvs_push(out, old, err));
            continue;
        }
        MG_TRY(push_changed(out, old, e, err));
        e->used = true;
        *changed |= !same_value(old, &out->items[out->n - 1]);
    }
    for (size_t k = 0; k < n_sets; k++) {
        if (sets[k].used) continue;
        MG_TRY(push_new(out, &sets[k], err));
        sets[k].used = *changed = true;
    }
    return mg_gguf_check_model(out, err);
}
