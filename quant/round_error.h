/* round_error.h - private to quant/: what rounding a group does to its weights, as the inner loop of searches. Rounds
 * by the reciprocal of the scale, so a weight half way between two codes may go the other way than in
 * quant/group_encode.c: fine for judging, not for storing. */
#ifndef MG_QUANT_ROUND_ERROR_H
#define MG_QUANT_ROUND_ERROR_H

#include "quant/group_encode.h"

/* Nearest whole number (ties to even) of |x| < 2^22, as two additions that every compiler can turn into vectors. */
static inline float mg_nearest(float x) {
    return (x + 12582912.0f) - 12582912.0f;
}

/* e = rounded w - w of n weights under p. */
static inline void mg_round_error(const mg_group_scheme *s, const mg_group_params *p, const float *w, uint64_t n,
                                  float *e) {
    const float top = (float)((1u << s->bits) - 1), zero = (float)p->zero, scale = p->scale, bias = p->bias;
    const float inverse = 1.0f / scale;
    for (uint64_t i = 0; i < n; i++) {
        float q = mg_nearest((w[i] - bias) * inverse) + zero;
        q = q < 0.0f ? 0.0f : q;
        q = q > top ? top : q;
        e[i] = ((q - zero) * scale + bias) - w[i];
    }
}

#endif
