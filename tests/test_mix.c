/* test_mix.c - the dtypes llama-quantize chooses: eight large models x 32 presets (golden/typemix), the small MoE with
 * and without an importance matrix and with options (golden/gguf/quantize.json), and the command-line forms of rules.
 */
#include <criterion/criterion.h>

#include "formats/base/json.h"
#include "quant/mix.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OK(call)                                                                                                       \
    do {                                                                                                               \
        mg_error e_ = {0};                                                                                             \
        char t_[2048];                                                                                                 \
        (void)t_;                                                                                                      \
        mg_status s_ = call;                                                                                           \
        cr_assert_eq(s_, MG_OK, "%s", mg_error_text(&e_, t_, sizeof t_));                                              \
    } while (0)

static mg_json *load(const char *name) {
    char path[1024];
    snprintf(path, sizeof path, "%s/golden/%s", MG_TEST_DATA, name);
    mg_json *j = NULL;
    OK(mg_json_load(&j, path, 64u << 20, &e_));
    return j;
}

static int by_name(const void *a, const void *b) {
    return mg_mix_compare(((const mg_mix_tensor *)a)->name, ((const mg_mix_tensor *)b)->name);
}

static uint64_t number(const mg_json *obj, const char *key) {
    uint64_t v = 0;
    cr_assert(mg_json_u64(mg_json_get(obj, key), &v), "%s", key);
    return v;
}

/* shape: array; torch order when reversed is set, else GGUF order. */
static void set_shape(mg_mix_tensor *t, const mg_json *shape, bool reversed) {
    size_t n = mg_json_len(shape), i = 0;
    cr_assert(n >= 1 && n <= 4);
    for (int k = 0; k < 4; k++) t->ne[k] = 1;
    for (const mg_json *d = mg_json_first(shape); d; d = mg_json_next(d), i++)
        cr_assert(mg_json_u64(d, &t->ne[reversed ? n - 1 - i : i]));
    t->source = n == 1 || strstr(t->name, "ffn_gate_inp") ? MG_F32 : MG_BF16;
}

static uint64_t compare_model(const char *model_name, const mg_json *model) {
    const mg_json *kv = mg_json_get(model, "kv"), *list = mg_json_get(model, "tensors");
    mg_mix_model m = {.arch = mg_json_str(mg_json_get(model, "arch")),
                      .n_layer = number(kv, "block_count"),
                      .n_head = number(kv, "head_count"),
                      .n_head_kv = number(kv, "head_count_kv"),
                      .n_expert = number(kv, "expert_count")};
    uint32_t n = (uint32_t)mg_json_len(list), i = 0;
    mg_mix_tensor *t = calloc(n, sizeof *t);
    for (const mg_json *it = mg_json_first(list); it; it = mg_json_next(it), i++) {
        t[i].name = mg_json_str(mg_json_first(it));
        set_shape(&t[i], mg_json_next(mg_json_first(it)), true);
    }
    qsort(t, n, sizeof *t, by_name);
    uint64_t checked = 0;
    for (const mg_json *p = mg_json_first(mg_json_get(model, "presets")); p; p = mg_json_next(p)) {
        mg_mix_options o = MG_MIX_OPTIONS_INIT;
        o.preset = mg_preset_find(mg_json_key(p));
        cr_assert_not_null(o.preset, "%s", mg_json_key(p));
        mg_error err = {0};
        mg_status st = mg_mix_choose(&o, &m, t, n, &err);
        if (mg_json_get(p, "refused")) {
            cr_assert_eq(st, MG_ERR_UNSUPPORTED, "%s %s", model_name, mg_json_key(p));
            checked++;
            continue;
        }
        cr_assert_eq(st, MG_OK, "%s %s: %s", model_name, mg_json_key(p), err.message);
        cr_assert_eq(number(p, "n"), n);
        const mg_json *others = mg_json_get(p, "others");
        for (i = 0; i < n; i++) {
            if (t[i].source == MG_F32) {
                cr_expect_eq(t[i].target, MG_F32, "%s", t[i].name);
                continue;
            }
            const char *want = mg_json_str(mg_json_get(others, t[i].name));
            if (!want) want = mg_json_str(mg_json_get(p, "default"));
            cr_expect_eq(t[i].target, mg_dtype_from_name(want), "%s %s %s: %s, expected %s", model_name, mg_json_key(p),
                         t[i].name, mg_dtype_get(t[i].target)->name, want);
            checked++;
        }
    }
    free(t);
    return checked;
}

Test(mix, all_large_models) {
    mg_json *j = load("typemix/mix.json");
    uint64_t checked = 0;
    for (const mg_json *m = mg_json_first(j); m; m = mg_json_next(m)) checked += compare_model(mg_json_key(m), m);
    cr_assert_gt(checked, 60000u, "only %llu decisions compared", (unsigned long long)checked);
    mg_json_free(j);
}

/* The small MoE: types of every entry, by name of the entry. */
static void compare_small(const mg_json *entry, const char *key, mg_mix_options o) {
    const mg_json *list = mg_json_get(entry, "tensors");
    mg_mix_model m = {.arch = "llama", .n_layer = 4, .n_head = 4, .n_head_kv = 2, .n_expert = 4};
    uint32_t n = (uint32_t)mg_json_len(list), i = 0;
    cr_assert_gt(n, 30u, "%s", key);
    mg_mix_tensor *t = calloc(n, sizeof *t);
    for (const mg_json *it = mg_json_first(list); it; it = mg_json_next(it), i++) {
        t[i].name = mg_json_key(it);
        set_shape(&t[i], mg_json_next(mg_json_first(it)), false);
        if (i) cr_expect_lt(mg_mix_compare(t[i - 1].name, t[i].name), 0, "file order of %s", t[i].name);
    }
    OK(mg_mix_choose(&o, &m, t, n, &e_));
    for (i = 0; i < n; i++) {
        const char *want = mg_json_str(mg_json_first(mg_json_get(list, t[i].name)));
        cr_expect_eq(t[i].target, mg_dtype_from_name(want), "%s %s: %s, expected %s", key, t[i].name,
                     mg_dtype_get(t[i].target)->name, want);
        cr_expect_eq(t[i].wanted, t[i].target);
    }
    free(t);
}

Test(mix, small_moe_every_preset_with_and_without_imatrix) {
    mg_json *j = load("gguf/quantize.json");
    unsigned compared = 0;
    for (const mg_json *e = mg_json_first(j); e; e = mg_json_next(e)) {
        const char *key = mg_json_key(e), *plus = strchr(key, '+');
        if (strchr(key, ' ') || mg_json_get(e, "refused")) continue;
        char preset[32];
        snprintf(preset, sizeof preset, "%.*s", (int)(plus ? plus - key : (int)strlen(key)), key);
        mg_mix_options o = MG_MIX_OPTIONS_INIT;
        o.preset = mg_preset_find(preset);
        cr_assert_not_null(o.preset, "%s", key);
        o.have_imatrix = plus != NULL;
        compare_small(e, key, o);
        compared++;
    }
    cr_assert_gt(compared, 55u);
    mg_json_free(j);
}

Test(mix, small_moe_options) {
    mg_json *j = load("gguf/quantize.json");
    mg_mix_options o = MG_MIX_OPTIONS_INIT;
    o.preset = mg_preset_get(MG_PRESET_Q4_K_M);
    mg_mix_options pure = o, leave = o, types = o, rules = o;
    pure.pure = true;
    compare_small(mg_json_get(j, "pure Q4_K"), "pure Q4_K", pure);
    pure.preset = mg_preset_get(MG_PRESET_Q6_K);
    compare_small(mg_json_get(j, "pure Q6_K"), "pure Q6_K", pure);
    leave.leave_output = true;
    compare_small(mg_json_get(j, "leave-output Q4_K_M"), "leave-output", leave);
    types.preset = mg_preset_get(MG_PRESET_Q3_K_M);
    types.output_type = MG_F16;
    types.embd_type = MG_Q8_0;
    compare_small(mg_json_get(j, "output f16 embd q8_0 Q3_K_M"), "types", types);
    mg_type_rules r;
    mg_type_rules_init(&r);
    OK(mg_type_rules_add(&r, "BLK\\.[01]\\.attn_q=q8_0", &e_));
    OK(mg_type_rules_add(&r, "ffn_down=Q6_K", &e_));
    rules.rules = &r;
    compare_small(mg_json_get(j, "tensor-type Q4_K_M"), "tensor-type", rules);
    mg_type_rules_release(&r);
    mg_json_free(j);
}

Test(mix, names_numbers_and_aliases) {
    cr_expect_eq(mg_preset_find("q4_k_m")->id, MG_PRESET_Q4_K_M);
    cr_expect_eq(mg_preset_find("Q4_K")->id, MG_PRESET_Q4_K_M);
    cr_expect_eq(mg_preset_find("Q3_k")->id, MG_PRESET_Q3_K_M);
    cr_expect_eq(mg_preset_find("15")->id, MG_PRESET_Q4_K_M);
    cr_expect_eq(mg_preset_find("0")->id, MG_PRESET_F32);
    cr_expect_eq(mg_preset_find("38")->id, MG_PRESET_MXFP4_MOE);
    cr_expect_eq(mg_preset_find("copy")->id, MG_PRESET_COPY);
    cr_expect_null(mg_preset_find("4"));
    cr_expect_null(mg_preset_find("39"), "NVFP4 has no number on llama-quantize's command line");
    cr_expect_null(mg_preset_find("2bit.gguf"));
    cr_expect_null(mg_preset_find("-7"));
    cr_expect_null(mg_preset_find(""));
    const mg_preset *p;
    mg_error err = {0};
    cr_expect_eq(mg_preset_parse("Q4_K_N", &p, &err), MG_ERR_USAGE);
    cr_expect(strstr(err.message, "Q4_K_"), "%s", err.message);
    unsigned real = 0;
    for (int i = 0; i < MG_PRESET_COUNT; i++)
        real += i != MG_PRESET_COPY && i != MG_PRESET_NVFP4 && i != MG_PRESET_MXFP4;
    cr_expect_eq(real, 35u);
}

static mg_mix_tensor tensor(const char *name, uint64_t a, uint64_t b, uint64_t c) {
    return (mg_mix_tensor){.name = name, .ne = {a, b, c, 1}, .source = MG_BF16};
}

Test(mix, fallback_and_refusal) {
    const struct {
        mg_preset_id preset;
        uint64_t cols;
        mg_dtype want;
    } cases[] = {{MG_PRESET_Q4_K_S, 1056, MG_Q5_0},   {MG_PRESET_Q5_K_S, 1056, MG_Q5_1},
                 {MG_PRESET_Q6_K, 1056, MG_Q8_0},     {MG_PRESET_Q3_K_S, 1056, MG_Q4_0},
                 {MG_PRESET_IQ4_XS, 1056, MG_IQ4_NL}, {MG_PRESET_Q6_K, 1000, MG_F16},
                 {MG_PRESET_Q8_0, 1000, MG_F16},      {MG_PRESET_IQ3_S, 1056, MG_IQ4_NL}};
    mg_mix_model m = {.arch = "llama", .n_layer = 32, .n_head = 32, .n_head_kv = 32};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mg_mix_tensor t = tensor("blk.9.attn_q.weight", cases[i].cols, 64, 1);
        mg_mix_options o = MG_MIX_OPTIONS_INIT;
        o.preset = mg_preset_get(cases[i].preset);
        OK(mg_mix_choose(&o, &m, &t, 1, &e_));
        cr_expect_eq(t.target, cases[i].want, "%s", o.preset->name);
        cr_expect_eq(t.wanted, o.preset->dtype);
        o.no_fallback = true;
        mg_error err = {0};
        cr_expect_eq(mg_mix_choose(&o, &m, &t, 1, &err), MG_ERR_UNSUPPORTED);
        cr_expect(strstr(err.message, "--no-fallback") && strcmp(err.tensor, t.name) == 0, "%s", err.message);
    }
    mg_mix_tensor out = tensor("output.weight", 1056, 64, 1);
    mg_mix_options o = MG_MIX_OPTIONS_INIT;
    mg_error err = {0};
    o.preset = mg_preset_get(MG_PRESET_Q8_0);
    o.output_type = MG_Q4_K;
    cr_expect_eq(mg_mix_choose(&o, &m, &out, 1, &err), MG_ERR_UNSUPPORTED, "an option's type has no fallback");
}

Test(mix, families_with_their_own_rules) {
    mg_mix_options o = MG_MIX_OPTIONS_INIT;
    mg_mix_tensor t[3];
    o.preset = mg_preset_get(MG_PRESET_Q4_K_M);
    mg_mix_model m = {.arch = "falcon", .n_layer = 32, .n_head = 71, .n_head_kv = 71};
    t[0] = tensor("output.weight", 1024, 64, 1);
    t[1] = tensor("blk.0.ffn_down.weight", 1024, 64, 1);
    OK(mg_mix_choose(&o, &m, t, 2, &e_));
    cr_expect_eq(t[0].target, MG_Q8_0);
    cr_expect_eq(t[1].target, MG_Q6_K);
    m.arch = "glm5-next";
    t[0] = tensor("blk.0.attn_q_a.weight", 1024, 64, 1);
    t[1] = tensor("blk.0.hc_attn.weight", 1024, 64, 1);
    OK(mg_mix_choose(&o, &m, t, 2, &e_));
    cr_expect_eq(t[0].target, MG_Q8_0);
    cr_expect(t[1].kept);
    m.arch = "bailingmoe3";
    o.preset = mg_preset_get(MG_PRESET_MXFP4_MOE);
    t[0] = tensor("output.weight", 1024, 64, 1); /* so that token_embd is not tied */
    t[1] = tensor("blk.0.attn_k_b.weight", 1024, 64, 16);
    t[2] = tensor("blk.0.ffn_up_exps.weight", 1024, 64, 16);
    OK(mg_mix_choose(&o, &m, t, 3, &e_));
    cr_expect_eq(t[1].target, MG_Q8_0);
    cr_expect_eq(t[2].target, MG_MXFP4);
    m.arch = "llama";
    OK(mg_mix_choose(&o, &m, t, 3, &e_));
    cr_expect_eq(t[1].target, MG_MXFP4);
}

Test(mix, imatrix_needed) {
    mg_mix_model m = {.arch = "llama", .n_layer = 32, .n_head = 32, .n_head_kv = 32};
    mg_mix_options o = MG_MIX_OPTIONS_INIT;
    mg_mix_tensor t[2] = {tensor("output.weight", 1024, 64, 1), tensor("blk.9.attn_q.weight", 1024, 64, 1)};
    o.preset = mg_preset_get(MG_PRESET_Q2_K_S);
    OK(mg_mix_choose(&o, &m, t, 2, &e_));
    cr_expect(!t[0].needs_imatrix && t[1].needs_imatrix);
    o.preset = mg_preset_get(MG_PRESET_Q2_K);
    OK(mg_mix_choose(&o, &m, t, 2, &e_));
    cr_expect(!t[0].needs_imatrix && !t[1].needs_imatrix);
    o.preset = mg_preset_get(MG_PRESET_IQ2_XXS);
    o.pure = true;
    OK(mg_mix_choose(&o, &m, t, 2, &e_));
    cr_expect(!t[0].needs_imatrix && t[1].needs_imatrix);
    cr_expect_eq(t[0].target, MG_IQ2_XXS);
}

Test(mix, experts_need_a_block_number) {
    mg_mix_model m = {.arch = "llama", .n_layer = 4, .n_head = 4, .n_head_kv = 2, .n_expert = 4};
    mg_mix_options o = MG_MIX_OPTIONS_INIT;
    o.preset = mg_preset_get(MG_PRESET_Q4_K_M);
    mg_mix_tensor t = tensor("blk.4.ffn_down_exps.weight", 1024, 64, 4);
    mg_error err = {0};
    cr_expect_eq(mg_mix_choose(&o, &m, &t, 1, &err), MG_ERR_FORMAT);
    t.name = "ffn_down_exps.weight";
    err = (mg_error){0};
    cr_expect_eq(mg_mix_choose(&o, &m, &t, 1, &err), MG_ERR_FORMAT);
}

Test(mix, rule_patterns) {
    const struct {
        const char *rule, *name;
        bool hit;
    } cases[] = {
        {"attn_q=q8_0", "blk.1.attn_q.weight", true},
        {"ATTN_Q=q8_0", "blk.1.attn_q.weight", true},
        {"^attn_q=q8_0", "blk.1.attn_q.weight", false},
        {"blk\\.\\d+\\.attn_(?:q|k)=q8_0", "blk.11.attn_k.weight", true},
        {"blk\\.([0-9]|1[0-5])\\.ffn.*?up=q8_0", "blk.15.ffn_up_exps.weight", true},
        {"blk\\.([0-9]|1[0-5])\\.ffn.*?up=q8_0", "blk.16.ffn_up_exps.weight", false},
        {"blk\\.[\\d]\\.=q8_0", "blk.7.attn_k.weight", true},
        {"blk\\.[\\d]\\.=q8_0", "blk.d.attn_k.weight", false},
        {"\\w+_exps\\.weight$=q8_0", "blk.0.ffn_up_exps.weight", true},
        {"blk.{1,3}attn=q8_0", "blk.7.attn_k.weight", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mg_type_rules r;
        mg_type_rules_init(&r);
        OK(mg_type_rules_add(&r, cases[i].rule, &e_));
        cr_expect_eq(mg_type_rules_match(&r, cases[i].name), cases[i].hit ? MG_Q8_0 : MG_DTYPE_COUNT, "%s on %s",
                     cases[i].rule, cases[i].name);
        mg_type_rules_release(&r);
    }
    const struct {
        const char *rule;
        mg_status want;
    } bad[] = {{"attn_q", MG_ERR_USAGE},
               {"=q8_0", MG_ERR_USAGE},
               {"attn=", MG_ERR_USAGE},
               {"attn=q9_0", MG_ERR_USAGE},
               {"attn(=q8_0", MG_ERR_USAGE},
               {"attn[=q8_0", MG_ERR_USAGE},
               {"a(?=b)=q8_0", MG_ERR_USAGE},
               {"a(?!b)=q8_0", MG_ERR_UNSUPPORTED},
               {"\\u0041=q8_0", MG_ERR_UNSUPPORTED},
               {"attn=U16", MG_ERR_USAGE}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        mg_type_rules r;
        mg_type_rules_init(&r);
        mg_error err = {0};
        cr_expect_eq(mg_type_rules_add(&r, bad[i].rule, &err), bad[i].want, "%s", bad[i].rule);
        cr_expect_eq(mg_type_rules_match(&r, "attn"), MG_DTYPE_COUNT);
        mg_type_rules_release(&r);
    }
}
