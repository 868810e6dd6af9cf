/* yaml.h - bounded YAML 1.1 reading through libyaml events into a small tree. All scalars stay strings: the schema
 * types them (so `no`, `1e3` and `12_000` never surprise). Caps: 1 MiB of text, depth 64, 100 aliases, 100 000 nodes
 * after expansion (MG_ERR_LIMIT). Duplicate keys, explicit non-core tags (!!python/...), more than one document:
 * MG_ERR_FORMAT with line and column. */
#ifndef MG_BASE_YAML_H
#define MG_BASE_YAML_H

#include "formats/base/status.h"

typedef enum mg_ytype { MG_YAML_SCALAR, MG_YAML_SEQ, MG_YAML_MAP } mg_ytype;

typedef struct mg_yaml {
    mg_ytype type;
    unsigned line, column;       /* 1-based, of the node's start */
    const char *key;             /* member name when the parent is a map, else NULL */
    const char *text;            /* SCALAR: value, NUL-terminated; never NULL */
    bool quoted;                 /* SCALAR written with quotes or as a block: never null/number/bool */
    const struct mg_yaml *child; /* first child of SEQ or MAP */
    const struct mg_yaml *next;  /* next sibling */
    size_t n_children;
} mg_yaml;

typedef struct mg_yaml_doc mg_yaml_doc;

mg_status mg_yaml_parse(mg_yaml_doc **out, const char *text, size_t n, const char *name, mg_error *err) MG_MUST_CHECK;
mg_status mg_yaml_load(mg_yaml_doc **out, const char *path, mg_error *err) MG_MUST_CHECK;
void mg_yaml_free(mg_yaml_doc *d);
const mg_yaml *mg_yaml_root(const mg_yaml_doc *d);
const mg_yaml *mg_yaml_get(const mg_yaml *map, const char *key); /* NULL when absent or not a map */
bool mg_yaml_is_null(const mg_yaml *v);                          /* plain ~, null, Null, NULL or empty */
bool mg_yaml_f64(const mg_yaml *v, double *out);
bool mg_yaml_i64(const mg_yaml *v, int64_t *out);
bool mg_yaml_bool(const mg_yaml *v, bool *out); /* true/false/yes/no/on/off, plain only */

#endif
