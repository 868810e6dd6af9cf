/* granitemoe.c - Granite 3 mixtures (transformers' GraniteMoeForCausalLM).
 *
 * Granite's attention and multipliers. Every layer routes: the k largest router logits, then a softmax over those k.
 * Files keep an expert's gate and up in one tensor stacked over the experts, input_linear [E, 2i, h], gate's rows
 * first, and down as output_linear [E, h, i]. Quantized in groups, matrices of experts are tensors of their own under
 * the names that vLLM looks for since it maps expert names in one place for all families. The variant with shared
 * experts is another class and not read here.
 *
 * GGUF "granitemoe": converted as a Llama is, rotary pairs next to each other; gate and up are taken apart. */
#include "formats/arch/arch_rows.h"

/* clang-format off */
static const mg_config_row config[] = {
    CONFIG_SIZES(32, 2048, 4096, 11008, 32, SAME_AS_(HEADS)),
    LLAMA_CONFIG_ROPE(10000),
    LLAMA_CONFIG_EPS(1e-6),
    CONFIG_EXPERTS(8, 2, "num_experts_per_tok", "num_local_experts", "num_experts"),
    {.key = MG_K_EXPERT_FFN, .absent = SAME_AS_(FFN), .quiet = true},
    CONFIG_HEADS(MG_GGUF_UNUSUAL),
    CONFIG_VOCAB(32000, MG_GGUF_ALWAYS),
    GRANITE_SCALES,
    CONFIG_COMMON(0, 1, 2),
    CONFIG_ATTN_BIAS("attention_bias", 0),
};
/* clang-format on */

/* clang-format off */
static const mg_config_refusal refusals[] = {
    LLAMA_REFUSALS,
};

static const mg_tensor_row tensors[] = {
    LLAMA_TENSORS_MODEL,
    LLAMA_TENSORS_ATTENTION,
    LLAMA_TENSORS_ATTN_BIAS,
    ROUTER_("model.layers.{l}.block_sparse_moe.router.layer.weight"),
    EXPERT_GATE_(FUSED_("model.layers.{l}.block_sparse_moe.input_linear.weight", GATE_ROWS_),
                 NAME_("model.layers.{l}.block_sparse_moe.experts.{e}.gate_proj.weight"),
                 SWITCH_GATE_("block_sparse_moe.switch_mlp", .mlx = true)),
    EXPERT_UP_(FUSED_("model.layers.{l}.block_sparse_moe.input_linear.weight", UP_ROWS_),
               NAME_("model.layers.{l}.block_sparse_moe.experts.{e}.up_proj.weight"),
               SWITCH_UP_("block_sparse_moe.switch_mlp", .mlx = true)),
    EXPERT_DOWN_(STACKED_("model.layers.{l}.block_sparse_moe.output_linear.weight", HIDDEN, EXPERT_FFN),
                 NAME_("model.layers.{l}.block_sparse_moe.experts.{e}.down_proj.weight"),
                 SWITCH_DOWN_("block_sparse_moe.switch_mlp", .mlx = true)),
};
/* clang-format on */

static const char *const ignored[] = {LLAMA_IGNORED};

const mg_arch mg_arch_granitemoe = {
    .name = "granitemoe",
    .hf_classes = {"GraniteMoeForCausalLM"},
    .gguf_arch = "granitemoe",
    .gguf_match = MG_GGUF_MATCH_MOE,
    .block = {.norm = MG_NORM_RMS, .rope = MG_ROPE_HALF, .router = MG_ROUTER_TOPK_SOFTMAX},
    .config = config,
    .n_config = MG_LEN(config),
    .refusals = refusals,
    .n_refusals = MG_LEN(refusals),
    .tensors = tensors,
    .n_tensors = MG_LEN(tensors),
    .ignored = ignored,
};
