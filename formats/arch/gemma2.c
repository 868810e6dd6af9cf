/* gemma2.c - Gemma 2 (transformers' Gemma2ForCausalLM).
 *
 * Gemma with norms also after both halves of a block (post_attention_layernorm is one of those, the one before the
 * feed-forward is pre_feedforward_layernorm), scores and logits capped by tanh, scores divided by the root of
 * query_pre_attn_scalar, and a sliding window on every other layer, beginning with the first.
 *
 * GGUF "gemma2" holds 1 + w in all norms. */
#include "formats/arch/arch_rows.h"

#define SOFTCAP(k, name, value)                                                                                        \
    {                                                                                                                  \
        .key = MG_K_##k, .hf = {name}, .gguf = name, .gguf_type = MG_KV_F32, .gguf_when = MG_GGUF_ALWAYS,              \
        .absent = VALUE_(value), .null = VALUE_(0), .lo = 0, .hi = 1e9                                                 \
    }

static const mg_config_row config[] = {
    CONFIG_CONTEXT(8192),
    CONFIG_HIDDEN(2304),
    CONFIG_LAYERS(26),
    CONFIG_FFN(9216),
    CONFIG_QKV_HEADS(8, VALUE_(4)),
    LLAMA_CONFIG_EPS(1e-6),
    CONFIG_HEADS_FIXED(256),
    SOFTCAP(ATTN_SOFTCAP, "attn_logit_softcapping", 50),
    SOFTCAP(FINAL_SOFTCAP, "final_logit_softcapping", 30),
    {.key = MG_K_WINDOW,
     .hf = {"sliding_window"},
     .gguf = "attention.sliding_window",
     .gguf_type = MG_KV_U32,
     .gguf_when = MG_GGUF_ALWAYS,
     .absent = VALUE_(4096),
     .null = VALUE_(0),
     .lo = 0,
     .hi = 1e12},
    CONFIG_WINDOW_PERIOD(2),
    CONFIG_SCORE_DIM(46),
    CONFIG_ROPE_SCALING,
    CONFIG_ROPE_THETA(10000, MG_GGUF_UNUSUAL),
    CONFIG_VOCAB(256000, MG_GGUF_NEVER),
    CONFIG_TIED_AND_IDS(1, 2, 1),
    CONFIG_ACT("hidden_activation", MG_ACT_GELU_TANH, mg_act_names),
    {.key = MG_K_EMBED_SCALE, .absent = ROOT_(HIDDEN), .quiet = true},
};

static const mg_layer_list lists[] = {LAYER_TYPES_WINDOW, {0}};

static const mg_config_refusal refusals[] = {GEMMA_REFUSALS};

static const mg_tensor_row tensors[] = {GEMMA_TENSORS_MODEL, NEOX_TENSORS_PROJECTIONS, GEMMA_TENSORS_FOUR_NORMS,
                                        LLAMA_TENSORS_FFN};

static const char *const ignored[] = {LLAMA_IGNORED};

const mg_arch mg_arch_gemma2 = {
    .name = "gemma2",
    .hf_classes = {"Gemma2ForCausalLM"},
    .gguf_arch = "gemma2",
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
