/* json.h - small JSON trees (config.json, recipes, reports). The only includer of cJSON.
 *
 * Reading: the text is validated by jsonlex first (so cJSON's leniencies never show) and duplicate keys are refused.
 * Integers are kept exactly at any size (cJSON alone would round above 2^53). Lookups are case-sensitive.
 * Writing: keys in insertion order; doubles in the shortest form that reads back equal; integers exact; locale
 * independent. mg_json is an opaque node (a cJSON). A tree is owned by its root; nodes obtained from it are borrowed.
 */
#ifndef MG_BASE_JSON_H
#define MG_BASE_JSON_H

#include "formats/base/checked.h"
#include "formats/base/status.h"

typedef struct cJSON mg_json;

typedef enum mg_jtype {
    MG_JSON_NULL,
    MG_JSON_BOOL,
    MG_JSON_INT,
    MG_JSON_REAL,
    MG_JSON_STRING,
    MG_JSON_ARRAY,
    MG_JSON_OBJECT
} mg_jtype;

/* Parse a whole text; name is used in errors. *out owned by the caller (mg_json_free). */
mg_status mg_json_parse(mg_json **out, mg_span text, const char *name, mg_error *err) MG_MUST_CHECK;
mg_status mg_json_load(mg_json **out, const char *path, uint64_t cap_bytes, mg_error *err) MG_MUST_CHECK;
void mg_json_free(mg_json *root);
mg_status mg_json_dup(mg_json **out, const mg_json *v, mg_error *err) MG_MUST_CHECK;

mg_jtype mg_json_type(const mg_json *v);
/* Member by exact key, or NULL (also when v is NULL or no object). */
const mg_json *mg_json_get(const mg_json *v, const char *key);
/* Nested lookup "rope_parameters.rope_theta": '.' separates levels; NULL when absent. */
const mg_json *mg_json_path(const mg_json *v, const char *dotted);
size_t mg_json_len(const mg_json *v);              /* members or elements */
const mg_json *mg_json_first(const mg_json *v);    /* first child, NULL when empty */
const mg_json *mg_json_next(const mg_json *child); /* sibling, NULL at the end */
/* Name of a member; "" for an element of an array: whoever walks an object finds an array there one day. */
const char *mg_json_key(const mg_json *child);

/* Conversions: false when the type does not fit (INT to f64 is fine; REAL to an integer only if integral). v may be
 * NULL. */
bool mg_json_i64(const mg_json *v, int64_t *out);
bool mg_json_u64(const mg_json *v, uint64_t *out);
bool mg_json_f64(const mg_json *v, double *out);
bool mg_json_bool(const mg_json *v, bool *out);
const char *mg_json_str(const mg_json *v);    /* NULL unless a string */
const char *mg_json_digits(const mg_json *v); /* decimal text of an INT, exact at any size; else NULL */

/* Building. NULL on memory failure is tolerated by every setter (setting into NULL does nothing); mg_json_print then
 * fails with MG_ERR_LIMIT, so a builder checks once at the end. mg_json_set takes ownership of value. */
mg_json *mg_json_new_object(void);
mg_json *mg_json_new_array(void);
mg_json *mg_json_new_str(const char *s); /* invalid UTF-8 is escaped as U+FFFD */
mg_json *mg_json_new_i64(int64_t v);
mg_json *mg_json_new_u64(uint64_t v);
mg_json *mg_json_new_f64(double v); /* non-finite becomes null */
mg_json *mg_json_new_bool(bool v);
mg_json *mg_json_new_null(void);
void mg_json_set(mg_json *obj, const char *key, mg_json *value); /* replaces in place, else appends */
/* The same for a key the caller knows to be new: constant time, where mg_json_set looks through the whole object. */
void mg_json_add(mg_json *obj, const char *key, mg_json *value);
void mg_json_set_str(mg_json *obj, const char *key, const char *s);
void mg_json_set_i64(mg_json *obj, const char *key, int64_t v);
void mg_json_set_u64(mg_json *obj, const char *key, uint64_t v);
void mg_json_set_f64(mg_json *obj, const char *key, double v);
void mg_json_set_bool(mg_json *obj, const char *key, bool v);
void mg_json_remove(mg_json *obj, const char *key);
void mg_json_push(mg_json *arr, mg_json *value);
bool mg_json_is_broken(
    const mg_json *container); /* a setter failed on it (memory); mg_json_print refuses such a tree */

/* Text, malloc'ed, ASCII (other characters as \u escapes, as Python writes them). indent 0 = one line, else that many
 * spaces per level as Python's json.dump(indent=n) lays out. */
mg_status mg_json_print(char **out, const mg_json *v, unsigned indent, mg_error *err) MG_MUST_CHECK;

#endif
