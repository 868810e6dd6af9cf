/* ref_group.c - the kernels of the group formats one element at a time: the definitions. */
#include <math.h>
#include <string.h>

#include "quant/group_twins.h"
#include "quant/small_float.h"

static void unpack(const uint8_t *in, uint64_t n, uint32_t bits, uint8_t *codes) {
    uint32_t acc = 0, have = 0;
    for (uint64_t i = 0; i < n; i++) {
        if (have < bits) {
            acc |= (uint32_t)*in++ << have;
            have += 8;
        }
        codes[i] = (uint8_t)(acc & ((1u << bits) - 1));
        acc >>= bits;
        have -= bits;
    }
}

static void pack(const uint8_t *codes, uint64_t n, uint32_t bits, uint8_t *out) {
    uint64_t acc = 0;
    uint32_t have = 0;
    for (uint64_t i = 0; i < n; i++) {
        acc |= (uint64_t)codes[i] << have;
        have += bits;
        if (have < 32 && i + 1 < n) continue;
        for (int b = 0; b < 4; b++) *out++ = (uint8_t)(acc >> (8 * b));
        acc >>= 32;
        have = have > 32 ? have - 32 : 0;
        if (have && i + 1 == n) { /* a word more for the end of the last code */
            for (int b = 0; b < 4; b++) *out++ = (uint8_t)(acc >> (8 * b));
        }
    }
}

static void turn(const uint8_t *const rows[8], uint64_t n, const uint8_t place[8], uint8_t *out, uint64_t ld) {
    for (uint64_t c = 0; c < n; c++)
        for (uint64_t r = 0; r < 8; r++) out[(c - c % 8 + place[c % 8]) * ld + r] = rows[r][c];
}

static bool range(const float *w, uint64_t n, float *lo, float *hi) {
    float a = INFINITY, b = -INFINITY;
    bool finite = true;
    for (uint64_t i = 0; i < n; i++) {
        finite = finite && isfinite(w[i]);
        a = w[i] < a ? w[i] : a;
        b = w[i] > b ? w[i] : b;
    }
    *lo = a + 0.0f;
    *hi = b + 0.0f;
    return finite;
}

/* q within the codes there are; NaN is 0. */
static float clamped(float q, float top) {
    q = q > 0.0f ? q : 0.0f;
    return q < top ? q : top;
}

static void nearest(const mg_group_step *s, const float *w, uint64_t n, uint8_t *codes) {
    for (uint64_t i = 0; i < n; i++) codes[i] = (uint8_t)clamped(rintf((w[i] - s->bias) / s->scale) + s->zero, s->top);
}

/* Nearest whole number (ties to even) of |x| < 2^22: two additions. */
static float whole(float x) {
    return (x + 12582912.0f) - 12582912.0f;
}

static void error(const mg_group_step *s, const float *w, uint64_t n, float *e) {
    const float inverse = 1.0f / s->scale;
    for (uint64_t i = 0; i < n; i++) {
        const float q = clamped(whole((w[i] - s->bias) * inverse) + s->zero, s->top);
        e[i] = ((q - s->zero) * s->scale + s->bias) - w[i];
    }
}

static double cost(const mg_group_step *s, const float *w, const float *weight, uint64_t n) {
    float lane[16] = {0};
    double sum = 0;
    for (uint64_t i = 0; i < n; i++) {
        float e;
        error(s, w + i, 1, &e);
        lane[i % 16] += e * e * weight[i];
    }
    for (int j = 0; j < 16; j++) sum += (double)lane[j];
    return sum;
}

static void tries(const mg_group_tries *s, const float *w, const float *back, const float *now, uint64_t n, float *d) {
    for (int t = 0; t < MG_GROUP_TRIES; t++) {
        const mg_group_step step = {.scale = s->scale[t], .bias = s->bias[t], .zero = s->zero[t], .top = s->top};
        for (uint64_t k = 0; k < n; k++) {
            float e;
            error(&step, w + k, 1, &e);
            d[k * MG_GROUP_TRIES + (uint64_t)t] = e * back[k] - now[k];
        }
    }
}

static void gains(const float *d, const float *y, const float *b, uint64_t n, float gain[MG_GROUP_TRIES]) {
    for (int t = 0; t < MG_GROUP_TRIES; t++) gain[t] = 0.0f;
    for (uint64_t k = 0; k < n; k++)
        for (int t = 0; t < MG_GROUP_TRIES; t++, d++, y++) gain[t] += *d * (*y + b[k]);
}

static void values(const uint8_t *codes, uint64_t n, float zero, float scale, float *out) {
    for (uint64_t i = 0; i < n; i++) out[i] = ((float)codes[i] - zero) * scale;
}

static void affine(const uint8_t *codes, uint64_t n, float scale, float bias, float *out) {
    for (uint64_t i = 0; i < n; i++) out[i] = (float)codes[i] * scale + bias;
}

static float widened(uint8_t c, mg_group_value kind) {
    if (kind == MG_CODE_E4M3) return mg_e4m3_to_f32(c);
    return kind == MG_CODE_E5M2 ? mg_f16_to_f32((uint16_t)(c << 8)) : mg_e2m1_to_f32(c & 15);
}

static void floats(const uint8_t *codes, uint64_t n, mg_group_value kind, float scale, float *out) {
    for (uint64_t i = 0; i < n; i++) out[i] = widened(codes[i], kind) * scale;
}

static void narrow(const float *w, uint64_t n, mg_group_value kind, float step, uint8_t *codes) {
    for (uint64_t i = 0; i < n; i++)
        codes[i] = kind == MG_CODE_E4M3 ? mg_f32_to_e4m3(w[i] / step) : mg_f32_to_e2m1(w[i] / step);
}

void mg_group_fill_ref(mg_group_kernels *t) {
    *t = (mg_group_kernels){unpack, pack,  turn,   range,  nearest, error, cost,
                            tries,  gains, values, affine, floats,  narrow};
}
