/* gemm_avx512.c - rule G with sixteen-lane vectors: 12 x 32 tiles use 24 of the 32 registers as accumulators, and read
 * 14 values for 24 multiplications, which keeps two fused units per core busy (6 x 64 does not: four panels of 256 do
 * not fit the first-level cache). */
#if defined(__x86_64__)
#include "quant/math/mathtwins.h"
#include "quant/x86/vec_avx512.inc"
#define MR            12
#define GEMM_CASES(X) X(1, 8) X(2, 4) X(3, 4) X(4, 4) X(5, 4) X(6, 4) X(7, 2) X(8, 2) X(9, 2) X(10, 2) X(11, 2) X(12, 2)
#ifndef __clang__
#define MG_UNROLL_K _Pragma("GCC unroll 2")
#endif
#define CODE_CASES(X) X(1, 4) X(2, 4) X(3, 2) X(4, 2) X(5, 2) X(6, 2) X(7, 1) X(8, 1) X(9, 1) X(10, 1) X(11, 1) X(12, 1)
#include "quant/math/gemm_tmpl.inc"
#include "quant/math/codes_tmpl.inc"

/* Rows to columns: r[i] becomes element i of every row. */
static inline __attribute__((always_inline)) void transpose(__m512 r[16]) {
    __m512 t[16];
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for (int g = 0; g < 16; g += 4) { /* rows g to g + 3: columns i, i + 4, i + 8, i + 12 in r[g + i] */
        r[g] = _mm512_shuffle_ps(t[g], t[g + 2], 0x44);
        r[g + 1] = _mm512_shuffle_ps(t[g], t[g + 2], 0xEE);
        r[g + 2] = _mm512_shuffle_ps(t[g + 1], t[g + 3], 0x44);
        r[g + 3] = _mm512_shuffle_ps(t[g + 1], t[g + 3], 0xEE);
    }
    for (int i = 0; i < 4; i++) {
        const __m512 a = _mm512_shuffle_f32x4(r[i], r[4 + i], 0x88), b = _mm512_shuffle_f32x4(r[i], r[4 + i], 0xDD);
        const __m512 c = _mm512_shuffle_f32x4(r[8 + i], r[12 + i], 0x88);
        const __m512 d = _mm512_shuffle_f32x4(r[8 + i], r[12 + i], 0xDD);
        r[i] = _mm512_shuffle_f32x4(a, c, 0x88);
        r[4 + i] = _mm512_shuffle_f32x4(b, d, 0x88);
        r[8 + i] = _mm512_shuffle_f32x4(a, c, 0xDD);
        r[12 + i] = _mm512_shuffle_f32x4(b, d, 0xDD);
    }
}

static void pack_w(float *dst, const float *src, uint64_t ld, uint32_t n, uint64_t k) {
    uint64_t i = 0;
    for (; n == MG_GEMM_NR && i + 16 <= k; i += 16) {
        __m512 r[16];
        for (uint64_t j = 0; j < 16; j++) r[j] = _mm512_loadu_ps(src + j * ld + i);
        transpose(r);
        for (uint64_t j = 0; j < 16; j++) _mm512_storeu_ps(dst + (i + j) * MG_GEMM_NR, r[j]);
    }
    mg_gemm_pack_w_ref(dst + i * MG_GEMM_NR, src + i, ld, n, k - i);
}

static void pack_x(float *dst, const float *const *rows, uint32_t n, uint64_t k) {
    uint64_t i = 0;
    for (; i + 16 <= k; i += 16) {
        __m512 r[16];
        for (uint32_t j = 0; j < 16; j++) r[j] = j < n ? _mm512_loadu_ps(rows[j] + i) : _mm512_setzero_ps();
        transpose(r);
        for (uint64_t j = 0; j < 16; j++) _mm512_mask_storeu_ps(dst + (i + j) * MR, (1u << MR) - 1, r[j]);
    }
    mg_gemm_pack_x_ref(dst, rows, MR, n, i, k);
}

void mg_gemm_fill_avx512(mg_math *t) {
    t->mr = MR;
    t->gemm = gemm_any;
    t->dot_codes = codes_dot;
    t->values_codes = codes_values;
    t->pack_w = pack_w;
    t->pack_x = pack_x;
}

#else
typedef int mg_not_this_machine; /* a translation unit may not be empty */
#endif
