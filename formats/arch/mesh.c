/* mesh.c - Mesh: experts on a two-dimensional grid that exchange their outputs with neighbours (MeshForCausalLM).
 *
 * Llama's decoder; every layer routes over GRID_X * GRID_Y experts, cell e = row * columns + column. p = softmax in f32
 * over all, the routing_k largest (0: all of them), divided by their sum. Then, along every grid edge between two
 * experts a token has chosen and in both directions, z_dst = y_dst + exchange_scale * X(src -> dst) y_src, all reading
 * the old y; the token gets the weighted sum of z. One map [hidden, hidden] per directed edge: 8 in a 2x2 grid, 48 in a
 * 4x4.
 *
 * The publisher's modelling file and sizes are not public: names, sizes and the exchange are a specification of ours
 * (docs/mesh_and_nekomind.md). So sizes left out of a config come from the shapes of the tensors, and tensors that are
 * not described here are refused by name. */
#include "formats/arch/arch_rows.h"

/* clang-format off */
static const mg_config_row config[] = {
    {.key = MG_K_LAYERS, .hf = {"num_hidden_layers"}, .gguf = "block_count", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS,
     .absent = VALUE_(12), .gguf_absent = REQUIRED_, .lo = 1, .hi = MAX_LAYERS},
    {.key = MG_K_CONTEXT, .hf = {"max_position_embeddings"}, .gguf = "context_length", .gguf_type = MG_KV_U32,
     .gguf_when = MG_GGUF_ALWAYS, .absent = VALUE_(2048), .gguf_absent = REQUIRED_, .lo = 1, .hi = 1e12},
    {.key = MG_K_HIDDEN, .hf = {"hidden_size"}, .gguf = "embedding_length", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS,
     .absent = VALUE_(1280), .gguf_absent = REQUIRED_, .lo = 1, .hi = MAX_SIZE},
    {.key = MG_K_FFN, .hf = {"expert_intermediate_size"}, .gguf = "feed_forward_length", .gguf_type = MG_KV_U32,
     .gguf_when = MG_GGUF_ALWAYS, .absent = VALUE_(648), .gguf_absent = REQUIRED_, .lo = 1, .hi = MAX_SIZE},
    {.key = MG_K_HEADS, .hf = {"num_attention_heads"}, .gguf = "attention.head_count", .gguf_type = MG_KV_U32,
     .gguf_when = MG_GGUF_ALWAYS, .absent = VALUE_(20), .gguf_absent = REQUIRED_, .lo = 1, .hi = MAX_COUNT},
    {.key = MG_K_KV_HEADS, .hf = {"num_key_value_heads"}, .gguf = "attention.head_count_kv", .gguf_type = MG_KV_U32,
     .gguf_when = MG_GGUF_ALWAYS, .absent = SAME_AS_(HEADS), .lo = 1, .hi = MAX_COUNT},
    LLAMA_CONFIG_ROPE(10000),
    LLAMA_CONFIG_EPS(1e-6),
    {.key = MG_K_GRID_X, .hf = {"mesh_grid_size.0"}, .gguf = "expert_grid.columns", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS,
     .absent = VALUE_(2), .gguf_absent = REQUIRED_, .lo = 1, .hi = 256},
    {.key = MG_K_GRID_Y, .hf = {"mesh_grid_size.1"}, .gguf = "expert_grid.rows", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS,
     .absent = VALUE_(2), .gguf_absent = REQUIRED_, .lo = 1, .hi = 256},
    {.key = MG_K_EXPERTS, .gguf = "expert_count", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS,
     .absent = PRODUCT_(GRID_X, GRID_Y), .lo = 1, .hi = MAX_COUNT},
    {.key = MG_K_EXPERTS_USED, .hf = {"routing_k"}, .gguf = "expert_used_count", .gguf_type = MG_KV_U32, .gguf_when = MG_GGUF_ALWAYS,
     .absent = VALUE_(2), .zero = SAME_AS_(EXPERTS), .gguf_absent = REQUIRED_, .lo = 0, .hi = MAX_COUNT},
    {.key = MG_K_EXPERT_FFN, .absent = SAME_AS_(FFN), .quiet = true},
    {.key = MG_K_NORM_TOPK, .hf = {"norm_topk_prob"}, .gguf = "expert_weights_norm", .gguf_type = MG_KV_BOOL,
     .gguf_when = MG_GGUF_ALWAYS, .absent = VALUE_(1), .quiet = true},
    {.key = MG_K_EXCHANGE, .hf = {"neighbor_exchange", "neighbor_exchange_enabled"}, .gguf = "expert_exchange",
     .gguf_type = MG_KV_BOOL, .gguf_when = MG_GGUF_ALWAYS, .absent = VALUE_(1)},
    {.key = MG_K_EXCHANGE_SCALE, .hf = {"exchange_scale"}, .gguf = "expert_exchange_scale", .gguf_type = MG_KV_F32,
     .gguf_when = MG_GGUF_ALWAYS, .absent = VALUE_(1)},
    CONFIG_HEADS(MG_GGUF_ALWAYS),
    CONFIG_VOCAB(50257, MG_GGUF_ALWAYS),
    CONFIG_COMMON(1, -1, -1),
};

static const mg_config_refusal refusals[] = {
    LLAMA_REFUSALS,
    {"cross_expert_attention_enabled", 0, "attention between experts is not part of what is known of this family"},
    {"expert_scale_factor", 1, "what this factor scales is not known"},
};

static const mg_tensor_row tensors[] = {
    LLAMA_TENSORS_MODEL,
    NEOX_TENSORS_ATTENTION,
    ROUTER_("model.layers.{l}.mlp.gate.weight"),
    MLP_EXPERTS_DOWN_GATE_UP,
    W_(EXCHANGE, MG_IF_EXCHANGE, "model.layers.{l}.mlp.exchange.{s}_{d}.weight", "blk.{l}.ffn_exchange.{s}_{d}.weight", K_(HIDDEN), K_(HIDDEN)),
};
/* clang-format on */

static const char *const ignored[] = {LLAMA_IGNORED};

/* Made from Llama or Mistral donors by name, one per cell; maps between neighbours are zero until they are trained,
 * which makes the model the Mixtral of the same donors. */
static const mg_made_from made_from = {
    .families = {"llama", "mistral"},
    MADE_OF_BLOCKS,
    .zeros = {MG_R_EXCHANGE},
    .n_zeros = 1,
};

static const mg_config_edit edits[] = {
    {.field = "architectures", .json = "[\"MeshForCausalLM\"]"},
    {.field = "model_type", .json = "\"mesh\""},
    {.field = "mesh_grid_size", .key = MG_K_GRID_X, .append = true},
    {.field = "mesh_grid_size", .key = MG_K_GRID_Y, .append = true},
    {.field = "routing_k", .key = MG_K_EXPERTS_USED},
    {.field = "expert_intermediate_size", .key = MG_K_EXPERT_FFN},
    {.field = "intermediate_size", .remove = true},
    {.field = "norm_topk_prob", .json = "true"},
    {.field = "neighbor_exchange", .json = "true"},
    {.field = "exchange_scale", .json = "1.0"},
    {.field = "head_dim", .key = MG_K_HEAD_DIM},
    EDITS_DEFAULTS,
    {.field = "sliding_window", .remove = true},
    {.field = "auto_map", .remove = true},
    {.field = NULL},
};

const mg_arch mg_arch_mesh = {
    .name = "mesh",
    .hf_classes = {"MeshForCausalLM"},
    .gguf_arch = "mesh",
    .gguf_own = true,
    .vllm = MG_VLLM_NONE,
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
    .edits = edits,
    .code = {&mg_code_decoder, &mg_code_mesh},
    .auto_map = "{\"AutoConfig\": \"modeling_mesh.MeshConfig\", "
                "\"AutoModelForCausalLM\": \"modeling_mesh.MeshForCausalLM\"}",
};
