/* math_hash.c - one stored hash per kernel: the same bytes on every machine, compiler and instruction set.
 *
 * test_math compares the twins that one machine has; this program compares machines. It needs nothing but the kernels,
 * so it can also be cross-compiled and run under an emulator (docs/testing.md). Exit status 0 when every twin of this
 * machine gives every stored hash; --print lists what it found. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quant/math/f64.h"
#include "quant/math/gemm.h"

static uint64_t hash(const void *p, size_t n) { /* FNV-1a; NaN payloads are cleared before */
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) h = (h ^ ((const uint8_t *)p)[i]) * 0x100000001b3u;
    return h;
}

enum { N = 4099, M = 13, COLS = 37, K = 777 };
static float x[M * K > N ? M *K : N], w[COLS * K], y[N > M *COLS ? N : M *COLS];

static void fill(float *p, size_t n, uint32_t seed, bool wide) {
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        uint32_t u = wide ? seed : (seed & 0x807FFFFFu) | ((118u + (seed >> 23) % 10u) << 23);
        memcpy(p + i, &u, 4);
        if (p[i] != p[i]) p[i] = 0.5f;
    }
}

static uint64_t clean_hash(float *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (p[i] != p[i]) p[i] = 0.125f;
    return hash(p, n * sizeof *p);
}

typedef struct row {
    const char *name;
    uint64_t want;
} row;
static const row rows[] = {
    {"exp", 0x65a4b8d497327efe},       {"sigmoid", 0xafc6322cd62e1f14},  {"silu", 0x34697a72cf2172b1},
    {"gelu_tanh", 0x26746ecffd629e1a}, {"gelu_erf", 0x94e053824dfb36e3}, {"tanh", 0x063e30cc47b82d7c},
    {"gemm", 0xd905654570f80e99},      {"softmax", 0xbb4dae80d22b73c7},  {"rmsnorm", 0xace3124bda46c1c6},
    {"rope", 0x314baba7b983fe4c},      {"f64", 0xcb502392bdc753ad},      {"dot_codes", 0x5aef359a04b6ce0d},
};

/* A row of x times two panels of 4-bit codes; scales and biases are of w, codes the bits of more of it. */
static uint64_t dot_codes(const mg_math *t) {
    const mg_codes form = {.bits = 4, .k = K, .groups = K / 36 + 1, .group_size = 36};
    static float xs[K * MG_GEMM_MAX_MR];
    memset(xs, 0, sizeof xs);
    for (int k = 0; k < K; k++) xs[(uint32_t)k * t->mr] = x[k];
    t->dot_codes(&form, (const uint8_t *)w, 2, 1, xs, y, 2 * MG_GEMM_NR);
    return clean_hash(y, 2 * MG_GEMM_NR);
}

static uint64_t run(const mg_math *t, const char *name) {
    void (*maps[])(float *, const float *, uint64_t) = {t->exp,       t->sigmoid,  t->silu,
                                                        t->gelu_tanh, t->gelu_erf, t->tanh};
    for (size_t i = 0; i < 6; i++)
        if (!strcmp(name, rows[i].name)) {
            fill(x, N, 7, true);
            maps[i](y, x, N);
            return clean_hash(y, N);
        }
    fill(x, M * K, 1, false);
    fill(w, COLS * K, 2, false);
    if (!strcmp(name, "gemm")) {
        mg_error err = {0};
        if (mg_gemm(t, y, COLS, x, K, w, K, M, COLS, K, &err) != MG_OK) return 0;
        return clean_hash(y, M * COLS);
    }
    if (!strcmp(name, "dot_codes")) return dot_codes(t);
    if (!strcmp(name, "softmax")) {
        memcpy(y, x, N * sizeof *y);
        y[0] = t->softmax(y, N, 11.0f);
        return clean_hash(y, N);
    }
    if (!strcmp(name, "rmsnorm")) {
        t->rmsnorm(y, x, w, N, 1e-6f);
        return clean_hash(y, N);
    }
    if (!strcmp(name, "rope")) {
        t->rope_half(x, w, w + 2000, 1999);
        return clean_hash(x, 3998);
    }
    for (int i = 0; i < 1000; i++) {
        double s, c, v = (double)x[i] * 1000.0;
        mg_f64_sincos(v, &s, &c);
        y[4 * i] = (float)s;
        y[4 * i + 1] = (float)c;
        y[4 * i + 2] = (float)mg_f64_exp(v * 0.01);
        y[4 * i + 3] = (float)mg_f64_log(v < 0 ? -v : v);
    }
    return clean_hash(y, 4000);
}

int main(int argc, char **argv) {
    const bool print = argc > 1 && !strcmp(argv[1], "--print");
    static const mg_isa isas[] = {MG_ISA_SCALAR, MG_ISA_AVX2, MG_ISA_NEON};
    int bad = 0;
    for (size_t i = 0; i < 3; i++) {
        const mg_math *t = mg_math_for(isas[i]);
        for (size_t r = 0; t && r < sizeof rows / sizeof *rows; r++) {
            uint64_t h = run(t, rows[r].name);
            if (print) printf("%s %s 0x%016llx\n", t->name, rows[r].name, (unsigned long long)h);
            if (h == rows[r].want) continue;
            fprintf(stderr, "%s of %s: 0x%016llx, stored 0x%016llx\n", rows[r].name, t->name, (unsigned long long)h,
                    (unsigned long long)rows[r].want);
            bad = 1;
        }
    }
    return bad;
}
