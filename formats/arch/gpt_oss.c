/* gpt_oss.c - gpt-oss 20b and 120b (transformers' GptOssForCausalLM), weights in floats.
 *
 * Grouped-query attention with biases on q, k, v and o, a window on every second layer (layer_types), and a sink per
 * query head: a score that takes part in the softmax and has no value. Rotation by yarn with bounds that are not
 * rounded. Every layer routes: the k largest router logits (with bias), then a softmax over those k. Experts carry
 * biases; gate and up are clamped to swiglu_limit and combined as (up + 1) * gate * sigmoid(swiglu_alpha * gate).
 *
 * Files stack the experts input-major: gate_up_proj [E, h, 2i], whose columns alternate gate and up, and down_proj [E,
 * i, h]. The released files have the matrices of experts in MXFP4, output-major (gate_up_proj_blocks [E, 2i, h/32,
 * 16] and _scales): read as one tensor, gate_up_proj_blocks [E, 2i, h] (formats/group_layouts.h). mlx-lm has gate and
 * up apart, output-major.
 *
 * GGUF "gpt-oss": gate and up taken apart, output-major; post_attention_layernorm is called post_attention_norm. No
 * reordering. alpha, limit and truncate have no keys: readers take those of the released models. */
#include "formats/arch/arch_rows.h"

/* clang-format off */
static const mg_config_row config[] = {
    CONFIG_SIZES(36, 131072, 2880, 2880, 64, VALUE_(8)),
    CONFIG_ROPE_SCALING_BASE,
    CONFIG_ROPE_TRUNCATE(0),
    CONFIG_ROPE_THETA(150000, MG_GGUF_ALWAYS),
    LLAMA_CONFIG_EPS(1e-5),
    CONFIG_EXPERTS(128, 4, "num_experts_per_tok", "num_local_experts", "num_experts"),
    CONFIG_HEADS_FIXED(64),
    {.key = MG_K_WINDOW, .hf = {"sliding_window"}, .gguf = "attention.sliding_window", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS,
     .absent = VALUE_(128), .null = VALUE_(0), .lo = 1, .hi = 1e12},
    {.key = MG_K_EXPERT_FFN, .gguf = "expert_feed_forward_length", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS, .absent = SAME_AS_(FFN),
     .lo = 1, .hi = MAX_SIZE, .quiet = true},
    {.key = MG_K_WINDOW_PERIOD, .absent = VALUE_(2), .quiet = true, .lost_in_gguf = true},
    {.key = MG_K_ACT_ALPHA, .hf = {"swiglu_alpha"}, .absent = VALUE_(1.702), .quiet = true, .lost_in_gguf = true},
    {.key = MG_K_ACT_LIMIT, .hf = {"swiglu_limit"}, .absent = VALUE_(7), .lo = 0, .hi = 1e9, .quiet = true, .lost_in_gguf = true},
    CONFIG_VOCAB(201088, MG_GGUF_NEVER),
    CONFIG_COMMON(0, -1, -1),
    CONFIG_ATTN_BIAS("attention_bias", 1),
};
/* clang-format on */

static const mg_layer_list lists[] = {LAYER_TYPES_WINDOW, {0}};

/* clang-format off */
/* Every second row from `nth` on, of [E, h, 2i] read output-major. */
#define ALTERNATE_(nth) {.kind = MG_VIEW_ROWS, .a = LIT_(nth), .b = K_(EXPERT_FFN), .step = 2}
#define GATE_UP_(nth) {.pattern = "model.layers.{l}.mlp.experts.gate_up_proj", \
    .views = {SELECT_EXPERT_, {.kind = MG_VIEW_TRANSPOSE}, ALTERNATE_(nth)}, .stored = {K_(EXPERTS), K_(HIDDEN), KX_(EXPERT_FFN, 2)}}
#define GATE_UP_BLOCKS_(nth) {.pattern = "model.layers.{l}.mlp.experts.gate_up_proj_blocks", .blocks = true, \
    .views = {SELECT_EXPERT_, ALTERNATE_(nth)}, .stored = {K_(EXPERTS), KX_(EXPERT_FFN, 2), K_(HIDDEN)}}
#define GATE_UP_BIAS_(nth) {.pattern = "model.layers.{l}.mlp.experts.gate_up_proj_bias", \
    .views = {SELECT_EXPERT_, ALTERNATE_(nth)}, .stored = {K_(EXPERTS), KX_(EXPERT_FFN, 2)}}
#define MLX_BIAS_(proj, size) {.pattern = "model.layers.{l}.mlp.experts." proj ".bias", .views = {SELECT_EXPERT_}, \
    .stored = {K_(EXPERTS), K_(size)}, .mlx = true}
#define BIAS_(r, size, gguf_name, ...) {.role = MG_R_##r, .when = MG_IF_MOE, .shape = {K_(size)}, .forms = { \
    [MG_LAYOUT_HF] = {__VA_ARGS__}, \
    [MG_LAYOUT_GGUF] = {{.pattern = gguf_name, .views = {SELECT_EXPERT_}, .stored = {K_(EXPERTS), K_(size)}}}}}

static const mg_config_refusal refusals[] = {
    LLAMA_REFUSALS,
};

static const mg_tensor_row tensors[] = {
    LLAMA_TENSORS_MODEL,
    NEOX_TENSORS_QKVO,
    FFN_NORM_("blk.{l}.post_attention_norm.weight"),
    NEOX_TENSORS_QKV_BIAS,
    NEOX_TENSORS_O_BIAS,
    W_(ATTN_SINKS, MG_IF_ALWAYS, "model.layers.{l}.self_attn.sinks", "blk.{l}.attn_sinks.weight", K_(HEADS)),
    ROUTER_("model.layers.{l}.mlp.router.weight"),
    W_(ROUTER_BIAS, MG_IF_MOE, "model.layers.{l}.mlp.router.bias", "blk.{l}.ffn_gate_inp.bias", K_(EXPERTS)),
    EXPERT_ROW_(EXPERT_GATE, EXPERT_FFN, HIDDEN, "blk.{l}.ffn_gate_exps.weight", 0, GATE_UP_(0), GATE_UP_BLOCKS_(0),
                SWITCH_GATE_("mlp.experts", .mlx = true)),
    EXPERT_ROW_(EXPERT_UP, EXPERT_FFN, HIDDEN, "blk.{l}.ffn_up_exps.weight", 0, GATE_UP_(1), GATE_UP_BLOCKS_(1),
                SWITCH_UP_("mlp.experts", .mlx = true)),
    EXPERT_ROW_(EXPERT_DOWN, HIDDEN, EXPERT_FFN, "blk.{l}.ffn_down_exps.weight", 0,
                {.pattern = "model.layers.{l}.mlp.experts.down_proj", .views = {SELECT_EXPERT_, {.kind = MG_VIEW_TRANSPOSE}},
                  .stored = {K_(EXPERTS), K_(EXPERT_FFN), K_(HIDDEN)}},
                {.pattern = "model.layers.{l}.mlp.experts.down_proj_blocks", .blocks = true, .views = {SELECT_EXPERT_},
                  .stored = {K_(EXPERTS), K_(HIDDEN), K_(EXPERT_FFN)}},
                SWITCH_DOWN_("mlp.experts", .mlx = true)),
    BIAS_(EXPERT_GATE_BIAS, EXPERT_FFN, "blk.{l}.ffn_gate_exps.bias", GATE_UP_BIAS_(0), MLX_BIAS_("gate_proj", EXPERT_FFN)),
    BIAS_(EXPERT_UP_BIAS, EXPERT_FFN, "blk.{l}.ffn_up_exps.bias", GATE_UP_BIAS_(1), MLX_BIAS_("up_proj", EXPERT_FFN)),
    BIAS_(EXPERT_DOWN_BIAS, HIDDEN, "blk.{l}.ffn_down_exps.bias",
          {.pattern = "model.layers.{l}.mlp.experts.down_proj_bias", .views = {SELECT_EXPERT_}, .stored = {K_(EXPERTS), K_(HIDDEN)}},
          MLX_BIAS_("down_proj", HIDDEN)),
};
/* clang-format on */

static const char *const ignored[] = {LLAMA_IGNORED};

const mg_arch mg_arch_gpt_oss = {
    .name = "gpt_oss",
    .hf_classes = {"GptOssForCausalLM"},
    .gguf_arch = "gpt-oss",
    .gguf_match = MG_GGUF_MATCH_MOE,
    .block = {.norm = MG_NORM_RMS,
              .rope = MG_ROPE_HALF,
              .router = MG_ROUTER_TOPK_SOFTMAX,
              .gating = MG_GATING_SWIGLU_CLAMPED},
    .config = config,
    .n_config = MG_LEN(config),
    .lists = lists,
    .refusals = refusals,
    .n_refusals = MG_LEN(refusals),
    .tensors = tensors,
    .n_tensors = MG_LEN(tensors),
    .ignored = ignored,
    .blocks_config = "{\"modules_to_not_convert\": [\"model.layers.*.self_attn\", \"model.layers.*.mlp.router\", "
                     "\"model.embed_tokens\", \"lm_head\"], \"quant_method\": \"mxfp4\"}",
};
