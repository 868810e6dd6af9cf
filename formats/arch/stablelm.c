/* stablelm.c - StableLM 3B and StableLM 2 1.6B (transformers' StableLmForCausalLM).
 *
 * A Llama with LayerNorms (weight and bias) in the place of RMSNorms, a quarter of every head rotated, and biases on q,
 * k and v as an option. StableLM 2 12B also norms every head of q and k with a LayerNorm of its own and runs attention
 * and feed-forward side by side: both are refused.
 *
 * GGUF "stablelm": use_parallel_residual has been written wrongly by old converters and no reader looks at it; whether
 * the feed-forward has a norm tells. The format keeps the order of q and k and states the number of rotated elements.
 * Its converter writes no rotary base; llama.cpp reads one when it is there, so another base than 10000 is written. */
#include "formats/arch/arch_rows.h"

static const mg_config_row config[] = {
    CONFIG_CONTEXT(4096),
    CONFIG_HIDDEN(2560),
    CONFIG_LAYERS(32),
    CONFIG_FFN(6912),
    CONFIG_ROPE_DIM(MG_GGUF_ALWAYS, PART_(HEAD_DIM, ROTARY_PART)),
    CONFIG_QKV_HEADS(32, VALUE_(32)),
    {.key = MG_K_PARALLEL,
     .hf = {"use_parallel_residual"},
     .gguf = "use_parallel_residual",
     .gguf_type = MG_KV_BOOL,
     .gguf_when = MG_GGUF_ALWAYS,
     .gguf_unread = true,
     .absent = VALUE_(0),
     .quiet = true},
    {.key = MG_K_NORM_EPS,
     .hf = {"layer_norm_eps"},
     .gguf = "attention.layer_norm_epsilon",
     .gguf_type = MG_KV_F32,
     .gguf_when = MG_GGUF_ALWAYS,
     .absent = VALUE_(1e-5),
     .gguf_absent = REQUIRED_,
     .lo = 0,
     .hi = 1},
    {.gguf_when = MG_GGUF_FILE_TYPE},
    CONFIG_ROPE_SCALING,
    CONFIG_ROPE_THETA(10000, MG_GGUF_UNUSUAL),
    CONFIG_ROTARY_PART(0.25),
    {.key = MG_K_HEAD_DIM, .absent = QUOTIENT_(HIDDEN, HEADS), .lo = 1, .hi = MAX_COUNT},
    {.key = MG_K_V_HEAD_DIM, .absent = SAME_AS_(HEAD_DIM), .lo = 1, .hi = MAX_COUNT},
    CONFIG_VOCAB_SIZE(50304, MG_GGUF_NEVER),
    CONFIG_COMMON(0, 0, 0),
    {.key = MG_K_ATTN_BIAS, .hf = {"use_qkv_bias"}, .absent = VALUE_(0), .gguf_absent = TENSORS_, .quiet = true},
};

static const mg_config_refusal refusals[] = {REFUSE_GROUP_FORMATS,
                                             {"qk_layernorm", 0, "a LayerNorm for every single head is not built"}};

/* clang-format off */
static const mg_tensor_row tensors[] = {
    LLAMA_TENSORS_MODEL,
    W_(OUTPUT_NORM_BIAS, MG_IF_ALWAYS, "model.norm.bias", "output_norm.bias", K_(HIDDEN)),
    NEOX_TENSORS_ATTENTION,
    W_(ATTN_NORM_BIAS, MG_IF_ALWAYS, "model.layers.{l}.input_layernorm.bias", "blk.{l}.attn_norm.bias", K_(HIDDEN)),
    W_(FFN_NORM_BIAS, MG_IF_ALWAYS, "model.layers.{l}.post_attention_layernorm.bias", "blk.{l}.ffn_norm.bias", K_(HIDDEN)),
    NEOX_TENSORS_QKV_BIAS,
    LLAMA_TENSORS_FFN,
};
/* clang-format on */

static const char *const ignored[] = {LLAMA_IGNORED};

const mg_arch mg_arch_stablelm = {
    .name = "stablelm",
    .hf_classes = {"StableLmForCausalLM"},
    .gguf_arch = "stablelm",
    .gguf_match = MG_GGUF_MATCH_DENSE,
    .block = {.norm = MG_NORM_LAYER, .rope = MG_ROPE_HALF, .router = MG_ROUTER_NONE},
    .config = config,
    .n_config = MG_LEN(config),
    .refusals = refusals,
    .n_refusals = MG_LEN(refusals),
    .tensors = tensors,
    .n_tensors = MG_LEN(tensors),
    .ignored = ignored,
};
