/* arch.h - what one model family's description may say, and the functions that read and write through it.
 *
 * A family is one const mg_arch in formats/arch/<family>.c and one line in archs.inc. A new idea is a new enumerator
 * here, handled in one place and described beside it, never an `if (arch == ...)`. Tables hold data, no function
 * pointers. The proof that their shape carries deepseek_v2, gemma2, gpt_oss and Mesh is docs/arch_tables.md; the list
 * of edits for a new family is docs/adding_a_family.md.
 *
 * Two halves: config rows map every spelling of a configuration to canonical keys (keys.inc) and, in the same order,
 * say which GGUF keys a converter writes; tensor rows say, per role (roles.inc), the logical shape and where each
 * on-disk layout keeps it: a name pattern and a chain of views from stored rows to logical rows. Reading follows the
 * chain, writing (mg_arch_targets) inverts it. */
#ifndef MG_FORMATS_ARCH_ARCH_H
#define MG_FORMATS_ARCH_ARCH_H

#include "formats/arch/model.h"

typedef enum mg_act { MG_ACT_SILU, MG_ACT_GELU_TANH, MG_ACT_GELU_ERF } mg_act;
typedef enum mg_norm { MG_NORM_RMS, MG_NORM_LAYER } mg_norm;
/* Norms of query and key, where the family has the roles: over what the row's shape says, a head (one weight for all
 * heads) or the whole projection. */
typedef enum mg_qk_norm { MG_QK_NORM_BEFORE_ROPE, MG_QK_NORM_AFTER_ROPE } mg_qk_norm;
typedef enum mg_rope_style { MG_ROPE_HALF, MG_ROPE_INTERLEAVED } mg_rope_style;
typedef enum mg_rope_scaling {
    MG_ROPE_NONE,
    MG_ROPE_LINEAR,
    MG_ROPE_LLAMA3,
    MG_ROPE_YARN,
    MG_ROPE_DYNAMIC,
    MG_ROPE_LONGROPE
} mg_rope_scaling;
typedef enum mg_router_rule {
    MG_ROUTER_NONE,
    MG_ROUTER_SOFTMAX_TOPK, /* p = softmax over all in f32; top-k; divided by their sum when NORM_TOPK */
    MG_ROUTER_TOPK_SOFTMAX, /* top-k of the logits; softmax over those k */
    MG_ROUTER_SIGMOID, /* s = sigmoid; chosen by s + ROUTER_CORRECTION, within the GROUPS_USED groups whose two best sum
                          highest; weights s, divided by their sum + topk_sum_add when NORM_TOPK, times ROUTED_SCALE */
    MG_ROUTER_SOFTMAX_CORRECTED, /* p = softmax; chosen by p + ROUTER_CORRECTION; weights p / max(sum, TOPK_SUM_MIN) */
    MG_ROUTER_SOFTMAX_GROUPS,    /* p = softmax; top-k within the GROUPS_USED groups whose best is highest; times
                                    ROUTED_SCALE */
    MG_ROUTER_SPARSEMIXER, /* always two: the best logit, weighted by a softmax over the experts whose distance from it,
                              relative to max(|logit|, best), is at most 2 ROUTER_JITTER; then the same without it */
} mg_router_rule;

/* What a gated block makes of gate and up. CLAMPED: (up + 1) * gate * sigmoid(ACT_ALPHA * gate), with gate at most
 * ACT_LIMIT and up within it. */
typedef enum mg_gating { MG_GATING_ACT, MG_GATING_SWIGLU_CLAMPED } mg_gating;

/* GGUF's numbers for what a router's logits go through (expert_gating_func). */
typedef enum mg_score_func { MG_SCORE_SOFTMAX = 1, MG_SCORE_SIGMOID = 2 } mg_score_func;

/* Which layers route; all others are dense. Whatever the rule, a layer in mg_hparams.dense is dense: HF configs list
 * them (mg_arch.dense_list), in GGUF they are the layers without a router. */
typedef enum mg_moe_rule {
    MG_MOE_ALL,
    MG_MOE_AFTER_DENSE, /* from layer DENSE_LAYERS on */
    MG_MOE_STEPPED,     /* every MOE_STEP-th */
    MG_MOE_RANGE,       /* every MOE_STEP-th from DENSE_LAYERS to MOE_LAST */
    MG_MOE_MULTIPLES,   /* from layer DENSE_LAYERS on those whose number is a multiple of MOE_STEP */
} mg_moe_rule;

/* The arithmetic of one decoder block, shared by all layers (what varies by layer is in mg_layer). */
typedef struct mg_block {
    mg_norm norm;
    mg_qk_norm qk_norm;
    mg_rope_style rope;
    mg_router_rule router;
    bool norm_topk;      /* default of NORM_TOPK when the config does not say */
    double topk_sum_add; /* MG_ROUTER_SIGMOID */
    mg_moe_rule moe;
    mg_gating gating;
    double latent_eps; /* of the norms of latents (KV_LORA, Q_LORA) */
    bool heads_fill;   /* HEADS * HEAD_DIM must be HIDDEN: the family's readers know no other size of a head */
} mg_block;

/* On-disk layouts a family may have; rows of the tensor table carry patterns and views per layout. */
typedef enum mg_layout {
    MG_LAYOUT_HF,
    MG_LAYOUT_GGUF,
    MG_LAYOUT_NATIVE, /* releases with params.json and consolidated.*: Mistral's and Meta's own names (mg_native) */
    MG_LAYOUT_COUNT
} mg_layout;

/* ---- symbols ------------------------------------------------------------------------------------------------------
 */

/* A number in a table row: a literal, (a * b * mul / div) over canonical keys, a sum, the index of the expanded expert,
 * or that index times a key (first row of an expert in a matrix that stacks them). */
typedef enum mg_sym_kind {
    MG_SYM_NONE,
    MG_SYM_LIT,
    MG_SYM_KEY,
    MG_SYM_KEYS,
    MG_SYM_SUM,
    MG_SYM_EXPERT,
    MG_SYM_EXPERT_KEY
} mg_sym_kind;
typedef struct mg_sym {
    mg_sym_kind kind;
    mg_key a, b;       /* KEY, EXPERT_KEY: a; KEYS and SUM: a and b */
    uint32_t mul, div; /* LIT: mul is the value; 0 means 1 otherwise */
    mg_key c;          /* SUM: (a + b * mul) * c; key 0 (VOCAB) means 1 */
} mg_sym;

/* ---- configuration ------------------------------------------------------------------------------------------------
 */

/* What a key is when a file does not state it. */
typedef enum mg_fallback_kind {
    MG_FB_SAME = 0,  /* only for null and gguf: as absent */
    MG_FB_REQUIRED,  /* MG_ERR_CONFLICT: the key must be stated */
    MG_FB_VALUE,     /* value; the default of the configuration class or of the format */
    MG_FB_KEY,       /* the value of key */
    MG_FB_QUOTIENT,  /* key / by, which must divide evenly (head_dim = hidden / heads) */
    MG_FB_PRODUCT,   /* key * by */
    MG_FB_SUM,       /* key + by */
    MG_FB_MINUS,     /* key - by */
    MG_FB_PART,      /* key * by, rounded down: by is a fraction (rotated part of a head) */
    MG_FB_RATIO,     /* key / by as a fraction */
    MG_FB_ROOT,      /* square root of key */
    MG_FB_SCORE_DIM, /* HEAD_DIM, but HIDDEN / HEADS in the model of `value` layers */
    MG_FB_TOKENS,    /* GGUF: length of tokenizer.ggml.tokens, else rows of the token embedding */
    MG_FB_TENSORS,   /* GGUF: told by which tensors are there (biases, tied head) */
} mg_fallback_kind;
typedef struct mg_fallback {
    mg_fallback_kind kind;
    mg_key key, by;
    double value;
} mg_fallback;

/* When a converter writes the row's GGUF key. */
typedef enum mg_gguf_when {
    MG_GGUF_NEVER = 0,
    MG_GGUF_ALWAYS,
    MG_GGUF_STATED,      /* only when the source states it */
    MG_GGUF_SCALED,      /* ROPE_TYPE is linear or yarn */
    MG_GGUF_YARN,        /* ROPE_TYPE is yarn */
    MG_GGUF_YARN_STATED, /* both */
    MG_GGUF_LONGROPE,    /* ROPE_TYPE is longrope */
    MG_GGUF_UNUSUAL,     /* a reader would assume another value without it */
    MG_GGUF_FILE_TYPE,   /* not a key of ours: the place of general.file_type in the order */
} mg_gguf_when;

/* Spelling of an enumerator's value (hidden_act "silu"); a list ends with a NULL name. */
typedef struct mg_enum_name {
    const char *name;
    int value;
} mg_enum_name;

#define MG_MAX_SPELLINGS 4

/* One canonical key. Rows stand in the order in which a converter writes GGUF keys (specification of the order:
 * docs/arch_tables.md), and a fallback may only use keys of rows above. */
typedef struct mg_config_row {
    mg_key key;
    /* Dotted paths in config.json in order of precedence; the first that is there and not null wins. "rope_parameters."
     * means the object rope_scaling when that is there and neither null nor empty, else rope_parameters (transformers'
     * rule). */
    const char *hf[MG_MAX_SPELLINGS];
    const char *gguf; /* key after "<arch>.", NULL when GGUF has none */
    mg_kv_type gguf_type;
    mg_gguf_when gguf_when;
    mg_fallback absent; /* not there in any spelling */
    mg_fallback null;   /* there and null */
    mg_fallback zero;   /* there and 0, which stands for something else (SAME: 0 is 0) */
    mg_fallback gguf_absent;
    double lo, hi;             /* accepted range of stated values; both 0 = any */
    const mg_enum_name *names; /* kind E: the spellings */
    bool gguf_unread;          /* written for the reference's sake; the value follows from the tensors or is fixed */
    bool quiet;                /* a fallback is no news (no sentence in mg_model.assumptions) */
    mg_key only_if; /* a stated value counts only when this key is not 0, and is 0 otherwise; key 0 (VOCAB): always */
    double gguf_scale; /* floats: GGUF holds the value times this; 0: as it is */
    bool lost_in_gguf; /* the GGUF layout cannot say a value other than the fallback: see mg_arch_gguf_losses */
} mg_config_row;

/* A list in config.json that says of every layer whether it has a trait. Without it the keys of keys.inc say so:
 * WINDOW_FROM and WINDOW_PERIOD, NOPE_PERIOD. */
typedef enum mg_layer_trait { MG_TRAIT_WINDOW, MG_TRAIT_ROPE, MG_TRAIT_COUNT } mg_layer_trait;
typedef struct mg_layer_list {
    const char *path; /* NULL ends the lists of a family */
    mg_layer_trait trait;
    const char *yes, *no; /* the words of its entries; NULL: numbers, 0 is no */
} mg_layer_list;

/* A field that changes the mathematics in a way the family's rows do not describe: refused with MG_ERR_UNSUPPORTED when
 * it is there, not null, and not `harmless` (a JSON number, true/false as 1/0; NAN = any value is refused). */
typedef struct mg_config_refusal {
    const char *path;
    double harmless;
    const char *why;
} mg_config_refusal;

/* How a config.json of this family is made from another family's: the field is removed, or set to the JSON text `json`,
 * or to the value of `key` when json is NULL. */
typedef struct mg_config_edit {
    const char *field;
    const char *json;
    mg_key key;
    bool keep; /* leave a value that is already there */
    bool remove;
    bool append;  /* the value of key becomes the next entry of a list */
    bool as_role; /* true or false: whether the base has weights of this role */
    mg_role role;
} mg_config_edit;

/* ---- params.json ---------------------------------------------------------------------------------------------------
 */

/* A field of params.json. The range of a stated value is the config row's; -1 means not stated (Meta's vocab_size). */
typedef struct mg_native_row {
    mg_key key;
    const char *path;     /* dotted */
    mg_fallback absent;   /* SAME: as in config.json */
    mg_fallback windowed; /* absent while WINDOW is stated; SAME: as absent */
} mg_native_row;

/* How a family's native releases are told and read. A field that neither a row nor `ignored` names is refused by name
 * unless it is null or false: it may change the mathematics. */
typedef struct mg_native {
    const char *has, *lacks; /* params.json has the one field and lacks the other (may be NULL) */
    const mg_native_row *rows;
    uint32_t n_rows;
    const char *const *ignored; /* top-level fields without meaning for the weights; NULL-terminated, may be NULL */
} mg_native;

/* ---- tensors ------------------------------------------------------------------------------------------------------
 */

/* When a role exists. What GGUF metadata cannot state (the last three) is told by the tensors there. */
typedef enum mg_cond {
    MG_IF_ALWAYS = 0,
    MG_IF_DENSE,          /* layer without routed experts */
    MG_IF_MOE,            /* layer with routed experts */
    MG_IF_SHARED,         /* layer with routed experts, and SHARED_FFN > 0 */
    MG_IF_EXCHANGE,       /* layer with routed experts, and EXCHANGE */
    MG_IF_Q_LORA,         /* Q_LORA > 0 */
    MG_IF_NO_Q_LORA,      /* Q_LORA is 0 */
    MG_IF_STORED,         /* only when the file has it */
    MG_IF_LLAMA3,         /* ROPE_TYPE is llama3: generated for GGUF, optional when read */
    MG_IF_LONGROPE,       /* ROPE_TYPE is longrope: generated for GGUF and, where found, what makes it longrope */
    MG_IF_UNTIED,         /* TIED is false */
    MG_IF_ATTN_BIAS,      /* ATTN_BIAS */
    MG_IF_HEAD_BIAS,      /* HEAD_BIAS */
    MG_IF_QK_NORM,        /* QK_NORM */
    MG_IF_DENSE_MLP_BIAS, /* dense layer and MLP_BIAS */
} mg_cond;

/* A view with symbolic arguments; meaning as mg_view. */
typedef struct mg_view_row {
    mg_view_kind kind;
    mg_sym a, b;
    uint64_t step;
    double value;
    mg_sym group; /* GROUPS: step, where it depends on keys */
} mg_view_row;

#define MG_MAX_ROW_VIEWS 3
#define MG_MAX_FORMS     4

/* One on-disk form of a role. {l}, {e}, {s} and {d} in the pattern are the layer, the expert, and the two ends of an
 * edge of the grid of experts. */
typedef struct mg_form {
    const char *pattern; /* NULL ends the list */
    mg_view_row views[MG_MAX_ROW_VIEWS];
    mg_sym stored[4]; /* shape of the stored tensor; none = the logical shape */
    bool blocks;      /* what the file has are two tensors, this one's codes and "_scales" instead of "_blocks": the
                         layout of MXFP4 releases. Written only when asked for (MG_FORMS_BLOCKS) */
    bool mlx;         /* mlx-lm's own name, for weights that it does not find under another when they are quantized.
                         Written only when asked for (MG_FORMS_MLX) */
} mg_form;

typedef struct mg_tensor_row {
    mg_role role;
    mg_cond when;
    mg_sym shape[3];                              /* logical shape, slowest first, ended by MG_SYM_NONE */
    mg_form forms[MG_LAYOUT_COUNT][MG_MAX_FORMS]; /* all are read, the first is written */
    uint32_t flush;                               /* rows of one non-zero group leave the reference converter together,
                                                     when the last source tensor of the group in a layer has been seen */
} mg_tensor_row;

/* ---- making a MoE out of dense models -----------------------------------------------------------------------------
 */

typedef struct mg_role_pair {
    mg_role dense, expert;
} mg_role_pair;
typedef struct mg_made_from {
    const char *called;      /* mergekit's name for the family, where it has one */
    const char *families[4]; /* donors: all of one of these */
    mg_role_pair roles[6];   /* which dense role becomes which expert role; all others are the base's */
    uint32_t n_roles;
    mg_role_pair shared[3]; /* the same for the shared expert; none: the family has no such */
    uint32_t n_shared_roles;
    bool needs_shared; /* the family's readers count on it */
    mg_role zeros[4];  /* what no donor need have and is then zero */
    uint32_t n_zeros;
    uint32_t order; /* families that the same donors can become: the lowest is taken; 0: only when asked for by name */
} mg_made_from;

/* A model of another family that this one can say exactly, weight by weight of the same role. */
typedef struct mg_restates {
    const char *families[4];
    mg_role zeros[2]; /* what the other family lacks, and is nothing when it is zero */
    uint32_t n_zeros;
    mg_role doubled[2]; /* twice as large here */
    uint32_t n_doubled;
    mg_role vanishing[2]; /* what this family lacks, and is nothing when it is zero: refused otherwise */
    uint32_t n_vanishing;
} mg_restates;

/* ---- the family ---------------------------------------------------------------------------------------------------
 */

/* Which GGUF files of gguf_arch belong to this family. */
typedef enum mg_gguf_match { MG_GGUF_MATCH_NEVER, MG_GGUF_MATCH_DENSE, MG_GGUF_MATCH_MOE } mg_gguf_match;

/* What vLLM has of a family (0.32). */
typedef enum mg_vllm {
    MG_VLLM_ALL,
    MG_VLLM_NO_GPTQ, /* a layer of its class has no name, by which GPTQ's weights are known */
    MG_VLLM_NONE,
} mg_vllm;

/* A module of Python that a model of a custom architecture carries beside its weights (formats/arch/code/), so that
 * transformers can run it. */
typedef struct mg_code_file {
    const char *name;
    const unsigned char *text;
    size_t size;
} mg_code_file;

typedef struct mg_arch {
    const char *name;          /* ours, equal to model_type */
    const char *hf_classes[4]; /* accepted entries of "architectures"; the first is written */
    const char *gguf_arch;     /* general.architecture, and prefix of its keys */
    bool gguf_own;             /* no other program knows gguf_arch: said when a file is written */
    mg_vllm vllm;
    mg_score_func gguf_score;  /* and by expert_gating_func, where it tells families apart; 0: whatever it says */
    bool gguf_no_blank; /* its SentencePiece vocabularies put no blank before a text, which no file of theirs says */
    uint32_t gguf_eot;  /* token that ends a turn, which no file says; 0: none */
    mg_gguf_match gguf_match; /* by expert_count: one GGUF name may serve several families */
    mg_key gguf_needs;        /* other programs refuse a file in which this number is 0; key 0 (VOCAB): none */
    mg_block block;
    const mg_config_row *config;
    uint32_t n_config;
    const mg_layer_list *lists; /* NULL: none */
    const mg_config_refusal *refusals;
    uint32_t n_refusals;
    const mg_tensor_row *tensors; /* in the order in which the reference converter emits a group */
    uint32_t n_tensors;
    const char *dense_list;        /* path in config.json of a list of layers without routed experts; NULL: none */
    bool skip_extra_layers;        /* tensors of layers beyond LAYERS are for multi-token prediction: not read */
    const char *const *ignored;    /* patterns of stored tensors that carry no weight; NULL-terminated */
    const mg_made_from *made_from; /* NULL for dense families */
    const mg_config_edit *edits;   /* how made_from families' configs become ours; ended by field NULL */
    const mg_restates *restates;   /* NULL: no other family */
    const mg_native *native;       /* NULL: no native releases; forms[MG_LAYOUT_NATIVE] are then unused */
    const mg_code_file *code[3];   /* NULL-terminated: transformers has the family, or nobody has */
    const char *auto_map;          /* with code: the JSON of config.json's auto_map */
    const char *blocks_config;     /* with forms of blocks: the JSON of config.json's quantization_config */
} mg_arch;

uint32_t mg_arch_count(void);
const mg_arch *mg_arch_at(uint32_t i);
/* By our name; NULL when unknown. */
const mg_arch *mg_arch_find(const char *name);
/* Family of a config.json: architectures[0] and model_type, which must agree. MG_ERR_UNSUPPORTED names what is unknown.
 */
mg_status mg_arch_of_config(const mg_arch **out, const mg_json *config, mg_error *err) MG_MUST_CHECK;
/* Family of a GGUF file from general.architecture and expert_count. */
mg_status mg_arch_of_gguf(const mg_arch **out, const mg_kvs *kv, mg_error *err) MG_MUST_CHECK;
/* Family of a params.json. MG_ERR_UNSUPPORTED when no family's native releases look like it. */
mg_status mg_arch_of_params(const mg_arch **out, const mg_json *params, mg_error *err) MG_MUST_CHECK;
/* True when arch can be made from donors of family `donor`. */
bool mg_arch_made_from(const mg_arch *arch, const mg_arch *donor);
/* True when experts of a model of one family can stand in one of the other: the same family, one made from the other,
 * or both made from a third. */
bool mg_arch_kin(const mg_arch *a, const mg_arch *b);
/* The expert role a dense role becomes, or MG_ROLE_COUNT when the role stays the base's. */
mg_role mg_arch_expert_role(const mg_arch *arch, mg_role dense);
/* The other way round: what an expert was in a donor. MG_ROLE_COUNT for roles that are no experts'. */
mg_role mg_arch_dense_role(const mg_arch *arch, mg_role expert);

/* The stored element type a config names (dtype or torch_dtype, with or without "torch."): MG_DTYPE_COUNT when it names
 * none or one we do not know. */
mg_dtype mg_config_dtype(const mg_json *config);
/* Make config name dtype (F32, F16 or BF16), in the spelling it already uses ("dtype" or "torch_dtype"). */
void mg_config_set_dtype(mg_json *config, mg_dtype dtype);
/* Set a whole number of a config of that family, in every spelling of it that is there. */
void mg_config_set_number(mg_json *config, const struct mg_arch *arch, mg_key key, int64_t value);
/* Set the number of layers of a config of that family; its lists per layer get, for layer l, the entry that layer
 * from[l] had. MG_ERR_FORMAT when a list has none. */
mg_status mg_config_set_layers(mg_json *config, const struct mg_arch *arch, const uint32_t *from, uint32_t n,
                               mg_error *err) MG_MUST_CHECK;

/* ---- writing ------------------------------------------------------------------------------------------------------
 */

/* A piece of a target: `rows` stored rows that come from one logical weight, or from `slice` of its rows from `first`
 * on (0: from all of them). */
typedef struct mg_part {
    mg_role role;
    uint32_t layer, expert;
    uint64_t rows;
    uint64_t first, slice;
} mg_part;

/* One tensor of a file to be written. Its rows (last dimension contiguous; rank 1 = one row) are the rows of its parts
 * one after the other: a stack of E experts is E parts, a fused gate_up is 2E. Each part is the logical weight passed
 * through `views` (in order, logical to stored: the inverse of the reading chain). */
typedef struct mg_target {
    const char *name;
    uint32_t rank;
    uint64_t shape[MG_MAX_RANK]; /* torch order, slowest first */
    const mg_part *parts;
    uint32_t n_parts;
    mg_view views[MG_MAX_VIEWS]; /* the same for every part; ended by MG_VIEW_END */
    uint32_t join; /* > 1: that many parts, one below the other, make up each slice of the slowest dimension;
                      `after` then turns a slice into what is stored (rows of fused weights that alternate) */
    mg_view after[MG_MAX_VIEWS];
    bool blocks;         /* the form is one of blocks (mg_form.blocks): stored as codes and scales */
    bool generated;      /* no source holds it: values come from mg_arch_generate (f32) */
    bool always_f32;     /* the reference converter keeps it F32 whatever --outtype is: vectors, norms, routers */
    uint32_t row, flush; /* of the tensor row it came from: place in the table and group (mg_targets_order) */
} mg_target;

typedef struct mg_targets {
    mg_target *items;
    size_t n;
    mg_arena arena;
} mg_targets;

/* Does the model to be written have this weight? mg_model_has answers for a source model (ctx: const mg_model *). */
typedef bool (*mg_has_fn)(const void *ctx, mg_role role, uint32_t layer, uint32_t expert);
bool mg_model_has(const void *model, mg_role role, uint32_t layer, uint32_t expert);

/* All tensors of a model of family arch in a layout. layers: [LAYERS] (of a model opened from a config or a
 * checkpoint). has NULL: what hp says (biases by ATTN_BIAS/MLP_BIAS, output head unless TIED). With has: those for
 * which it is true. ROPE_FREQS is generated for GGUF when ROPE_TYPE is llama3 and `has` does not offer it. Order: HF
 * and native by name (bytes), as safetensors files are written; GGUF model tensors, then layers; mg_targets_order gives
 * the reference converter's. *out is initialised here and released by the caller, also after a failure. */
mg_status mg_arch_targets(mg_targets *out, const mg_arch *arch, const mg_hparams *hp, const mg_layer *layers,
                          mg_layout layout, mg_has_fn has, const void *ctx, mg_error *err) MG_MUST_CHECK;
/* Which of a row's forms of layout HF is written, where the family has it; else the first. */
typedef enum mg_forms {
    MG_FORMS_FIRST,
    MG_FORMS_BLOCKS,   /* blocks of MXFP4 */
    MG_FORMS_MATRICES, /* matrices of experts are tensors of their own, not parts of a stack */
    MG_FORMS_MLX,      /* mlx-lm's own names; else as MATRICES */
} mg_forms;
/* The same of layout HF in these forms. */
mg_status mg_arch_targets_in(mg_targets *out, const mg_arch *arch, const mg_hparams *hp, const mg_layer *layers,
                             mg_forms forms, mg_has_fn has, const void *ctx, mg_error *err) MG_MUST_CHECK;
/* Do the family's own files keep this weight of an expert in one tensor with those of others? */
bool mg_arch_stacks(const mg_arch *arch, mg_role role);
/* Does mlx-lm look for this weight under a name of its own only, when it is quantized? */
bool mg_arch_has_mlx_form(const mg_arch *arch, mg_role role);
/* Does m hold everything that its family stores in blocks as MXFP4? false when the family has no such form. */
bool mg_model_has_blocks(const mg_model *m);
void mg_targets_release(mg_targets *t);

/* Sort GGUF targets as convert_hf_to_gguf emits them for this source: generated tensors first, then by the source
 * tensor (shard, name in byte order); a stack when the last of its sources, over its flush group, has been seen; ties
 * by table row. A GGUF source keeps its file order. source may be a model over a plan: only names and shard numbers are
 * used. */
mg_status mg_targets_order(mg_targets *t, const mg_model *source, mg_error *err) MG_MUST_CHECK;

/* Where part `part` of t lies in source, as a bound: the source's views followed by the target's. Read it with
 * mg_model_read_rows; its rows are the part's rows of the target. MG_ERR_FORMAT when the source lacks the weight. */
mg_status mg_target_bind(mg_bound *out, const mg_model *source, const mg_target *t, uint32_t part,
                         mg_error *err) MG_MUST_CHECK;
/* The newest Hugging Face name of a target of layout HF into buf: the last of the family's forms that keeps a weight as
 * it is. false: it has no such form, or buf is too small. */
bool mg_target_newest_name(const mg_target *t, const mg_arch *arch, const mg_hparams *hp, char *buf, size_t size);
/* The part that holds row `row` of t, and the row within the part. */
uint32_t mg_target_part_of_row(const mg_target *t, uint64_t row, uint64_t *row_in_part);

/* Factors of the llama3 rope scaling as rope_freqs.weight stores them, n = ROPE_DIM / 2, from ROPE_* keys:
 * frequency f_i = theta^(-2i/n'), wavelength 2 pi / f_i; below orig/high: 1; above orig/low: factor; smooth between. */
mg_status mg_arch_rope_factors(float *out, uint64_t n, const mg_hparams *hp, mg_error *err) MG_MUST_CHECK;

/* Values of a generated target of that role: the llama3 factors, or a list of a longrope scaling. */
mg_status mg_arch_generate(float *out, uint64_t n, mg_role role, const mg_hparams *hp, mg_error *err) MG_MUST_CHECK;

/* Append the architecture's keys in the reference converter's order: block_count ... value_length, general.file_type,
 * vocab_size, rope.dimension_count. file_type: ggml's ftype number. general.architecture and all else is the caller's.
 */
mg_status mg_arch_gguf_keys(mg_kvs *out, const mg_arch *arch, const mg_hparams *hp, uint32_t file_type,
                            mg_error *err) MG_MUST_CHECK;
/* A sentence for each thing m has that its GGUF architecture cannot say (sliding window, dynamic rope ...), into buf
 * separated by newlines; number of sentences. */
uint32_t mg_arch_gguf_losses(const mg_model *m, char *buf, size_t size);

/* What a MoE that is made from dense models looks like. */
typedef struct mg_moe_shape {
    uint32_t experts, used, shared; /* routed, of which chosen; shared experts */
    uint64_t ffn;                   /* inner size of a routed expert; 0: the base's */
    uint32_t grid_x, grid_y;        /* columns and rows, where the family has a grid */
    const uint32_t *dense;          /* [n_dense] layers that stay dense, ascending */
    uint32_t n_dense;
} mg_moe_shape;
/* config.json of a MoE of family arch from its base's config: the base's own fields, with the family's edits. Keys stay
 * sorted when the base's were, else new ones are appended. *out is the caller's. arch equal to the base's family: a
 * copy. MG_ERR_UNSUPPORTED when arch is not made from the base's family, or has no dense layers or shared experts. */
mg_status mg_arch_make_config(mg_json **out, const mg_arch *arch, const mg_json *base, const mg_moe_shape *shape,
                              mg_error *err) MG_MUST_CHECK;
/* A config.json written from canonical keys alone (sources without one, such as GGUF), in the spelling that
 * transformers 4 and 5 both read. dtype: of the weights. */
mg_status mg_arch_new_config(mg_json **out, const mg_arch *arch, const mg_hparams *hp, mg_dtype dtype,
                             mg_error *err) MG_MUST_CHECK;
/* params.json of m in Mistral's form, and the family whose native names its tensors get: m's own, or the one with the
 * same GGUF architecture that has such releases. What is written is read back: MG_ERR_UNSUPPORTED names the first
 * number of hp that the file cannot state, or says that there are no such releases. */
mg_status mg_arch_new_params(mg_json **out, const mg_arch **family, const mg_model *m, const mg_hparams *hp,
                             mg_error *err) MG_MUST_CHECK;

#endif
