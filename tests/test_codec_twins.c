/* test_codec_twins.c - every codec of an instruction set against the scalar one: same bytes on ordinary and on hostile
 * rows.
 *
 * Plain random data reaches neither the guards of the twins nor R outside its domain nor zero weights, hence the kinds
 * below. Row lengths cover full batches and every ragged tail. */
#include "formats/base/cpu.h"
#include "quant/codec.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

enum { MAX_N = 2304 }; /* 9 super-blocks: 4 + 4 + 1 */

static uint64_t state = 0x2545F4914F6CDD1Du;
static uint64_t rng(void) {
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}
static double uniform(void) {
    return (double)(rng() >> 11) * 0x1p-53;
}
static double gaussian(void) {
    double sum = -6.0;
    for (int i = 0; i < 12; i++) sum += uniform();
    return sum;
}

static float of_bits(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
static uint32_t bits_of(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

enum kind {
    GAUSS,
    BF16,
    INTS,
    SPARSE,
    SHIFTED,
    NEGATIVE,
    CONSTANT,
    ULPS,
    HUGE_TO_TINY,
    TINY,
    ZERO_RUNS,
    ANY_BITS,
    KINDS
};
static const char *const kind_name[KINDS] = {"gauss",    "bf16", "ints",         "sparse", "shifted",   "negative",
                                             "constant", "ulps", "huge to tiny", "tiny",   "zero runs", "any bits"};

/* Element i of a row; a and b are drawn anew every 16 elements. */
static float value(enum kind k, double a, double b) {
    switch (k) {
    case GAUSS:
        return (float)gaussian();
    case BF16:
        return of_bits(bits_of((float)gaussian()) & 0xFFFF0000u);
    case INTS:
        return (float)((int)(rng() % 9) - 4);
    case SPARSE:
        return uniform() < 0.9 ? 0.0f : (float)gaussian();
    case SHIFTED:
        return (float)(gaussian() + 4.0 * b);
    case NEGATIVE:
        return (float)(-uniform() - (uniform() < 0.1 ? 5.0 : 0.0));
    case CONSTANT:
        return (float)((rng() % 4 ? 1 : -1) * b * exp(a * 30.0));
    case ULPS:
        return of_bits(bits_of((float)(b * exp(a * 10.0))) + (uint32_t)(rng() % 4));
    case HUGE_TO_TINY:
        return (float)(gaussian() * exp(a * 85.0));
    case TINY:
        return (float)(gaussian() * exp(-60.0 - fabs(a) * 43.0));
    case ZERO_RUNS:
        return b > 0.0 ? (rng() % 7 ? 0.0f : -0.0f) : (float)gaussian();
    default:
        return of_bits((uint32_t)rng());
    }
}

static void fill(float *x, int n, enum kind k) {
    double a = 0, b = 0;
    for (int i = 0; i < n; i++) {
        if (i % 16 == 0 && (i % 32 == 0 || rng() % 2)) {
            a = 2.0 * uniform() - 1.0;
            b = gaussian();
        }
        x[i] = value(k, a, b);
        if (!isfinite(x[i])) x[i] = 0.0f;
    }
}

static void fill_weights(float *w, int n) {
    uint64_t k = rng() % 6;
    for (int i = 0; i < n; i++) {
        w[i] = (float)exp(2.0 * gaussian());
        if ((k == 1 && rng() % 3 == 0) || (k == 2 && i / 16 % 3 == 0) || (k == 3 && i / 32 % 3 == 0) ||
            (k == 4 && i < 256))
            w[i] = 0.0f;
        if (k == 5) w[i] = 1.0f;
    }
}

static void compare_row(const mg_codec *ref, const mg_codec *twin, const float *x, const float *w, int n,
                        const char *kind) {
    static uint8_t want[MAX_N * 4], got[MAX_N * 4];
    uint64_t rb;
    cr_assert(mg_dtype_row_bytes(ref->dtype, (uint64_t)n, &rb) && rb <= sizeof want);
    memset(want, 0xA5, rb);
    memset(got, 0x5A, rb);
    mg_status a = ref->encode(x, w, (uint64_t)n, want, NULL), b = twin->encode(x, w, (uint64_t)n, got, NULL);
    cr_assert(a == b, "%s %s: status %d and %d", mg_dtype_get(ref->dtype)->name, kind, a, b);
    cr_assert(a != MG_OK || memcmp(want, got, rb) == 0, "%s, %s row of %d, %s weights", mg_dtype_get(ref->dtype)->name,
              kind, n, w ? "with" : "without");
}

static void compare_encode(const mg_codec *ref, const mg_codec *twin) {
    static float x[MAX_N], w[MAX_N];
    for (int k = 0; k < KINDS; k++)
        for (int round = 0; round < 12; round++) {
            int n = 256 * (1 + round % 9);
            fill(x, n, (enum kind)k);
            fill_weights(w, n);
            compare_row(ref, twin, x, NULL, n, kind_name[k]);
            if (ref->imatrix != MG_IMATRIX_IGNORED) compare_row(ref, twin, x, w, n, kind_name[k]);
        }
    int block = (int)mg_dtype_get(ref->dtype)->block;
    for (int n = block; n <= 11 * block && n <= MAX_N; n += block) { /* tails */
        fill(x, n, GAUSS);
        fill_weights(w, n);
        compare_row(ref, twin, x, NULL, n, "tail");
        if (ref->imatrix != MG_IMATRIX_IGNORED) compare_row(ref, twin, x, w, n, "tail");
    }
}

static void compare_decode(const mg_codec *ref, const mg_codec *twin) {
    static uint8_t in[MAX_N * 4];
    static float want[MAX_N], got[MAX_N];
    uint64_t block = mg_dtype_get(ref->dtype)->block;
    for (uint64_t round = 0; round < 300; round++) {
        uint64_t n = block * (1 + round % (MAX_N / block)), rb;
        cr_assert(mg_dtype_row_bytes(ref->dtype, n, &rb) && rb <= sizeof in);
        for (uint64_t i = 0; i < rb; i++) in[i] = (uint8_t)rng(); /* NaN and infinite scales among them */
        ref->decode(in, n, want);
        twin->decode(in, n, got);
        cr_assert(memcmp(want, got, n * sizeof *want) == 0, "%s", mg_dtype_get(ref->dtype)->name);
    }
}

static void compare_level(mg_isa isa) {
    int twins = 0;
    for (int t = 0; t < MG_DTYPE_COUNT; t++) {
        const mg_codec *ref = mg_codec_for((mg_dtype)t, MG_ISA_SCALAR), *twin = mg_codec_for((mg_dtype)t, isa);
        if (!ref) continue;
        cr_assert(twin->dtype == ref->dtype && twin->imatrix == ref->imatrix);
        if (twin->encode != ref->encode) {
            compare_encode(ref, twin);
            twins++;
        }
        if (twin->decode != ref->decode) {
            compare_decode(ref, twin);
            twins++;
        }
    }
    cr_expect(twins > 0 || isa == MG_ISA_NEON);
}

Test(codec_twins, same_bytes_as_scalar) {
    mg_isa isa = mg_cpu_isa();
    if (isa == MG_ISA_SCALAR) cr_skip("no instruction set above scalar here, or MOEGRAFT_ISA forbids it");
    if (isa == MG_ISA_AVX512) compare_level(MG_ISA_AVX2);
    compare_level(isa);
}
