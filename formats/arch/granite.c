/* granite.c - Granite 3 (transformers' GraniteForCausalLM).
 *
 * A Llama with four multipliers: of the embedding, of what a block adds to the residual stream, of the attention scores
 * (in the place of one over the root of the head size), and a divisor of the logits. The class's default for all of
 * them is 1, also for the scores.
 *
 * GGUF "granite" is converted as a Llama is, rotary pairs next to each other, without head sizes. A file without
 * attention.scale divides by the root. */
#include "formats/arch/arch_rows.h"

static const mg_config_row config[] = {
    CONFIG_SIZES(32, 2048, 4096, 11008, 32, SAME_AS_(HEADS)),
    LLAMA_CONFIG_ROPE(10000),
    LLAMA_CONFIG_EPS(1e-6),
    CONFIG_HEADS(MG_GGUF_UNUSUAL),
    CONFIG_VOCAB(32000, MG_GGUF_ALWAYS),
    GRANITE_SCALES,
    CONFIG_COMMON(0, 1, 2),
    {.key = MG_K_ATTN_BIAS, .hf = {"attention_bias"}, .absent = VALUE_(0), .gguf_absent = TENSORS_, .quiet = true},
    {.key = MG_K_MLP_BIAS, .hf = {"mlp_bias"}, .absent = VALUE_(0), .gguf_absent = TENSORS_, .quiet = true},
};

static const mg_config_refusal refusals[] = {LLAMA_REFUSALS};

static const mg_tensor_row tensors[] = {LLAMA_TENSORS_MODEL, LLAMA_TENSORS_ATTENTION, LLAMA_TENSORS_ATTN_BIAS,
                                        LLAMA_TENSORS_FFN, LLAMA_TENSORS_FFN_BIAS};

static const char *const ignored[] = {LLAMA_IGNORED};

const mg_arch mg_arch_granite = {
    .name = "granite",
    .hf_classes = {"GraniteForCausalLM"},
    .gguf_arch = "granite",
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
