/* arch_print.c - a family as the file that arch_file.c reads: one field a line, one row a line. */
#include "formats/arch/arch_file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/arch/arch_fields.h"
#include "formats/base/json.h"

static mg_json *fields_json(const mg_fields *table, const void *from);

/* All bytes 0, which is what a field that is not stated is read as. */
static bool is_zero(const void *p, size_t n) {
    const unsigned char *c = p;
    for (size_t i = 0; i < n; i++)
        if (c[i]) return false;
    return true;
}

static mg_json *sym_json(const mg_sym *s) {
    char buf[160];
    if (s->kind == MG_SYM_LIT) return mg_json_new_u64(s->mul);
    return mg_sym_print(s, buf, sizeof buf) ? mg_json_new_str(buf) : NULL;
}

static mg_json *syms_json(const mg_sym *s, uint32_t room) {
    mg_json *a = mg_json_new_array();
    for (uint32_t i = 0; i < room && s[i].kind != MG_SYM_NONE; i++) mg_json_push(a, sym_json(&s[i]));
    return a;
}

/* The short form of a row that says no more. */
static mg_json *row_json(const mg_fields *table, const void *from) {
    mg_json *o = fields_json(table, from);
    const mg_json *only = mg_json_len(o) == 1 && table->short_form ? mg_json_get(o, table->short_form) : NULL;
    if (!only || !mg_json_str(only)) return o;
    mg_json *s = mg_json_new_str(mg_json_str(only));
    mg_json_free(o);
    return s;
}

static mg_json *rows_json(const mg_field *f, const char *first, uint64_t n) {
    mg_json *a = mg_json_new_array();
    for (uint64_t i = 0; i < n && !(f->n_at == MG_NO_COUNT && is_zero(first + i * f->rows->size, f->rows->size)); i++)
        mg_json_push(a, row_json(f->rows, first + i * f->rows->size));
    return a;
}

static mg_json *strings_json(const char *const *s, uint32_t room) {
    mg_json *a = mg_json_new_array();
    for (uint32_t i = 0; i < room && s[i]; i++) mg_json_push(a, mg_json_new_str(s[i]));
    return a;
}

static mg_json *spellings_json(const mg_enum_name *n, const mg_enum_name *enumerators) {
    mg_json *o = mg_json_new_object();
    for (; n->name; n++) {
        const char *value = mg_enumerator_name(enumerators, n->value);
        mg_json_set(o, n->name, value ? mg_json_new_str(value) : mg_json_new_i64(n->value));
    }
    return o;
}

static mg_json *fallback_json(const mg_fallback *fb, const mg_enum_name *enumerators) {
    char buf[160];
    if (fb->kind == MG_FB_VALUE && !enumerators)
        return fb->value == floor(fb->value) && fabs(fb->value) < 1e15 ? mg_json_new_i64((int64_t)fb->value)
                                                                       : mg_json_new_f64(fb->value);
    return mg_fallback_print(fb, enumerators, buf, sizeof buf) ? mg_json_new_str(buf) : NULL;
}

static mg_json *enumerator_json(const mg_enum_name *names, int value) {
    const char *name = mg_enumerator_name(names, value);
    return name ? mg_json_new_str(name) : mg_json_new_i64(value); /* which reading refuses */
}

static mg_json *real_json(double v, bool harmless) {
    if (harmless && isnan(v)) return mg_json_new_str("any");
    return v == floor(v) && fabs(v) < 1e15 ? mg_json_new_i64((int64_t)v) : mg_json_new_f64(v);
}

/* NULL: as it is when nothing is stated. */
static mg_json *value_json(const mg_field *f, const char *base, const mg_enum_name *enumerators) {
    const void *from = base + f->at;
    const uint32_t count = f->n_at == MG_NO_COUNT ? 0 : *(const uint32_t *)(const void *)(base + f->n_at);
    const void *pointed;
    mg_json *a;
    memcpy(&pointed, from, sizeof pointed < 8 ? sizeof pointed : 8);
    switch (f->kind) {
    case MG_FIELD_STR:
        return pointed ? mg_json_new_str(pointed) : NULL;
    case MG_FIELD_STRS:
        return pointed ? strings_json(from, f->room) : NULL;
    case MG_FIELD_STRLIST:
        return pointed ? strings_json(pointed, UINT32_MAX) : NULL;
    case MG_FIELD_BOOL:
        return *(const bool *)from ? mg_json_new_bool(true) : NULL;
    case MG_FIELD_U32:
        return *(const uint32_t *)from ? mg_json_new_u64(*(const uint32_t *)from) : NULL;
    case MG_FIELD_U64:
        return *(const uint64_t *)from ? mg_json_new_u64(*(const uint64_t *)from) : NULL;
    case MG_FIELD_F64:
    case MG_FIELD_HARMLESS:
        return *(const double *)from != 0 ? real_json(*(const double *)from, f->kind == MG_FIELD_HARMLESS) : NULL;
    case MG_FIELD_ENUM:
        return *(const int *)from || f->required ? enumerator_json(f->names, *(const int *)from) : NULL;
    case MG_FIELD_KEY:
        return *(const mg_key *)from || f->required ? mg_json_new_str(mg_key_name(*(const mg_key *)from)) : NULL;
    case MG_FIELD_ROLE:
        return *(const mg_role *)from || f->required ? mg_json_new_str(mg_role_symbol(*(const mg_role *)from)) : NULL;
    case MG_FIELD_ROLES:
        a = count ? mg_json_new_array() : NULL;
        for (uint32_t i = 0; i < count; i++)
            mg_json_push(a, mg_json_new_str(mg_role_symbol(((const mg_role *)from)[i])));
        return a;
    case MG_FIELD_SYM:
        return ((const mg_sym *)from)->kind != MG_SYM_NONE ? sym_json(from) : NULL;
    case MG_FIELD_SYMS:
        return ((const mg_sym *)from)->kind != MG_SYM_NONE ? syms_json(from, f->room) : NULL;
    case MG_FIELD_FALLBACK:
        return ((const mg_fallback *)from)->kind != MG_FB_SAME ? fallback_json(from, enumerators) : NULL;
    case MG_FIELD_SPELLINGS:
        return pointed ? spellings_json(pointed, enumerators) : NULL;
    case MG_FIELD_STRUCT:
        return is_zero(from, f->rows->size) ? NULL : fields_json(f->rows, from);
    case MG_FIELD_OBJECT:
        return pointed ? fields_json(f->rows, pointed) : NULL;
    case MG_FIELD_INLINE:
        return is_zero(from, f->rows->size) ? NULL : rows_json(f, from, f->n_at == MG_NO_COUNT ? f->room : count);
    case MG_FIELD_ROWS:
        return pointed ? rows_json(f, pointed, f->n_at == MG_NO_COUNT ? UINT32_MAX : count) : NULL;
    }
    return NULL;
}

static mg_json *fields_json(const mg_fields *table, const void *from) {
    mg_json *o = mg_json_new_object();
    const mg_enum_name *enumerators =
        table == &mg_config_fields ? mg_key_enumerators(((const mg_config_row *)from)->key) : NULL;
    for (uint32_t i = 0; i < table->n; i++) {
        mg_json *v = value_json(&table->items[i], from, enumerators);
        if (v) mg_json_add(o, table->items[i].name, v);
    }
    return o;
}

/* ---- laid out as YAML whose rows are JSON ---- */

typedef struct output {
    char *text;
    size_t n, cap;
    mg_error *err;
} output;

static mg_status put(output *o, const char *s) {
    const size_t n = strlen(s);
    if (o->n + n + 1 > o->cap) {
        o->cap = 2 * (o->n + n) + 4096;
        char *grown = realloc(o->text, o->cap);
        if (!grown) return mg_fail_nomem(o->err, o->cap);
        o->text = grown;
    }
    memcpy(o->text + o->n, s, n + 1);
    o->n += n;
    return MG_OK;
}

static mg_status put_json(output *o, const char *before, const mg_json *v) {
    char *s;
    MG_TRY(put(o, before));
    MG_TRY(mg_json_print(&s, v, 0, o->err));
    mg_status st = put(o, s);
    free(s);
    return st == MG_OK ? put(o, "\n") : st;
}

static mg_status lay_out(output *o, const mg_json *arch) {
    for (const mg_json *f = mg_json_first(arch); f; f = mg_json_next(f)) {
        MG_TRY(put(o, mg_json_key(f)));
        const mg_json *row = mg_json_type(f) == MG_JSON_ARRAY ? mg_json_first(f) : NULL;
        if (!row || mg_json_type(row) != MG_JSON_OBJECT) {
            MG_TRY(put_json(o, ": ", f));
            continue;
        }
        MG_TRY(put(o, ":\n"));
        for (; row; row = mg_json_next(row)) MG_TRY(put_json(o, "  - ", row));
    }
    return MG_OK;
}

mg_status mg_arch_print(const mg_arch *arch, char **text, mg_error *err) {
    output o = {.err = err};
    mg_json *j = fields_json(&mg_arch_fields, arch);
    mg_status st = lay_out(&o, j);
    mg_json_free(j);
    if (st != MG_OK) free(o.text);
    *text = st == MG_OK ? o.text : NULL;
    return st;
}
