/* arch_fields.h - the fields of a family description as data: their names in a file, what they hold, and where they
 * are in the structures of arch.h. One table serves reading (arch_file.c) and printing (arch_print.c). Private to
 * formats/arch. */
#ifndef MG_FORMATS_ARCH_ARCH_FIELDS_H
#define MG_FORMATS_ARCH_ARCH_FIELDS_H

#include "formats/arch/arch_internal.h"

typedef enum mg_field_kind {
    MG_FIELD_STR,     /* const char * */
    MG_FIELD_STRS,    /* const char *[room] */
    MG_FIELD_STRLIST, /* const char *const *, NULL-terminated */
    MG_FIELD_BOOL,
    MG_FIELD_U32,
    MG_FIELD_U64,
    MG_FIELD_F64,
    MG_FIELD_HARMLESS,  /* double; "any" is NAN */
    MG_FIELD_ENUM,      /* any enum, spelled as `names` */
    MG_FIELD_KEY,       /* mg_key, by its symbol in keys.inc */
    MG_FIELD_ROLE,      /* mg_role, by its symbol in roles.inc */
    MG_FIELD_ROLES,     /* mg_role[room], number at n_at */
    MG_FIELD_SYM,       /* mg_sym: mg_sym_parse */
    MG_FIELD_SYMS,      /* mg_sym[room] */
    MG_FIELD_FALLBACK,  /* mg_fallback: mg_fallback_parse */
    MG_FIELD_SPELLINGS, /* const mg_enum_name *: {spelling: value} */
    MG_FIELD_STRUCT,    /* one structure of `rows`, embedded */
    MG_FIELD_OBJECT,    /* a pointer to one, NULL when absent */
    MG_FIELD_INLINE,    /* [room] of them, embedded; number at n_at, or ended by an empty one */
    MG_FIELD_ROWS,      /* a pointer to n of them, number at n_at, and an empty one */
} mg_field_kind;

typedef struct mg_fields mg_fields;
typedef struct mg_field {
    const char *name;
    mg_field_kind kind;
    size_t at;
    uint32_t room;
    size_t n_at; /* of a uint32_t; MG_NO_COUNT: none */
    const mg_enum_name *names;
    const mg_fields *rows;
    bool required;
} mg_field;
struct mg_fields {
    const mg_field *items;
    uint32_t n;
    size_t size;            /* of the structure */
    const char *short_form; /* a row that is a plain string stands for this field; NULL: none */
};
#define MG_NO_COUNT SIZE_MAX

extern const mg_fields mg_arch_fields, mg_config_fields;

/* Enumerators of keys of kind E; NULL for keys whose values are numbers. */
const mg_enum_name *mg_key_enumerators(mg_key key);
/* Name of a value, NULL when it has none. */
const char *mg_enumerator_name(const mg_enum_name *names, int value);
bool mg_key_by_name(const char *s, size_t n, mg_key *out);
/* Symbols of roles.inc (mg_role_name is what GGUF calls them). */
const char *mg_role_symbol(mg_role r);

/* "HIDDEN", "HEADS*HEAD_DIM", "FFN*2", "ROPE_DIM/2", "NOPE_DIM+V_HEAD_DIM", "(HEADS+KV_HEADS*2)*HEAD_DIM", "12", "e",
 * "e*EXPERT_FFN". false: not one of these. */
bool mg_sym_parse(const char *text, mg_sym *out);
/* Into buf; false when it is not one of these. */
bool mg_sym_print(const mg_sym *s, char *buf, size_t size);
/* "required", a number, an enumerator, "HIDDEN", "HIDDEN/HEADS", "A*B", "A+B", "A-B", "part(A,B)", "ratio(A,B)",
 * "root(A)", "score_dim(80)", "tokens", "tensors". */
bool mg_fallback_parse(const char *text, mg_fallback *out);
/* names: of the key that falls back, for its values; may be NULL. */
bool mg_fallback_print(const mg_fallback *fb, const mg_enum_name *names, char *buf, size_t size);

#endif
