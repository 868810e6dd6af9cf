/* phi3.c - Phi-3, Phi-3.5 and Phi-4 with trained contexts (transformers' Phi3ForCausalLM).
 *
 * A Llama whose q, k and v are one projection (q's rows first, then k's, then v's) and whose gate and up are another
 * (gate's rows first). A window on all layers, and a rotated part of every head (Phi-4-mini), are options. Longer
 * contexts come by longrope: two lists of divisors of the frequencies, one for texts within
 * original_max_position_embeddings and one for longer texts, and a multiplier of cosine and sine. The forward pass runs
 * texts of the first kind; the second would change the keys that a cache already holds.
 *
 * GGUF "phi3" keeps both fused: attn_qkv, and ffn_up of double height. The order of q and k is kept. The lists are the
 * tensors rope_factors_long and rope_factors_short, and nothing else says longrope. */
#include "formats/arch/arch_rows.h"

/* The class knows two kinds of rotation; the older names of the second are read as it reads them. */
static const mg_enum_name rope_names[] = {{"default", MG_ROPE_NONE},
                                          {"longrope", MG_ROPE_LONGROPE},
                                          {"su", MG_ROPE_LONGROPE},
                                          {"yarn", MG_ROPE_LONGROPE},
                                          {NULL, 0}};

static const mg_config_row config[] = {
    {.key = MG_K_ROPE_ATTN_FACTOR,
     .hf = {"rope_parameters.attention_factor"},
     .gguf = "rope.scaling.attn_factor",
     .gguf_type = MG_KV_F32,
     .gguf_when = MG_GGUF_LONGROPE,
     .absent = VALUE_(0),
     .quiet = true},
    CONFIG_CONTEXT(4096),
    {.key = MG_K_ROPE_ORIG_CONTEXT,
     .hf = {"original_max_position_embeddings"},
     .gguf = "rope.scaling.original_context_length",
     .gguf_type = MG_KV_U32,
     .gguf_when = MG_GGUF_ALWAYS,
     .absent = VALUE_(4096),
     .gguf_absent = SAME_AS_(CONTEXT),
     .lo = 1,
     .hi = 1e12,
     .quiet = true},
    CONFIG_HIDDEN(3072),
    CONFIG_FFN(8192),
    CONFIG_LAYERS(32),
    CONFIG_QKV_HEADS(32, SAME_AS_(HEADS)),
    LLAMA_CONFIG_EPS(1e-5),
    CONFIG_ROPE_DIM(MG_GGUF_ALWAYS, PART_(HEAD_DIM, ROTARY_PART)),
    CONFIG_ROPE_THETA(10000, MG_GGUF_ALWAYS),
    CONFIG_HEADS(MG_GGUF_UNUSUAL),
    {.key = MG_K_WINDOW,
     .hf = {"sliding_window"},
     .gguf = "attention.sliding_window",
     .gguf_type = MG_KV_U32,
     .gguf_when = MG_GGUF_ALWAYS,
     .absent = VALUE_(0),
     .lo = 0,
     .hi = 1e12,
     .quiet = true},
    CONFIG_ROTARY_PART(1),
    {.key = MG_K_ROPE_FACTOR, .hf = {"rope_parameters.factor"}, .absent = VALUE_(0), .quiet = true},
    {.key = MG_K_ROPE_TYPE,
     .hf = {"rope_parameters.rope_type", "rope_parameters.type"},
     .absent = VALUE_(MG_ROPE_NONE),
     .names = rope_names,
     .quiet = true},
    CONFIG_VOCAB_SIZE(32064, MG_GGUF_NEVER),
    CONFIG_COMMON(0, 1, 32000),
};

static const mg_config_refusal refusals[] = {REFUSE_GROUP_FORMATS};

/* clang-format off */
/* Rows of the fused projection: (HEADS + 2 * KV_HEADS) * HEAD_DIM. */
#define QKV_FORM(name, heads, ...) {.pattern = name, \
    .views = {{.kind = MG_VIEW_ROWS, .a = __VA_ARGS__, .b = KK_(heads, HEAD_DIM)}}, \
    .stored = {KSUMX_(HEADS, KV_HEADS, 2, HEAD_DIM), K_(HIDDEN)}}
#define QKV_(r, heads, ...) {.role = MG_R_##r, .when = MG_IF_ALWAYS, .shape = {KK_(heads, HEAD_DIM), K_(HIDDEN)}, .forms = { \
    [MG_LAYOUT_HF] = {QKV_FORM("model.layers.{l}.self_attn.qkv_proj.weight", heads, __VA_ARGS__)}, \
    [MG_LAYOUT_GGUF] = {QKV_FORM("blk.{l}.attn_qkv.weight", heads, __VA_ARGS__)}}}
#define GATE_UP_(r, ...) {.role = MG_R_##r, .when = MG_IF_ALWAYS, .shape = {K_(FFN), K_(HIDDEN)}, .forms = { \
    [MG_LAYOUT_HF] = {{.pattern = "model.layers.{l}.mlp.gate_up_proj.weight", .views = {__VA_ARGS__}, .stored = {KX_(FFN, 2), K_(HIDDEN)}}}, \
    [MG_LAYOUT_GGUF] = {{.pattern = "blk.{l}.ffn_up.weight", .views = {__VA_ARGS__}, .stored = {KX_(FFN, 2), K_(HIDDEN)}}}}}

static const mg_tensor_row tensors[] = {
    {.role = MG_R_ROPE_FACTORS_LONG, .when = MG_IF_LONGROPE, .shape = {KD_(ROPE_DIM, 2)}, .forms = {[MG_LAYOUT_GGUF] = {NAME_("rope_factors_long.weight")}}},
    {.role = MG_R_ROPE_FACTORS_SHORT, .when = MG_IF_LONGROPE, .shape = {KD_(ROPE_DIM, 2)}, .forms = {[MG_LAYOUT_GGUF] = {NAME_("rope_factors_short.weight")}}},
    LLAMA_TENSORS_MODEL,
    W_(ATTN_NORM, MG_IF_ALWAYS, "model.layers.{l}.input_layernorm.weight", "blk.{l}.attn_norm.weight", K_(HIDDEN)),
    QKV_(ATTN_Q, HEADS, LIT_(0)),
    QKV_(ATTN_K, KV_HEADS, KK_(HEADS, HEAD_DIM)),
    QKV_(ATTN_V, KV_HEADS, KSUMX_(HEADS, KV_HEADS, 1, HEAD_DIM)),
    W_(ATTN_O, MG_IF_ALWAYS, "model.layers.{l}.self_attn.o_proj.weight", "blk.{l}.attn_output.weight", K_(HIDDEN), KK_(HEADS, HEAD_DIM)),
    W_(FFN_NORM, MG_IF_ALWAYS, "model.layers.{l}.post_attention_layernorm.weight", "blk.{l}.ffn_norm.weight", K_(HIDDEN)),
    GATE_UP_(FFN_GATE, FIRST_ROWS_(FFN)),
    W_(FFN_DOWN, MG_IF_ALWAYS, "model.layers.{l}.mlp.down_proj.weight", "blk.{l}.ffn_down.weight", K_(HIDDEN), K_(FFN)),
    GATE_UP_(FFN_UP, ROWS_FROM_(FFN, FFN)),
};
/* clang-format on */

static const char *const ignored[] = {LLAMA_IGNORED};

const mg_arch mg_arch_phi3 = {
    .name = "phi3",
    .hf_classes = {"Phi3ForCausalLM"},
    .gguf_arch = "phi3",
    .gguf_match = MG_GGUF_MATCH_DENSE,
    .block = {.norm = MG_NORM_RMS, .rope = MG_ROPE_HALF, .router = MG_ROUTER_NONE},
    .config = config,
    .n_config = MG_LEN(config),
    .refusals = refusals,
    .n_refusals = MG_LEN(refusals),
    .tensors = tensors,
    .n_tensors = MG_LEN(tensors),
    .ignored = ignored,
};
