/* mixtral.c - Mixtral 8x7B, 8x22B and every frankenMoE in their image (transformers' MixtralForCausalLM).
 *
 * Mistral's attention; every layer routes: p = softmax in f32 over all experts, the k largest, divided by their sum.
 * Expert e is a SwiGLU: w1 = gate, w3 = up, w2 = down.
 *
 * Experts come in four Hugging Face forms, told by their names: per expert as block_sparse_moe.experts.E.w1/w2/w3
 * (what every reader knows and what we write), fused as mlp.experts.gate_up_proj [E, 2I, H] with the gate's rows first
 * and mlp.experts.down_proj [E, H, I] (mergekit 0.1.5), per expert as mlp.experts.E.gate_proj, and stacked as
 * block_sparse_moe.switch_mlp.gate_proj [E, I, H] (mlx-lm). The router's name goes with them. GGUF stacks each
 * projection over the experts; the reference converter emits gate, down, up of a layer when the last expert tensor of
 * the layer has come by.
 *
 * Made from Llama or Mistral donors: their dense feed-forward blocks become the experts, the router is new, all else is
 * the base's. The configuration of the result is the base's own with these fields changed. */
#include "formats/arch/arch_rows.h"

static const mg_config_row config[] = {
    LLAMA_CONFIG_SIZES(14336, 131072, VALUE_(8)),
    LLAMA_CONFIG_ROPE(1000000),
    LLAMA_CONFIG_EPS(1e-5),
    CONFIG_EXPERTS(8, 2, "num_experts_per_tok", "num_local_experts", "num_experts"),
    {.key = MG_K_EXPERT_FFN, .absent = SAME_AS_(FFN), .quiet = true},
    LLAMA_CONFIG_TAIL(MG_GGUF_STATED),
    {.key = MG_K_WINDOW,
     .hf = {"sliding_window"},
     .absent = VALUE_(0),
     .gguf_absent = VALUE_(0),
     .lo = 1,
     .hi = 1e12,
     .quiet = true,
     .lost_in_gguf = true},
};

static const mg_config_refusal refusals[] = {LLAMA_REFUSALS};

/* clang-format off */
/* Mistral's own names: one tensor per expert (consolidated.safetensors, what we write), or the experts of a layer below
 * each other as in the first release: rows e*I .. e*I + I - 1 of a matrix [E*I, H], w2's transposed. */
#define NATIVE_(name, ...) \
    [MG_LAYOUT_NATIVE] = {NAME_("layers.{l}.feed_forward.experts.{e}." name ".weight"), \
        {.pattern = "layers.{l}.block_sparse_moe." name, \
         .views = {{.kind = MG_VIEW_ROWS, .a = EXPERTX_(EXPERT_FFN), .b = K_(EXPERT_FFN)}, __VA_ARGS__}, \
         .stored = {KK_(EXPERTS, EXPERT_FFN), K_(HIDDEN)}}}
#define STACK_(r, rows, cols, gguf_name, native, ...) \
    {.role = MG_R_##r, .when = MG_IF_MOE, .shape = {K_(rows), K_(cols)}, .flush = 1, .forms = { \
        [MG_LAYOUT_HF] = {__VA_ARGS__}, [MG_LAYOUT_GGUF] = {STACKED_(gguf_name, rows, cols)}, native}}
static const mg_tensor_row tensors[] = {
    LLAMA_TENSORS_MODEL,
    LLAMA_TENSORS_ATTENTION,
    {.role = MG_R_ROUTER, .when = MG_IF_MOE, .shape = {K_(EXPERTS), K_(HIDDEN)}, .forms = {
        [MG_LAYOUT_HF] = {NAME_("model.layers.{l}.block_sparse_moe.gate.weight"), NAME_("model.layers.{l}.mlp.gate.weight")},
        [MG_LAYOUT_GGUF] = {NAME_("blk.{l}.ffn_gate_inp.weight")},
        [MG_LAYOUT_NATIVE] = {NAME_("layers.{l}.feed_forward.gate.weight"), NAME_("layers.{l}.block_sparse_moe.gate.weight")}}},
    STACK_(EXPERT_GATE, EXPERT_FFN, HIDDEN, "blk.{l}.ffn_gate_exps.weight", NATIVE_("w1", {.kind = MG_VIEW_END}),
            NAME_("model.layers.{l}.block_sparse_moe.experts.{e}.w1.weight"),
            FUSED_("model.layers.{l}.mlp.experts.gate_up_proj", GATE_ROWS_),
            NAME_("model.layers.{l}.mlp.experts.{e}.gate_proj.weight"), SWITCH_GATE_("block_sparse_moe.switch_mlp")),
    STACK_(EXPERT_DOWN, HIDDEN, EXPERT_FFN, "blk.{l}.ffn_down_exps.weight", NATIVE_("w2", {.kind = MG_VIEW_TRANSPOSE}),
            NAME_("model.layers.{l}.block_sparse_moe.experts.{e}.w2.weight"),
            STACKED_("model.layers.{l}.mlp.experts.down_proj", HIDDEN, EXPERT_FFN),
            NAME_("model.layers.{l}.mlp.experts.{e}.down_proj.weight"), SWITCH_DOWN_("block_sparse_moe.switch_mlp")),
    STACK_(EXPERT_UP, EXPERT_FFN, HIDDEN, "blk.{l}.ffn_up_exps.weight", NATIVE_("w3", {.kind = MG_VIEW_END}),
            NAME_("model.layers.{l}.block_sparse_moe.experts.{e}.w3.weight"),
            FUSED_("model.layers.{l}.mlp.experts.gate_up_proj", UP_ROWS_),
            NAME_("model.layers.{l}.mlp.experts.{e}.up_proj.weight"), SWITCH_UP_("block_sparse_moe.switch_mlp")),
};
/* clang-format on */

static const char *const ignored[] = {LLAMA_IGNORED};

static const mg_made_from made_from = {
    .called = "Mixtral",
    .families = {"llama", "mistral"},
    MADE_OF_BLOCKS,
    .order = 1,
};

/* The window goes as in mergekit's output: nothing changes within it, beyond it attention is full. Remote code belongs
 * to the base's own class and would be run in the place of ours. The last three are fields that MixtralConfig writes
 * into every file. */
static const mg_config_edit edits[] = {
    {.field = "architectures", .json = "[\"MixtralForCausalLM\"]"},
    {.field = "model_type", .json = "\"mixtral\""},
    {.field = "intermediate_size", .key = MG_K_EXPERT_FFN},
    {.field = "num_experts_per_tok", .key = MG_K_EXPERTS_USED},
    {.field = "num_local_experts", .key = MG_K_EXPERTS},
    {.field = "sliding_window", .json = "null"},
    {.field = "auto_map", .remove = true},
    {.field = "output_router_logits", .json = "false", .keep = true},
    {.field = "router_aux_loss_coef", .json = "0.001", .keep = true},
    {.field = "router_jitter_noise", .json = "0.0", .keep = true},
    {.field = NULL},
};

/* Cells that exchange nothing with their neighbours are experts like any others. */
static const mg_restates restates = {.families = {"mesh"}, .vanishing = {MG_R_EXCHANGE}, .n_vanishing = 1};

static const mg_native_row params[] = {NATIVE_MISTRAL,
                                       {.key = MG_K_EXPERTS, .path = "moe.num_experts"},
                                       {.key = MG_K_EXPERTS_USED, .path = "moe.num_experts_per_tok"}};
static const mg_native native = {.has = "moe", .rows = params, .n_rows = MG_LEN(params)};

const mg_arch mg_arch_mixtral = {
    .name = "mixtral",
    .hf_classes = {"MixtralForCausalLM"},
    .gguf_arch = "llama",
    .gguf_match = MG_GGUF_MATCH_MOE,
    .block = {.norm = MG_NORM_RMS, .rope = MG_ROPE_HALF, .router = MG_ROUTER_SOFTMAX_TOPK, .norm_topk = true},
    .config = config,
    .n_config = MG_LEN(config),
    .refusals = refusals,
    .n_refusals = MG_LEN(refusals),
    .tensors = tensors,
    .n_tensors = MG_LEN(tensors),
    .ignored = ignored,
    .made_from = &made_from,
    .restates = &restates,
    .native = &native,
    .edits = edits,
};
