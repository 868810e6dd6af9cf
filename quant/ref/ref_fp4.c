/* ref_fp4.c - 4-bit floats (E2M1) under a power-of-two or FP8 scale: MXFP4, NVFP4. No importance weights.
 *
 * A code is sign, two exponent bits, one mantissa bit; kv holds twice its value, so that the table is integer. */
#include "quant/ref/ref_fp4.h"

#include "quant/block_layout.h"
#include "quant/ref/ref.h"
#include "quant/ref/ref_search.h"

static const int8_t kv[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/* The code with the smallest |kv d - x|, the first of equals: code 8 (-0) is never made. */
static int nearest(float x, float d) {
    int best = 0;
    float best_err = fabsf((float)kv[0] * d - x);
    for (int c = 1; c < 16; c++) {
        float e = fabsf((float)kv[c] * d - x);
        if (e < best_err) {
            best_err = e;
            best = c;
        }
    }
    return best;
}

static float abs_max(const float *x, int n) {
    return fabsf(mg_ref_signed_max(x, n));
}

static float of_bits(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* floor(log2f(x)) for finite x > 0 as a binary32 log2f of half-ulp accuracy gives it: the exponent of x, plus one for
 * the few values so close below a power of two 2^k that log2f rounds up to k. n steps of 2^(k-24) below 2^k the
 * logarithm is k - n 2^-24/ln 2; it rounds to k when that is nearer than half the spacing of floats below k, which is
 * 2^(m-24) with 2^m the power of two that bounds |k|. Written out because the bytes must not depend on the libm of the
 * day. */
static int floor_log2(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    if (u >> 23 && (u & 0x7FFFFF) < 0x7FFF00) return (int)(u >> 23) - 127; /* n > 255, the spacing at most 64 */
    int e;
    float f = frexpf(x, &e); /* f in [0.5, 1): x is n = (1 - f) 2^24 steps below 2^e */
    float n = (1.0f - f) * 0x1p24f;
    int m = -1000;
    if (e != 0) (void)frexp(e > 0 ? (double)e - 0.5 : (double)-e, &m), m--;
    return (double)n * 1.4426950408889634 < ldexp(1.0, m) ? e : e - 1;
}

/* Scale 2^(e - 128) of an MXFP4 block: half of the E8M0 value, because kv is doubled. */
float mg_ref_e8m0_half(uint8_t e) {
    return of_bits(e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23);
}

uint8_t mg_ref_mxfp4_scale(float amax) {
    return amax > 0.0f ? (uint8_t)(floor_log2(amax) - 2 + 127) : 0;
}

/* MXFP4, 17 bytes for 32: | e | qs 16 |       x = kv[code] 2^(e - 128)
 * qs[j]   7..4 code[j + 16]   3..0 code[j]
 * e = floor(log2 amax) - 2 + 127, kept in eight bits: below 2^-125 it wraps, as in the reference. */
mg_status mg_ref_mxfp4_encode(const float *x, const float *weights, uint64_t n, void *out, mg_error *err) {
    MG_TRY(mg_ref_check(MG_MXFP4, x, weights, n, err));
    mg_blk_mxfp4 *b = out;
    for (; n; n -= 32, x += 32, b++) {
        float amax = abs_max(x, 32);
        b->e = mg_ref_mxfp4_scale(amax);
        float d = mg_ref_e8m0_half(b->e);
        for (int j = 0; j < 16; j++) b->qs[j] = (uint8_t)(nearest(x[j], d) | nearest(x[j + 16], d) << 4);
    }
    return MG_OK;
}

void mg_ref_mxfp4_decode(const void *in, uint64_t n, float *out) {
    const mg_blk_mxfp4 *b = in;
    for (; n; n -= 32, out += 32, b++) {
        float d = mg_ref_e8m0_half(b->e);
        for (int j = 0; j < 16; j++) {
            out[j] = (float)kv[b->qs[j] & 15] * d;
            out[j + 16] = (float)kv[b->qs[j] >> 4] * d;
        }
    }
}

/* UE4M3 (unsigned FP8, bias 7) of x >= 0. Half rounds up; what would need an exponent of 2^8 or more becomes the
 * largest code 0x7E = 448, so 256..447 are not reached. */
uint8_t mg_ref_ue4m3_encode(float x) {
    if (!(x > 0.0f)) return 0;
    if (x > 448.0f) x = 448.0f;
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    int e = (int)(u >> 23) - 127 + 7;
    if (e <= 0) return (uint8_t)mg_ref_clamp((int)(x * 512.0f + 0.5f), 0, 7);
    int code = (e << 3 | (int)(u >> 20 & 7)) + (int)(u >> 19 & 1); /* a carry moves into the exponent */
    return (uint8_t)(code >= 15 << 3 ? 0x7E : code);
}

/* Half of the UE4M3 value; 0 and 0x7F (NaN) count as 0. */
float mg_ref_ue4m3_half(uint8_t c) {
    if (c == 0 || c == 0x7F) return 0.0f;
    uint32_t e = c >> 3 & 15, m = c & 7;
    return e == 0 ? (float)m * 0x1p-10f : of_bits((e + 119) << 23 | m << 20);
}

/* NVFP4, 36 bytes for 64: | d UE4M3[4] | qs 32 |       x = kv[code] (d_s / 2), sub-block s = 0..3 of 16
 * qs[8 s + j]   7..4 code[16 s + j + 8]   3..0 code[16 s + j], j < 8.  d_s = UE4M3(amax/6). */
mg_status mg_ref_nvfp4_encode(const float *x, const float *weights, uint64_t n, void *out, mg_error *err) {
    MG_TRY(mg_ref_check(MG_NVFP4, x, weights, n, err));
    mg_blk_nvfp4 *b = out;
    for (; n; n -= 64, b++)
        for (int s = 0; s < 4; s++, x += 16) {
            b->d[s] = mg_ref_ue4m3_encode(abs_max(x, 16) / 6.0f);
            float d = mg_ref_ue4m3_half(b->d[s]);
            for (int j = 0; j < 8; j++) b->qs[8 * s + j] = (uint8_t)(nearest(x[j], d) | nearest(x[j + 8], d) << 4);
        }
    return MG_OK;
}

void mg_ref_nvfp4_decode(const void *in, uint64_t n, float *out) {
    const mg_blk_nvfp4 *b = in;
    for (; n; n -= 64, b++)
        for (int s = 0; s < 4; s++, out += 16) {
            float d = mg_ref_ue4m3_half(b->d[s]);
            for (int j = 0; j < 8; j++) {
                out[j] = (float)kv[b->qs[8 * s + j] & 15] * d;
                out[j + 8] = (float)kv[b->qs[8 * s + j] >> 4] * d;
            }
        }
}
