/* gemm_ref.c - rule G with scalar operations: the definition the other twins are compared with. */
#include <string.h>

#include "quant/math/mathtwins.h"
#include "quant/math/vec_scalar.inc"
#define MR 6
#include "quant/math/gemm_tmpl.inc"

void mg_gemm_pack_w_ref(float *dst, const float *src, uint64_t ld, uint32_t n, uint64_t k) {
    for (uint64_t i = 0; i < k; i++)
        for (uint32_t j = 0; j < MG_GEMM_NR; j++) dst[i * MG_GEMM_NR + j] = j < n ? src[j * ld + i] : 0.0f;
}

void mg_gemm_fill_ref(mg_math *t) {
    t->mr = MR;
    t->gemm = gemm_any;
    t->pack_w = mg_gemm_pack_w_ref;
}
