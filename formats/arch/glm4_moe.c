/* glm4_moe.c - GLM-4.5, 4.6 and their kin (transformers' Glm4MoeForCausalLM).
 *
 * Grouped-query attention that rotates the first half of every head (partial_rotary_factor), with biases on q, k and v
 * (attention_bias) and, in the larger models, an RMSNorm over every head of q and k (use_qk_norm). The first
 * first_k_dense_replace layers are dense, the others route by DeepSeek-V3's rule and add shared experts as one block.
 * Layers beyond num_hidden_layers, for multi-token prediction, are not read.
 *
 * GGUF "glm4moe": no reordering. Files of others count the prediction layers in block_count and name their number; we
 * write none. */
#include "formats/arch/arch_rows.h"

/* clang-format off */
static const mg_config_row config[] = {
    CONFIG_SIZES(46, 131072, 4096, 10944, 96, VALUE_(8)),
    LLAMA_CONFIG_ROPE(10000),
    LLAMA_CONFIG_EPS(1e-5),
    CONFIG_EXPERTS(128, 8, "num_experts_per_tok", "n_routed_experts", "num_local_experts"),
    CONFIG_GROUPS(1, 1),
    CONFIG_HEADS_FIXED(128),
    CONFIG_ROPE_DIM(MG_GGUF_ALWAYS, PART_(HEAD_DIM, ROTARY_PART)),
    CONFIG_EXPERT_FFN(1408),
    CONFIG_SHARED_COUNT(1),
    CONFIG_DENSE_LAYERS(1),
    CONFIG_SCORE(MG_SCORE_SIGMOID, MG_GGUF_ALWAYS),
    CONFIG_ROUTED_SCALE(1),
    CONFIG_NORM_TOPK(1, MG_GGUF_ALWAYS),
    CONFIG_SHARED_PRODUCT,
    {.key = MG_K_NEXTN, .gguf = "nextn_predict_layers", .gguf_type = MG_KV_U32, .absent = VALUE_(0), .lo = 0, .hi = 64, .quiet = true},
    CONFIG_ROTARY_PART(0.5),
    CONFIG_VOCAB_SIZE(151552, MG_GGUF_NEVER),
    CONFIG_COMMON(0, -1, -1),
    CONFIG_ATTN_BIAS("attention_bias", 0),
    CONFIG_QK_NORM("use_qk_norm", 0),
};
/* clang-format on */

/* clang-format off */
static const mg_config_refusal refusals[] = {
    REFUSE_GROUP_FORMATS,
};

static const mg_tensor_row tensors[] = {
    LLAMA_TENSORS_MODEL,
    NEOX_TENSORS_QKVO,
    FFN_NORM_("blk.{l}.post_attention_norm.weight"),
    QK_NORM_HEAD_OPTION,
    NEOX_TENSORS_QKV_BIAS,
    LLAMA_TENSORS_FFN,
    ROUTER_("model.layers.{l}.mlp.gate.weight"),
    CORRECTION_("model.layers.{l}.mlp.gate.e_score_correction_bias"),
    MLP_EXPERTS_DOWN_GATE_UP,
    SHARED_EXPERT_("shared_experts"),
};
/* clang-format on */

static const char *const ignored[] = {LLAMA_IGNORED};

const mg_arch mg_arch_glm4_moe = {
    .name = "glm4_moe",
    .hf_classes = {"Glm4MoeForCausalLM"},
    .gguf_arch = "glm4moe",
    .gguf_match = MG_GGUF_MATCH_MOE,
    .block = {.norm = MG_NORM_RMS,
              .rope = MG_ROPE_HALF,
              .router = MG_ROUTER_SIGMOID,
              .moe = MG_MOE_AFTER_DENSE,
              .topk_sum_add = 1e-20},
    .config = config,
    .n_config = MG_LEN(config),
    .refusals = refusals,
    .n_refusals = MG_LEN(refusals),
    .tensors = tensors,
    .n_tensors = MG_LEN(tensors),
    .skip_extra_layers = true,
    .ignored = ignored,
};
