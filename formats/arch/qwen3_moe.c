/* qwen3_moe.c - Qwen3-30B-A3B, Qwen3-235B-A22B and their kin (transformers' Qwen3MoeForCausalLM).
 *
 * Qwen3's attention (an RMSNorm over every head of q and k before the rotation, biases only with attention_bias); a
 * layer routes when its number + 1 is a multiple of decoder_sparse_step and it is not listed in mlp_only_layers. p =
 * softmax in f32 over all experts, the k largest, divided by their sum when norm_topk_prob. transformers 4 calls the
 * number of experts num_experts, 5 num_local_experts. A window, where use_sliding_window asks for one, holds in every
 * layer.
 *
 * GGUF "qwen3moe" has no key for norm_topk_prob (readers assume true) and none for the schedule: layers are dense where
 * no router is stored; llama.cpp loads only files in which every layer routes. No rotary reordering. */
#include "formats/arch/arch_rows.h"

/* clang-format off */
static const mg_config_row config[] = {
    CONFIG_SIZES(24, 32768, 2048, 6144, 32, VALUE_(4)),
    LLAMA_CONFIG_ROPE(10000),
    LLAMA_CONFIG_EPS(1e-6),
    CONFIG_EXPERTS(128, 8, "num_experts_per_tok", "num_experts", "num_local_experts"),
    CONFIG_HEADS(MG_GGUF_STATED),
    CONFIG_EXPERT_FFN(768),
    CONFIG_VOCAB(151936, MG_GGUF_NEVER),
    CONFIG_COMMON(0, -1, -1),
    CONFIG_SPARSE_STEP,
    {.key = MG_K_WINDOW_ON, .hf = {"use_sliding_window"}, .absent = VALUE_(0), .quiet = true},
    {.key = MG_K_WINDOW, .hf = {"sliding_window"}, .only_if = MG_K_WINDOW_ON, .absent = VALUE_(4096), .null = VALUE_(0),
     .gguf_absent = VALUE_(0), .lo = 1, .hi = 1e12, .quiet = true, .lost_in_gguf = true},
    CONFIG_ATTN_BIAS("attention_bias", 0),
    CONFIG_NORM_TOPK_UNSAID(0, 1),
};
/* clang-format on */

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
    MLP_EXPERTS_IN_("mlp.switch_mlp", .mlx = true),
};
/* clang-format on */

static const char *const ignored[] = {LLAMA_IGNORED};

static const mg_made_from made_from = {
    .called = "Qwen3 MoE",
    .families = {"qwen3"},
    MADE_OF_BLOCKS,
    .order = 4,
};

/* What mergekit-moe writes: every layer routes, chosen weights are divided by their sum. The window goes, as for the
 * other mixtures: this family has one for all layers or none, dense Qwen3 one per layer. */
static const mg_config_edit edits[] = {
    {.field = "architectures", .json = "[\"Qwen3MoeForCausalLM\"]"},
    {.field = "model_type", .json = "\"qwen3_moe\""},
    EDITS_QWEN_EXPERTS,
    {.field = "use_sliding_window", .json = "false"},
    {.field = "sliding_window", .json = "null"},
    {.field = "layer_types", .remove = true},
    {.field = "auto_map", .remove = true},
    {.field = NULL},
};

const mg_arch mg_arch_qwen3_moe = {
    .name = "qwen3_moe",
    .hf_classes = {"Qwen3MoeForCausalLM"},
    .gguf_arch = "qwen3moe",
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
