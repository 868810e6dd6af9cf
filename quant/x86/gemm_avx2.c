/* gemm_avx2.c - rule G with eight-lane vectors: 6 x 16 tiles use 12 of the 16 registers as accumulators. */
#if defined(__x86_64__)
#include "quant/math/mathtwins.h"
#include "quant/x86/vec_avx2.inc"
#define MR 6
#ifndef __clang__
#define MG_UNROLL_K _Pragma("GCC unroll 4")
#endif
#include "quant/math/gemm_tmpl.inc"

/* 8 rows by 8 k from src into dst[k][16], transposed in registers. */
static inline void pack_8x8(float *dst, const float *src, uint64_t ld) {
    __m256 r[8], t[8];
    for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_ps(src + (uint64_t)i * ld);
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
        _mm256_storeu_ps(dst + i * MG_GEMM_NR, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_storeu_ps(dst + (i + 4) * MG_GEMM_NR, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
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

void mg_gemm_fill_avx2(mg_math *t) {
    t->mr = MR;
    t->gemm = gemm_any;
    t->pack_w = pack_w;
}

#else
typedef int mg_not_this_machine; /* a translation unit may not be empty */
#endif
