/* test_chol.c - sums of outer products, Cholesky factors and solutions, against the definitions and across threads. */
#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quant/math/chol.h"

static uint64_t state;
static double next(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (double)(state >> 11) * 0x1p-53 - 0.5;
}

/* Gram matrix of n random rows plus `ridge` on the diagonal. */
static double *make(uint64_t d, uint64_t n, double ridge, mg_pool *pool, float **rows) {
    mg_error err = {0};
    state = 7;
    float *x = malloc(n * d * sizeof *x);
    double *s = calloc(d * d, sizeof *s);
    cr_assert(x && s);
    for (uint64_t i = 0; i < n * d; i++) x[i] = (float)next();
    cr_assert(mg_gram_add(s, x, n, d, pool, &err) == MG_OK);
    for (uint64_t i = 0; i < d; i++) s[i * d + i] += ridge;
    *rows = x;
    return s;
}

Test(chol, gram_is_the_sum_of_outer_products) {
    enum { D = 70, N = 33 };
    float *x;
    double *s = make(D, N, 0, NULL, &x);
    mg_gram_mirror(s, D);
    for (int i = 0; i < D; i++)
        for (int j = 0; j < D; j++) {
            double want = 0;
            for (int t = 0; t < N; t++) want += (double)x[t * D + i] * (double)x[t * D + j];
            cr_expect(s[i * D + j] == want, "%d %d", i, j);
        }
    free(s);
    free(x);
}

Test(chol, solves_and_is_the_same_for_every_number_of_threads) {
    enum { D = 150, N = 200, B = 67 };
    double *first = NULL;
    for (unsigned threads = 1; threads <= 3; threads++) {
        mg_error err = {0};
        mg_pool *pool;
        cr_assert(mg_pool_new(&pool, threads, &err) == MG_OK);
        float *x;
        double *s = make(D, N, 0.1, pool, &x), *l = malloc(D * D * sizeof *l), *b = malloc(B * D * sizeof *b), *y;
        cr_assert(l && b && (y = malloc(B * D * sizeof *y)));
        memcpy(l, s, D * D * sizeof *l);
        bool ok;
        cr_assert(mg_cholesky(l, D, pool, &ok, &err) == MG_OK && ok);
        for (int i = 0; i < B * D; i++) b[i] = y[i] = next();
        cr_assert(mg_cholesky_solve(l, D, y, B, pool, &err) == MG_OK);
        mg_gram_mirror(s, D);
        for (int r = 0; r < B; r++)
            for (int j = 0; j < D; j++) {
                double v = 0;
                for (int k = 0; k < D; k++) v += y[r * D + k] * s[k * D + j];
                /* condition number below 1e4, 150 terms: far above 150 * 1e4 * 2^-53 */
                cr_expect(fabs(v - b[r * D + j]) < 1e-9, "row %d column %d: %g, not %g", r, j, v, b[r * D + j]);
            }
        if (first) cr_expect(memcmp(first, y, B * D * sizeof *y) == 0, "%u threads give other bits", threads);
        if (!first) {
            first = y;
            y = NULL;
        }
        free(s), free(l), free(b), free(y), free(x);
        mg_pool_free(pool);
    }
    free(first);
}

Test(chol, refuses_what_is_not_positive_definite) {
    enum { D = 65 };
    mg_error err = {0};
    float *x;
    bool ok;
    double *s = make(D, 3, 0, NULL, &x); /* rank 3 */
    s[5 * D + 5] = -1;
    cr_assert(mg_cholesky(s, D, NULL, &ok, &err) == MG_OK);
    cr_expect(!ok);
    s[0] = NAN;
    cr_assert(mg_cholesky(s, D, NULL, &ok, &err) == MG_OK);
    cr_expect(!ok);
    free(s);
    free(x);
}
