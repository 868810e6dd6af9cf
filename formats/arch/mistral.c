/* mistral.c - Mistral 7B, Nemo, Small (transformers' MistralForCausalLM).
 *
 * A Llama without biases whose attention may be limited to a sliding window: position q sees k when k <= q and
 * q - k < sliding_window. The configuration class defaults to 4096 when the field is *absent* and means full attention
 * when it is *null*: those are different files. head_dim is often not hidden / heads (Nemo: 128 with hidden 5120, 32
 * heads).
 *
 * GGUF stores Mistral as architecture "llama", which has no window: a converted file attends fully, which is the same
 * thing only within the window. Reading such a file therefore gives family llama. */
#include "formats/arch/arch_rows.h"

static const mg_config_row config[] = {
    LLAMA_CONFIG_SIZES(14336, 131072, VALUE_(8)),
    LLAMA_CONFIG_ROPE(10000),
    LLAMA_CONFIG_EPS(1e-6),
    LLAMA_CONFIG_TAIL(MG_GGUF_ALWAYS),
    {.key = MG_K_WINDOW,
     .hf = {"sliding_window"},
     .absent = VALUE_(4096),
     .null = VALUE_(0),
     .gguf_absent = VALUE_(0),
     .lo = 1,
     .hi = 1e12,
     .lost_in_gguf = true},
};

static const mg_config_refusal refusals[] = {LLAMA_REFUSALS};

static const mg_tensor_row tensors[] = {LLAMA_TENSORS_MODEL, LLAMA_TENSORS_ATTENTION, LLAMA_TENSORS_FFN};

static const char *const ignored[] = {LLAMA_IGNORED};

static const mg_native_row params[] = {NATIVE_MISTRAL};
static const mg_native native = {.has = "hidden_dim", .lacks = "moe", .rows = params, .n_rows = MG_LEN(params)};

const mg_arch mg_arch_mistral = {
    .name = "mistral",
    .hf_classes = {"MistralForCausalLM"},
    .gguf_arch = "llama",
    .gguf_match = MG_GGUF_MATCH_NEVER,
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
