/* hunyuan_v1_moe.c - Hunyuan-A13B (transformers' HunYuanMoEV1ForCausalLM).
 *
 * Llama's decoder with an RMSNorm over every head of q and k after the rotation. Every layer routes: p = softmax in f32
 * over all experts, the k largest, divided by their sum; a shared expert (shared_mlp) of the same inner size,
 * intermediate_size, is added as it is. Some published configs state sizes as lists with one entry per layer; they are
 * read when all are equal. A rotary base stretched by "alpha" is refused.
 *
 * GGUF "hunyuan-moe": no rotary reordering. */
#include "formats/arch/arch_rows.h"

/* clang-format off */
static const mg_config_row config[] = {
    CONFIG_SIZES(32, 2048, 4096, 11008, 32, SAME_AS_(HEADS)),
    LLAMA_CONFIG_ROPE(10000),
    LLAMA_CONFIG_EPS(1e-5),
    {.key = MG_K_EXPERTS, .hf = {"num_experts", "num_local_experts"}, .gguf = "expert_count", .gguf_type = MG_KV_U32,
     .gguf_when = MG_GGUF_ALWAYS, .absent = VALUE_(1), .gguf_absent = REQUIRED_, .lo = 1, .hi = MAX_COUNT},
    CONFIG_HEADS(MG_GGUF_STATED),
    {.key = MG_K_SHARED_FFN, .gguf = "expert_shared_feed_forward_length", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS,
     .absent = SAME_AS_(FFN), .lo = 1, .hi = MAX_SIZE, .quiet = true},
    {.key = MG_K_EXPERT_FFN, .gguf = "expert_feed_forward_length", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS,
     .absent = SAME_AS_(FFN), .lo = 1, .hi = MAX_SIZE, .quiet = true},
    {.key = MG_K_EXPERTS_USED, .hf = {"moe_topk", "num_experts_per_tok"}, .gguf = "expert_used_count", .gguf_type = MG_KV_U32,
     .gguf_when = MG_GGUF_ALWAYS, .absent = VALUE_(1), .gguf_absent = REQUIRED_, .lo = 1, .hi = MAX_COUNT},
    {.key = MG_K_SHARED_COUNT, .gguf = "expert_shared_count", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS, .absent = VALUE_(1),
     .lo = 0, .hi = MAX_COUNT, .quiet = true},
    CONFIG_VOCAB(290943, MG_GGUF_NEVER),
    CONFIG_COMMON(0, 1, 2),
    CONFIG_ATTN_BIAS("attention_bias", 0),
};
/* clang-format on */

/* clang-format off */
static const mg_config_refusal refusals[] = {
    LLAMA_REFUSALS,
    {"rope_parameters.alpha", 0, "a rotary base stretched by alpha is not built"},
    {"use_cla", 0, "keys and values shared between layers are not built"},
    {"use_mixed_mlp_moe", 1, "a mixture without its shared expert is not built"},
};

static const mg_tensor_row tensors[] = {
    LLAMA_TENSORS_MODEL,
    NEOX_TENSORS_ATTENTION,
    W_(ATTN_Q_NORM, MG_IF_ALWAYS, "model.layers.{l}.self_attn.query_layernorm.weight", "blk.{l}.attn_q_norm.weight", K_(HEAD_DIM)),
    W_(ATTN_K_NORM, MG_IF_ALWAYS, "model.layers.{l}.self_attn.key_layernorm.weight", "blk.{l}.attn_k_norm.weight", K_(HEAD_DIM)),
    NEOX_TENSORS_QKV_BIAS,
    NEOX_TENSORS_O_BIAS,
    ROUTER_("model.layers.{l}.mlp.gate.wg.weight"),
    MLP_EXPERTS_DOWN_GATE_UP,
    SHARED_EXPERT_("shared_mlp"),
};
/* clang-format on */

static const char *const ignored[] = {LLAMA_IGNORED};

const mg_arch mg_arch_hunyuan_v1_moe = {
    .name = "hunyuan_v1_moe",
    .hf_classes = {"HunYuanMoEV1ForCausalLM"},
    .gguf_arch = "hunyuan-moe",
    .gguf_match = MG_GGUF_MATCH_MOE,
    .block = {.norm = MG_NORM_RMS,
              .rope = MG_ROPE_HALF,
              .router = MG_ROUTER_SOFTMAX_TOPK,
              .norm_topk = true,
              .qk_norm = MG_QK_NORM_AFTER_ROPE},
    .config = config,
    .n_config = MG_LEN(config),
    .refusals = refusals,
    .n_refusals = MG_LEN(refusals),
    .tensors = tensors,
    .n_tensors = MG_LEN(tensors),
    .ignored = ignored,
};
