/* deepseek_v3.c - DeepSeek-V3, R1 and what is built on them (transformers' DeepseekV3ForCausalLM).
 *
 * DeepSeek-V2's latent attention. The router: sigmoid scores; the choice, helped by a correction per expert, is limited
 * to the topk_group groups of n_group whose two best experts sum highest; weights are divided by their sum
 * (norm_topk_prob) and scaled. Layers beyond num_hidden_layers, for multi-token prediction, are not read.
 *
 * GGUF "deepseek2" as V2's, told apart by expert_gating_func, which is always written. */
#include "formats/arch/arch_rows.h"

/* clang-format off */
static const mg_config_row config[] = {
    CONFIG_LAYERS(61),
    CONFIG_CONTEXT(4096),
    CONFIG_HIDDEN(7168),
    CONFIG_FFN(18432),
    {.key = MG_K_HEADS, .hf = {"num_attention_heads"}, .gguf = "attention.head_count", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS,
     .absent = VALUE_(128), .gguf_absent = REQUIRED_, .lo = 1, .hi = MAX_COUNT},
    {.key = MG_K_MLA_KV_HEADS, .gguf = "attention.head_count_kv", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS, .absent = VALUE_(1),
     .lo = 1, .hi = 1, .quiet = true},
    CONFIG_ROPE_SCALING_BASE,
    CONFIG_ROPE_TRUNCATE(1),
    CONFIG_ROPE_THETA(10000, MG_GGUF_ALWAYS),
    LLAMA_CONFIG_EPS(1e-6),
    CONFIG_EXPERTS(256, 8, "num_experts_per_tok", "n_routed_experts", "num_local_experts"),
    CONFIG_GROUPS(8, 4),
    CONFIG_SCORE(MG_SCORE_SIGMOID, MG_GGUF_ALWAYS),
    {.key = MG_K_MLA_KEY, .gguf = "attention.key_length", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS,
     .absent = SUM_(KV_LORA, ROPE_DIM), .lo = 1, .hi = MAX_COUNT, .quiet = true},
    {.key = MG_K_MLA_VALUE, .gguf = "attention.value_length", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS,
     .absent = SAME_AS_(KV_LORA), .lo = 1, .hi = MAX_COUNT, .quiet = true},
    {.gguf_when = MG_GGUF_FILE_TYPE},
    CONFIG_DENSE_LAYERS(3),
    CONFIG_VOCAB_SIZE(129280, MG_GGUF_ALWAYS),
    {.key = MG_K_Q_LORA, .hf = {"q_lora_rank"}, .gguf = "attention.q_lora_rank", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_UNUSUAL,
     .absent = VALUE_(1536), .null = VALUE_(0), .gguf_absent = VALUE_(0), .lo = 0, .hi = MAX_SIZE, .quiet = true},
    {.key = MG_K_KV_LORA, .hf = {"kv_lora_rank"}, .gguf = "attention.kv_lora_rank", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS,
     .absent = VALUE_(512), .gguf_absent = REQUIRED_, .lo = 1, .hi = MAX_SIZE},
    {.key = MG_K_HEAD_DIM, .gguf = "attention.key_length_mla", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS,
     .absent = SUM_(NOPE_DIM, ROPE_DIM), .gguf_absent = REQUIRED_, .lo = 1, .hi = MAX_COUNT, .quiet = true},
    {.key = MG_K_V_HEAD_DIM, .hf = {"v_head_dim"}, .gguf = "attention.value_length_mla", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS,
     .absent = VALUE_(128), .gguf_absent = REQUIRED_, .lo = 1, .hi = MAX_COUNT},
    CONFIG_EXPERT_FFN(2048),
    CONFIG_SHARED_COUNT(1),
    CONFIG_ROUTED_SCALE(2.5),
    CONFIG_NORM_TOPK(1, MG_GGUF_UNUSUAL),
    {.key = MG_K_ROPE_DIM, .hf = {"qk_rope_head_dim"}, .gguf = "rope.dimension_count", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS,
     .absent = VALUE_(64), .gguf_absent = REQUIRED_, .lo = 2, .hi = MAX_COUNT},
    {.key = MG_K_NOPE_DIM, .hf = {"qk_nope_head_dim"}, .absent = VALUE_(128), .gguf_absent = MINUS_(HEAD_DIM, ROPE_DIM), .lo = 0,
     .hi = MAX_COUNT},
    {.key = MG_K_ROPE_MSCALE_ALL, .hf = {"rope_parameters.mscale_all_dim"}, .gguf = "rope.scaling.yarn_log_multiplier",
     .gguf_type = MG_KV_F32, .gguf_when = MG_GGUF_UNUSUAL, .absent = VALUE_(0), .gguf_scale = 0.1, .quiet = true},
    {.key = MG_K_ROPE_MSCALE, .hf = {"rope_parameters.mscale"}, .absent = VALUE_(0), .gguf_absent = SAME_AS_(ROPE_MSCALE_ALL), .quiet = true,
     .lost_in_gguf = true},
    {.key = MG_K_KV_HEADS, .hf = {"num_key_value_heads"}, .absent = SAME_AS_(HEADS), .gguf_absent = SAME_AS_(HEADS), .lo = 1, .hi = MAX_COUNT,
     .quiet = true},
    CONFIG_SHARED_PRODUCT,
    CONFIG_COMMON(0, 0, 1),
};
/* clang-format on */

/* clang-format off */
static const mg_config_refusal refusals[] = {
    REFUSE_GROUP_FORMATS,
    {"attention_bias", 0, "biases of latent attention are not built"},
    {"rope_interleave", 1, "latent attention that rotates halves is not built"},
};

static const mg_tensor_row tensors[] = {
    LLAMA_TENSORS_MODEL,
    W_(ATTN_NORM, MG_IF_ALWAYS, "model.layers.{l}.input_layernorm.weight", "blk.{l}.attn_norm.weight", K_(HIDDEN)),
    MLA_TENSORS,
    W_(ATTN_O, MG_IF_ALWAYS, "model.layers.{l}.self_attn.o_proj.weight", "blk.{l}.attn_output.weight", K_(HIDDEN), KK_(HEADS, V_HEAD_DIM)),
    FFN_NORM_("blk.{l}.ffn_norm.weight"),
    LLAMA_TENSORS_FFN,
    ROUTER_("model.layers.{l}.mlp.gate.weight"),
    CORRECTION_("model.layers.{l}.mlp.gate.e_score_correction_bias"),
    MLP_EXPERTS_DOWN_GATE_UP,
    SHARED_EXPERT_("shared_experts"),
};
/* clang-format on */

static const char *const ignored[] = {LLAMA_IGNORED};

const mg_arch mg_arch_deepseek_v3 = {
    .name = "deepseek_v3",
    .hf_classes = {"DeepseekV3ForCausalLM"},
    .gguf_arch = "deepseek2",
    .gguf_match = MG_GGUF_MATCH_MOE,
    .block = {.norm = MG_NORM_RMS,
              .rope = MG_ROPE_INTERLEAVED,
              .latent_eps = 1e-6,
              .moe = MG_MOE_AFTER_DENSE,
              .router = MG_ROUTER_SIGMOID,
              .topk_sum_add = 1e-20},
    .config = config,
    .n_config = MG_LEN(config),
    .refusals = refusals,
    .n_refusals = MG_LEN(refusals),
    .tensors = tensors,
    .n_tensors = MG_LEN(tensors),
    .gguf_score = MG_SCORE_SIGMOID,
    .skip_extra_layers = true,
    .ignored = ignored,
};
