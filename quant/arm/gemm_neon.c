/* gemm_neon.c - rule G with four-lane vectors: 6 x 16 tiles use 24 of the 32 registers as accumulators. */
#if defined(__aarch64__)
#include "quant/math/mathtwins.h"
#include "quant/arm/vec_neon.inc"
#define MR            6
#define GEMM_CASES(X) X(1, 4) X(2, 2) X(3, 2) X(4, 1) X(5, 1) X(6, 1)
#define CODE_CASES(X) X(1, 1) X(2, 1) X(3, 1) X(4, 1) X(5, 1) X(6, 1)
#include "quant/math/gemm_tmpl.inc"
#include "quant/math/codes_tmpl.inc"

/* Four rows of four: r[i] becomes element i of every row. */
static inline void transpose(float32x4_t r[4]) {
    const float32x4x2_t a = vtrnq_f32(r[0], r[1]), b = vtrnq_f32(r[2], r[3]);
    r[0] = vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0]));
    r[1] = vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1]));
    r[2] = vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0]));
    r[3] = vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1]));
}

static void pack_w(float *dst, const float *src, uint64_t ld, uint32_t n, uint64_t k) {
    uint64_t i = 0;
    for (; n == MG_GEMM_NR && i + 4 <= k; i += 4)
        for (uint64_t j = 0; j < MG_GEMM_NR; j += 4) {
            float32x4_t r[4];
            for (uint64_t v = 0; v < 4; v++) r[v] = vld1q_f32(src + (j + v) * ld + i);
            transpose(r);
            for (uint64_t v = 0; v < 4; v++) vst1q_f32(dst + (i + v) * MG_GEMM_NR + j, r[v]);
        }
    mg_gemm_pack_w_ref(dst + i * MG_GEMM_NR, src + i, ld, n, k - i);
}

/* Rows 0 to 3, then 4 and 5 beside two of zeros, of which a store takes half. */
static void pack_x(float *dst, const float *const *rows, uint32_t n, uint64_t k) {
    uint64_t i = 0;
    for (; i + 4 <= k; i += 4)
        for (uint32_t j = 0; j < MR; j += 4) {
            float32x4_t r[4];
            for (uint32_t v = 0; v < 4; v++) r[v] = j + v < n ? vld1q_f32(rows[j + v] + i) : vdupq_n_f32(0.0f);
            transpose(r);
            for (uint64_t v = 0; v < 4; v++)
                if (j == 0)
                    vst1q_f32(dst + (i + v) * MR, r[v]);
                else
                    vst1_f32(dst + (i + v) * MR + 4, vget_low_f32(r[v]));
        }
    mg_gemm_pack_x_ref(dst, rows, MR, n, i, k);
}

void mg_gemm_fill_neon(mg_math *t) {
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
