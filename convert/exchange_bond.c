/* exchange_bond.c - see exchange_bond.h. Everything is summed in double in an order that depends on the sizes alone. */
#include "convert/exchange_bond.h"

#include "quant/math/chol.h"

#include <math.h>
#include <string.h>

/* Ridges tried, times the mean of the Gram matrix's diagonal, the strongest first. */
static const double ridges[] = {10, 1, 0.1};

#define GAIN 0.01 /* of the held-out error that maps must take away: less is chance */

/* Row o of the right-hand side: sum over tokens of wanted[o] * scaled. */
typedef struct product {
    const mg_exchange_bond *b;
    uint64_t n;
} product;

static mg_status side_row(void *ctx, uint64_t row, unsigned worker, mg_error *err) {
    (void)worker;
    (void)err;
    const product *p = ctx;
    const mg_exchange_bond *b = p->b;
    const uint64_t d = 2 * b->hidden;
    double *out = b->side + row * d;
    memset(out, 0, (size_t)d * sizeof *out);
    for (uint64_t t = 0; t < p->n; t++) {
        const double a = (double)b->wanted[t * b->hidden + row];
        const float *f = b->scaled + t * d;
        for (uint64_t j = 0; j < d; j++) out[j] += a * (double)f[j];
    }
    return MG_OK;
}

/* What the maps give one token. */
static mg_status give(void *ctx, uint64_t t, unsigned worker, mg_error *err) {
    (void)worker;
    (void)err;
    const mg_exchange_bond *b = ctx;
    const uint64_t d = 2 * b->hidden;
    for (uint64_t o = 0; o < b->hidden; o++) {
        double s[4] = {0};
        for (uint64_t j = 0; j < d; j += 4)
            for (uint64_t k = 0; k < 4 && j + k < d; k++) s[k] += b->x[o * d + j + k] * (double)b->f[t * d + j + k];
        b->given[t * b->hidden + o] = (float)((s[0] + s[1]) + (s[2] + s[3]));
    }
    return MG_OK;
}

/* Gram matrix and right-hand side of the tokens to fit on; how many there are. */
static mg_status normal_equations(mg_exchange_bond *b, uint64_t *n, mg_error *err) {
    const uint64_t h = b->hidden, d = 2 * h;
    *n = 0;
    for (uint64_t t = 0; t < b->n; t++) {
        if (b->use[t] != MG_EXCHANGE_TRAIN) continue;
        const float w = (float)sqrt(b->c[t]);
        for (uint64_t j = 0; j < d; j++) b->scaled[*n * d + j] = w * b->f[t * d + j];
        for (uint64_t j = 0; j < h; j++) b->wanted[*n * h + j] = w * b->r[t * h + j];
        ++*n;
    }
    memset(b->gram, 0, (size_t)(d * d) * sizeof *b->gram);
    if (!*n) return MG_OK;
    MG_TRY(mg_gram_add(b->gram, b->scaled, *n, d, b->pool, err));
    product p = {b, *n};
    return mg_pool_run(b->pool, h, side_row, &p, err);
}

static mg_exchange_error held_error(const mg_exchange_bond *b) {
    mg_exchange_error e = {0, 0};
    for (uint64_t t = 0; t < b->n; t++) {
        double without = 0, with = 0;
        for (uint64_t j = 0; b->use[t] == MG_EXCHANGE_HELD && j < b->hidden; j++) {
            const double r = (double)b->r[t * b->hidden + j], left = r - (double)b->given[t * b->hidden + j];
            without += r * r;
            with += left * left;
        }
        e.without += b->c[t] * without;
        e.with += b->c[t] * with;
    }
    return e;
}

static mg_status solve_one(mg_exchange_bond *b, double ridge, bool *ok, mg_error *err) {
    const uint64_t h = b->hidden, d = 2 * h;
    memcpy(b->factor, b->gram, (size_t)(d * d) * sizeof *b->gram);
    for (uint64_t i = 0; i < d; i++) b->factor[i * d + i] += ridge;
    MG_TRY(mg_cholesky(b->factor, d, b->pool, ok, err));
    if (!*ok) return MG_OK;
    memcpy(b->x, b->side, (size_t)(h * d) * sizeof *b->x);
    MG_TRY(mg_cholesky_solve(b->factor, d, b->x, h, b->pool, err));
    return mg_pool_run(b->pool, b->n, give, b, err);
}

mg_status mg_exchange_solve(mg_exchange_bond *b, mg_exchange_error *e, bool *ok, mg_error *err) {
    const uint64_t d = 2 * b->hidden;
    uint64_t n;
    double trace = 0;
    size_t best = sizeof ridges / sizeof ridges[0];
    *ok = false;
    *e = (mg_exchange_error){0, 0};
    MG_TRY(normal_equations(b, &n, err));
    for (uint64_t i = 0; i < d; i++) trace += b->gram[i * d + i];
    if (!(trace > 0)) return MG_OK;
    for (size_t i = 0; i < sizeof ridges / sizeof ridges[0]; i++) {
        bool solved;
        MG_TRY(solve_one(b, ridges[i] * trace / (double)d, &solved, err));
        if (!solved) continue;
        const mg_exchange_error here = held_error(b);
        if (!*ok && !(here.with <= (1 - GAIN) * here.without)) continue;
        if (*ok && !(here.with < e->with)) continue;
        *e = here;
        *ok = true;
        best = i;
    }
    if (!*ok || best + 1 == sizeof ridges / sizeof ridges[0]) return MG_OK;
    bool again;
    return solve_one(b, ridges[best] * trace / (double)d, &again, err);
}
