/* test_merge_spec.c - what a mergekit-moe recipe may say, and what is said about one that may not. */
#include <criterion/criterion.h>

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "convert/merge_spec.h"
#include "formats/base/file.h"

static char dir[64], path[128];

static void setup(void) {
    char sub[128];
    snprintf(dir, sizeof dir, "/tmp/mg_spec_XXXXXX");
    cr_assert(mkdtemp(dir));
    for (const char *d = "abc"; *d; d++) {
        snprintf(sub, sizeof sub, "%s/%c", dir, *d);
        cr_assert(mkdir(sub, 0700) == 0);
    }
    snprintf(path, sizeof path, "%s/moe.yml", dir);
}

static void teardown(void) {
    char sub[128];
    for (const char *d = "abc"; *d; d++) {
        snprintf(sub, sizeof sub, "%s/%c", dir, *d);
        rmdir(sub);
    }
    snprintf(sub, sizeof sub, "%s/prompts.txt", dir);
    unlink(sub);
    unlink(path);
    rmdir(dir);
}

TestSuite(merge_spec, .init = setup, .fini = teardown);

static void put(const char *file, const char *text, size_t n) {
    FILE *f = fopen(file, "wb");
    cr_assert(f && fwrite(text, 1, n, f) == n && fclose(f) == 0);
}

static mg_status load(const char *text, mg_merge_spec **s, mg_error *err) {
    *err = (mg_error){0};
    put(path, text, strlen(text));
    return mg_merge_spec_load(s, path, err);
}

#define TWO                                                                                                            \
    "base_model: a\nexperts:\n  - source_model: b\n    positive_prompts: [one, two]\n  - source_model: c\n"            \
    "    positive_prompts:\n      - three\n    negative_prompts: [four]\n    residual_scale: 0.5\n"

Test(merge_spec, reads_everything) {
    mg_merge_spec *s;
    mg_error err;
    const char *text = TWO "gate_mode: cheap_embed\ndtype: bfloat16\nexperts_per_token: 1\narchitecture: mixtral\n";
    cr_assert(load(text, &s, &err) == MG_OK, "%s", err.message);
    cr_expect_str_eq(s->base, "a");
    cr_expect(strncmp(s->base_path, dir, strlen(dir)) == 0);
    cr_expect_eq(s->n_experts, 2);
    cr_expect_eq(s->experts_per_token, 1);
    cr_expect(s->gate_mode == MG_GATE_CHEAP_EMBED && s->gate_mode_given && s->dtype == MG_BF16);
    cr_expect_str_eq(s->architecture, "mixtral");
    cr_expect(s->experts[0].positive.n == 2 && !strcmp(s->experts[0].positive.text[1], "two"));
    cr_expect(s->experts[0].negative.n == 0 && s->experts[0].residual_scale == 1);
    cr_expect(s->experts[1].negative.n == 1 && s->experts[1].residual_scale == 0.5);
    cr_expect(s->text_size == strlen(text) && !memcmp(s->text, text, s->text_size));
    cr_expect(mg_merge_spec_check(s, false, &err) == MG_OK, "%s", err.message);
    mg_merge_spec_free(s);
}

Test(merge_spec, defaults) {
    mg_merge_spec *s;
    mg_error err;
    cr_assert(load(TWO "dtype: null\nshared_experts: []\n", &s, &err) == MG_OK, "%s", err.message);
    cr_expect(s->experts_per_token == 2 && s->gate_mode == MG_GATE_FIT && !s->gate_mode_given);
    cr_expect(s->dtype == MG_DTYPE_COUNT && s->architecture == NULL);
    cr_expect(!s->n_shared && !s->trunk && !s->n_dense && !s->grid_x && s->experts[0].noise_scale == 0);
    mg_merge_spec_free(s);
}

Test(merge_spec, shapes_beyond_mergekit) {
    mg_merge_spec *s;
    mg_error err;
    cr_assert(load(TWO
                   "shared_experts:\n  - source_model: a\n    residual_scale: 2\nshared_scale: exact\ngrid: [1, 2]\n"
                   "dense_layers: 2\ntrunk: {merge_method: regmean, strength: 0.75}\n",
                   &s, &err) == MG_OK,
              "%s", err.message);
    cr_expect(s->n_experts == 2 && s->n_shared == 1 && s->shared_exact && s->experts[2].residual_scale == 2);
    cr_expect(s->grid_x == 1 && s->grid_y == 2 && s->n_dense == 2 && s->dense[1] == 1);
    cr_expect(s->trunk && s->trunk_regmean && s->trunk_strength == 0.75 && s->trunk->slices[0].n_sources == 2);
    mg_merge_spec_free(s);
    cr_assert(load(TWO "dense_layers: [0, 3]\n", &s, &err) == MG_OK, "%s", err.message);
    cr_expect(s->n_dense == 2 && s->dense[0] == 0 && s->dense[1] == 3);
    mg_merge_spec_free(s);
}

Test(merge_spec, gate_modes) {
    mg_gate_mode m;
    mg_error err = {0};
    for (int i = 0; i < MG_GATE_MODE_COUNT; i++)
        cr_expect(mg_gate_mode_parse(mg_gate_mode_name((mg_gate_mode)i), &m, &err) == MG_OK && m == (mg_gate_mode)i);
    cr_expect(mg_gate_mode_parse("hidden_last", &m, &err) == MG_OK && m == MG_GATE_HIDDEN);
    cr_expect_eq(mg_gate_mode_parse("hiden", &m, &err), MG_ERR_USAGE);
    cr_expect(strstr(err.message, "did you mean 'hidden'"), "%s", err.message);
}

Test(merge_spec, refusals_name_place_and_cause) {
    static const struct {
        const char *text;
        mg_status code;
        const char *message;
    } cases[] = {
        {"", MG_ERR_FORMAT, "no document"},
        {"- a\n", MG_ERR_FORMAT, "mapping"},
        {"base_model: [a\n", MG_ERR_FORMAT, ""},
        {"experts:\n  - source_model: b\n", MG_ERR_FORMAT, "'base_model' is missing"},
        {"base_model: a\n", MG_ERR_FORMAT, "'experts'"},
        {"base_model: a\nexperts: []\n", MG_ERR_FORMAT, "'experts'"},
        {"base_model: a\nexperts: [b]\n", MG_ERR_FORMAT, "list of mappings"},
        {"base_model: a\nexperts:\n  - source_modell: b\n", MG_ERR_FORMAT, "line 3: unknown key 'source_modell'"},
        {"base_model: a\nexperts:\n  - positive_prompts: [x]\n", MG_ERR_FORMAT, "'source_model' is missing"},
        {"base_model: a\nexperts:\n  - source_model: b\n    positive_prompts: 3\n", MG_ERR_FORMAT, "positive_prompts"},
        {"base_model: a\nexperts:\n  - source_model: b\n    positive_prompts: [[x]]\n", MG_ERR_FORMAT, "list of texts"},
        {"base_model: a\nexperts:\n  - source_model: b\n    residual_scale: big\n", MG_ERR_FORMAT, "a number"},
        {"base_model: a\nexperts:\n  - source_model: b\n    residual_scale: .nan\n", MG_ERR_FORMAT, "a number"},
        {"base_model: a\nexperts:\n  - source_model: b\n    noise_scale: loud\n", MG_ERR_FORMAT, "noise_scale"},
        {"base_model: nowhere\nexperts:\n  - source_model: b\n", MG_ERR_IO, "'nowhere'"},
        {"base_model: a\nexperts:\n  - source_model: b+lora\n", MG_ERR_IO, "'lora'"},
        {TWO "gate_mod: hidden\n", MG_ERR_FORMAT, "did you mean 'gate_mode'"},
        {TWO "gate_mode: hidden_stat\n", MG_ERR_USAGE, "unknown gate mode"},
        {TWO "gate_mode: [hidden]\n", MG_ERR_FORMAT, "gate_mode"},
        {TWO "dtype: int8\n", MG_ERR_FORMAT, "bfloat16"},
        {TWO "experts_per_token: 513\n", MG_ERR_CONFLICT, "1 to the number of experts"},
        {TWO "experts_per_token: 0\n", MG_ERR_CONFLICT, "experts_per_token is 0"},
        {TWO "experts_per_token: two\n", MG_ERR_FORMAT, "whole number"},
        {TWO "shared_experts: b\n", MG_ERR_FORMAT, "a list of experts"},
        {TWO "shared_scale: exact\n", MG_ERR_CONFLICT, "shared_scale without"},
        {TWO "grid: 2\n", MG_ERR_FORMAT, "[columns, rows]"},
        {TWO "dense_layers: [1, 0]\n", MG_ERR_FORMAT, "ascending"},
        {TWO "dense_layers: some\n", MG_ERR_FORMAT, "dense_layers"},
        {TWO "layer_experts: 3\n", MG_ERR_FORMAT, "list of mappings"},
        {TWO "layer_experts: [{layer_range: [2, 1], experts: 0}]\n", MG_ERR_FORMAT, "[first, end]"},
        {TWO "layer_experts: [{layer_range: [0, 1]}]\n", MG_ERR_FORMAT, "counted from 0"},
        {TWO "layer_experts: [{layer_range: [0, 1], experts: [2]}]\n", MG_ERR_FORMAT, "experts"},
        {"base_model: a\nexperts:\n  - {source_model: b, split: 0}\n", MG_ERR_FORMAT, "split"},
        {"base_model: a\nexperts:\n  - {source_model: b, expert: []}\n", MG_ERR_FORMAT, "expert"},
        {TWO "trunk: tees\n", MG_ERR_UNSUPPORTED, "'ties'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mg_merge_spec *s = NULL;
        mg_error err;
        mg_status st = load(cases[i].text, &s, &err);
        cr_expect_eq(st, cases[i].code, "case %zu: status %d, %s", i, (int)st, err.message);
        cr_expect(strstr(err.message, cases[i].message), "case %zu: %s", i, err.message);
        cr_expect_str_eq(err.file, path, "case %zu", i);
    }
}

Test(merge_spec, checks_that_depend_on_the_mode) {
    mg_merge_spec *s;
    mg_error err;
    cr_assert(load("base_model: a\nexperts:\n  - source_model: b\n  - source_model: c\n", &s, &err) == MG_OK);
    cr_expect_eq(mg_merge_spec_check(s, false, &err), MG_ERR_CONFLICT);
    cr_expect(strstr(err.message, "no positive prompts"), "%s", err.message);
    s->gate_mode = MG_GATE_RANDOM;
    cr_expect_eq(mg_merge_spec_check(s, false, &err), MG_OK);
    mg_merge_spec_free(s);
    const char *same = "base_model: a\nexperts:\n  - {source_model: b, positive_prompts: [x]}\n"
                       "  - {source_model: c, positive_prompts: [x]}\n";
    cr_assert(load(same, &s, &err) == MG_OK);
    cr_expect_eq(mg_merge_spec_check(s, true, &err), MG_ERR_CONFLICT);
    cr_expect(strstr(err.message, "same prompts"), "%s", err.message);
    mg_merge_spec_free(s);
    const char *twice = "base_model: a\nexperts:\n  - {source_model: b, positive_prompts: [x]}\n"
                        "  - {source_model: b, positive_prompts: [y]}\n";
    cr_assert(load(twice, &s, &err) == MG_OK);
    cr_expect_eq(mg_merge_spec_check(s, false, NULL), MG_ERR_CONFLICT);
    cr_expect_eq(mg_merge_spec_check(s, true, NULL), MG_OK);
    mg_merge_spec_free(s);
}

Test(merge_spec, prompts_from_a_file) {
    mg_merge_spec *s;
    mg_error err;
    char file[128];
    snprintf(file, sizeof file, "%s/prompts.txt", dir);
    put(file, "five\r\n\r\n\nsix and seven\n", 22);
    cr_assert(load(TWO, &s, &err) == MG_OK);
    cr_expect(mg_merge_spec_add_text(s, "c", file, &err) == MG_OK, "%s", err.message);
    cr_expect(mg_merge_spec_add_text(s, "0", file, &err) == MG_OK, "%s", err.message);
    cr_assert_eq(s->experts[1].positive.n, 3);
    cr_expect_str_eq(s->experts[1].positive.text[0], "three");
    cr_expect_str_eq(s->experts[1].positive.text[1], "five");
    cr_expect_str_eq(s->experts[1].positive.text[2], "six and seven");
    cr_assert_eq(s->experts[0].positive.n, 4);
    cr_expect_eq(mg_merge_spec_add_text(s, "d", file, &err), MG_ERR_USAGE);
    put(file, "a\0b\n", 4);
    err = (mg_error){0};
    cr_expect_eq(mg_merge_spec_add_text(s, "b", file, &err), MG_ERR_FORMAT);
    cr_expect_str_eq(err.file, file);
    mg_merge_spec_free(s);
}
