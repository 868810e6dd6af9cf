/* qwen3.c - Qwen3, the dense models (transformers' Qwen3ForCausalLM).
 *
 * Qwen2 with the biases made an option (attention_bias, on q, k, v and o) and an RMSNorm over every head of q and k
 * before the rotation. The head size is 128 whatever hidden / heads is, unless stated.
 *
 * GGUF "qwen3": nothing is reordered; q_norm and k_norm are attn_q_norm and attn_k_norm. */
#include "formats/arch/arch_rows.h"

static const mg_config_row config[] = {
    CONFIG_SIZES(32, 32768, 4096, 22016, 32, VALUE_(32)),
    LLAMA_CONFIG_ROPE(10000),
    LLAMA_CONFIG_EPS(1e-6),
    CONFIG_HEADS_FIXED(128),
    CONFIG_VOCAB(151936, MG_GGUF_NEVER),
    CONFIG_COMMON(0, -1, -1),
    QWEN_CONFIG_WINDOW,
    {.key = MG_K_ATTN_BIAS, .hf = {"attention_bias"}, .absent = VALUE_(0), .gguf_absent = TENSORS_, .quiet = true},
};

static const mg_layer_list lists[] = {LAYER_TYPES_WINDOW, {0}};

static const mg_config_refusal refusals[] = {LLAMA_REFUSALS};

static const mg_tensor_row tensors[] = {LLAMA_TENSORS_MODEL,   NEOX_TENSORS_ATTENTION, QK_NORM_HEAD,
                                        NEOX_TENSORS_QKV_BIAS, NEOX_TENSORS_O_BIAS,    LLAMA_TENSORS_FFN};

static const char *const ignored[] = {LLAMA_IGNORED};

const mg_arch mg_arch_qwen3 = {
    .name = "qwen3",
    .hf_classes = {"Qwen3ForCausalLM"},
    .gguf_arch = "qwen3",
    .gguf_match = MG_GGUF_MATCH_DENSE,
    .block = {.norm = MG_NORM_RMS, .rope = MG_ROPE_HALF, .router = MG_ROUTER_NONE},
    .config = config,
    .n_config = MG_LEN(config),
    .lists = lists,
    .refusals = refusals,
    .n_refusals = MG_LEN(refusals),
    .tensors = tensors,
    .n_tensors = MG_LEN(tensors),
    .ignored = ignored,
};
