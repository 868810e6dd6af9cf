/* gemm_avx2.c - rule G with eight-lane vectors: 6 x 16 tiles use 12 of the 16 registers as accumulators. */
#if defined(__x86_64__)
#include "quant/math/mathtwins.h"
#include "quant/x86/vec_avx2.inc"
#define MR            6
#define GEMM_CASES(X) X(1, 4) X(2, 2) X(3, 2) X(4, 1) X(5, 1) X(6, 1)
#ifndef __clang__
#define MG_UNROLL_K _Pragma("GCC unroll 4")
#endif
#define CODE_CASES(X) X(1, 2) X(2, 1) X(3, 1) X(4, 1) X(5, 1) X(6, 1)
#include "quant/math/gemm_tmpl.inc"
#include "quant/math/codes_tmpl.inc"

/* Rows to columns: r[i] becomes element i of every row. */
static inline __attribute__((always_inline)) void transpose(__m256 r[8]) {
    __m256 t[8];
    for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++) {
        r[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
        r[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xEE);
        r[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
        r[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xEE);
    }
    for (int i = 0; i < 4; i++) {
        const __m256 a = r[i], b = r[i + 4];
        r[i] = _mm256_permute2f128_ps(a, b, 0x20);
        r[i + 4] = _mm256_permute2f128_ps(a, b, 0x31);
    }
}

/* 8 rows by 8 k from src into dst[k][16]. */
static inline void pack_8x8(float *dst, const float *src, uint64_t ld) {
    __m256 r[8];
    for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_ps(src + (uint64_t)i * ld);
    transpose(r);
    for (int i = 0; i < 8; i++) _mm256_storeu_ps(dst + i * MG_GEMM_NR, r[i]);
}

static void pack_w(float *dst, const float *src, uint64_t ld, uint32_t n, uint64_t k) {
    uint64_t i = 0;
    if (n == MG_GEMM_NR)
        for (; i + 8 <= k; i += 8) {
            pack_8x8(dst + i * MG_GEMM_NR, src + i, ld);
            pack_8x8(dst + i * MG_GEMM_NR + 8, src + 8 * ld + i, ld);
        }
    mg_gemm_pack_w_ref(dst + i * MG_GEMM_NR, src + i, ld, n, k - i);
}

/* Eight floats are stored for six: what follows overwrites the other two, so the last k are left to the portable loop.
 */
static void pack_x(float *dst, const float *const *rows, uint32_t n, uint64_t k) {
    uint64_t i = 0;
    for (; i + 9 <= k; i += 8) {
        __m256 r[8];
        for (uint32_t j = 0; j < 8; j++) r[j] = j < n ? _mm256_loadu_ps(rows[j] + i) : _mm256_setzero_ps();
        transpose(r);
        for (uint64_t j = 0; j < 8; j++) _mm256_storeu_ps(dst + (i + j) * MR, r[j]);
    }
    mg_gemm_pack_x_ref(dst, rows, MR, n, i, k);
}

void mg_gemm_fill_avx2(mg_math *t) {
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
