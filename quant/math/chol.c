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
    double *s, *panel; /* panel [PANEL, d]: the factored columns, transposed */
    uint64_t d, k, width;
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

/* Row i below the block: its part of the factor. */
static void solve_row(const factor *f, uint64_t i) {
    double *r = f->s + i * f->d;
    for (uint64_t j = f->k; j < f->k + f->width; j++) {
        const double *row = f->s + j * f->d;
        double v = r[j];
        for (uint64_t p = f->k; p < j; p++) v -= r[p] * row[p];
        r[j] = v / row[j];
        f->panel[(j - f->k) * f->d + i] = r[j];
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
    for (uint64_t i = first; i < end; i++) solve_row(ctx, i);
    return MG_OK;
}

static mg_status update_rows(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    const factor *f = ctx;
    (void)worker;
    (void)err;
    uint64_t first, end, start = f->k + f->width;
    tile_of(f, ticket, &first, &end);
    for (uint64_t j = start; j < end; j += PANEL) /* a square of the panel stays in the cache for all rows */
        for (uint64_t i = first > j ? first : j; i < end; i++) {
            double *r = f->s + i * f->d;
            const uint64_t n = i + 1 - j < PANEL ? i + 1 - j : PANEL;
            mg_math_get()->rank_update(r + j, r + f->k, f->panel + j, f->d, f->width, n);
        }
    return MG_OK;
}

uint64_t mg_cholesky_bytes(uint64_t d) {
    return (d + PANEL) * d * sizeof(double);
}

mg_status mg_cholesky(double *s, uint64_t d, mg_pool *pool, bool *ok, mg_error *err) {
    factor f = {.s = s, .panel = malloc((size_t)(PANEL * d) * sizeof(double)), .d = d};
    if (!f.panel) return mg_fail_nomem(err, PANEL * d * sizeof(double));
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
