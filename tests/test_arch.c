/* Binding: every tensor of a model finds its role, what does not fit is refused by name, and the forms of one weight
 * hold the same numbers. */
#include "arch_test.h"

Test(arch, every_tensor_is_claimed_once) {
    for (size_t i = 0; i < sizeof tiny / sizeof *tiny; i++) {
        char path[256];
        snprintf(path, sizeof path, MODELS "%s", tiny[i]);
        mg_checkpoint *c;
        mg_model *m = open_path(path, &c);
        uint64_t bound = 0;
        for (uint32_t t = 0; t < c->n_tensors; t++) {
            mg_role role;
            uint32_t layer, expert;
            cr_assert(mg_model_role_of(m, t, &role, &layer, &expert), "%s: %s", tiny[i], c->tensors[t].name);
            const mg_bound *b = mg_model_find(m, role, layer, expert);
            cr_assert(b && b->tensor == t);
            bound += c->tensors[t].n_elements;
        }
        cr_assert_eq(mg_model_counts(m, 0).total, bound, "%s", tiny[i]);
        cr_assert_not(mg_model_role_of(m, c->n_tensors, NULL, NULL, NULL));
        mg_model_free(m);
        mg_checkpoint_free(c);
    }
}

Test(arch, numbers_of_the_tiny_models) {
    mg_checkpoint *c;
    mg_model *m = open_path(MODELS "tiny/llama_rope_llama3", &c);
    cr_assert_str_eq(m->arch->name, "llama");
    cr_assert_eq(mg_hp_i(m, MG_K_ROPE_TYPE), MG_ROPE_LLAMA3);
    cr_assert_eq(mg_hp_f(m, MG_K_ROPE_THETA), 500000);
    cr_assert_eq(mg_hp_f(m, MG_K_ROPE_FACTOR), 8);
    cr_assert_eq(mg_hp_i(m, MG_K_ROPE_ORIG_CONTEXT), 64);
    cr_assert_eq(mg_hp_f(m, MG_K_ROPE_HIGH_FREQ), 4);
    mg_model_free(m);
    mg_checkpoint_free(c);
    m = open_path(MODELS "tiny/llama_rope_yarn", &c);
    cr_assert_eq(mg_hp_i(m, MG_K_ROPE_TYPE), MG_ROPE_YARN);
    cr_assert_eq(mg_hp_f(m, MG_K_ROPE_BETA_FAST), 32);
    cr_assert_eq(mg_hp_i(m, MG_K_ROPE_TRUNCATE), 1);
    mg_model_free(m);
    mg_checkpoint_free(c);
    m = open_path(MODELS "tiny/mistral_swa", &c);
    cr_assert_eq(m->layers[2].window, 8);
    mg_model_free(m);
    mg_checkpoint_free(c);
    m = open_path(MODELS "tiny/mixtral", &c);
    cr_assert(m->layers[0].moe && mg_hp_i(m, MG_K_EXPERTS) == 4 && mg_hp_i(m, MG_K_EXPERT_FFN) == 48);
    cr_assert_eq(mg_hp_i(m, MG_K_HEAD_DIM), 16, "head_dim null is hidden / heads");
    cr_assert_null(mg_model_find(m, MG_R_FFN_GATE, 0, 0));
    cr_assert_null(mg_model_find(m, MG_R_EXPERT_UP, 0, 4));
    cr_assert_null(mg_model_find(m, MG_R_EXPERT_UP, 3, 0));
    cr_assert(mg_hp_i(m, MG_K_NORM_TOPK));
    mg_model_free(m);
    mg_checkpoint_free(c);
}

static void expect_refusal(memory_checkpoint *c, mg_status code, const char *said) {
    mg_error err = {0};
    mg_model *m = NULL;
    mg_status st = mg_model_open(&m, &c->base, &err);
    cr_assert_eq(st, code, "%s", st == MG_OK ? "accepted" : error_text(&err));
    cr_assert(strstr(error_text(&err), said), "%s", error_text(&err));
    mg_checkpoint_free(&c->base);
}

Test(arch, unknown_missing_and_misshapen_tensors_are_named) {
    memory_checkpoint *c = made_from_config(LLAMA(""), MG_LAYOUT_HF);
    memory_add(c, "model.layers.3.input_layernorm.weight", MG_F32, 1, (uint64_t[]){64});
    expect_refusal(c, MG_ERR_FORMAT, "model.layers.3.input_layernorm.weight");

    c = made_from_config(LLAMA(""), MG_LAYOUT_HF);
    memory_add(c, "model.layers.0.self_attn.q_proj.bias", MG_F32, 1, (uint64_t[]){64});
    expect_refusal(c, MG_ERR_FORMAT, "q_proj.bias");

    c = made_from_config(LLAMA(",\"attention_bias\":true"), MG_LAYOUT_HF);
    mg_json_free(c->own_config);
    c->base.config = c->own_config = parse(LLAMA(",\"attention_bias\":true,\"mlp_bias\":true"));
    expect_refusal(c, MG_ERR_FORMAT, "tensor 'model.layers.0.mlp.gate_proj.bias' and 8 more are missing");

    c = made_from_config(LLAMA(""), MG_LAYOUT_HF);
    mg_json_free(c->own_config);
    c->base.config = c->own_config = parse(
        "{\"model_type\":\"llama\",\"hidden_size\":64,\"intermediate_size\":128,\"num_hidden_layers\":3,"
        "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"vocab_size\":321,\"max_position_embeddings\":256}");
    expect_refusal(c, MG_ERR_CONFLICT, "shape [320, 64], but the configuration says [vocab_size 321, hidden_size 64]");

    c = made_from_config(LLAMA(""), MG_LAYOUT_HF);
    c->base.tensors[0].dtype = MG_I32;
    expect_refusal(c, MG_ERR_UNSUPPORTED, "I32");

    c = made_from_config(LLAMA(""), MG_LAYOUT_HF);
    mg_json_free(c->own_config);
    c->base.config = c->own_config = parse(LLAMA(",\"num_local_experts\":2000"));
    mg_model *m;
    cr_assert_eq(mg_model_open(&m, &c->base, NULL), MG_OK, "a dense family does not look at experts");
    mg_model_free(m);
    mg_checkpoint_free(&c->base);

    c = made_from_config(LLAMA(""), MG_LAYOUT_HF);
    c->base.config = NULL;
    expect_refusal(c, MG_ERR_FORMAT, "config.json");

    c = memory_new("{\"model_type\":\"llama\",\"num_hidden_layers\":4000}");
    expect_refusal(c, MG_ERR_CONFLICT, "num_hidden_layers' is 4000");
}

Test(arch, sizes_left_out_come_from_the_tensors) {
    memory_checkpoint *c =
        made_from_config(MIXTRAL(",\"num_local_experts\":5,\"num_experts_per_tok\":2"), MG_LAYOUT_HF);
    mg_json_free(c->own_config);
    c->base.config = c->own_config =
        parse("{\"model_type\":\"mixtral\",\"num_attention_heads\":4,\"num_key_value_heads\":2}");
    mg_model *m;
    mg_error err = {0};
    cr_assert_eq(mg_model_open(&m, &c->base, &err), MG_OK, "%s", error_text(&err));
    cr_assert_eq(mg_hp_i(m, MG_K_EXPERTS), 5);
    cr_assert_eq(mg_hp_i(m, MG_K_LAYERS), 3);
    cr_assert_eq(mg_hp_i(m, MG_K_VOCAB), 320);
    cr_assert_eq(mg_hp_i(m, MG_K_HEAD_DIM), 16);
    cr_assert_gt(m->n_assumptions, 3);
    mg_model_free(m);
    mg_checkpoint_free(&c->base);
}

Test(arch, old_buffers_and_the_unused_head_of_a_tied_model_are_skipped) {
    memory_checkpoint *c = made_from_config(LLAMA(""), MG_LAYOUT_HF);
    uint32_t t = memory_add(c, "model.layers.1.self_attn.rotary_emb.inv_freq", MG_F32, 1, (uint64_t[]){8});
    mg_json_free(c->own_config);
    c->base.config = c->own_config = parse(
        "{\"model_type\":\"llama\",\"hidden_size\":64,\"intermediate_size\":128,\"num_hidden_layers\":3,\"num_"
        "attention_heads\":4,"
        "\"num_key_value_heads\":2,\"vocab_size\":320,\"max_position_embeddings\":256,\"tie_word_embeddings\":true}");
    mg_model *m;
    mg_error err = {0};
    cr_assert_eq(mg_model_open(&m, &c->base, &err), MG_OK, "%s", error_text(&err));
    cr_assert_not(mg_model_role_of(m, t, NULL, NULL, NULL));
    cr_assert_null(mg_model_find(m, MG_R_OUTPUT, 0, 0));
    cr_assert(strstr(m->assumptions[m->n_assumptions - 1], "lm_head.weight"));
    mg_counts k = mg_model_counts(m, 0);
    cr_assert_eq(k.total - k.non_embedding, 320 * 64);
    mg_model_free(m);
    mg_checkpoint_free(&c->base);
}

Test(arch, three_forms_of_mixtral_experts_hold_the_same_weights) {
    static const char config[] = MIXTRAL(",\"num_local_experts\":4,\"num_experts_per_tok\":2");
    memory_checkpoint *c = made_from_config(config, MG_LAYOUT_HF), *fused = memory_new(config),
                      *per = memory_new(config);
    for (uint32_t t = 0; t < c->base.n_tensors; t++) {
        const mg_tensor *x = &c->base.tensors[t];
        unsigned l, e, w;
        char name[256];
        if (sscanf(x->name, "model.layers.%u.block_sparse_moe.experts.%u.w%u", &l, &e, &w) == 3) {
            snprintf(name, sizeof name, "model.layers.%u.mlp.experts.%s", l, w == 2 ? "down_proj" : "gate_up_proj");
            uint32_t y = mg_checkpoint_find(&fused->base, name);
            if (y == MG_STRMAP_NONE)
                y = memory_add(fused, name, MG_F32, 3, w == 2 ? (uint64_t[]){4, 64, 128} : (uint64_t[]){4, 256, 64});
            uint64_t part = x->n_bytes, at = w == 2 ? e * part : (2 * e + (w == 3)) * part;
            memcpy(fused->data[y] + at, c->data[t], part);
            snprintf(name, sizeof name, "model.layers.%u.mlp.experts.%u.%s_proj.weight", l, e,
                     w == 1   ? "gate"
                     : w == 2 ? "down"
                              : "up");
            memory_put(per, name, MG_F32, x->rank, x->shape, c->data[t]);
            continue;
        }
        snprintf(name, sizeof name, "%s", x->name);
        if (strstr(x->name, "block_sparse_moe.gate") && sscanf(x->name, "model.layers.%u", &l) == 1)
            snprintf(name, sizeof name, "model.layers.%u.mlp.gate.weight", l);
        memory_put(fused, name, MG_F32, x->rank, x->shape, c->data[t]);
        memory_put(per, name, MG_F32, x->rank, x->shape, c->data[t]);
    }
    mg_model *a, *b, *d;
    mg_error err = {0};
    cr_assert_eq(mg_model_open(&a, &c->base, &err), MG_OK, "%s", error_text(&err));
    cr_assert_eq(mg_model_open(&b, &fused->base, &err), MG_OK, "%s", error_text(&err));
    cr_assert_eq(mg_model_open(&d, &per->base, &err), MG_OK, "%s", error_text(&err));
    expect_same_weights(a, b);
    expect_same_weights(a, d);
    mg_role role;
    uint32_t t = mg_checkpoint_find(&fused->base, "model.layers.2.mlp.experts.gate_up_proj"), layer, expert;
    cr_assert(mg_model_role_of(b, t, &role, &layer, &expert) && role == MG_R_EXPERT_GATE && layer == 2 && expert == 0);
    mg_model_free(a);
    mg_model_free(b);
    mg_model_free(d);
    /* half a fused tensor's elements unclaimed: a fused tensor of the wrong height */
    fused->base.tensors[t].shape[1] = 512;
    fused->base.tensors[t].n_elements *= 2;
    expect_refusal(fused, MG_ERR_CONFLICT, "gate_up_proj");
    mg_checkpoint_free(&c->base);
    mg_checkpoint_free(&per->base);
}

/* ---- the grid of experts ---- */

/* The edges of a grid against the definition: every ordered pair of touching cells, by source, then target. */
static void edges_of_grid(int64_t gx, int64_t gy) {
    mg_hparams hp = {0};
    hp.i[MG_K_GRID_X] = gx;
    hp.i[MG_K_GRID_Y] = gy;
    cr_assert_eq(mg_edge_count(&hp), 0u, "no exchange, no edges");
    hp.i[MG_K_EXCHANGE] = 1;
    uint32_t n = 0, src, dst;
    for (int64_t a = 0; a < gx * gy; a++)
        for (int64_t b = 0; b < gx * gy; b++) {
            int64_t d = llabs(a % gx - b % gx) + llabs(a / gx - b / gx);
            if (d != 1) continue;
            mg_edge_at(&hp, n++, &src, &dst);
            cr_assert(src == a && dst == b, "%ldx%ld edge %u: %u to %u", gx, gy, n - 1, src, dst);
        }
    cr_assert_eq(mg_edge_count(&hp), n);
    cr_assert_eq(mg_edge_most(&hp, (uint64_t)(gx * gy)), n);
}

/* The most neighbours k of the cells can have, by trying every choice. */
static void most_edges_of_grid(int64_t gx, int64_t gy) {
    mg_hparams hp = {0};
    hp.i[MG_K_GRID_X] = gx;
    hp.i[MG_K_GRID_Y] = gy;
    hp.i[MG_K_EXCHANGE] = 1;
    uint64_t most[17] = {0};
    for (uint32_t set = 1; set < 1u << (gx * gy); set++) {
        uint64_t edges = 0;
        uint32_t src, dst;
        for (uint32_t e = 0; e < mg_edge_count(&hp); e++) {
            mg_edge_at(&hp, e, &src, &dst);
            edges += (set >> src & 1) && (set >> dst & 1);
        }
        uint64_t *m = &most[__builtin_popcount(set)];
        if (edges > *m) *m = edges;
    }
    for (uint64_t k = 1; k <= (uint64_t)(gx * gy); k++)
        cr_assert_eq(mg_edge_most(&hp, k), most[k], "%ldx%ld, %lu cells: %lu", gx, gy, k, most[k]);
}

Test(arch, edges_of_the_grid_of_experts) {
    for (int64_t gx = 1; gx <= 5; gx++)
        for (int64_t gy = 1; gy <= 5; gy++) edges_of_grid(gx, gy);
    most_edges_of_grid(2, 2);
    most_edges_of_grid(3, 2);
    most_edges_of_grid(1, 5);
    most_edges_of_grid(3, 3);
    most_edges_of_grid(5, 2);
}

static mg_counts counts_of(const char *config) {
    mg_model *m = from_config(config);
    mg_counts c = mg_model_counts(m, 0);
    mg_model_free(m);
    return c;
}

/* The published figures of Mesh v0.1 2x2: 173M and 242M active with one and two experts, 302M dense (one bond), 420M
 * stored. */
Test(arch, parameters_of_mesh) {
#define MESH_2X2(k)                                                                                                    \
    "{\"architectures\":[\"MeshForCausalLM\"],\"model_type\":\"mesh\",\"vocab_size\":50257,\"hidden_size\":1280,"      \
    "\"num_hidden_layers\":12,\"num_attention_heads\":20,\"head_dim\":64,\"mesh_grid_size\":[2,2],"                    \
    "\"expert_intermediate_size\":648,\"routing_k\":" k ",\"tie_word_embeddings\":true}"
    mg_counts one = counts_of(MESH_2X2("1")), two = counts_of(MESH_2X2("2")), all = counts_of(MESH_2X2("0"));
    cr_assert_eq(one.total, 419791360u);
    cr_assert_eq(one.active, 172925440u);
    cr_assert_eq(two.active, 242106880u);
    cr_assert_eq(all.active, 419791360u);
    cr_assert_eq(one.active_one_bond, one.active);
    cr_assert_eq(two.active_one_bond, two.active);
    cr_assert_eq(all.active_one_bond, 301826560u);
}

/* The publisher's card: 1.35B parameters, 1.32B without the embedding, about 300M active. */
Test(arch, parameters_of_nekomind) {
    mg_counts c =
        counts_of("{\"architectures\":[\"NekoMindForCausalLM\"],\"model_type\":\"nekomind\",\"vocab_size\":32006,"
                  "\"hidden_size\":1024,\"intermediate_size\":3072,\"num_hidden_layers\":18,\"num_attention_heads\":8,"
                  "\"num_key_value_heads\":4,\"head_dim\":128,\"num_experts\":32,\"num_experts_per_tok\":4,"
                  "\"moe_intermediate_size\":768,\"shared_expert_intermediate_size\":768,\"mlp_only_layers\":[0,1],"
                  "\"tie_word_embeddings\":true}");
    cr_assert_eq(c.total, 1354563072u);
    cr_assert_eq(c.active, 297598464u);
    cr_assert_eq(c.non_embedding, 1321788928u);
}

/* ---- real files, when the shared data is at hand ---- */

static float stored_value(const mg_tensor *t, const uint8_t *p, uint64_t i) {
    uint16_t h;
    float f;
    memcpy(&h, p + 2 * i, t->dtype == MG_BF16 ? 2 : 0);
    if (t->dtype == MG_BF16) return mg_bf16_to_f32(h);
    memcpy(&f, p + 4 * i, 4);
    return f;
}

/* The converter's own GGUF of a model holds, role by role, the model's weights. */
Test(arch, a_converted_file_holds_the_same_weights) {
    const char *shared = getenv("MOEGRAFT_SHARED");
    if (!shared) cr_skip_test("MOEGRAFT_SHARED is not set");
    char path[512];
    mg_checkpoint *c, *g;
    snprintf(path, sizeof path, "%s/models/moe4", shared);
    mg_model *m = open_path(path, &c);
    snprintf(path, sizeof path, "%s/golden/gguf/moe4-bf16.gguf", shared);
    mg_model *n = open_path(path, &g);
    cr_assert_str_eq(n->arch->name, "mixtral");
    for (uint32_t i = 0; i < m->arch->n_tensors; i++) {
        mg_role role = m->arch->tensors[i].role;
        for (uint32_t l = 0; l < 4; l++)
            for (uint32_t e = 0; e < 4; e++) {
                const mg_bound *x = mg_model_find(m, role, l, e), *y = mg_model_find(n, role, l, e);
                cr_assert_eq(x == NULL, y == NULL, "%s", mg_role_name(role));
                if (!x) continue;
                uint64_t rows = mg_bound_rows(x), cols = x->shape[x->rank - 1];
                uint8_t *p = malloc(rows * cols * 4), *q = malloc(rows * cols * 4);
                mg_error err = {0};
                cr_assert_eq(mg_model_read_rows(m, x, 0, rows, p, &err), MG_OK, "%s", error_text(&err));
                cr_assert_eq(mg_model_read_rows(n, y, 0, rows, q, &err), MG_OK, "%s", error_text(&err));
                for (uint64_t k = 0; k < rows * cols; k++)
                    cr_assert_eq(stored_value(mg_model_tensor(m, x), p, k), stored_value(mg_model_tensor(n, y), q, k),
                                 "%s %u %u", mg_role_name(role), l, e);
                free(p);
                free(q);
            }
    }
    mg_model_free(m);
    mg_model_free(n);
    mg_checkpoint_free(c);
    mg_checkpoint_free(g);
}

/* Families without a table yet are refused by their name. */
Test(arch, other_families_are_refused_by_name) {
    static const char *const others[] = {"deepseek_v2", "gemma2", "gpt_oss", "mesh_4x4", "qwen3_moe", "phi3"};
    const char *shared = getenv("MOEGRAFT_SHARED");
    if (!shared) cr_skip_test("MOEGRAFT_SHARED is not set");
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        char path[512];
        mg_checkpoint *c;
        mg_model *m = NULL;
        mg_error err = {0};
        snprintf(path, sizeof path, "%s/models/tiny/%s", shared, others[i]);
        cr_assert_eq(mg_checkpoint_open(&c, path, &err), MG_OK, "%s", error_text(&err));
        const char *type = mg_json_str(mg_json_get(c->config, "model_type"));
        if (type && mg_arch_find(type)) {
            mg_checkpoint_free(c);
            continue;
        }
        cr_assert_eq(mg_model_open(&m, c, &err), MG_ERR_UNSUPPORTED, "%s", others[i]);
        cr_assert(strstr(err.message, type), "%s", err.message);
        mg_checkpoint_free(c);
    }
}

/* ---- the tables themselves ---- */

Test(arch, tables_are_sound) {
    for (uint32_t a = 0; a < mg_arch_count(); a++) {
        const mg_arch *arch = mg_arch_at(a);
        mg_error why = {0};
        cr_assert_eq(mg_arch_find(arch->name), arch);
        cr_assert_eq(mg_arch_check(arch, &why), MG_OK, "%s: %s", arch->name, error_text(&why));
        /* fallbacks do not run in a circle (an internal error): a configuration that states nothing but its family is
         * complete, or refused for what it says */
        char text[128];
        snprintf(text, sizeof text, "{\"model_type\":\"%s\"}", arch->name);
        mg_json *j = parse(text);
        mg_model *m = NULL;
        mg_error err = {0};
        mg_status st = mg_model_from_config(&m, j, &err);
        cr_assert(st == MG_OK || st == MG_ERR_CONFLICT, "%s: %s", arch->name, error_text(&err));
        mg_model_free(m);
        mg_json_free(j);
    }
    cr_assert_null(mg_arch_find("nosuch"));
}
