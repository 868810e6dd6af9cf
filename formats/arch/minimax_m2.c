/* minimax_m2.c - MiniMax-M2 (transformers' MiniMaxM2ForCausalLM).
 *
 * Grouped-query attention with an RMSNorm over the whole of q and the whole of k before they are cut into heads; the
 * first rotary_dim elements (or partial_rotary_factor) of a head rotate. Every layer routes: sigmoid scores, the choice
 * helped by a correction per expert, weights divided by their sum. intermediate_size is that of an expert. Layers
 * beyond num_hidden_layers are not read.
 *
 * GGUF "minimax-m2": no reordering. expert_gating_func is always written, as the scores are no softmax. */
#include "formats/arch/arch_rows.h"

/* clang-format off */
static const mg_config_row config[] = {
    CONFIG_SIZES(62, 196608, 3072, 1536, 48, VALUE_(8)),
    LLAMA_CONFIG_ROPE(5000000),
    LLAMA_CONFIG_EPS(1e-6),
    CONFIG_EXPERTS(256, 8, "num_experts_per_tok", "num_local_experts", "num_experts"),
    CONFIG_SCORE(MG_SCORE_SIGMOID, MG_GGUF_ALWAYS),
    CONFIG_HEADS_FIXED(128),
    {.key = MG_K_EXPERT_FFN, .gguf = "expert_feed_forward_length", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS, .absent = SAME_AS_(FFN),
     .lo = 1, .hi = MAX_SIZE, .quiet = true},
    {.key = MG_K_ROPE_DIM, .hf = {"rotary_dim"}, .gguf = "rope.dimension_count", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS,
     .absent = PART_(HEAD_DIM, ROTARY_PART), .gguf_absent = SAME_AS_(HEAD_DIM), .lo = 2, .hi = MAX_COUNT, .quiet = true},
    CONFIG_ROTARY_PART(1),
    CONFIG_VOCAB_SIZE(200064, MG_GGUF_NEVER),
    CONFIG_COMMON(0, 200034, 200020),
};
/* clang-format on */

/* clang-format off */
static const mg_config_refusal refusals[] = {
    REFUSE_GROUP_FORMATS,
    {"use_qk_norm", 1, "this family without norms of query and key is not built"},
};

static const mg_tensor_row tensors[] = {
    LLAMA_TENSORS_MODEL,
    NEOX_TENSORS_ATTENTION,
    QK_NORM_WHOLE,
    ROUTER_("model.layers.{l}.block_sparse_moe.gate.weight"),
    CORRECTION_("model.layers.{l}.block_sparse_moe.e_score_correction_bias"),
    EXPERT_GATE_(NAME_("model.layers.{l}.block_sparse_moe.experts.{e}.w1.weight"),
                 SWITCH_GATE_("block_sparse_moe.switch_mlp", .mlx = true)),
    EXPERT_DOWN_(NAME_("model.layers.{l}.block_sparse_moe.experts.{e}.w2.weight"),
                 SWITCH_DOWN_("block_sparse_moe.switch_mlp", .mlx = true)),
    EXPERT_UP_(NAME_("model.layers.{l}.block_sparse_moe.experts.{e}.w3.weight"),
               SWITCH_UP_("block_sparse_moe.switch_mlp", .mlx = true)),
};
/* clang-format on */

static const char *const ignored[] = {LLAMA_IGNORED};

const mg_arch mg_arch_minimax_m2 = {
    .name = "minimax_m2",
    .hf_classes = {"MiniMaxM2ForCausalLM"},
    .gguf_arch = "minimax-m2",
    .gguf_match = MG_GGUF_MATCH_MOE,
    .block = {.norm = MG_NORM_RMS, .rope = MG_ROPE_HALF, .router = MG_ROUTER_SIGMOID, .norm_topk = true},
    .config = config,
    .n_config = MG_LEN(config),
    .refusals = refusals,
    .n_refusals = MG_LEN(refusals),
    .tensors = tensors,
    .n_tensors = MG_LEN(tensors),
    .skip_extra_layers = true,
    .ignored = ignored,
};
