/* Conversion planned over a plan: one pass from the source gives the bytes of two runs with a file in between; names
 * and size labels of converted models. */
#include <criterion/criterion.h>

#include "convert/convert.h"
#include "convert/gguf_meta.h"
#include "convert/plan_private.h"
#include "formats/base/file.h"

#include <stdlib.h>
#include <string.h>

#define OK(call) cr_assert_eq((call), MG_OK, "%s: %s", err.tensor, err.message)

static mg_error err;
static const mg_exec_options exec = {.threads = 2, .progress = MG_PROGRESS_NONE};

/* Convert `c` to a GGUF of one type at path; the plan is left for the caller. */
static mg_plan *gguf(mg_checkpoint *c, mg_model **m, const char *path, mg_dtype *type, uint32_t *out) {
    mg_plan *p;
    OK(mg_model_open(m, c, &err));
    OK(mg_plan_new(&p, &err));
    mg_convert_gguf_options o = {.dtype = mg_convert_outtype_dtype,
                                 .dtype_ctx = type,
                                 .file_type = mg_convert_file_type(*type),
                                 .dir_name = "prose"};
    OK(mg_convert_plan_gguf(p, *m, path, &o, out, &err));
    return p;
}

static void write_and_hash(mg_plan *p, char hex[65]) {
    mg_exec_result r;
    OK(mg_plan_execute(p, &exec, &r, &err));
    cr_assert_eq(r.n_files, 1);
    memcpy(hex, r.files[0].sha256, 65);
}

Test(convert, one_pass_equals_two) {
    char dir[] = "/tmp/mg_test_convert_XXXXXX", a[64], b[64], c[64], two[65], one[65], bf[65], cmd[128];
    mg_dtype bf16 = MG_BF16, q8 = MG_Q8_0;
    mg_checkpoint *src, *mid, *planned;
    mg_model *m, *m2, *m3;
    uint32_t out, out2;
    cr_assert_not_null(mkdtemp(dir));
    snprintf(a, sizeof a, "%s/a.gguf", dir);
    snprintf(b, sizeof b, "%s/b.gguf", dir);
    snprintf(c, sizeof c, "%s/c.gguf", dir);
    OK(mg_checkpoint_open(&src, MG_TEST_DATA "/models/donors/prose", &err));
    mg_plan *first = gguf(src, &m, a, &bf16, &out);
    write_and_hash(first, bf);
    OK(mg_checkpoint_open(&mid, a, &err));
    mg_plan *second = gguf(mid, &m2, b, &q8, &out2);
    write_and_hash(second, two);
    OK(mg_plan_checkpoint(first, out, &planned, &err));
    mg_plan *direct = gguf(planned, &m3, c, &q8, &out2);
    cr_assert_eq(direct->n_inputs, 1); /* the directory itself: nothing is read through the plan in between */
    cr_assert_eq(direct->inputs[0], src);
    write_and_hash(direct, one);
    cr_assert_str_eq(one, two);
    mg_plan_free(direct);
    mg_model_free(m3);
    mg_checkpoint_free(planned);
    mg_plan_free(second);
    mg_model_free(m2);
    mg_checkpoint_free(mid);
    mg_plan_free(first);
    mg_model_free(m);
    mg_checkpoint_free(src);
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
    cr_assert_eq(system(cmd), 0);
}

/* Expected values: gguf-py's Metadata.get_model_id_components (gguf 0.18) on the same strings. */
Test(convert, names_in_parts) {
    static const struct {
        const char *id;
        uint64_t total;
        const char *name, *org, *base, *tune, *version, *size;
    } rows[] = {
        {"moe4", 0, "moe4", "", "", "", "", ""},
        {"Mistral", 0, "Mistral", "", "", "", "", ""},
        {"mistralai/Mistral-7B-Instruct-v0.3", 7248023552, "Mistral-7B-Instruct-v0.3", "mistralai", "Mistral",
         "Instruct", "v0.3", "7B"},
        {"Mixtral-8x7B-Instruct-v0.1", 46702792704, "Mixtral-8x7B-Instruct-v0.1", "", "Mixtral", "Instruct", "v0.1",
         "8x7B"},
        {"bloom-7b1-petals", 0, "bloom-7b1-petals", "", "bloom", "petals", "", "7.1B"},
        {"Phi-3-mini-4k-instruct", 3821079552, "Phi-3-mini-4k-instruct", "", "Phi-3", "4k-instruct", "", "mini"},
        {"Llama-2-7b-chat-hf", 6738415616, "Llama-2-7b-chat-hf", "", "Llama-2", "chat-hf", "", "7B"},
        {"Nous-Hermes-2-Mixtral-8x7B-DPO", 46702792704, "Nous-Hermes-2-Mixtral-8x7B-DPO", "", "Nous-Hermes-2-Mixtral",
         "DPO", "", "8x7B"},
        {"Qwen3-30B-A3B", 30532122624, "Qwen3-30B-A3B", "", "Qwen3", "", "", "30B-A3B"},
        {"a model with spaces", 0, "a model with spaces", "", "", "", "", ""},
        {"./local", 0, "local", "", "", "", "", ""},
        {"x-Q8_0-f16", 0, "x-Q8_0-f16", "", "", "", "", ""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        mg_name_parts p;
        mg_name_split(&p, rows[i].id, rows[i].total);
        cr_expect_str_eq(p.name, rows[i].name, "%s", rows[i].id);
        cr_expect_str_eq(p.organization, rows[i].org, "%s: %s", rows[i].id, p.organization);
        cr_expect_str_eq(p.basename, rows[i].base, "%s: %s", rows[i].id, p.basename);
        cr_expect_str_eq(p.finetune, rows[i].tune, "%s: %s", rows[i].id, p.finetune);
        cr_expect_str_eq(p.version, rows[i].version, "%s: %s", rows[i].id, p.version);
        cr_expect_str_eq(p.size_label, rows[i].size, "%s: %s", rows[i].id, p.size_label);
    }
}

/* Expected values: gguf-py's size_label on the same counts. */
Test(convert, size_labels) {
    static const struct {
        uint64_t total, shared, expert;
        uint32_t experts;
        const char *label;
    } rows[] = {
        {7241732096, 0, 0, 0, "7.2B"},
        {69000000000, 0, 0, 0, "69B"},
        {46702792704, 1605636096, 5637144576, 8, "8x7.2B"},
        {9600000, 0, 0, 0, "10M"},
        {950, 0, 0, 0, "1.0K"},
        {2888448, 0, 0, 0, "2.9M"},
        {1000000, 0, 0, 0, "1000K"},
        {9960000000, 0, 0, 0, "10B"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char buf[32];
        mg_gguf_meta_in in = {.total = rows[i].total,
                              .shared = rows[i].shared,
                              .expert = rows[i].expert,
                              .expert_count = rows[i].experts};
        cr_expect_str_eq(mg_size_label(buf, &in), rows[i].label, "%s", buf);
    }
}

/* Expected values: gguf-py's Metadata.id_to_title. */
Test(convert, titles) {
    static const char *const rows[][2] = {{"my-moe", "My Moe"},        {"moe4", "Moe4"},     {"v0.1-x", "v0.1 X"},
                                          {"a_b-c1d", "A_B C1D"},      {"3b-x", "3b X"},     {"qWen", "qWen"},
                                          {"v1.-z", "V1. Z"},          {"v1.2.3", "v1.2.3"}, {"v1..2", "V1..2"},
                                          {"don't-stop", "Don'T Stop"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        mg_kvs kv;
        mg_str s;
        mg_kvs_init(&kv);
        OK(mg_gguf_meta_append(&kv, &(mg_gguf_meta_in){.dir_name = rows[i][0]}, &err));
        cr_assert(mg_kv_str(mg_kvs_get(&kv, "general.name"), &s));
        cr_expect_str_eq(s.data, rows[i][1], "%s", s.data);
        mg_kvs_release(&kv);
    }
}

/* A model card's front matter, the generation defaults, and the order of the keys. */
Test(convert, model_card_keys) {
    char dir[] = "/tmp/mg_test_card_XXXXXX", path[128], cmd[128];
    static const char card[] =
        "---\nlicense: apache-2.0\nlanguage:\n- en\n- no\ntags:\n- merge\n- moe\npipeline_tag: text-generation\n"
        "base_model:\n- mistralai/Mistral-7B-v0.1\n- https://huggingface.co/org/name\nmodel_creator: Ada\n---\n"
        "# Text\n";
    static const char generation[] = "{\"top_k\": 40, \"temperature\": 0.7, \"repetition_penalty\": 1.1}";
    static const char *const want[] = {
        "general.type",
        "general.sampling.top_k",
        "general.sampling.temp",
        "general.sampling.penalty_repeat",
        "general.name",
        "general.author",
        "general.size_label",
        "general.license",
        "general.base_model.count",
        "general.base_model.0.name",
        "general.base_model.0.version",
        "general.base_model.0.organization",
        "general.base_model.0.repo_url",
        "general.base_model.1.name",
        "general.base_model.1.organization",
        "general.base_model.1.repo_url",
        "general.tags",
        "general.languages",
    };
    cr_assert_not_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/README.md", dir);
    OK(mg_outfile_write_all(path, card, sizeof card - 1, false, &err));
    snprintf(path, sizeof path, "%s/generation_config.json", dir);
    OK(mg_outfile_write_all(path, generation, sizeof generation - 1, false, &err));
    mg_kvs kv;
    mg_str s;
    int64_t k;
    mg_kvs_init(&kv);
    mg_gguf_meta_in in = {.side_dir = dir, .dir_name = "my-moe", .total = 2888448};
    OK(mg_gguf_meta_append(&kv, &in, &err));
    cr_assert_eq(kv.n, sizeof want / sizeof want[0], "%u", kv.n);
    for (uint32_t i = 0; i < kv.n; i++) cr_expect_str_eq(kv.items[i].key.data, want[i]);
    cr_assert(mg_kv_str(mg_kvs_get(&kv, "general.name"), &s));
    cr_expect_str_eq(s.data, "My Moe");
    cr_assert(mg_kv_str(mg_kvs_get(&kv, "general.base_model.0.name"), &s));
    cr_expect_str_eq(s.data, "Mistral 7B v0.1");
    cr_assert(mg_kv_str(mg_kvs_get(&kv, "general.base_model.0.organization"), &s));
    cr_expect_str_eq(s.data, "Mistralai");
    cr_assert(mg_kv_i64(mg_kvs_get(&kv, "general.sampling.top_k"), &k));
    cr_expect_eq(k, 40);
    cr_expect_eq(mg_kvs_get(&kv, "general.sampling.top_k")->type, MG_KV_I32);
    cr_expect_eq(mg_kvs_get(&kv, "general.tags")->count, 3);
    cr_expect_str_eq(((const mg_str *)mg_kvs_get(&kv, "general.languages")->data)[1].data, "no");
    mg_kvs_release(&kv);
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
    cr_assert_eq(system(cmd), 0);
}
