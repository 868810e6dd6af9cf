/* arch_internal.h - what the files of formats/arch share with each other and with their tests; nobody else includes it.
 */
#ifndef MG_FORMATS_ARCH_ARCH_INTERNAL_H
#define MG_FORMATS_ARCH_ARCH_INTERNAL_H

#include "formats/arch/arch.h"

/* ---- config_read.c: from a file to hp ---- */

/* What is known about each key besides its value in hp. */
typedef struct mg_config_state {
    bool gguf;                                     /* the source is GGUF metadata */
    const mg_native *native;                       /* the source is params.json; else NULL */
    bool null[MG_KEY_COUNT];                       /* stated as null */
    bool fixed[MG_KEY_COUNT];                      /* not stated, but known from tensor shapes: no fallback */
    uint64_t tokens;                               /* GGUF: length of tokenizer.ggml.tokens, 0 when absent */
    const mg_json *list[MG_TRAIT_COUNT];           /* stated lists, of the config read; NULL: none */
    const mg_layer_list *list_row[MG_TRAIT_COUNT]; /* and which they are */
} mg_config_state;

/* Read the stated keys of m->arch into m->hp. Refused fields: MG_ERR_UNSUPPORTED; values of the wrong type or out of
 * range: MG_ERR_CONFLICT naming field, found, expected. */
mg_status mg_config_read_json(mg_model *m, mg_config_state *st, const mg_json *config, mg_error *err) MG_MUST_CHECK;
mg_status mg_config_read_gguf(mg_model *m, mg_config_state *st, const mg_kvs *kv, mg_error *err) MG_MUST_CHECK;

mg_status mg_config_read_params(mg_model *m, mg_config_state *st, const mg_json *params, mg_error *err) MG_MUST_CHECK;
/* Read one JSON value into hp by a config row: type, range and spelling of enumerators are checked. */
mg_status mg_config_take_json(mg_hparams *hp, const mg_config_row *r, const mg_json *v, const char *field,
                              mg_error *err) MG_MUST_CHECK;
/* What a key that params.json does not state is there; NULL when nothing special, or the source is another. */
const mg_fallback *mg_native_absent(const mg_config_state *st, const mg_hparams *hp, mg_key key);
/* Path of a key in params.json, NULL when it has none. */
const char *mg_native_spelling(const mg_arch *arch, mg_key key);
/* A number that came through a float32, as the shortest decimal of that float (1e-05, not 9.999999747378752e-06);
 * others as they are. */
double mg_shortest_f32(double v);
/* How the source spells keys. */
static inline mg_layout mg_state_layout(const mg_config_state *st) {
    return st->gguf ? MG_LAYOUT_GGUF : st->native ? MG_LAYOUT_NATIVE : MG_LAYOUT_HF;
}

/* config.c: fill keys that are neither stated nor fixed from the fallbacks of the rows. May be repeated. */
mg_status mg_config_resolve(mg_model *m, const mg_config_state *st, mg_error *err) MG_MUST_CHECK;
/* Sentences for fallbacks that are not quiet. */
mg_status mg_config_note(mg_model *m, const mg_config_state *st, mg_error *err) MG_MUST_CHECK;
/* The checks that hold whatever the source (divisibility, top-k <= experts ...). MG_ERR_CONFLICT. */
mg_status mg_config_check(const mg_model *m, mg_layout layout, mg_error *err) MG_MUST_CHECK;
/* m->layers from hp and the lists. A list sets the periods of its trait to what it amounts to (-1: to none). */
mg_status mg_config_layers(mg_model *m, const mg_config_state *st, mg_error *err) MG_MUST_CHECK;
/* Does layer l have the trait, by the keys alone? */
bool mg_trait_by_keys(const mg_hparams *hp, mg_layer_trait trait, uint64_t l);
/* Value of a fallback that follows from other keys; false for kinds that do not (REQUIRED, TOKENS, TENSORS), and for a
 * quotient that is none. */
bool mg_fallback_value(const mg_hparams *hp, const mg_fallback *fb, double *out);
/* Does layer l have routed experts? */
bool mg_layer_routes(const mg_model *m, uint32_t layer);
/* How a layout spells a key, for messages ("num_hidden_layers", "llama.block_count", "n_layers"). buf of 96. */
const char *mg_config_spelling(const mg_arch *arch, mg_key key, mg_layout layout, char *buf, size_t size);
/* The layout of a checkpoint's names. */
mg_layout mg_layout_of(const mg_checkpoint *c);
/* 'I', 'F', 'B' or 'E' of keys.inc. */
char mg_key_kind(mg_key k);

/* Note a sentence in m->assumptions (each text once). */
mg_status mg_model_assume(mg_model *m, mg_error *err, const char *fmt, ...) MG_PRINTF(3, 4) MG_MUST_CHECK;

/* ---- arch.c, arch_check.c ---- */

/* The families of archs.inc alone. */
uint32_t mg_arch_built_in_count(void);
const mg_arch *mg_arch_built_in(uint32_t i);
/* Let a family that was checked take part, before those of the same name. It stays for the life of the process. */
mg_status mg_arch_register(const mg_arch *arch, mg_error *err) MG_MUST_CHECK;
/* MG_ERR_FORMAT says what is wrong with a description. */
mg_status mg_arch_check(const mg_arch *arch, mg_error *err) MG_MUST_CHECK;

/* ---- patterns.c ---- */

/* Value of a symbol; 1 for NONE. Saturates at UINT64_MAX. */
uint64_t mg_sym_value(const mg_sym *s, const mg_hparams *hp, uint32_t expert);
/* Dimensions of a symbol list ended by MG_SYM_NONE or max; returns the rank. */
uint32_t mg_sym_shape(uint64_t *shape, const mg_sym *syms, uint32_t max, const mg_hparams *hp, uint32_t expert);
/* Views of a form with their arguments evaluated; out has MG_MAX_VIEWS entries, the rest is MG_VIEW_END. */
void mg_form_views(mg_view *out, const mg_form *form, const mg_hparams *hp, uint32_t expert);
/* pattern with {l}, {e}, {s}, {d} replaced; false when buf is too small. hp: needed for edges. */
bool mg_pattern_expand(char *buf, size_t size, const char *pattern, const mg_hparams *hp, uint32_t layer,
                       uint32_t expert);
/* Is name an expansion of pattern? A '*' at the end stands for any rest. */
bool mg_pattern_match(const char *pattern, const char *name);
/* Does the condition hold by hp alone? layer NULL for roles of model scope. STORED and LLAMA3 never do. */
bool mg_cond_holds(mg_cond c, const mg_hparams *hp, const mg_layer *layer);
/* The row of a key, NULL when the family has none. */
const mg_config_row *mg_arch_config_row(const mg_arch *arch, mg_key key);
/* The row of a role, NULL when the family has none. */
const mg_tensor_row *mg_arch_row(const mg_arch *arch, mg_role role);

/* ---- views.c ---- */

uint32_t mg_views_count(const mg_view *views);
/* Shape behind the chain; false when the chain does not fit the shape. */
bool mg_views_shape(const mg_view *views, uint32_t rank, const uint64_t *shape, uint32_t *out_rank,
                    uint64_t *out_shape);
/* n rows of tensor t of c behind the chain, starting at row; see mg_model_read_rows. */
mg_status mg_views_read(mg_checkpoint *c, uint32_t t, const mg_view *views, uint64_t row, uint64_t n, void *dst,
                        mg_error *err) MG_MUST_CHECK;
/* Where row `row` behind the chain is stored; see mg_model_stored_row. */
bool mg_views_row(mg_checkpoint *c, uint32_t t, const mg_view *views, uint64_t row, uint64_t *stored);
/* Append the views of `more` to chain (MG_MAX_VIEWS entries), dropping pairs that undo each other; false when full. */
bool mg_views_append(mg_view *chain, const mg_view *more);

#endif
