/* gram.h - Gram matrices X^T X of activations in f32, by rule G over the rows: rows in blocks of 256, each block one
 * chain of fused operations from +0, blocks added in order of arrival. However rows are handed over (batches, one by
 * one), and whatever the number of threads and the instruction set, the bits are the same.
 *
 * Why f32: at 256 rows a block the error is 3e-7 of the diagonal, far below what damping adds before anything is
 * factored, at half the memory and several times the speed of double (quant/math/chol.h). */
#ifndef MG_MATH_GRAM_H
#define MG_MATH_GRAM_H

#include "formats/base/pool.h"
#include "quant/math/mathops.h"

typedef struct mg_gram {
    uint64_t d;
    uint64_t rows;  /* added so far */
    float *g;       /* panels of 16 columns, [ceil(d / 16)][d][16], columns from d on +0; whole after mg_gram_finish */
    float *pending; /* [256][d] rows that do not fill a block yet */
    uint64_t waiting; /* of them */
} mg_gram;

static inline float mg_gram_at(const mg_gram *g, uint64_t i, uint64_t j) {
    return g->g[(j / MG_GEMM_NR * g->d + i) * MG_GEMM_NR + j % MG_GEMM_NR];
}

/* Bytes one accumulator of d columns takes while rows arrive, room to pack a block of them included (4 MiB in all where
 * blocks are small); finished ones keep 4 d^2 of them. */
uint64_t mg_gram_bytes(uint64_t d);
mg_status mg_gram_init(mg_gram *g, uint64_t d, mg_error *err) MG_MUST_CHECK;
void mg_gram_release(mg_gram *g);
/* Add rows x [n][d]; weight [n] multiplies each row (NULL: 1). */
mg_status mg_gram_rows(mg_gram *g, const float *x, const float *weight, uint64_t n, mg_pool *pool,
                       mg_error *err) MG_MUST_CHECK;
/* Add the last, short block and make the matrix symmetric. MG_ERR_FORMAT when an entry of the diagonal is not finite:
 * the model computed values that are not. */
mg_status mg_gram_finish(mg_gram *g, mg_pool *pool, mg_error *err) MG_MUST_CHECK;
/* y[m][16 * panels] (row stride ldy) = x[:, from .. to) G[from .. to), columns from 16 * first on, by rule G over what
 * is summed. x: slivers [ceil(m / mr)][d][mr] (mg_gemm_pack_x). */
void mg_gram_times(const mg_gram *g, const float *x, uint64_t m, uint64_t from, uint64_t to, uint64_t first,
                   uint64_t panels, float *y, uint64_t ldy);

#endif
