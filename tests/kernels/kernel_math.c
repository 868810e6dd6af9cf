/* kernel_math.c - the f32 kernels of the forward pass, a driver per kind of quant/kernels.inc; and SHA-256.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "formats/base/sha256.h"
#include "quant/math/mathops.h"
#include "tests/kernels/kernel_test.h"

enum { MOST = 4096, BUFFERS = 4 };

/* What a driver works with. in: inputs; out[0] is what the reference gives, out[1] the twin. */
typedef struct math_case {
    const mg_math *table[2]; /* scalar, twin */
    size_t field;            /* offset of the kernel in mg_math */
    uint64_t index;
    kt_buffer in[BUFFERS], out[2];
} math_case;

#define KERNEL(kind, table, offset) (*(mg_kernel_##kind *const *)(const void *)((const char *)(table) + (offset)))

static bool at_end(const math_case *c) {
    return c->index % 5 != 4;
}

/* Input number k of n floats, any of them when wild; read-only from here on. */
static const float *input(math_case *c, int k, uint64_t n, bool wild) {
    float *p = kt_place(&c->in[k], n * 4, at_end(c));
    kt_fill(p, n, (kt_kind)(c->index % KT_ANY_BITS));
    for (uint64_t i = 0; wild && i < n; i += 1 + kt_below(7)) p[i] = kt_any_float();
    kt_read_only(&c->in[k], true);
    return p;
}

/* Output i of n floats, holding a copy of from or a pattern. */
static float *output(math_case *c, int i, uint64_t n, const float *from) {
    float *p = kt_place(&c->out[i], n * 4, at_end(c));
    if (from)
        memcpy(p, from, n * 4);
    else
        memset(p, 0xA5, n * 4);
    return p;
}

static void compare(math_case *c, uint64_t n) {
    const float *want = (const float *)(const void *)c->out[0].data, *got = (const float *)(const void *)c->out[1].data;
    for (int i = 0; i < 2; i++)
        if (!kt_intact(&c->out[i])) kt_fail("%s wrote outside its output", c->table[i]->name);
    for (uint64_t i = 0; i < n; i++)
        if (!kt_same(want[i], got[i])) {
            kt_fail("element %" PRIu64 " of %" PRIu64 " is %a, expected %a", i, n, (double)got[i], (double)want[i]);
            return;
        }
}

static void compare_value(float want, float got, uint64_t n) {
    if (!kt_same(want, got)) kt_fail("of %" PRIu64 " elements: %a, expected %a", n, (double)got, (double)want);
}

static uint64_t length(const math_case *c) {
    return c->index < 70 ? c->index : kt_below(MOST);
}

static uint64_t try_map(math_case *c) {
    uint64_t n = length(c);
    const float *x = input(c, 0, n, true);
    for (int i = 0; i < 2; i++) { /* also in place */
        float *y = output(c, i, n, c->index % 2 ? x : NULL);
        KERNEL(map, c->table[i], c->field)(y, c->index % 2 ? y : x, n);
    }
    compare(c, n);
    return n;
}

static uint64_t try_zip(math_case *c) {
    uint64_t n = length(c);
    const float *x = input(c, 0, n, true), *y0 = input(c, 1, n, true);
    for (int i = 0; i < 2; i++) KERNEL(zip, c->table[i], c->field)(output(c, i, n, y0), x, n);
    compare(c, n);
    return n;
}

static uint64_t try_zip_scalar(math_case *c) {
    uint64_t n = length(c);
    const float *x = input(c, 0, n, true), *y0 = input(c, 1, n, true), g = kt_any_float();
    for (int i = 0; i < 2; i++) KERNEL(zip_scalar, c->table[i], c->field)(output(c, i, n, y0), x, g, n);
    compare(c, n);
    return n;
}

static uint64_t try_map_scalar(math_case *c) {
    uint64_t n = length(c);
    const float *x = input(c, 0, n, true), d = kt_any_float();
    for (int i = 0; i < 2; i++) KERNEL(map_scalar, c->table[i], c->field)(output(c, i, n, NULL), x, d, n);
    compare(c, n);
    return n;
}

static uint64_t try_reduce(math_case *c) {
    uint64_t n = length(c);
    const float *x = input(c, 0, n, c->index % 3 == 0);
    compare_value(KERNEL(reduce, c->table[0], c->field)(x, n), KERNEL(reduce, c->table[1], c->field)(x, n), n);
    return n;
}

static uint64_t try_largest(math_case *c) {
    uint64_t n = length(c);
    const float *x = input(c, 0, n, false);
    float want = KERNEL(largest, c->table[0], c->field)(x, n), got = KERNEL(largest, c->table[1], c->field)(x, n);
    if (want != got) kt_fail("of %" PRIu64 " elements: %a, expected %a", n, (double)got, (double)want);
    return n;
}

static uint64_t try_softmax(math_case *c) {
    uint64_t n = 1 + length(c);
    float sum[2], scale = (float)kt_gauss();
    const float *x = input(c, 0, n, false);
    for (int i = 0; i < 2; i++) sum[i] = KERNEL(softmax, c->table[i], c->field)(output(c, i, n, x), n, scale);
    compare(c, n);
    compare_value(sum[0], sum[1], n);
    return n;
}

static uint64_t try_rmsnorm(math_case *c) {
    uint64_t n = 1 + length(c);
    const float *x = input(c, 0, n, false), *w = input(c, 1, n, false);
    for (int i = 0; i < 2; i++) KERNEL(rmsnorm, c->table[i], c->field)(output(c, i, n, NULL), x, w, n, 1e-6f);
    compare(c, n);
    return n;
}

static uint64_t try_rope(math_case *c) {
    uint64_t half = length(c) / 2;
    const float *x = input(c, 0, 2 * half, true), *cs = input(c, 1, half, false), *sn = input(c, 2, half, false);
    for (int i = 0; i < 2; i++) KERNEL(rope, c->table[i], c->field)(output(c, i, 2 * half, x), cs, sn, half);
    compare(c, 2 * half);
    return 2 * half;
}

static uint64_t try_pack(math_case *c) {
    uint32_t n = (uint32_t)kt_below(MG_GEMM_NR + 1);
    uint64_t k = 1 + kt_below(MOST / MG_GEMM_NR), ld = k + kt_below(4);
    const float *src = input(c, 0, n ? (n - 1) * ld + k : 0, true);
    for (int i = 0; i < 2; i++) KERNEL(pack, c->table[i], c->field)(output(c, i, k * MG_GEMM_NR, NULL), src, ld, n, k);
    compare(c, k * MG_GEMM_NR);
    return k * MG_GEMM_NR;
}

/* A sliver of each twin's own width. */
static uint64_t try_pack_rows(math_case *c) {
    const uint32_t mr = c->table[1]->mr, n = (uint32_t)kt_below(mr + 1);
    const uint64_t k = length(c) % 200, ld = k + kt_below(4);
    const float *src = input(c, 0, n ? (n - 1) * ld + k : 0, true), *rows[MG_GEMM_MAX_MR];
    for (uint32_t r = 0; r < n; r++) rows[r] = src + r * ld;
    float *want = output(c, 0, k * mr, NULL);
    for (uint64_t i = 0; i < k; i++) {
        for (uint32_t r = 0; r < mr; r++) want[i * mr + r] = r < n ? rows[r][i] : 0.0f;
    }
    KERNEL(pack_rows, c->table[1], c->field)(output(c, 1, k * mr, NULL), rows, n, k);
    compare(c, k * mr);
    return k * mr;
}

/* Rows of x as a sliver of the table's width. */
static float *sliver(math_case *c, const mg_math *t, const float *x, uint32_t m, uint64_t k) {
    float *xs = kt_place(&c->in[3], k * t->mr * 4, at_end(c));
    memset(xs, 0, k * t->mr * 4);
    for (uint32_t r = 0; r < m; r++)
        for (uint64_t j = 0; j < k; j++) xs[j * t->mr + r] = x[r * k + j];
    return xs;
}

/* A sliver of m rows times a few panels; the reference takes them mr at a time. */
static uint64_t try_gemm(math_case *c) {
    const uint64_t ks[] = {1, 2, 15, 255, 256, 257, 512, 515};
    uint32_t m = (uint32_t)kt_below(c->table[1]->mr + 1);
    uint64_t k = c->index % 2 ? ks[kt_below(8)] : 1 + kt_below(MOST / MG_GEMM_MAX_MR), panels = 1 + kt_below(9);
    while (panels * k * MG_GEMM_NR > 4 * MOST) panels--;
    if (panels == 0) return try_gemm(c);
    const bool apart = kt_next() & 1; /* panels of the result one after the other, or side by side */
    const uint64_t stride = k * MG_GEMM_NR, ldc = (apart ? 1 : panels) * MG_GEMM_NR + kt_below(3);
    const uint64_t next = apart ? m * ldc + kt_below(3) : MG_GEMM_NR;
    const uint64_t cells = m ? (m - 1) * ldc + (panels - 1) * next + MG_GEMM_NR : 0;
    bool first = kt_next() & 1;
    const float *x = input(c, 0, m * k, false), *w = input(c, 1, panels * stride, false),
                *c0 = input(c, 2, cells, false);
    float *y = output(c, 0, cells, c0);
    for (uint32_t r = 0, n; r < m; r += n) {
        n = m - r < c->table[0]->mr ? m - r : c->table[0]->mr;
        KERNEL(gemm, c->table[0], c->field)
        (n, k, sliver(c, c->table[0], x + r * k, n, k), w, stride, panels, y + r * ldc, ldc, next, first);
    }
    KERNEL(gemm, c->table[1], c->field)
    (m, k, sliver(c, c->table[1], x, m, k), w, stride, panels, output(c, 1, cells, c0), ldc, next, first);
    compare(c, cells);
    return cells;
}

/* A weight in codes: any bits, scales and biases as weights have them or any float. g_idx, where there is one, lies in
 * in[2]. */
static mg_codes code_form(math_case *c, uint64_t most) {
    static const uint64_t sizes[] = {4, 16, 32, 36, 128, 300};
    const uint64_t ks[] = {1, 7, 255, 256, 257, 511, 512, 516};
    mg_codes w = {.bits = 2u << kt_below(3), .k = c->index % 2 ? ks[kt_below(8)] : 1 + kt_below(600)};
    if (w.k > most) w.k = most;
    w.group_size = kt_below(8) ? sizes[kt_below(6)] : w.k;
    w.groups = (w.k - 1) / w.group_size + 1;
    if (kt_below(4)) return w;
    uint32_t *g_idx = kt_place(&c->in[2], w.k * sizeof *g_idx, at_end(c));
    w.groups = 1 + kt_below(9);
    for (uint64_t k = 0; k < w.k; k++) g_idx[k] = (uint32_t)kt_below(w.groups);
    kt_read_only(&c->in[2], true);
    w.g_idx = g_idx;
    return w;
}

static const uint8_t *code_panels(math_case *c, const mg_codes *w, uint64_t panels) {
    const uint64_t bytes = mg_codes_panel_bytes(w);
    uint8_t *all = kt_place(&c->in[1], panels * bytes, at_end(c));
    for (uint64_t i = 0; i < panels * bytes; i++) all[i] = (uint8_t)(kt_next() >> 40);
    for (uint64_t p = 0; p < panels; p++) {
        float *scale = (float *)(void *)(all + p * bytes);
        kt_fill(scale, 2 * w->groups * MG_CODES_NR, (kt_kind)(c->index % KT_ANY_BITS));
        for (uint64_t i = 0; c->index % 3 == 0 && i < 2 * w->groups * MG_CODES_NR; i += 1 + kt_below(40))
            scale[i] = kt_any_float();
    }
    kt_read_only(&c->in[1], true);
    return all;
}

static uint64_t try_code_values(math_case *c) {
    const mg_codes w = code_form(c, MOST);
    const uint64_t from = kt_below(w.k), n = kt_below(w.k - from + 1);
    const uint8_t *panel = code_panels(c, &w, 1);
    for (int i = 0; i < 2; i++)
        KERNEL(code_values, c->table[i], c->field)(&w, panel, from, n, output(c, i, n * MG_CODES_NR, NULL));
    compare(c, n * MG_CODES_NR);
    return n * MG_CODES_NR;
}

/* As try_gemm; and what unpacking and multiplying would give. */
static uint64_t try_code_dot(math_case *c) {
    static float block[MG_GEMM_BLOCK * MG_GEMM_NR];
    const uint32_t m = (uint32_t)kt_below(c->table[1]->mr + 1);
    const mg_codes w = code_form(c, 4 * MOST / MG_GEMM_MAX_MR);
    const uint64_t bytes = mg_codes_panel_bytes(&w);
    uint64_t panels = 1 + kt_below(9);
    while (panels * bytes > 16 * MOST) panels--;
    const uint64_t ldc = panels * MG_GEMM_NR + kt_below(3), cells = m ? (m - 1) * ldc + panels * MG_GEMM_NR : 0;
    const float *x = input(c, 0, m * w.k, c->index % 5 == 0);
    const uint8_t *all = code_panels(c, &w, panels);
    const mg_math *ref = c->table[0];
    float *y = output(c, 0, cells, NULL);
    for (uint32_t r = 0, n; r < m; r += n) {
        n = m - r < ref->mr ? m - r : ref->mr;
        const float *xs = sliver(c, ref, x + r * w.k, n, w.k);
        for (uint64_t p = 0; p < panels; p++)
            for (uint64_t k = 0, kc; k < w.k; k += kc) {
                kc = w.k - k < MG_GEMM_BLOCK ? w.k - k : MG_GEMM_BLOCK;
                ref->values_codes(&w, all + p * bytes, k, kc, block);
                ref->gemm(n, kc, xs + k * ref->mr, block, 0, 1, y + r * ldc + p * MG_GEMM_NR, ldc, MG_GEMM_NR, k == 0);
            }
    }
    KERNEL(code_dot, c->table[1], c->field)
    (&w, all, panels, m, sliver(c, c->table[1], x, m, w.k), output(c, 1, cells, NULL), ldc);
    compare(c, cells);
    return cells;
}

/* Doubles, finite: what is factored was checked. */
static uint64_t try_update(math_case *c) {
    const uint64_t n = length(c) % 200, k = kt_below(9), rows = kt_below(7);
    const uint64_t ldx = n + kt_below(4), lda = k + kt_below(4), ldy = n + kt_below(4);
    const uint64_t cells = rows ? (rows - 1) * ldy + n : 0;
    const uint64_t sizes[3] = {cells, rows ? (rows - 1) * lda + k : 0, k ? (k - 1) * ldx + n : 0};
    double *in[3];
    for (int i = 0; i < 3; i++) {
        in[i] = kt_place(&c->in[i], sizes[i] * 8, at_end(c));
        for (uint64_t j = 0; j < sizes[i]; j++) in[i][j] = kt_gauss() * (kt_next() & 1 ? 1 : 1e-9);
        kt_read_only(&c->in[i], true);
    }
    for (int i = 0; i < 2; i++) {
        double *y = kt_place(&c->out[i], cells * 8, at_end(c));
        memcpy(y, in[0], cells * 8);
        KERNEL(update, c->table[i], c->field)(y, ldy, in[1], lda, rows, in[2], ldx, k, n);
        if (!kt_intact(&c->out[i])) kt_fail("%s wrote outside its output", c->table[i]->name);
    }
    if (memcmp(c->out[0].data, c->out[1].data, cells * 8) != 0)
        kt_fail("of %" PRIu64 " x %" PRIu64 " doubles some differ", rows, n);
    return rows * n;
}

typedef struct math_kernel {
    const char *name;
    size_t field;
    uint64_t (*try)(math_case *c); /* one case; returns the elements compared */
} math_kernel;

static const math_kernel kernels[] = {
#define MG_KERNEL(field, kind) {"math." #field, offsetof(mg_math, field), try_##kind},
#include "quant/kernels.inc"
#undef MG_KERNEL
};
enum { KERNELS = sizeof kernels / sizeof *kernels };

_Static_assert(sizeof(mg_math) == (2 + KERNELS) * sizeof(void *), "every function of mg_math is a row of kernels.inc");

static void check_kernel(const math_kernel *k, math_case *c) {
    mg_isa level[KT_LEVELS];
    size_t levels = kt_levels(level), n = 0;
    unsigned before = kt_failures();
    uint64_t done = 0;
    if (!kt_selected(k->name)) return;
    c->field = k->field;
    for (size_t i = 0; i < levels; i++) {
        c->table[1] = mg_math_for(level[i]);
        if (!c->table[1]) continue;
        kt_isa(level[i]);
        uint64_t index = kt.case_index < 0 ? 0 : (uint64_t)kt.case_index;
        for (done = 0; (done < kt.weights || index < 100) && kt_failures() == before; index++) {
            kt_case(k->name, index);
            c->index = index;
            done += k->try(c);
            if (kt.case_index >= 0) break;
        }
        n++;
    }
    kt_done(k->name, n, done);
}

void kt_math_check(void) {
    math_case c = {.table = {mg_math_for(MG_ISA_SCALAR)}};
    for (int i = 0; i < BUFFERS; i++) c.in[i] = kt_buffer_new(4 * MOST * 4);
    for (int i = 0; i < 2; i++) c.out[i] = kt_buffer_new(4 * MOST * 4);
    for (int i = 0; i < KERNELS; i++) check_kernel(&kernels[i], &c);
    for (int i = 0; i < BUFFERS; i++) kt_buffer_free(&c.in[i]);
    for (int i = 0; i < 2; i++) kt_buffer_free(&c.out[i]);
}

void kt_sha256_check(void) {
    mg_sha256_blocks_fn twin = mg_sha256_x86();
    const char *name = "sha256";
    if (!kt_selected(name)) return;
    kt_buffer b = kt_buffer_new(64 * 64);
    uint64_t done = 0;
    for (uint64_t index = 0; twin && done < kt.weights; index++) {
        uint32_t want[8], got[8];
        size_t blocks = 1 + (size_t)kt_below(64);
        kt_case(name, index);
        uint8_t *p = kt_place(&b, 64 * blocks, true);
        for (size_t i = 0; i < 64 * blocks; i++) p[i] = (uint8_t)(kt_next() >> 24);
        for (int i = 0; i < 8; i++) want[i] = got[i] = (uint32_t)(kt_next() >> 32);
        mg_sha256_blocks_ref(want, p, blocks);
        twin(got, p, blocks);
        if (memcmp(want, got, sizeof want) != 0) kt_fail("%zu blocks give another digest", blocks);
        done += blocks * 64;
    }
    kt_buffer_free(&b);
    kt_done(name, twin != NULL, done);
}
