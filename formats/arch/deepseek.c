/* deepseek.c - DeepSeek-MoE, the first generation (DeepseekForCausalLM, whose code lives beside its weights).
 *
 * Llama's attention. Layers before first_k_dense_replace and those whose number is no multiple of moe_layer_freq are
 * dense; the others take a softmax in f32 over all experts and choose the k largest, not renormalised unless
 * norm_topk_prob says so; n_shared_experts shared experts are one block of that many times the inner size, added as it
 * is. Heads fill the width: the reference code looks at no head_dim. Of rotary scalings it knows linear and dynamic.
 *
 * GGUF "deepseek" keeps rotary pairs next to each other, states a rope.scaling.type even without scaling and a weight
 * scale of 1, and has no key for norm_topk_prob (readers assume false) or moe_layer_freq. llama.cpp loads only files
 * whose routing layers all have shared experts. */
#include "formats/arch/arch_rows.h"

static const mg_enum_name scalings[] = {
    {"none", MG_ROPE_NONE}, {"default", MG_ROPE_NONE}, {"linear", MG_ROPE_LINEAR}, {NULL, 0}};

/* clang-format off */
static const mg_config_row config[] = {
    CONFIG_SIZES(30, 2048, 4096, 11008, 32, VALUE_(32)),
    {.key = MG_K_ROPE_FACTOR, .hf = {"rope_parameters.factor"}, .gguf = "rope.scaling.factor", .gguf_type = MG_KV_F32,
     .gguf_when = MG_GGUF_SCALED, .absent = VALUE_(1), .quiet = true},
    CONFIG_ROPE_THETA(10000, MG_GGUF_ALWAYS),
    LLAMA_CONFIG_EPS(1e-6),
    {.key = MG_K_EXPERTS, .hf = {"n_routed_experts"}, .gguf = "expert_count", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS,
     .absent = REQUIRED_, .lo = 1, .hi = MAX_COUNT},
    {.key = MG_K_EXPERTS_USED, .hf = {"num_experts_per_tok"}, .gguf = "expert_used_count", .gguf_type = MG_KV_U32,
     .gguf_when = MG_GGUF_ALWAYS, .absent = REQUIRED_, .lo = 1, .hi = MAX_COUNT},
    CONFIG_SCORE(MG_SCORE_SOFTMAX, MG_GGUF_STATED),
    CONFIG_HEADS(MG_GGUF_STATED),
    CONFIG_ROPE_DIM(MG_GGUF_ALWAYS, SAME_AS_(HEAD_DIM)),
    {.key = MG_K_ROPE_TYPE, .hf = {"rope_parameters.rope_type", "rope_parameters.type"}, .gguf = "rope.scaling.type", .gguf_type = MG_KV_STR,
     .gguf_when = MG_GGUF_ALWAYS, .absent = VALUE_(MG_ROPE_NONE), .names = scalings, .quiet = true},
    CONFIG_DENSE_LAYERS(0),
    CONFIG_VOCAB_SIZE(102400, MG_GGUF_ALWAYS),
    CONFIG_EXPERT_FFN(1407),
    {.key = MG_K_ROUTED_SCALE, .gguf = "expert_weights_scale", .gguf_type = MG_KV_F32, .gguf_when = MG_GGUF_ALWAYS, .absent = VALUE_(1),
     .lo = 1, .hi = 1, .quiet = true},
    CONFIG_SHARED_COUNT(0),
    CONFIG_SHARED_PRODUCT,
    {.key = MG_K_MOE_STEP, .hf = {"moe_layer_freq"}, .absent = VALUE_(1), .lo = 1, .hi = MAX_LAYERS, .quiet = true},
    {.key = MG_K_NORM_TOPK, .hf = {"norm_topk_prob"}, .absent = VALUE_(0), .quiet = true, .lost_in_gguf = true},
    CONFIG_COMMON(0, 100000, 100001),
    CONFIG_ATTN_BIAS("attention_bias", 0),
};
/* clang-format on */

static const mg_config_refusal refusals[] = {LLAMA_REFUSALS};

/* clang-format off */
static const mg_tensor_row tensors[] = {
    LLAMA_TENSORS_MODEL,
    LLAMA_TENSORS_ATTENTION,
    LLAMA_TENSORS_ATTN_BIAS,
    LLAMA_TENSORS_FFN,
    ROUTER_("model.layers.{l}.mlp.gate.weight"),
    MLP_EXPERTS_DOWN_GATE_UP,
    SHARED_EXPERT_("shared_experts"),
};
/* clang-format on */

static const char *const ignored[] = {LLAMA_IGNORED};

/* Made from Llama or Mistral donors; one of them may be the shared expert, which has no router. */
static const mg_made_from made_from = {
    .called = "DeepSeek MoE",
    .families = {"llama", "mistral"},
    MADE_OF_BLOCKS,
    MADE_SHARED_OF_BLOCK,
    .order = 2,
};

/* What mergekit-moe writes, with the numbers its base may leave to its own family's defaults; the window goes, since
 * the reference code knows none, and head_dim with it. */
static const mg_config_edit edits[] = {
    {.field = "architectures", .json = "[\"DeepseekForCausalLM\"]"},
    {.field = "model_type", .json = "\"deepseek\""},
    {.field = "n_routed_experts", .key = MG_K_EXPERTS},
    {.field = "n_shared_experts", .key = MG_K_SHARED_COUNT},
    {.field = "num_experts_per_tok", .key = MG_K_EXPERTS_USED},
    {.field = "first_k_dense_replace", .key = MG_K_DENSE_LAYERS},
    {.field = "moe_layer_freq", .json = "1"},
    {.field = "scoring_func", .json = "\"softmax\""},
    {.field = "norm_topk_prob", .json = "true"},
    {.field = "moe_intermediate_size", .key = MG_K_EXPERT_FFN},
    EDITS_DEFAULTS,
    {.field = "sliding_window", .remove = true},
    {.field = "auto_map",
     .json = "{\"AutoConfig\": \"deepseek-ai/deepseek-moe-16b-base--configuration_deepseek.DeepseekConfig\", "
             "\"AutoModel\": \"deepseek-ai/deepseek-moe-16b-base--modeling_deepseek.DeepseekModel\", "
             "\"AutoModelForCausalLM\": "
             "\"deepseek-ai/deepseek-moe-16b-base--modeling_deepseek.DeepseekForCausalLM\"}"},
    {.field = NULL},
};

const mg_arch mg_arch_deepseek = {
    .name = "deepseek",
    .hf_classes = {"DeepseekForCausalLM"},
    .gguf_arch = "deepseek",
    .vllm = MG_VLLM_NO_GPTQ,
    .gguf_match = MG_GGUF_MATCH_MOE,
    .gguf_needs = MG_K_SHARED_COUNT,
    .block = {.norm = MG_NORM_RMS,
              .rope = MG_ROPE_HALF,
              .router = MG_ROUTER_SOFTMAX_TOPK,
              .moe = MG_MOE_MULTIPLES,
              .heads_fill = true},
    .config = config,
    .n_config = MG_LEN(config),
    .refusals = refusals,
    .n_refusals = MG_LEN(refusals),
    .tensors = tensors,
    .n_tensors = MG_LEN(tensors),
    .ignored = ignored,
    .made_from = &made_from,
    .edits = edits,
};
