/* chol.c - loops arranged so that the inner one runs over contiguous elements and every element sees its operations in
 * one order: updates by rank one in ascending k. Threads take rows (or groups of right-hand sides). */
#include "quant/math/chol.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quant/math/mathops.h"

#define PANEL 64u /* columns factored between two updates of the rest; right-hand sides solved side by side */

typedef struct gram {
    double *s;
    const float *x;
    uint64_t n, d;
} gram;

static mg_status gram_rows(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    const gram *g = ctx;
    (void)worker;
    (void)err;
    uint64_t end = (ticket + 1) * PANEL < g->d ? (ticket + 1) * PANEL : g->d;
    for (uint64_t t = 0; t < g->n; t++) {
        const float *x = g->x + t * g->d;
        for (uint64_t i = ticket * PANEL; i < end; i++) {
            double a = (double)x[i], *row = g->s + i * g->d;
            for (uint64_t j = 0; j <= i; j++) row[j] += a * (double)x[j];
        }
    }
    return MG_OK;
}

mg_status mg_gram_add(double *s, const float *x, uint64_t n, uint64_t d, mg_pool *pool, mg_error *err) {
    gram g = {s, x, n, d};
    return mg_pool_run(pool, (d + PANEL - 1) / PANEL, gram_rows, &g, err);
}

void mg_gram_mirror(double *s, uint64_t d) {
    for (uint64_t i = 0; i < d; i++)
        for (uint64_t j = 0; j < i; j++) s[j * d + i] = s[i * d + j];
}

/* ---- factor ---- */

typedef struct factor {
    double *s, *panel; /* panel [PANEL, ld]: the factored columns, transposed */
    uint64_t d, ld, k, width;
} factor;

/* Columns k .. k + width of the diagonal block. */
static bool factor_block(factor *f) {
    for (uint64_t j = f->k; j < f->k + f->width; j++) {
        double *row = f->s + j * f->d, pivot = row[j];
        for (uint64_t p = f->k; p < j; p++) pivot -= row[p] * row[p];
        if (!(pivot > 0) || !isfinite(pivot)) return false;
        row[j] = sqrt(pivot);
        for (uint64_t i = j + 1; i < f->k + f->width; i++) {
            double *r = f->s + i * f->d, v = r[j];
            for (uint64_t p = f->k; p < j; p++) v -= r[p] * row[p];
            r[j] = v / row[j];
        }
    }
    return true;
}

/* Rows first .. end below the block: their part of the factor, a column of all of them at a time. */
static void solve_tile(const factor *f, uint64_t first, uint64_t end) {
    const mg_math *math = mg_math_get();
    for (uint64_t j = f->k; j < f->k + f->width; j++) {
        const double *row = f->s + j * f->d;
        double *column = f->panel + (j - f->k) * f->ld;
        for (uint64_t i = first; i < end; i++) column[i] = f->s[i * f->d + j];
        math->rank_update(column + first, f->ld, row + f->k, f->d, 1, f->panel + first, f->ld, j - f->k, end - first);
        for (uint64_t i = first; i < end; i++) f->s[i * f->d + j] = column[i] = column[i] / row[j];
    }
}

static void tile_of(const factor *f, uint64_t ticket, uint64_t *first, uint64_t *end) {
    *first = f->k + f->width + ticket * PANEL;
    *end = *first + PANEL < f->d ? *first + PANEL : f->d;
}

static mg_status solve_rows(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    (void)worker;
    (void)err;
    uint64_t first, end;
    tile_of(ctx, ticket, &first, &end);
    solve_tile(ctx, first, end);
    return MG_OK;
}

static mg_status update_rows(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    const factor *f = ctx;
    (void)worker;
    (void)err;
    uint64_t first, end, start = f->k + f->width;
    tile_of(f, ticket, &first, &end);
    const mg_math *math = mg_math_get();
    for (uint64_t j = start; j < first; j += PANEL) /* a square of the panel stays in the cache for all rows */
        math->rank_update(f->s + first * f->d + j, f->d, f->s + first * f->d + f->k, f->d, end - first, f->panel + j,
                          f->ld, f->width, PANEL);
    for (uint64_t i = first; i < end; i++) { /* the last one only up to the diagonal */
        double *r = f->s + i * f->d;
        math->rank_update(r + first, f->d, r + f->k, f->d, 1, f->panel + first, f->ld, f->width, i + 1 - first);
    }
    return MG_OK;
}

/* From one row of the panel to the next: rows a power of two apart would meet in a few sets of the first-level cache.
 */
static uint64_t line_of(uint64_t d) {
    return d + 8;
}

uint64_t mg_cholesky_bytes(uint64_t d) {
    return (d * d + PANEL * line_of(d)) * sizeof(double);
}

mg_status mg_cholesky(double *s, uint64_t d, mg_pool *pool, bool *ok, mg_error *err) {
    factor f = {.s = s, .d = d, .ld = line_of(d)};
    f.panel = malloc((size_t)(PANEL * f.ld) * sizeof(double));
    if (!f.panel) return mg_fail_nomem(err, PANEL * f.ld * sizeof(double));
    mg_status st = MG_OK;
    *ok = true;
    for (; st == MG_OK && *ok && f.k < d; f.k += f.width) {
        f.width = d - f.k < PANEL ? d - f.k : PANEL;
        *ok = factor_block(&f);
        uint64_t tiles = (d - f.k - f.width + PANEL - 1) / PANEL;
        if (*ok) st = mg_pool_run(pool, tiles, solve_rows, &f, err);
        if (*ok && st == MG_OK) st = mg_pool_run(pool, tiles, update_rows, &f, err);
    }
    free(f.panel);
    return st;
}

/* ---- solve ---- */

typedef struct solve {
    const double *l;
    double *b;
    uint64_t d, n;
} solve;

/* Up to PANEL right-hand sides stand side by side in x [d, PANEL]. */
static void substitute(const double *l, uint64_t d, double *x) {
    for (uint64_t j = 0; j < d; j++) {
        double *xj = x + j * PANEL;
        for (uint64_t p = 0; p < j; p++)
            for (unsigned c = 0; c < PANEL; c++) xj[c] -= l[j * d + p] * x[p * PANEL + c];
        for (unsigned c = 0; c < PANEL; c++) xj[c] /= l[j * d + j];
    }
    for (uint64_t j = d; j-- > 0;) {
        double *xj = x + j * PANEL;
        for (unsigned c = 0; c < PANEL; c++) xj[c] /= l[j * d + j];
        for (uint64_t p = 0; p < j; p++)
            for (unsigned c = 0; c < PANEL; c++) x[p * PANEL + c] -= l[j * d + p] * xj[c];
    }
}

static mg_status solve_group(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    const solve *s = ctx;
    (void)worker;
    uint64_t first = ticket * PANEL, k = s->n - first < PANEL ? s->n - first : PANEL, d = s->d;
    double *x = calloc((size_t)(d * PANEL), sizeof *x);
    if (!x) return mg_fail_nomem(err, d * PANEL * sizeof *x);
    for (uint64_t c = 0; c < k; c++)
        for (uint64_t j = 0; j < d; j++) x[j * PANEL + c] = s->b[(first + c) * d + j];
    substitute(s->l, d, x);
    for (uint64_t c = 0; c < k; c++)
        for (uint64_t j = 0; j < d; j++) s->b[(first + c) * d + j] = x[j * PANEL + c];
    free(x);
    return MG_OK;
}

mg_status mg_cholesky_solve(const double *l, uint64_t d, double *b, uint64_t n, mg_pool *pool, mg_error *err) {
    solve s = {l, b, d, n};
    return mg_pool_run(pool, (n + PANEL - 1) / PANEL, solve_group, &s, err);
}
