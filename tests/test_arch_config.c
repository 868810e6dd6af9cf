/* Configurations: spellings, defaults, refusals, counts, comparison, and those we write. */
#include "arch_test.h"

#include <math.h>

Test(arch_config, spellings_of_transformers_4_and_5_are_one) {
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

Test(arch_config, rope_scaling_replaces_rope_parameters_as_a_whole) {
    mg_model *m = from_config(LLAMA(",\"rope_theta\":7e4,\"rope_scaling\":{\"type\":\"linear\",\"factor\":2},"
                                    "\"rope_parameters\":{\"rope_theta\":9e4,\"rope_type\":\"default\"}"));
    cr_assert_eq(mg_hp_f(m, MG_K_ROPE_THETA), 7e4);
    cr_assert_eq(mg_hp_i(m, MG_K_ROPE_TYPE), MG_ROPE_LINEAR);
    mg_model_free(m);
    m = from_config(LLAMA(",\"rope_scaling\":{},\"rope_parameters\":{\"rope_theta\":9e4}"));
    cr_assert_eq(mg_hp_f(m, MG_K_ROPE_THETA), 9e4);
    mg_model_free(m);
}

Test(arch_config, defaults_are_those_of_the_configuration_classes) {
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

Test(arch_config, bad_configurations_are_refused_by_name) {
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
         "of method \"awq\""},
        {"{\"model_type\":\"mixtral\",\"num_local_experts\":0}", MG_ERR_CONFLICT, "num_local_experts' is 0"},
        {"{\"model_type\":\"stablelm\",\"qk_layernorm\":true}", MG_ERR_UNSUPPORTED, "qk_layernorm"},
        {"{\"model_type\":\"stablelm\",\"use_parallel_residual\":true}", MG_ERR_UNSUPPORTED, "use_parallel_residual"},
        {"{\"model_type\":\"gemma2\",\"layer_types\":[\"full_attention\"]}", MG_ERR_CONFLICT, "layer_types"},
        {"{\"model_type\":\"gemma2\",\"num_hidden_layers\":1,\"layer_types\":[\"linear_attention\"]}",
         MG_ERR_UNSUPPORTED, "linear_attention"},
        {"{\"model_type\":\"gemma2\",\"num_hidden_layers\":1,\"layer_types\":[7]}", MG_ERR_CONFLICT, "layer_types"},
        {"{\"model_type\":\"smollm3\",\"num_hidden_layers\":1,\"no_rope_layers\":[\"x\"]}", MG_ERR_CONFLICT,
         "no_rope_layers"},
        {"{\"model_type\":\"gemma3_text\",\"rope_parameters\":{\"sliding_attention\":{\"rope_type\":\"linear\"}}}",
         MG_ERR_UNSUPPORTED, "linear"},
        {"{\"model_type\":\"gemma\",\"use_bidirectional_attention\":true}", MG_ERR_UNSUPPORTED, "later tokens"},
        {"{\"model_type\":\"phi3\",\"rope_scaling\":{\"type\":\"su\",\"long_factor\":[1]}}", MG_ERR_CONFLICT,
         "short_factor' has 0 values, expected 48"},
        {"{\"model_type\":\"phi3\",\"head_dim\":2,\"rope_scaling\":{\"type\":\"yarn\",\"short_factor\":[1],"
         "\"long_factor\":[-1]}}",
         MG_ERR_CONFLICT, "long_factor' of pair 0 is -1"},
        {"{\"model_type\":\"phi3\",\"rope_scaling\":{\"type\":\"su\",\"long_factor\":[\"x\"]}}", MG_ERR_CONFLICT,
         "no number"},
        {"{\"model_type\":\"phi3\",\"rope_scaling\":{\"type\":\"su\",\"long_factor\":7}}", MG_ERR_CONFLICT,
         "not a list"},
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
Test(arch_config, every_field_survives_every_value) {
    static const char *const fields[] = {"num_hidden_layers",
                                         "hidden_size",
                                         "intermediate_size",
                                         "num_attention_heads",
                                         "num_key_value_heads",
                                         "head_dim",
                                         "vocab_size",
                                         "max_position_embeddings",
                                         "rms_norm_eps",
                                         "rope_theta",
                                         "rope_scaling",
                                         "rope_parameters",
                                         "sliding_window",
                                         "num_local_experts",
                                         "num_experts_per_tok",
                                         "tie_word_embeddings",
                                         "hidden_act",
                                         "eos_token_id",
                                         "attention_bias",
                                         "original_max_position_embeddings",
                                         "architectures",
                                         "model_type",
                                         "quantization_config",
                                         "layer_types",
                                         "partial_rotary_factor",
                                         "query_pre_attn_scalar",
                                         "sliding_window_pattern",
                                         "rope_local_base_freq"};
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
    static const char *const families[] = {"llama", "mistral", "mixtral", "phi3", "gemma3_text", "stablelm"};
    size_t n_fields = sizeof fields / sizeof *fields, n_values = sizeof values / sizeof *values, accepted = 0,
           refused = 0;
    for (size_t f = 0; f < 6 * n_fields * n_values; f++) {
        char text[1024];
        mg_json *j = NULL;
        mg_model *m = NULL;
        mg_error err = {0};
        const char *field = fields[f / 6 % n_fields];
        bool own = strcmp(field, "model_type") == 0;
        snprintf(text, sizeof text, "{%s%s%s\"%s\":%s}", own ? "" : "\"model_type\":\"", own ? "" : families[f % 6],
                 own ? "" : "\",", field, values[f / 6 / n_fields]);
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
        mg_counts c = mg_model_counts(m, 0);
        cr_assert(c.total >= c.active && c.total >= c.non_embedding && c.total < 100000000000000000ull, "%s", text);
        mg_model_free(m);
        accepted++;
    }
    cr_assert(accepted > 300 && refused > 300, "%zu accepted, %zu refused", accepted, refused);
}

Test(arch_config, models_are_compared_key_by_key) {
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

Test(arch_config, counts_of_known_models) {
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
        mg_counts c = mg_model_counts(m, 0);
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

/* Totals as transformers counts the parameters of models made from these configurations. */
Test(arch_config, counts_of_dense_families) {
    static const struct {
        const char *config;
        uint64_t total;
    } known[] = {
        {"{\"model_type\":\"qwen2\",\"hidden_size\":3584,\"intermediate_size\":18944,\"num_hidden_layers\":28,"
         "\"num_attention_heads\":28,\"num_key_value_heads\":4,\"vocab_size\":152064}",
         7615616512},
        {"{\"model_type\":\"qwen3\",\"intermediate_size\":12288,\"num_hidden_layers\":36,\"num_key_value_heads\":8}",
         8190735360},
        {"{\"model_type\":\"smollm3\"}", 3075098624},
        {"{\"model_type\":\"stablelm\",\"hidden_size\":2048,\"intermediate_size\":5632,\"num_hidden_layers\":24,"
         "\"vocab_size\":100352,\"use_qkv_bias\":true}",
         1644515328},
        {"{\"model_type\":\"olmo2\",\"vocab_size\":100352}", 7298617344},
        {"{\"model_type\":\"phi3\"}", 3821079552},
        {"{\"model_type\":\"granite\",\"hidden_size\":2048,\"intermediate_size\":8192,\"num_hidden_layers\":40,"
         "\"num_key_value_heads\":8,\"vocab_size\":49152,\"tie_word_embeddings\":true}",
         2533525504},
        {"{\"model_type\":\"gemma\"}", 8537680896},
        {"{\"model_type\":\"gemma2\"}", 2614341888},
        {"{\"model_type\":\"gemma3_text\",\"hidden_size\":1152,\"intermediate_size\":6912,\"num_attention_heads\":4,"
         "\"num_key_value_heads\":1,\"vocab_size\":262144}",
         999885952},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        mg_model *m = from_config(known[i].config);
        mg_counts c = mg_model_counts(m, 0);
        cr_assert_eq(c.total, known[i].total, "%s: %llu", known[i].config, (unsigned long long)c.total);
        cr_assert_eq(c.active, c.total);
        mg_model_free(m);
    }
}

/* Layers with a window (w), without rotation (n), with frequencies of their own (l). */
static void expect_layers(const char *config, const char *want) {
    mg_model *m = from_config(config);
    char found[64] = "";
    for (int64_t l = 0; l < mg_hp_i(m, MG_K_LAYERS); l++) {
        const mg_layer *x = &m->layers[l];
        strcat(found, x->rope_plain ? "l" : x->window ? "w" : !x->rope ? "n" : ".");
        cr_assert(!x->rope_plain || (x->window && x->rope_theta == 500));
    }
    cr_assert_str_eq(found, want, "%s", config);
    mg_model_free(m);
}

Test(arch_config, windows_and_rotation_by_layer) {
#define SIX(type, rest) "{\"model_type\":\"" type "\",\"num_hidden_layers\":6" rest "}"
    expect_layers(SIX("qwen2", ""), "......");
    expect_layers(SIX("qwen2", ",\"sliding_window\":7,\"max_window_layers\":2"), "......");
    expect_layers(SIX("qwen2", ",\"use_sliding_window\":true,\"max_window_layers\":2"), "..wwww");
    expect_layers(SIX("qwen3", ",\"use_sliding_window\":true,\"layer_types\":[\"full_attention\",\"sliding_attention\","
                               "\"full_attention\",\"full_attention\",\"sliding_attention\",\"full_attention\"]"),
                  ".w..w.");
    expect_layers(SIX("phi3", ",\"sliding_window\":7"), "wwwwww");
    expect_layers(SIX("smollm3", ""), "...n..");
    expect_layers(SIX("smollm3", ",\"no_rope_layer_interval\":2"), ".n.n.n");
    expect_layers(SIX("smollm3", ",\"no_rope_layers\":[1,0,0,1,1,1]"), ".nn...");
    expect_layers(SIX("gemma2", ""), "w.w.w.");
    expect_layers(SIX("gemma3_text", ",\"rope_local_base_freq\":500.0"), "lllll.");
    expect_layers(SIX("gemma3_text", ",\"rope_local_base_freq\":500.0,\"sliding_window_pattern\":3"), "ll.ll.");
    expect_layers(SIX("gemma3_text", ",\"rope_parameters\":{\"sliding_attention\":{\"rope_theta\":500.0}},"
                                     "\"sliding_window_pattern\":2"),
                  "l.l.l.");
}

/* A list is the period it amounts to, where it amounts to one; else it cannot be written from numbers. */
Test(arch_config, lists_of_layers_become_periods) {
    mg_model *m = from_config(SIX("smollm3", ",\"no_rope_layers\":[1,1,0,1,1,0]"));
    cr_assert_eq(mg_hp_i(m, MG_K_NOPE_PERIOD), 3);
    mg_json *j;
    mg_error err = {0};
    cr_assert_eq(mg_arch_new_config(&j, m->arch, &m->hp, MG_BF16, &err), MG_OK);
    cr_assert_eq(mg_json_len(mg_json_get(j, "no_rope_layers")), 6);
    mg_json_free(j);
    mg_model_free(m);
    m = from_config(SIX("smollm3", ",\"no_rope_layers\":[0,1,0,1,1,0]"));
    cr_assert_eq(mg_hp_i(m, MG_K_NOPE_PERIOD), -1);
    cr_assert_eq(mg_arch_new_config(&j, m->arch, &m->hp, MG_BF16, &err), MG_ERR_UNSUPPORTED);
    char text[512];
    cr_assert_eq(mg_arch_gguf_losses(m, text, sizeof text), 1);
    cr_assert(strstr(text, "no_rope_layer_interval"), "%s", text);
    mg_kvs kv;
    mg_kvs_init(&kv);
    cr_assert_eq(mg_arch_gguf_keys(&kv, m->arch, &m->hp, 0, &err), MG_OK, "%s", error_text(&err));
    cr_assert_null(mg_kvs_get(&kv, "smollm3.rope.no_rope_layer_interval"));
    mg_kvs_release(&kv);
    mg_model_free(m);
}

Test(arch_config, numbers_of_dense_families) {
    mg_model *m = from_config("{\"model_type\":\"stablelm\",\"partial_rotary_factor\":0.4}"); /* heads of 80 */
    cr_assert_eq(mg_hp_i(m, MG_K_ROPE_DIM), 32);
    mg_model_free(m);
    m = from_config(
        "{\"model_type\":\"stablelm\",\"rope_parameters\":{\"partial_rotary_factor\":0.5,\"rope_theta\":9e4}}");
    cr_assert(mg_hp_i(m, MG_K_ROPE_DIM) == 40 && mg_hp_f(m, MG_K_ROPE_THETA) == 9e4);
    mg_model_free(m);
    m = from_config("{\"model_type\":\"gemma2\",\"attn_logit_softcapping\":null,\"query_pre_attn_scalar\":144}");
    cr_assert(mg_hp_f(m, MG_K_ATTN_SOFTCAP) == 0 && mg_hp_f(m, MG_K_FINAL_SOFTCAP) == 30);
    cr_assert(mg_hp_i(m, MG_K_ATTN_SCALE_DIM) == 144 && mg_hp_f(m, MG_K_EMBED_SCALE) == sqrt(2304));
    mg_model_free(m);
    m = from_config("{\"model_type\":\"gemma\",\"hidden_act\":\"gelu\"}");
    cr_assert_eq(mg_hp_i(m, MG_K_ACT), MG_ACT_GELU_TANH, "the first files say gelu and mean its tanh form");
    mg_model_free(m);
    m = from_config("{\"model_type\":\"granite\"}");
    cr_assert_eq(mg_hp_f(m, MG_K_ATTN_SCALE), 1, "the class's default, not the root of the head size");
    mg_model_free(m);
    m = from_config(
        SIX("gemma3_text", ",\"rope_theta\":7e5,\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":8.0}"));
    cr_assert(mg_hp_f(m, MG_K_ROPE_THETA) == 7e5 && mg_hp_f(m, MG_K_ROPE_FACTOR) == 8);
    cr_assert(mg_hp_f(m, MG_K_ROPE_THETA_LOCAL) == 10000 && m->layers[0].rope_plain && !m->layers[5].rope_plain);
    mg_model_free(m);
}

/* ---- written configurations ---- */

Test(arch_config, a_mixtral_config_is_the_bases_own_with_fields_changed) {
    mg_json *base, *made;
    char *text;
    mg_error err = {0};
    cr_assert_eq(mg_json_load(&base, MODELS "donors/prose/config.json", 1 << 20, NULL), MG_OK);
    const mg_arch *mixtral = mg_arch_find("mixtral");
    cr_assert_eq(mg_arch_make_config(&made, mixtral, base, &(mg_moe_shape){.experts = 4, .used = 2}, &err), MG_OK, "%s", error_text(&err));
    cr_assert_eq(mg_json_print(&text, made, 2, NULL), MG_OK);
    size_t n = strlen(text);
    cr_assert(strncmp(text, moe4_config, n) == 0 && n + 1 >= strlen(moe4_config), "%s", text);
    free(text);
    mg_json_free(made);
    cr_assert_eq(mg_arch_make_config(&made, mixtral, base, &(mg_moe_shape){.experts = 4, .used = 5}, NULL), MG_ERR_CONFLICT);
    cr_assert_eq(mg_arch_make_config(&made, mg_arch_find("llama"), base, &(mg_moe_shape){.experts = 4, .used = 2}, NULL), MG_ERR_UNSUPPORTED);
    mg_json_free(base);
    cr_assert(mg_arch_made_from(mixtral, mg_arch_find("llama")) && mg_arch_made_from(mixtral, mg_arch_find("mistral")));
    cr_assert_not(mg_arch_made_from(mixtral, mixtral));
    cr_assert_eq(mg_arch_expert_role(mixtral, MG_R_FFN_UP), MG_R_EXPERT_UP);
    cr_assert_eq(mg_arch_expert_role(mixtral, MG_R_ATTN_Q), MG_ROLE_COUNT);
    cr_assert_eq(mg_arch_dense_role(mixtral, MG_R_EXPERT_DOWN), MG_R_FFN_DOWN);
    cr_assert_eq(mg_arch_dense_role(mixtral, MG_R_ROUTER), MG_ROLE_COUNT);
    /* an unsorted base keeps its order, new fields follow */
    base = parse("{\"model_type\":\"llama\",\"architectures\":[\"LlamaForCausalLM\"],\"vocab_size\":7,"
                 "\"auto_map\":{\"AutoModel\":\"evil.Model\"}}");
    cr_assert_eq(mg_arch_make_config(&made, mixtral, base, &(mg_moe_shape){.experts = 2, .used = 1}, NULL), MG_OK);
    cr_assert_str_eq(mg_json_key(mg_json_first(made)), "model_type");
    cr_assert_str_eq(mg_json_str(mg_json_first(made)), "mixtral");
    cr_assert_null(mg_json_get(made, "auto_map"), "remote code is not passed on");
    mg_json_free(made);
    mg_json_free(base);
}

Test(arch_config, a_config_from_numbers_reads_back_as_the_same_numbers) {
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
        cr_assert(memcmp(m->hp.rope_factors, n->hp.rope_factors, sizeof m->hp.rope_factors) == 0, "%s", tiny[i]);
        cr_assert_eq(mg_config_dtype(config), MG_BF16);
        cr_assert_eq(mg_config_dtype(c->config), MG_BF16);
        mg_json_free(config);
        mg_model_free(n);
        mg_model_free(m);
        mg_checkpoint_free(c);
    }
}
