/* deepseek_v2.c - DeepSeek-V2, V2-Lite and V2.5 (transformers' DeepseekV2ForCausalLM).
 *
 * Latent attention: keys and values come from a normed latent (kv_lora_rank) through kv_b_proj, whose rows are, head by
 * head, the plain part of the key and the value; one rotated key of qk_rope_head_dim is shared by all heads and stands
 * last in each. q comes from a latent too unless q_lora_rank is null. Norms of latents have epsilon 1e-6 whatever the
 * config says. The first first_k_dense_replace layers are dense; the others take a softmax over all experts, choose
 * within the best topk_group groups when topk_method asks for it, and scale; norm_topk_prob is not looked at (nor by
 * transformers). Shared experts are one block.
 *
 * The two halves of kv_b_proj are two weights here, because GGUF "deepseek2" keeps them apart: attn_k_b, transposed per
 * head, and attn_v_b. Its keys describe latent attention as one key/value head. V3 has the same GGUF name and sigmoid
 * scores. */
#include "formats/arch/arch_rows.h"

static const mg_enum_name methods[] = {{"greedy", 0}, {"group_limited_greedy", 1}, {NULL, 0}};

/* clang-format off */
static const mg_config_row config[] = {
    CONFIG_LAYERS(27),
    CONFIG_CONTEXT(2048),
    CONFIG_HIDDEN(4096),
    CONFIG_FFN(11008),
    {.key = MG_K_HEADS, .hf = {"num_attention_heads"}, .gguf = "attention.head_count", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS,
     .absent = VALUE_(32), .gguf_absent = REQUIRED_, .lo = 1, .hi = MAX_COUNT},
    {.key = MG_K_MLA_KV_HEADS, .gguf = "attention.head_count_kv", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS, .absent = VALUE_(1),
     .lo = 1, .hi = 1, .quiet = true},
    CONFIG_ROPE_SCALING_BASE,
    CONFIG_ROPE_TRUNCATE(1),
    CONFIG_ROPE_THETA(10000, MG_GGUF_ALWAYS),
    LLAMA_CONFIG_EPS(1e-6),
    CONFIG_EXPERTS(64, 6, "num_experts_per_tok", "n_routed_experts", "num_local_experts"),
    {.key = MG_K_GROUPS, .hf = {"n_group"}, .gguf = "expert_group_count", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_STATED,
     .absent = VALUE_(0), .lo = 0, .hi = MAX_COUNT, .quiet = true},
    {.key = MG_K_GROUPS_USED, .hf = {"topk_group"}, .gguf = "expert_group_used_count", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_STATED,
     .absent = VALUE_(0), .lo = 0, .hi = MAX_COUNT, .quiet = true},
    CONFIG_SCORE(MG_SCORE_SOFTMAX, MG_GGUF_STATED),
    {.key = MG_K_MLA_KEY, .gguf = "attention.key_length", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS,
     .absent = SUM_(KV_LORA, ROPE_DIM), .lo = 1, .hi = MAX_COUNT, .quiet = true},
    {.key = MG_K_MLA_VALUE, .gguf = "attention.value_length", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS,
     .absent = SAME_AS_(KV_LORA), .lo = 1, .hi = MAX_COUNT, .quiet = true},
    {.gguf_when = MG_GGUF_FILE_TYPE},
    CONFIG_DENSE_LAYERS(0),
    CONFIG_VOCAB_SIZE(102400, MG_GGUF_ALWAYS),
    {.key = MG_K_Q_LORA, .hf = {"q_lora_rank"}, .gguf = "attention.q_lora_rank", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_UNUSUAL,
     .absent = VALUE_(1536), .null = VALUE_(0), .gguf_absent = VALUE_(0), .lo = 0, .hi = MAX_SIZE, .quiet = true},
    {.key = MG_K_KV_LORA, .hf = {"kv_lora_rank"}, .gguf = "attention.kv_lora_rank", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS,
     .absent = VALUE_(512), .gguf_absent = REQUIRED_, .lo = 1, .hi = MAX_SIZE},
    {.key = MG_K_HEAD_DIM, .gguf = "attention.key_length_mla", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS,
     .absent = SUM_(NOPE_DIM, ROPE_DIM), .gguf_absent = REQUIRED_, .lo = 1, .hi = MAX_COUNT, .quiet = true},
    {.key = MG_K_V_HEAD_DIM, .hf = {"v_head_dim"}, .gguf = "attention.value_length_mla", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS,
     .absent = VALUE_(128), .gguf_absent = REQUIRED_, .lo = 1, .hi = MAX_COUNT},
    CONFIG_EXPERT_FFN(1407),
    CONFIG_SHARED_COUNT(2),
    CONFIG_ROUTED_SCALE(1),
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
    {.key = MG_K_GROUP_LIMITED, .hf = {"topk_method"}, .absent = VALUE_(0), .gguf_absent = VALUE_(1), .names = methods, .quiet = true},
    CONFIG_COMMON(0, 1, 2),
};
/* clang-format on */

/* clang-format off */
static const mg_config_refusal refusals[] = {
    REFUSE_GROUP_FORMATS,
    {"attention_bias", 0, "biases of latent attention are not built"},
    {"mlp_bias", 0, "biases in feed-forward blocks of this family are not built"},
};

static const mg_tensor_row tensors[] = {
    LLAMA_TENSORS_MODEL,
    W_(ATTN_NORM, MG_IF_ALWAYS, "model.layers.{l}.input_layernorm.weight", "blk.{l}.attn_norm.weight", K_(HIDDEN)),
    MLA_TENSORS,
    W_(ATTN_O, MG_IF_ALWAYS, "model.layers.{l}.self_attn.o_proj.weight", "blk.{l}.attn_output.weight", K_(HIDDEN), KK_(HEADS, V_HEAD_DIM)),
    FFN_NORM_("blk.{l}.ffn_norm.weight"),
    LLAMA_TENSORS_FFN,
    ROUTER_("model.layers.{l}.mlp.gate.weight"),
    MLP_EXPERTS_DOWN_GATE_UP,
    SHARED_EXPERT_("shared_experts"),
};
/* clang-format on */

static const char *const ignored[] = {LLAMA_IGNORED};

const mg_arch mg_arch_deepseek_v2 = {
    .name = "deepseek_v2",
    .hf_classes = {"DeepseekV2ForCausalLM"},
    .gguf_arch = "deepseek2",
    .gguf_match = MG_GGUF_MATCH_MOE,
    .block = {.norm = MG_NORM_RMS,
              .rope = MG_ROPE_INTERLEAVED,
              .latent_eps = 1e-6,
              .moe = MG_MOE_AFTER_DENSE,
              .router = MG_ROUTER_SOFTMAX_GROUPS},
    .config = config,
    .n_config = MG_LEN(config),
    .refusals = refusals,
    .n_refusals = MG_LEN(refusals),
    .tensors = tensors,
    .n_tensors = MG_LEN(tensors),
    .gguf_score = MG_SCORE_SOFTMAX,
    .skip_extra_layers = true,
    .ignored = ignored,
};
