/* qwen2.c - Qwen2 and Qwen2.5 (transformers' Qwen2ForCausalLM), and the many models distilled into their shape.
 *
 * Llama's block with biases on q, k and v (none on o), and no way to leave them out. Small ones tie the head. A sliding
 * window is part of the configuration, but no published model turns it on (use_sliding_window).
 *
 * GGUF "qwen2" stores q and k as they are: llama.cpp rotates halves for this family. It has no key for a window. */
#include "formats/arch/arch_rows.h"

static const mg_config_row config[] = {
    CONFIG_SIZES(32, 32768, 4096, 22016, 32, VALUE_(32)),
    LLAMA_CONFIG_ROPE(10000),
    LLAMA_CONFIG_EPS(1e-6),
    CONFIG_HEADS(MG_GGUF_STATED),
    CONFIG_VOCAB(151936, MG_GGUF_NEVER),
    CONFIG_COMMON(0, -1, -1),
    QWEN_CONFIG_WINDOW,
    {.key = MG_K_ATTN_BIAS, .absent = VALUE_(1), .quiet = true},
};

static const mg_layer_list lists[] = {LAYER_TYPES_WINDOW, {0}};

static const mg_config_refusal refusals[] = {LLAMA_REFUSALS};

static const mg_tensor_row tensors[] = {LLAMA_TENSORS_MODEL, NEOX_TENSORS_ATTENTION, NEOX_TENSORS_QKV_BIAS,
                                        LLAMA_TENSORS_FFN};

static const char *const ignored[] = {LLAMA_IGNORED};

const mg_arch mg_arch_qwen2 = {
    .name = "qwen2",
    .hf_classes = {"Qwen2ForCausalLM"},
    .gguf_arch = "qwen2",
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
