/* small_float.c - see small_float.h. */
#include "quant/small_float.h"

#include <math.h>
#include <string.h>

static float from_bits(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

float mg_e4m3_to_f32(uint8_t c) {
    const uint32_t e = c >> 3 & 15, m = c & 7, sign = (uint32_t)(c & 0x80) << 24;
    if (e == 15 && m == 7) return from_bits(sign | 0x7fc00000u);
    const float size = e ? (float)(8 + m) : (float)m; /* in units of 2^(e-10) */
    const float unit = from_bits(((e ? e : 1) + 117) << 23);
    return sign ? -(size * unit) : size * unit;
}

uint8_t mg_f32_to_e4m3(float x) {
    const uint8_t sign = signbit(x) ? 0x80 : 0;
    const float a = fabsf(x);
    if (isnan(x)) return sign | 0x7f;
    if (a >= MG_E4M3_MAX) return sign | 0x7e;
    if (a < 0x1p-6f) return sign | (uint8_t)rintf(a * 0x1p9f); /* 8 of these units are the smallest normal number */
    uint32_t u;
    memcpy(&u, &a, sizeof u);
    u += 0x7ffffu + (u >> 20 & 1); /* a carry goes into the exponent, where it belongs */
    return sign | (uint8_t)((u >> 20) - (120u << 3));
}

float mg_e2m1_to_f32(uint8_t c) {
    static const float size[8] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
    return c & 8 ? -size[c & 7] : size[c & 7];
}

uint8_t mg_f32_to_e2m1(float x) {
    const float a = fabsf(x);
    const uint8_t size = a < 2.0f ? (uint8_t)rintf(a * 2.0f) : a < 4.0f ? 2 + (uint8_t)rintf(a) : a > 5.0f ? 7 : 6;
    return x < 0.0f ? 8 | size : size;
}

float mg_e8m0_to_f32(uint8_t c) {
    return from_bits(c == 255 ? 0x7fc00000u : c ? (uint32_t)c << 23 : 0x00400000u);
}

uint8_t mg_f32_to_e8m0(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return (uint8_t)(u >> 23);
}
