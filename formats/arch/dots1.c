/* dots1.c - dots.llm1 (transformers' Dots1ForCausalLM).
 *
 * Qwen3's attention; the first first_k_dense_replace layers are dense, the others route by DeepSeek-V3's rule: sigmoid
 * scores, the choice helped by a correction per expert and limited to groups, weights renormalised and scaled;
 * n_shared_experts shared experts are one block of that many times the inner size, added as it is. Layers from
 * max_window_layers on may have a window (layer_types).
 *
 * GGUF "dots1": no rotary reordering, no key for windows. expert_gating_func is always written: without it llama.cpp
 * would take a softmax. */
#include "formats/arch/arch_rows.h"

/* clang-format off */
static const mg_config_row config[] = {
    CONFIG_SIZES(62, 2048, 4608, 10944, 32, VALUE_(32)),
    LLAMA_CONFIG_ROPE(10000),
    LLAMA_CONFIG_EPS(1e-6),
    CONFIG_EXPERTS(128, 6, "num_experts_per_tok", "n_routed_experts", "num_local_experts"),
    CONFIG_GROUPS(1, 1),
    CONFIG_SCORE(MG_SCORE_SIGMOID, MG_GGUF_ALWAYS),
    CONFIG_HEADS(MG_GGUF_STATED),
    CONFIG_EXPERT_FFN(1408),
    CONFIG_DENSE_LAYERS(0),
    CONFIG_SHARED_COUNT(0),
    CONFIG_ROUTED_SCALE(1),
    CONFIG_NORM_TOPK(0, MG_GGUF_ALWAYS),
    CONFIG_SHARED_PRODUCT,
    CONFIG_VOCAB(152064, MG_GGUF_NEVER),
    CONFIG_COMMON(0, -1, -1),
    CONFIG_ATTN_BIAS("attention_bias", 0),
    {.key = MG_K_WINDOW, .hf = {"sliding_window"}, .absent = VALUE_(4096), .null = VALUE_(0), .gguf_absent = VALUE_(0), .lo = 1,
     .hi = 1e12, .quiet = true, .lost_in_gguf = true},
    {.key = MG_K_WINDOW_FROM, .hf = {"max_window_layers"}, .absent = VALUE_(62), .lo = 0, .hi = 1e9, .quiet = true},
};
/* clang-format on */

static const mg_layer_list lists[] = {LAYER_TYPES_WINDOW, {0}};

/* clang-format off */
static const mg_config_refusal refusals[] = {
    LLAMA_REFUSALS,
};

static const mg_tensor_row tensors[] = {
    LLAMA_TENSORS_MODEL,
    NEOX_TENSORS_ATTENTION,
    QK_NORM_HEAD,
    NEOX_TENSORS_QKV_BIAS,
    NEOX_TENSORS_O_BIAS,
    LLAMA_TENSORS_FFN,
    ROUTER_("model.layers.{l}.mlp.gate.weight"),
    CORRECTION_("model.layers.{l}.mlp.gate.e_score_correction_bias"),
    MLP_EXPERTS_IN_("mlp.experts"),
    SHARED_EXPERT_("shared_experts"),
};
/* clang-format on */

static const char *const ignored[] = {LLAMA_IGNORED};

const mg_arch mg_arch_dots1 = {
    .name = "dots1",
    .hf_classes = {"Dots1ForCausalLM"},
    .gguf_arch = "dots1",
    .vllm = MG_VLLM_NONE,
    .gguf_match = MG_GGUF_MATCH_MOE,
    .block = {.norm = MG_NORM_RMS,
              .rope = MG_ROPE_HALF,
              .router = MG_ROUTER_SIGMOID,
              .moe = MG_MOE_AFTER_DENSE,
              .topk_sum_add = 1e-20},
    .config = config,
    .n_config = MG_LEN(config),
    .lists = lists,
    .refusals = refusals,
    .n_refusals = MG_LEN(refusals),
    .tensors = tensors,
    .n_tensors = MG_LEN(tensors),
    .ignored = ignored,
};
