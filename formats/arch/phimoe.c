/* phimoe.c - Phi-3.5-MoE (transformers' PhimoeForCausalLM).
 *
 * A Llama with LayerNorms that carry biases, biases on q, k, v and o (attention_bias) and on the output head
 * (lm_head_bias). Every layer routes by the sparse mixer: always two experts, each weighted by a softmax over the
 * experts near it (2 router_jitter_noise), so that the two weights do not sum to one. Longer contexts by factor lists
 * (longrope) are refused.
 *
 * GGUF "phimoe": no reordering; there is no key for the noise, and llama.cpp routes by a plain softmax. */
#include "formats/arch/arch_rows.h"

/* clang-format off */
static const mg_config_row config[] = {
    CONFIG_CONTEXT(131072),
    {.key = MG_K_ROPE_ORIG_CONTEXT, .hf = {"original_max_position_embeddings", "rope_parameters.original_max_position_embeddings"},
     .gguf = "rope.scaling.original_context_length", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS, .absent = SAME_AS_(CONTEXT),
     .lo = 1, .hi = 1e12, .quiet = true},
    CONFIG_HIDDEN(4096),
    CONFIG_FFN(6400),
    CONFIG_LAYERS(32),
    CONFIG_QKV_HEADS(32, VALUE_(8)),
    LLAMA_CONFIG_EPS(1e-5),
    CONFIG_ROPE_DIM(MG_GGUF_ALWAYS, SAME_AS_(HEAD_DIM)),
    CONFIG_ROPE_THETA(10000, MG_GGUF_ALWAYS),
    {.gguf_when = MG_GGUF_FILE_TYPE},
    {.key = MG_K_WINDOW, .hf = {"sliding_window"}, .gguf = "attention.sliding_window", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS,
     .absent = VALUE_(0), .lo = 0, .hi = 1e12, .quiet = true},
    {.key = MG_K_EXPERTS_USED, .hf = {"num_experts_per_tok"}, .gguf = "expert_used_count", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS,
     .absent = VALUE_(2), .gguf_absent = REQUIRED_, .lo = 1, .hi = MAX_COUNT},
    {.key = MG_K_EXPERTS, .hf = {"num_local_experts", "num_experts"}, .gguf = "expert_count", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS,
     .absent = VALUE_(16), .gguf_absent = REQUIRED_, .lo = 1, .hi = MAX_COUNT},
    {.key = MG_K_EXPERT_FFN, .absent = SAME_AS_(FFN), .quiet = true},
    {.key = MG_K_HEAD_DIM, .hf = {"head_dim"}, .gguf = "attention.key_length", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_UNUSUAL,
     .absent = QUOTIENT_(HIDDEN, HEADS), .lo = 1, .hi = MAX_COUNT},
    {.key = MG_K_V_HEAD_DIM, .hf = {"head_dim"}, .gguf = "attention.value_length", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_UNUSUAL,
     .absent = SAME_AS_(HEAD_DIM), .lo = 1, .hi = MAX_COUNT},
    {.key = MG_K_ROPE_TYPE, .hf = {"rope_parameters.rope_type", "rope_parameters.type"}, .absent = VALUE_(MG_ROPE_NONE), .names = mg_rope_names,
     .quiet = true},
    {.key = MG_K_ROUTER_JITTER, .hf = {"router_jitter_noise"}, .absent = VALUE_(0.01), .lo = 0, .hi = 1, .quiet = true, .lost_in_gguf = true},
    CONFIG_VOCAB_SIZE(32064, MG_GGUF_NEVER),
    CONFIG_COMMON(0, 1, 2),
    CONFIG_ATTN_BIAS("attention_bias", 0),
    {.key = MG_K_HEAD_BIAS, .hf = {"lm_head_bias"}, .absent = VALUE_(0), .gguf_absent = TENSORS_, .quiet = true},
};
/* clang-format on */

/* clang-format off */
static const mg_config_refusal refusals[] = {
    LLAMA_REFUSALS,
};

static const mg_tensor_row tensors[] = {
    LLAMA_TENSORS_MODEL,
    W_(OUTPUT_BIAS, MG_IF_HEAD_BIAS, "lm_head.bias", "output.bias", K_(VOCAB)),
    W_(OUTPUT_NORM_BIAS, MG_IF_ALWAYS, "model.norm.bias", "output_norm.bias", K_(HIDDEN)),
    NEOX_TENSORS_ATTENTION,
    W_(ATTN_NORM_BIAS, MG_IF_ALWAYS, "model.layers.{l}.input_layernorm.bias", "blk.{l}.attn_norm.bias", K_(HIDDEN)),
    W_(FFN_NORM_BIAS, MG_IF_ALWAYS, "model.layers.{l}.post_attention_layernorm.bias", "blk.{l}.ffn_norm.bias", K_(HIDDEN)),
    NEOX_TENSORS_QKV_BIAS,
    NEOX_TENSORS_O_BIAS,
    ROUTER_("model.layers.{l}.block_sparse_moe.gate.weight"),
    EXPERT_GATE_(NAME_("model.layers.{l}.block_sparse_moe.experts.{e}.w1.weight"),
                 SWITCH_GATE_("block_sparse_moe.switch_mlp")),
    EXPERT_DOWN_(NAME_("model.layers.{l}.block_sparse_moe.experts.{e}.w2.weight"),
                 SWITCH_DOWN_("block_sparse_moe.switch_mlp")),
    EXPERT_UP_(NAME_("model.layers.{l}.block_sparse_moe.experts.{e}.w3.weight"),
               SWITCH_UP_("block_sparse_moe.switch_mlp")),
};
/* clang-format on */

static const char *const ignored[] = {LLAMA_IGNORED};

const mg_arch mg_arch_phimoe = {
    .name = "phimoe",
    .hf_classes = {"PhimoeForCausalLM", "PhiMoEForCausalLM"},
    .gguf_arch = "phimoe",
    .gguf_match = MG_GGUF_MATCH_MOE,
    .block = {.norm = MG_NORM_LAYER, .rope = MG_ROPE_HALF, .router = MG_ROUTER_SPARSEMIXER},
    .config = config,
    .n_config = MG_LEN(config),
    .refusals = refusals,
    .n_refusals = MG_LEN(refusals),
    .tensors = tensors,
    .n_tensors = MG_LEN(tensors),
    .ignored = ignored,
};
