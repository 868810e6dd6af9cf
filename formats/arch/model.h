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

/* clang-format off */
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
/* clang-format on */

typedef enum mg_scope { MG_SCOPE_MODEL, MG_SCOPE_LAYER, MG_SCOPE_EXPERT, MG_SCOPE_EDGE, MG_SCOPE_COUNT } mg_scope;

#define MG_MAX_LAYERS 4096

/* Pairs of a head that factor lists are read for: heads of 256 elements. */
#define MG_MAX_ROPE_PAIRS 128

/* Canonical configuration: one slot per key. Integers, bools and enumerators in i, floats in f. */
typedef struct mg_hparams {
    int64_t i[MG_KEY_COUNT];
    double f[MG_KEY_COUNT];
    float rope_factors[2]
                      [MG_MAX_ROPE_PAIRS]; /* longrope: divisors of the frequencies within ROPE_ORIG_CONTEXT, beyond */
    uint32_t n_rope_factors[2];
    bool present[MG_KEY_COUNT];         /* stated by the config; false = default, derived from shapes, or absent */
    uint64_t dense[MG_MAX_LAYERS / 64]; /* bit l: layer l is listed as one without routed experts; see mg_moe_rule */
} mg_hparams;

static inline bool mg_hp_dense(const mg_hparams *hp, uint32_t layer) {
    return layer < MG_MAX_LAYERS && (hp->dense[layer / 64] >> (layer % 64) & 1);
}

/* How logical rows are found in a stored tensor, applied in order from stored to logical. */
typedef enum mg_view_kind {
    MG_VIEW_END = 0,
    MG_VIEW_SELECT, /* index a of the slowest dimension: [E, r, c] -> [r, c] */
    MG_VIEW_ROWS,   /* rows (of the slowest dimension) a, a+step, ... (b of them): slices of fused tensors, interleaved
                       fused experts */
    MG_VIEW_ROPE_UNPERM, /* stored rows are rotary-interleaved per head (GGUF llama, Mistral-native), a heads: logical
                            row h*D + t*D/2 + j is stored row h*D + 2*j + t */
    MG_VIEW_ROPE_PERM,   /* the inverse: stored half-split, logical interleaved */
    MG_VIEW_GROUPS,      /* of every group of `step` rows the b rows from a on: [g*step, c] -> [g*b, c] (heads of fused
                            per-head      projections, such as the key half of MLA's kv_b) */
    MG_VIEW_TRANSPOSE, /* swaps the last two dimensions, [.., r, c] -> [.., c, r]: needs element access, so float dtypes
                          only */
    MG_VIEW_RESHAPE,   /* same bytes, shape {a, b, step} (step = 0: {a, b}; b = 0: 1-D) */
    MG_VIEW_ADD, /* + value, float only (norm offsets): computed in f32 and rounded to nearest even in the stored dtype,
                    so the sum may be inexact in f16 and bf16; a reader that wants it exact widens first */
} mg_view_kind;

typedef struct mg_view {
    mg_view_kind kind;
    uint64_t a, b, step; /* meaning by kind; step 0 = 1 */
    double value;
} mg_view;

#define MG_MAX_VIEWS 6 /* a source's views followed by those of a target (mg_target_bind) */

/* Where one role lives: stored tensor plus view chain, and the logical shape. */
typedef struct mg_bound {
    uint32_t tensor;             /* index into the checkpoint, MG_STRMAP_NONE when the role is absent */
    mg_view views[MG_MAX_VIEWS]; /* ended by MG_VIEW_END unless all are used; applied in order, stored to logical */
    uint32_t rank;
    uint64_t shape[MG_MAX_RANK]; /* logical */
} mg_bound;

struct mg_arch; /* arch.h */

/* What differs from layer to layer, resolved. */
typedef struct mg_layer {
    bool moe;        /* routed experts instead of a dense block */
    uint64_t window; /* sliding window in tokens, 0 = full causal attention */
    double rope_theta;
    bool rope;       /* false: no positional rotation in this layer */
    bool rope_plain; /* frequencies of rope_theta alone, whatever ROPE_TYPE says */
} mg_layer;

typedef struct mg_model {
    mg_checkpoint *ckpt; /* borrowed */
    const struct mg_arch *arch;
    mg_hparams hp;
    mg_layer *layers; /* [LAYERS] */
    mg_bound *bounds; /* private; use mg_model_find */
    uint64_t n_bounds;
    const char **assumptions; /* sentences about values that were assumed or derived; for inspect and convert */
    uint32_t n_assumptions;
    uint32_t slot[MG_ROLE_COUNT]; /* private: place of a role among those of its scope, MG_STRMAP_NONE when the family
                                     has none */
    uint32_t n_slots[MG_SCOPE_COUNT]; /* private: by mg_scope */
    struct mg_claim *claims;          /* [n_claims] private; use mg_model_role_of */
    uint32_t n_claims;                /* tensors the checkpoint had when the model was opened */
    mg_arena arena;
} mg_model;

/* Recognise the family of ckpt (config.json architectures/model_type, or general.architecture with its keys), read the
 * canonical keys and bind all tensors. Unknown family: MG_ERR_UNSUPPORTED naming it. Contradictions: MG_ERR_CONFLICT.
 * Unknown or missing tensors: MG_ERR_FORMAT naming them. ckpt must outlive the model. */
mg_status mg_model_open(mg_model **out, mg_checkpoint *ckpt, mg_error *err) MG_MUST_CHECK;
/* The same from a bare config.json: ckpt is NULL, no role is bound (mg_model_find answers NULL), everything that needs
 * only numbers works: hp, layers, mg_model_counts, mg_arch_targets. */
mg_status mg_model_from_config(mg_model **out, const mg_json *config, mg_error *err) MG_MUST_CHECK;
/* m, which outlives the copy, over another checkpoint that begins with the same tensors; its bounds are its own. */
mg_status mg_model_copy(mg_model **out, const mg_model *m, mg_checkpoint *ckpt, mg_error *err) MG_MUST_CHECK;
/* The same from a bare params.json. */
mg_status mg_model_from_params(mg_model **out, const mg_json *params, mg_error *err) MG_MUST_CHECK;
void mg_model_free(mg_model *m);

/* Where (role, layer, expert) lives; layer and expert are ignored beyond the role's scope. NULL when the model has no
 * such weight (no bias, tied output head, dense layer ...). For a tied head MG_R_OUTPUT is absent: use MG_R_TOKEN_EMBD.
 */
const mg_bound *mg_model_find(const mg_model *m, mg_role role, uint32_t layer, uint32_t expert);
/* Take the constants that b's views add last off the chain, and return their sum: a reader that widens to f32 anyway
 * adds there and gets what the reference converter computes, where adding in a stored bf16 would round. 0 when there
 * are none. */
double mg_bound_take_add(mg_bound *b);
/* Let (role, layer, expert), which the model has, live at b from now on; old (may be NULL) receives where it lived.
 * How a variant of a model replaces weights (quant/variant.h). */
void mg_model_redirect(mg_model *m, mg_role role, uint32_t layer, uint32_t expert, const mg_bound *b, mg_bound *old);
/* Its stored tensor. */
const mg_tensor *mg_model_tensor(const mg_model *m, const mg_bound *b);
/* n logical rows of b starting at row, in the stored dtype, n * row_bytes into dst (packed). A row is the last
 * dimension of b->shape; a vector (rank 1) is one row. Rows may run over several matrices of a rank-3 view. Contiguous
 * stored rows are read with one pread and permuted ones by the head, so single rows are the slow way. Views of kind
 * TRANSPOSE and ADD, and views that move the elements of a vector, are MG_ERR_UNSUPPORTED here for block dtypes. Thread
 * safe. */
mg_status mg_model_read_rows(mg_model *m, const mg_bound *b, uint64_t row, uint64_t n, void *dst,
                             mg_error *err) MG_MUST_CHECK;
/* The stored row that logical row `row` of b is. false: b is made of parts of stored rows, or of other elements than
 * the stored ones. */
bool mg_model_stored_row(const mg_model *m, const mg_bound *b, uint64_t row, uint64_t *stored);
/* Bytes of one logical row in the stored dtype, and how many there are. */
uint64_t mg_model_row_bytes(const mg_model *m, const mg_bound *b);
uint64_t mg_bound_rows(const mg_bound *b);
bool mg_bound_same_shape(const mg_bound *a, const mg_bound *b);

/* What the stored tensor with this index of the checkpoint is for. A tensor that holds several roles or experts
 * (stacked or fused) answers its first. false: the family ignores the tensor. role, layer, expert may be NULL. */
bool mg_model_role_of(const mg_model *m, uint32_t tensor, mg_role *role, uint32_t *layer, uint32_t *expert);

static inline int64_t mg_hp_i(const mg_model *m, mg_key k) {
    return m->hp.i[k];
}
static inline double mg_hp_f(const mg_model *m, mg_key k) {
    return m->hp.f[k];
}

/* Keys whose values differ between two models (floats compared as float32, which is all GGUF keeps), into out; how
 * many. Which of them matter is the caller's to say. */
uint32_t mg_hparams_diff(const mg_hparams *a, const mg_hparams *b, mg_key out[MG_KEY_COUNT]);
/* A key as m's own files spell it, with its value: "num_hidden_layers 32", into buf; returns buf. */
const char *mg_model_key_text(const mg_model *m, mg_key key, char *buf, size_t size);

/* How many weights of this scope a layer has (MODEL and LAYER: 1). What is called the expert of a role everywhere
 * counts them: experts, or edges. */
uint32_t mg_scope_count(mg_scope scope, const mg_hparams *hp);
/* Edges of the grid of experts, GRID_X by GRID_Y cells in reading order: both directions between cells that touch (no
 * diagonals, no wrap-around), ordered by source, then target. 0 without a grid or without EXCHANGE. */
uint32_t mg_edge_count(const mg_hparams *hp);
void mg_edge_at(const mg_hparams *hp, uint32_t edge, uint32_t *src, uint32_t *dst);
/* The most directed edges that k cells of the grid can have among them. */
uint64_t mg_edge_most(const mg_hparams *hp, uint64_t k);

const char *mg_role_name(mg_role r);
mg_scope mg_role_scope(mg_role r);
const char *mg_key_name(mg_key k);

/* Parameter counts from the canonical keys alone (works on a bare config.json). */
typedef struct mg_counts {
    uint64_t total, active, non_embedding;
    uint64_t active_one_bond;    /* active, with no more than one bond of a grid of experts */
    uint64_t flop_per_token;     /* 2 * active matmul parameters, attention scores excluded */
    uint64_t kv_bytes_per_token; /* for a 16-bit cache; of latent attention the latents */
} mg_counts;
/* total: every stored weight once. active: routed experts counted experts_per_token
 * (0: EXPERTS_USED) of EXPERTS times, never more than all. non_embedding: total
 * without the token embedding and without an untied output head. A tied head counts in flop_per_token. */
mg_counts mg_model_counts(const mg_model *m, uint64_t experts_per_token);

#endif
