/* kernel_rows.c - random numbers that repeat, and the rows that kernels are tried on.
 *
 * Plain random data reaches neither the guards of a kernel nor rounding outside its domain nor sums of zero weights,
 * hence the second half of the list. What a row is made of changes every 16 or 32 elements, as sub-blocks do. */
#include <math.h>
#include <string.h>

#include "formats/dtype.h"
#include "tests/kernels/kernel_test.h"

static uint64_t state = 1;

/* The finalizer of splitmix64 spreads seeds that are neighbours; xorshift64 follows. */
void kt_seed(uint64_t seed) {
    seed += 0x9E3779B97F4A7C15u;
    seed = (seed ^ seed >> 30) * 0xBF58476D1CE4E5B9u;
    seed = (seed ^ seed >> 27) * 0x94D049BB133111EBu;
    state = seed ^ seed >> 31;
    if (!state) state = 1;
}

uint64_t kt_next(void) {
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

uint64_t kt_below(uint64_t n) {
    return (kt_next() >> 16) % n;
}

double kt_uniform(void) {
    return (double)(kt_next() >> 11) * 0x1p-53;
}

double kt_gauss(void) {
    int64_t sum = 0;
    for (int i = 0; i < 3; i++) {
        uint64_t r = kt_next();
        sum += (int64_t)((r & 0xFFFF) + (r >> 16 & 0xFFFF) + (r >> 32 & 0xFFFF) + (r >> 48));
    }
    return (double)(sum - 6 * 65535) * 0x1p-16;
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

bool kt_same(float a, float b) {
    return bits_of(a) == bits_of(b) || (a != a && b != b);
}

float kt_any_float(void) {
    uint64_t r = kt_next();
    switch (r & 15) {
    case 0:
        return 0.0f;
    case 1:
        return -0.0f;
    case 2:
        return of_bits((uint32_t)(r >> 32) & 0x807FFFFFu); /* subnormal */
    case 3:
    case 4:
        return of_bits((uint32_t)(r >> 32));
    default:
        return (float)(int32_t)(r >> 32) * 0x1p-31f;
    }
}

const char *kt_kind_name(kt_kind k) {
    static const char *const names[KT_KINDS] = {
        "gauss",    "gauss bf16", "gauss f16", "laplace",   "student t3", "positive", "negative",
        "integers", "sparse",     "1e-6",      "scales",    "shifted",    "constant", "plus minus",
        "ulps",     "magnitudes", "huge",      "subnormal", "zeros",      "any bits", "not finite"};
    return names[k];
}

static double laplace(void) {
    return (kt_next() & 1 ? 1.0 : -1.0) * -log(1.0 - kt_uniform());
}

static double student(void) {
    double z = kt_gauss(), chi = 0;
    for (int i = 0; i < 3; i++) {
        double g = kt_gauss();
        chi += g * g;
    }
    return z / sqrt(chi / 3 + 1e-12);
}

/* Parameters of a stretch of 16 or 32 elements: u in [-1, 1), g normal. */
typedef struct stretch {
    double u, g;
} stretch;

static float value(kt_kind k, const stretch *p) {
    switch (k) {
    case KT_GAUSS:
        return (float)kt_gauss();
    case KT_GAUSS_BF16:
        return mg_bf16_to_f32(mg_f32_to_bf16((float)kt_gauss()));
    case KT_GAUSS_F16:
        return mg_f16_to_f32(mg_f32_to_f16((float)kt_gauss()));
    case KT_LAPLACE:
        return (float)laplace();
    case KT_STUDENT:
        return (float)student();
    case KT_POSITIVE:
        return (float)kt_uniform();
    case KT_NEGATIVE:
        return (float)(-kt_uniform() - (kt_uniform() < 0.1 ? 5.0 : 0.0));
    case KT_INTEGERS:
        return (float)((int)kt_below(9) - 4);
    case KT_SPARSE:
        return p->g > 0.5 || kt_uniform() < 0.8 ? 0.0f : (float)kt_gauss();
    case KT_SMALL:
        return (float)(kt_gauss() * 1e-6);
    case KT_MIXED_SCALES:
        return (float)(kt_gauss() * exp(4.0 * p->g));
    case KT_SHIFTED:
        return (float)(kt_gauss() + 4.0 * p->g);
    case KT_CONSTANT:
        return (float)(p->g * exp(p->u * 30.0));
    case KT_PLUS_MINUS:
        return (float)((kt_next() & 1 ? 1.0 : -1.0) * p->g * exp(p->u * 30.0));
    case KT_ULPS:
        return of_bits(bits_of((float)(p->g * exp(p->u * 10.0))) + (uint32_t)kt_below(4));
    case KT_MAGNITUDES: /* 1e-44 to 1e15 */
        return (float)(kt_gauss() * exp(-33.0 + p->u * 68.0));
    case KT_HUGE:
        return (float)(kt_gauss() * exp(p->u * 85.0));
    case KT_SUBNORMAL:
        return (float)(kt_gauss() * exp(-60.0 - fabs(p->u) * 43.0));
    case KT_ZEROS:
        return p->g > -1.0 ? (kt_below(7) ? 0.0f : -0.0f) : (float)kt_gauss();
    default:
        return of_bits((uint32_t)(kt_next() >> 32));
    }
}

void kt_fill(float *x, uint64_t n, kt_kind k) {
    stretch p = {0};
    for (uint64_t i = 0; i < n; i++) {
        if (i % 16 == 0 && (i % 32 == 0 || kt_next() % 2)) p = (stretch){2.0 * kt_uniform() - 1.0, kt_gauss()};
        x[i] = value(k, &p);
        if (!isfinite(x[i])) x[i] = 0.0f;
    }
    if (k == KT_NOT_FINITE && n) {
        static const uint32_t bad[] = {0x7F800000, 0xFF800000, 0x7FC00000, 0xFF800001};
        x[kt_below(n)] = of_bits(bad[kt_below(4)]);
    }
}

void kt_fill_weights(float *w, uint64_t n) {
    static const uint64_t runs[] = {16, 32, 256};
    uint64_t k = kt_below(8);
    for (uint64_t i = 0; i < n; i++) {
        w[i] = k == 6 ? 1.0f : (float)exp(2.0 * kt_gauss());
        bool zero = k == 1 ? kt_below(3) == 0 : k >= 2 && k <= 4 ? i / runs[k - 2] % 3 == 0 : k == 5;
        if (zero) w[i] = 0.0f;
    }
}
