/* The family tables: models of every family bind, both layouts agree, targets and metadata stand in the reference
 * converter's order, and configurations that contradict themselves or the tensors are refused by name. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "formats/arch/arch_internal.h"
#include "memory_checkpoint.h"

#define MODELS MG_TEST_DATA "/models/"

static const char *error_text(const mg_error *e) {
    static char buf[2048];
    return mg_error_text(e, buf, sizeof buf);
}

static mg_model *open_path(const char *path, mg_checkpoint **c) {
    mg_error err = {0};
    mg_model *m = NULL;
    cr_assert_eq(mg_checkpoint_open(c, path, &err), MG_OK, "%s", error_text(&err));
    cr_assert_eq(mg_model_open(&m, *c, &err), MG_OK, "%s", error_text(&err));
    return m;
}

static mg_json *parse(const char *text) {
    mg_json *j = NULL;
    mg_error err = {0};
    cr_assert_eq(mg_json_parse(&j, (mg_span){(const uint8_t *)text, strlen(text)}, "test", &err), MG_OK, "%s",
                 error_text(&err));
    return j;
}

/* ---- models ---- */

static const char *const tiny[] = {"tiny/llama",           "tiny/llama_rope_linear", "tiny/llama_rope_llama3",
                                   "tiny/llama_rope_yarn", "tiny/mistral",           "tiny/mistral_swa",
                                   "tiny/mixtral",         "donors/prose",           "donors/math"};

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
        cr_assert_eq(mg_model_counts(m).total, bound, "%s", tiny[i]);
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

/* ---- configurations ---- */

static mg_model *from_config(const char *text) {
    mg_error err = {0};
    mg_model *m = NULL;
    mg_json *j = parse(text);
    cr_assert_eq(mg_model_from_config(&m, j, &err), MG_OK, "%s", error_text(&err));
    mg_json_free(j);
    return m;
}

#define SIZES                                                                                                          \
    "\"hidden_size\":64,\"intermediate_size\":128,\"num_hidden_layers\":3,\"num_attention_heads\":4,"                  \
    "\"num_key_value_heads\":2,\"vocab_size\":320,\"max_position_embeddings\":256,\"rms_norm_eps\":1e-05,"             \
    "\"hidden_act\":\"silu\",\"tie_word_embeddings\":false"
#define LLAMA(rest)   "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\"," SIZES rest "}"
#define MISTRAL(rest) "{\"architectures\":[\"MistralForCausalLM\"],\"model_type\":\"mistral\"," SIZES rest "}"
#define MIXTRAL(rest) "{\"architectures\":[\"MixtralForCausalLM\"],\"model_type\":\"mixtral\"," SIZES rest "}"

Test(arch, spellings_of_transformers_4_and_5_are_one) {
    static const char *const pairs[][2] = {
        {LLAMA(",\"rope_theta\":5e5,\"head_dim\":16"),
         LLAMA(",\"rope_parameters\":{\"rope_theta\":5e5,\"rope_type\":\"default\"},\"head_dim\":16")},
        {LLAMA(",\"rope_theta\":1e4,\"rope_scaling\":{\"type\":\"linear\",\"factor\":4.0}"),
         LLAMA(",\"rope_parameters\":{\"rope_theta\":1e4,\"rope_type\":\"linear\",\"factor\":4}")},
        {LLAMA(",\"rope_theta\":5e5,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,"
               "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":64}"),
         LLAMA(
             ",\"rope_parameters\":{\"rope_type\":\"llama3\",\"rope_theta\":5e5,\"factor\":8.0,\"low_freq_factor\":1.0,"
             "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":64}")},
        {MISTRAL(",\"rope_theta\":1e4,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4.0,\"original_max_position_"
                 "embeddings\":64,\"beta_fast\":16},\"sliding_window\":null"),
         MISTRAL(",\"rope_parameters\":{\"rope_type\":\"yarn\",\"rope_theta\":1e4,\"factor\":4.0,\"original_max_"
                 "position_embeddings\":64,\"beta_fast\":16.0},\"sliding_window\":null")},
        {MIXTRAL(",\"rope_theta\":1e6,\"num_local_experts\":4,\"num_experts_per_tok\":2,\"head_dim\":null"),
         MIXTRAL(",\"rope_parameters\":{\"rope_theta\":1e6,\"rope_type\":\"default\"},\"num_experts\":4,\"num_experts_"
                 "per_tok\":2")},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        mg_model *a = from_config(pairs[i][0]), *b = from_config(pairs[i][1]);
        for (int k = 0; k < MG_KEY_COUNT; k++) {
            cr_assert_eq(a->hp.i[k], b->hp.i[k], "pair %zu, %s", i, mg_key_name((mg_key)k));
            cr_assert_eq(a->hp.f[k], b->hp.f[k], "pair %zu, %s", i, mg_key_name((mg_key)k));
            if (k != MG_K_ROPE_TYPE)
                cr_assert_eq(a->hp.present[k], b->hp.present[k], "pair %zu, %s", i, mg_key_name((mg_key)k));
        }
        mg_model_free(a);
        mg_model_free(b);
    }
}

Test(arch, rope_scaling_replaces_rope_parameters_as_a_whole) {
    mg_model *m = from_config(LLAMA(",\"rope_theta\":7e4,\"rope_scaling\":{\"type\":\"linear\",\"factor\":2},"
                                    "\"rope_parameters\":{\"rope_theta\":9e4,\"rope_type\":\"default\"}"));
    cr_assert_eq(mg_hp_f(m, MG_K_ROPE_THETA), 7e4);
    cr_assert_eq(mg_hp_i(m, MG_K_ROPE_TYPE), MG_ROPE_LINEAR);
    mg_model_free(m);
    m = from_config(LLAMA(",\"rope_scaling\":{},\"rope_parameters\":{\"rope_theta\":9e4}"));
    cr_assert_eq(mg_hp_f(m, MG_K_ROPE_THETA), 9e4);
    mg_model_free(m);
}

Test(arch, defaults_are_those_of_the_configuration_classes) {
    mg_model *m = from_config("{\"model_type\":\"mistral\"}");
    cr_assert_eq(mg_hp_i(m, MG_K_WINDOW), 4096, "absent sliding_window is the class's default");
    cr_assert_eq(mg_hp_i(m, MG_K_KV_HEADS), 8);
    cr_assert_eq(mg_hp_f(m, MG_K_ROPE_THETA), 10000);
    cr_assert_gt(m->n_assumptions, 5);
    mg_model_free(m);
    m = from_config(
        "{\"model_type\":\"mistral\",\"sliding_window\":null,\"num_key_value_heads\":null,\"pad_token_id\":null}");
    cr_assert_eq(mg_hp_i(m, MG_K_WINDOW), 0, "null is full attention");
    cr_assert_eq(mg_hp_i(m, MG_K_KV_HEADS), 32);
    cr_assert_eq(mg_hp_i(m, MG_K_PAD), -1);
    mg_model_free(m);
    m = from_config("{\"model_type\":\"mixtral\"}");
    cr_assert_eq(mg_hp_f(m, MG_K_ROPE_THETA), 1e6);
    cr_assert_eq(mg_hp_i(m, MG_K_EXPERTS), 8);
    cr_assert_eq(mg_hp_i(m, MG_K_WINDOW), 0);
    cr_assert_eq(mg_hp_f(m, MG_K_NORM_EPS), 1e-5);
    mg_model_free(m);
    m = from_config("{\"model_type\":\"llama\",\"eos_token_id\":[128001,128009]}");
    cr_assert_eq(mg_hp_i(m, MG_K_KV_HEADS), 32);
    cr_assert_eq(mg_hp_i(m, MG_K_FFN), 11008);
    cr_assert_eq(mg_hp_i(m, MG_K_EOS), 128001);
    mg_model_free(m);
}

Test(arch, bad_configurations_are_refused_by_name) {
    static const struct {
        const char *config;
        mg_status code;
        const char *said;
    } cases[] = {
        {"[]", MG_ERR_FORMAT, "object"},
        {"{}", MG_ERR_FORMAT, "model_type"},
        {"{\"model_type\":\"gpt9\"}", MG_ERR_UNSUPPORTED, "gpt9"},
        {"{\"model_type\":\"llama\",\"architectures\":[\"LlamaForSequenceClassification\"]}", MG_ERR_UNSUPPORTED,
         "LlamaForSequenceClassification"},
        {"{\"model_type\":\"llama\",\"architectures\":[\"MixtralForCausalLM\"]}", MG_ERR_CONFLICT,
         "MixtralForCausalLM"},
        {"{\"model_type\":\"llama\",\"num_hidden_layers\":-1}", MG_ERR_CONFLICT, "num_hidden_layers' is -1"},
        {"{\"model_type\":\"llama\",\"num_hidden_layers\":1000000000}", MG_ERR_CONFLICT,
         "num_hidden_layers' is 1000000000"},
        {"{\"model_type\":\"llama\",\"num_hidden_layers\":2.5}", MG_ERR_CONFLICT, "num_hidden_layers' is 2.5"},
        {"{\"model_type\":\"llama\",\"num_hidden_layers\":\"3\"}", MG_ERR_CONFLICT, "num_hidden_layers' is \"3\""},
        {"{\"model_type\":\"llama\",\"hidden_size\":4095}", MG_ERR_CONFLICT, "hidden_size' is 4095"},
        {"{\"model_type\":\"llama\",\"num_key_value_heads\":5}", MG_ERR_CONFLICT,
         "num_key_value_heads' is 5, expected a divisor of the 32"},
        {"{\"model_type\":\"llama\",\"num_key_value_heads\":0}", MG_ERR_CONFLICT, "num_key_value_heads"},
        {"{\"model_type\":\"llama\",\"head_dim\":33}", MG_ERR_CONFLICT, "even"},
        {"{\"model_type\":\"llama\",\"rms_norm_eps\":-1}", MG_ERR_CONFLICT, "rms_norm_eps"},
        {"{\"model_type\":\"llama\",\"rope_theta\":0}", MG_ERR_CONFLICT, "rope_theta"},
        {"{\"model_type\":\"llama\",\"hidden_act\":\"relu2\"}", MG_ERR_UNSUPPORTED, "relu2"},
        {"{\"model_type\":\"llama\",\"tie_word_embeddings\":1}", MG_ERR_CONFLICT, "tie_word_embeddings"},
        {"{\"model_type\":\"llama\",\"rope_scaling\":{\"type\":\"linear\"}}", MG_ERR_CONFLICT, "factor"},
        {"{\"model_type\":\"llama\",\"rope_scaling\":{\"type\":\"spiral\"}}", MG_ERR_UNSUPPORTED, "spiral"},
        {"{\"model_type\":\"llama\",\"rope_scaling\":{\"type\":\"longrope\",\"factor\":2}}", MG_ERR_UNSUPPORTED,
         "longrope"},
        {"{\"model_type\":\"llama\",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8}}", MG_ERR_CONFLICT,
         "low_freq_factor"},
        {"{\"model_type\":\"llama\",\"rope_parameters\":{\"full_attention\":{\"rope_theta\":1}}}", MG_ERR_UNSUPPORTED,
         "full_attention"},
        {"{\"model_type\":\"llama\",\"partial_rotary_factor\":0.5}", MG_ERR_UNSUPPORTED, "partial_rotary_factor"},
        {"{\"model_type\":\"llama\",\"quantization_config\":{\"quant_method\":\"awq\"}}", MG_ERR_UNSUPPORTED,
         "quantization_config"},
        {"{\"model_type\":\"mixtral\",\"num_local_experts\":0}", MG_ERR_CONFLICT, "num_local_experts' is 0"},
        {"{\"model_type\":\"mixtral\",\"num_local_experts\":2,\"num_experts_per_tok\":3}", MG_ERR_CONFLICT,
         "num_experts_per_tok' is 3"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mg_error err = {0};
        mg_model *m = NULL;
        mg_json *j = parse(cases[i].config);
        cr_assert_eq(mg_model_from_config(&m, j, &err), cases[i].code, "%s: %s", cases[i].config, error_text(&err));
        cr_assert(strstr(error_text(&err), cases[i].said), "%s: %s", cases[i].config, error_text(&err));
        mg_json_free(j);
    }
}

/* Any value in any field: an answer, never a crash; and what is accepted can be counted and enumerated. */
Test(arch, every_field_survives_every_value) {
    static const char *const fields[] = {
        "num_hidden_layers",   "hidden_size",       "intermediate_size",   "num_attention_heads",
        "num_key_value_heads", "head_dim",          "vocab_size",          "max_position_embeddings",
        "rms_norm_eps",        "rope_theta",        "rope_scaling",        "rope_parameters",
        "sliding_window",      "num_local_experts", "num_experts_per_tok", "tie_word_embeddings",
        "hidden_act",          "eos_token_id",      "attention_bias",      "original_max_position_embeddings",
        "architectures",       "model_type",        "quantization_config"};
    static const char *const values[] = {
        "-1",
        "0",
        "1",
        "2",
        "3",
        "64",
        "4096",
        "16777216",
        "2.5",
        "1e300",
        "-0.0",
        "9223372036854775807",
        "18446744073709551615",
        "-9223372036854775808",
        "null",
        "true",
        "\"x\"",
        "[]",
        "[null]",
        "[[1]]",
        "{}",
        "{\"factor\":0}",
        "{\"rope_type\":\"llama3\",\"factor\":1e-300,\"low_freq_factor\":1,\"high_freq_factor\":2}",
        "{\"type\":\"yarn\",\"factor\":null}",
        "{\"type\":\"dynamic\",\"factor\":2}",
        "{\"type\":7}"};
    static const char *const families[] = {"llama", "mistral", "mixtral"};
    size_t n_fields = sizeof fields / sizeof *fields, n_values = sizeof values / sizeof *values, accepted = 0,
           refused = 0;
    for (size_t f = 0; f < 3 * n_fields * n_values; f++) {
        char text[1024];
        mg_json *j = NULL;
        mg_model *m = NULL;
        mg_error err = {0};
        const char *field = fields[f / 3 % n_fields];
        bool own = strcmp(field, "model_type") == 0;
        snprintf(text, sizeof text, "{%s%s%s\"%s\":%s}", own ? "" : "\"model_type\":\"", own ? "" : families[f % 3],
                 own ? "" : "\",", field, values[f / 3 / n_fields]);
        if (mg_json_parse(&j, (mg_span){(const uint8_t *)text, strlen(text)}, "test", &err) != MG_OK) continue;
        mg_status st = mg_model_from_config(&m, j, &err);
        mg_json_free(j);
        if (st != MG_OK) {
            cr_assert(st == MG_ERR_CONFLICT || st == MG_ERR_UNSUPPORTED || st == MG_ERR_FORMAT, "%s: %d", text,
                      (int)st);
            cr_assert(err.message[0], "%s", text);
            refused++;
            continue;
        }
        mg_counts c = mg_model_counts(m);
        cr_assert(c.total >= c.active && c.total >= c.non_embedding && c.total < 100000000000000000ull, "%s", text);
        mg_model_free(m);
        accepted++;
    }
    cr_assert(accepted > 300 && refused > 300, "%zu accepted, %zu refused", accepted, refused);
}

Test(arch, models_are_compared_key_by_key) {
    mg_checkpoint *c, *d;
    mg_model *a = open_path(MODELS "tiny/mistral", &c), *b = open_path(MODELS "tiny/mistral_swa", &d);
    mg_key keys[MG_KEY_COUNT];
    char text[128];
    cr_assert_eq(mg_hparams_diff(&a->hp, &a->hp, keys), 0);
    cr_assert_eq(mg_hparams_diff(&a->hp, &b->hp, keys), 2);
    cr_assert(keys[0] == MG_K_ROPE_THETA && keys[1] == MG_K_WINDOW);
    cr_assert_str_eq(mg_model_key_text(b, MG_K_WINDOW, text, sizeof text), "sliding_window 8");
    cr_assert_str_eq(mg_model_key_text(a, MG_K_ROPE_THETA, text, sizeof text), "rope_parameters.rope_theta 1000000");
    cr_assert_str_eq(mg_model_key_text(a, MG_K_ACT, text, sizeof text), "hidden_act silu");
    mg_model_free(a);
    mg_model_free(b);
    mg_checkpoint_free(c);
    mg_checkpoint_free(d);
}

Test(arch, counts_of_known_models) {
    static const struct {
        const char *name;
        uint64_t total, active, non_embedding, kv;
    } known[] = {
        /* 4x7B and 2x7B: layers * (attention + experts + router + norms) + 2 * vocab * hidden + hidden */
        {"configs/4x7b.json", 24153690112, 12879400960, 24153690112 - 2 * 131072000ull, 131072},
        {"configs/2x7b.json", 12879138816, 12879138816, 12879138816 - 2 * 131072000ull, 131072},
        {"configs/mixtral-8x7b.json", 46702792704, 12879925248, 46702792704 - 2 * 131072000ull, 131072},
        {"configs/mistral-7b.json", 7241732096, 7241732096, 7241732096 - 2 * 131072000ull, 131072},
    };
    for (size_t i = 0; i < 4; i++) {
        char path[256];
        mg_json *j;
        mg_model *m;
        mg_error err = {0};
        snprintf(path, sizeof path, MODELS "%s", known[i].name);
        cr_assert_eq(mg_json_load(&j, path, 1 << 20, &err), MG_OK);
        cr_assert_eq(mg_model_from_config(&m, j, &err), MG_OK, "%s", error_text(&err));
        mg_counts c = mg_model_counts(m);
        cr_assert_eq(c.total, known[i].total, "%s: %llu", known[i].name, (unsigned long long)c.total);
        cr_assert_eq(c.active, known[i].active, "%s: %llu", known[i].name, (unsigned long long)c.active);
        cr_assert_eq(c.non_embedding, known[i].non_embedding, "%s: %llu", known[i].name,
                     (unsigned long long)c.non_embedding);
        cr_assert_eq(c.kv_bytes_per_token, known[i].kv);
        /* matmuls: all but the embedding (a lookup) and the norms */
        cr_assert_eq(c.flop_per_token, 2 * (c.active - 131072000ull - 4096 * 65), "%s", known[i].name);
        mg_model_free(m);
        mg_json_free(j);
    }
}

/* ---- tensors that do not fit ---- */

/* A checkpoint with every tensor that config describes, in the layout; data is a pattern of the tensor's index. */
static memory_checkpoint *made_from_config(const char *config, mg_layout layout) {
    mg_model *m = from_config(config);
    memory_checkpoint *c = memory_new(config);
    mg_targets t;
    mg_error err = {0};
    cr_assert_eq(mg_arch_targets(&t, m->arch, &m->hp, m->layers, layout, NULL, NULL, &err), MG_OK, "%s",
                 error_text(&err));
    for (size_t i = 0; i < t.n; i++) {
        uint32_t x = memory_add(c, t.items[i].name, MG_F32, t.items[i].rank, t.items[i].shape);
        for (uint64_t k = 0; k < c->base.tensors[x].n_elements; k++)
            ((float *)(void *)c->data[x])[k] = (float)(i * 100003 + k);
    }
    mg_targets_release(&t);
    mg_model_free(m);
    return c;
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
    mg_counts k = mg_model_counts(m);
    cr_assert_eq(k.total - k.non_embedding, 320 * 64);
    mg_model_free(m);
    mg_checkpoint_free(&c->base);
}

/* ---- layouts ---- */

static void set_architecture(memory_checkpoint *c, const mg_model *source) {
    const char *name = source->arch->gguf_arch;
    cr_assert_eq(mg_kvs_set_str(&c->own_kv, "general.architecture", name, strlen(name), NULL), MG_OK);
    cr_assert_eq(mg_arch_gguf_keys(&c->own_kv, source->arch, &source->hp, 0, NULL), MG_OK);
    c->base.kv = &c->own_kv;
    c->base.container = MG_CONTAINER_GGUF;
}

/* Write source in a layout, into memory. */
static memory_checkpoint *rewrite(mg_model *source, const mg_arch *arch, mg_layout layout, const char *config) {
    memory_checkpoint *c = memory_new(config);
    mg_targets t;
    mg_error err = {0};
    cr_assert_eq(mg_arch_targets(&t, arch, &source->hp, source->layers, layout, mg_model_has, source, &err), MG_OK,
                 "%s", error_text(&err));
    if (layout == MG_LAYOUT_GGUF) cr_assert_eq(mg_targets_order(&t, source, &err), MG_OK, "%s", error_text(&err));
    for (size_t i = 0; i < t.n; i++) {
        const mg_target *x = &t.items[i];
        cr_assert_eq(mg_checkpoint_find(&c->base, x->name), MG_STRMAP_NONE, "names are unique");
        if (x->generated) {
            uint32_t g = memory_add(c, x->name, MG_F32, x->rank, x->shape);
            cr_assert_eq(mg_arch_rope_factors((float *)(void *)c->data[g], x->shape[0], &source->hp, &err), MG_OK);
            continue;
        }
        mg_bound b;
        cr_assert_eq(mg_target_bind(&b, source, x, 0, &err), MG_OK);
        uint32_t index = memory_add(c, x->name, mg_model_tensor(source, &b)->dtype, x->rank, x->shape);
        uint64_t row_bytes = mg_tensor_row_bytes(&c->base.tensors[index]), row = 0;
        for (uint32_t p = 0; p < x->n_parts; p++) {
            uint64_t in_part;
            cr_assert_eq(mg_target_bind(&b, source, x, p, &err), MG_OK, "%s", error_text(&err));
            cr_assert_eq(mg_target_part_of_row(x, row, &in_part), p);
            cr_assert_eq(in_part, 0);
            cr_assert_eq(mg_bound_rows(&b), x->parts[p].rows);
            cr_assert_eq(mg_model_row_bytes(source, &b), row_bytes);
            cr_assert_eq(mg_model_read_rows(source, &b, 0, x->parts[p].rows, c->data[index] + row * row_bytes, &err),
                         MG_OK, "%s", error_text(&err));
            row += x->parts[p].rows;
        }
        cr_assert_eq(row * row_bytes, c->base.tensors[index].n_bytes);
    }
    mg_targets_release(&t);
    if (layout == MG_LAYOUT_GGUF) set_architecture(c, source);
    return c;
}

static void expect_same_weights(mg_model *a, mg_model *b) {
    for (uint32_t i = 0; i < a->arch->n_tensors; i++) {
        mg_role role = a->arch->tensors[i].role;
        if (role == MG_R_ROPE_FREQS) continue;
        for (uint32_t l = 0; l < (uint32_t)mg_hp_i(a, MG_K_LAYERS); l++)
            for (uint32_t e = 0; e == 0 || e < (uint32_t)mg_hp_i(a, MG_K_EXPERTS); e++) {
                const mg_bound *x = mg_model_find(a, role, l, e), *y = mg_model_find(b, role, l, e);
                cr_assert_eq(x == NULL, y == NULL, "%s", mg_role_name(role));
                if (!x) continue;
                cr_assert(x->rank == y->rank && memcmp(x->shape, y->shape, x->rank * sizeof *x->shape) == 0);
                uint64_t n = mg_bound_rows(x) * mg_model_row_bytes(a, x);
                uint8_t *p = malloc(n), *q = malloc(n);
                mg_error err = {0};
                cr_assert_eq(mg_model_read_rows(a, x, 0, mg_bound_rows(x), p, &err), MG_OK, "%s", error_text(&err));
                cr_assert_eq(mg_model_read_rows(b, y, 0, mg_bound_rows(y), q, &err), MG_OK, "%s", error_text(&err));
                cr_assert(memcmp(p, q, n) == 0, "%s %u %u", mg_role_name(role), l, e);
                free(p);
                free(q);
            }
    }
}

Test(arch, hf_to_gguf_and_back_is_the_identity) {
    for (size_t i = 0; i < sizeof tiny / sizeof *tiny; i++) {
        char path[256];
        snprintf(path, sizeof path, MODELS "%s", tiny[i]);
        mg_checkpoint *c;
        mg_model *m = open_path(path, &c), *g;
        memory_checkpoint *gguf = rewrite(m, m->arch, MG_LAYOUT_GGUF, NULL);
        mg_error err = {0};
        cr_assert_eq(mg_model_open(&g, &gguf->base, &err), MG_OK, "%s: %s", tiny[i], error_text(&err));
        expect_same_weights(m, g);
        const mg_bound *q = mg_model_find(g, MG_R_ATTN_Q, 0, 0);
        cr_assert_eq(q->views[0].kind, MG_VIEW_ROPE_UNPERM);
        for (int k = 0; k < MG_KEY_COUNT; k++) { /* what GGUF can say arrives; floats as float32 */
            if (k == MG_K_ROPE_TYPE && mg_hp_i(m, MG_K_ROPE_TYPE) == MG_ROPE_LLAMA3) break;
            if (k == MG_K_WINDOW || k == MG_K_BOS || k == MG_K_EOS || k == MG_K_PAD) continue;
            cr_assert_eq(m->hp.i[k], g->hp.i[k], "%s %s", tiny[i], mg_key_name((mg_key)k));
            cr_assert_eq((float)m->hp.f[k], (float)g->hp.f[k], "%s %s", tiny[i], mg_key_name((mg_key)k));
        }
        /* back to Hugging Face names: the very tensors we started from */
        if (mg_hp_i(m, MG_K_ROPE_TYPE) != MG_ROPE_LLAMA3) {
            memory_checkpoint *hf = rewrite(g, m->arch, MG_LAYOUT_HF, NULL);
            cr_assert_eq(hf->base.n_tensors, c->n_tensors);
            for (uint32_t t = 0; t < c->n_tensors; t++) {
                const mg_tensor *x = &c->tensors[t];
                uint32_t y = mg_checkpoint_find(&hf->base, x->name);
                cr_assert_neq(y, MG_STRMAP_NONE, "%s", x->name);
                uint8_t *data = malloc(x->n_bytes);
                cr_assert_eq(mg_checkpoint_read(c, t, 0, data, x->n_bytes, NULL), MG_OK);
                cr_assert(memcmp(data, hf->data[y], x->n_bytes) == 0, "%s", x->name);
                free(data);
            }
            mg_checkpoint_free(&hf->base);
        } else {
            cr_assert(mg_model_find(g, MG_R_ROPE_FREQS, 0, 0));
            mg_targets t;
            cr_assert_eq(mg_arch_targets(&t, m->arch, &g->hp, g->layers, MG_LAYOUT_HF, mg_model_has, g, &err),
                         MG_ERR_UNSUPPORTED);
            cr_assert(strstr(err.message, "rope_freqs"));
            mg_targets_release(&t);
        }
        mg_model_free(g);
        mg_checkpoint_free(&gguf->base);
        mg_model_free(m);
        mg_checkpoint_free(c);
    }
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

/* ---- the reference converter ---- */

static mg_json *golden(void) {
    mg_json *j;
    cr_assert_eq(mg_json_load(&j, MG_TEST_DATA "/golden/gguf/convert.json", 1 << 24, NULL), MG_OK);
    return j;
}

static void expect_golden_order(mg_model *m, const mg_json *want) {
    mg_targets t;
    mg_error err = {0};
    cr_assert_eq(mg_arch_targets(&t, m->arch, &m->hp, m->layers, MG_LAYOUT_GGUF, mg_model_has, m, &err), MG_OK, "%s",
                 error_text(&err));
    cr_assert_eq(mg_targets_order(&t, m, &err), MG_OK, "%s", error_text(&err));
    const mg_json *tensors = mg_json_get(want, "tensors");
    cr_assert_eq(t.n, mg_json_len(tensors));
    size_t i = 0;
    for (const mg_json *x = mg_json_first(tensors); x; x = mg_json_next(x), i++) {
        cr_assert_str_eq(t.items[i].name, mg_json_key(x), "place %zu", i);
        const mg_json *type = mg_json_first(x), *dims = mg_json_next(type);
        cr_assert_eq(mg_json_len(dims), t.items[i].rank);
        uint32_t d = t.items[i].rank;
        for (const mg_json *n = mg_json_first(dims); n; n = mg_json_next(n)) {
            uint64_t v = 0;
            cr_assert(mg_json_u64(n, &v) && v == t.items[i].shape[--d], "%s", t.items[i].name);
        }
        cr_assert_eq(t.items[i].always_f32, strcmp(mg_json_str(type), "F32") == 0, "%s", t.items[i].name);
    }
    mg_targets_release(&t);
}

static void expect_golden_keys(const mg_model *m, const mg_json *want, uint32_t file_type) {
    mg_kvs kv;
    mg_error err = {0};
    mg_kvs_init(&kv);
    cr_assert_eq(mg_arch_gguf_keys(&kv, m->arch, &m->hp, file_type, &err), MG_OK, "%s", error_text(&err));
    uint32_t i = 0;
    for (const mg_json *x = mg_json_first(mg_json_get(want, "kv")); x; x = mg_json_next(x)) {
        const mg_json *name = mg_json_first(x), *type = mg_json_next(name), *value = mg_json_next(type);
        const char *key = mg_json_str(name);
        if (strncmp(key, "llama.", 6) != 0 && strcmp(key, "general.file_type") != 0) continue;
        cr_assert_lt(i, kv.n);
        cr_assert_str_eq(kv.items[i].key.data, key);
        double a = 0, b = 0;
        cr_assert(mg_kv_f64(&kv.items[i], &a) && mg_json_f64(value, &b) && a == b, "%s: %.17g, not %.17g", key, a, b);
        cr_assert_eq(kv.items[i].type, strcmp(mg_json_str(type), "UINT32") == 0 ? MG_KV_U32 : MG_KV_F32, "%s", key);
        i++;
    }
    cr_assert_eq(i, kv.n);
    mg_kvs_release(&kv);
}

static const char moe4_config[] = "{\n"
                                  "  \"architectures\": [\n"
                                  "    \"MixtralForCausalLM\"\n"
                                  "  ],\n"
                                  "  \"attention_dropout\": 0.0,\n"
                                  "  \"bos_token_id\": 1,\n"
                                  "  \"eos_token_id\": 2,\n"
                                  "  \"head_dim\": 64,\n"
                                  "  \"hidden_act\": \"silu\",\n"
                                  "  \"hidden_size\": 256,\n"
                                  "  \"initializer_range\": 0.02,\n"
                                  "  \"intermediate_size\": 512,\n"
                                  "  \"max_position_embeddings\": 2048,\n"
                                  "  \"model_type\": \"mixtral\",\n"
                                  "  \"num_attention_heads\": 4,\n"
                                  "  \"num_experts_per_tok\": 2,\n"
                                  "  \"num_hidden_layers\": 4,\n"
                                  "  \"num_key_value_heads\": 2,\n"
                                  "  \"num_local_experts\": 4,\n"
                                  "  \"output_router_logits\": false,\n"
                                  "  \"rms_norm_eps\": 1e-05,\n"
                                  "  \"rope_theta\": 10000.0,\n"
                                  "  \"router_aux_loss_coef\": 0.001,\n"
                                  "  \"router_jitter_noise\": 0.0,\n"
                                  "  \"sliding_window\": null,\n"
                                  "  \"tie_word_embeddings\": false,\n"
                                  "  \"torch_dtype\": \"bfloat16\",\n"
                                  "  \"transformers_version\": \"4.51.3\",\n"
                                  "  \"use_cache\": true,\n"
                                  "  \"vocab_size\": 1024\n"
                                  "}\n";

Test(arch, targets_and_keys_stand_as_convert_hf_to_gguf_writes_them) {
    mg_json *g = golden();
    mg_checkpoint *c;
    mg_model *m = open_path(MODELS "donors/prose", &c);
    expect_golden_order(m, mg_json_get(g, "prose-bf16"));
    expect_golden_keys(m, mg_json_get(g, "prose-bf16"), 32);
    mg_model_free(m);
    mg_checkpoint_free(c);

    memory_checkpoint *moe = made_from_config(moe4_config, MG_LAYOUT_HF);
    mg_error err = {0};
    cr_assert_eq(mg_model_open(&m, &moe->base, &err), MG_OK, "%s", error_text(&err));
    expect_golden_order(m, mg_json_get(g, "moe4-q8_0"));
    expect_golden_keys(m, mg_json_get(g, "moe4-q8_0"), 7);
    mg_model_free(m);
    mg_checkpoint_free(&moe->base);
    mg_json_free(g);
}

Test(arch, a_layer_over_two_shards_waits_for_its_last_expert) {
    memory_checkpoint *c =
        made_from_config(MIXTRAL(",\"num_local_experts\":12,\"num_experts_per_tok\":2"), MG_LAYOUT_HF);
    /* experts 7 and up of layer 0, and everything after, lie in the second shard */
    for (uint32_t t = 0; t < c->base.n_tensors; t++) {
        unsigned l = 99, e = 0;
        bool expert = sscanf(c->base.tensors[t].name, "model.layers.%u.block_sparse_moe.experts.%u", &l, &e) == 2;
        if ((expert && l == 0 && e >= 7) || (l != 99 && l > 0)) c->base.tensors[t].file = 1;
    }
    mg_model *m;
    mg_error err = {0};
    mg_targets t;
    cr_assert_eq(mg_model_open(&m, &c->base, &err), MG_OK, "%s", error_text(&err));
    cr_assert_eq(mg_arch_targets(&t, m->arch, &m->hp, m->layers, MG_LAYOUT_GGUF, mg_model_has, m, &err), MG_OK);
    cr_assert_eq(mg_targets_order(&t, m, &err), MG_OK);
    size_t gate = 0, norm = 0, q = 0;
    for (size_t i = 0; i < t.n; i++) {
        if (strcmp(t.items[i].name, "blk.0.ffn_gate_exps.weight") == 0) gate = i;
        if (strcmp(t.items[i].name, "output_norm.weight") == 0) norm = i;
        if (strcmp(t.items[i].name, "blk.0.attn_v.weight") == 0) q = i;
    }
    cr_assert(gate > norm && gate > q, "after all of the first shard");
    cr_assert_str_eq(t.items[gate + 1].name, "blk.0.ffn_down_exps.weight");
    cr_assert_str_eq(t.items[gate + 2].name, "blk.0.ffn_up_exps.weight");
    mg_targets_release(&t);
    mg_model_free(m);
    mg_checkpoint_free(&c->base);
}

Test(arch, rope_factors_are_the_converters) {
    static const struct {
        const char *config;
        uint32_t n, first;
        uint32_t bits[8];
    } cases[] = {
        /* computed by torch as convert_hf_to_gguf does: head size, theta, factor, original context */
        {LLAMA(",\"head_dim\":16,\"rope_theta\":5e5,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_"
               "freq_factor\":1.0,"
               "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":64}"),
         8,
         0,
         {0x3f800000, 0x401c4dfb, 0x41000000, 0x41000000, 0x41000000, 0x41000000, 0x41000000, 0x41000000}},
        {LLAMA(",\"head_dim\":128,\"rope_theta\":5e5,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_"
               "freq_factor\":1.0,"
               "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192}"),
         64,
         28,
         {0x3f800000, 0x3f9a8ed5, 0x3fc6d64a, 0x4001af1d, 0x402c732e, 0x406bcace, 0x40a83c06, 0x41000000}},
        {LLAMA(",\"head_dim\":64,\"rope_theta\":5e5,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":32.0,\"low_"
               "freq_factor\":1.0,"
               "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192}"),
         32,
         12,
         {0x3f800000, 0x3f800000, 0x3f800000, 0x3fd35ec2, 0x4052b46f, 0x411aaaee, 0x42000000, 0x42000000}},
    };
    for (size_t i = 0; i < 3; i++) {
        mg_model *m = from_config(cases[i].config);
        float f[64];
        uint32_t bits[64];
        cr_assert_eq(mg_arch_rope_factors(f, cases[i].n, &m->hp, NULL), MG_OK);
        memcpy(bits, f, sizeof bits);
        for (int k = 0; k < 8; k++)
            cr_assert_eq(bits[cases[i].first + k], cases[i].bits[k], "case %zu, %d: %08x", i, k,
                         bits[cases[i].first + k]);
        mg_model_free(m);
    }
}

Test(arch, gguf_losses_are_said) {
    char buf[512];
    mg_checkpoint *c;
    mg_model *m = open_path(MODELS "tiny/mistral_swa", &c);
    cr_assert_eq(mg_arch_gguf_losses(m, buf, sizeof buf), 1);
    cr_assert(strstr(buf, "sliding_window' (8)"), "%s", buf);
    mg_model_free(m);
    mg_checkpoint_free(c);
    m = open_path(MODELS "tiny/mistral", &c);
    cr_assert_eq(mg_arch_gguf_losses(m, buf, sizeof buf), 0, "%s", buf);
    mg_model_free(m);
    mg_checkpoint_free(c);
}

/* ---- making ---- */

Test(arch, a_mixtral_config_is_the_bases_own_with_fields_changed) {
    mg_json *base, *made;
    char *text;
    mg_error err = {0};
    cr_assert_eq(mg_json_load(&base, MODELS "donors/prose/config.json", 1 << 20, NULL), MG_OK);
    const mg_arch *mixtral = mg_arch_find("mixtral");
    cr_assert_eq(mg_arch_make_config(&made, mixtral, base, 4, 2, &err), MG_OK, "%s", error_text(&err));
    cr_assert_eq(mg_json_print(&text, made, 2, NULL), MG_OK);
    size_t n = strlen(text);
    cr_assert(strncmp(text, moe4_config, n) == 0 && n + 1 >= strlen(moe4_config), "%s", text);
    free(text);
    mg_json_free(made);
    cr_assert_eq(mg_arch_make_config(&made, mixtral, base, 4, 5, NULL), MG_ERR_CONFLICT);
    cr_assert_eq(mg_arch_make_config(&made, mg_arch_find("llama"), base, 4, 2, NULL), MG_ERR_UNSUPPORTED);
    mg_json_free(base);
    cr_assert(mg_arch_made_from(mixtral, mg_arch_find("llama")) && mg_arch_made_from(mixtral, mg_arch_find("mistral")));
    cr_assert_not(mg_arch_made_from(mixtral, mixtral));
    cr_assert_eq(mg_arch_expert_role(mixtral, MG_R_FFN_UP), MG_R_EXPERT_UP);
    cr_assert_eq(mg_arch_expert_role(mixtral, MG_R_ATTN_Q), MG_ROLE_COUNT);
    /* an unsorted base keeps its order, new fields follow */
    base = parse("{\"model_type\":\"llama\",\"architectures\":[\"LlamaForCausalLM\"],\"vocab_size\":7}");
    cr_assert_eq(mg_arch_make_config(&made, mixtral, base, 2, 1, NULL), MG_OK);
    cr_assert_str_eq(mg_json_key(mg_json_first(made)), "model_type");
    cr_assert_str_eq(mg_json_str(mg_json_first(made)), "mixtral");
    mg_json_free(made);
    mg_json_free(base);
}

Test(arch, biases_have_no_place_in_a_mixtral) {
    mg_checkpoint *c;
    mg_model *m = open_path(MODELS "tiny/llama_rope_linear", &c);
    mg_json *config;
    mg_model *to;
    mg_targets t;
    mg_error err = {0};
    cr_assert_eq(mg_arch_make_config(&config, mg_arch_find("mixtral"), c->config, 2, 1, &err), MG_OK);
    cr_assert_eq(mg_model_from_config(&to, config, &err), MG_OK, "%s", error_text(&err));
    cr_assert_eq(mg_arch_targets(&t, to->arch, &to->hp, to->layers, MG_LAYOUT_HF, mg_model_has, m, &err),
                 MG_ERR_UNSUPPORTED);
    cr_assert(strstr(err.message, "attn_q.bias"), "%s", err.message);
    mg_targets_release(&t);
    mg_model_free(to);
    mg_json_free(config);
    mg_model_free(m);
    mg_checkpoint_free(c);
}

Test(arch, a_config_from_numbers_reads_back_as_the_same_numbers) {
    for (size_t i = 0; i < sizeof tiny / sizeof *tiny; i++) {
        char path[256];
        snprintf(path, sizeof path, MODELS "%s", tiny[i]);
        mg_checkpoint *c;
        mg_model *m = open_path(path, &c), *n;
        mg_json *config;
        mg_error err = {0};
        cr_assert_eq(mg_arch_new_config(&config, m->arch, &m->hp, MG_BF16, &err), MG_OK, "%s", error_text(&err));
        cr_assert_eq(mg_model_from_config(&n, config, &err), MG_OK, "%s", error_text(&err));
        for (int k = 0; k < MG_KEY_COUNT; k++) {
            cr_assert_eq(m->hp.i[k], n->hp.i[k], "%s %s", tiny[i], mg_key_name((mg_key)k));
            cr_assert_eq(m->hp.f[k], n->hp.f[k], "%s %s", tiny[i], mg_key_name((mg_key)k));
        }
        cr_assert_eq(mg_config_dtype(config), MG_BF16);
        cr_assert_eq(mg_config_dtype(c->config), MG_BF16);
        mg_json_free(config);
        mg_model_free(n);
        mg_model_free(m);
        mg_checkpoint_free(c);
    }
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
        cr_assert_eq(mg_arch_find(arch->name), arch);
        bool known[MG_KEY_COUNT] = {false};
        for (uint32_t i = 0; i < arch->n_config; i++) {
            const mg_config_row *r = &arch->config[i];
            if (r->gguf_when == MG_GGUF_FILE_TYPE) continue;
            cr_assert_not(known[r->key], "%s: two rows for %s", arch->name, mg_key_name(r->key));
            const mg_fallback *fb[] = {&r->absent, &r->null, &r->gguf_absent};
            for (int f = 0; f < 3; f++) {
                bool uses = fb[f]->kind == MG_FB_KEY || fb[f]->kind == MG_FB_QUOTIENT;
                cr_assert(!uses || known[fb[f]->key], "%s: %s falls back on a later row", arch->name,
                          mg_key_name(r->key));
            }
            cr_assert(mg_key_kind(r->key) != 'E' || r->names);
            cr_assert(r->gguf_when == MG_GGUF_NEVER || r->gguf);
            known[r->key] = true;
        }
        for (uint32_t i = 0; i < arch->n_tensors; i++)
            cr_assert_eq(mg_arch_row(arch, arch->tensors[i].role), &arch->tensors[i], "%s: two rows for a role",
                         arch->name);
    }
    cr_assert_null(mg_arch_find("nosuch"));
}
