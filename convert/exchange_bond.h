/* exchange_bond.h - the two maps of one bond as a ridge regression. Private to exchange*.c. */
#ifndef MG_CONVERT_EXCHANGE_BOND_H
#define MG_CONVERT_EXCHANGE_BOND_H

#include "formats/base/pool.h"

typedef enum mg_exchange_use { MG_EXCHANGE_SKIP, MG_EXCHANGE_TRAIN, MG_EXCHANGE_HELD } mg_exchange_use;

/* Tokens of a bond and room to work in; f and r belong to the caller. */
typedef struct mg_exchange_bond {
    uint64_t n, hidden;
    const float *f;     /* [n, 2 hidden] what the maps read, scaled as their product is added */
    const float *r;     /* [n, hidden] what they should give */
    const double *c;    /* [n] weights */
    const uint8_t *use; /* [n] mg_exchange_use */
    double *x;          /* [hidden, 2 hidden] result: both maps side by side */
    float *given;       /* [n, hidden] result: what they give */
    double *gram;       /* [2 hidden, 2 hidden] */
    double *factor;     /* the same */
    double *side;       /* [hidden, 2 hidden] */
    float *scaled;      /* [n, 2 hidden] */
    float *wanted;      /* [n, hidden] */
    mg_pool *pool;
} mg_exchange_bond;

/* Sum of c |r|^2 and of c |r - given|^2 over the held tokens. */
typedef struct mg_exchange_error {
    double without, with;
} mg_exchange_error;

/* Solve for several strengths of the ridge and keep the one that is best on the held tokens. *ok false, and given
 * unspecified: none is better than no maps. */
mg_status mg_exchange_solve(mg_exchange_bond *b, mg_exchange_error *e, bool *ok, mg_error *err) MG_MUST_CHECK;

#endif
