/* nekomind.c - NekoMind 1.5: Qwen3-MoE's attention with Qwen2-MoE's sparse block (NekoMindForCausalLM).
 *
 * Grouped-query attention with an RMSNorm over every head of q and k before the rotation (qk_norm); dense layers listed
 * in mlp_only_layers; p = softmax in f32 over all experts, the k largest, divided by their sum when norm_topk_prob; a
 * shared expert is added, weighted by the sigmoid of a router with one row. attention_bias puts biases on q, k and v.
 *
 * The publisher's modelling file is not public: names and the sizes its card does not give are a specification of ours
 * (docs/mesh_and_nekomind.md), so sizes left out come from the shapes of the tensors. GGUF has no architecture that
 * computes this model; ours is "nekomind", with the names and keys of qwen2moe. */
#include "formats/arch/arch_rows.h"

/* clang-format off */
static const mg_config_row config[] = {
    CONFIG_SIZES(18, 32768, 1024, 3072, 8, VALUE_(4)),
    LLAMA_CONFIG_ROPE(1000000),
    LLAMA_CONFIG_EPS(1e-6),
    CONFIG_EXPERTS(32, 4, "num_experts_per_tok", "num_experts", "num_local_experts"),
    CONFIG_HEADS_FIXED(128),
    CONFIG_EXPERT_FFN(768),
    CONFIG_SHARED_FFN(768),
    CONFIG_NORM_TOPK(1, MG_GGUF_ALWAYS),
    CONFIG_VOCAB(32006, MG_GGUF_ALWAYS),
    CONFIG_COMMON(1, -1, -1),
    CONFIG_SPARSE_STEP,
    CONFIG_ATTN_BIAS("attention_bias", 0),
    CONFIG_QK_NORM("qk_norm", 1),
};
/* clang-format on */

/* clang-format off */
static const mg_config_refusal refusals[] = {
    LLAMA_REFUSALS,
};

static const mg_tensor_row tensors[] = {
    LLAMA_TENSORS_MODEL,
    NEOX_TENSORS_ATTENTION,
    QK_NORM_HEAD_OPTION,
    NEOX_TENSORS_QKV_BIAS,
    LLAMA_TENSORS_FFN,
    ROUTER_("model.layers.{l}.mlp.gate.weight"),
    MLP_EXPERTS_DOWN_GATE_UP,
    SHARED_EXPERT_("shared_expert"),
    SHARED_ROUTER_,
};
/* clang-format on */

static const char *const ignored[] = {LLAMA_IGNORED};

/* Made from dense donors by name: first layers may stay dense, the shared expert is a donor like the others, norms of q
 * and k and biases come along where the donors have them. */
static const mg_made_from made_from = {
    .families = {"qwen3", "qwen2", "llama", "mistral"},
    MADE_OF_BLOCKS,
    MADE_SHARED_OF_BLOCK,
    .needs_shared = true,
};

static const mg_config_edit edits[] = {
    {.field = "architectures", .json = "[\"NekoMindForCausalLM\"]"},
    {.field = "model_type", .json = "\"nekomind\""},
    EDITS_QWEN_EXPERTS,
    {.field = "head_dim", .key = MG_K_HEAD_DIM},
    EDITS_DEFAULTS,
    {.field = "shared_expert_intermediate_size", .key = MG_K_SHARED_FFN},
    {.field = "qk_norm", .as_role = true, .role = MG_R_ATTN_Q_NORM},
    {.field = "attention_bias", .as_role = true, .role = MG_R_ATTN_Q_BIAS},
    {.field = "use_sliding_window", .remove = true},
    {.field = "sliding_window", .remove = true},
    {.field = "max_window_layers", .remove = true},
    {.field = "layer_types", .remove = true},
    {.field = "auto_map", .remove = true},
    {.field = NULL},
};

const mg_arch mg_arch_nekomind = {
    .name = "nekomind",
    .hf_classes = {"NekoMindForCausalLM"},
    .gguf_arch = "nekomind",
    .gguf_match = MG_GGUF_MATCH_MOE,
    .block = {.norm = MG_NORM_RMS, .rope = MG_ROPE_HALF, .router = MG_ROUTER_SOFTMAX_TOPK, .moe = MG_MOE_STEPPED},
    .config = config,
    .n_config = MG_LEN(config),
    .refusals = refusals,
    .n_refusals = MG_LEN(refusals),
    .tensors = tensors,
    .n_tensors = MG_LEN(tensors),
    .gguf_own = true,
    .vllm = MG_VLLM_NONE,
    .dense_list = "mlp_only_layers",
    .ignored = ignored,
    .made_from = &made_from,
    .edits = edits,
    .code = {&mg_code_decoder, &mg_code_nekomind},
    .auto_map = "{\"AutoConfig\": \"modeling_nekomind.NekoMindConfig\", "
                "\"AutoModelForCausalLM\": \"modeling_nekomind.NekoMindForCausalLM\"}",
};
