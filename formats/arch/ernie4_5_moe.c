/* ernie4_5_moe.c - ERNIE 4.5 mixtures, text only (transformers' Ernie4_5_MoeForCausalLM).
 *
 * Llama's decoder with rotary pairs next to each other, in files and in the rotation alike. Every moe_layer_interval-th
 * layer from moe_layer_start_index to moe_layer_end_index (-1: the last) routes: p = softmax in f32 over all experts,
 * the choice helped by a correction per expert, weights p divided by their sum, which counts as at least moe_norm_min.
 * moe_num_shared_experts shared experts are one block of that many times the inner size, added as it is.
 *
 * GGUF "ernie4_5-moe": no reordering; the correction keeps its shape [1, E]. The published converter derives the size
 * of the shared block from intermediate_size / num_key_value_heads, which is right for the released sizes; we write the
 * true one. */
#include "formats/arch/arch_rows.h"

/* clang-format off */
static const mg_config_row config[] = {
    CONFIG_SIZES(28, 131072, 2560, 12288, 20, VALUE_(4)),
    LLAMA_CONFIG_ROPE(10000),
    LLAMA_CONFIG_EPS(1e-5),
    CONFIG_HEADS(MG_GGUF_STATED),
    CONFIG_EXPERTS(64, 6, "moe_k", "moe_num_experts"),
    {.key = MG_K_MOE_STEP, .hf = {"moe_layer_interval"}, .gguf = "interleave_moe_layer_step", .gguf_type = MG_KV_U32,
     .gguf_when = MG_GGUF_ALWAYS, .absent = VALUE_(1), .lo = 1, .hi = MAX_LAYERS, .quiet = true},
    {.key = MG_K_DENSE_LAYERS, .hf = {"moe_layer_start_index"}, .gguf = "leading_dense_block_count", .gguf_type = MG_KV_U32,
     .gguf_when = MG_GGUF_ALWAYS, .absent = VALUE_(1), .gguf_absent = VALUE_(0), .lo = 0, .hi = MAX_LAYERS},
    CONFIG_EXPERT_FFN(1536),
    {.key = MG_K_SHARED_COUNT, .hf = {"moe_num_shared_experts"}, .gguf = "expert_shared_count", .gguf_type = MG_KV_U32,
     .gguf_when = MG_GGUF_ALWAYS, .absent = VALUE_(2), .null = VALUE_(0), .lo = 0, .hi = MAX_COUNT},
    {.key = MG_K_SHARED_FFN, .gguf = "expert_shared_feed_forward_length", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS,
     .absent = PRODUCT_(SHARED_COUNT, EXPERT_FFN), .lo = 0, .hi = MAX_SIZE, .quiet = true},
    {.key = MG_K_MOE_LAST, .hf = {"moe_layer_end_index"}, .absent = VALUE_(-1), .lo = -1, .hi = MAX_LAYERS, .quiet = true},
    {.key = MG_K_TOPK_SUM_MIN, .hf = {"moe_norm_min"}, .absent = VALUE_(1e-12), .quiet = true, .lost_in_gguf = true},
    CONFIG_VOCAB(103424, MG_GGUF_NEVER),
    CONFIG_COMMON(1, 1, 2),
};
/* clang-format on */

/* clang-format off */
#define ONE_ROW_(name) {.pattern = name, .views = {{.kind = MG_VIEW_SELECT, .a = LIT_(0)}}, .stored = {LIT_(1), K_(EXPERTS)}}

static const mg_config_refusal refusals[] = {
    LLAMA_REFUSALS,
    {"use_bias", 0, "biases on all matrices of this family are not built"},
};

static const mg_tensor_row tensors[] = {
    LLAMA_TENSORS_MODEL,
    NEOX_TENSORS_ATTENTION,
    LLAMA_TENSORS_FFN,
    ROUTER_("model.layers.{l}.mlp.gate.weight"),
    {.role = MG_R_ROUTER_CORRECTION, .when = MG_IF_MOE, .shape = {K_(EXPERTS)}, .forms = {
        [MG_LAYOUT_HF] = {ONE_ROW_("model.layers.{l}.mlp.moe_statics.e_score_correction_bias")},
        [MG_LAYOUT_GGUF] = {ONE_ROW_("blk.{l}.exp_probs_b.bias")}}},
    MLP_EXPERT_GATE,
    MLP_EXPERT_UP,
    MLP_EXPERT_DOWN,
    SHARED_EXPERT_("shared_experts"),
};
/* clang-format on */

static const char *const ignored[] = {"model.mtp_*", LLAMA_IGNORED};

const mg_arch mg_arch_ernie4_5_moe = {
    .name = "ernie4_5_moe",
    .hf_classes = {"Ernie4_5_MoeForCausalLM", "Ernie4_5_MoEForCausalLM"},
    .gguf_arch = "ernie4_5-moe",
    .gguf_match = MG_GGUF_MATCH_MOE,
    .block = {.norm = MG_NORM_RMS,
              .rope = MG_ROPE_INTERLEAVED,
              .router = MG_ROUTER_SOFTMAX_CORRECTED,
              .norm_topk = true,
              .moe = MG_MOE_RANGE},
    .config = config,
    .n_config = MG_LEN(config),
    .refusals = refusals,
    .n_refusals = MG_LEN(refusals),
    .tensors = tensors,
    .n_tensors = MG_LEN(tensors),
    .ignored = ignored,
};
