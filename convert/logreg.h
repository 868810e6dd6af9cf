/* logreg.h - ridge-regularised multinomial logistic regression without intercept, solved by L-BFGS in double precision.
 * Deterministic: rows are summed in blocks of fixed size that are added in order, whatever the thread count. */
#ifndef MG_CONVERT_LOGREG_H
#define MG_CONVERT_LOGREG_H

#include "formats/base/pool.h"

typedef struct mg_logreg {
    const float *x;        /* [n, dim] inputs */
    const uint32_t *label; /* [n] class of each row */
    const bool *negative;  /* [n] true: "any class but label"; NULL when there are none */
    const double *weight;  /* [n] sample weights, summing to 1 over the positive rows */
    const double *offset;  /* [n] added to the score of class 0; NULL: nothing */
    uint64_t n, dim;
    uint32_t classes;
    double ridge; /* of 0.5 * ridge * |W|^2 */
    unsigned max_iterations;
} mg_logreg;

/* Minimise sum_i weight_i * loss_i + 0.5 ridge |W|^2 from W = 0, with p = softmax(W x):
 * loss = -log p_label, or -log(1 - p_label) for a negative row. w: [classes, dim] result. iterations, loss: may be
 * NULL. MG_ERR_FORMAT when an input is not finite. */
mg_status mg_logreg_solve(const mg_logreg *problem, mg_pool *pool, double *w, unsigned *iterations, double *loss,
                          mg_error *err) MG_MUST_CHECK;

#endif
