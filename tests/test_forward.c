/* test_forward.c - the forward pass against transformers' activations, and against itself: threads, batches, chunks and
 * the cache must not change a bit. Instruction sets are compared end to end (e2e/forward.py): one process has one. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/arch/arch.h"
#include "verify/forward.h"
#include "verify/forward64.h"
#include "verify/rope.h"
#include "verify/router.h"

#define TINY MG_TEST_DATA "/models/tiny/"

typedef struct fixture {
    mg_checkpoint *ckpt, *ref;
    mg_model *m;
    mg_pool *pool;
    mg_forward *f;
    uint64_t batch, n, hidden, vocab, layers;
    int32_t *ids;
} fixture;

static void ok(mg_status st, const mg_error *err) {
    char text[2048];
    cr_assert(st == MG_OK, "%s", mg_error_text(err, text, sizeof text));
}

static fixture open_tiny(const char *name, unsigned threads) {
    fixture x = {0};
    mg_error err = {0};
    char path[4096];
    snprintf(path, sizeof path, TINY "%s", name);
    ok(mg_checkpoint_open(&x.ckpt, path, &err), &err);
    ok(mg_model_open(&x.m, x.ckpt, &err), &err);
    snprintf(path, sizeof path, TINY "%s/reference.safetensors", name);
    ok(mg_checkpoint_open(&x.ref, path, &err), &err);
    ok(mg_pool_new(&x.pool, threads, &err), &err);
    ok(mg_forward_new(&x.f, x.pool, NULL, &err), &err);
    uint32_t t = mg_checkpoint_find(x.ref, "input_ids");
    cr_assert(t != MG_STRMAP_NONE);
    x.batch = x.ref->tensors[t].shape[0];
    x.n = x.ref->tensors[t].shape[1];
    x.hidden = (uint64_t)mg_hp_i(x.m, MG_K_HIDDEN);
    x.vocab = (uint64_t)mg_hp_i(x.m, MG_K_VOCAB);
    x.layers = (uint64_t)mg_hp_i(x.m, MG_K_LAYERS);
    int64_t *wide = malloc(x.batch * x.n * 8);
    ok(mg_checkpoint_read(x.ref, t, 0, wide, x.batch * x.n * 8, &err), &err);
    x.ids = malloc(x.batch * x.n * sizeof *x.ids);
    for (uint64_t i = 0; i < x.batch * x.n; i++) x.ids[i] = (int32_t)wide[i];
    free(wide);
    return x;
}

static void close_tiny(fixture *x) {
    mg_forward_free(x->f);
    mg_pool_free(x->pool);
    mg_model_free(x->m);
    mg_checkpoint_free(x->ckpt);
    mg_checkpoint_free(x->ref);
    free(x->ids);
}

/* 2e-5 of the tensor's RMS: two f32 implementations with different summation orders; transformers against itself in
 * another thread count differs by up to 5e-6 on these models. */
static void close_to(const fixture *x, const char *name, const float *got, uint64_t n) {
    uint32_t t = mg_checkpoint_find(x->ref, name);
    cr_assert(t != MG_STRMAP_NONE, "no %s in the reference", name);
    cr_assert(x->ref->tensors[t].n_elements == n, "%s: %lu values", name, x->ref->tensors[t].n_elements);
    float *want = malloc(n * 4);
    mg_error err = {0};
    ok(mg_checkpoint_read(x->ref, t, 0, want, n * 4, &err), &err);
    double ss = 0, worst = 0;
    for (uint64_t i = 0; i < n; i++) {
        ss += (double)want[i] * (double)want[i];
        double d = fabs((double)want[i] - (double)got[i]);
        cr_assert(d == d);
        if (d > worst) worst = d;
    }
    double rms = sqrt(ss / (double)n);
    cr_assert(worst <= 2e-5 * rms, "%s: %.2e of the RMS", name, worst / rms);
    free(want);
}

typedef struct taps {
    const fixture *x;
    uint32_t routers;
    unsigned seen;
    uint64_t expert_rows;
} taps;

static mg_status on_tap(void *ctx, const mg_tap *t, mg_error *err) {
    (void)err;
    taps *s = ctx;
    char name[64];
    s->seen |= 1u << t->point;
    if (t->point == MG_TAP_LAYER_OUT && t->layer + 1 < s->x->layers) {
        snprintf(name, sizeof name, "hidden.%u", t->layer + 1);
        close_to(s->x, name, t->data, t->rows * t->cols);
    } else if (t->point == MG_TAP_ROUTER_LOGITS) {
        snprintf(name, sizeof name, "router.%u", s->routers++);
        close_to(s->x, name, t->data, t->rows * t->cols);
    } else if (t->point == MG_TAP_EXPERT_IN) {
        s->expert_rows += t->rows;
        for (uint64_t i = 0; i < t->rows; i++) cr_assert(t->token[i] < s->x->batch * s->x->n && t->weight[i] > 0);
    }
    return MG_OK;
}

static mg_batch whole(const fixture *x, uint32_t *len) {
    for (uint64_t i = 0; i < x->batch; i++) len[i] = (uint32_t)x->n;
    return (mg_batch){.n_seqs = (uint32_t)x->batch, .len = len, .n_tokens = x->batch * x->n};
}

static void against_reference(const char *name) {
    fixture x = open_tiny(name, 2);
    mg_error err = {0};
    uint32_t len[8];
    mg_batch b = whole(&x, len);
    float *h = malloc(b.n_tokens * x.hidden * 4), *logits = malloc(b.n_tokens * x.vocab * 4);
    ok(mg_forward_embed(x.f, x.m, x.ids, b.n_tokens, h, &err), &err);
    close_to(&x, "hidden.0", h, b.n_tokens * x.hidden);
    taps s = {.x = &x};
    ok(mg_forward_run(x.f, x.m, NULL, &b, x.ids, h, on_tap, &s, &err), &err);
    ok(mg_forward_logits(x.f, x.m, h, b.n_tokens, logits, &err), &err);
    close_to(&x, "logits", logits, b.n_tokens * x.vocab);
    ok(mg_forward_final_norm(x.f, x.m, h, b.n_tokens, h, &err), &err);
    char last[32];
    snprintf(last, sizeof last, "hidden.%lu", x.layers);
    close_to(&x, last, h, b.n_tokens * x.hidden);
    uint64_t moe = 0; /* layers that route */
    for (uint64_t l = 0; l < x.layers; l++) moe += x.m->layers[l].moe;
    const unsigned always =
        1u << MG_TAP_ATTN_IN | 1u << MG_TAP_ATTN_O_IN | 1u << MG_TAP_FFN_IN | 1u << MG_TAP_LAYER_OUT;
    const unsigned experts =
        1u << MG_TAP_ROUTER_LOGITS | 1u << MG_TAP_EXPERT_IN | 1u << MG_TAP_EXPERT_DOWN_IN | 1u << MG_TAP_EXPERT_OUT;
    const unsigned shared = mg_hp_i(x.m, MG_K_SHARED_FFN) > 0 ? 1u << MG_TAP_SHARED_DOWN_IN : 0;
    cr_assert_eq(s.seen, always | (moe ? experts | shared : 0) | (moe < x.layers ? 1u << MG_TAP_FFN_DOWN_IN : 0));
    cr_assert_eq(s.expert_rows, b.n_tokens * moe * (uint64_t)mg_hp_i(x.m, MG_K_EXPERTS_USED));
    free(h);
    free(logits);
    close_tiny(&x);
}

Test(forward, llama) {
    against_reference("llama");
}
Test(forward, rope_linear_and_biases) {
    against_reference("llama_rope_linear");
}
Test(forward, rope_llama3) {
    against_reference("llama_rope_llama3");
}
Test(forward, rope_yarn) {
    against_reference("llama_rope_yarn");
}
Test(forward, mistral) {
    against_reference("mistral");
}
Test(forward, sliding_window) {
    against_reference("mistral_swa");
}
/* Dense families: norms of query and key, biases, partial rotation, layer norms, caps, scales, windows by layer. */
static const char *const dense[] = {
    "qwen2",         "qwen3",   "smollm3", "stablelm", "olmo2",       "phi3",
    "phi3_longrope", "granite", "gemma",   "gemma2",   "gemma3_text",
};
Test(forward, dense_families) {
    for (size_t i = 0; i < sizeof dense / sizeof *dense; i++) against_reference(dense[i]);
}

/* Mixtures: router rules, shared experts, dense layers among routed ones. */
static const char *const mixtures[] = {
    "mixtral",        "qwen2_moe", "mesh_no_exchange", "mesh_k1",         "mesh_k2",
    "mesh_dense",     "qwen3_moe", "nekomind",         "nekomind_untied", "olmoe",
    "hunyuan_v1_moe", "dots1",     "ernie4_5_moe",     "granitemoe",      "glm4_moe",
    "minimax_m2",     "phimoe",    "deepseek_v2",      "deepseek_v3",     "gpt_oss",
};
Test(forward, mixtures) {
    for (size_t i = 0; i < sizeof mixtures / sizeof *mixtures; i++) against_reference(mixtures[i]);
}

/* Hidden states after all layers, sequences one after the other. chunk 0: one batch; else a cache per sequence, fed
 * chunk tokens at a time. */
static float *hidden_of(const char *name, unsigned threads, uint64_t chunk) {
    fixture x = open_tiny(name, threads);
    mg_error err = {0};
    uint32_t len[8];
    mg_batch b = whole(&x, len);
    float *h = malloc(b.n_tokens * x.hidden * 4);
    if (!chunk) {
        ok(mg_forward_run(x.f, x.m, NULL, &b, x.ids, h, NULL, NULL, &err), &err);
    } else {
        for (uint64_t s = 0; s < x.batch; s++) {
            mg_kvcache *c;
            ok(mg_kvcache_new(&c, x.m, 1, x.n, &err), &err);
            for (uint64_t at = 0; at < x.n; at += chunk) {
                uint32_t take = (uint32_t)(x.n - at < chunk ? x.n - at : chunk);
                mg_batch one = {.n_seqs = 1, .len = &take, .n_tokens = take};
                ok(mg_forward_run(x.f, x.m, c, &one, x.ids + s * x.n + at, h + (s * x.n + at) * x.hidden, NULL, NULL,
                                  &err),
                   &err);
            }
            cr_assert_eq(c->past[0], x.n);
            mg_kvcache_free(c);
        }
    }
    close_tiny(&x);
    return h;
}

static void same_bits(const char *name) {
    fixture x = open_tiny(name, 1);
    const uint64_t bytes = x.batch * x.n * x.hidden * 4;
    close_tiny(&x);
    float *want = hidden_of(name, 1, 0);
    for (unsigned threads = 1; threads <= 3; threads++) {
        static const uint64_t chunks[] = {0, 1, 5, 7, 24};
        for (size_t c = 0; c < 5; c++) {
            float *got = hidden_of(name, threads, chunks[c]);
            cr_assert(!memcmp(want, got, bytes), "%s: %u threads, chunk %lu", name, threads, chunks[c]);
            free(got);
        }
    }
    free(want);
}

Test(forward, threads_chunks_and_cache_do_not_change_bits) {
    same_bits("llama_rope_yarn");
    same_bits("mistral_swa");
    for (size_t i = 0; i < sizeof mixtures / sizeof *mixtures; i++) same_bits(mixtures[i]);
    for (size_t i = 0; i < sizeof dense / sizeof *dense; i++) same_bits(dense[i]);
}

/* Kept weights: the same bits when all, some or none of them fit, for one token and for many. */
Test(forward, kept_weights_do_not_change_bits) {
    fixture x = open_tiny("mixtral", 2);
    mg_error err = {0};
    uint32_t len[8], one = 1;
    mg_batch b = whole(&x, len), single = {.n_seqs = 1, .len = &one, .n_tokens = 1};
    const uint64_t bytes = b.n_tokens * x.hidden * 4;
    float *want = malloc(bytes), *h = malloc(bytes);
    ok(mg_forward_run(x.f, x.m, NULL, &b, x.ids, want, NULL, NULL, &err), &err);
    const uint64_t keep[] = {1 << 30, 100000, 1};
    for (int i = 0; i < 3; i++) {
        mg_forward *f;
        ok(mg_forward_new(&f, x.pool, &(mg_forward_options){.keep_bytes = keep[i]}, &err), &err);
        ok(mg_forward_run(f, x.m, NULL, &single, x.ids, h, NULL, NULL, &err), &err);
        cr_assert(!memcmp(want, h, x.hidden * 4));
        for (int again = 0; again < 3; again++) {
            memset(h, 0, bytes);
            ok(mg_forward_run(f, x.m, NULL, &b, x.ids, h, NULL, NULL, &err), &err);
            cr_assert(!memcmp(want, h, bytes), "budget %lu, run %d", keep[i], again);
            if (again == 1) mg_forward_forget(f);
        }
        mg_forward_free(f);
    }
    free(want);
    free(h);
    close_tiny(&x);
}

Test(forward, experts_per_token) {
    fixture x = open_tiny("mixtral", 2);
    mg_error err = {0};
    uint32_t len[8];
    mg_batch b = whole(&x, len);
    const uint64_t bytes = b.n_tokens * x.hidden * 4;
    float *own = malloc(bytes), *h = malloc(bytes);
    ok(mg_forward_run(x.f, x.m, NULL, &b, x.ids, own, NULL, NULL, &err), &err);
    const uint32_t ks[] = {2, 1, MG_EXPERTS_ALL, 4};
    float *all = NULL;
    for (int i = 0; i < 4; i++) {
        mg_forward *f;
        ok(mg_forward_new(&f, x.pool, &(mg_forward_options){.experts_per_token = ks[i]}, &err), &err);
        ok(mg_forward_run(f, x.m, NULL, &b, x.ids, h, NULL, NULL, &err), &err);
        cr_assert((memcmp(own, h, bytes) == 0) == (ks[i] == 2));
        if (ks[i] == MG_EXPERTS_ALL) {
            all = malloc(bytes);
            memcpy(all, h, bytes);
        }
        if (ks[i] == 4) cr_assert(!memcmp(all, h, bytes));
        mg_forward_free(f);
    }
    mg_forward *f;
    ok(mg_forward_new(&f, NULL, &(mg_forward_options){.experts_per_token = 5}, &err), &err);
    cr_assert_eq(mg_forward_run(f, x.m, NULL, &b, x.ids, h, NULL, NULL, &err), MG_ERR_USAGE);
    mg_forward_free(f);
    free(own);
    free(h);
    free(all);
    close_tiny(&x);
}

Test(forward, parts_of_a_layer_add_up) {
    fixture x = open_tiny("mixtral", 2);
    mg_error err = {0};
    uint32_t len[8];
    mg_batch b = whole(&x, len);
    const uint64_t bytes = b.n_tokens * x.hidden * 4;
    float *want = malloc(bytes), *h = malloc(bytes);
    mg_evaluator e = mg_forward_evaluator(x.f);
    ok(e.embed(e.self, x.m, x.ids, b.n_tokens, want, &err), &err);
    memcpy(h, want, bytes);
    ok(e.run_layer(e.self, x.m, 0, MG_PART_ALL, &b, want, NULL, NULL, &err), &err);
    ok(e.run_layer(e.self, x.m, 0, MG_PART_ATTN, &b, h, NULL, NULL, &err), &err);
    taps s = {.x = &x};
    ok(e.run_layer(e.self, x.m, 0, MG_PART_FFN_IN, &b, h, on_tap, &s, &err), &err);
    cr_assert_eq(s.seen, 1u << MG_TAP_FFN_IN);
    s.seen = 0;
    ok(e.run_layer(e.self, x.m, 0, MG_PART_DOWN_IN, &b, h, on_tap, &s, &err), &err);
    cr_assert_eq(s.seen, 1u << MG_TAP_FFN_IN | 1u << MG_TAP_ROUTER_LOGITS | 1u << MG_TAP_EXPERT_IN |
                             1u << MG_TAP_EXPERT_DOWN_IN);
    ok(e.run_layer(e.self, x.m, 0, MG_PART_FFN, &b, h, NULL, NULL, &err), &err);
    cr_assert(!memcmp(want, h, bytes));
    free(want);
    free(h);
    close_tiny(&x);
}

Test(forward, refuses_ids_outside_the_vocabulary_and_a_full_cache) {
    fixture x = open_tiny("llama", 1);
    mg_error err = {0};
    float *h = malloc(40 * x.hidden * 4);
    int32_t bad[] = {1, 320};
    uint32_t two = 2;
    mg_batch b = {.n_seqs = 1, .len = &two, .n_tokens = 2};
    cr_assert_eq(mg_forward_run(x.f, x.m, NULL, &b, bad, h, NULL, NULL, &err), MG_ERR_FORMAT);
    bad[1] = -1;
    cr_assert_eq(mg_forward_run(x.f, x.m, NULL, &b, bad, h, NULL, NULL, NULL), MG_ERR_FORMAT);
    mg_kvcache *c;
    mg_error e2 = {0};
    ok(mg_kvcache_new(&c, x.m, 1, 16, &e2), &e2);
    uint32_t many = 17;
    b = (mg_batch){.n_seqs = 1, .len = &many, .n_tokens = 17};
    cr_assert_eq(mg_forward_run(x.f, x.m, c, &b, x.ids, h, NULL, NULL, &e2), MG_ERR_LIMIT);
    mg_kvcache_free(c);
    free(h);
    close_tiny(&x);
}

/* Factors of the long kind would not fit the keys that a cache holds: refused, never approximated. */
Test(forward, longrope_ends_with_the_first_context) {
    fixture x = open_tiny("phi3_longrope", 1);
    mg_error err = {0};
    int32_t ids[33] = {0};
    float *h = malloc(33 * x.hidden * sizeof *h);
    uint32_t len = 32;
    mg_batch b = {.n_seqs = 1, .len = &len, .n_tokens = 32};
    ok(mg_forward_run(x.f, x.m, NULL, &b, ids, h, NULL, NULL, &err), &err);
    b.n_tokens = len = 33;
    cr_assert_eq(mg_forward_run(x.f, x.m, NULL, &b, ids, h, NULL, NULL, &err), MG_ERR_UNSUPPORTED);
    free(h);
    close_tiny(&x);
}

/* Beyond one block of 256 keys, and far beyond the window of 8: the same bits in pieces, and close to the double pass.
 */
static void long_text(const char *name) {
    enum { N = 700 };
    fixture x = open_tiny(name, 3);
    mg_error err = {0};
    int32_t ids[N];
    for (int i = 0; i < N; i++) ids[i] = (i * i * 7 + i * 13 + 3) % 320;
    uint32_t lens[2] = {N - 100, 100};
    const uint64_t bytes = N * x.hidden * sizeof(float);
    float *want = malloc(bytes), *got = malloc(bytes);
    double *exact = malloc(N * x.hidden * sizeof *exact);
    mg_batch b = {.n_seqs = 2, .len = lens, .n_tokens = N};
    ok(mg_forward_run(x.f, x.m, NULL, &b, ids, want, NULL, NULL, &err), &err);

    const uint32_t chunks[] = {1, 97, 300};
    for (int c = 0; c < 3; c++) {
        mg_kvcache *cache;
        ok(mg_kvcache_new(&cache, x.m, 1, N - 100, &err), &err);
        for (uint32_t at = 0; at < N - 100; at += chunks[c]) {
            uint32_t take = N - 100 - at < chunks[c] ? N - 100 - at : chunks[c];
            mg_batch one = {.n_seqs = 1, .len = &take, .n_tokens = take};
            ok(mg_forward_run(x.f, x.m, cache, &one, ids + at, got + at * x.hidden, NULL, NULL, &err), &err);
        }
        cr_assert(!memcmp(want, got, (N - 100) * x.hidden * sizeof(float)), "%s in pieces of %u", name, chunks[c]);
        mg_kvcache_free(cache);
    }

    mg_forward64 *f;
    ok(mg_forward64_new(&f, x.pool, MG_PRECISION_F64, 0, &err), &err);
    ok(mg_forward64_embed(f, x.m, ids, N, exact, &err), &err);
    for (uint32_t l = 0; l < x.layers; l++) ok(mg_forward64_layer(f, x.m, l, &b, exact, NULL, &err), &err);
    mg_forward64_free(f);
    double ss = 0, worst = 0;
    for (uint64_t i = 0; i < N * x.hidden; i++) {
        double d = fabs(exact[i] - (double)want[i]);
        ss += exact[i] * exact[i];
        if (d > worst) worst = d;
    }
    /* As against the reference; a token whose two best experts are almost equal could differ by more, none does here.
     */
    cr_assert(worst <= 2e-5 * sqrt(ss / (double)(N * x.hidden)), "%s: %.2e of the RMS", name,
              worst / sqrt(ss / (double)(N * x.hidden)));
    free(want);
    free(got);
    free(exact);
    close_tiny(&x);
}

Test(forward, long_text_full) {
    long_text("llama");
}
Test(forward, long_text_window) {
    long_text("mistral_swa");
}
/* Caps with a window on every other layer; two rotary bases; layer norms and a rotated part of a head. */
Test(forward, long_text_dense_families) {
    long_text("gemma2");
    long_text("gemma3_text");
    long_text("stablelm");
}
Test(forward, long_text_experts) {
    long_text("mixtral");
    long_text("mesh_k2");
    long_text("deepseek_v2");
    long_text("gpt_oss");
    long_text("phimoe");
}

/* ---- router rules ---- */

static void same_route(const mg_router *r, const float *logits) {
    double wide[64], want[64];
    mg_routing got;
    mg_error err = {0};
    for (uint32_t e = 0; e < r->experts; e++) wide[e] = (double)logits[e];
    ok(mg_route64(r, wide, want, &err), &err);
    ok(mg_routing_init(&got, mg_math_get(), r, logits, 1, &err), &err);
    uint32_t at = 0;
    for (uint32_t e = 0; e < r->experts; e++) {
        const bool chosen = at < r->k && got.expert[at] == e;
        cr_assert_eq(chosen, want[e] > 0, "rule %d, expert %u", r->rule, e);
        if (chosen) cr_assert(fabs((double)got.weight[at++] - want[e]) <= 1e-6 * want[e], "rule %d", r->rule);
    }
    cr_assert_eq(at, r->k);
    mg_routing_release(&got);
}

/* Both implementations on logits without near ties: every rule, with and without groups, correction and scale. */
Test(forward, router_rules_agree_with_their_formulas) {
    static const mg_router_rule rules[] = {MG_ROUTER_SOFTMAX_TOPK,   MG_ROUTER_TOPK_SOFTMAX,
                                           MG_ROUTER_SIGMOID,        MG_ROUTER_SOFTMAX_CORRECTED,
                                           MG_ROUTER_SOFTMAX_GROUPS, MG_ROUTER_SPARSEMIXER};
    float logits[16], correction[16];
    for (int round = 0; round < 200; round++) {
        for (int e = 0; e < 16; e++) { /* a permutation of 16 values apart, another for the corrections */
            logits[e] = (float)((e * 7 + round * 5) * (round % 3 ? 11 : 3) % 16) * 0.37f - 2.9f + (float)round * 0.001f;
            correction[e] = (float)((e * 5 + round * 3) % 16) * 0.031f;
        }
        for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
            const bool two = rules[i] == MG_ROUTER_SPARSEMIXER;
            const bool grouped = rules[i] == MG_ROUTER_SIGMOID || rules[i] == MG_ROUTER_SOFTMAX_GROUPS;
            const bool corrected = rules[i] == MG_ROUTER_SIGMOID || rules[i] == MG_ROUTER_SOFTMAX_CORRECTED;
            mg_router r = {.rule = rules[i], .experts = 16, .k = two ? 2 : 3, .scale = round % 2 ? 2.5f : 1.0f};
            r.renormalise = round % 4 < 2 && rules[i] != MG_ROUTER_SOFTMAX_GROUPS;
            r.jitter = 0.01f * (float)(round % 40);
            if (two) r.scale = 1.0f;
            if (grouped && round % 5) r.groups = 4, r.groups_used = 1 + (uint32_t)round % 3;
            if (corrected && round % 7) r.correction = correction;
            same_route(&r, logits);
        }
    }
}

/* By hand: the best single expert stands in a group that loses. */
Test(forward, groups_limit_the_choice) {
    const float logits[] = {3, -4, 1, 1.5f, -1, 0, -2, -3};
    mg_routing got;
    mg_error err = {0};
    mg_router r = {.rule = MG_ROUTER_SIGMOID, .experts = 8, .k = 2, .groups = 4, .groups_used = 1, .scale = 1};
    ok(mg_routing_init(&got, mg_math_get(), &r, logits, 1, &err), &err);
    cr_assert(got.expert[0] == 2 && got.expert[1] == 3, "two best of a group: 0.73 + 0.82 beats 0.95 + 0.02");
    mg_routing_release(&got);
    r.rule = MG_ROUTER_SOFTMAX_GROUPS;
    ok(mg_routing_init(&got, mg_math_get(), &r, logits, 1, &err), &err);
    cr_assert(got.expert[0] == 0 && got.expert[1] == 1, "the best of a group alone");
    mg_routing_release(&got);
}
