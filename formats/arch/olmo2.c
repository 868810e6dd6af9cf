/* olmo2.c - OLMo 2 (transformers' Olmo2ForCausalLM).
 *
 * Llama's parts in another order: attention and feed-forward read the residual stream as it is, and what they give goes
 * through an RMSNorm before it is added. q and k are normed over the whole projection (not head by head) before the
 * rotation.
 *
 * GGUF "olmo2" keeps the order of q and k; the norms are post_attention_norm and post_ffw_norm. The same name is used
 * for OLMo 3, whose window by layer is a list and therefore refused. */
#include "formats/arch/arch_rows.h"

static const mg_config_row config[] = {
    CONFIG_SIZES(32, 2048, 4096, 11008, 32, SAME_AS_(HEADS)),
    LLAMA_CONFIG_ROPE(10000),
    LLAMA_CONFIG_EPS(1e-5),
    CONFIG_HEADS(MG_GGUF_STATED),
    CONFIG_VOCAB(50304, MG_GGUF_NEVER),
    CONFIG_COMMON(0, -1, 50279),
    CONFIG_WINDOW_PERIOD(0),
    {.key = MG_K_WINDOW, .gguf = "attention.sliding_window", .absent = VALUE_(0), .lo = 1, .hi = 1e12, .quiet = true},
    {.key = MG_K_ATTN_BIAS, .hf = {"attention_bias"}, .absent = VALUE_(0), .gguf_absent = TENSORS_, .quiet = true},
};

static const mg_config_refusal refusals[] = {LLAMA_REFUSALS};

/* clang-format off */
static const mg_tensor_row tensors[] = {
    LLAMA_TENSORS_MODEL,
    NEOX_TENSORS_PROJECTIONS,
    NEOX_TENSORS_QKV_BIAS,
    NEOX_TENSORS_O_BIAS,
    QK_NORM_WHOLE,
    W_(ATTN_POST_NORM, MG_IF_ALWAYS, "model.layers.{l}.post_attention_layernorm.weight", "blk.{l}.post_attention_norm.weight", K_(HIDDEN)),
    LLAMA_TENSORS_FFN,
    W_(FFN_POST_NORM, MG_IF_ALWAYS, "model.layers.{l}.post_feedforward_layernorm.weight", "blk.{l}.post_ffw_norm.weight", K_(HIDDEN)),
};
/* clang-format on */

static const char *const ignored[] = {LLAMA_IGNORED};

const mg_arch mg_arch_olmo2 = {
    .name = "olmo2",
    .hf_classes = {"Olmo2ForCausalLM"},
    .gguf_arch = "olmo2",
    .gguf_match = MG_GGUF_MATCH_DENSE,
    .block = {.norm = MG_NORM_RMS, .rope = MG_ROPE_HALF, .router = MG_ROUTER_NONE},
    .config = config,
    .n_config = MG_LEN(config),
    .refusals = refusals,
    .n_refusals = MG_LEN(refusals),
    .tensors = tensors,
    .n_tensors = MG_LEN(tensors),
    .ignored = ignored,
};
