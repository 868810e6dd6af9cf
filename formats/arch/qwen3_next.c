/* qwen3_next.c - Qwen3-Next (transformers' Qwen3NextForCausalLM) as far as its layers are ones of full attention.
 *
 * q_proj holds query and gate, head by head: the first head_dim rows of each are the query. Every head of q and k is
 * normed, its front part rotates, and what attention gives is multiplied by sigmoid(gate) before the output projection.
 * All norms are stored minus one. Feed-forward as in Qwen2-MoE: p = softmax in f32 over all experts, the k largest,
 * divided by their sum when norm_topk_prob; a shared expert is added, weighted by the sigmoid of a router with one row.
 *
 * Layers of linear attention are not built, and layer_types must say that there are none. No GGUF form: llama.cpp's
 * qwen3next is made for models that have them. NekoMind is such a model when the gates are zero, sigmoid(0) = 1/2, and
 * the output projection is doubled. */
#include "formats/arch/arch_rows.h"

/* clang-format off */
static const mg_config_row config[] = {
    CONFIG_SIZES(48, 32768, 2048, 5632, 16, VALUE_(2)),
    LLAMA_CONFIG_ROPE(10000),
    LLAMA_CONFIG_EPS(1e-6),
    CONFIG_EXPERTS(512, 10, "num_experts_per_tok", "num_experts", "num_local_experts"),
    CONFIG_HEADS_FIXED(256),
    CONFIG_ROPE_DIM(MG_GGUF_NEVER, PART_(HEAD_DIM, ROTARY_PART)),
    CONFIG_EXPERT_FFN(512),
    CONFIG_SHARED_FFN(512),
    CONFIG_NORM_TOPK(1, MG_GGUF_ALWAYS),
    CONFIG_ROTARY_PART(0.25),
    CONFIG_VOCAB_SIZE(151936, MG_GGUF_NEVER),
    CONFIG_COMMON(0, -1, -1),
    CONFIG_SPARSE_STEP,
};

/* Windows are only a way to read the list: no layer has one. */
static const mg_layer_list lists[] = {
    {.path = "layer_types", .trait = MG_TRAIT_WINDOW, .yes = "sliding_attention", .no = "full_attention"},
    {0}};

static const mg_config_refusal refusals[] = {
    REFUSE_GROUP_FORMATS,
    {"attention_bias", 0, "biases of the attention of this family are not built yet"},
};

#define HALF_OF_Q_(r, from) \
    {.role = MG_R_##r, .when = MG_IF_ALWAYS, .shape = {KK_(HEADS, HEAD_DIM), K_(HIDDEN)}, .forms = { \
        [MG_LAYOUT_HF] = {{.pattern = "model.layers.{l}.self_attn.q_proj.weight", \
            .views = {{.kind = MG_VIEW_GROUPS, .a = from, .b = K_(HEAD_DIM), .group = KX_(HEAD_DIM, 2)}}, \
            .stored = {KKX_(HEADS, HEAD_DIM, 2), K_(HIDDEN)}}}}}
static const mg_tensor_row tensors[] = {
    GEMMA_TENSORS_MODEL,
    HALF_OF_Q_(ATTN_Q, LIT_(0)),
    HALF_OF_Q_(ATTN_GATE, K_(HEAD_DIM)),
    W_(ATTN_K, MG_IF_ALWAYS, "model.layers.{l}.self_attn.k_proj.weight", NULL, KK_(KV_HEADS, HEAD_DIM), K_(HIDDEN)),
    W_(ATTN_V, MG_IF_ALWAYS, "model.layers.{l}.self_attn.v_proj.weight", NULL, KK_(KV_HEADS, V_HEAD_DIM), K_(HIDDEN)),
    W_(ATTN_O, MG_IF_ALWAYS, "model.layers.{l}.self_attn.o_proj.weight", NULL, K_(HIDDEN), KK_(HEADS, V_HEAD_DIM)),
    NORM_LESS_ONE_(ATTN_Q_NORM, "model.layers.{l}.self_attn.q_norm.weight", NULL, K_(HEAD_DIM)),
    NORM_LESS_ONE_(ATTN_K_NORM, "model.layers.{l}.self_attn.k_norm.weight", NULL, K_(HEAD_DIM)),
    NORM_LESS_ONE_(FFN_NORM, "model.layers.{l}.post_attention_layernorm.weight", NULL, K_(HIDDEN)),
    LLAMA_TENSORS_FFN,
    ROUTER_("model.layers.{l}.mlp.gate.weight"),
    /* not mlx-lm's stacks: with them come norms to which it has added 1, under the same names */
    MLP_EXPERT_DOWN_(), MLP_EXPERT_GATE_(), MLP_EXPERT_UP_(),
    SHARED_EXPERT_("shared_expert"),
    SHARED_ROUTER_,
};
/* clang-format on */

static const char *const ignored[] = {LLAMA_IGNORED};

static const mg_restates restates = {
    .families = {"nekomind"},
    .zeros = {MG_R_ATTN_GATE},
    .n_zeros = 1,
    .doubled = {MG_R_ATTN_O},
    .n_doubled = 1,
};

const mg_arch mg_arch_qwen3_next = {
    .name = "qwen3_next",
    .hf_classes = {"Qwen3NextForCausalLM"},
    .gguf_arch = "qwen3next",
    .gguf_match = MG_GGUF_MATCH_NEVER,
    .block = {.norm = MG_NORM_RMS, .rope = MG_ROPE_HALF, .router = MG_ROUTER_SOFTMAX_TOPK, .moe = MG_MOE_STEPPED},
    .config = config,
    .n_config = MG_LEN(config),
    .lists = lists,
    .refusals = refusals,
    .n_refusals = MG_LEN(refusals),
    .tensors = tensors,
    .n_tensors = MG_LEN(tensors),
    .dense_list = "mlp_only_layers",
    .ignored = ignored,
    .restates = &restates,
};
