/* olmoe.c - OLMoE-1B-7B (transformers' OlmoeForCausalLM).
 *
 * Llama's decoder with an RMSNorm over the whole of q and the whole of k before they are cut into heads and rotated.
 * Every layer routes: p = softmax in f32 over all experts, the k largest, divided by their sum when norm_topk_prob (not
 * by default). intermediate_size is that of an expert. clip_qkv, a bound on q, k and v that no released model uses, is
 * refused.
 *
 * GGUF "olmoe" has no key for norm_topk_prob (readers assume false). No rotary reordering. */
#include "formats/arch/arch_rows.h"

/* clang-format off */
static const mg_config_row config[] = {
    CONFIG_SIZES(16, 4096, 2048, 2048, 16, SAME_AS_(HEADS)),
    LLAMA_CONFIG_ROPE(10000),
    LLAMA_CONFIG_EPS(1e-5),
    CONFIG_EXPERTS(64, 8, "num_experts_per_tok", "num_experts", "num_local_experts"),
    {.key = MG_K_EXPERT_FFN, .absent = SAME_AS_(FFN), .quiet = true},
    CONFIG_HEADS(MG_GGUF_STATED),
    CONFIG_VOCAB(50304, MG_GGUF_NEVER),
    CONFIG_COMMON(0, -1, 50279),
    CONFIG_ATTN_BIAS("attention_bias", 0),
    CONFIG_NORM_TOPK_UNSAID(0, 0),
};
/* clang-format on */

/* clang-format off */
static const mg_config_refusal refusals[] = {
    LLAMA_REFUSALS,
    {"clip_qkv", NAN, "bounds on q, k and v are not built"},
};

static const mg_tensor_row tensors[] = {
    LLAMA_TENSORS_MODEL,
    NEOX_TENSORS_ATTENTION,
    QK_NORM_WHOLE,
    NEOX_TENSORS_QKV_BIAS,
    NEOX_TENSORS_O_BIAS,
    ROUTER_("model.layers.{l}.mlp.gate.weight"),
    MLP_EXPERTS_DOWN_GATE_UP,
};
/* clang-format on */

static const char *const ignored[] = {LLAMA_IGNORED};

const mg_arch mg_arch_olmoe = {
    .name = "olmoe",
    .hf_classes = {"OlmoeForCausalLM"},
    .gguf_arch = "olmoe",
    .gguf_match = MG_GGUF_MATCH_MOE,
    .block = {.norm = MG_NORM_RMS, .rope = MG_ROPE_HALF, .router = MG_ROUTER_SOFTMAX_TOPK},
    .config = config,
    .n_config = MG_LEN(config),
    .refusals = refusals,
    .n_refusals = MG_LEN(refusals),
    .tensors = tensors,
    .n_tensors = MG_LEN(tensors),
    .ignored = ignored,
};
