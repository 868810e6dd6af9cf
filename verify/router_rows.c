/* router_rows.c - how the rows of a router lie to each other: cosines, and the condition of the matrix. */
#include "verify/router_stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SWEEPS   60
#define RESOLVED 1e-14 /* of the largest eigenvalue: below it rounding of the products decides */

/* One Jacobi rotation that makes a[p][q] zero (Golub and Van Loan, Matrix Computations, 8.5). */
static void rotate(double *a, uint32_t n, uint32_t p, uint32_t q) {
    const double apq = a[p * n + q];
    if (apq == 0) return;
    const double theta = (a[q * n + q] - a[p * n + p]) / (2 * apq);
    const double t = (theta < 0 ? -1 : 1) / (fabs(theta) + sqrt(theta * theta + 1)), c = 1 / sqrt(t * t + 1), s = t * c;
    for (uint32_t i = 0; i < n; i++) {
        const double x = a[i * n + p], y = a[i * n + q];
        a[i * n + p] = c * x - s * y;
        a[i * n + q] = s * x + c * y;
    }
    for (uint32_t i = 0; i < n; i++) {
        const double x = a[p * n + i], y = a[q * n + i];
        a[p * n + i] = c * x - s * y;
        a[q * n + i] = s * x + c * y;
    }
}

/* Eigenvalues of the symmetric a [n][n] onto its diagonal. */
static void diagonalise(double *a, uint32_t n) {
    for (int sweep = 0; sweep < SWEEPS; sweep++) {
        double off = 0, on = 0;
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t j = 0; j < n; j++) *(i == j ? &on : &off) += a[i * n + j] * a[i * n + j];
        if (!(off > 1e-30 * on)) return;
        for (uint32_t p = 0; p < n; p++)
            for (uint32_t q = p + 1; q < n; q++) rotate(a, n, p, q);
    }
}

/* Products of rows from which their mean was taken. */
static void centre(double *g, uint32_t n) {
    double all = 0;
    double *mean = g + (size_t)n * n;
    for (uint32_t i = 0; i < n; i++) {
        mean[i] = 0;
        for (uint32_t j = 0; j < n; j++) mean[i] += g[i * n + j] / n;
        all += mean[i] / n;
    }
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) g[i * n + j] += all - mean[i] - mean[j];
}

static double condition_of(double *products, uint32_t n) {
    double high = 0, low = INFINITY, lowest = INFINITY; /* low: the second smallest, for centred rows are dependent */
    centre(products, n);
    diagonalise(products, n);
    for (uint32_t i = 0; i < n; i++) {
        const double x = products[i * n + i];
        high = fmax(high, x);
        low = fmin(low, fmax(lowest, x));
        lowest = fmin(lowest, x);
    }
    return low > RESOLVED * high ? sqrt(high / low) : INFINITY;
}

mg_status mg_router_rows(const float *rows, uint32_t n, uint64_t cols, double *cosine, double *condition,
                         mg_error *err) {
    double *g = calloc((size_t)n * n + n, sizeof *g); /* and their means */
    if (!g) return mg_fail_nomem(err, (size_t)n * n * sizeof *g);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j <= i; j++) {
            double sum = 0;
            for (uint64_t k = 0; k < cols; k++) sum += (double)rows[i * cols + k] * (double)rows[j * cols + k];
            g[i * n + j] = g[j * n + i] = sum;
        }
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) {
            const double norms = sqrt(g[i * n + i]) * sqrt(g[j * n + j]);
            cosine[i * n + j] = norms > 0 ? g[i * n + j] / norms : 0;
        }
    *condition = condition_of(g, n);
    free(g);
    return MG_OK;
}
