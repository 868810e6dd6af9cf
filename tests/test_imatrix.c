/* test_imatrix.c - importance matrices in both forms: the golden pair against each other and against the raw sums,
 * experts without tokens, filters, and files made to harm. */
#include <criterion/criterion.h>

#include "formats/base/file.h"
#include "formats/gguf.h"
#include "quant/imatrix_set.h"
#include "quant/imatrix_stats.h"

#include <fcntl.h>
#include <math.h>
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

static const char *golden(const char *name) {
    static char path[2][1024];
    static int turn;
    turn ^= 1;
    snprintf(path[turn], sizeof path[0], "%s/golden/gguf/%s", MG_TEST_DATA, name);
    return path[turn];
}

Test(imatrix, gguf_values_are_sums_over_counts) {
    mg_imatrix *m;
    mg_checkpoint *c;
    OK(mg_imatrix_load(&m, golden("imatrix.gguf"), &e_));
    OK(mg_gguf_open(&c, golden("imatrix.gguf"), &e_));
    cr_expect_eq(m->n * 2, c->n_tensors);
    cr_expect_str_eq(m->dataset, "calibration.txt");
    cr_expect_eq(m->chunk_count, 61);
    cr_expect(!m->legacy);
    uint64_t compared = 0;
    for (uint32_t i = 0; i < m->n; i++) {
        const mg_imatrix_entry *e = &m->entries[i];
        if (i) cr_expect_lt(strcmp(m->entries[i - 1].name, e->name), 0);
        char name[256];
        snprintf(name, sizeof name, "%s.in_sum2", e->name);
        uint32_t t = mg_checkpoint_find(c, name);
        cr_assert_neq(t, MG_STRMAP_NONE, "%s", name);
        cr_assert_eq(c->tensors[t].n_elements, e->n_mat * e->cols);
        float *sums = malloc(c->tensors[t].n_bytes);
        OK(mg_checkpoint_read(c, t, 0, sums, c->tensors[t].n_bytes, &e_));
        for (uint64_t k = 0; k < e->n_mat * e->cols; k++, compared++)
            cr_assert_eq(e->values[k], sums[k] / (float)e->counts[k / e->cols], "%s %llu", e->name,
                         (unsigned long long)k);
        free(sums);
    }
    const mg_imatrix_entry *e = mg_imatrix_find(m, "blk.0.ffn_down_exps.weight");
    cr_assert_not_null(e);
    cr_expect_eq(e->n_mat, 4u);
    cr_expect_eq(e->cols, 512u);
    cr_expect_null(mg_imatrix_find(m, "output.weight"));
    cr_expect_null(mg_imatrix_find(NULL, "output.weight"));
    cr_expect_gt(compared, 10000u);
    mg_checkpoint_free(c);
    mg_imatrix_free(m);
}

/* The .dat form holds sum / count * ncall in f32: two roundings away from the GGUF form, each at most half an ulp. */
Test(imatrix, both_forms_agree) {
    mg_imatrix *g, *d;
    OK(mg_imatrix_load(&g, golden("imatrix.gguf"), &e_));
    OK(mg_imatrix_load(&d, golden("imatrix.dat"), &e_));
    cr_expect(d->legacy);
    cr_expect_eq(d->n, g->n);
    cr_expect_str_eq(d->dataset, g->dataset);
    cr_expect_eq(d->chunk_count, g->chunk_count);
    for (uint32_t i = 0; i < d->n; i++) {
        const mg_imatrix_entry *e = mg_imatrix_find(g, d->entries[i].name);
        cr_assert_not_null(e, "%s", d->entries[i].name);
        cr_assert_eq(e->n_mat * e->cols, d->entries[i].cols);
        for (uint64_t k = 0; k < d->entries[i].cols; k++) {
            float a = e->values[k], b = d->entries[i].values[k];
            cr_assert_leq(fabsf(a - b), 2 * 0x1p-23f * fabsf(a), "%s %llu: %g %g", e->name, (unsigned long long)k, a,
                          b);
        }
    }
    mg_imatrix_free(g);
    mg_imatrix_free(d);
}

Test(imatrix, filters) {
    const char *const keys[] = {"ffn_down", "blk.1."};
    mg_imatrix *in, *ex;
    OK(mg_imatrix_load(&in, golden("imatrix.gguf"), &e_));
    OK(mg_imatrix_load(&ex, golden("imatrix.gguf"), &e_));
    uint32_t n = in->n;
    OK(mg_imatrix_filter(in, NULL, 0, true, &e_));
    cr_expect_eq(in->n, n);
    OK(mg_imatrix_filter(in, keys, 2, true, &e_));
    OK(mg_imatrix_filter(ex, keys, 2, false, &e_));
    cr_expect_eq(in->n + ex->n, n);
    cr_expect(in->n > 4 && ex->n > 4);
    cr_expect_not_null(mg_imatrix_find(in, "blk.1.attn_q.weight"));
    cr_expect_null(mg_imatrix_find(ex, "blk.1.attn_q.weight"));
    cr_expect_null(mg_imatrix_find(in, "blk.2.attn_q.weight"));
    cr_expect_not_null(mg_imatrix_find(ex, "blk.2.attn_q.weight"));
    mg_imatrix_free(in);
    mg_imatrix_free(ex);
}

/* ---- files made here ---- */

static char temp_path[64];

static const char *write_temp(const void *data, size_t n) {
    snprintf(temp_path, sizeof temp_path, "/tmp/mg_test_imatrix.%d", (int)getpid());
    int fd = open(temp_path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, data, n), (ssize_t)n);
    close(fd);
    return temp_path;
}

static mg_status load_bytes(const void *data, size_t n, mg_imatrix **m, mg_error *err) {
    *err = (mg_error){0};
    *m = NULL;
    mg_status st = mg_imatrix_load(m, write_temp(data, n), err);
    unlink(temp_path);
    return st;
}

typedef struct gguf_case {
    float sums[8], counts[4];
    uint64_t n_sums, n_counts;
    mg_dtype sums_dtype;
    const char *sums_name, *counts_name;
    bool no_size_key;
} gguf_case;

static mg_status load_gguf(const gguf_case *g, mg_imatrix **m, mg_error *err) {
    mg_kvs kv;
    mg_kvs_init(&kv);
    mg_str set = {"text", 4};
    OK(mg_kvs_set_arr(&kv, "imatrix.datasets", MG_KV_STR, 1, &set, &e_));
    OK(mg_kvs_set_u32(&kv, "imatrix.chunk_count", 3, &e_));
    if (!g->no_size_key) OK(mg_kvs_set_u32(&kv, "imatrix.chunk_size", 512, &e_));
    mg_tensor t[2] = {{.name = g->sums_name ? g->sums_name : "a.weight.in_sum2",
                       .dtype = g->sums_dtype,
                       .rank = 1,
                       .shape = {g->n_sums}},
                      {.name = g->counts_name ? g->counts_name : "a.weight.counts",
                       .dtype = MG_F32,
                       .rank = 1,
                       .shape = {g->n_counts}}};
    cr_assert(mg_tensor_set_sizes(&t[0]) && mg_tensor_set_sizes(&t[1]));
    uint8_t *head;
    uint64_t head_size, at[2], size;
    OK(mg_gguf_layout(&kv, t, 2, 0, &head, &head_size, at, &size, &e_));
    uint8_t *file = calloc(1, size);
    memcpy(file, head, head_size);
    memcpy(file + at[0], g->sums, t[0].n_bytes);
    memcpy(file + at[1], g->counts, t[1].n_bytes);
    mg_status st = load_bytes(file, size, m, err);
    free(file);
    free(head);
    mg_kvs_release(&kv);
    return st;
}

Test(imatrix, experts_without_tokens_weigh_one) {
    mg_imatrix *m;
    mg_error err;
    gguf_case g = {.sums = {2, 4, 0, 0, 9, 6}, .counts = {2, 0, 3}, .n_sums = 6, .n_counts = 3};
    cr_assert_eq(load_gguf(&g, &m, &err), MG_OK, "%s", err.message);
    const mg_imatrix_entry *e = mg_imatrix_find(m, "a.weight");
    const float want[] = {1, 2, 1, 1, 3, 2};
    cr_assert(e && e->n_mat == 3 && e->cols == 2);
    for (int i = 0; i < 6; i++) cr_expect_eq(e->values[i], want[i]);
    cr_expect_eq(e->n_empty, 1u);
    mg_imatrix_free(m);
}

Test(imatrix, bad_gguf) {
    const gguf_case cases[] = {
        {.sums = {INFINITY}, .counts = {1}, .n_sums = 1, .n_counts = 1},
        {.sums = {NAN}, .counts = {1}, .n_sums = 1, .n_counts = 1},
        {.sums = {1}, .counts = {NAN}, .n_sums = 1, .n_counts = 1},
        {.sums = {1}, .counts = {1e30f}, .n_sums = 1, .n_counts = 1},
        {.sums = {1, 2, 3}, .counts = {1, 1}, .n_sums = 3, .n_counts = 2},
        {.sums = {1}, .counts = {1}, .n_sums = 1, .n_counts = 0},
        {.sums = {1}, .counts = {1}, .n_sums = 0, .n_counts = 1},
        {.sums = {1}, .counts = {1}, .n_sums = 2, .n_counts = 1, .sums_dtype = MG_F16},
        {.sums = {1}, .counts = {1}, .n_sums = 1, .n_counts = 1, .counts_name = "b.weight.counts"},
        {.sums = {1}, .counts = {1}, .n_sums = 1, .n_counts = 1, .counts_name = "b.weight.in_sum2"},
        {.sums = {1}, .counts = {1}, .n_sums = 1, .n_counts = 1, .sums_name = "x", .counts_name = "y"},
        {.sums = {1}, .counts = {1}, .n_sums = 1, .n_counts = 1, .no_size_key = true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mg_imatrix *m;
        mg_error err;
        cr_expect_eq(load_gguf(&cases[i], &m, &err), MG_ERR_FORMAT, "case %zu", i);
        cr_expect(err.message[0], "case %zu", i);
    }
    mg_imatrix *m;
    mg_error err = {0};
    char model[1024];
    snprintf(model, sizeof model, "%s/models/tiny/llama/model.safetensors", MG_TEST_DATA);
    cr_expect_eq(mg_imatrix_load(&m, model, &err), MG_ERR_FORMAT, "a safetensors file");
}

static size_t put_i32(uint8_t *p, int32_t v) {
    memcpy(p, &v, 4);
    return 4;
}

/* One entry "w" with n declared and 2 real values, counts as given. */
static size_t make_dat(uint8_t *p, int32_t entries, int32_t name_len, int32_t calls, int32_t n, float v0) {
    size_t at = put_i32(p, entries);
    at += put_i32(p + at, name_len);
    p[at++] = 'w';
    at += put_i32(p + at, calls);
    at += put_i32(p + at, n);
    float v[2] = {v0, 6};
    memcpy(p + at, v, sizeof v);
    return at + sizeof v;
}

Test(imatrix, small_dat_files) {
    uint8_t b[64];
    mg_imatrix *m;
    mg_error err;
    size_t n = make_dat(b, 1, 1, 2, 2, 4);
    cr_assert_eq(load_bytes(b, n, &m, &err), MG_OK, "no trailer: %s", err.message);
    cr_expect_eq(m->entries[0].values[0], 2.0f);
    cr_expect_eq(m->entries[0].values[1], 3.0f);
    cr_expect_null(m->dataset);
    mg_imatrix_free(m);
    n = make_dat(b, 1, 1, 0, 2, 4);
    cr_assert_eq(load_bytes(b, n, &m, &err), MG_OK, "no calls: %s", err.message);
    cr_expect_eq(m->entries[0].values[0], 4.0f);
    mg_imatrix_free(m);
    n += put_i32(b + n, 7);
    n += put_i32(b + n, 0);
    cr_assert_eq(load_bytes(b, n, &m, &err), MG_OK, "empty dataset name: %s", err.message);
    cr_expect_eq(m->chunk_count, 7);
    mg_imatrix_free(m);
    const struct {
        int32_t entries, name_len, n;
        float v;
    } bad[] = {{0, 1, 2, 1},         {-1, 1, 2, 1},  {INT32_MAX, 1, 2, 1}, {1, 0, 2, 1},         {1, -5, 2, 1},
               {1, INT32_MAX, 2, 1}, {1, 1, 0, 1},   {1, 1, -1, 1},        {1, 1, INT32_MAX, 1}, {1, 1, INT32_MIN, 1},
               {1, 1, 3, 1},         {1, 1, 2, NAN}, {1, 1, 2, INFINITY},  {2, 1, 2, 1}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        n = make_dat(b, bad[i].entries, bad[i].name_len, 1, bad[i].n, bad[i].v);
        cr_expect_eq(load_bytes(b, n, &m, &err), MG_ERR_FORMAT, "case %zu", i);
        cr_expect(err.message[0]);
    }
}

Test(imatrix, truncated_dat) {
    char *data;
    size_t n;
    OK(mg_file_slurp(golden("imatrix.dat"), 1u << 20, &data, &n, &e_));
    /* the last entry ends before chunk count (4), length (4) and "calibration.txt" (15); without them the file is whole
     */
    size_t whole[] = {n, n - 23, n - 19};
    for (size_t cut = 0; cut < n; cut += cut < 300 || cut > n - 60 ? 1 : 1009) {
        mg_imatrix *m;
        mg_error err;
        mg_status st = load_bytes(data, cut, &m, &err);
        bool legal = cut == whole[1] || cut == whole[2];
        cr_expect_eq(st, legal ? MG_OK : MG_ERR_FORMAT, "%zu of %zu bytes: %s", cut, n, err.message);
        if (st == MG_OK) mg_imatrix_free(m);
    }
    free(data);
}

/* ---- making ---- */

static void expect_file(const mg_imatrix_set *s, const char *suffix, const char *want) {
    char path[96], *a, *b;
    size_t na, nb;
    uint64_t size;
    char sha[65];
    snprintf(path, sizeof path, "/tmp/mg_test_imatrix.%d%s", (int)getpid(), suffix);
    OK(mg_imatrix_set_write(s, path, true, &size, sha, &e_));
    OK(mg_file_slurp(path, 1u << 20, &a, &na, &e_));
    OK(mg_file_slurp(want, 1u << 20, &b, &nb, &e_));
    unlink(path);
    cr_expect_eq(size, na);
    cr_expect_eq(strlen(sha), 64u);
    cr_assert(na == nb && memcmp(a, b, na) == 0, "%s is not %s", suffix, want);
    free(a);
    free(b);
}

/* llama-imatrix wrote both golden files from the same sums. */
Test(imatrix, what_is_read_is_written_again) {
    mg_imatrix *m;
    mg_imatrix_set s;
    mg_imatrix_set_init(&s);
    OK(mg_imatrix_load_sums(&m, golden("imatrix.gguf"), &e_));
    OK(mg_imatrix_set_add(&s, m, 512, &e_));
    mg_imatrix_free(m); /* nothing of it is needed any more */
    expect_file(&s, ".gguf", golden("imatrix.gguf"));
    expect_file(&s, ".dat", golden("imatrix.dat"));
    mg_imatrix_set_release(&s);
}

Test(imatrix, sums_add) {
    mg_imatrix *m, *averaged;
    mg_imatrix_set s;
    mg_error err = {0};
    mg_imatrix_set_init(&s);
    OK(mg_imatrix_load_sums(&m, golden("imatrix.gguf"), &e_));
    for (int i = 0; i < 3; i++) OK(mg_imatrix_set_add(&s, m, 512, &e_));
    cr_expect_eq(s.n, m->n);
    cr_expect_eq(s.chunk_count, 3u * 61);
    cr_expect_eq(s.n_datasets, 1u, "the same text is named once");
    for (uint32_t i = 0; i < s.n; i++) {
        cr_expect_str_eq(s.items[i].name, m->entries[i].name);
        cr_expect_eq(s.items[i].counts[0], 3 * m->entries[i].counts[0]);
        cr_expect_eq(s.items[i].sums[5], 3 * (double)m->entries[i].values[5]);
    }
    OK(mg_imatrix_load(&averaged, golden("imatrix.gguf"), &e_));
    cr_expect_eq(mg_imatrix_set_add(&s, averaged, 512, &err), MG_ERR_INTERNAL);
    err = (mg_error){0};
    mg_imatrix_free(averaged);
    OK(mg_imatrix_load_sums(&averaged, golden("imatrix.dat"), &e_));
    cr_expect_eq(mg_imatrix_set_add(&s, averaged, 512, &err), MG_ERR_CONFLICT, "a .dat does not tell experts apart");
    cr_expect(strstr(err.tensor, "exps"), "%s", err.tensor);
    mg_imatrix_free(averaged);
    mg_imatrix_free(m);
    mg_imatrix_set_release(&s);
}

Test(imatrix, partial_coverage_in_both_forms) {
    double sums[] = {2, 4, 0, 0, 9, 6}, none[] = {0, 0};
    int64_t counts[] = {2, 0, 3}, zero[] = {0};
    char path[96];
    mg_imatrix_set s;
    mg_error err = {0};
    mg_imatrix_set_init(&s);
    OK(mg_imatrix_set_put(&s, &(mg_imatrix_sums){"b", 2, 3, sums, counts}, &e_));
    OK(mg_imatrix_set_put(&s, &(mg_imatrix_sums){"a", 2, 1, none, zero}, &e_));
    cr_expect_eq(mg_imatrix_set_put(&s, &(mg_imatrix_sums){"a", 2, 1, none, zero}, &err), MG_ERR_FORMAT);
    s.chunk_size = 2;
    s.chunk_count = 4;
    for (int dat = 0; dat < 2; dat++) {
        mg_imatrix *m;
        snprintf(path, sizeof path, "/tmp/mg_test_imatrix.%d.%s", (int)getpid(), dat ? "dat" : "gguf");
        OK(mg_imatrix_set_write(&s, path, true, NULL, NULL, &e_));
        OK(mg_imatrix_load(&m, path, &e_));
        unlink(path);
        cr_expect_eq(m->n, dat ? 1u : 2u, "a weight without any token is no entry of a .dat");
        const mg_imatrix_entry *e = mg_imatrix_find(m, "b");
        const float want[] = {1, 2, 1, 1, 3, 2};
        cr_assert_not_null(e);
        for (int k = 0; k < 6; k++) cr_expect_eq(e->values[k], want[k]);
        cr_expect_eq(e->counts[0], 2, "two tokens; in a .dat ceil(3 / 2) calls");
        cr_expect_eq(m->chunk_count, 4);
        mg_imatrix_free(m);
    }
    sums[1] = 1e39;
    err = (mg_error){0};
    cr_expect_eq(mg_imatrix_set_write(&s, path, true, NULL, NULL, &err), MG_ERR_LIMIT);
    cr_expect_eq(access(path, F_OK), -1);
    mg_imatrix_set_release(&s);
}

Test(imatrix, statistics) {
    float sums[] = {2, 6, 8, 8, 1e-6f, 12}, before[] = {1, 0, 0, 0, 0, 0};
    int64_t counts[] = {2, 0, 2}, ones[] = {1, 1, 1};
    mg_imatrix_entry entries[] = {{"blk.9.w", 2, 3, before, ones, 0}, {"blk.10.w", 2, 3, sums, counts, 1}};
    mg_imatrix m = {.entries = entries, .n = 2, .raw = true};
    mg_strmap_init(&m.by_name);
    for (uint32_t i = 0; i < 2; i++)
        OK(mg_strmap_put(&m.by_name, entries[i].name, strlen(entries[i].name), i, NULL, &e_));
    mg_imatrix_stats s = mg_imatrix_stats_of(&m, &entries[1]); /* 1, 3, -, -, 5e-7, 6 */
    cr_expect_eq(s.n, 4u);
    cr_expect_eq(s.max, 6.0);
    cr_expect_eq(s.active, 0.75);
    cr_expect_eq(s.zd, 0.25);
    cr_expect(s.has_cosine && fabs(s.cosine - 2 / sqrt(4 + 36 + 64 + 64 + 144)) < 1e-12);
    cr_expect_float_eq(s.entropy, 0.1 * log2(10) + 0.3 * log2(1 / 0.3) + 0.6 * log2(1 / 0.6), 1e-5);
    s = mg_imatrix_stats_of(&m, &entries[0]);
    cr_expect(!s.has_cosine && s.entropy == 0 && s.total == 1);
    mg_strmap_release(&m.by_name);
}
