/* test_quantize.c - quantize without running it: what the command line means, and the plan made of a small GGUF: order,
 * keys, pruning, trimmed dimensions, importance weights, and everything that is refused. Whole files are compared with
 * llama-quantize's in e2e/quantize.py. */
#include <criterion/criterion.h>

#include "convert/quantize.h"
#include "convert/quantize_args.h"
#include "formats/gguf.h"
#include "quant/codec.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OK(call)                                                                                                       \
    do {                                                                                                               \
        mg_error e_ = {0};                                                                                             \
        char t_[2048];                                                                                                 \
        mg_status s_ = call;                                                                                           \
        cr_assert_eq(s_, MG_OK, "%s", mg_error_text(&e_, t_, sizeof t_));                                              \
    } while (0)

/* ---- words ---- */

static mg_status targets(mg_quantize_targets *t, const char *line, const char *outputs, mg_error *err) {
    static char buf[2][512];
    static const char *items[2][32];
    const char *lines[2] = {line, outputs};
    mg_opt_list l[2] = {{0}};
    for (int k = 0; k < 2; k++) {
        snprintf(buf[k], sizeof buf[k], "%s", lines[k]);
        l[k].items = items[k];
        for (char *w = strtok(buf[k], " "); w; w = strtok(NULL, " ")) items[k][l[k].n++] = w;
    }
    *err = (mg_error){0};
    return mg_quantize_targets_parse(t, &l[0], &l[1], err);
}

/* Expected: "PATH=TYPE PATH=TYPE" and threads (-1 not given). */
static void expect_targets(const char *line, const char *outputs, const char *want, int64_t threads) {
    mg_quantize_targets t;
    mg_error err;
    char got[1024] = "";
    mg_status st = targets(&t, line, outputs, &err);
    cr_expect_eq(st, MG_OK, "%s: %s", line, err.message);
    for (size_t i = 0; i < t.n; i++) {
        size_t n = strlen(got);
        snprintf(got + n, sizeof got - n, "%s%s=%s", i ? " " : "", t.items[i].path, t.items[i].preset->name);
    }
    cr_expect_str_eq(got, want, "%s: %s, expected %s", line, got, want);
    cr_expect_eq(t.threads_given, threads >= 0, "%s", line);
    if (threads >= 0) cr_expect_eq(t.threads, (uint64_t)threads, "%s", line);
    mg_quantize_targets_release(&t);
}

Test(quantize, words) {
    expect_targets("m.gguf Q4_K_M", "", "ggml-model-Q4_K_M.gguf=Q4_K_M", -1);
    expect_targets("a/b/m.gguf q4_k 8", "", "a/b/ggml-model-Q4_K_M.gguf=Q4_K_M", 8);
    expect_targets("m.gguf 15 3", "", "ggml-model-Q4_K_M.gguf=Q4_K_M", 3);
    expect_targets("m.gguf 7", "", "ggml-model-Q8_0.gguf=Q8_0", -1);
    expect_targets("m.gguf COPY", "", "ggml-model-COPY.gguf=COPY", -1);
    expect_targets("m.gguf o.gguf 2 0", "", "o.gguf=Q4_0", 0);
    expect_targets("m.gguf 2bit.gguf Q2_K", "", "2bit.gguf=Q2_K", -1);
    expect_targets("models/moe4/ Q8_0", "", "models/ggml-model-Q8_0.gguf=Q8_0", -1);
    expect_targets("models/moe4-bf16.gguf out/ Q8_0 Q4_K", "", "out/moe4-Q8_0.gguf=Q8_0 out/moe4-Q4_K_M.gguf=Q4_K_M",
                   -1);
    expect_targets("m.gguf out/ Q8_0 2 4", "", "out/m-Q8_0.gguf=Q8_0 out/m-Q4_0.gguf=Q4_0", 4);
    expect_targets("models/moe4/ /tmp Q8_0 16", "", "/tmp/moe4-Q8_0.gguf=Q8_0", 16);
    expect_targets("m.gguf", "a=b.gguf=Q8_0 c.gguf=iq4_nl", "a=b.gguf=Q8_0 c.gguf=IQ4_NL", -1);
    expect_targets("m.gguf 5", "a.gguf=Q8_0", "a.gguf=Q8_0", 5);
    const struct {
        const char *line, *outputs;
        mg_status want;
    } bad[] = {{"", "", MG_ERR_USAGE},
               {"m.gguf", "", MG_ERR_USAGE},
               {"m.gguf o.gguf", "", MG_ERR_USAGE},
               {"m.gguf o.gguf Q9_9", "", MG_ERR_USAGE},
               {"m.gguf o.gguf Q8_0 x", "", MG_ERR_USAGE},
               {"m.gguf o.gguf Q8_0 2 2", "", MG_ERR_USAGE},
               {"m.gguf o.gguf Q8_0 99999", "", MG_ERR_USAGE},
               {"m.gguf out/", "", MG_ERR_USAGE},
               {"m.gguf out/ Q8_0 Q8_0", "", MG_ERR_USAGE},
               {"m.gguf out/ Q8_0 o.gguf", "", MG_ERR_USAGE},
               {"m.gguf o.gguf AWQ", "", MG_ERR_UNSUPPORTED},
               {"m.gguf gptq", "", MG_ERR_UNSUPPORTED},
               {"m.gguf Q8_0", "a.gguf=Q8_0", MG_ERR_USAGE},
               {"m.gguf", "a.gguf", MG_ERR_USAGE},
               {"m.gguf", "=Q8_0", MG_ERR_USAGE},
               {"m.gguf", "a=Q8_0 a=Q4_0", MG_ERR_USAGE}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        mg_quantize_targets t;
        mg_error err;
        cr_expect_eq(targets(&t, bad[i].line, bad[i].outputs, &err), bad[i].want, "'%s' '%s'", bad[i].line,
                     bad[i].outputs);
        mg_quantize_targets_release(&t);
    }
}

Test(quantize, override_texts) {
    mg_kv_override o;
    OK(mg_kv_override_parse(&o, "a.b=int:-7", &e_));
    cr_expect(o.type == MG_KV_U32 && o.u32 == 7 && strcmp(o.key, "a.b") == 0);
    OK(mg_kv_override_parse(&o, "a=float:0.5", &e_));
    cr_expect(o.type == MG_KV_F32 && o.f32 == 0.5f);
    OK(mg_kv_override_parse(&o, "a=bool:true", &e_));
    cr_expect(o.type == MG_KV_BOOL && o.flag);
    OK(mg_kv_override_parse(&o, "a=str:x=y:z", &e_));
    cr_expect(o.type == MG_KV_STR && strcmp(o.str, "x=y:z") == 0);
    const char *const bad[] = {"a",          "=int:1",    "a=int:", "a=int:1x", "a=int:5000000000",
                               "a=bool:yes", "a=float:x", "a=u8:1", "a=1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        mg_error err = {0};
        cr_expect_eq(mg_kv_override_parse(&o, bad[i], &err), MG_ERR_USAGE, "%s", bad[i]);
    }
    char text[300] = "k=str:";
    memset(text + 6, 's', 128);
    mg_error err = {0};
    cr_expect_eq(mg_kv_override_parse(&o, text, &err), MG_ERR_USAGE, "128 bytes");
    text[6 + 127] = 0;
    OK(mg_kv_override_parse(&o, text, &e_));
}

Test(quantize, prune_lists) {
    const char *items[] = {"3,1", "1,0"};
    mg_opt_list l = {items, 2};
    mg_arena a;
    mg_arena_init(&a, 0);
    uint32_t *p;
    size_t n;
    OK(mg_quantize_parse_prune(&a, &l, &p, &n, &e_));
    cr_assert_eq(n, 3u);
    cr_expect(p[0] == 0 && p[1] == 1 && p[2] == 3);
    const char *const bad[] = {"", ",", "1,", "x", "-1", "1 2", "99999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        mg_error err = {0};
        items[1] = bad[i];
        cr_expect_eq(mg_quantize_parse_prune(&a, &l, &p, &n, &err), MG_ERR_USAGE, "'%s'", bad[i]);
    }
    mg_arena_release(&a);
}

/* ---- a small GGUF ---- */

enum { COLS = 64, BLOCKS = 3 };

typedef struct model {
    char path[64];
    mg_checkpoint *ckpt;
} model;

static float value(const char *name, uint64_t i) {
    return (float)((int)((i * 37 + (uint64_t)name[4] * 11) % 255) - 127) / 64.0f;
}

/* Unsorted tensors; F32 values, one of them with a trailing GGUF dimension of 1, one in dtype `odd` under the name
 * odd_name. */
static void make_model(model *m, mg_dtype odd, const char *odd_name) {
    static const char *const names[] = {"output_norm.weight",        "token_embd.weight",   "blk.2.attn_v.weight",
                                        "blk.0.attn_v.weight",       "blk.1.attn_v.weight", "blk.0.attn_norm.weight",
                                        "blk.1.ffn_gate_inp.weight", "output.weight"};
    mg_kvs kv;
    mg_kvs_init(&kv);
    OK(mg_kvs_set_str(&kv, "general.architecture", "llama", 5, &e_));
    OK(mg_kvs_set_u32(&kv, "general.file_type", 0, &e_));
    OK(mg_kvs_set_u32(&kv, "split.count", 0, &e_));
    OK(mg_kvs_set_u32(&kv, "llama.block_count", BLOCKS, &e_));
    OK(mg_kvs_set_u32(&kv, "general.quantization_version", 1, &e_));
    OK(mg_kvs_set_u32(&kv, "llama.attention.head_count", 4, &e_));
    enum { N = sizeof names / sizeof *names };
    mg_tensor t[N] = {0};
    for (int i = 0; i < N; i++) {
        bool norm = strstr(names[i], "_norm") != NULL;
        t[i] = (mg_tensor){.name = names[i],
                           .dtype = odd_name && strcmp(names[i], odd_name) == 0 ? odd : MG_F32,
                           .rank = 2,
                           .shape = {norm ? 1 : 4, COLS}};
        cr_assert(mg_tensor_set_sizes(&t[i]));
    }
    uint8_t *head;
    uint64_t head_size, at[N], size;
    OK(mg_gguf_layout(&kv, t, N, 0, &head, &head_size, at, &size, &e_));
    uint8_t *file = calloc(1, size);
    memcpy(file, head, head_size);
    for (int i = 0; i < N; i++)
        for (uint64_t k = 0; t[i].dtype == MG_F32 && k < t[i].n_elements; k++) {
            float v = value(names[i], k);
            memcpy(file + at[i] + 4 * k, &v, 4);
        }
    snprintf(m->path, sizeof m->path, "/tmp/mg_test_quantize.%d.gguf", (int)getpid());
    int fd = open(m->path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    cr_assert(fd >= 0 && write(fd, file, size) == (ssize_t)size);
    close(fd);
    free(file);
    free(head);
    mg_kvs_release(&kv);
    OK(mg_checkpoint_open(&m->ckpt, m->path, &e_));
}

static void free_model(model *m) {
    mg_checkpoint_free(m->ckpt);
    unlink(m->path);
}

typedef struct planned {
    mg_plan *plan;
    mg_checkpoint *ckpt;
    mg_quantize_report report;
} planned;

static mg_status plan(planned *p, const model *m, const mg_quantize_options *opt, mg_error *err) {
    uint32_t out;
    *p = (planned){0};
    *err = (mg_error){0};
    MG_TRY(mg_plan_new(&p->plan, err));
    MG_TRY(mg_quantize_plan(p->plan, m->ckpt, "x.gguf", opt, &p->report, &out, err));
    return mg_plan_checkpoint(p->plan, out, &p->ckpt, err);
}

static void free_plan(planned *p) {
    mg_checkpoint_free(p->ckpt);
    mg_plan_free(p->plan);
}

static const mg_tensor *get(const planned *p, const char *name) {
    uint32_t t = mg_checkpoint_find(p->ckpt, name);
    cr_assert_neq(t, MG_STRMAP_NONE, "%s", name);
    return &p->ckpt->tensors[t];
}

static mg_quantize_options preset(mg_preset_id id) {
    mg_quantize_options o = MG_QUANTIZE_OPTIONS_INIT;
    o.mix.preset = mg_preset_get(id);
    return o;
}

Test(quantize, order_keys_dimensions_and_values) {
    model m;
    planned p;
    mg_error err;
    make_model(&m, MG_F32, NULL);
    mg_quantize_options o = preset(MG_PRESET_Q8_0);
    mg_kv_override ov[2];
    OK(mg_kv_override_parse(&ov[0], "general.name=str:n", &e_));
    OK(mg_kv_override_parse(&ov[1], "llama.attention.head_count=int:-8", &e_));
    o.overrides = ov;
    o.n_overrides = 2;
    cr_assert_eq(plan(&p, &m, &o, &err), MG_OK, "%s", err.message);
    static const char *const order[] = {
        "output.weight",       "output_norm.weight",  "token_embd.weight",         "blk.0.attn_norm.weight",
        "blk.0.attn_v.weight", "blk.1.attn_v.weight", "blk.1.ffn_gate_inp.weight", "blk.2.attn_v.weight"};
    for (uint32_t i = 0; i < 8; i++) cr_expect_str_eq(p.ckpt->tensors[i].name, order[i]);
    static const char *const keys[] = {"general.architecture", "llama.block_count", "general.quantization_version",
                                       "general.file_type",    "general.name",      "llama.attention.head_count"};
    cr_assert_eq(p.ckpt->kv->n, 6u);
    for (uint32_t i = 0; i < 6; i++) cr_expect_str_eq(p.ckpt->kv->items[i].key.data, keys[i]);
    uint64_t v = 0;
    cr_expect(mg_kv_u64(mg_kvs_get(p.ckpt->kv, "general.file_type"), &v) && v == 7);
    cr_expect(mg_kv_u64(mg_kvs_get(p.ckpt->kv, "general.quantization_version"), &v) && v == 2);
    cr_expect(mg_kv_u64(mg_kvs_get(p.ckpt->kv, "llama.attention.head_count"), &v) && v == 8);
    cr_expect(get(&p, "output_norm.weight")->rank == 1 && get(&p, "output_norm.weight")->shape[0] == COLS,
              "[1, n] is written as [n]");
    cr_expect_eq(get(&p, "blk.1.ffn_gate_inp.weight")->dtype, MG_F32);
    cr_expect_eq(p.report.n_encoded, 5u);
    float row[4 * COLS];
    uint8_t want[8 * COLS], got[8 * COLS];
    for (uint64_t i = 0; i < 4 * COLS; i++) row[i] = value("blk.2.attn_v.weight", i);
    OK(mg_codec_get(MG_Q8_0)->encode(row, NULL, 4 * COLS, want, &e_));
    const mg_tensor *t = get(&p, "blk.2.attn_v.weight");
    OK(mg_checkpoint_read(p.ckpt, mg_checkpoint_find(p.ckpt, t->name), 0, got, t->n_bytes, &e_));
    cr_expect_arr_eq(got, want, t->n_bytes);
    free_plan(&p);
    free_model(&m);
}

Test(quantize, pruned_blocks_close_the_gap) {
    model m;
    planned p;
    mg_error err;
    make_model(&m, MG_F32, NULL);
    mg_quantize_options o = preset(MG_PRESET_COPY);
    uint32_t prune[] = {1};
    o.prune = prune;
    o.n_prune = 1;
    cr_assert_eq(plan(&p, &m, &o, &err), MG_OK, "%s", err.message);
    cr_expect_eq(p.report.n_pruned, 2u);
    float got[4];
    uint32_t t = mg_checkpoint_find(p.ckpt, "blk.1.attn_v.weight");
    OK(mg_checkpoint_read(p.ckpt, t, 0, got, sizeof got, &e_));
    for (uint64_t i = 0; i < 4; i++) cr_expect_eq(got[i], value("blk.2.attn_v.weight", i), "block 2 became block 1");
    uint64_t v = 0;
    cr_expect(mg_kv_u64(mg_kvs_get(p.ckpt->kv, "llama.block_count"), &v) && v == 2);
    cr_expect_str_eq(p.ckpt->kv->items[p.ckpt->kv->n - 1].key.data, "llama.block_count");
    cr_expect_eq(mg_checkpoint_find(p.ckpt, "blk.2.attn_v.weight"), MG_STRMAP_NONE);
    free_plan(&p);
    prune[0] = 3;
    cr_expect_eq(plan(&p, &m, &o, &err), MG_ERR_USAGE, "no such block");
    free_plan(&p);
    uint32_t all[] = {0, 1, 2};
    o.prune = all;
    o.n_prune = 3;
    cr_expect_eq(plan(&p, &m, &o, &err), MG_ERR_USAGE, "nothing left");
    free_plan(&p);
    free_model(&m);
}

Test(quantize, fallback_is_noted_or_refused) {
    model m;
    planned p;
    mg_error err;
    make_model(&m, MG_F32, NULL);
    mg_quantize_options o = preset(MG_PRESET_Q4_K_S);
    cr_assert_eq(plan(&p, &m, &o, &err), MG_OK, "%s", err.message);
    cr_expect_eq(p.report.n_fallback, 4u);
    cr_expect_eq(get(&p, "token_embd.weight")->dtype, MG_Q5_0);
    cr_expect_eq(get(&p, "output.weight")->dtype, MG_Q8_0);
    free_plan(&p);
    o.mix.no_fallback = true;
    cr_expect_eq(plan(&p, &m, &o, &err), MG_ERR_UNSUPPORTED);
    free_plan(&p);
    free_model(&m);
}

Test(quantize, quantized_sources) {
    model m;
    planned p;
    mg_error err;
    make_model(&m, MG_Q8_0, "blk.1.attn_v.weight");
    mg_quantize_options o = preset(MG_PRESET_Q4_0);
    cr_expect_eq(plan(&p, &m, &o, &err), MG_ERR_USAGE);
    cr_expect(strstr(err.message, "--allow-requantize"), "%s", err.message);
    cr_expect_str_eq(err.tensor, "blk.1.attn_v.weight");
    free_plan(&p);
    o.allow_requantize = true;
    cr_expect_eq(plan(&p, &m, &o, &err), MG_OK, "%s", err.message);
    cr_expect_eq(get(&p, "blk.1.attn_v.weight")->dtype, MG_Q4_0);
    free_plan(&p);
    o = preset(MG_PRESET_Q8_0);
    cr_expect_eq(plan(&p, &m, &o, &err), MG_OK, "the same type is copied: %s", err.message);
    free_plan(&p);
    free_model(&m);
    make_model(&m, MG_I32, "blk.1.attn_v.weight");
    cr_expect_eq(plan(&p, &m, &o, &err), MG_ERR_UNSUPPORTED, "integers");
    free_plan(&p);
    free_model(&m);
}

/* An importance matrix in memory: cols values of 1, 2, 3 ... for block 0 and 1; broken says how. */
static mg_imatrix imatrix_of(mg_imatrix_entry *e, const char *const *names, uint32_t n, uint64_t cols) {
    static float values[256];
    static int64_t counts[1] = {1};
    for (int i = 0; i < 256; i++) values[i] = (float)(i + 1);
    mg_imatrix m = {.entries = e, .n = n, .dataset = "text", .chunk_count = 5};
    mg_strmap_init(&m.by_name);
    for (uint32_t i = 0; i < n; i++) {
        e[i] = (mg_imatrix_entry){.name = names[i], .cols = cols, .n_mat = 1, .values = values, .counts = counts};
        OK(mg_strmap_put(&m.by_name, names[i], strlen(names[i]), i, NULL, &e_));
    }
    return m;
}

Test(quantize, importance_weights) {
    model m;
    planned p;
    mg_error err;
    static const char *const names[] = {"blk.0.attn_v.weight", "blk.2.attn_v.weight"};
    mg_imatrix_entry e[2];
    make_model(&m, MG_F32, NULL);
    mg_imatrix im = imatrix_of(e, names, 2, COLS);
    mg_quantize_options o = preset(MG_PRESET_Q4_0);
    uint32_t prune[] = {1};
    o.imatrix = &im;
    o.imatrix_name = "dir/im.gguf";
    o.prune = prune;
    o.n_prune = 1;
    cr_assert_eq(plan(&p, &m, &o, &err), MG_OK, "%s", err.message);
    static const char *const keys[] = {"quantize.imatrix.file", "quantize.imatrix.dataset",
                                       "quantize.imatrix.entries_count", "quantize.imatrix.chunks_count",
                                       "llama.block_count"};
    for (uint32_t i = 0; i < 5; i++) cr_expect_str_eq(p.ckpt->kv->items[p.ckpt->kv->n - 5 + i].key.data, keys[i]);
    float row[4 * COLS];
    uint8_t want[4 * COLS], plain[4 * COLS], got[4 * COLS];
    for (uint64_t i = 0; i < 4 * COLS; i++) row[i] = value("blk.2.attn_v.weight", i);
    uint64_t n = get(&p, "blk.1.attn_v.weight")->n_bytes;
    for (int r = 0; r < 4; r++) {
        OK(mg_codec_get(MG_Q4_0)->encode(row + r * COLS, e[1].values, COLS, want + (size_t)r * n / 4, &e_));
        OK(mg_codec_get(MG_Q4_0)->encode(row + r * COLS, NULL, COLS, plain + (size_t)r * n / 4, &e_));
    }
    OK(mg_checkpoint_read(p.ckpt, mg_checkpoint_find(p.ckpt, "blk.1.attn_v.weight"), 0, got, n, &e_));
    cr_expect_arr_eq(got, want, n, "weights follow the number the block had before");
    cr_expect_neq(memcmp(want, plain, n), 0);
    cr_expect_eq(p.report.n_unweighted, 1u, "token_embd; output is Q8_0, which takes no weights");
    free_plan(&p);

    e[0].cols = COLS / 2;
    cr_expect_eq(plan(&p, &m, &o, &err), MG_ERR_CONFLICT, "another model's matrix");
    cr_expect_str_eq(err.tensor, "blk.0.attn_v.weight");
    free_plan(&p);
    mg_strmap_release(&im.by_name);
    free_model(&m);
}

Test(quantize, types_that_need_an_imatrix) {
    model m;
    planned p;
    mg_error err;
    make_model(&m, MG_F32, NULL);
    mg_quantize_options o = preset(MG_PRESET_Q4_0);
    mg_type_rules rules;
    mg_type_rules_init(&rules);
    OK(mg_type_rules_add(&rules, "blk.0.attn_v=iq4_nl", &e_));
    o.mix.rules = &rules;
    cr_expect_eq(plan(&p, &m, &o, &err), MG_OK, "IQ4_NL needs none: %s", err.message);
    cr_expect_eq(get(&p, "blk.0.attn_v.weight")->dtype, MG_IQ4_NL);
    free_plan(&p);
    mg_type_rules_release(&rules);
    free_model(&m);
}

Test(quantize, copy_keeps_or_guesses_the_file_type) {
    model m;
    planned p;
    mg_error err;
    make_model(&m, MG_F32, NULL);
    mg_quantize_options o = preset(MG_PRESET_COPY);
    cr_assert_eq(plan(&p, &m, &o, &err), MG_OK, "%s", err.message);
    uint64_t v = 9;
    cr_expect(mg_kv_u64(mg_kvs_get(p.ckpt->kv, "general.file_type"), &v) && v == 0);
    cr_expect_eq(p.report.n_encoded, 0u);
    free_plan(&p);
    free_model(&m);
}

/* ---- other layouts ---- */

static void quantized(planned *p, mg_quantize_source *s, mg_checkpoint *in) {
    const mg_convert_gguf_options names = {.dir_name = "tiny", .no_tokenizer = true};
    mg_quantize_options o = preset(MG_PRESET_Q8_0);
    uint32_t out;
    *p = (planned){0};
    OK(mg_quantize_source_open(s, in, &names, &e_));
    OK(mg_plan_new(&p->plan, &e_));
    OK(mg_quantize_plan(p->plan, s->gguf, "x.gguf", &o, &p->report, &out, &e_));
    OK(mg_plan_checkpoint(p->plan, out, &p->ckpt, &e_));
}

/* What `merge --to TYPE` does: the input of quantizing is a plan that was never written. Same tensors, same keys as
 * from files. */
Test(quantize, a_plan_is_an_input_like_files) {
    char dir[1024];
    mg_checkpoint *files, *unwritten;
    mg_model *m;
    mg_plan *hf;
    uint32_t out;
    snprintf(dir, sizeof dir, "%s/models/tiny/mixtral", MG_TEST_DATA);
    OK(mg_checkpoint_open(&files, dir, &e_));
    OK(mg_model_open(&m, files, &e_));
    OK(mg_plan_new(&hf, &e_));
    const mg_convert_hf_options as_is = {.torch_dtype = MG_DTYPE_COUNT};
    OK(mg_convert_plan_hf(hf, m, "never", &as_is, &out, &e_));
    OK(mg_plan_checkpoint(hf, out, &unwritten, &e_));
    planned a, b;
    mg_quantize_source sa, sb;
    quantized(&a, &sa, files);
    quantized(&b, &sb, unwritten);
    cr_assert_eq(a.ckpt->n_tensors, b.ckpt->n_tensors);
    cr_assert_gt(a.report.n_encoded, 10u);
    for (uint32_t t = 0; t < a.ckpt->n_tensors; t++) {
        const mg_tensor *x = &a.ckpt->tensors[t], *y = &b.ckpt->tensors[t];
        cr_assert(strcmp(x->name, y->name) == 0 && x->dtype == y->dtype && x->n_bytes == y->n_bytes, "%s", x->name);
        uint8_t *u = malloc(x->n_bytes), *v = malloc(x->n_bytes);
        OK(mg_checkpoint_read(a.ckpt, t, 0, u, x->n_bytes, &e_));
        OK(mg_checkpoint_read(b.ckpt, t, 0, v, x->n_bytes, &e_));
        cr_expect_eq(memcmp(u, v, x->n_bytes), 0, "%s", x->name);
        free(u);
        free(v);
    }
    cr_assert_eq(a.ckpt->kv->n, b.ckpt->kv->n);
    for (uint32_t i = 0; i < a.ckpt->kv->n; i++) {
        const mg_kv *x = &a.ckpt->kv->items[i], *y = &b.ckpt->kv->items[i];
        cr_assert_str_eq(x->key.data, y->key.data);
        cr_assert(x->type == y->type && x->count == y->count, "%s", x->key.data);
        if (x->type == MG_KV_STR || x->type == MG_KV_ARR) continue;
        cr_expect_eq(memcmp(x->data, y->data, mg_kv_type_size(x->type)), 0, "%s", x->key.data);
    }
    free_plan(&a);
    free_plan(&b);
    mg_quantize_source_close(&sa);
    mg_quantize_source_close(&sb);
    mg_checkpoint_free(unwritten);
    mg_plan_free(hf);
    mg_model_free(m);
    mg_checkpoint_free(files);
}
