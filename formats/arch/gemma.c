/* gemma.c - Gemma 1 and CodeGemma (transformers' GemmaForCausalLM).
 *
 * A Llama with a GELU gate (tanh form; the first files say "gelu" and mean it), norms stored minus one, a tied head and
 * the embedding multiplied by the root of the hidden size (rounded to the type of the computation, here f32). The head
 * size is 256 unless stated.
 *
 * GGUF "gemma" holds 1 + w in the norms. Its converter writes no rotary base; llama.cpp reads one when it is there. */
#include "formats/arch/arch_rows.h"

static const mg_enum_name act_names[] = {{"gelu_pytorch_tanh", MG_ACT_GELU_TANH},
                                         {"gelu", MG_ACT_GELU_TANH},
                                         {"gelu_new", MG_ACT_GELU_TANH},
                                         {"silu", MG_ACT_SILU},
                                         {NULL, 0}};

static const mg_config_row config[] = {
    CONFIG_CONTEXT(8192),
    CONFIG_HIDDEN(3072),
    CONFIG_LAYERS(28),
    CONFIG_FFN(24576),
    CONFIG_QKV_HEADS(16, VALUE_(16)),
    LLAMA_CONFIG_EPS(1e-6),
    CONFIG_HEADS_FIXED(256),
    CONFIG_ROPE_SCALING,
    CONFIG_ROPE_THETA(10000, MG_GGUF_UNUSUAL),
    CONFIG_VOCAB(256000, MG_GGUF_NEVER),
    CONFIG_TIED_AND_IDS(1, 2, 1),
    CONFIG_ACT("hidden_act", MG_ACT_GELU_TANH, act_names),
    {.key = MG_K_EMBED_SCALE, .absent = ROOT_(HIDDEN), .quiet = true},
};

static const mg_config_refusal refusals[] = {GEMMA_REFUSALS};

/* clang-format off */
static const mg_tensor_row tensors[] = {
    GEMMA_TENSORS_MODEL,
    NEOX_TENSORS_PROJECTIONS,
    NORM_LESS_ONE_(FFN_NORM, "model.layers.{l}.post_attention_layernorm.weight", "blk.{l}.ffn_norm.weight", K_(HIDDEN)),
    LLAMA_TENSORS_FFN,
};
/* clang-format on */

static const char *const ignored[] = {LLAMA_IGNORED};

const mg_arch mg_arch_gemma = {
    .name = "gemma",
    .hf_classes = {"GemmaForCausalLM"},
    .gguf_arch = "gemma",
    .gguf_no_blank = true,
    .gguf_eot = 107, /* <end_of_turn> */
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
