/* qwen2_moe.c - Qwen1.5-MoE and Qwen2-57B-A14B (transformers' Qwen2MoeForCausalLM).
 *
 * Qwen2's attention, with biases on q, k and v; a layer routes when its number + 1 is a multiple of decoder_sparse_step
 * and it is not listed in mlp_only_layers. p = softmax in f32 over all experts, the k largest, not renormalised unless
 * norm_topk_prob says so; a shared expert of its own size is added, weighted by the sigmoid of a router with one row.
 *
 * GGUF "qwen2moe" has no key for norm_topk_prob (readers assume false) and none for the schedule: layers are dense
 * where no router is stored. llama.cpp itself loads only files in which every layer routes. No rotary reordering. */
#include "formats/arch/arch_rows.h"

static const mg_config_row config[] = {
    CONFIG_SIZES(24, 32768, 2048, 5632, 16, VALUE_(16)),
    LLAMA_CONFIG_ROPE(10000),
    LLAMA_CONFIG_EPS(1e-6),
    CONFIG_EXPERTS(60, 4, "num_experts_per_tok", "num_experts", "num_local_experts"),
    CONFIG_HEADS(MG_GGUF_STATED),
    CONFIG_EXPERT_FFN(1408),
    CONFIG_SHARED_FFN(5632),
    CONFIG_VOCAB(151936, MG_GGUF_NEVER),
    CONFIG_COMMON(0, -1, -1),
    CONFIG_SPARSE_STEP,
    {.key = MG_K_ATTN_BIAS, .hf = {"qkv_bias"}, .absent = VALUE_(1), .gguf_absent = TENSORS_, .quiet = true},
    {.key = MG_K_NORM_TOPK, .hf = {"norm_topk_prob"}, .absent = VALUE_(0), .quiet = true, .lost_in_gguf = true},
};

static const mg_config_refusal refusals[] = {
    LLAMA_REFUSALS, {"use_sliding_window", 0, "windows on some layers of this family are not built yet"}};

/* clang-format off */
static const mg_tensor_row tensors[] = {
    LLAMA_TENSORS_MODEL,
    NEOX_TENSORS_ATTENTION,
    NEOX_TENSORS_QKV_BIAS,
    LLAMA_TENSORS_FFN,
    ROUTER_("model.layers.{l}.mlp.gate.weight"),
    MLP_EXPERTS_DOWN_GATE_UP,
    SHARED_EXPERT_("shared_expert"),
    SHARED_ROUTER_,
};
/* clang-format on */

static const char *const ignored[] = {LLAMA_IGNORED};

/* Made from Qwen2 donors, or from Llama and Mistral ones with zero biases. */
static const mg_made_from made_from = {
    .called = "Qwen MoE",
    .families = {"qwen2", "llama", "mistral"},
    MADE_OF_BLOCKS,
    MADE_SHARED_OF_BLOCK,
    .needs_shared = true,
    .zeros = {MG_R_ATTN_Q_BIAS, MG_R_ATTN_K_BIAS, MG_R_ATTN_V_BIAS},
    .n_zeros = 3,
    .order = 3,
};

/* What mergekit-moe writes: every layer routes, chosen weights are divided by their sum. */
static const mg_config_edit edits[] = {
    {.field = "architectures", .json = "[\"Qwen2MoeForCausalLM\"]"},
    {.field = "model_type", .json = "\"qwen2_moe\""},
    EDITS_QWEN_EXPERTS,
    EDITS_DEFAULTS,
    {.field = "shared_expert_intermediate_size", .key = MG_K_SHARED_FFN},
    {.field = "qkv_bias", .json = "true"},
    {.field = "use_sliding_window", .json = "false"},
    {.field = "sliding_window", .json = "null"},
    {.field = "layer_types", .remove = true},
    {.field = "auto_map", .remove = true},
    {.field = NULL},
};

const mg_arch mg_arch_qwen2_moe = {
    .name = "qwen2_moe",
    .hf_classes = {"Qwen2MoeForCausalLM"},
    .gguf_arch = "qwen2moe",
    .gguf_match = MG_GGUF_MATCH_MOE,
    .block = {.norm = MG_NORM_RMS, .rope = MG_ROPE_HALF, .router = MG_ROUTER_SOFTMAX_TOPK, .moe = MG_MOE_STEPPED},
    .config = config,
    .n_config = MG_LEN(config),
    .refusals = refusals,
    .n_refusals = MG_LEN(refusals),
    .tensors = tensors,
    .n_tensors = MG_LEN(tensors),
    .dense_list = "mlp_only_layers",
    .ignored = ignored,
    .made_from = &made_from,
    .edits = edits,
};
