/* small_float.h - floats of 8 and 4 bits, and of an exponent alone, as f32 and back: OCP 8-bit floating point (E4M3,
 * without infinities) and OCP microscaling (E2M1, E8M0). Widening is exact. */
#ifndef MG_QUANT_SMALL_FLOAT_H
#define MG_QUANT_SMALL_FLOAT_H

#include <stdint.h>

#define MG_E4M3_MAX 448.0f
#define MG_E2M1_MAX 6.0f

/* S.1111.111 is NaN. */
float mg_e4m3_to_f32(uint8_t c);
/* Nearest, ties to even; beyond the largest: the largest; NaN: NaN. The sign of zero stays. */
uint8_t mg_f32_to_e4m3(float x);

/* The low four bits. */
float mg_e2m1_to_f32(uint8_t c);
/* Nearest, ties to even; beyond the largest: the largest. What is rounded to zero from below keeps its sign, a zero has
 * none, as compressed-tensors packs them. x is no NaN. */
uint8_t mg_f32_to_e2m1(float x);

/* 2^(c - 127); 255 is NaN. */
float mg_e8m0_to_f32(uint8_t c);
/* Of a power of two that there is. */
uint8_t mg_f32_to_e8m0(float x);

#endif
