/* test_fixed.c - the corrected encoders: where they differ from the reference the decoded values are closer to the
 * original, elsewhere the bytes are the reference's, and for every instruction set they are the same. */
#include <criterion/criterion.h>

#include <math.h>
#include <string.h>

#include "quant/fixed.h"

enum { N = 1024 };

static uint64_t state = 1;
static float next(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(state >> 11) * 0x1p-53 - 0.5);
}

static double error_of(const float *x, const float *y) {
    double sum = 0;
    for (int i = 0; i < N; i++) sum += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
    return sum;
}

typedef struct both {
    uint8_t ref[N * 4], fixed[N * 4];
    double ref_error, fixed_error;
    bool differ;
} both;

static void encode(both *b, mg_dtype t, const float *x, const float *w) {
    mg_error err = {0};
    static float y[N];
    static uint8_t scalar[N * 4];
    const mg_codec *c = mg_codec_get(t);
    const size_t bytes = N / mg_dtype_get(t)->block * mg_dtype_get(t)->block_bytes;
    cr_assert(c->encode(x, w, N, b->ref, &err) == MG_OK, "%s", err.message);
    cr_assert(mg_fixed_encode(c, x, w, N, b->fixed, &err) == MG_OK, "%s", err.message);
    cr_assert(mg_fixed_encode(mg_codec_for(t, MG_ISA_SCALAR), x, w, N, scalar, &err) == MG_OK);
    cr_expect(memcmp(scalar, b->fixed, bytes) == 0, "%s", mg_dtype_get(t)->name);
    c->decode(b->ref, N, y);
    b->ref_error = error_of(x, y);
    c->decode(b->fixed, N, y);
    b->fixed_error = error_of(x, y);
    b->differ = memcmp(b->ref, b->fixed, bytes) != 0;
}

static void fill(float *x, float scale) {
    for (int i = 0; i < N; i++) x[i] = scale * (next() + next() + next());
}

Test(fixed, ordinary_rows_are_the_reference) {
    static float x[N], w[N];
    both b;
    fill(x, 1);
    for (int i = 0; i < N; i++) w[i] = 0.5f + next();
    w[5] = 0; /* a single zero is no run */
    for (int t = 0; t < MG_DTYPE_COUNT; t++) {
        const mg_codec *c = mg_codec_get((mg_dtype)t);
        if (!c || !mg_dtype_is_block((mg_dtype)t)) continue;
        encode(&b, (mg_dtype)t, x, w);
        cr_expect(!b.differ, "%s", mg_dtype_get((mg_dtype)t)->name);
    }
}

Test(fixed, iq3_s_with_zero_runs) {
    static float x[N], w[N];
    both b;
    for (int at = 0; at < 8; at++)
        for (int weighted = 0; weighted < 2; weighted++) {
            fill(x, 1);
            for (int i = 0; i < N; i++) w[i] = 0.6f + next();
            memset(x + 256 + 32 * at, 0, 32 * sizeof *x);
            if (at > 2) memset(x + 512, 0, 64 * sizeof *x);
            encode(&b, MG_IQ3_S, x, weighted ? w : NULL);
            cr_expect(b.differ == (at < 7 || at > 2), "%d", at);
            if (b.differ) cr_expect_lt(b.fixed_error, 0.5 * b.ref_error, "%d", at);
            cr_expect_lt(b.fixed_error, 0.04 * N * 0.25, "%d: %g", at, b.fixed_error); /* variance 0.25, 3.4 bits */
        }
    memset(x, 0, sizeof x);
    encode(&b, MG_IQ3_S, x, NULL);
    cr_expect(!b.differ && b.fixed_error == 0);
}

/* Importance 0 over sub-blocks and over a whole super-block. */
Test(fixed, runs_of_zero_importance) {
    static float x[N], w[N];
    both b;
    int better = 0;
    for (int t = 0; t < MG_DTYPE_COUNT; t++) {
        const mg_codec *c = mg_codec_get((mg_dtype)t);
        if (!c || !mg_dtype_is_block((mg_dtype)t)) continue;
        fill(x, 1);
        for (int i = 0; i < N; i++) w[i] = 0.6f + next();
        memset(w + 64, 0, 32 * sizeof *w);
        memset(w + 512, 0, 256 * sizeof *w);
        encode(&b, (mg_dtype)t, x, w);
        if (!mg_fixed_matters((mg_dtype)t, true) || !b.differ) {
            cr_expect(!b.differ);
            continue;
        }
        better += b.fixed_error < b.ref_error;
        cr_expect_leq(b.fixed_error, b.ref_error, "%s: %g, reference %g", mg_dtype_get((mg_dtype)t)->name,
                      b.fixed_error, b.ref_error);
    }
    cr_expect_geq(better, 12);
    memset(w, 0, sizeof w);
    encode(&b, MG_Q4_K, x, w);
    cr_expect(b.differ && b.fixed_error < 0.1 * b.ref_error);
}

Test(fixed, mxfp4_below_its_smallest_exponent) {
    static float x[N];
    both b;
    for (int e = -148; e < -120; e++) {
        fill(x, 1);
        for (int i = 0; i < N; i++) x[i] = ldexpf(x[i], e);
        encode(&b, MG_MXFP4, x, NULL);
        cr_expect_leq(b.fixed_error, b.ref_error, "%d",
                      e); /* far below both are zeros, but e was NaN to some readers */
        if (e < -126) cr_expect(b.differ, "%d", e);
        if (e == -127 || e == -128) cr_expect_lt(b.fixed_error, 0.5 * b.ref_error, "%d", e);
        if (e > -122) cr_expect(!b.differ, "%d", e);
    }
}

Test(fixed, nvfp4_scales_between_256_and_448) {
    static float x[N];
    both b;
    for (int s = 200; s < 480; s += 8) {
        fill(x, 100);
        for (int i = 0; i < N; i += 16) x[i] = 6.0f * (float)s;
        encode(&b, MG_NVFP4, x, NULL);
        cr_expect(!b.differ || (s >= 248 && s < 432), "%d", s);
        if (s == 256 || s == 288 || s == 320 || s == 352) cr_expect(b.differ, "%d", s);
        if (b.differ) cr_expect_lt(b.fixed_error, b.ref_error, "%d: %g, reference %g", s, b.fixed_error, b.ref_error);
    }
}
