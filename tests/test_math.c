/* test_math.c - the f32 kernels: every twin equal to the scalar one to the bit, and the scalar one to its definition.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quant/math/f64.h"
#include "quant/math/fma.h"
#include "quant/math/gemm.h"
#include "quant/math/topk.h"

static uint64_t rng = 88172645463325252u;
static uint64_t rnd(void) {
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return rng;
}
static float f32_of(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static uint32_t bits(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

/* Values as they occur, and those that break kernels: both zeros, subnormals, large. No infinities: 0 * inf hides. */
static float value(void) {
    uint64_t r = rnd();
    switch (r & 15) {
    case 0:
        return 0.0f;
    case 1:
        return -0.0f;
    case 2:
        return f32_of((uint32_t)(r >> 32) & 0x807FFFFFu);
    case 3:
        return (float)(int64_t)(r >> 40) * 0x1p-60f;
    default:
        return ((float)(int32_t)(r >> 32)) * 0x1p-31f;
    }
}
static float *values(uint64_t n) {
    float *p = malloc((n ? n : 1) * sizeof *p);
    for (uint64_t i = 0; i < n; i++) p[i] = value();
    return p;
}

static const mg_isa all_isas[] = {MG_ISA_AVX2, MG_ISA_NEON};

/* Rule G as docs/numerics.md words it, with the C library's fused operation. */
static float rule_g(const float *x, const float *w, uint64_t k) {
    float c = 0.0f;
    for (uint64_t b = 0; b < k; b += 256) {
        float s = 0.0f;
        for (uint64_t i = b; i < k && i < b + 256; i++) s = fmaf(x[i], w[i], s);
        c = c + s;
    }
    return c;
}

Test(math, fused_multiply_add_equals_the_c_library) {
    for (int i = 0; i < 400000; i++) {
        float a = f32_of((uint32_t)rnd()), b = f32_of((uint32_t)rnd()), c = f32_of((uint32_t)rnd());
        if (i & 1) c = -(a * b) * (1.0f + (float)(int32_t)(rnd() & 7) * 0x1p-23f); /* cancellation */
        if ((i & 7) == 2) { /* products that end half way between two floats */
            a = 1.0f + 0x1p-12f * (float)(rnd() & 4095);
            b = 1.0f + 0x1p-12f * (float)(rnd() & 4095);
            c = (rnd() & 1 ? 1.0f : -1.0f) *
                ldexpf(1.0f + 0x1p-23f * (float)(rnd() & 0x7FFFFF), (int)(rnd() % 80) - 60);
        }
        if ((i & 7) == 4) { /* subnormal results */
            a = ldexpf(a - truncf(a), -70);
            b = ldexpf(1.0f + 0x1p-23f * (float)(rnd() & 0x7FFFFF), -60);
            c = f32_of((uint32_t)rnd() & 0x807FFFFFu);
        }
        float want = fmaf(a, b, c), got = mg_fma32(a, b, c);
        cr_assert(want != want ? got != got : bits(want) == bits(got), "fma(%a, %a, %a): %a, not %a", a, b, c, got,
                  want);
    }
}

static void check_gemm(const mg_math *t, uint64_t m, uint64_t n, uint64_t k) {
    uint64_t ldx = k + 3, ldw = k + 1, ldy = n + 5;
    float *x = values(m * ldx), *w = values(n * ldw), *y = values(m * ldy), *before = malloc(m * ldy * sizeof *y);
    memcpy(before, y, m * ldy * sizeof *y);
    mg_error err = {0};
    cr_assert(mg_gemm(t, y, ldy, x, ldx, w, ldw, m, n, k, &err) == MG_OK);
    for (uint64_t i = 0; i < m; i++) {
        for (uint64_t j = 0; j < n; j++) {
            float want = rule_g(x + i * ldx, w + j * ldw, k), got = y[i * ldy + j];
            cr_assert(bits(want) == bits(got), "%s %lux%lux%lu [%lu,%lu]: %a, not %a", t->name, m, n, k, i, j, got,
                      want);
        }
        cr_assert(!memcmp(y + i * ldy + n, before + i * ldy + n, 5 * sizeof *y), "%s wrote beyond column %lu", t->name,
                  n);
    }
    free(x);
    free(w);
    free(y);
    free(before);
}

Test(math, gemm_follows_rule_g_on_ragged_shapes) {
    static const uint64_t ms[] = {1, 2, 3, 4, 5, 6, 7, 13}, ns[] = {1, 7, 16, 17, 40, 100},
                          ks[] = {1, 5, 16, 255, 256, 257, 512, 515, 1100};
    for (size_t a = 0; a < 8; a++)
        for (size_t b = 0; b < 6; b++)
            for (size_t c = 0; c < 9; c++) {
                if (ms[a] * ns[b] * ks[c] > 200000) continue;
                check_gemm(mg_math_for(MG_ISA_SCALAR), ms[a], ns[b], ks[c]);
                for (size_t i = 0; i < 2; i++)
                    if (mg_math_for(all_isas[i])) check_gemm(mg_math_for(all_isas[i]), ms[a], ns[b], ks[c]);
            }
}

Test(math, gemm_keeps_padding_harmless_beside_infinite_weights) {
    const mg_math *t = mg_math_get();
    float x[3] = {1, 2, 3}, w[9] = {INFINITY, 0, 0, 1, 1, 1, -INFINITY, 0, 1}, y[3];
    mg_error err = {0};
    cr_assert(mg_gemm(t, y, 3, x, 3, w, 3, 1, 3, 3, &err) == MG_OK);
    cr_assert(y[0] == INFINITY && y[1] == 6.0f && y[2] == -INFINITY);
}

typedef void (*map_fn)(float *, const float *, uint64_t);

/* All twins against the scalar one over a comb through every exponent, and over every length up to 70. */
static void same_map(const char *name, size_t offset) {
    enum { N = 1 << 18 };
    float *x = malloc(N * sizeof *x), *a = malloc(N * sizeof *a), *b = malloc(N * sizeof *b);
    for (uint32_t i = 0; i < N; i++) x[i] = f32_of(i * 16411u);
    map_fn ref = *(const map_fn *)((const char *)mg_math_for(MG_ISA_SCALAR) + offset);
    ref(a, x, N);
    for (size_t t = 0; t < 2; t++) {
        const mg_math *twin = mg_math_for(all_isas[t]);
        if (!twin) continue;
        map_fn f = *(const map_fn *)((const char *)twin + offset);
        f(b, x, N);
        for (uint32_t i = 0; i < N; i++)
            cr_assert(a[i] != a[i] ? b[i] != b[i] : bits(a[i]) == bits(b[i]), "%s(%a): %s %a, scalar %a", name, x[i],
                      twin->name, b[i], a[i]);
        for (uint64_t n = 0; n < 70; n++) {
            b[n] = 42.0f;
            f(b, x + 1000, n);
            ref(a, x + 1000, n);
            cr_assert(!memcmp(a, b, n * 4) && b[n] == 42.0f, "%s, length %lu", name, n);
        }
    }
    free(x);
    free(a);
    free(b);
}

Test(math, elementwise_twins_agree) {
    same_map("exp", offsetof(mg_math, exp));
    same_map("sigmoid", offsetof(mg_math, sigmoid));
    same_map("silu", offsetof(mg_math, silu));
    same_map("gelu_tanh", offsetof(mg_math, gelu_tanh));
    same_map("gelu_erf", offsetof(mg_math, gelu_erf));
    same_map("tanh", offsetof(mg_math, tanh));
}

/* Distance from the exact value in units of the float's last place (of the subnormal step below 2^-126). */
static double ulps(float got, double exact) {
    int e;
    frexp(exact, &e);
    double step = ldexp(1.0, (e < -125 ? -125 : e) - 24);
    return fabs((double)got - exact) / step;
}

Test(math, exp_is_within_one_ulp) {
    const mg_math *t = mg_math_get();
    double worst = 0;
    for (uint32_t u = 0; u < 0x42B17218u; u += 509) { /* up to 88.72 */
        float x = f32_of(u), y;
        t->exp(&y, &x, 1);
        double e = ulps(y, exp((double)x));
        if (e > worst) worst = e;
        x = -x;
        if (x < -104.0f) continue;
        t->exp(&y, &x, 1);
        e = ulps(y, exp((double)x));
        if (e > worst) worst = e;
    }
    cr_assert(worst < 0.99, "%.3f ulp", worst); /* 0.988 over every float (docs/numerics.md) */
    float in[] = {0.0f, -0.0f, INFINITY, -INFINITY, 89.0f, -104.5f, NAN}, out[7];
    t->exp(out, in, 7);
    cr_assert(out[0] == 1.0f && out[1] == 1.0f && out[2] == INFINITY && bits(out[3]) == 0 && out[4] == INFINITY &&
              bits(out[5]) == 0 && out[6] != out[6]);
}

/* Bounds: the measured errors of docs/numerics.md, relative to |x| (silu, gelu) or in ulp (tanh), plus a little. */
Test(math, activations_are_accurate) {
    const mg_math *t = mg_math_get();
    for (double v = -20; v < 20; v += 0.00037) {
        float x = (float)v, y;
        double d = (double)x, ax = fabs(d) + 1e-30;
        t->silu(&y, &x, 1);
        cr_assert(fabs(y - d / (1 + exp(-d))) / ax < 1.3e-7);
        t->gelu_erf(&y, &x, 1);
        cr_assert(fabs(y - 0.5 * d * (1 + erf(d * M_SQRT1_2))) / ax < 1.3e-7, "gelu_erf(%a)", x);
        t->gelu_tanh(&y, &x, 1);
        cr_assert(fabs(y - 0.5 * d * (1 + tanh(sqrt(2 / M_PI) * (d + 0.044715 * d * d * d)))) / ax < 1.5e-7,
                  "gelu_tanh(%a)", x);
        t->tanh(&y, &x, 1);
        cr_assert(ulps(y, tanh(d)) < 1.35, "tanh(%a)", x);
        t->sigmoid(&y, &x, 1);
        cr_assert(fabs(y * (1 + exp(-d)) - 1) < 2.4e-7, "sigmoid(%a)", x);
    }
}

static float t16(const float *x, uint64_t n, bool square) {
    float l[16] = {0};
    for (uint64_t i = 0; i < n; i++) l[i % 16] = square ? fmaf(x[i], x[i], l[i % 16]) : l[i % 16] + x[i];
    for (int h = 8; h; h /= 2)
        for (int j = 0; j < h; j++) l[j] += l[j + h];
    return l[0];
}

Test(math, reductions_and_rows_follow_t16) {
    static const mg_isa isas[] = {MG_ISA_SCALAR, MG_ISA_AVX2, MG_ISA_NEON};
    for (uint64_t n = 1; n < 200; n += n < 40 ? 1 : 13)
        for (size_t i = 0; i < 3; i++) {
            const mg_math *t = mg_math_for(isas[i]);
            if (!t) continue;
            const mg_math *s = mg_math_for(MG_ISA_SCALAR);
            float *x = values(n), *w = values(n), *a = malloc(n * 4), *b = malloc(n * 4);
            cr_assert(bits(t->sum(x, n)) == bits(t16(x, n, false)));
            cr_assert(bits(t->sum_sq(x, n)) == bits(t16(x, n, true)));
            t->rmsnorm(a, x, w, n, 1e-5f);
            float r = 1.0f / sqrtf(t16(x, n, true) / (float)n + 1e-5f);
            for (uint64_t j = 0; j < n; j++) cr_assert(bits(a[j]) == bits((x[j] * r) * w[j]));
            memcpy(a, x, n * 4);
            memcpy(b, x, n * 4);
            float la = t->softmax(a, n, 3.7f), lb = s->softmax(b, n, 3.7f);
            cr_assert(bits(la) == bits(lb) && !memcmp(a, b, n * 4));
            cr_assert(bits(la) == bits(t16(a, n, false)));
            if (n % 2 == 0) {
                uint64_t h = n / 2;
                memcpy(a, x, n * 4);
                t->rope_half(a, w, w + h, h);
                for (uint64_t j = 0; j < h; j++)
                    cr_assert(bits(a[j]) == bits(fmaf(x[j], w[j], -(x[h + j] * w[h + j]))) &&
                              bits(a[h + j]) == bits(fmaf(x[j], w[h + j], x[h + j] * w[j])));
            }
            memcpy(a, x, n * 4);
            t->add_scaled(a, w, 0.3f, n);
            for (uint64_t j = 0; j < n; j++) cr_assert(bits(a[j]) == bits(x[j] + 0.3f * w[j]));
            free(x);
            free(w);
            free(a);
            free(b);
        }
}

Test(math, softmax_of_masked_scores_is_exact_zero) {
    const mg_math *t = mg_math_get();
    float x[20];
    for (int i = 0; i < 20; i++) x[i] = i < 7 ? -INFINITY : (float)i;
    t->softmax(x, 20, 0.125f);
    for (int i = 0; i < 7; i++) cr_assert(bits(x[i]) == 0);
    cr_assert(x[19] == 1.0f);
}

Test(math, f64_functions_match_libm) {
    for (int i = 0; i < 200000; i++) {
        double u = (double)(int64_t)rnd() * 0x1p-63, v = (double)(int64_t)rnd() * 0x1p-63;
        double x = u * 700, e = exp(x);
        cr_assert(fabs(mg_f64_exp(x) - e) <= 4.5e-16 * e, "exp(%a)", x);
        double y = ldexp(1 + fabs(v), (int)(rnd() % 2000) - 1000), l = log(y);
        cr_assert(fabs(mg_f64_log(y) - l) <= 4.5e-16 * fabs(l) + 1e-300, "log(%a)", y);
        y = 1 + v * 1e-3;
        cr_assert(fabs(mg_f64_log(y) - log(y)) <= 4.5e-16 * fabs(log(y)) + 1e-300, "log(%a)", y);
        double s, c, a = u * 1e6;
        mg_f64_sincos(a, &s, &c);
        cr_assert(fabs(s - sin(a)) < 2e-16 && fabs(c - cos(a)) < 2e-16, "sincos(%a)", a);
    }
    for (int d = 2; d <= 256; d += 2)
        for (int i = 0; 2 * i < d; i++) {
            double y = (double)((float)(2 * i) / (float)d);
            cr_assert_eq((float)mg_f64_pow(500000.0, y), (float)pow(500000.0, y));
            cr_assert_eq((float)mg_f64_pow(10000.0, y), (float)pow(10000.0, y));
            cr_assert_eq((float)mg_f64_pow(1000000.0, y), (float)pow(1000000.0, y));
        }
    cr_assert(mg_f64_log(0.0) == -INFINITY && mg_f64_exp(-800) == 0 && mg_f64_exp(800) == INFINITY &&
              mg_f64_log(1.0) == 0.0);
    cr_assert(fabs(mg_f64_log(0x1p-1060) / log(0x1p-1060) - 1) < 1e-15);
}

Test(math, topk_breaks_ties_downwards_and_puts_nan_last) {
    float x[] = {1, 5, NAN, 5, -0.0f, 0.0f, 7};
    uint32_t idx[7];
    mg_topk(x, 7, 7, idx);
    const uint32_t want[] = {6, 1, 3, 0, 4, 5, 2};
    cr_assert_arr_eq(idx, want, sizeof want);
    mg_topk(x, 7, 2, idx);
    cr_assert(idx[0] == 6 && idx[1] == 1);
    cr_assert(mg_argmax(x + 2, 3) == 1);
}
