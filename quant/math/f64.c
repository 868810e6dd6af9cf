/* f64.c - see f64.h. Only + - * / fma, compares and integer operations. */
#include "quant/math/f64.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

static uint64_t bits_of(double x) {
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static double from_bits(uint64_t u) {
    double x;
    memcpy(&x, &u, sizeof x);
    return x;
}

#define LN2_HI  0x1.62e42fefa38p-1 /* 43 bits: n * LN2_HI is exact for |n| < 2^10 */
#define LN2_LO  0x1.ef35793c7673p-45
#define ROUNDER 0x1.8p52 /* adding it rounds to an integer in the low bits */

double mg_f64_exp(double x) {
    if (x != x) return x;
    if (x > 709.79) return INFINITY;
    if (x < -745.2) return 0.0;
    double t = fma(x, 0x1.71547652b82fep+0, ROUNDER);
    double n = t - ROUNDER;
    int64_t i = (int64_t)(bits_of(t) - bits_of(ROUNDER));
    double r = fma(n, -LN2_HI, x);
    r = fma(n, -LN2_LO, r);
    /* 1/13! ... 1/2!, |r| <= 0.347: the next term is below 2^-57. */
    static const double c[] = {1.0 / 6227020800.0, 1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0,
                               1.0 / 362880.0,     1.0 / 40320.0,     1.0 / 5040.0,     1.0 / 720.0,
                               1.0 / 120.0,        1.0 / 24.0,        1.0 / 6.0,        1.0 / 2.0};
    double q = c[0];
    for (int j = 1; j < 12; j++) q = fma(q, r, c[j]);
    double p = 1.0 + fma(r * r, q, r);
    int64_t a = i >> 1;
    return p * from_bits((uint64_t)(a + 1023) << 52) * from_bits((uint64_t)(i - a + 1023) << 52);
}

double mg_f64_log(double x) {
    if (x != x || x == INFINITY) return x;
    if (x < 0.0) return (double)NAN;
    if (x == 0.0) return -INFINITY;
    int64_t e = 0;
    if (x < 0x1p-1022) {
        x *= 0x1p54;
        e = -54;
    }
    uint64_t u = bits_of(x);
    /* m in [sqrt(1/2), sqrt(2)): the offset moves the cut from 1 to sqrt(1/2). */
    uint64_t v = u - 0x3FE6A09E667F3BCDu;
    e += (int64_t)v >> 52;
    double m = from_bits(u - (v & 0xFFF0000000000000u));
    double f = m - 1.0, s = f / (2.0 + f), z = s * s;
    /* log(1+f) = 2 atanh(s) = 2s + 2s(z/3 + z^2/5 + ...), z <= 0.0295. */
    double q = 1.0 / 23.0;
    for (int d = 21; d >= 3; d -= 2) q = fma(q, z, 1.0 / (double)d);
    double n = (double)e;
    double lo = fma(n, LN2_LO, 2.0 * s * (z * q));
    return fma(n, LN2_HI, 2.0 * s + lo);
}

double mg_f64_pow(double base, double y) {
    return y == 0.0 ? 1.0 : mg_f64_exp(y * mg_f64_log(base));
}

void mg_f64_sincos(double x, double *sn, double *cs) {
    double t = fma(x, 0x1.45f306dc9c883p-1, ROUNDER); /* x * 2/pi, rounded */
    double n = t - ROUNDER;
    unsigned quadrant = (unsigned)(bits_of(t) & 3u);
    double r = fma(n, -0x1.921fb54442d18p0, x); /* pi/2 in two pieces */
    r = fma(n, -0x1.1a62633145c07p-54, r);
    double z = r * r;
    static const double S[] = {-1.0 / 1307674368000.0, 1.0 / 6227020800.0, -1.0 / 39916800.0, 1.0 / 362880.0,
                               -1.0 / 5040.0,          1.0 / 120.0,        -1.0 / 6.0};
    static const double C[] = {1.0 / 20922789888000.0, -1.0 / 87178291200.0, 1.0 / 479001600.0, -1.0 / 3628800.0,
                               1.0 / 40320.0,          -1.0 / 720.0,         1.0 / 24.0,        -1.0 / 2.0};
    double a = S[0], b = C[0];
    for (int i = 1; i < 7; i++) a = fma(a, z, S[i]);
    for (int i = 1; i < 8; i++) b = fma(b, z, C[i]);
    double s = fma(r * z, a, r), c = fma(z, b, 1.0);
    switch (quadrant) {
    case 0:
        *sn = s;
        *cs = c;
        break;
    case 1:
        *sn = c;
        *cs = -s;
        break;
    case 2:
        *sn = -s;
        *cs = -c;
        break;
    default:
        *sn = -c;
        *cs = s;
        break;
    }
}

double mg_f64_normal(double u, double v) {
    double sn, cs;
    mg_f64_sincos(6.283185307179586 * v, &sn, &cs);
    return sqrt(-2 * mg_f64_log(u)) * cs;
}
