/* test_weight_limits.c - the limits of verify --weights measured: every type encodes gaussian, heavy-tailed and real
 * weights, and the worst block seen must stay below the limit with room to spare, while a doubled scale must not.
 * MG_PRINT_LIMITS=1 prints the table of docs/verify.md. */
#include <criterion/criterion.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/checkpoint.h"
#include "quant/codec.h"
#include "quant/math/f64.h"
#include "verify/weight_diff.h"

#define COLS   1024u
#define ROWS   48u
#define N      (COLS * ROWS)
#define MARGIN 1.5 /* limit / largest measured: other models' tails are a little longer than ours */

typedef enum source { GAUSSIAN, LAPLACE, STUDENT, DONORS, SOURCES } source;

static uint64_t state;
static double unit(void) {
    state += 0x9E3779B97F4A7C15u;
    uint64_t z = state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return ((double)((z ^ (z >> 31)) >> 11) + 0.5) * 0x1p-53;
}

static double normal(void) {
    double r = sqrt(-2 * mg_f64_log(unit())), s, c;
    mg_f64_sincos(6.283185307179586 * unit(), &s, &c);
    return r * c;
}

/* Student's t with 5 degrees of freedom: kurtosis 9, more than layers of trained models have. */
static double student(void) {
    double chi = 0, z = normal();
    for (int i = 0; i < 5; i++) {
        double v = normal();
        chi += v * v;
    }
    return z / sqrt(chi / 5);
}

static void read_donors(float *x) {
    static const char *const names[] = {"base", "prose", "code", "json", "math"};
    const mg_codec *bf16 = mg_codec_get(MG_BF16);
    uint64_t at = 0;
    static uint16_t raw[N];
    for (uint32_t d = 0; d < 5; d++) {
        char path[512];
        mg_error err = {0};
        mg_checkpoint *c;
        snprintf(path, sizeof path, "%s/donors/%s", MG_SAMPLES, names[d]);
        cr_assert(mg_checkpoint_open(&c, path, &err) == MG_OK, "%s", err.message);
        for (uint32_t t = 0; t < c->n_tensors && at < N * (d + 1) / 5; t++) {
            uint64_t take = c->tensors[t].n_elements / 256 * 256;
            if (c->tensors[t].rank < 2 || c->tensors[t].dtype != MG_BF16) continue;
            if (take > 2048) take = 2048;
            if (take > N - at) take = N - at;
            cr_assert(mg_checkpoint_read(c, t, 0, raw, take * 2, &err) == MG_OK, "%s", err.message);
            bf16->decode(raw, take, x + at);
            at += take;
        }
        mg_checkpoint_free(c);
    }
    cr_assert_gt(at, (uint64_t)N / 2);
    for (uint64_t i = at; i < N; i++) x[i] = x[i - at];
}

static const float *data(source s) {
    static float x[SOURCES][N];
    static bool made[SOURCES];
    if (made[s]) return x[s];
    made[s] = true;
    state = (uint64_t)s + 1;
    if (s == DONORS)
        read_donors(x[s]);
    else
        for (uint32_t i = 0; i < N; i++)
            x[s][i] = (float)(0.02 * (s == GAUSSIAN  ? normal()
                                      : s == LAPLACE ? (unit() < 0.5 ? 1 : -1) * mg_f64_log(unit())
                                                     : student()));
    return x[s];
}

/* Worst block and whole error of cand. */
static mg_weight_limits measure(const float *ref, const float *cand, uint32_t n) {
    double sum = 0, diff = 0;
    for (uint32_t i = 0; i < n; i++) {
        double d = (double)cand[i] - (double)ref[i];
        sum += (double)ref[i] * (double)ref[i];
        diff += d * d;
    }
    mg_worst_block w = {0};
    mg_worst_block_scan(&w, ref, cand, 0, n / COLS, COLS, MG_WEIGHT_FLOOR * sqrt(sum / n));
    return (mg_weight_limits){w.error, sqrt(diff / sum)};
}

static uint8_t *encoded(mg_dtype t, const float *x, uint32_t n) {
    static float ones[COLS];
    mg_error err = {0};
    const mg_codec *c = mg_codec_get(t);
    uint64_t row;
    cr_assert(mg_dtype_row_bytes(t, COLS, &row));
    uint8_t *out = malloc(row * (n / COLS));
    for (uint32_t i = 0; i < COLS; i++) ones[i] = 1;
    for (uint32_t r = 0; r < n / COLS; r++)
        cr_assert(c->encode(x + r * COLS, c->imatrix == MG_IMATRIX_REQUIRED ? ones : NULL, COLS, out + r * row, &err) ==
                      MG_OK,
                  "%s: %s", mg_dtype_get(t)->name, err.message);
    return out;
}

static void through(mg_dtype t, const float *x, float *y, uint32_t n) {
    uint8_t *raw = encoded(t, x, n);
    mg_codec_get(t)->decode(raw, n, y);
    free(raw);
}

/* The encoders that search codebooks are slow: they get a part of the data. */
static uint32_t amount(mg_dtype t) {
    return mg_weight_limits_of(t).total >= 0.27 ? N / 6 : N;
}

Test(weight_limits, every_type) {
    static float y[N];
    bool print = getenv("MG_PRINT_LIMITS") != NULL;
    unsigned n = 0;
    for (int i = 0; i < MG_DTYPE_COUNT; i++) {
        mg_dtype t = (mg_dtype)i;
        if (!mg_codec_get(t) || t == MG_F64) continue;
        const char *name = mg_dtype_get(t)->name;
        mg_weight_limits most = {0}, limit = mg_weight_limits_of(t);
        char row[256] = "";
        for (int s = 0; s < SOURCES; s++) {
            through(t, data((source)s), y, amount(t));
            mg_weight_limits e = measure(data((source)s), y, amount(t));
            most = (mg_weight_limits){fmax(e.block, most.block), fmax(e.total, most.total)};
            size_t at = strlen(row);
            snprintf(row + at, sizeof row - at, " %.4f / %.4f |", e.block, e.total);
        }
        if (print) printf("| %s |%s %.3g / %.3g |\n", name, row, limit.block, limit.total);
        double margin = limit.total < 1 ? MARGIN : 1.05; /* below three bits only nonsense is damage */
        cr_expect(most.block * margin <= limit.block, "%s: worst block %g, limit %g", name, most.block, limit.block);
        cr_expect(most.total * (limit.total < 1 ? MARGIN : 1) <= limit.total, "%s: error %g, limit %g", name,
                  most.total, limit.total);
        n++;
    }
    cr_expect_gt(n, 20);
}

/* Both made from one original, and the second made from the first. */
Test(weight_limits, pairs) {
    static const mg_dtype types[] = {MG_BF16, MG_Q8_0, MG_Q6_K,   MG_Q5_K, MG_Q5_0,
                                     MG_Q4_K, MG_Q4_0, MG_IQ4_XS, MG_MXFP4};
    static float a[N], b[N], c[N];
    const uint32_t n = N / 3;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        for (size_t j = 0; j < sizeof types / sizeof *types; j++)
            for (int s = 0; s < SOURCES && i != j; s++) {
                mg_weight_limits limit =
                    mg_weight_limits_join(mg_weight_limits_of(types[i]), mg_weight_limits_of(types[j]));
                const char *x = mg_dtype_get(types[i])->name, *y = mg_dtype_get(types[j])->name;
                through(types[i], data((source)s), a, n);
                through(types[j], data((source)s), b, n);
                through(types[j], a, c, n);
                mg_weight_limits p = measure(a, b, n), q = measure(a, c, n);
                double block = fmax(p.block, q.block), total = fmax(p.total, q.total);
                cr_expect(block * 1.3 <= limit.block, "%s, %s: worst block %g, limit %g", x, y, block, limit.block);
                cr_expect(total * 1.3 <= limit.total, "%s, %s: error %g, limit %g", x, y, total, limit.total);
            }
}

/* A block whose scale was doubled decodes to twice its values, whatever the layout of the scale. */
Test(weight_limits, doubled_scale_is_damage) {
    static float y[N];
    for (int i = 0; i < MG_DTYPE_COUNT; i++) {
        mg_dtype t = (mg_dtype)i;
        if (!mg_codec_get(t) || t == MG_F64 || t == MG_F32 || mg_weight_limits_of(t).block > 0.5) continue;
        for (int s = 0; s < SOURCES; s++) {
            const float *x = data((source)s);
            double total = 0, block = 0;
            through(t, x, y, COLS);
            for (uint32_t k = 0; k < COLS; k++) total += (double)x[k] * (double)x[k];
            for (uint32_t k = 64; k < 96; k++) {
                y[k] *= 2;
                block += (double)x[k] * (double)x[k];
            }
            if (block / 32 < 0.01 * total / COLS) continue; /* under the floor: nothing that matters */
            cr_expect_gt(measure(x, y, COLS).block, mg_weight_limits_of(t).block, "%s", mg_dtype_get(t)->name);
        }
    }
}
