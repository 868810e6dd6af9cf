/* smollm3.c - SmolLM3 (transformers' SmolLM3ForCausalLM).
 *
 * A Llama of which every fourth layer does not rotate (no_rope_layers lists them, 1 rotates; without the list every
 * no_rope_layer_interval-th). The window that the class offers for those layers is in no published model.
 *
 * GGUF "smollm3" is converted as a Llama is, rotary pairs next to each other in every layer, rotated or not. Readers
 * take every fourth layer for granted; another interval is written under a key of our own. */
#include "formats/arch/arch_rows.h"

static const mg_config_row config[] = {
    CONFIG_SIZES(36, 32768, 2048, 11008, 16, VALUE_(4)),
    LLAMA_CONFIG_ROPE(2000000),
    LLAMA_CONFIG_EPS(1e-6),
    CONFIG_HEADS(MG_GGUF_STATED),
    CONFIG_VOCAB(128256, MG_GGUF_ALWAYS),
    {.key = MG_K_NOPE_PERIOD,
     .hf = {"no_rope_layer_interval"},
     .gguf = "rope.no_rope_layer_interval",
     .gguf_type = MG_KV_U32,
     .gguf_when = MG_GGUF_UNUSUAL,
     .absent = VALUE_(4),
     .lo = 0,
     .hi = MAX_LAYERS,
     .quiet = true,
     .lost_in_gguf = true},
    CONFIG_COMMON(1, 128000, 128001),
    {.key = MG_K_ATTN_BIAS, .hf = {"attention_bias"}, .absent = VALUE_(0), .gguf_absent = TENSORS_, .quiet = true},
    {.key = MG_K_MLP_BIAS, .hf = {"mlp_bias"}, .absent = VALUE_(0), .gguf_absent = TENSORS_, .quiet = true},
};

static const mg_layer_list lists[] = {{.path = "no_rope_layers", .trait = MG_TRAIT_ROPE}, {0}};

static const mg_config_refusal refusals[] = {
    LLAMA_REFUSALS, {"use_sliding_window", 0, "windows on the layers without rotation are not built"}};

static const mg_tensor_row tensors[] = {LLAMA_TENSORS_MODEL, LLAMA_TENSORS_ATTENTION, LLAMA_TENSORS_ATTN_BIAS,
                                        LLAMA_TENSORS_FFN, LLAMA_TENSORS_FFN_BIAS};

static const char *const ignored[] = {LLAMA_IGNORED};

const mg_arch mg_arch_smollm3 = {
    .name = "smollm3",
    .hf_classes = {"SmolLM3ForCausalLM"},
    .gguf_arch = "smollm3",
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
