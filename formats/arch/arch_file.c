/* arch_file.c - see arch_file.h: reading. Fields are those of arch_fields.c; what a field may hold is checked here,
 * whether the whole makes sense in arch_check.c. */
#include "formats/arch/arch_file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/arch/arch_fields.h"
#include "formats/base/number.h"
#include "formats/base/yaml.h"

#define MAX_ROWS 256 /* of any list of a description */
#define MAX_STR  1000

typedef struct reader {
    mg_arena *arena; /* of the description, for good */
    const char *path;
    mg_error *err;
} reader;

static mg_status bad(const reader *r, const mg_yaml *v, const char *what, const char *expected) {
    return mg_fail(r->err, MG_ERR_FORMAT, "'%s' line %u: %s '%.60s', expected %s", r->path, v->line, what,
                   v->type == MG_YAML_SCALAR ? v->text
                   : v->type == MG_YAML_SEQ  ? "a list"
                                             : "a map",
                   expected);
}

/* ---- scalars ---- */

static mg_status text(const reader *r, const mg_yaml *v, const char *what, const char **out) {
    if (v->type != MG_YAML_SCALAR || mg_yaml_is_null(v) || !*v->text) return bad(r, v, what, "a text");
    if (strlen(v->text) > MAX_STR) return bad(r, v, what, "at most 1000 characters");
    for (const char *p = v->text; *p; p++)
        if (*p < ' ' || *p > '~') return bad(r, v, what, "printable ASCII");
    *out = mg_arena_strdup(r->arena, v->text);
    return *out ? MG_OK : mg_fail_nomem(r->err, strlen(v->text));
}

static mg_status whole(const reader *r, const mg_yaml *v, const char *what, uint64_t most, uint64_t *out) {
    int64_t n;
    if (!mg_yaml_i64(v, &n) || n < 0 || (uint64_t)n > most) return bad(r, v, what, "a whole number in range");
    *out = (uint64_t)n;
    return MG_OK;
}

static mg_status enumerator(const reader *r, const mg_yaml *v, const mg_field *f, int *out) {
    char known[256] = "one of";
    for (const mg_enum_name *n = f->names; n->name; n++) {
        if (v->type == MG_YAML_SCALAR && strcmp(n->name, v->text) == 0) {
            *out = n->value;
            return MG_OK;
        }
        const size_t at = strlen(known);
        snprintf(known + at, sizeof known - at, " %s", n->name);
    }
    return bad(r, v, f->name, known);
}

static mg_status a_key(const reader *r, const mg_yaml *v, const char *what, mg_key *out) {
    if (v->type == MG_YAML_SCALAR && mg_key_by_name(v->text, strlen(v->text), out)) return MG_OK;
    return bad(r, v, what, "a key of keys.inc");
}

static mg_status a_role(const reader *r, const mg_yaml *v, const char *what, mg_role *out) {
    for (int i = 0; i < MG_ROLE_COUNT && v->type == MG_YAML_SCALAR; i++)
        if (strcmp(v->text, mg_role_symbol((mg_role)i)) == 0) {
            *out = (mg_role)i;
            return MG_OK;
        }
    return bad(r, v, what, "a role of roles.inc");
}

static mg_status sym(const reader *r, const mg_yaml *v, const char *what, mg_sym *out) {
    if (v->type == MG_YAML_SCALAR && mg_sym_parse(v->text, out)) return MG_OK;
    return bad(r, v, what, "a key, a product or sum of keys, a number or e");
}

/* {"gelu_new": gelu_tanh}: enumerators of ACT, ROPE_TYPE and SCORE_FUNC, or numbers of at most 15. */
static mg_status spellings(const reader *r, const mg_yaml *v, const mg_enum_name **out) {
    mg_enum_name *list;
    uint32_t n = 0;
    uint64_t value;
    if (v->type != MG_YAML_MAP || v->n_children == 0 || v->n_children > 64)
        return bad(r, v, "names", "a map of spellings");
    MG_TRY(MG_ARENA_NEW(r->arena, &list, v->n_children + 1, r->err));
    for (const mg_yaml *c = v->child; c; c = c->next, n++) {
        mg_fallback fb;
        list[n].name = mg_arena_strdup(r->arena, c->key);
        if (!list[n].name) return mg_fail_nomem(r->err, strlen(c->key));
        if (c->type == MG_YAML_SCALAR && mg_fallback_parse(c->text, &fb) && fb.kind == MG_FB_VALUE && fb.value >= 0 &&
            fb.value <= 15 && fb.value == floor(fb.value))
            value = (uint64_t)fb.value;
        else
            return bad(r, c, "names", "an enumerator or a number up to 15");
        list[n].value = (int)value;
    }
    *out = list;
    return MG_OK;
}

/* ---- lists ---- */

/* The items of a list; one that is not a list stands for itself. */
static mg_status items(const reader *r, const mg_yaml *v, const char *what, size_t most, const mg_yaml **first,
                       size_t *n) {
    *first = v->type == MG_YAML_SEQ ? v->child : v;
    *n = v->type == MG_YAML_SEQ ? v->n_children : 1;
    char room[64];
    snprintf(room, sizeof room, "at most %zu of them", most);
    return *n <= most ? MG_OK : bad(r, v, what, room);
}

static mg_status fields(const reader *r, const mg_yaml *v, const mg_fields *table, void *to, bool partial);

static mg_status row(const reader *r, const mg_yaml *v, const mg_fields *table, void *to) {
    if (v->type != MG_YAML_SCALAR || !table->short_form) return fields(r, v, table, to, false);
    const mg_yaml member = {.type = MG_YAML_SCALAR,
                            .line = v->line,
                            .column = v->column,
                            .key = table->short_form,
                            .text = v->text,
                            .quoted = v->quoted};
    const mg_yaml map = {
        .type = MG_YAML_MAP, .line = v->line, .column = v->column, .text = "", .child = &member, .n_children = 1};
    return fields(r, &map, table, to, false);
}

static mg_status rows_into(const reader *r, const mg_yaml *v, const mg_field *f, size_t most, void *to,
                           uint32_t *count) {
    const mg_yaml *c;
    size_t n, i = 0;
    MG_TRY(items(r, v, f->name, most, &c, &n));
    for (; i < n; c = c->next, i++) MG_TRY(row(r, c, f->rows, (char *)to + i * f->rows->size));
    *count = (uint32_t)n;
    return MG_OK;
}

static mg_status new_rows(const reader *r, const mg_yaml *v, const mg_field *f, void *slot, uint32_t *count) {
    const mg_yaml *c;
    size_t n;
    void *list;
    MG_TRY(items(r, v, f->name, MAX_ROWS, &c, &n));
    MG_TRY(mg_arena_get(r->arena, &list, n + 1, f->rows->size, r->err));
    memcpy(slot, &list, sizeof list);
    return rows_into(r, v, f, MAX_ROWS, list, count);
}

static mg_status strings(const reader *r, const mg_yaml *v, const mg_field *f, size_t most, const char **to) {
    const mg_yaml *c;
    size_t n, i = 0;
    MG_TRY(items(r, v, f->name, most, &c, &n));
    for (; i < n; c = c->next, i++) MG_TRY(text(r, c, f->name, &to[i]));
    for (; i < most; i++) to[i] = NULL;
    return MG_OK;
}

static mg_status string_list(const reader *r, const mg_yaml *v, const mg_field *f, void *slot) {
    const size_t n = v->type == MG_YAML_SEQ ? v->n_children : 1;
    const char **list;
    if (n > MAX_ROWS) return bad(r, v, f->name, "at most 256 of them");
    MG_TRY(MG_ARENA_NEW(r->arena, &list, n + 1, r->err));
    memcpy(slot, &list, sizeof list);
    return strings(r, v, f, n, list);
}

static mg_status syms(const reader *r, const mg_yaml *v, const mg_field *f, mg_sym *to) {
    const mg_yaml *c;
    size_t n, i = 0;
    MG_TRY(items(r, v, f->name, f->room, &c, &n));
    memset(to, 0, f->room * sizeof *to);
    for (; i < n; c = c->next, i++) MG_TRY(sym(r, c, f->name, &to[i]));
    return MG_OK;
}

static mg_status roles(const reader *r, const mg_yaml *v, const mg_field *f, mg_role *to, uint32_t *count) {
    const mg_yaml *c;
    size_t n, i = 0;
    MG_TRY(items(r, v, f->name, f->room, &c, &n));
    for (; i < n; c = c->next, i++) MG_TRY(a_role(r, c, f->name, &to[i]));
    *count = (uint32_t)n;
    return MG_OK;
}

static mg_status object(const reader *r, const mg_yaml *v, const mg_field *f, void *slot) {
    void *one;
    MG_TRY(mg_arena_get(r->arena, &one, 1, f->rows->size, r->err));
    memcpy(slot, &one, sizeof one);
    return fields(r, v, f->rows, one, false);
}

/* ---- one field ---- */

static mg_status real(const reader *r, const mg_yaml *v, const mg_field *f, double *out) {
    if (f->kind == MG_FIELD_HARMLESS && v->type == MG_YAML_SCALAR && strcmp(v->text, "any") == 0) {
        *out = NAN;
        return MG_OK;
    }
    if (v->type == MG_YAML_SCALAR && mg_number_parse(v->text, strlen(v->text), out)) return MG_OK;
    return bad(r, v, f->name, f->kind == MG_FIELD_HARMLESS ? "a number or any" : "a number");
}

static mg_status value(const reader *r, const mg_yaml *v, const mg_field *f, char *base) {
    char *to = base + f->at;
    uint32_t unused = 0, *count = f->n_at == MG_NO_COUNT ? &unused : (uint32_t *)(void *)(base + f->n_at);
    uint64_t n = 0;
    switch (f->kind) {
    case MG_FIELD_STR:
        return text(r, v, f->name, (const char **)(void *)to);
    case MG_FIELD_STRS:
        return strings(r, v, f, f->room, (const char **)(void *)to);
    case MG_FIELD_STRLIST:
        return string_list(r, v, f, to);
    case MG_FIELD_BOOL:
        return mg_yaml_bool(v, (bool *)to) ? MG_OK : bad(r, v, f->name, "true or false");
    case MG_FIELD_U32:
        MG_TRY(whole(r, v, f->name, 1000, &n));
        *(uint32_t *)(void *)to = (uint32_t)n;
        return MG_OK;
    case MG_FIELD_U64:
        return whole(r, v, f->name, 1u << 24, (uint64_t *)(void *)to);
    case MG_FIELD_F64:
    case MG_FIELD_HARMLESS:
        return real(r, v, f, (double *)(void *)to);
    case MG_FIELD_ENUM:
        return enumerator(r, v, f, (int *)(void *)to);
    case MG_FIELD_KEY:
        return a_key(r, v, f->name, (mg_key *)(void *)to);
    case MG_FIELD_ROLE:
        return a_role(r, v, f->name, (mg_role *)(void *)to);
    case MG_FIELD_ROLES:
        return roles(r, v, f, (mg_role *)(void *)to, count);
    case MG_FIELD_SYM:
        return sym(r, v, f->name, (mg_sym *)(void *)to);
    case MG_FIELD_SYMS:
        return syms(r, v, f, (mg_sym *)(void *)to);
    case MG_FIELD_FALLBACK:
        if (v->type == MG_YAML_SCALAR && mg_fallback_parse(v->text, (mg_fallback *)(void *)to)) return MG_OK;
        return bad(r, v, f->name, "a number, a key, or a rule such as HIDDEN/HEADS, required, tensors");
    case MG_FIELD_SPELLINGS:
        return spellings(r, v, (const mg_enum_name **)(void *)to);
    case MG_FIELD_STRUCT:
        return fields(r, v, f->rows, to, true);
    case MG_FIELD_OBJECT:
        return object(r, v, f, to);
    case MG_FIELD_INLINE:
        return rows_into(r, v, f, f->room, to, count);
    case MG_FIELD_ROWS:
        return new_rows(r, v, f, to, count);
    }
    return mg_fail(r->err, MG_ERR_INTERNAL, "field '%s' of kind %d", f->name, (int)f->kind);
}

static const mg_field *field_named(const mg_fields *table, const char *name) {
    for (uint32_t i = 0; i < table->n; i++)
        if (strcmp(table->items[i].name, name) == 0) return &table->items[i];
    return NULL;
}

/* partial: what is required may already be in `to`. */
static mg_status fields(const reader *r, const mg_yaml *v, const mg_fields *table, void *to, bool partial) {
    char what[64];
    if (v->type != MG_YAML_MAP) return bad(r, v, "", "a map of fields");
    for (const mg_yaml *c = v->child; c; c = c->next) {
        const mg_field *f = field_named(table, c->key);
        if (!f)
            return mg_fail(r->err, MG_ERR_FORMAT, "'%s' line %u: '%.60s' is not a field here", r->path, c->line,
                           c->key);
        MG_TRY(value(r, c, f, to));
    }
    for (uint32_t i = 0; i < table->n && !partial; i++) {
        snprintf(what, sizeof what, "a field '%s'", table->items[i].name);
        if (table->items[i].required && !mg_yaml_get(v, table->items[i].name)) return bad(r, v, "", what);
    }
    return MG_OK;
}

/* ---- like: another family's rows with some of ours instead ---- */

/* Rows of `own` replace those of the same key, the rest come after. */
static mg_status overlay_config(const reader *r, mg_arch *a, const mg_arch *base) {
    mg_config_row *all;
    uint32_t n = base->n_config;
    MG_TRY(MG_ARENA_NEW(r->arena, &all, (size_t)base->n_config + a->n_config + 1, r->err));
    memcpy(all, base->config, n * sizeof *all);
    for (uint32_t i = 0; i < a->n_config; i++) {
        const mg_config_row *own = mg_arch_config_row(base, a->config[i].key);
        all[own && a->config[i].gguf_when != MG_GGUF_FILE_TYPE ? (uint32_t)(own - base->config) : n++] = a->config[i];
    }
    a->config = all;
    a->n_config = n;
    return MG_OK;
}

static mg_status overlay_tensors(const reader *r, mg_arch *a, const mg_arch *base) {
    mg_tensor_row *all;
    uint32_t n = base->n_tensors;
    MG_TRY(MG_ARENA_NEW(r->arena, &all, (size_t)base->n_tensors + a->n_tensors + 1, r->err));
    memcpy(all, base->tensors, n * sizeof *all);
    for (uint32_t i = 0; i < a->n_tensors; i++) {
        const mg_tensor_row *own = mg_arch_row(base, a->tensors[i].role);
        all[own ? (uint32_t)(own - base->tensors) : n++] = a->tensors[i];
    }
    a->tensors = all;
    a->n_tensors = n;
    return MG_OK;
}

/* Rows named by `without` leave. */
static mg_status drop(const reader *r, const mg_yaml *v, mg_arch *a) {
    mg_config_row *config = (mg_config_row *)a->config; /* ours since overlay_* */
    mg_tensor_row *tensors = (mg_tensor_row *)a->tensors;
    const mg_yaml *c;
    size_t n;
    MG_TRY(items(r, v, "without", MAX_ROWS, &c, &n));
    for (size_t i = 0; i < n; i++, c = c->next) {
        mg_key k;
        mg_role role = MG_ROLE_COUNT;
        const mg_config_row *row = NULL;
        const mg_tensor_row *t = NULL;
        mg_error quiet = {0};
        const reader q = {r->arena, r->path, &quiet};
        if (a_key(&q, c, "without", &k) == MG_OK) row = mg_arch_config_row(a, k);
        if (!row && a_role(&q, c, "without", &role) == MG_OK) t = mg_arch_row(a, role);
        if (!row && !t) return bad(r, c, "without", "a key or role that the family has");
        if (row) {
            const size_t at = (size_t)(row - config);
            memmove(config + at, config + at + 1, (--a->n_config - at) * sizeof *config);
        } else {
            const size_t at = (size_t)(t - tensors);
            memmove(tensors + at, tensors + at + 1, (--a->n_tensors - at) * sizeof *tensors);
        }
    }
    return MG_OK;
}

static mg_status read_like(const reader *r, const mg_yaml *root, mg_arch *a, const mg_arch **base) {
    const mg_yaml *like = mg_yaml_get(root, "like");
    if (!like) return mg_yaml_get(root, "without") ? bad(r, root, "", "'like' beside 'without'") : MG_OK;
    *base = like->type == MG_YAML_SCALAR ? mg_arch_find(like->text) : NULL;
    if (!*base) return bad(r, like, "like", "a family this version knows");
    *a = **base;
    a->n_config = a->n_tensors = 0;
    a->config = NULL;
    a->tensors = NULL;
    a->code[0] = NULL; /* modules of Python are the program's own */
    a->auto_map = NULL;
    return MG_OK;
}

/* Everything but `like` and `without`, which are no fields of the structure. */
static mg_status read_top(const reader *r, const mg_yaml *root, mg_arch *a, bool partial) {
    char what[64];
    if (root->type != MG_YAML_MAP) return bad(r, root, "", "a map of fields");
    for (const mg_yaml *c = root->child; c; c = c->next) {
        const mg_field *f = field_named(&mg_arch_fields, c->key);
        if (f)
            MG_TRY(value(r, c, f, (char *)a));
        else if (strcmp(c->key, "like") != 0 && strcmp(c->key, "without") != 0)
            return mg_fail(r->err, MG_ERR_FORMAT, "'%s' line %u: '%.60s' is not a field of a family", r->path, c->line,
                           c->key);
    }
    for (uint32_t i = 0; i < mg_arch_fields.n; i++) {
        const mg_field *f = &mg_arch_fields.items[i];
        snprintf(what, sizeof what, "a field '%s'", f->name);
        if (f->required && (!partial || f->at == offsetof(mg_arch, name)) && !mg_yaml_get(root, f->name))
            return bad(r, root, "", what);
    }
    return MG_OK;
}

static mg_status read_arch(const reader *r, const mg_yaml *root, mg_arch *a) {
    const mg_arch *base = NULL;
    MG_TRY(read_like(r, root, a, &base));
    MG_TRY(read_top(r, root, a, base != NULL));
    if (base) {
        MG_TRY(overlay_config(r, a, base));
        MG_TRY(overlay_tensors(r, a, base));
        if (mg_yaml_get(root, "without")) MG_TRY(drop(r, mg_yaml_get(root, "without"), a));
    }
    mg_status st = mg_arch_check(a, r->err);
    if (st != MG_OK) mg_error_at(r->err, r->path, NULL);
    return st;
}

/* Paths in the order of loading; registering refuses more. */
static const char *loaded[64];
static uint32_t n_loaded;

const char *mg_arch_loaded(uint32_t i) {
    return i < n_loaded ? loaded[i] : NULL;
}

mg_status mg_arch_load(const char *path, mg_error *err) {
    static mg_arena arena; /* of every description, for the life of the process */
    static bool ready;
    mg_yaml_doc *doc;
    mg_arch *a;
    if (!ready) mg_arena_init(&arena, 64u << 20);
    ready = true;
    const reader r = {&arena, path, err};
    MG_TRY(mg_yaml_load(&doc, path, err));
    mg_status st = MG_ARENA_NEW(&arena, &a, 1, err);
    if (st == MG_OK) st = read_arch(&r, mg_yaml_root(doc), a);
    if (st == MG_OK) st = mg_arch_register(a, err);
    if (st == MG_OK) loaded[n_loaded++] = mg_arena_strdup(&arena, path);
    mg_yaml_free(doc);
    return st;
}

const mg_opt_call mg_arch_load_call = {mg_arch_load};
