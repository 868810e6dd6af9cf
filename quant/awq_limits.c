/* awq_limits.c - mg_awq_limits: for each row and group of a weight the range that costs least on its inputs.
 *
 * Groups are gone through one after the other. With E the errors of a row so far and b = E G, a range whose errors
 * differ from those by d changes the row's loss by 2 d . b + d G_gg d^T: errors of one group can make up for those of
 * another, since inputs are correlated. A range is a choice among so many roundings; the best is taken if it lowers the
 * loss, so the loss never rises, and b follows by d G, of which most rows of late sweeps need none.
 *
 * Sixteen ranges at a time, in lanes side by side: with their d as a panel [n][16] the product of rule G has the
 * columns of G_gg as its rows. G is symmetric, so d G_gg d^T = 2 d . (d H) with H its upper triangle, the diagonal
 * halved. */
#include <stdlib.h>
#include <string.h>

#include "quant/awq.h"
#include "quant/math/gemm.h"
#include "quant/read_f32.h"

enum { TRIES = MG_GROUP_TRIES, ROWS = 48, STRIP = 8 /* panels of G at a time */ };

typedef struct limits_run {
    const mg_awq_use *use;
    const float *col;
    const mg_group_scheme *scheme;
    const mg_math *math;
    uint64_t rows, cols, size, groups, panels;
    int sweeps;
    float *back;   /* [cols] 1 / col: from an error of what is rounded to one of the weight */
    float *half;   /* H of each group, slivers of mr columns: the s-th [k < (s + 1) mr][mr] */
    uint64_t each; /* floats of one H */
    float *limits;
    double *plain, *loss; /* [tickets] */
} limits_run;

/* Scratch of one ticket. */
typedef struct bench {
    uint64_t rows;
    float *w;                    /* [rows][cols] scaled */
    float *now;                  /* [rows][cols] errors of the weight so far */
    float *b;                    /* [rows][panels][16]: now G */
    float *range;                /* [rows][groups][2] of the values */
    float *factor;               /* [rows][groups][2]: of the ends of the range */
    float *d, *y;                /* [size][TRIES]: of the ranges under trial, and times H */
    float *moved;                /* slivers [n][mr]: what changed in the group under work, rows that did not left out */
    float *tile;                 /* [mr][STRIP][16] */
    uint64_t row[ROWS], n_moved; /* whose they are */
} bench;

static uint64_t width_of(const limits_run *r, uint64_t at) {
    return r->cols - at < r->size ? r->cols - at : r->size;
}

/* ---- H ---- */

static uint64_t half_at(const limits_run *r, uint64_t sliver) {
    return (uint64_t)r->math->mr * r->math->mr * (sliver * (sliver + 1) / 2);
}

static mg_status half_ticket(void *ctx, uint64_t group, unsigned worker, mg_error *err) {
    (void)worker;
    (void)err;
    const limits_run *r = ctx;
    const uint64_t at = group * r->size, n = width_of(r, at), mr = r->math->mr;
    for (uint64_t s = 0; s * mr < n; s++) {
        float *to = r->half + group * r->each + half_at(r, s);
        for (uint64_t k = 0; k < (s + 1) * mr; k++)
            for (uint64_t c = 0, j = s * mr; c < mr; c++, j++, to++)
                *to = j >= n || k > j ? 0.0f : mg_gram_at(r->use->gram, at + k, at + j) * (k == j ? 0.5f : 1.0f);
    }
    return MG_OK;
}

/* y = d H of the group. */
static void times_half(const limits_run *r, const bench *b, uint64_t group, uint64_t n) {
    const uint64_t mr = r->math->mr;
    for (uint64_t s = 0; s * mr < n; s++) {
        const uint64_t left = n - s * mr, k = left < mr ? n : (s + 1) * mr;
        r->math->gemm((uint32_t)(left < mr ? left : mr), k, r->half + group * r->each + half_at(r, s), b->d, 0, 1,
                      b->y + s * mr * TRIES, TRIES, TRIES, true);
    }
}

/* ---- one group of all rows ---- */

/* What is tried for the ends of a range: first both ends drawn in together; else each end for itself about the best so
 * far, ever closer. Every range is a new roll of the dice as well, so none is tried twice: points fill the square
 * evenly (multiples of the inverse powers of the plastic number, 0.7549 and 0.5698 of 2^32). */
static void factors(int sweep, int sweeps, const float at[2], float f[TRIES][2]) {
    static const float shrink[] = {.95f, .9f, .84f, .77f, .68f};
    enum { DRAWN = sizeof shrink / sizeof *shrink };
    const float about = .2f - .15f * (float)sweep / (float)(sweeps - 1);
    for (int t = 0; t < TRIES; t++) {
        const uint32_t k = (uint32_t)(sweep * TRIES + t);
        for (int i = 0; i < 2; i++) {
            const float point = (float)(k * (i ? 2447445414u : 3242174889u) >> 8) * 0x1p-24f;
            const float move = sweep || t >= DRAWN ? 1.0f + about * (2.0f * point - 1.0f) : shrink[t];
            f[t][i] = at[i] * move < 1.0f ? at[i] * move : 1.0f;
        }
    }
}

static mg_status set_tries(const limits_run *r, const float range[2], float f[TRIES][2], mg_group_tries *s,
                           mg_error *err) {
    for (int t = 0; t < TRIES; t++) {
        mg_group_params p;
        MG_TRY(mg_group_choose(r->scheme, range[0] * f[t][0], range[1] * f[t][1], &p, err));
        const mg_group_step step = mg_group_step_of(r->scheme, &p);
        s->scale[t] = step.scale;
        s->bias[t] = step.bias;
        s->zero[t] = step.zero;
        s->top = step.top;
    }
    return MG_OK;
}

/* The change under try t becomes row i's. */
static void take(const limits_run *r, bench *b, uint64_t i, uint64_t at, uint64_t n, int t) {
    const uint64_t mr = r->math->mr;
    float *now = b->now + i * r->cols + at, *to = b->moved + b->n_moved / mr * mr * n + b->n_moved % mr;
    for (uint64_t k = 0; k < n; k++) {
        const float d = b->d[k * TRIES + (uint64_t)t];
        now[k] += d;
        to[k * mr] = d;
    }
    b->row[b->n_moved++] = i;
}

/* *gain: what the loss changes by. */
static mg_status one_row(const limits_run *r, bench *b, uint64_t i, uint64_t group, int sweep, double *gain,
                         mg_error *err) {
    const mg_group_kernels *kernels = mg_group_kernels_get();
    const uint64_t at = group * r->size, n = width_of(r, at), ld = r->panels * MG_GEMM_NR;
    float f[TRIES][2], half[TRIES], *factor = b->factor + (i * r->groups + group) * 2;
    mg_group_tries s;
    factors(sweep, r->sweeps, factor, f);
    MG_TRY(set_tries(r, b->range + (i * r->groups + group) * 2, f, &s, err));
    kernels->tries(&s, b->w + i * r->cols + at, r->back + at, b->now + i * r->cols + at, n, b->d);
    times_half(r, b, group, n);
    kernels->gains(b->d, b->y, b->b + i * ld + at, n, half);
    int best = -1;
    for (int t = 0; t < TRIES; t++)
        if (half[t] < (best < 0 ? 0.0f : half[best])) best = t;
    if (best < 0) return MG_OK;
    memcpy(factor, f[best], sizeof f[best]);
    take(r, b, i, at, n, best);
    *gain += 2 * (double)half[best];
    return MG_OK;
}

/* b of the rows that changed, from panel `first` on. */
static void spread(const limits_run *r, bench *b, uint64_t at, uint64_t n, uint64_t first) {
    const uint64_t mr = r->math->mr, ld = r->panels * MG_GEMM_NR;
    for (uint64_t p = first, take; p < r->panels; p += take) {
        take = r->panels - p < STRIP ? r->panels - p : STRIP;
        for (uint64_t i = 0; i < b->n_moved; i += mr) {
            const uint64_t m = b->n_moved - i < mr ? b->n_moved - i : mr;
            r->math->gemm((uint32_t)m, n, b->moved + i * n, r->use->gram->g + (p * r->cols + at) * MG_GEMM_NR,
                          r->cols * MG_GEMM_NR, take, b->tile, STRIP * MG_GEMM_NR, MG_GEMM_NR, true);
            for (uint64_t j = 0; j < m; j++)
                r->math->add(b->b + b->row[i + j] * ld + p * MG_GEMM_NR, b->tile + j * STRIP * MG_GEMM_NR,
                             take * MG_GEMM_NR);
        }
    }
}

/* In the last sweep only groups that are still to come look at b. */
static mg_status one_group(const limits_run *r, bench *b, uint64_t group, int sweep, double *gain, mg_error *err) {
    const uint64_t at = group * r->size, n = width_of(r, at);
    b->n_moved = 0;
    for (uint64_t i = 0; i < b->rows; i++) MG_TRY(one_row(r, b, i, group, sweep, gain, err));
    spread(r, b, at, n, sweep + 1 < r->sweeps ? 0 : (at + n) / MG_GEMM_NR);
    return MG_OK;
}

/* ---- a ticket: some rows ---- */

/* Errors of rounding with whole ranges, and what they cost. */
static mg_status start(const limits_run *r, bench *b, double *plain, mg_error *err) {
    const uint64_t mr = r->math->mr, ld = r->panels * MG_GEMM_NR;
    for (uint64_t i = 0; i < b->rows; i++)
        for (uint64_t g = 0; g < r->groups; g++) {
            const uint64_t at = g * r->size, n = width_of(r, at);
            float *range = b->range + (i * r->groups + g) * 2, *now = b->now + i * r->cols + at;
            mg_group_params p;
            MG_TRY(mg_group_range(b->w + i * r->cols + at, n, &range[0], &range[1], err));
            MG_TRY(mg_group_choose(r->scheme, range[0], range[1], &p, err));
            const mg_group_step step = mg_group_step_of(r->scheme, &p);
            mg_group_kernels_get()->error(&step, b->w + i * r->cols + at, n, now);
            r->math->mul(now, r->back + at, n);
            b->factor[(i * r->groups + g) * 2] = b->factor[(i * r->groups + g) * 2 + 1] = 1.0f;
        }
    for (uint64_t s = 0; s * mr < b->rows; s++)
        mg_gemm_pack_x(r->math, b->moved, s, b->now, r->cols, NULL, b->rows, r->cols);
    mg_gram_times(r->use->gram, b->moved, b->rows, 0, r->cols, 0, r->panels, b->b, ld);
    *plain = 0;
    for (uint64_t i = 0; i < b->rows; i++)
        for (uint64_t k = 0; k < r->cols; k++) *plain += (double)b->b[i * ld + k] * (double)b->now[i * r->cols + k];
    return MG_OK;
}

static void finish(const limits_run *r, const bench *b, uint64_t row) {
    for (uint64_t i = 0; i < b->rows * r->groups; i++) {
        const float *range = b->range + 2 * i, *f = b->factor + 2 * i;
        float *out = r->limits + 2 * (row * r->groups + i);
        out[0] = range[0] < 0 ? range[0] * f[0] : range[0]; /* an end on the far side of 0 is not moved */
        out[1] = range[1] > 0 ? range[1] * f[1] : range[1];
    }
}

static mg_status ticket_rows(const limits_run *r, bench *b, uint64_t row, uint64_t ticket, mg_error *err) {
    MG_TRY(mg_read_f32(r->use->model, r->use->bound, row, b->rows, b->w, err));
    for (uint64_t i = 0; r->col && i < b->rows; i++) r->math->mul(b->w + i * r->cols, r->col, r->cols);
    MG_TRY(start(r, b, &r->plain[ticket], err));
    r->loss[ticket] = r->plain[ticket];
    for (int sweep = 0; sweep < r->sweeps; sweep++)
        for (uint64_t g = 0; g < r->groups; g++) MG_TRY(one_group(r, b, g, sweep, &r->loss[ticket], err));
    finish(r, b, row);
    return MG_OK;
}

static mg_status limits_ticket(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    (void)worker;
    const limits_run *r = ctx;
    const uint64_t row = ticket * ROWS;
    bench b = {.rows = r->rows - row < ROWS ? r->rows - row : ROWS};
    const struct {
        float **to;
        uint64_t n;
    } parts[] = {{&b.w, b.rows * r->cols},
                 {&b.now, b.rows * r->cols},
                 {&b.b, b.rows * r->panels * MG_GEMM_NR},
                 {&b.range, 2 * b.rows * r->groups},
                 {&b.factor, 2 * b.rows * r->groups},
                 {&b.d, r->size * TRIES},
                 {&b.y, r->size * TRIES},
                 {&b.moved, (ROWS + MG_GEMM_MAX_MR) * r->cols},
                 {&b.tile, MG_GEMM_MAX_MR * STRIP * MG_GEMM_NR}};
    uint64_t total = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) total += parts[i].n;
    float *p = calloc((size_t)total, sizeof *p);
    if (!p) return mg_fail_nomem(err, total * sizeof *p);
    total = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; total += parts[i++].n) *parts[i].to = p + total;
    mg_status st = ticket_rows(r, &b, row, ticket, err);
    free(p);
    return st;
}

static mg_status run_all(limits_run *r, mg_pool *pool, uint64_t tickets, mg_error *err) {
    r->back = malloc((size_t)(r->cols + r->groups * r->each) * sizeof *r->back);
    r->plain = calloc((size_t)(2 * tickets) + 1, sizeof *r->plain);
    if (!r->back || !r->plain) return mg_fail_nomem(err, (r->cols + r->groups * r->each) * sizeof *r->back);
    r->half = r->back + r->cols;
    r->loss = r->plain + tickets;
    for (uint64_t k = 0; k < r->cols; k++) r->back[k] = r->col ? 1.0f / r->col[k] : 1.0f;
    MG_TRY(mg_pool_run(pool, r->groups, half_ticket, r, err));
    return mg_pool_run(pool, tickets, limits_ticket, r, err);
}

mg_status mg_awq_limits(const mg_awq_use *use, const float *col, const mg_group_scheme *scheme, mg_pool *pool,
                        float *limits, double *plain, double *loss, mg_error *err) {
    limits_run r = {.use = use, .col = col, .scheme = scheme, .math = mg_math_get(), .limits = limits};
    r.sweeps = scheme->bits <= 3 ? 12 : 3; /* where errors are large a better choice shows */
    r.rows = mg_bound_rows(use->bound);
    r.cols = use->gram->d;
    r.panels = (r.cols + MG_GEMM_NR - 1) / MG_GEMM_NR;
    r.size = scheme->group_size && scheme->group_size < r.cols ? scheme->group_size : r.cols;
    r.groups = mg_group_count(scheme, r.cols);
    r.each = half_at(&r, (r.size + r.math->mr - 1) / r.math->mr);
    const uint64_t tickets = (r.rows + ROWS - 1) / ROWS;
    mg_status st = run_all(&r, pool, tickets, err);
    *plain = *loss = 0;
    for (uint64_t t = 0; st == MG_OK && t < tickets; t++) {
        *plain += r.plain[t];
        *loss += r.loss[t];
    }
    free(r.back);
    free(r.plain);
    if (st != MG_OK) mg_error_at(err, NULL, mg_model_tensor(use->model, use->bound)->name);
    return st;
}
