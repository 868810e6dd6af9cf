/* test_verify.c - drift of predictions, activations and routing, weights compared, thresholds judged. */
#include <criterion/criterion.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "memory_checkpoint.h"
#include "quant/codec.h"
#include "verify/act_drift.h"
#include "verify/common_vocab.h"
#include "verify/drift.h"
#include "verify/judge.h"
#include "verify/report.h"
#include "verify/weight_diff.h"

/* ---- drift ---- */

static mg_score_rows rows_of(const float *logits, const int32_t *targets, uint32_t n, uint64_t vocab) {
    return (mg_score_rows){.n = n, .vocab = vocab, .logits = logits, .targets = targets};
}

/* Two positions over two tokens. p = (3/4, 1/4) and (1/2, 1/2); q = (1/2, 1/2) and (4/5, 1/5). Logits carry shifts that
 * must not matter to anything but their own statistics. f32 exponentials: 1e-6. */
Test(drift, known_distributions) {
    const float a[] = {(float)(log(0.75) + 3), (float)(log(0.25) + 3), 1, 1};
    const float b[] = {-1, -1, (float)log(0.8), (float)log(0.2)};
    const int32_t targets[] = {0, 1};
    mg_score_rows ra = rows_of(a, targets, 2, 2), rb = rows_of(b, targets, 2, 2);
    mg_drift d;
    mg_drift_summary s;
    mg_error err = {0};
    mg_drift_init(&d);
    cr_assert(mg_drift_add(&d, &ra, &rb, 4, NULL, &err) == MG_OK, "%s", err.message);
    cr_assert(mg_drift_summarize(&d, &s, &err) == MG_OK);
    double kl0 = 0.75 * log(0.75 / 0.5) + 0.25 * log(0.25 / 0.5);
    double kl1 = 0.5 * log(0.5 / 0.8) + 0.5 * log(0.5 / 0.2);
    cr_expect_eq(s.n, 2);
    cr_expect_float_eq(s.kl.mean, (kl0 + kl1) / 2, 1e-6);
    cr_expect_float_eq(s.kl.kl.max, kl1, 1e-6);
    cr_expect_float_eq(s.kl.kl.median, (kl0 + kl1) / 2, 1e-6);
    cr_expect_float_eq(s.kl.stderr_, fabs(kl1 - kl0) / 2, 1e-6); /* sqrt(population variance / (2 - 1)) */
    cr_expect_float_eq(s.ppl_reference, exp(-(log(0.75) + log(0.5)) / 2), 1e-6);
    cr_expect_float_eq(s.ppl_candidate, exp(-(log(0.5) + log(0.2)) / 2), 1e-6);
    cr_expect_float_eq(s.kl.dp_mean, ((0.5 - 0.75) + (0.2 - 0.5)) / 2, 1e-6);
    cr_expect_float_eq(s.kl.dp_rms, sqrt((0.25 * 0.25 + 0.3 * 0.3) / 2), 1e-6);
    cr_expect_float_eq(s.kl.same_top, 1, 0); /* ties go to the first token on both sides */
    double worst = 0, sq = 0;
    for (int i = 0; i < 4; i++) {
        worst = fmax(worst, fabs((double)b[i] - (double)a[i]));
        sq += ((double)b[i] - (double)a[i]) * ((double)b[i] - (double)a[i]);
    }
    cr_expect_float_eq(s.logit_max_abs, worst, 0);
    cr_expect_float_eq(s.logit_rms, sqrt(sq / 4), 1e-12);
    cr_expect_eq(d.bin_n[0], 1);
    cr_expect_eq(d.bin_n[MG_DRIFT_BINS / 4], 1); /* position 1 of 4 */
    cr_expect_float_eq(d.bin_kl[MG_DRIFT_BINS / 4], kl1, 1e-6);
    mg_drift_release(&d);
}

Test(drift, percentiles_interpolate) {
    mg_drift d;
    mg_drift_summary s;
    mg_error err = {0};
    mg_drift_init(&d);
    cr_expect_eq(mg_drift_summarize(&d, &s, NULL), MG_ERR_USAGE);
    for (int i = 1000; i >= 0; i--) cr_assert(mg_kl_stats_add(&d.stats, i, 1, 1, i % 4 == 0, &err) == MG_OK);
    d.n_logits = 1;
    cr_assert(mg_drift_summarize(&d, &s, &err) == MG_OK);
    cr_expect(s.kl.kl.median == 500 && s.kl.kl.p90 == 900 && s.kl.kl.p95 == 950 && s.kl.kl.p99 == 990 &&
              s.kl.kl.max == 1000);
    cr_expect(s.kl.kl.min == 0 && s.kl.kl.p001 == 1 && s.kl.kl.p01 == 10 && s.kl.kl.p05 == 50 && s.kl.kl.p10 == 100);
    cr_expect(s.kl.kl.p25 == 250 && s.kl.kl.p75 == 750 && s.kl.dp.min == 0 && s.kl.dp.max == 0);
    cr_expect(isnan(s.kl.correlation)); /* of constants */
    cr_expect_float_eq(s.kl.kl.p999, 999, 1e-9);
    cr_expect_float_eq(s.kl.same_top, 251.0 / 1001, 1e-12);
    mg_drift_release(&d);
}

enum { V = 517, ROWS = 37 };

static void fill(float *x, size_t n, unsigned seed) {
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)(int)(seed >> 16) * 0x1p-13f - 4.0f;
    }
}

Test(drift, equal_models_differ_by_exactly_nothing_and_threads_by_no_bit) {
    static float a[V * ROWS], b[V * ROWS];
    static int32_t targets[ROWS];
    mg_error err = {0};
    fill(a, V * ROWS, 1);
    fill(b, V * ROWS, 2);
    mg_score_rows ra = rows_of(a, targets, ROWS, V), rb = rows_of(b, targets, ROWS, V);
    mg_drift_summary first = {0};
    for (unsigned threads = 1; threads <= 3; threads++) {
        mg_pool *pool;
        mg_drift d;
        mg_drift_summary s;
        cr_assert(mg_pool_new(&pool, threads, &err) == MG_OK);
        mg_drift_init(&d);
        cr_assert(mg_drift_add(&d, &ra, &ra, ROWS, pool, &err) == MG_OK);
        cr_assert(mg_drift_summarize(&d, &s, &err) == MG_OK);
        cr_expect(s.kl.mean == 0 && s.kl.kl.max == 0 && s.logit_max_abs == 0 && s.kl.same_top == 1 && s.kl.dp_rms == 0);
        cr_expect_float_eq(s.logit_cosine, 1, 1e-15);
        mg_drift_release(&d);
        cr_assert(mg_drift_add(&d, &ra, &rb, ROWS, pool, &err) == MG_OK);
        cr_assert(mg_drift_summarize(&d, &s, &err) == MG_OK);
        cr_expect_gt(s.kl.mean, 0.1);
        if (threads == 1) first = s;
        cr_expect_arr_eq(&s, &first, sizeof s);
        mg_drift_release(&d);
        mg_pool_free(pool);
    }
}

Test(drift, refuses_what_is_not_finite_or_not_in_step) {
    float a[] = {0, 1, 2, 3}, b[] = {0, 1, 2, 3};
    const int32_t targets[] = {0, 1};
    mg_drift d;
    mg_error err = {0};
    mg_drift_init(&d);
    mg_score_rows ra = rows_of(a, targets, 2, 2), rb = rows_of(b, targets, 2, 2);
    b[3] = (float)NAN;
    cr_expect_eq(mg_drift_add(&d, &ra, &rb, 2, NULL, &err), MG_ERR_FORMAT);
    cr_expect(strstr(err.message, "position 1"), "%s", err.message);
    b[3] = (float)INFINITY;
    cr_expect_eq(mg_drift_add(&d, &ra, &rb, 2, NULL, NULL), MG_ERR_FORMAT);
    rb.vocab = 1;
    cr_expect_eq(mg_drift_add(&d, &ra, &rb, 2, NULL, NULL), MG_ERR_INTERNAL);
    mg_drift_release(&d);
}

/* Rows of 3 and of 5 over the first 3 ids are rows of 3, whatever stands behind them. */
Test(drift, padding_is_left_out) {
    const float a[] = {1, 2, 3, 3, 2, 1}, wide[] = {0, 2, 4, 9, 9, 5, 1, 0, -INFINITY, 7},
                narrow[] = {0, 2, 4, 5, 1, 0};
    const int32_t targets[] = {0, 2};
    mg_score_rows ra = rows_of(a, targets, 2, 3), rw = rows_of(wide, targets, 2, 5),
                  rn = rows_of(narrow, targets, 2, 3);
    mg_drift d = {.ids = 3}, e = {0};
    mg_drift_summary s, t;
    mg_error err = {0};
    cr_assert(mg_drift_add(&d, &ra, &rw, 2, NULL, &err) == MG_OK && mg_drift_add(&e, &ra, &rn, 2, NULL, &err) == MG_OK);
    cr_assert(mg_drift_summarize(&d, &s, &err) == MG_OK && mg_drift_summarize(&e, &t, &err) == MG_OK);
    cr_expect_arr_eq(&s, &t, sizeof s);
    d.ids = 4;
    cr_expect_eq(mg_drift_add(&d, &ra, &rw, 2, NULL, NULL), MG_ERR_INTERNAL);
    mg_drift_release(&d);
    mg_drift_release(&e);
}

/* ---- vocabularies ---- */

Test(common_vocab, is_what_tokenizers_know_and_the_text_uses) {
    const struct {
        mg_vocab_side sides[3];
        uint32_t n;
        int64_t last;
        uint64_t ids; /* UINT64_MAX: refused */
    } cases[] = {
        {{{"a", 8, 5}, {"b", 8, 0}}, 2, 7, 8},           /* equal heights: all of it */
        {{{"a", 8, 5}, {"b", 6, 5}}, 2, 4, 5},           /* padded: what is known */
        {{{"a", 8, 5}, {"b", 6, 0}}, 2, 5, 6},           /* and what is used */
        {{{"a", 8, 0}, {"b", 6, 0}}, 2, -1, 6},          /* nobody knows: what both have */
        {{{"a", 8, 7}, {"b", 6, 0}}, 2, -1, UINT64_MAX}, /* a token without a row */
        {{{"a", 8, 0}, {"b", 6, 0}}, 2, 6, UINT64_MAX},  /* an id of the text without one */
        {{{"a", 8, 5}, {"b", 0, 0}}, 2, 4, 8},           /* a recording: all tokens fit */
        {{{"a", 8, 0}, {"b", 0, 0}}, 2, 4, 0},           /* nobody says that they do */
        {{{"a", 8, 9}, {"b", 0, 0}}, 2, 4, 0},           /* a tokenizer beyond its own rows */
        {{{"a", 0, 0}, {"b", 0, 0}}, 2, 4, 0},           {{{"a", 8, 5}, {"b", 8, 5}, {"c", 6, 6}}, 3, 4, 6},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t ids;
        mg_error err = {0};
        mg_status st = mg_common_vocab(&ids, cases[i].sides, cases[i].n, cases[i].last, &err);
        if (cases[i].ids == UINT64_MAX)
            cr_expect(st == MG_ERR_CONFLICT && strstr(err.message, "6 rows"), "case %zu: %s", i, err.message);
        else
            cr_expect(st == MG_OK && ids == cases[i].ids, "case %zu: %llu ids", i, (unsigned long long)ids);
    }
}

/* ---- activations and routing ---- */

#define MIXTRAL                                                                                                        \
    "{\"architectures\":[\"MixtralForCausalLM\"],\"model_type\":\"mixtral\",\"hidden_size\":64,"                       \
    "\"intermediate_size\":64,\"num_hidden_layers\":%u,\"num_attention_heads\":2,\"num_key_value_heads\":1,"           \
    "\"vocab_size\":32,\"rms_norm_eps\":1e-5,\"num_local_experts\":4,\"num_experts_per_tok\":2,"                       \
    "\"max_position_embeddings\":64,\"tie_word_embeddings\":false}"

static mg_status tap(mg_tap_fn fn, void *ctx, mg_tap_point point, const float *x, uint64_t rows, uint64_t cols) {
    mg_error err = {0};
    mg_tap t = {.point = point, .layer = 0, .rows = rows, .cols = cols, .data = x};
    return fn(ctx, &t, &err);
}

Test(act_drift, layers_and_routing) {
    char text[1024];
    mg_json *config;
    mg_model *m;
    mg_error err = {0};
    snprintf(text, sizeof text, MIXTRAL, 1u);
    cr_assert(mg_json_parse(&config, (mg_span){(const uint8_t *)text, strlen(text)}, "config", &err) == MG_OK);
    cr_assert(mg_model_from_config(&m, config, &err) == MG_OK, "%s", err.message);
    mg_act_ref ref;
    mg_act_drift d;
    mg_act_ref_init(&ref, m);
    cr_assert(mg_act_drift_init(&d, &ref, m, m, 0, &err) == MG_OK);
    cr_assert(d.n_layers == 1 && d.experts == 4 && d.top_k_ref == 2);
    /* Best two experts: {0,1}, {0,1}, {2,3} against {1,0}, {0,2}, {2,3}. */
    const float router[] = {3, 2, 0, 0, 3, 2, 1, 0, 0, 0, 5, 1}, other[] = {2, 3, 0, 0, 3, 1, 2, 0, 0, 0, 5, 1};
    static float x[3 * 64], y[3 * 64]; /* equal; twice as long; at right angles */
    for (int k = 0; k < 64; k++) {
        x[k] = y[k] = (float)k;
        x[64 + k] = 1;
        y[64 + k] = 2;
        x[128 + k] = 1;
        y[128 + k] = k % 2 ? 1 : -1;
    }
    for (int batch = 0; batch < 2; batch++) { /* the same again: sums double, means stay */
        cr_assert(tap(mg_act_ref_tap, &ref, MG_TAP_ROUTER_LOGITS, router, 3, 4) == MG_OK);
        cr_assert(tap(mg_act_ref_tap, &ref, MG_TAP_FFN_IN, x, 3, 64) == MG_OK); /* not its business */
        cr_assert(tap(mg_act_ref_tap, &ref, MG_TAP_LAYER_OUT, x, 3, 64) == MG_OK);
        cr_assert(mg_act_ref_rewind(&ref, &err) == MG_OK);
        cr_assert(tap(mg_act_drift_tap, &d, MG_TAP_ROUTER_LOGITS, other, 3, 4) == MG_OK);
        cr_assert(tap(mg_act_drift_tap, &d, MG_TAP_LAYER_OUT, y, 3, 64) == MG_OK);
    }
    const mg_layer_stat *l = &d.layer[0];
    const mg_routing_stat *r = &d.routing[0];
    cr_expect(l->tokens == 6 && r->tokens == 6);
    cr_expect_float_eq(l->cosine_sum, 2 * (1 + 1 + 0), 1e-12);
    cr_expect_float_eq(l->diff_sq, 2 * (0 + 64 + 32 * 4), 1e-9);
    cr_expect_float_eq(l->ref_sq, 2 * (85344 + 64 + 64), 1e-9); /* sum of k^2 below 64 is 85344 */
    cr_expect_eq(r->same_set, 2 * 2);                           /* order does not matter */
    cr_expect_eq(r->same_first, 2 * 2);
    const uint64_t load_ref[] = {4, 4, 2, 2}, load_cand[] = {4, 2, 4, 2};
    cr_expect_arr_eq(r->load_ref, load_ref, sizeof load_ref);
    cr_expect_arr_eq(r->load_cand, load_cand, sizeof load_cand);
    double kl = 0;
    for (int i = 0; i < 3; i++) {
        double p = 0, q = 0;
        for (int e = 0; e < 4; e++) {
            p += exp((double)router[4 * i + e]);
            q += exp((double)other[4 * i + e]);
        }
        for (int e = 0; e < 4; e++) {
            double a = (double)router[4 * i + e] - log(p), b = (double)other[4 * i + e] - log(q);
            kl += exp(a) * (a - b);
        }
    }
    cr_expect_float_eq(r->weight_kl_sum, 2 * kl, 1e-12);
    mg_act_drift_release(&d);
    mg_act_ref_release(&ref);
    mg_model_free(m);
    mg_json_free(config);
}

/* ---- weights ---- */

typedef struct made {
    memory_checkpoint *c;
    mg_model *m;
} made;

static void put(memory_checkpoint *c, mg_dtype type, uint64_t rows, uint64_t cols, const char *name) {
    static float x[64 * 64];
    const uint64_t shape[2] = {rows ? rows : cols, cols};
    uint64_t n = (rows ? rows : 1) * cols;
    unsigned seed = 1;
    for (const char *p = name; *p; p++) seed = seed * 31 + (unsigned char)*p;
    fill(x, n, seed);
    if (type == MG_F32) {
        memory_put(c, name, type, rows ? 2 : 1, shape, x);
        return;
    }
    uint16_t half[64 * 64];
    cr_assert(mg_codec_get(type)->encode(x, NULL, n, half, NULL) == MG_OK);
    memory_put(c, name, type, rows ? 2 : 1, shape, half);
}

static made make(mg_dtype type, unsigned layers) {
    char text[1024], name[128];
    snprintf(text, sizeof text, MIXTRAL, layers);
    made r = {.c = memory_new(text)};
    put(r.c, type, 32, 64, "model.embed_tokens.weight");
    put(r.c, type, 0, 64, "model.norm.weight");
    put(r.c, type, 32, 64, "lm_head.weight");
    for (unsigned l = 0; l < layers; l++) {
        static const struct {
            const char *name;
            uint64_t rows;
        } parts[] = {{"input_layernorm", 0},      {"post_attention_layernorm", 0}, {"self_attn.q_proj", 64},
                     {"self_attn.k_proj", 32},    {"self_attn.v_proj", 32},        {"self_attn.o_proj", 64},
                     {"block_sparse_moe.gate", 4}};
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
            snprintf(name, sizeof name, "model.layers.%u.%s.weight", l, parts[i].name);
            put(r.c, type, parts[i].rows, 64, name);
        }
        for (unsigned e = 0; e < 4; e++)
            for (unsigned w = 1; w <= 3; w++) {
                snprintf(name, sizeof name, "model.layers.%u.block_sparse_moe.experts.%u.w%u.weight", l, e, w);
                put(r.c, type, 64, 64, name);
            }
    }
    mg_error err = {0};
    cr_assert(mg_model_open(&r.m, &r.c->base, &err) == MG_OK, "%s", err.message);
    return r;
}

static void unmake(made *r) {
    mg_model_free(r->m);
    mg_checkpoint_free(&r->c->base);
}

static uint8_t *bytes_of(made *r, const char *name) {
    uint32_t t = mg_checkpoint_find(&r->c->base, name);
    cr_assert_neq(t, MG_STRMAP_NONE, "%s", name);
    return r->c->data[t];
}

static void diff(mg_weight_diff *d, made *a, made *b, unsigned threads) {
    mg_pool *pool;
    mg_error err = {0};
    cr_assert(mg_pool_new(&pool, threads, &err) == MG_OK);
    cr_assert(mg_weight_diff_run(d, a->m, b->m, 0, pool, NULL, &err) == MG_OK, "%s", err.message);
    mg_pool_free(pool);
}

Test(weight_diff, equal_weights_and_rounded_weights_pass) {
    made a = make(MG_F32, 2), b = make(MG_F32, 2), c = make(MG_BF16, 2);
    mg_weight_diff d;
    diff(&d, &a, &b, 2);
    cr_expect_eq(d.n, 3 + 2 * (7 + 12));
    cr_expect_eq(d.n_bad, 0);
    cr_expect(d.items[0].worst_block == 0 && d.items[0].rmse == 0 && isinf(d.items[0].snr_db));
    mg_weight_diff_release(&d);
    diff(&d, &a, &c, 2);
    cr_expect_eq(d.n_bad, 0);
    cr_expect(d.items[0].error > 0.0005 && d.items[0].error < 0.004 && d.items[0].candidate.bpw == 16);
    cr_expect_float_eq(d.items[0].error, pow(10, -d.items[0].snr_db / 20), 1e-9);
    mg_weight_diff_release(&d);
    unmake(&a);
    unmake(&b);
    unmake(&c);
}

Test(weight_diff, names_swapped_experts) {
    made a = make(MG_F32, 1), b = make(MG_BF16, 1);
    mg_weight_diff d;
    const char *x = "model.layers.0.block_sparse_moe.experts.1.w2.weight";
    const char *y = "model.layers.0.block_sparse_moe.experts.3.w2.weight";
    uint8_t keep[64 * 64 * 2];
    memcpy(keep, bytes_of(&b, x), sizeof keep);
    memcpy(bytes_of(&b, x), bytes_of(&b, y), sizeof keep);
    memcpy(bytes_of(&b, y), keep, sizeof keep);
    diff(&d, &a, &b, 3);
    cr_expect_eq(d.n_bad, 2);
    cr_expect((!strcmp(d.items[0].name, x) && !strcmp(d.items[1].name, y)) ||
              (!strcmp(d.items[0].name, y) && !strcmp(d.items[1].name, x)));
    cr_expect_gt(d.items[0].error, 1);
    for (int i = 0; i < 2; i++) {
        const mg_weight_stat *s = &d.items[i];
        cr_expect(s->exchanged && s->expert + s->nearest == 1 + 3, "%s: nearest to %u", s->name, s->nearest);
        cr_expect_lt(s->nearest_error, 0.004, "as BF16 rounds: %g", s->nearest_error);
    }
    for (uint32_t i = 2; i < d.n; i++) cr_expect_not(d.items[i].exchanged, "%s", d.items[i].name);
    mg_weight_diff_release(&d);
    unmake(&a);
    unmake(&b);
}

Test(weight_diff, names_a_doubled_block_and_its_place) {
    made a = make(MG_F32, 1), b = make(MG_BF16, 1);
    const char *x = "model.layers.0.self_attn.o_proj.weight";
    uint16_t *w = (uint16_t *)bytes_of(&b, x) + 17 * 64 + 32;
    for (int i = 0; i < 32; i++) w[i] = (uint16_t)(w[i] + 0x80); /* one more in the exponent */
    for (unsigned threads = 1; threads <= 3; threads++) {
        mg_weight_diff d;
        diff(&d, &a, &b, threads);
        cr_expect_eq(d.n_bad, 1);
        cr_expect_str_eq(d.items[0].name, x);
        cr_expect(d.items[0].worst_row == 17 && d.items[0].worst_col == 32);
        cr_expect_float_eq(d.items[0].worst_block, 1, 0.02);
        mg_weight_diff_release(&d);
    }
    unmake(&a);
    unmake(&b);
}

/* The rows of q and k in the order of the other rotary convention: halves instead of pairs. */
Test(weight_diff, names_rows_in_the_wrong_order) {
    made a = make(MG_F32, 1), b = make(MG_F32, 1);
    const char *x = "model.layers.0.self_attn.k_proj.weight";
    float *w = (float *)bytes_of(&b, x);
    static float keep[32 * 64];
    memcpy(keep, w, sizeof keep);
    for (int r = 0; r < 32; r++) memcpy(w + r * 64, keep + (r % 2 * 16 + r / 2) * 64, 64 * sizeof *w);
    mg_weight_diff d;
    diff(&d, &a, &b, 1);
    cr_expect_eq(d.n_bad, 1);
    cr_expect_str_eq(d.items[0].name, x);
    mg_weight_diff_release(&d);
    /* One flipped bit and one number that is none. */
    memcpy(w, keep, sizeof keep);
    ((uint32_t *)bytes_of(&b, "lm_head.weight"))[100] ^= 1;
    w[70] = (float)NAN;
    diff(&d, &a, &b, 1);
    cr_expect_eq(d.n_bad, 2);
    cr_expect(!strcmp(d.items[0].name, x) && isinf(d.items[0].worst_block) && d.items[0].worst_row == 1);
    cr_expect_str_eq(d.items[1].name, "lm_head.weight");
    mg_weight_diff_release(&d);
    unmake(&a);
    unmake(&b);
}

Test(weight_diff, missing_weights_come_first) {
    made a = make(MG_F32, 2), b = make(MG_F32, 1);
    ((float *)bytes_of(&b, "model.norm.weight"))[0] += 1;
    mg_weight_diff d;
    diff(&d, &a, &b, 2);
    cr_expect_eq(d.n, 3 + 2 * 19);
    cr_expect_eq(d.n_bad, 19 + 1);
    for (int i = 0; i < 19; i++)
        cr_expect(d.items[i].missing && strstr(d.items[i].name, "layers.1."), "%s", d.items[i].name);
    cr_expect_str_eq(d.items[19].name, "model.norm.weight");
    mg_weight_diff_release(&d);
    unmake(&a);
    unmake(&b);
}

/* ---- thresholds ---- */

Test(judge, parses) {
    mg_threshold t;
    mg_error err = {0};
    static const struct {
        const char *text, *path, *op;
        double value;
    } good[] = {{"kl.mean>0.05", "kl.mean", ">", 0.05}, {"kl.mean >= 5e-2", "kl.mean", ">=", 0.05},
                {"a.b[3].c<-1", "a.b[3].c", "<", -1},   {"top1_agreement <= 1", "top1_agreement", "<=", 1},
                {"tokens==0", "tokens", "==", 0},       {"tokens!=0", "tokens", "!=", 0}};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        cr_assert(mg_threshold_parse(&t, good[i].text, &err) == MG_OK, "%s", good[i].text);
        cr_expect_str_eq(t.path, good[i].path);
        cr_expect_str_eq(t.op, good[i].op);
        cr_expect(t.value == good[i].value);
    }
    static const char *const bad[] = {"",     "kl.mean", ">1",    "kl.mean>", "kl.mean>x", "kl.mean=1", "a!1",
                                      "a=>1", "a<>1",    "a>nan", "a>inf",    "a>0x10",    "a>1 1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        cr_expect_eq(mg_threshold_parse(&t, bad[i], NULL), MG_ERR_USAGE, "%s", bad[i]);
    char longest[300];
    memset(longest, 'a', sizeof longest);
    strcpy(longest + 200, ">1");
    cr_expect_eq(mg_threshold_parse(&t, longest, NULL), MG_ERR_USAGE);
}

Test(judge, compares_and_refuses_unknown_paths) {
    static const char text[] = "{\"kl\":{\"mean\":0.5,\"none\":null},\"list\":[{\"x\":1},{\"x\":-2}],\"name\":\"n\"}";
    static const struct {
        const char *text;
        int fails; /* -1: refused */
    } cases[] = {{"kl.mean>0.5", 0},
                 {"kl.mean>=0.5", 1},
                 {"kl.mean<0.6", 1},
                 {"kl.mean<=0.4", 0},
                 {"kl.mean==0.5", 1},
                 {"kl.mean!=0.5", 0},
                 {"list[1].x<0", 1},
                 {"list[0].x<0", 0},
                 {"kl.none>0", 0},
                 {"kl.none<0", 0},
                 {"kl>0", -1},
                 {"kl.median>0", -1},
                 {"list[2].x<0", -1},
                 {"list.x<0", -1},
                 {"list[]x<0", -1},
                 {"list[-1].x<0", -1},
                 {"name>0", -1},
                 {"kl.mean.>0", -1},
                 {"kl..mean>0", -1},
                 {"list[0]x>0", -1},
                 {"list[0].>0", -1},
                 {"Kl.mean>0", -1},
                 {"list[99999999999999999999].x>0", -1}};
    mg_json *v;
    mg_error err = {0};
    cr_assert(mg_json_parse(&v, (mg_span){(const uint8_t *)text, strlen(text)}, "text", &err) == MG_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mg_threshold t;
        bool fails = true;
        mg_error e = {0};
        cr_assert(mg_threshold_parse(&t, cases[i].text, &e) == MG_OK, "%s", cases[i].text);
        mg_status st = mg_threshold_check(&t, v, &fails, &e);
        if (cases[i].fails < 0)
            cr_expect(st == MG_ERR_USAGE && strstr(e.message, t.path), "%s: %s", cases[i].text, e.message);
        else
            cr_expect(st == MG_OK && fails == (cases[i].fails == 1), "%s", cases[i].text);
    }
    mg_json_free(v);
}

Test(judge, knows_every_path_before_the_run) {
    static const char *const known[] = {"kl.mean",
                                        "kl.p999",
                                        "ppl.ratio",
                                        "top1_agreement",
                                        "layers[7].cosine",
                                        "logits.rms",
                                        "delta_p.rms",
                                        "kl.by_position[3]",
                                        "damaged_tensors",
                                        "tensors[0].rmse",
                                        "tensors[9].snr_db",
                                        "routing[2].set_agreement",
                                        "routing[0].load_candidate[3]"};
    static const char *const unknown[] = {"kl.meen", "layers.cosine", "layers[0].cosin", "verdict", "path",
                                          "kl",      "tokens"};
    mg_json *example;
    mg_error err = {0};
    cr_assert(mg_report_example(&example, &err) == MG_OK);
    for (size_t i = 0; i < sizeof known / sizeof *known + sizeof unknown / sizeof *unknown; i++) {
        bool good = i < sizeof known / sizeof *known;
        const char *path = good ? known[i] : unknown[i - sizeof known / sizeof *known];
        char text[64];
        mg_threshold t;
        snprintf(text, sizeof text, "%s>0", path);
        cr_assert(mg_threshold_parse(&t, text, NULL) == MG_OK);
        cr_expect_eq(mg_threshold_known(&t, example, NULL), good ? MG_OK : MG_ERR_USAGE, "%s", path);
    }
    mg_json_free(example);
}

/* ---- the page ---- */

enum { DEEP = 32, WIDE = 8 };

/* A large model's result: the page stays small and holds every layer. */
Test(report, of_32_layers_with_8_experts) {
    static mg_layer_stat layer[DEEP];
    static mg_routing_stat routing[DEEP];
    static uint64_t load[2 * DEEP * WIDE];
    static mg_weight_stat weights[DEEP * (7 + 3 * WIDE)];
    static char names[DEEP * (7 + 3 * WIDE)][64];
    mg_candidate c = {.path = "large.gguf", .has_drift = true, .has_weights = true};
    for (uint64_t l = 0; l < DEEP; l++) {
        layer[l] = (mg_layer_stat){.tokens = 10, .cosine_sum = 9.9, .diff_sq = 0.01 * (double)(l + 1), .ref_sq = 10};
        routing[l] = (mg_routing_stat){.tokens = 10,
                                       .same_set = 9,
                                       .same_first = 10,
                                       .load_ref = load + l * WIDE,
                                       .load_cand = load + (DEEP + l) * WIDE};
        for (uint64_t e = 0; e < WIDE; e++) load[l * WIDE + e] = load[(DEEP + l) * WIDE + e] = e + 1;
    }
    for (uint64_t b = 0; b < MG_DRIFT_BINS; b++) {
        c.drift.bin_n[b] = b >= 16;
        c.drift.bin_kl[b] = 0.001 * (double)b;
    }
    for (uint32_t i = 0; i < DEEP * (7 + 3 * WIDE); i++) {
        snprintf(names[i], sizeof names[i], "blk.%u.some_long_name_exps.weight[%u]", i % DEEP, i / DEEP);
        weights[i] = (mg_weight_stat){
            .name = names[i], .reference.name = "F32", .candidate.name = "Q4_K", .worst_block = 2, .error = 0.5};
    }
    c.act = (mg_act_drift){.n_layers = DEEP, .experts = WIDE, .layer = layer, .routing = routing};
    c.weights.items = weights;
    c.weights.n = c.weights.n_bad = DEEP * (7 + 3 * WIDE);
    mg_report r = {.reference = "large", .text_name = "text", .tokens = 10, .cand = &c, .n = 1};
    mg_json *json;
    mg_error err = {0};
    char *page, last[64];
    size_t n;
    cr_assert(mg_report_json(&json, &r, &err) == MG_OK);
    cr_expect_eq(mg_json_len(mg_json_path(mg_json_first(mg_json_get(json, "candidates")), "tensors")), c.weights.n);
    cr_assert(mg_report_html(&page, &n, &r, json, &err) == MG_OK);
    cr_expect(n > 20000 && n < 1000000 && strlen(page) == n, "%zu bytes", n);
    snprintf(last, sizeof last, "<tr><td>%d</td>", DEEP - 1);
    cr_expect(strstr(page, last) && strstr(page, "layer 31") && strstr(page, "more in the JSON"));
    unsigned plots = 0;
    for (const char *p = page; (p = strstr(p, "<svg")) != NULL; p++) plots++;
    cr_expect_eq(plots, 2 + DEEP);
    free(page);
    mg_json_free(json);
}
