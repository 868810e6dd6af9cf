/* edit_kv.h - GGUF metadata with some keys set and some removed; everything else, and the order, stays.
 *
 * A key that exists keeps its place and its type: the text is read as that type, and refused when it does not fit. A
 * new key goes to the end. Its type is stated, KEY=TYPE:VALUE with TYPE one of u8 i8 u16 i16 u32 i32 u64 i64 f32 f64
 * bool str, one of them with [] (a JSON array), or as in --override-kv: int (u32, or the first of i32, u64, i64 that
 * holds the value) and float (f32) or inferred: true and false are bool, whole numbers int, other numbers float, a JSON
 * array of equal elements an array (of str, bool, i32 or f32), anything else str. A key both removed and set is new. */
#ifndef MG_CONVERT_EDIT_KV_H
#define MG_CONVERT_EDIT_KV_H

#include "formats/kv.h"

typedef struct mg_kv_edit {
    const char *key;
    const char *text; /* [n] bytes and a NUL */
    size_t n;
    bool from_file; /* for a new key: a str, byte for byte, unless the key exists with another type */
    bool used;      /* set by mg_kvs_edit */
} mg_kv_edit;

/* out (initialised) = in with edits. Names and values of in are shared: in outlives out. MG_ERR_USAGE: a value that
 * does not fit, a key set twice, a key to remove that is not there (the nearest is named), general.alignment (the
 * layout of the data depends on it), a key that is no GGUF key name. MG_ERR_FORMAT: the result breaks the rules of
 * mg_gguf_check_model. *changed: whether anything is different, the order included. */
mg_status mg_kvs_edit(mg_kvs *out, const mg_kvs *in, mg_kv_edit *sets, size_t n_sets, const char *const *removes,
                      size_t n_removes, bool *changed, mg_error *err) MG_MUST_CHECK;

#endif
