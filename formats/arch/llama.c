/* llama.c - Llama 1 to 3.3 and the many models that are Llamas by another name (transformers' LlamaForCausalLM).
 *
 * Pre-norm decoder: RMSNorm, grouped-query attention with half-split rotary embedding over whole heads, RMSNorm,
 * SwiGLU. Biases are options: attention_bias puts one on q, k, v and o, mlp_bias one on gate, up and down. The window
 * that a config may carry is not looked at (transformers' modeling file does not either). Rotary scaling: linear,
 * dynamic (no effect within the trained context), yarn, and llama3, which a converter to GGUF bakes into the tensor
 * rope_freqs instead of metadata.
 *
 * GGUF's architecture "llama" is this family when expert_count is 0 or absent, mixtral otherwise. GGUF keeps rotary
 * pairs next to each other, so the rows of q and k are permuted inside every head; biases likewise. */
#include "formats/arch/arch_rows.h"

const mg_enum_name mg_rope_names[] = {
    {"default", MG_ROPE_NONE}, {"none", MG_ROPE_NONE},         {"linear", MG_ROPE_LINEAR},
    {"yarn", MG_ROPE_YARN},    {"llama3", MG_ROPE_LLAMA3},     {"dynamic", MG_ROPE_DYNAMIC},
    {"su", MG_ROPE_LONGROPE},  {"longrope", MG_ROPE_LONGROPE}, {NULL, 0}};
/* gelu_new and gelu_pytorch_tanh are the same formula; swish is silu. */
const mg_enum_name mg_act_names[] = {
    {"silu", MG_ACT_SILU},          {"swish", MG_ACT_SILU},    {"gelu_pytorch_tanh", MG_ACT_GELU_TANH},
    {"gelu_new", MG_ACT_GELU_TANH}, {"gelu", MG_ACT_GELU_ERF}, {NULL, 0}};

const mg_enum_name mg_score_names[] = {{"softmax", MG_SCORE_SOFTMAX}, {"sigmoid", MG_SCORE_SIGMOID}, {NULL, 0}};

static const mg_config_row config[] = {
    LLAMA_CONFIG_SIZES(11008, 2048, SAME_AS_(HEADS)),
    LLAMA_CONFIG_ROPE(10000),
    LLAMA_CONFIG_EPS(1e-6),
    LLAMA_CONFIG_TAIL(MG_GGUF_ALWAYS),
    {.key = MG_K_ATTN_BIAS, .hf = {"attention_bias"}, .absent = VALUE_(0), .gguf_absent = TENSORS_, .quiet = true},
    {.key = MG_K_MLP_BIAS, .hf = {"mlp_bias"}, .absent = VALUE_(0), .gguf_absent = TENSORS_, .quiet = true},
};

static const mg_config_refusal refusals[] = {LLAMA_REFUSALS};

static const mg_tensor_row tensors[] = {LLAMA_TENSORS_MODEL, LLAMA_TENSORS_ATTENTION, LLAMA_TENSORS_ATTN_BIAS,
                                        LLAMA_TENSORS_FFN, LLAMA_TENSORS_FFN_BIAS};

static const char *const ignored[] = {LLAMA_IGNORED};

/* Meta's params.json states how the inner size was computed, not the size itself; the tensors have it. */
static const mg_native_row params[] = {NATIVE_SIZES,
                                       {.key = MG_K_ROPE_THETA, .path = "rope_theta", .absent = VALUE_(10000)},
                                       {.key = MG_K_CONTEXT, .path = "max_seq_len"}};
static const char *const params_ignored[] = {"multiple_of", "ffn_dim_multiplier", "max_batch_size", NULL};
static const mg_native native = {
    .has = "multiple_of", .lacks = "moe", .rows = params, .n_rows = MG_LEN(params), .ignored = params_ignored};

const mg_arch mg_arch_llama = {
    .name = "llama",
    .hf_classes = {"LlamaForCausalLM", "LLaMAForCausalLM"},
    .gguf_arch = "llama",
    .gguf_match = MG_GGUF_MATCH_DENSE,
    .block = {.norm = MG_NORM_RMS, .rope = MG_ROPE_HALF, .router = MG_ROUTER_NONE},
    .config = config,
    .n_config = MG_LEN(config),
    .refusals = refusals,
    .n_refusals = MG_LEN(refusals),
    .tensors = tensors,
    .n_tensors = MG_LEN(tensors),
    .ignored = ignored,
    .native = &native,
};
