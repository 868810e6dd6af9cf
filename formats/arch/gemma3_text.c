/* gemma3_text.c - Gemma 3, the text models (transformers' Gemma3ForCausalLM).
 *
 * Gemma 2 without the cap on scores, with an RMSNorm over every head of q and k (stored minus one like all others), and
 * with a window on five of six layers. Layers with a window rotate by a base of their own and know no scaling.
 *
 * Configurations come in two spellings: rope_theta, rope_local_base_freq and sliding_window_pattern (transformers 4),
 * or rope_parameters with an object for each kind of layer and layer_types (5).
 *
 * GGUF "gemma3" holds 1 + w in all norms. */
#include "formats/arch/arch_rows.h"

static const mg_config_row config[] = {
    CONFIG_SIZES(26, 131072, 2304, 9216, 8, VALUE_(4)),
    LLAMA_CONFIG_ROPE(1000000),
    {.key = MG_K_ROPE_THETA_LOCAL,
     .hf = {"rope_parameters.sliding_attention.rope_theta", "rope_local_base_freq"},
     .gguf = "rope.freq_base_swa",
     .gguf_type = MG_KV_F32,
     .gguf_when = MG_GGUF_ALWAYS,
     .absent = VALUE_(10000)},
    LLAMA_CONFIG_EPS(1e-6),
    CONFIG_HEADS_FIXED(256),
    {.key = MG_K_FINAL_SOFTCAP,
     .hf = {"final_logit_softcapping"},
     .gguf = "final_logit_softcapping",
     .gguf_type = MG_KV_F32,
     .gguf_when = MG_GGUF_UNUSUAL,
     .absent = VALUE_(0),
     .null = VALUE_(0),
     .lo = 0,
     .hi = 1e9,
     .quiet = true},
    {.key = MG_K_WINDOW,
     .hf = {"sliding_window"},
     .gguf = "attention.sliding_window",
     .gguf_type = MG_KV_U32,
     .gguf_when = MG_GGUF_ALWAYS,
     .absent = VALUE_(4096),
     .null = VALUE_(0),
     .gguf_absent = VALUE_(0),
     .lo = 0,
     .hi = 1e12},
    CONFIG_WINDOW_PERIOD(6, "sliding_window_pattern", "_sliding_window_pattern"),
    CONFIG_SCORE_DIM(62),
    CONFIG_VOCAB(262208, MG_GGUF_NEVER),
    CONFIG_TIED_AND_IDS(1, 2, 1),
    CONFIG_ACT("hidden_activation", MG_ACT_GELU_TANH, mg_act_names),
    {.key = MG_K_EMBED_SCALE, .absent = ROOT_(HIDDEN), .quiet = true},
};

static const mg_layer_list lists[] = {LAYER_TYPES_WINDOW, {0}};

static const mg_config_refusal refusals[] = {
    GEMMA_REFUSALS, {"attn_logit_softcapping", NAN, "this family has no key for it in GGUF, and no model uses it"}};

/* clang-format off */
static const mg_tensor_row tensors[] = {
    GEMMA_TENSORS_MODEL,
    NEOX_TENSORS_PROJECTIONS,
    NORM_LESS_ONE_(ATTN_Q_NORM, "model.layers.{l}.self_attn.q_norm.weight", "blk.{l}.attn_q_norm.weight", K_(HEAD_DIM)),
    NORM_LESS_ONE_(ATTN_K_NORM, "model.layers.{l}.self_attn.k_norm.weight", "blk.{l}.attn_k_norm.weight", K_(HEAD_DIM)),
    GEMMA_TENSORS_FOUR_NORMS,
    LLAMA_TENSORS_FFN,
};
/* clang-format on */

static const char *const ignored[] = {LLAMA_IGNORED};

const mg_arch mg_arch_gemma3_text = {
    .name = "gemma3_text",
    .hf_classes = {"Gemma3ForCausalLM"},
    .gguf_arch = "gemma3",
    .gguf_no_blank = true,
    .gguf_match = MG_GGUF_MATCH_DENSE,
    .block = {.norm = MG_NORM_RMS, .rope = MG_ROPE_HALF, .router = MG_ROUTER_NONE},
    .config = config,
    .n_config = MG_LEN(config),
    .lists = lists,
    .refusals = refusals,
    .n_refusals = MG_LEN(refusals),
    .tensors = tensors,
    .n_tensors = MG_LEN(tensors),
    .ignored = ignored,
};
