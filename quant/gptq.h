/* gptq.h - rounding a weight column by column, each column making up for the errors of those before it (GPTQ, arXiv
 * 2210.17323; in the form of LDLQ, QuIP, arXiv 2307.13304, which is the same algorithm).
 *
 * H = X^T X + damping, its columns in the order in which they are rounded (largest diagonal first). With
 * H = (U + I) D (U + I)^T, U strictly upper triangular, column k of W is rounded as
 *     q_k = round(w_k + sum over j < k of (w_j - q_j) U[j][k])
 * and the loss is sum over k of D_k (what rounding took from it)^2. U comes from the Cholesky factor of H in reverse
 * order; nothing is inverted.
 *
 * Groups stay where they are stored whatever the order of columns (static groups), so every format can hold the result
 * and no g_idx is needed. Scale and zero of a group are chosen before its columns are rounded, for the smallest sum of
 * D_k (rounding error)^2 among ranges from the whole down to two thirds of it.
 *
 * Fixed order of operations: the same bits for every number of threads and instruction set. */
#ifndef MG_QUANT_GPTQ_H
#define MG_QUANT_GPTQ_H

#include "formats/arch/model.h"
#include "quant/group_encode.h"
#include "quant/math/gram.h"

/* A Hessian made ready for rounding; serves all weights that read the same input. */
typedef struct mg_gptq {
    uint64_t d;
    uint32_t *order; /* [d] column rounded at each place */
    float *pivot;    /* [d] D_k, by column */
    float *u;        /* panels of 16 places: [k < 16 p + 16][16] each, the p-th from 16 * 8 p (p + 1) floats on */
    double damping;  /* fraction of the mean diagonal that was added */
    bool plain;      /* no damping below 1 made it positive definite: weights are rounded to nearest */
} mg_gptq;

/* Bytes that making one of d columns ready takes, the result included; saturates. */
uint64_t mg_gptq_bytes(uint64_t d);
/* damping: fraction of the mean of the diagonal added to it, raised by a hundredth until the factor exists. gram NULL:
 * no statistics, plain rounding of d columns. */
mg_status mg_gptq_init(mg_gptq *h, const mg_gram *gram, uint64_t d, double damping, mg_pool *pool,
                       mg_error *err) MG_MUST_CHECK;
void mg_gptq_release(mg_gptq *h);

/* Rows that one sweep takes at most: a multiple of the rows that products take at a time. */
enum { MG_GPTQ_ROWS = 48 };
/* What the format can hold nearest to want, for a column of row i of the sweep. */
typedef float (*mg_gptq_round_fn)(void *ctx, uint64_t i, uint64_t column, float want);
/* Floats of scratch for d columns, which come as zeros. */
uint64_t mg_gptq_scratch(uint64_t d);
/* Round all columns of w [rows][d] in h's order, rows of a column one after the other; h is not plain. Returns the sum
 * of D_k error^2. */
double mg_gptq_sweep(const mg_gptq *h, const float *w, uint64_t rows, float *scratch, mg_gptq_round_fn round,
                     void *ctx);

/* Codes of a weight: q from mg_group_codes_init, with the scheme, rows and cols of b. *loss: sum of D_k error^2. */
mg_status mg_gptq_round(const mg_gptq *h, mg_model *m, const mg_bound *b, mg_group_codes *q, mg_pool *pool,
                        double *loss, mg_error *err) MG_MUST_CHECK;

#endif
