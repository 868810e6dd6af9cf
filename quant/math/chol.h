/* chol.h - symmetric positive definite systems in double precision: sums of outer products, Cholesky factor, solutions.
 * The order of operations depends on the sizes alone, so results have the same bits for every number of threads. */
#ifndef MG_MATH_CHOL_H
#define MG_MATH_CHOL_H

#include "formats/base/pool.h"

/* s [d, d] += sum over rows t of x[t]^T x[t], lower triangle only; x [n, d] row-major. */
mg_status mg_gram_add(double *s, const float *x, uint64_t n, uint64_t d, mg_pool *pool, mg_error *err) MG_MUST_CHECK;
/* Copy the lower triangle of s [d, d] to the upper. */
void mg_gram_mirror(double *s, uint64_t d);
/* Bytes of s and of what factoring it takes. */
uint64_t mg_cholesky_bytes(uint64_t d);
/* s = L L^T in place, lower triangle. *ok false when a pivot is not positive: s is then no factor. */
mg_status mg_cholesky(double *s, uint64_t d, mg_pool *pool, bool *ok, mg_error *err) MG_MUST_CHECK;
/* Rows of b [n, d] become the solutions x of x S = b with S = L L^T. */
mg_status mg_cholesky_solve(const double *l, uint64_t d, double *b, uint64_t n, mg_pool *pool,
                            mg_error *err) MG_MUST_CHECK;

#endif
