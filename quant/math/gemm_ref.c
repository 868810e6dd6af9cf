/* gemm_ref.c - rule G with scalar operations: the definition the other twins are compared with. */
#include <string.h>

#include "quant/math/mathtwins.h"
#include "quant/math/vec_scalar.inc"
#define MR            6
#define GEMM_CASES(X) X(1, 4) X(2, 2) X(3, 2) X(4, 1) X(5, 1) X(6, 1)
#include "quant/math/gemm_tmpl.inc"

void mg_gemm_pack_w_ref(float *dst, const float *src, uint64_t ld, uint32_t n, uint64_t k) {
    for (uint64_t i = 0; i < k; i++)
        for (uint32_t j = 0; j < MG_GEMM_NR; j++) dst[i * MG_GEMM_NR + j] = j < n ? src[j * ld + i] : 0.0f;
}

void mg_gemm_pack_x_ref(float *dst, const float *const *rows, uint32_t mr, uint32_t n, uint64_t from, uint64_t k) {
    for (uint64_t i = from; i < k; i++)
        for (uint32_t r = 0; r < mr; r++) dst[i * mr + r] = r < n ? rows[r][i] : 0.0f;
}

static void pack_x(float *dst, const float *const *rows, uint32_t n, uint64_t k) {
    mg_gemm_pack_x_ref(dst, rows, MR, n, 0, k);
}

void mg_gemm_fill_ref(mg_math *t) {
    t->mr = MR;
    t->gemm = gemm_any;
    t->pack_w = mg_gemm_pack_w_ref;
    t->pack_x = pack_x;
}
