/* model.h - a checkpoint understood: its family, its canonical numbers, and where every role's rows lie.
 *
 * Binding claims every tensor of the checkpoint exactly once (unknown tensors are refused by name; tensors the family
 * lists as ignorable, such as rotary inverse frequencies, are skipped), solves all shapes against the config, and
 * prints nothing. Consumers (forward pass, converter, merger, quantizer mix, AWQ) never see a tensor name: they ask for
 * (role, layer, expert). A view turns stored rows into logical rows; views that only move rows work on any dtype,
 * quantized blocks included. */
#ifndef MG_FORMATS_ARCH_MODEL_H
#define MG_FORMATS_ARCH_MODEL_H

#include "formats/checkpoint.h"

typedef enum mg_key {
#define MG_KEY(sym, kind, meaning) MG_K_##sym,
#include "formats/arch/keys.inc"
#undef MG_KEY
    MG_KEY_COUNT
} mg_key;

typedef enum mg_role {
#define MG_ROLE(sym, scope, name) MG_R_##sym,
#include "formats/arch/roles.inc"
#undef MG_ROLE
    MG_ROLE_COUNT
} mg_role;

typedef enum mg_scope { MG_SCOPE_MODEL, MG_SCOPE_LAYER, MG_SCOPE_EXPERT } mg_scope;

/* Canonical configuration: one slot per key. Integers, bools and enumerators in i, floats in f. */
typedef struct mg_hparams {
    int64_t i[MG_KEY_COUNT];
    double f[MG_KEY_COUNT];
    bool present[MG_KEY_COUNT]; /* stated by the config; false = default, derived from shapes, or absent */
} mg_hparams;

/* How logical rows are found in a stored tensor, applied in order from stored to logical. */
typedef enum mg_view_kind {
    MG_VIEW_END = 0,
    MG_VIEW_SELECT,      /* index a of the slowest dimension: [E, r, c] -> [r, c] */
    MG_VIEW_ROWS,        /* rows a, a+step, ... (b of them): slices of fused tensors, interleaved fused experts */
    MG_VIEW_ROPE_UNPERM, /* stored rows are rotary-interleaved per head (GGUF llama, Mistral-native), a heads: logical row
                            h*D + t*D/2 + j is stored row h*D + 2*j + t */
    MG_VIEW_ROPE_PERM,   /* the inverse: stored half-split, logical interleaved */
    MG_VIEW_TRANSPOSE,   /* [r, c] -> [c, r]: needs element access, so float dtypes only */
    MG_VIEW_RESHAPE,     /* same bytes, shape {a, b} (b = 0: 1-D) */
    MG_VIEW_ADD,         /* + value, float only (norm offsets) */
} mg_view_kind;

typedef struct mg_view {
    mg_view_kind kind;
    uint64_t a, b, step; /* meaning by kind; step 0 = 1 */
    double value;
} mg_view;

#define MG_MAX_VIEWS 4

/* Where one role lives: stored tensor plus view chain, and the logical shape. */
typedef struct mg_bound {
    uint32_t tensor;               /* index into the checkpoint, MG_STRMAP_NONE when the role is absent */
    mg_view views[MG_MAX_VIEWS];   /* ended by MG_VIEW_END unless all are used */
    uint32_t rank;
    uint64_t shape[MG_MAX_RANK];   /* logical */
} mg_bound;

struct mg_arch; /* arch.h */

/* What differs from layer to layer, resolved. */
typedef struct mg_layer {
    bool moe;              /* routed experts instead of a dense block */
    uint64_t window;       /* sliding window in tokens, 0 = full causal attention */
    double rope_theta;
    bool rope;             /* false: no positional rotation in this layer */
} mg_layer;

typedef struct mg_model {
    mg_checkpoint *ckpt;          /* borrowed */
    const struct mg_arch *arch;
    mg_hparams hp;
    mg_layer *layers;             /* [LAYERS] */
    mg_bound *bounds;             /* private; use mg_model_find */
    uint64_t n_bounds;
    const char **assumptions;     /* sentences about values that were assumed or derived; for inspect and convert */
    uint32_t n_assumptions;
    mg_arena arena;
} mg_model;

/* Recognise the family of ckpt (config.json architectures/model_type, or general.architecture with its keys), read the canonical keys
 * and bind all tensors. Unknown family: MG_ERR_UNSUPPORTED naming it. Contradictions: MG_ERR_CONFLICT. Unknown or missing
 * tensors: MG_ERR_FORMAT naming them. ckpt must outlive the model. */
mg_status mg_model_open(mg_model **out, mg_checkpoint *ckpt, mg_error *err) MG_MUST_CHECK;
void mg_model_free(mg_model *m);

/* Where (role, layer, expert) lives; layer and expert are ignored beyond the role's scope. NULL when the model has no
 * such weight (no bias, tied output head, dense layer ...). For a tied head MG_R_OUTPUT is absent: use MG_R_TOKEN_EMBD. */
const mg_bound *mg_model_find(const mg_model *m, mg_role role, uint32_t layer, uint32_t expert);
/* Its stored tensor. */
const mg_tensor *mg_model_tensor(const mg_model *m, const mg_bound *b);
/* n logical rows of b starting at row, in the stored dtype, n * row_bytes into dst. Views of kind TRANSPOSE and ADD are
 * MG_ERR_UNSUPPORTED here for block dtypes. */
mg_status mg_model_read_rows(mg_model *m, const mg_bound *b, uint64_t row, uint64_t n, void *dst, mg_error *err) MG_MUST_CHECK;

static inline int64_t mg_hp_i(const mg_model *m, mg_key k) { return m->hp.i[k]; }
static inline double mg_hp_f(const mg_model *m, mg_key k) { return m->hp.f[k]; }

const char *mg_role_name(mg_role r);
mg_scope mg_role_scope(mg_role r);
const char *mg_key_name(mg_key k);

/* Parameter counts from the canonical keys alone (works on a bare config.json). */
typedef struct mg_counts {
    uint64_t total, active, non_embedding;
    uint64_t flop_per_token; /* 2 * active matmul parameters, attention scores excluded */
    uint64_t kv_bytes_per_token; /* for a 16-bit cache */
} mg_counts;

#endif
