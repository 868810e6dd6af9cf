/* weight_nearest.c - see weight_nearest.h. */
#include "verify/weight_nearest.h"

#include "quant/read_f32.h"

#include <math.h>
#include <stdlib.h>

#define TILE_BYTES (1u << 20)
#define CHUNK      32u /* rows read together: single ones of packed codes cost as much as a few */
#define PASSES     2u  /* over all experts' weights that sampling may take */

/* Squared distances of one candidate's weight, over the rows that were read. */
typedef struct distances {
    double own, *other; /* other: [n] of the reference's experts, INFINITY for those that are no alternative */
    double norm;        /* sum of squares of the only other expert, where one was asked for */
} distances;

typedef struct search {
    const mg_weight_work *w;
    const mg_weight_pair *p;
    const mg_bound **bounds; /* [n] of the reference's experts, NULL: its own, or another shape */
    uint32_t n;
    uint64_t rows, cols, chunk;
    float *buf; /* [3][chunk][cols]: own reference, candidate, another reference */
    distances at;
} search;

/* How much nearer another expert must be, as a share of the squared distance to its own.
 *
 * Let the candidate be y = x + r with x its own reference and r the rounding, and x + d the other expert. Then
 * own - other = 2<d, r> - |d|^2, which for independent r is at most z^2 |r|^2 / n in z standard deviations. Where the
 * reference is rounded too, only codes that differ between two experts matter: with steps of s and |d| = u s a share u
 * of n codes, each of which moves own - other by some 0.6 s^2 either way and by -u s^2 in the mean. The largest of
 * 0.6 z sqrt(n u) - n u^2 is 3.8 n^(1/3) for z = 8, beside |r|^2 = n s^2 / 12 twice: 23 n^(-2/3). That is the larger of
 * the two for all n. Experts of 512 x 256 weights are told apart when they differ by a tenth of the rounding error. */
static double margin(uint64_t n) {
    const double c = cbrt((double)n);
    return 24 / (c * c);
}

static double distance(const float *x, const float *y, uint64_t n) {
    double sum = 0;
    for (uint64_t i = 0; i < n; i++) {
        const double d = (double)y[i] - (double)x[i];
        sum += d * d;
    }
    return sum;
}

/* Distances over `chunk` rows out of each `step`; only: this expert alone, and its norm, or UINT32_MAX for all. */
static mg_status measure(search *s, uint64_t step, uint32_t only, mg_error *err) {
    s->at.own = s->at.norm = 0;
    for (uint32_t k = 0; k < s->n; k++)
        s->at.other[k] = s->bounds[k] && (only == UINT32_MAX || only == k) ? 0 : INFINITY;
    for (uint64_t r = 0; r < s->rows; r += step) {
        const uint64_t n = s->rows - r < s->chunk ? s->rows - r : s->chunk, len = n * s->cols;
        const float *y = s->buf + len;
        float *other = s->buf + 2 * len;
        MG_TRY(mg_weight_pair_read(s->w, s->p, r, n, s->cols, s->buf, err));
        s->at.own += distance(s->buf, y, len);
        for (uint32_t k = 0; k < s->n; k++) {
            if (isinf(s->at.other[k])) continue;
            MG_TRY(mg_read_f32(s->w->ref, s->bounds[k], r, n, other, err));
            s->at.other[k] += distance(other, y, len);
            for (uint64_t i = 0; only == k && i < len; i++) s->at.norm += (double)other[i] * (double)other[i];
        }
    }
    return MG_OK;
}

static mg_status look(search *s, mg_error *err) {
    const uint64_t step = s->n - 1 > PASSES ? s->chunk * (s->n - 1) / PASSES : s->chunk;
    uint32_t best = 0;
    MG_TRY(measure(s, step, UINT32_MAX, err));
    for (uint32_t k = 1; k < s->n; k++)
        if (s->at.other[k] < s->at.other[best]) best = k;
    if (!(s->at.other[best] < s->at.own)) return MG_OK;
    MG_TRY(measure(s, s->chunk, best, err));
    mg_weight_stat *stat = s->p->stat;
    stat->exchanged = s->at.own - s->at.other[best] > margin(stat->n) * s->at.own;
    stat->nearest = best;
    stat->nearest_error = s->at.norm > 0 ? sqrt(s->at.other[best] / s->at.norm) : (double)INFINITY;
    return MG_OK;
}

/* Equal weights, and values that only the own reference rounds to, leave nothing to look for. */
static bool is_open(const mg_weight_pair *p) {
    const mg_weight_stat *s = p->stat;
    return mg_role_scope(p->role) == MG_SCOPE_EXPERT && !s->missing && s->error > 0 && isfinite(s->error) &&
           !(s->exact.units && !s->exact.odd);
}

static mg_status one_weight(void *ctx, uint64_t i, unsigned worker, mg_error *err) {
    const mg_weight_work *w = ctx;
    const mg_weight_pair *p = &w->pairs[i];
    (void)worker;
    if (!is_open(p)) return MG_OK;
    search s = {.w = w, .p = p, .n = mg_scope_count(MG_SCOPE_EXPERT, &w->ref->hp), .rows = mg_bound_rows(p->a)};
    if (s.n < 2) return MG_OK;
    s.cols = p->a->shape[p->a->rank - 1];
    const uint64_t fit =
        TILE_BYTES / sizeof(float) / s.cols; /* cols > 0: the error is; compared in tiles before this */
    s.chunk = fit > CHUNK ? CHUNK : fit ? fit : 1;
    if (s.chunk > s.rows) s.chunk = s.rows;
    s.bounds = calloc(s.n, sizeof *s.bounds);
    s.at.other = malloc(s.n * sizeof *s.at.other);
    s.buf = malloc(3 * s.chunk * s.cols * sizeof *s.buf);
    for (uint32_t k = 0; s.bounds && k < s.n; k++) {
        const mg_bound *b = k == p->expert ? NULL : mg_model_find(w->ref, p->role, p->layer, k);
        if (b && mg_bound_same_shape(b, p->a)) s.bounds[k] = b;
    }
    mg_status st =
        s.bounds && s.at.other && s.buf ? look(&s, err) : mg_fail_nomem(err, 3 * s.chunk * s.cols * sizeof *s.buf);
    free(s.bounds);
    free(s.at.other);
    free(s.buf);
    if (st != MG_OK) mg_error_at(err, NULL, p->stat->name);
    return st;
}

mg_status mg_weight_nearest_find(mg_weight_work *w, mg_weight_diff *d, mg_pool *pool, mg_error *err) {
    return mg_pool_run(pool, d->n, one_weight, w, err);
}
