/* yaml.c - see yaml.h. The only includer of libyaml.
 *
 * Nodes are immutable once read, so an alias is a node of its own (key, next) that shares the children of what it
 * names: an alias bomb costs no memory. It would still cost whoever walks the tree, so the size after expansion is
 * counted. */
#include "formats/base/yaml.h"

#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "formats/base/arena.h"
#include "formats/base/checked.h"
#include "formats/base/file.h"
#include "formats/base/number.h"

enum { MAX_TEXT = 1 << 20, MAX_DEPTH = 64, MAX_ALIASES = 100, MAX_NODES = 100000, MAX_ANCHORS = 1000 };

typedef struct node {
    mg_yaml v; /* first: what callers see */
    struct node *last_child;
    uint64_t size; /* nodes of the subtree after expansion; complete once the node has ended */
    bool ended;
} node;

typedef struct anchor {
    const char *name;
    node *target;
} anchor;

struct mg_yaml_doc {
    mg_arena arena;
    node *root;
};

typedef struct reader {
    mg_yaml_doc *doc;
    yaml_parser_t parser;
    yaml_event_t event; /* current; event.type YAML_NO_EVENT: none */
    node *open[MAX_DEPTH];
    unsigned depth;
    const char *key; /* waiting for its value */
    unsigned n_aliases, n_anchors;
    uint64_t n_nodes;
    anchor anchors[MAX_ANCHORS];
} reader;

static mg_status fail_at(mg_error *err, mg_status code, yaml_mark_t m, const char *what, const char *name) {
    return mg_fail(err, code, "YAML line %zu, column %zu: %s%s%s%s", m.line + 1, m.column + 1, what, name ? " '" : "",
                   name ? name : "", name ? "'" : "");
}

static mg_status next_event(reader *r, mg_error *err) {
    yaml_event_delete(&r->event);
    memset(&r->event, 0, sizeof r->event);
    if (yaml_parser_parse(&r->parser, &r->event)) return MG_OK;
    const yaml_parser_t *p = &r->parser;
    if (p->error == YAML_MEMORY_ERROR) return mg_fail_nomem(err, MAX_TEXT);
    if (p->error == YAML_READER_ERROR) {
        mg_status s = mg_fail(err, MG_ERR_FORMAT, "YAML: %s", p->problem ? p->problem : "unreadable bytes");
        mg_error_offset(err, p->problem_offset);
        return s;
    }
    return fail_at(err, MG_ERR_FORMAT, p->problem_mark, p->problem ? p->problem : "malformed text", NULL);
}

/* ---- nodes ---- */

static mg_status new_node(reader *r, node **out, mg_ytype type, mg_error *err) {
    mg_status s = MG_ARENA_NEW(&r->doc->arena, out, 1, err);
    if (s) return s;
    node *n = *out;
    n->v.type = type;
    n->v.line = (unsigned)r->event.start_mark.line + 1;
    n->v.column = (unsigned)r->event.start_mark.column + 1;
    n->v.text = "";
    n->size = 1;
    return MG_OK;
}

static mg_status count(reader *r, uint64_t nodes, mg_error *err) {
    r->n_nodes += nodes; /* far from wrapping: both are at most 100 aliases of 100 000 nodes */
    if (r->n_nodes <= MAX_NODES) return MG_OK;
    return fail_at(err, MG_ERR_LIMIT, r->event.start_mark, "more than 100000 nodes", NULL);
}

/* Hang a finished or just opened node where the reader stands. */
static mg_status attach(reader *r, node *n, mg_error *err) {
    mg_status s = count(r, n->size, err);
    if (s) return s;
    if (r->depth == 0) {
        r->doc->root = n;
        return MG_OK;
    }
    node *parent = r->open[r->depth - 1];
    n->v.key = r->key;
    r->key = NULL;
    if (parent->last_child)
        parent->last_child->v.next = &n->v;
    else
        parent->v.child = &n->v;
    parent->last_child = n;
    parent->v.n_children++;
    if (n->ended) parent->size += n->size; /* an open one adds its size when it ends */
    return MG_OK;
}

static mg_status set_anchor(reader *r, const yaml_char_t *name, node *target, mg_error *err) {
    if (!name) return MG_OK;
    if (r->n_anchors == MAX_ANCHORS)
        return fail_at(err, MG_ERR_LIMIT, r->event.start_mark, "more than 1000 anchors", NULL);
    char *copy = mg_arena_strdup(&r->doc->arena, (const char *)name);
    if (!copy) return mg_fail_nomem(err, strlen((const char *)name));
    r->anchors[r->n_anchors++] = (anchor){copy, target};
    return MG_OK;
}

/* NULL, or a core tag; *is_str: the scalar is a string whatever it looks like. */
static mg_status check_tag(const reader *r, const yaml_char_t *tag, bool *is_str, mg_error *err) {
    static const char prefix[] = "tag:yaml.org,2002:";
    static const char *const core[] = {"str", "int", "float", "bool", "null", "seq", "map"};
    if (!tag) return MG_OK;
    const char *t = (const char *)tag;
    if (strcmp(t, "!") == 0) {
        *is_str = true;
        return MG_OK;
    }
    if (strncmp(t, prefix, sizeof prefix - 1) == 0)
        for (size_t i = 0; i < sizeof core / sizeof *core; i++)
            if (strcmp(t + sizeof prefix - 1, core[i]) == 0) {
                *is_str = *is_str || i == 0;
                return MG_OK;
            }
    return fail_at(err, MG_ERR_FORMAT, r->event.start_mark, "tag that plain data does not have:", t);
}

/* ---- events ---- */

/* The scalar's text in the arena; NUL bytes would cut it short for every reader, so they are refused. */
static mg_status scalar_text(reader *r, const char **out, mg_error *err) {
    const char *text = (const char *)r->event.data.scalar.value;
    size_t n = r->event.data.scalar.length;
    if (memchr(text, 0, n)) return fail_at(err, MG_ERR_FORMAT, r->event.start_mark, "NUL character in a scalar", NULL);
    *out = mg_arena_strndup(&r->doc->arena, text, n);
    return *out ? MG_OK : mg_fail_nomem(err, n);
}

static bool wants_key(const reader *r) {
    return r->depth > 0 && r->open[r->depth - 1]->v.type == MG_YAML_MAP && !r->key;
}

static mg_status on_scalar(reader *r, mg_error *err) {
    bool quoted = r->event.data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    mg_status s = check_tag(r, r->event.data.scalar.tag, &quoted, err);
    if (s) return s;
    if (wants_key(r)) {
        s = scalar_text(r, &r->key, err);
        if (!s && !quoted && strcmp(r->key, "<<") == 0)
            s = fail_at(err, MG_ERR_UNSUPPORTED, r->event.start_mark, "merge keys are not supported:", "<<");
        return s;
    }
    node *n = NULL;
    s = new_node(r, &n, MG_YAML_SCALAR, err);
    if (!s) s = scalar_text(r, &n->v.text, err);
    if (s) return s;
    n->v.quoted = quoted;
    n->ended = true;
    s = attach(r, n, err);
    return s ? s : set_anchor(r, r->event.data.scalar.anchor, n, err);
}

static mg_status on_begin(reader *r, mg_ytype type, const yaml_char_t *tag, const yaml_char_t *name, mg_error *err) {
    bool ignored = false;
    if (wants_key(r)) return fail_at(err, MG_ERR_FORMAT, r->event.start_mark, "a key must be a scalar", NULL);
    if (r->depth == MAX_DEPTH) return fail_at(err, MG_ERR_LIMIT, r->event.start_mark, "nested deeper than 64", NULL);
    node *n = NULL;
    mg_status s = check_tag(r, tag, &ignored, err);
    if (!s) s = new_node(r, &n, type, err);
    if (!s) s = attach(r, n, err);
    if (!s) s = set_anchor(r, name, n, err);
    if (!s) r->open[r->depth++] = n;
    return s;
}

static int by_key(const void *a, const void *b) {
    const mg_yaml *x = *(const mg_yaml *const *)a, *y = *(const mg_yaml *const *)b;
    int c = strcmp(x->key, y->key);
    return c                    ? c
           : x->line != y->line ? (x->line > y->line) - (x->line < y->line)
                                : (x->column > y->column) - (x->column < y->column);
}

static mg_status check_unique(const mg_yaml *map, mg_error *err) {
    if (map->n_children < 2) return MG_OK;
    const mg_yaml **sorted = malloc(map->n_children * sizeof(mg_yaml *));
    if (!sorted) return mg_fail_nomem(err, map->n_children * sizeof(mg_yaml *));
    size_t n = 0;
    for (const mg_yaml *c = map->child; c; c = c->next) sorted[n++] = c;
    qsort(sorted, n, sizeof *sorted, by_key);
    mg_status s = MG_OK;
    for (size_t i = 1; i < n && !s; i++)
        if (strcmp(sorted[i - 1]->key, sorted[i]->key) == 0)
            s = mg_fail(err, MG_ERR_FORMAT, "YAML line %u, column %u: duplicate key '%s' (first on line %u)",
                        sorted[i]->line, sorted[i]->column, sorted[i]->key, sorted[i - 1]->line);
    free(sorted);
    return s;
}

static mg_status on_end(reader *r, mg_error *err) {
    node *n = r->open[--r->depth];
    n->ended = true;
    if (r->depth) r->open[r->depth - 1]->size += n->size;
    return n->v.type == MG_YAML_MAP ? check_unique(&n->v, err) : MG_OK;
}

static mg_status on_alias(reader *r, mg_error *err) {
    const char *name = (const char *)r->event.data.alias.anchor;
    if (wants_key(r)) return fail_at(err, MG_ERR_FORMAT, r->event.start_mark, "an alias as a key:", name);
    if (++r->n_aliases > MAX_ALIASES)
        return fail_at(err, MG_ERR_LIMIT, r->event.start_mark, "more than 100 aliases", NULL);
    for (unsigned i = r->n_anchors; i-- > 0;) { /* a name may be given again: the latest counts */
        if (strcmp(r->anchors[i].name, name) != 0) continue;
        const node *target = r->anchors[i].target;
        if (!target->ended) return fail_at(err, MG_ERR_LIMIT, r->event.start_mark, "alias inside what it names:", name);
        node *n = NULL;
        mg_status s = new_node(r, &n, target->v.type, err);
        if (s) return s;
        n->v.text = target->v.text;
        n->v.quoted = target->v.quoted;
        n->v.child = target->v.child;
        n->v.n_children = target->v.n_children;
        n->size = target->size;
        n->ended = true;
        return attach(r, n, err);
    }
    return fail_at(err, MG_ERR_FORMAT, r->event.start_mark, "alias without an anchor:", name);
}

/* One whole document, and nothing after it. */
static mg_status read_document(reader *r, mg_error *err) {
    unsigned documents = 0;
    for (;;) {
        mg_status s = next_event(r, err);
        if (s) return s;
        const yaml_event_t *e = &r->event;
        switch (e->type) {
        case YAML_STREAM_END_EVENT:
            return documents ? MG_OK : mg_fail(err, MG_ERR_FORMAT, "YAML: the text holds no document");
        case YAML_DOCUMENT_START_EVENT:
            if (documents++) return fail_at(err, MG_ERR_FORMAT, e->start_mark, "more than one document", NULL);
            break;
        case YAML_SCALAR_EVENT:
            s = on_scalar(r, err);
            break;
        case YAML_SEQUENCE_START_EVENT:
            s = on_begin(r, MG_YAML_SEQ, e->data.sequence_start.tag, e->data.sequence_start.anchor, err);
            break;
        case YAML_MAPPING_START_EVENT:
            s = on_begin(r, MG_YAML_MAP, e->data.mapping_start.tag, e->data.mapping_start.anchor, err);
            break;
        case YAML_SEQUENCE_END_EVENT:
        case YAML_MAPPING_END_EVENT:
            s = on_end(r, err);
            break;
        case YAML_ALIAS_EVENT:
            s = on_alias(r, err);
            break;
        case YAML_NO_EVENT:
        case YAML_STREAM_START_EVENT:
        case YAML_DOCUMENT_END_EVENT:
            break;
        }
        if (s) return s;
    }
}

mg_status mg_yaml_parse(mg_yaml_doc **out, const char *text, size_t n, const char *name, mg_error *err) {
    *out = NULL;
    if (n > MAX_TEXT) {
        mg_status s = mg_fail(err, MG_ERR_LIMIT, "YAML of %zu bytes where at most %d are read", n, MAX_TEXT);
        mg_error_at(err, name, NULL);
        return s;
    }
    mg_yaml_doc *doc = calloc(1, sizeof *doc);
    reader *r = calloc(1, sizeof *r); /* too large for a stack */
    if (!doc || !r || !yaml_parser_initialize(&r->parser)) {
        free(doc);
        free(r);
        return mg_fail_nomem(err, sizeof *r);
    }
    mg_arena_init(&doc->arena, 64 << 20);
    r->doc = doc;
    yaml_parser_set_encoding(&r->parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r->parser, (const unsigned char *)text, n);
    mg_status s = read_document(r, err);
    yaml_event_delete(&r->event);
    yaml_parser_delete(&r->parser);
    free(r);
    if (s) {
        mg_error_at(err, name, NULL);
        mg_yaml_free(doc);
        return s;
    }
    *out = doc;
    return MG_OK;
}

mg_status mg_yaml_load(mg_yaml_doc **out, const char *path, mg_error *err) {
    char *text;
    size_t n;
    *out = NULL;
    mg_status s = mg_file_slurp(path, MAX_TEXT, &text, &n, err);
    if (s) return s;
    s = mg_yaml_parse(out, text, n, path, err);
    free(text);
    return s;
}

void mg_yaml_free(mg_yaml_doc *d) {
    if (!d) return;
    mg_arena_release(&d->arena);
    free(d);
}

/* ---- looking ---- */

const mg_yaml *mg_yaml_root(const mg_yaml_doc *d) {
    return &d->root->v;
}

const mg_yaml *mg_yaml_get(const mg_yaml *map, const char *key) {
    if (!map || map->type != MG_YAML_MAP) return NULL;
    for (const mg_yaml *c = map->child; c; c = c->next)
        if (strcmp(c->key, key) == 0) return c;
    return NULL;
}

static bool is_plain(const mg_yaml *v) {
    return v && v->type == MG_YAML_SCALAR && !v->quoted;
}

static bool is_one_of(const char *text, const char *const *list) {
    for (; *list; list++)
        if (strcmp(text, *list) == 0) return true;
    return false;
}

bool mg_yaml_is_null(const mg_yaml *v) {
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL", NULL};
    return is_plain(v) && is_one_of(v->text, nulls);
}

bool mg_yaml_f64(const mg_yaml *v, double *out) {
    return is_plain(v) && mg_number_parse(v->text, strlen(v->text), out);
}

bool mg_yaml_i64(const mg_yaml *v, int64_t *out) {
    if (!is_plain(v)) return false;
    const char *s = v->text;
    bool minus = *s == '-';
    if (*s == '-' || *s == '+') s++;
    int64_t sum = 0;
    if (!*s) return false;
    for (; *s; s++)
        if (*s < '0' || *s > '9' || __builtin_mul_overflow(sum, INT64_C(10), &sum) ||
            __builtin_add_overflow(sum, (int64_t)(minus ? '0' - *s : *s - '0'), &sum))
            return false;
    *out = sum;
    return true;
}

bool mg_yaml_bool(const mg_yaml *v, bool *out) {
    static const char *const yes[] = {"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON", NULL};
    static const char *const no[] = {"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF", NULL};
    if (!is_plain(v)) return false;
    *out = is_one_of(v->text, yes);
    return *out || is_one_of(v->text, no);
}
