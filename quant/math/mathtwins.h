/* mathtwins.h - private: what each twin of the f32 kernels exports. A twin fills the part of the table it owns. */
#ifndef MG_MATH_MATHTWINS_H
#define MG_MATH_MATHTWINS_H

#include "quant/math/mathops.h"

void mg_vecmath_fill_ref(mg_math *t);
void mg_gemm_fill_ref(mg_math *t);
void mg_vecmath_fill_avx2(mg_math *t);
void mg_gemm_fill_avx2(mg_math *t);
void mg_vecmath_fill_avx512(mg_math *t);
void mg_gemm_fill_avx512(mg_math *t);
void mg_vecmath_fill_neon(mg_math *t);
void mg_gemm_fill_neon(mg_math *t);

/* The portable packings, usable by any twin; of rows: k from `from` on. */
void mg_gemm_pack_w_ref(float *dst, const float *src, uint64_t ld, uint32_t n, uint64_t k);
void mg_gemm_pack_x_ref(float *dst, const float *const *rows, uint32_t mr, uint32_t n, uint64_t from, uint64_t k);

#endif
