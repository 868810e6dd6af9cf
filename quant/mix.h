/* mix.h - which dtype every tensor of a model gets: llama-quantize's decisions as a table (mixes.inc).
 *
 * Works on headers alone (names, shapes, a handful of numbers), so that it serves dry runs, conversions in one pass and
 * tests alike. Names are GGUF's; each is classified once. */
#ifndef MG_QUANT_MIX_H
#define MG_QUANT_MIX_H

#include "quant/preset.h"
#include "quant/type_rules.h"

typedef enum mg_mix_category {
    MG_MIX_OUTPUT,
    MG_MIX_TOKEN_EMBD,
    MG_MIX_ATTN_V, /* also fused qkv and kv_b: as sensitive */
    MG_MIX_ATTN_K,
    MG_MIX_ATTN_Q,
    MG_MIX_ATTN_OUTPUT,
    MG_MIX_FFN_UP,
    MG_MIX_FFN_GATE,
    MG_MIX_FFN_DOWN,
    MG_MIX_OTHER,
    MG_MIX_ANY, /* in table rows only */
} mg_mix_category;

/* Traits of single families (formats/arch/mix_traits.inc). */
enum {
    MG_MIX_OWN_DOWN = 1,       /* ffn_down and attn_output have rules of their own; the head is Q8_0 */
    MG_MIX_3D_PROJECTIONS = 2, /* rank 3 does not mean experts: only ffn_* stacks are MXFP4 under MXFP4_MOE */
    MG_MIX_WIDE_Q_LORA = 4,    /* attn_q_a, attn_q_b and eh_proj never below Q8_0 */
    MG_MIX_MORE_KEPT = 8,      /* a longer list of tensors that are never quantized */
};

/* The numbers the rules look at. */
typedef struct mg_mix_model {
    const char *arch;           /* general.architecture */
    uint64_t n_layer;           /* block_count, all layers */
    uint64_t n_head, n_head_kv; /* of layer 0 */
    uint64_t n_expert;          /* 0 for dense models */
} mg_mix_model;

typedef struct mg_mix_options {
    const mg_preset *preset;
    bool pure;         /* the preset's default dtype everywhere, no mix */
    bool leave_output; /* output.weight stays as it is */
    bool have_imatrix; /* changes some choices */
    bool no_fallback;  /* refuse rows that are no whole number of blocks instead of another dtype */
    mg_dtype
        output_type;    /* of output.weight (and of a tied token_embd without embd_type); MG_DTYPE_COUNT = by the mix */
    mg_dtype embd_type; /* of token_embd; MG_DTYPE_COUNT = by the mix */
    const mg_type_rules *rules; /* or NULL */
} mg_mix_options;
#define MG_MIX_OPTIONS_INIT                                                                                            \
    { .output_type = MG_DTYPE_COUNT, .embd_type = MG_DTYPE_COUNT }

typedef struct mg_mix_tensor {
    const char *name;
    uint64_t ne[4]; /* GGUF order: ne[0] is the row; 1 for absent dimensions */
    mg_dtype source;
    /* filled by mg_mix_choose */
    mg_dtype target;
    mg_dtype wanted;          /* what it would be without the shape fallback */
    mg_mix_category category; /* a tied token_embd is MG_MIX_OUTPUT */
    bool kept;                /* on the skip list: target == source */
    bool needs_imatrix;       /* llama-quantize refuses this target without importance weights */
} mg_mix_tensor;

/* Choose the target of each of n tensors. They must be in the order of the output file (mg_mix_compare), because some
 * rules count. Errors: MG_ERR_FORMAT for a feed-forward tensor of an MoE without a valid block number,
 * MG_ERR_UNSUPPORTED for rows that do not fit a dtype asked for by name, or that need a fallback under no_fallback. */
mg_status mg_mix_choose(const mg_mix_options *opt, const mg_mix_model *model, mg_mix_tensor *t, uint32_t n,
                        mg_error *err) MG_MUST_CHECK;

/* Order of a quantized file: block number (-1 outside blocks), then name bytewise. <0, 0, >0 as strcmp. */
int mg_mix_compare(const char *a, const char *b);
/* N of "blk.N." at the start of a name, -1 otherwise. */
int64_t mg_mix_block(const char *name);

mg_mix_category mg_mix_categorize(const char *name);

#endif
