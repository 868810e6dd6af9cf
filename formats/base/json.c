/* json.c - see json.h. The trees are cJSON nodes, but cJSON neither parses nor prints them: it is lenient where we must
 * not be (duplicate keys, trailing bytes, bad UTF-8, \u0000), rounds integers above 2^53 and follows the locale.
 *
 * Number nodes: an integer keeps its exact digits in valuestring (unused by cJSON for numbers, freed and duplicated
 * with the node), however many there are; a node without valuestring is a real. */
#include "formats/base/json.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/base/jsonlex.h"
#include "formats/base/number.h"
#include "formats/base/utf8.h"

enum { MAX_DEPTH = 64 };

/* ---- reading ---- */

static cJSON *new_integer(const char *digits, size_t n) {
    cJSON *v = cJSON_CreateNumber(0);
    if (!v) return NULL;
    bool minus_zero = n == 2 && digits[0] == '-' && digits[1] == '0';
    v->valuestring = cJSON_malloc(n + 1);
    if (!v->valuestring) {
        cJSON_Delete(v);
        return NULL;
    }
    memcpy(v->valuestring, digits + minus_zero, n - minus_zero);
    v->valuestring[n - minus_zero] = 0;
    if (!mg_number_parse(v->valuestring, strlen(v->valuestring), &v->valuedouble)) v->valuedouble = 0;
    return v;
}

static mg_status parse_number(cJSON **out, const mg_jsonlex *lx, mg_error *err) {
    double real;
    mg_status s = mg_jsonlex_f64(lx, &real, err);
    if (s) return s;
    bool integer = true; /* the text ends at raw_len, not at a NUL */
    for (size_t i = 0; i < lx->raw_len; i++) integer &= !strchr(".eE", lx->raw[i]);
    *out = integer ? new_integer(lx->raw, lx->raw_len) : cJSON_CreateNumber(real);
    return *out ? MG_OK : mg_fail_nomem(err, sizeof(cJSON));
}

/* The current string or key, unescaped; malloc'ed. */
static mg_status take_string(char **out, const mg_jsonlex *lx, mg_error *err) {
    *out = cJSON_malloc(lx->raw_len + 1);
    if (!*out) return mg_fail_nomem(err, lx->raw_len + 1);
    return mg_jsonlex_string(lx, *out, lx->raw_len + 1, NULL, err);
}

static mg_status parse_leaf(cJSON **out, const mg_jsonlex *lx, mg_jtok tok, mg_error *err) {
    switch (tok) {
    case MG_JTOK_OBJ_BEGIN:
        *out = cJSON_CreateObject();
        break;
    case MG_JTOK_ARR_BEGIN:
        *out = cJSON_CreateArray();
        break;
    case MG_JTOK_NUMBER:
        return parse_number(out, lx, err);
    case MG_JTOK_TRUE:
        *out = cJSON_CreateTrue();
        break;
    case MG_JTOK_FALSE:
        *out = cJSON_CreateFalse();
        break;
    case MG_JTOK_NULL:
        *out = cJSON_CreateNull();
        break;
    case MG_JTOK_STRING: {
        *out = cJSON_CreateNull();
        if (!*out) break;
        (*out)->type = cJSON_String;
        return take_string(&(*out)->valuestring, lx, err);
    }
    case MG_JTOK_END:
    case MG_JTOK_OBJ_END:
    case MG_JTOK_ARR_END:
    case MG_JTOK_KEY:
        return mg_fail(err, MG_ERR_INTERNAL, "JSON: token %d is no value", (int)tok);
    }
    return *out ? MG_OK : mg_fail_nomem(err, sizeof(cJSON));
}

/* Append, in constant time: a first child's prev is the last child. */
static void append(cJSON *parent, cJSON *child) {
    cJSON *first = parent->child;
    child->next = NULL;
    if (!first) {
        parent->child = child;
        child->prev = child;
        return;
    }
    child->prev = first->prev;
    first->prev->next = child;
    first->prev = child;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Refuse equal names; on the unescaped text, so "a" and "\u0061" are the same. */
static mg_status check_unique(const cJSON *obj, const mg_jsonlex *lx, mg_error *err) {
    size_t n = mg_json_len(obj), i = 0;
    if (n < 2) return MG_OK;
    const char **names = malloc(n * sizeof *names);
    if (!names) return mg_fail_nomem(err, n * sizeof *names);
    for (const cJSON *c = obj->child; c; c = c->next) names[i++] = c->string;
    qsort(names, n, sizeof *names, by_name);
    mg_status s = MG_OK;
    for (i = 1; i < n && !s; i++)
        if (strcmp(names[i - 1], names[i]) == 0) {
            s = mg_fail(err, MG_ERR_FORMAT, "JSON: duplicate key '%s' in the object that ends here", names[i]);
            mg_error_offset(err, lx->token_at);
        }
    free(names);
    return s;
}

/* The builder: open[0..depth) are the containers being filled, key the name waiting for its value. */
typedef struct builder {
    cJSON *root, *open[MAX_DEPTH];
    unsigned depth;
    char *key;
} builder;

static mg_status build_value(builder *b, const mg_jsonlex *lx, mg_jtok tok, mg_error *err) {
    cJSON *v = NULL;
    mg_status s = parse_leaf(&v, lx, tok, err);
    if (s) {
        cJSON_Delete(v);
        return s;
    }
    v->string = b->key;
    b->key = NULL;
    if (b->depth)
        append(b->open[b->depth - 1], v);
    else
        b->root = v;
    if (tok == MG_JTOK_OBJ_BEGIN || tok == MG_JTOK_ARR_BEGIN) b->open[b->depth++] = v; /* the lexer bounds the depth */
    return MG_OK;
}

static mg_status build(builder *b, mg_jsonlex *lx, mg_error *err) {
    for (;;) {
        mg_jtok tok;
        mg_status s = mg_jsonlex_next(lx, &tok, err);
        if (s || tok == MG_JTOK_END) return s;
        switch (tok) {
        case MG_JTOK_KEY:
            s = take_string(&b->key, lx, err);
            break;
        case MG_JTOK_OBJ_END:
            s = check_unique(b->open[--b->depth], lx, err);
            break;
        case MG_JTOK_ARR_END:
            b->depth--;
            break;
        case MG_JTOK_END:
        case MG_JTOK_OBJ_BEGIN:
        case MG_JTOK_ARR_BEGIN:
        case MG_JTOK_STRING:
        case MG_JTOK_NUMBER:
        case MG_JTOK_TRUE:
        case MG_JTOK_FALSE:
        case MG_JTOK_NULL:
            s = build_value(b, lx, tok, err);
            break;
        }
        if (s) return s;
    }
}

mg_status mg_json_parse(mg_json **out, mg_span text, const char *name, mg_error *err) {
    *out = NULL;
    builder b = {0};
    mg_jsonlex lx;
    mg_jsonlex_init(&lx, text, MAX_DEPTH);
    mg_status s = build(&b, &lx, err);
    cJSON_free(b.key);
    if (s) {
        cJSON_Delete(b.root);
        mg_error_at(err, name, NULL);
        return s;
    }
    *out = b.root;
    return MG_OK;
}

mg_status mg_json_load(mg_json **out, const char *path, uint64_t cap_bytes, mg_error *err) {
    *out = NULL;
    char *text;
    size_t n;
    mg_status s = mg_file_slurp(path, cap_bytes, &text, &n, err);
    if (s) return s;
    s = mg_json_parse(out, (mg_span){(const uint8_t *)text, n}, path, err);
    free(text);
    return s;
}

void mg_json_free(mg_json *root) {
    cJSON_Delete(root);
}

mg_status mg_json_dup(mg_json **out, const mg_json *v, mg_error *err) {
    *out = v ? cJSON_Duplicate(v, true) : cJSON_CreateNull();
    return *out ? MG_OK : mg_fail_nomem(err, sizeof(cJSON));
}

/* ---- looking ---- */

mg_jtype mg_json_type(const mg_json *v) {
    if (cJSON_IsBool(v)) return MG_JSON_BOOL;
    if (cJSON_IsNumber(v)) return v->valuestring ? MG_JSON_INT : MG_JSON_REAL;
    if (cJSON_IsString(v)) return MG_JSON_STRING;
    if (cJSON_IsArray(v)) return MG_JSON_ARRAY;
    if (cJSON_IsObject(v)) return MG_JSON_OBJECT;
    return MG_JSON_NULL;
}

static const cJSON *member(const mg_json *v, const char *key, size_t n) {
    if (!cJSON_IsObject(v)) return NULL;
    for (const cJSON *c = v->child; c; c = c->next)
        if (strncmp(c->string, key, n) == 0 && c->string[n] == 0) return c;
    return NULL;
}

const mg_json *mg_json_get(const mg_json *v, const char *key) {
    return member(v, key, strlen(key));
}

const mg_json *mg_json_path(const mg_json *v, const char *dotted) {
    for (;;) {
        size_t n = strcspn(dotted, ".");
        v = member(v, dotted, n);
        if (!v || !dotted[n]) return v;
        dotted += n + 1;
    }
}

size_t mg_json_len(const mg_json *v) {
    size_t n = 0;
    for (const cJSON *c = mg_json_first(v); c; c = c->next) n++;
    return n;
}

const mg_json *mg_json_first(const mg_json *v) {
    return v ? v->child : NULL;
}
const mg_json *mg_json_next(const mg_json *child) {
    return child ? child->next : NULL;
}
const char *mg_json_key(const mg_json *child) {
    return child && child->string ? child->string : "";
}

/* The decimal text of a number that is an integer: its own digits, or those of an integral real below 2^64 in
 * magnitude. */
static const char *integer_text(const mg_json *v, char buf[32]) {
    if (!cJSON_IsNumber(v)) return NULL;
    if (v->valuestring) return v->valuestring;
    double d = v->valuedouble;
    if (!(d > -18446744073709551616.0 && d < 18446744073709551616.0)) return NULL;
    uint64_t whole = (uint64_t)(d < 0 ? -d : d);
    if ((double)whole != (d < 0 ? -d : d)) return NULL;
    snprintf(buf, 32, "%s%" PRIu64, d < 0 ? "-" : "", whole);
    return buf;
}

bool mg_json_i64(const mg_json *v, int64_t *out) {
    char buf[32];
    const char *text = integer_text(v, buf);
    if (!text) return false;
    errno = 0;
    long long got = strtoll(text, NULL, 10);
    if (errno) return false;
    *out = got;
    return true;
}

bool mg_json_u64(const mg_json *v, uint64_t *out) {
    char buf[32];
    const char *text = integer_text(v, buf);
    if (!text || text[0] == '-') return false;
    errno = 0;
    unsigned long long got = strtoull(text, NULL, 10);
    if (errno) return false;
    *out = got;
    return true;
}

bool mg_json_f64(const mg_json *v, double *out) {
    if (!cJSON_IsNumber(v)) return false;
    *out = v->valuedouble;
    return true;
}

bool mg_json_bool(const mg_json *v, bool *out) {
    if (!cJSON_IsBool(v)) return false;
    *out = cJSON_IsTrue(v);
    return true;
}

const char *mg_json_str(const mg_json *v) {
    return cJSON_IsString(v) ? v->valuestring : NULL;
}

const char *mg_json_digits(const mg_json *v) {
    return cJSON_IsNumber(v) ? v->valuestring : NULL;
}

/* ---- building ---- */

/* Copy of s with every byte that is not UTF-8 replaced by U+FFFD; NULL without memory. */
static char *clean_utf8(const char *s) {
    const uint8_t *in = (const uint8_t *)s;
    size_t n = strlen(s), at = 0, made = 0;
    char *out = n < SIZE_MAX / 4 ? cJSON_malloc(3 * n + 1) : NULL;
    if (!out) return NULL;
    while (at < n) {
        size_t good = mg_utf8_valid_prefix(in + at, n - at);
        memcpy(out + made, in + at, good);
        at += good;
        made += good;
        if (at < n) made += mg_utf8_encode(0xFFFD, out + made), at++;
    }
    out[made] = 0;
    return out;
}

mg_json *mg_json_new_object(void) {
    return cJSON_CreateObject();
}
mg_json *mg_json_new_array(void) {
    return cJSON_CreateArray();
}
mg_json *mg_json_new_bool(bool v) {
    return cJSON_CreateBool(v);
}
mg_json *mg_json_new_null(void) {
    return cJSON_CreateNull();
}

mg_json *mg_json_new_str(const char *s) {
    char *clean = clean_utf8(s);
    cJSON *v = clean ? cJSON_CreateString(clean) : NULL;
    cJSON_free(clean);
    return v;
}

mg_json *mg_json_new_i64(int64_t v) {
    char buf[32];
    return new_integer(buf, (size_t)snprintf(buf, sizeof buf, "%" PRId64, v));
}

mg_json *mg_json_new_u64(uint64_t v) {
    char buf[32];
    return new_integer(buf, (size_t)snprintf(buf, sizeof buf, "%" PRIu64, v));
}

mg_json *mg_json_new_f64(double v) {
    return v - v == 0 ? cJSON_CreateNumber(v) : cJSON_CreateNull();
}

/* A member or element that could not be made leaves a mark: the container's valueint, unused by cJSON for containers.
 * mg_json_print refuses a marked tree, so a builder checks once at the end. */
static void mark_broken(cJSON *container) {
    if (container) container->valueint = 1;
}

bool mg_json_is_broken(const mg_json *container) {
    return (cJSON_IsObject(container) || cJSON_IsArray(container)) && container->valueint != 0;
}

void mg_json_set(mg_json *obj, const char *key, mg_json *value) {
    char *name = clean_utf8(key);
    if (!cJSON_IsObject(obj) || !value || !name) {
        mark_broken(obj);
        cJSON_free(name);
        cJSON_Delete(value);
        return;
    }
    cJSON *old = (cJSON *)(uintptr_t)mg_json_get(obj, name);
    cJSON_free(value->string);
    value->string = name;
    if (old)
        cJSON_ReplaceItemViaPointer(obj, old, value);
    else
        append(obj, value);
}

void mg_json_add(mg_json *obj, const char *key, mg_json *value) {
    char *name = clean_utf8(key);
    if (!cJSON_IsObject(obj) || !value || !name) {
        mark_broken(obj);
        cJSON_free(name);
        cJSON_Delete(value);
        return;
    }
    cJSON_free(value->string);
    value->string = name;
    append(obj, value);
}

void mg_json_set_str(mg_json *obj, const char *key, const char *s) {
    mg_json_set(obj, key, mg_json_new_str(s));
}
void mg_json_set_i64(mg_json *obj, const char *key, int64_t v) {
    mg_json_set(obj, key, mg_json_new_i64(v));
}
void mg_json_set_u64(mg_json *obj, const char *key, uint64_t v) {
    mg_json_set(obj, key, mg_json_new_u64(v));
}
void mg_json_set_f64(mg_json *obj, const char *key, double v) {
    mg_json_set(obj, key, mg_json_new_f64(v));
}
void mg_json_set_bool(mg_json *obj, const char *key, bool v) {
    mg_json_set(obj, key, mg_json_new_bool(v));
}

void mg_json_remove(mg_json *obj, const char *key) {
    if (cJSON_IsObject(obj)) cJSON_DeleteItemFromObjectCaseSensitive(obj, key);
}

void mg_json_push(mg_json *arr, mg_json *value) {
    if (cJSON_IsArray(arr) && value) {
        append(arr, value);
        return;
    }
    mark_broken(arr);
    cJSON_Delete(value);
}
