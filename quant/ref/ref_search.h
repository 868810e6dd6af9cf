/* ref_search.h - the primitives and the least-squares searches that the encoders share (private to quant/).
 *
 * Notation: x values, w weights >= 0, l integer codes; all arithmetic binary32, every sum sequential from element 0,
 * products associated to the left, never fused. A candidate scale s maps x to codes R(s x); with the codes fixed, the
 * scale that minimises sum w (x - a l)^2 is a = A/B with A = sum (w x) l, B = sum (w l) l, and the gain is A^2/B.
 * The order of operations below is part of the result: changing it changes bytes. */
#ifndef MG_QUANT_REF_SEARCH_H
#define MG_QUANT_REF_SEARCH_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* R(x): round to nearest even by adding 1.5 * 2^23 and reading the mantissa. Exact for |x| <= 4194303. Outside that
 * domain the bit pattern itself is the result and part of the bytes: R(+-inf) = -4194304, R(NaN) = 0. */
static inline int32_t mg_ref_round(float x) {
    float v = x + 12582912.0f;
    int32_t u;
    memcpy(&u, &v, sizeof u);
    return (u & 0x007FFFFF) - 0x00400000;
}

/* float to int32 by truncation; INT32_MIN for NaN and everything out of range, as the x86 instruction gives. */
static inline int32_t mg_ref_trunc(float x) {
    return x >= -2147483648.0f && x < 2147483648.0f ? (int32_t)x : INT32_MIN;
}

static inline int32_t mg_ref_clamp(int32_t v, int32_t lo, int32_t hi) {
    return v < lo ? lo : v > hi ? hi : v;
}

/* 1/d, or 0 for d = 0 (either sign). */
static inline float mg_ref_inverse(float d) {
    return d != 0.0f ? 1.0f / d : 0.0f;
}

/* Below this largest magnitude a group counts as all zero. */
#define MG_REF_EPS 1e-15f

/* The first element of greatest magnitude, sign kept; 0 for n zeros. */
float mg_ref_signed_max(const float *x, int n);
/* sum of x^2, sequential. */
float mg_ref_sum_sq(const float *x, int n);
/* w[i] = qw[i] * sqrt(sigma2 + x[i]^2): how importance weights enter. */
void mg_ref_weights(const float *x, const float *qw, int n, float sigma2, float *w);

/* QX: symmetric codes -N..N-1 stored as 0..2N-1. w = NULL means x^2.
 * Start at s = -N/max (max = signed_max), then s = -(N + 0.1 i)/max for i = -9..9, i != 0; a candidate with B > 0 wins
 * when A^2 > best B, and sets a = A/B, best = a A. Codes 0 (not N) and a = 0 when max|x| < EPS. Returns a. */
float mg_ref_qx(int n, int N, const float *x, const float *w, uint8_t *codes);

/* Q3: the same codes with w = x^2 from s = -N/max, then up to five passes of coordinate descent on A^2/B:
 * element i is taken out (a = A - w x l, b = B - w l l); where a > 0 and the best code R(x b/a) differs from l, it is
 * put back with that code if a^2 B > A^2 b. Returns A/B. */
float mg_ref_q3(int n, int N, const float *x, uint8_t *codes);

/* QKX: asymmetric codes 0..N, x ~ scale l - minimum. Start: lo = min(x, 0), s = N/(max - lo); then for i = 0..steps
 * s = (rmin + rdelta i + N)/(max - lo) with codes R(s (x - lo)), a refit of (scale, lo) by least squares with lo <= 0,
 * accepted when the weighted error falls. lo is overwritten by every acceptance, so later candidates depend on earlier
 * ones. Error: |scale l + lo - x| if absolute, else its square. n <= 32. Returns scale; *minimum = -lo >= 0. */
typedef struct mg_qkx_search {
    int N;
    float rmin, rdelta;
    int steps;
    bool absolute;
} mg_qkx_search;
float mg_ref_qkx(const mg_qkx_search *p, int n, const float *x, const float *w, uint8_t *codes, float *minimum);

/* QP: positive codes 0..N for x >= 0 (block scales). Start s = N/max with codes stored in 8 bits without clamp; eight
 * candidates s = (N + 0.1 i)/max, i = -4..4, compared by error; then five passes as in Q3. Returns A/B, 0 when B = 0.
 * A negative x wraps to a code near 255, as in the reference. */
float mg_ref_qp(int n, int N, const float *x, const float *w, uint8_t *codes);

#endif
