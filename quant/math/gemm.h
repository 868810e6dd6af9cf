/* gemm.h - matrix products by rule G over packed operands: y[m][n] = x[m][k] * w[n][k]^T.
 *
 * Activations are packed once into slivers of mr rows, [ceil(m / mr)][k][mr]; weights into panels of 16 rows for a
 * chunk of k at a time, [ceil(n / 16)][kc][16]. Padding rows hold zeros and are never stored, so an infinite weight
 * beside padding does no harm. Cutting m, n, or k at multiples of 256 changes no bits. */
#ifndef MG_MATH_GEMM_H
#define MG_MATH_GEMM_H

#include "quant/math/mathops.h"

/* k per weight chunk: a multiple of every block length of every dtype and of MG_GEMM_BLOCK. 512 * 16 floats are one L1
 * of weights; an activation sliver of it stays in L1 while the panels stream from L2. */
#define MG_GEMM_KC 512

/* Floats of packed activations; false on overflow. */
bool mg_gemm_x_floats(const mg_math *t, uint64_t m, uint64_t k, uint64_t *out);
/* Sliver number s of dst (the caller may spread slivers over threads). rows: source row of each packed row, or NULL for
 * the identity. ldx: floats between rows of x. */
void mg_gemm_pack_x(const mg_math *t, float *dst, uint64_t s, const float *x, uint64_t ldx, const uint32_t *rows,
                    uint64_t m, uint64_t k);

/* Floats of a packed weight chunk of n rows. */
static inline uint64_t mg_gemm_w_floats(uint64_t n) {
    return (n + MG_GEMM_NR - 1) / MG_GEMM_NR * MG_GEMM_NR * MG_GEMM_KC;
}

/* y[m][n] (+)= xp[:, k0 .. k0+kc) * chunk. k0 a multiple of 256; chunks come in ascending order, the first with k0 = 0
 * sets y. chunk: panels [ceil(n/16)][kc][16]. */
void mg_gemm_chunk(const mg_math *t, uint64_t m, const float *xp, uint64_t k, uint64_t k0, uint64_t kc,
                   const float *chunk, uint64_t n, float *y, uint64_t ldy);

/* Everything in memory, one thread: y[m][n] = x[m][k] * w[n][k]^T + 0. Allocates packed copies; MG_ERR_LIMIT. */
mg_status mg_gemm(const mg_math *t, float *y, uint64_t ldy, const float *x, uint64_t ldx, const float *w, uint64_t ldw,
                  uint64_t m, uint64_t n, uint64_t k, mg_error *err) MG_MUST_CHECK;

#endif
