/* fma.h - one fused multiply-add per call, with the same result on every machine.
 *
 * Where the compiler targets hardware with a fused operation (-mfma, AArch64) this is that instruction. Elsewhere
 * (plain x86-64) the C library's fmaf is right but slow when the processor has none, so the common case is done in
 * double: the product of two floats is exact there (24 + 24 <= 53 bits) and one addition rounds it once to 53 bits.
 * Rounding again to 24 bits can only go wrong when the 53-bit value is exactly half way between two floats (low 29 bits
 * 0x10000000) or when the result is subnormal, where the float has fewer bits; those rare cases go to fmaf. */
#ifndef MG_MATH_FMA_H
#define MG_MATH_FMA_H

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline float mg_fma32(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__)
    return __builtin_fmaf(a, b, c);
#else
    double s = (double)a * (double)b + (double)c;
    uint64_t u;
    memcpy(&u, &s, sizeof u);
    uint64_t mag = u & 0x7FFFFFFFFFFFFFFFu;
    if (__builtin_expect((u & 0x1FFFFFFFu) == 0x10000000u || (mag != 0 && mag < 0x3820000000000000u), 0)) /* < 2^-125 */
        return fmaf(a, b, c);
    return (float)s;
#endif
}

#endif
