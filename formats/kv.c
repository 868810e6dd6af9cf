/* kv.c - ordered key/value metadata. Lookup is a linear scan: real files hold a few dozen keys, and readers of hostile
 * files check duplicates with a hash map of their own and append through mg_kvs_push. */
#include "formats/kv.h"

#include <stdlib.h>
#include <string.h>

#include "formats/base/checked.h"

static const uint8_t type_size[MG_KV_TYPE_COUNT] = {
    [MG_KV_U8] = 1,  [MG_KV_I8] = 1,   [MG_KV_U16] = 2, [MG_KV_I16] = 2, [MG_KV_U32] = 4, [MG_KV_I32] = 4,
    [MG_KV_F32] = 4, [MG_KV_BOOL] = 1, [MG_KV_U64] = 8, [MG_KV_I64] = 8, [MG_KV_F64] = 8,
};

static const char *const type_name[MG_KV_TYPE_COUNT] = {
    [MG_KV_U8] = "u8",   [MG_KV_I8] = "i8",   [MG_KV_U16] = "u16",   [MG_KV_I16] = "i16", [MG_KV_U32] = "u32",
    [MG_KV_I32] = "i32", [MG_KV_F32] = "f32", [MG_KV_BOOL] = "bool", [MG_KV_STR] = "str", [MG_KV_ARR] = "arr",
    [MG_KV_U64] = "u64", [MG_KV_I64] = "i64", [MG_KV_F64] = "f64",
};

size_t mg_kv_type_size(mg_kv_type t) {
    return (unsigned)t < MG_KV_TYPE_COUNT ? type_size[t] : 0;
}
const char *mg_kv_type_name(mg_kv_type t) {
    return (unsigned)t < MG_KV_TYPE_COUNT ? type_name[t] : "?";
}

void mg_kvs_init(mg_kvs *k) {
    memset(k, 0, sizeof *k);
    mg_arena_init(&k->arena, 0);
}

void mg_kvs_release(mg_kvs *k) {
    mg_arena_release(&k->arena);
    free(k->items);
    memset(k, 0, sizeof *k);
}

mg_status mg_kvs_push(mg_kvs *k, const mg_kv *item, mg_error *err) {
    if (k->n == k->cap) {
        uint64_t cap = k->cap ? (uint64_t)k->cap * 2 : 32;
        mg_kv *p = cap <= UINT32_MAX ? realloc(k->items, (size_t)cap * sizeof *p) : NULL;
        if (!p) return mg_fail_nomem(err, cap * sizeof *p);
        k->items = p;
        k->cap = (uint32_t)cap;
    }
    k->items[k->n++] = *item;
    return MG_OK;
}

static uint32_t find(const mg_kvs *k, const char *key, size_t len) {
    for (uint32_t i = 0; i < k->n; i++)
        if (k->items[i].key.size == len && memcmp(k->items[i].key.data, key, len) == 0) return i;
    return MG_STRMAP_NONE;
}

static void remove_at(mg_kvs *k, uint32_t i) {
    if (i == MG_STRMAP_NONE) return;
    memmove(&k->items[i], &k->items[i + 1], (size_t)(k->n - i - 1) * sizeof *k->items);
    k->n--; /* the value's bytes stay in the arena until release */
}

static mg_status copy_str(mg_arena *a, mg_str *out, const char *s, uint64_t n, mg_error *err) {
    char *p = mg_arena_strndup(a, s ? s : "", n);
    if (!p) return mg_fail_nomem(err, n + 1);
    *out = (mg_str){p, n};
    return MG_OK;
}

static mg_status copy_values(mg_arena *a, mg_kv *dst, mg_kv_type elem, uint64_t count, const void *data,
                             mg_error *err) {
    size_t size = elem == MG_KV_STR ? sizeof(mg_str) : mg_kv_type_size(elem);
    if (size == 0) return mg_fail(err, MG_ERR_INTERNAL, "key '%s' has no storable type", dst->key.data);
    void *p = NULL;
    MG_TRY(mg_arena_get(a, &p, count ? count : 1, size, err));
    if (elem == MG_KV_STR) {
        const mg_str *from = data;
        mg_str *to = p;
        for (uint64_t i = 0; i < count; i++) MG_TRY(copy_str(a, &to[i], from[i].data, from[i].size, err));
    } else if (count) {
        memcpy(p, data, count * size);
    }
    dst->data = p;
    dst->count = count;
    return MG_OK;
}

/* The new value is complete before the old one goes: data may point into the item that is replaced. */
static mg_status set_item(mg_kvs *k, mg_str key, mg_kv_type type, mg_kv_type elem, uint64_t count, const void *data,
                          mg_error *err) {
    mg_kv kv = {.type = type, .elem = elem};
    uint32_t old = find(k, key.data, key.size);
    MG_TRY(copy_str(&k->arena, &kv.key, key.data, key.size, err));
    MG_TRY(copy_values(&k->arena, &kv, elem, count, data, err));
    remove_at(k, old);
    return mg_kvs_push(k, &kv, err);
}

static mg_str str_of(const char *s) {
    return (mg_str){s, strlen(s)};
}

mg_status mg_kvs_set(mg_kvs *k, const char *key, mg_kv_type type, const void *value, mg_error *err) {
    if (type == MG_KV_ARR || (unsigned)type >= MG_KV_TYPE_COUNT)
        return mg_fail(err, MG_ERR_INTERNAL, "key '%s': not a scalar type", key);
    return set_item(k, str_of(key), type, type, 1, value, err);
}

mg_status mg_kvs_set_str(mg_kvs *k, const char *key, const char *s, size_t n, mg_error *err) {
    mg_str v = {s, n};
    return set_item(k, str_of(key), MG_KV_STR, MG_KV_STR, 1, &v, err);
}

mg_status mg_kvs_set_arr(mg_kvs *k, const char *key, mg_kv_type elem, uint64_t n, const void *data, mg_error *err) {
    return set_item(k, str_of(key), MG_KV_ARR, elem, n, data, err);
}

mg_status mg_kvs_set_u32(mg_kvs *k, const char *key, uint32_t v, mg_error *err) {
    return mg_kvs_set(k, key, MG_KV_U32, &v, err);
}

mg_status mg_kvs_set_f32(mg_kvs *k, const char *key, float v, mg_error *err) {
    return mg_kvs_set(k, key, MG_KV_F32, &v, err);
}

mg_status mg_kvs_set_bool(mg_kvs *k, const char *key, bool v, mg_error *err) {
    uint8_t b = v;
    return mg_kvs_set(k, key, MG_KV_BOOL, &b, err);
}

mg_status mg_kvs_copy(mg_kvs *k, const mg_kv *item, mg_error *err) {
    return set_item(k, item->key, item->type, item->elem, item->count, item->data, err);
}

void mg_kvs_remove(mg_kvs *k, const char *key) {
    remove_at(k, find(k, key, strlen(key)));
}

const mg_kv *mg_kvs_get(const mg_kvs *k, const char *key) {
    uint32_t i = k ? find(k, key, strlen(key)) : MG_STRMAP_NONE;
    return i == MG_STRMAP_NONE ? NULL : &k->items[i];
}

bool mg_kv_elem(const mg_kv *v, uint64_t i, mg_kv *out) {
    if (!v || i >= v->count) return false;
    size_t size = v->elem == MG_KV_STR ? sizeof(mg_str) : mg_kv_type_size(v->elem);
    *out = *v;
    out->type = v->elem;
    out->count = 1;
    out->data = (const char *)v->data + i * size;
    return true;
}

/* An integer or bool as sign and magnitude, so that every width meets in one place. */
static bool integer(const mg_kv *v, bool *negative, uint64_t *magnitude) {
    if (!v) return false;
    int64_t s = 0;
    uint64_t u = 0;
    bool is_signed = false;
    switch (v->type) {
    case MG_KV_U8:
    case MG_KV_BOOL:
        u = *(const uint8_t *)v->data;
        break;
    case MG_KV_U16: {
        uint16_t x;
        memcpy(&x, v->data, 2);
        u = x;
        break;
    }
    case MG_KV_U32: {
        uint32_t x;
        memcpy(&x, v->data, 4);
        u = x;
        break;
    }
    case MG_KV_U64:
        memcpy(&u, v->data, 8);
        break;
    case MG_KV_I8:
        s = *(const int8_t *)v->data;
        is_signed = true;
        break;
    case MG_KV_I16: {
        int16_t x;
        memcpy(&x, v->data, 2);
        s = x;
        is_signed = true;
        break;
    }
    case MG_KV_I32: {
        int32_t x;
        memcpy(&x, v->data, 4);
        s = x;
        is_signed = true;
        break;
    }
    case MG_KV_I64:
        memcpy(&s, v->data, 8);
        is_signed = true;
        break;
    default:
        return false;
    }
    *negative = is_signed && s < 0;
    *magnitude = !is_signed ? u : s < 0 ? 0 - (uint64_t)s : (uint64_t)s;
    return true;
}

bool mg_kv_u64(const mg_kv *v, uint64_t *out) {
    bool neg;
    uint64_t m;
    if (!integer(v, &neg, &m) || neg) return false;
    *out = m;
    return true;
}

bool mg_kv_i64(const mg_kv *v, int64_t *out) {
    bool neg;
    uint64_t m;
    if (!integer(v, &neg, &m)) return false;
    if (m > (uint64_t)INT64_MAX + (neg ? 1u : 0u)) return false;
    *out = neg ? (int64_t)(0 - m) : (int64_t)m;
    return true;
}

bool mg_kv_f64(const mg_kv *v, double *out) {
    bool neg;
    uint64_t m;
    if (v && v->type == MG_KV_F32) {
        float f;
        memcpy(&f, v->data, sizeof f);
        *out = (double)f;
        return true;
    }
    if (v && v->type == MG_KV_F64) {
        memcpy(out, v->data, sizeof *out);
        return true;
    }
    if (!v || v->type == MG_KV_BOOL || !integer(v, &neg, &m)) return false;
    *out = neg ? -(double)m : (double)m;
    return true;
}

bool mg_kv_bool(const mg_kv *v, bool *out) {
    bool neg;
    uint64_t m;
    if (!integer(v, &neg, &m) || neg || m > 1) return false;
    *out = m == 1;
    return true;
}

bool mg_kv_str(const mg_kv *v, mg_str *out) {
    if (!v || v->type != MG_KV_STR) return false;
    *out = *(const mg_str *)v->data;
    return true;
}
