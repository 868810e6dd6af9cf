/* kv.h - typed key/value metadata as GGUF stores it: an ordered list with lookup. Used to read GGUF files, to build
 * the metadata of GGUF outputs, and for --override-kv. */
#ifndef MG_FORMATS_KV_H
#define MG_FORMATS_KV_H

#include "formats/base/arena.h"
#include "formats/base/strmap.h"

typedef enum mg_kv_type { /* the ids of the file format */
                          MG_KV_U8 = 0,
                          MG_KV_I8,
                          MG_KV_U16,
                          MG_KV_I16,
                          MG_KV_U32,
                          MG_KV_I32,
                          MG_KV_F32,
                          MG_KV_BOOL,
                          MG_KV_STR,
                          MG_KV_ARR,
                          MG_KV_U64,
                          MG_KV_I64,
                          MG_KV_F64,
                          MG_KV_TYPE_COUNT,
} mg_kv_type;

typedef struct mg_str {
    const char *data; /* NUL-terminated for convenience; may contain NUL bytes before size */
    uint64_t size;
} mg_str;

typedef struct mg_kv {
    mg_str key;
    mg_kv_type type;  /* MG_KV_ARR for arrays */
    mg_kv_type elem;  /* element type of an array (never MG_KV_ARR) */
    uint64_t count;   /* elements; 1 for scalars */
    const void *data; /* count packed little-endian values, or count mg_str */
} mg_kv;

typedef struct mg_kvs {
    mg_arena arena;
    mg_kv *items;
    uint32_t n, cap;
} mg_kvs;

void mg_kvs_init(mg_kvs *k);
void mg_kvs_release(mg_kvs *k);

/* Setters with the semantics of the C gguf writer: an existing key is removed and the new value appended at the end. */
mg_status mg_kvs_set(mg_kvs *k, const char *key, mg_kv_type type, const void *value, mg_error *err) MG_MUST_CHECK;
mg_status mg_kvs_set_str(mg_kvs *k, const char *key, const char *s, size_t n, mg_error *err) MG_MUST_CHECK;
mg_status mg_kvs_set_arr(mg_kvs *k, const char *key, mg_kv_type elem, uint64_t n, const void *data,
                         mg_error *err) MG_MUST_CHECK;
mg_status mg_kvs_set_u32(mg_kvs *k, const char *key, uint32_t v, mg_error *err) MG_MUST_CHECK;
mg_status mg_kvs_set_f32(mg_kvs *k, const char *key, float v, mg_error *err) MG_MUST_CHECK;
mg_status mg_kvs_set_bool(mg_kvs *k, const char *key, bool v, mg_error *err) MG_MUST_CHECK;
/* Deep copy of an item to the end of k. */
mg_status mg_kvs_copy(mg_kvs *k, const mg_kv *item, mg_error *err) MG_MUST_CHECK;
void mg_kvs_remove(mg_kvs *k, const char *key);
/* For readers: append an item whose key and data already live in k->arena. No duplicate check (the reader makes its
 * own, linear over the whole file). */
mg_status mg_kvs_push(mg_kvs *k, const mg_kv *item, mg_error *err) MG_MUST_CHECK;

const mg_kv *mg_kvs_get(const mg_kvs *k, const char *key); /* NULL when absent */
/* Conversions: false when absent or of another kind. Integers of any width convert when the value fits; bool too. */
bool mg_kv_u64(const mg_kv *v, uint64_t *out);
bool mg_kv_i64(const mg_kv *v, int64_t *out);
bool mg_kv_f64(const mg_kv *v, double *out); /* f32, f64 and integers */
bool mg_kv_bool(const mg_kv *v, bool *out);
bool mg_kv_str(const mg_kv *v, mg_str *out);
/* Bytes of one element of a scalar type (bool 1); 0 for STR and ARR. */
size_t mg_kv_type_size(mg_kv_type t);
/* "u8", "str", "arr" ... as GGUF tools print them; "?" for a value outside the enumeration. */
const char *mg_kv_type_name(mg_kv_type t);
/* Scalar view of element i of an array (type = elem, count = 1); false when v is no array or i is out of range.
 * A scalar v is its own element 0. */
bool mg_kv_elem(const mg_kv *v, uint64_t i, mg_kv *out);

#endif
