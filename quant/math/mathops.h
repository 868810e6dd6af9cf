/* mathops.h - the f32 kernels of the forward pass behind one table of functions, one table per instruction set.
 *
 * Every twin performs the same IEEE operations in the same order per output element, so results are equal to the bit
 * (docs/numerics.md); only NaN sign and payload are outside the promise. The bodies are written once, in *_tmpl.inc,
 * over a vector type that each twin supplies. No function allocates or fails. */
#ifndef MG_MATH_MATHOPS_H
#define MG_MATH_MATHOPS_H

#include "formats/base/cpu.h"
#include "quant/math/codes.h"

/* Columns of a packed weight panel: panel p of a matrix with K columns is [K][16], element [k][j] = W[16p + j][k]. */
#define MG_GEMM_NR 16
/* Rule G: k runs in blocks of 256 that start at absolute multiples of 256. */
#define MG_GEMM_BLOCK 256
/* Largest mr of any twin, for scratch. */
#define MG_GEMM_MAX_MR 16

/* c[m][16 * panels] (row stride ldc) = xs * panels by rule G; m <= mr rows are stored. xs [k][mr]; panel p of the
 * weights at wp + p * panel_stride, of the result at c + p * next (16 where its rows lie in one piece). first: c starts
 * from +0; otherwise the blocks are added to what c holds, so K may be given in chunks that are multiples of 256 in
 * ascending order. Reads nothing outside k, writes m rows only. */
typedef void mg_kernel_gemm(uint32_t m, uint64_t k, const float *xs, const float *wp, uint64_t panel_stride,
                            uint64_t panels, float *c, uint64_t ldc, uint64_t next, bool first);
/* c[m][16 * panels] (row stride ldc) = xs * panels by rule G, on codes; xs [k][mr], m <= mr. The panels of w lie one
 * after the other. */
typedef void mg_kernel_code_dot(const mg_codes *w, const uint8_t *panel, uint64_t panels, uint32_t m, const float *xs,
                                float *c, uint64_t ldc);
/* Columns from..from + n of one panel as f32: dst [n][16], what mg_kernel_gemm takes. */
typedef void mg_kernel_code_values(const mg_codes *w, const uint8_t *panel, uint64_t from, uint64_t n, float *dst);
/* One panel dst [k][16] from n <= 16 rows of src (row stride ld); columns n..15 become +0. */
typedef void mg_kernel_pack(float *dst, const float *src, uint64_t ld, uint32_t n, uint64_t k);
/* One sliver dst [k][mr] from n <= mr rows; places n..mr-1 become +0. */
typedef void mg_kernel_pack_rows(float *dst, const float *const *rows, uint32_t n, uint64_t k);
/* Elementwise, y may be x: from x, from y and x, with a scalar. Errors and formulas: docs/numerics.md. */
typedef void mg_kernel_map(float *y, const float *x, uint64_t n);
typedef void mg_kernel_zip(float *y, const float *x, uint64_t n);
typedef void mg_kernel_map_scalar(float *y, const float *x, float d, uint64_t n);
typedef void mg_kernel_zip_scalar(float *y, const float *x, float g, uint64_t n);
typedef float mg_kernel_reduce(const float *x, uint64_t n);
/* -inf for n = 0; which of the zeros is not promised. */
typedef float mg_kernel_largest(const float *x, uint64_t n);
/* x_i = exp(x_i * scale - max), returns T16 of the results: the divisor of a softmax. */
typedef float mg_kernel_softmax(float *x, uint64_t n, float scale);
/* y = (x * r) * w with r = 1 / sqrt(T16(x^2) / n + eps). */
typedef void mg_kernel_rmsnorm(float *y, const float *x, const float *w, uint64_t n, float eps);
/* Rotate pairs (x[i], x[i + half]) by the angles whose cosine and sine are given, i < half. */
typedef void mg_kernel_rope(float *x, const float *cs, const float *sn, uint64_t half);

/* y[r][j] = y[r][j] - a[r][p] * x[p][j], two roundings, for p = 0 .. k - 1 one after the other; r < rows, j < n. ldy,
 * lda, ldx: from one row to the next. */
typedef void mg_kernel_update(double *y, uint64_t ldy, const double *a, uint64_t lda, uint64_t rows, const double *x,
                              uint64_t ldx, uint64_t k, uint64_t n);

typedef struct mg_math {
    const char *name; /* "scalar", "avx2", "avx512", "neon" */
    uint32_t mr;      /* rows of a packed sliver of activations: [K][mr] */
#define MG_KERNEL(field, kind) mg_kernel_##kind *field;
#include "quant/kernels.inc"
#undef MG_KERNEL
} mg_math;

/* The table for the instruction set in use (mg_cpu_isa); never NULL. */
const mg_math *mg_math_get(void);
/* The table for one instruction set, NULL when this build or this processor has none. For tests. */
const mg_math *mg_math_for(mg_isa isa);

#endif
