/* Configurations: spellings, defaults, refusals, counts, comparison, and those we write. */
#include "arch_test.h"

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

/* ---- written configurations ---- */

Test(arch_config, a_mixtral_config_is_the_bases_own_with_fields_changed) {
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
    cr_assert_eq(mg_arch_dense_role(mixtral, MG_R_EXPERT_DOWN), MG_R_FFN_DOWN);
    cr_assert_eq(mg_arch_dense_role(mixtral, MG_R_ROUTER), MG_ROLE_COUNT);
    /* an unsorted base keeps its order, new fields follow */
    base = parse("{\"model_type\":\"llama\",\"architectures\":[\"LlamaForCausalLM\"],\"vocab_size\":7,"
                 "\"auto_map\":{\"AutoModel\":\"evil.Model\"}}");
    cr_assert_eq(mg_arch_make_config(&made, mixtral, base, 2, 1, NULL), MG_OK);
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
        cr_assert_eq(mg_config_dtype(config), MG_BF16);
        cr_assert_eq(mg_config_dtype(c->config), MG_BF16);
        mg_json_free(config);
        mg_model_free(n);
        mg_model_free(m);
        mg_checkpoint_free(c);
    }
}
