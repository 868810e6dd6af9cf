/* awq_limits.c - mg_awq_limits: for each row and group of a weight the range that costs least on its inputs.
 *
 * Groups are gone through one after the other, and each takes the range with which its errors e cost least beside those
 * of all other groups: e G_gg e^T + 2 e . b with b = (errors of the others) G. Inputs are correlated, so errors of one
 * group can make up for those of another, and a range is a choice among fifty roundings, in four sweeps; among 220 in
 * twenty at 3 bits and below, where errors are large and a better choice shows. The whole range is among the
 * candidates, so the sum never rises.
 *
 * Six ranges at a time, because products over a block take six rows at a time (quant/math). */
#include <stdlib.h>
#include <string.h>

#include "quant/awq.h"
#include "quant/math/gemm.h"
#include "quant/read_f32.h"

enum { TRIES = 6, ROWS = 48, BATCHES = 2, POINTS = 96 /* set aside for a sweep */ };

typedef struct limits_run {
    const mg_awq_use *use;
    const float *col;
    const mg_group_scheme *scheme;
    uint64_t rows, cols, size, groups;
    int sweeps;
    float *limits;
    double *plain, *loss; /* [tickets] */
} limits_run;

/* Columns in whole panels. */
static uint64_t whole(uint64_t cols) {
    return (cols + MG_GEMM_NR - 1) / MG_GEMM_NR * MG_GEMM_NR;
}

/* Scratch of one ticket. */
typedef struct bench {
    uint64_t rows, mr;
    float *w;       /* [rows][cols] scaled */
    float *errors;  /* slivers [cols][mr]: rounding errors so far, without scale */
    float *inverse; /* [cols] 1 / scale */
    float *factor;  /* [rows][groups][2]: of the ends of the range */
    float *block;   /* [ceil(size / 16)][size][16]: the group's block of G over the scaled inputs */
    float *others;  /* [rows][reach]: b */
    float *e, *y;   /* [TRIES][size], [TRIES][width] */
    float *packed;  /* slivers of e */
    uint64_t at, n, width;
    uint64_t first, reach; /* panels of G that hold the group: the first, and the columns of all */
} bench;

/* Rows at..at + n of one panel of G, p its first column in the group: over the scaled inputs. */
static void load_panel(const limits_run *r, const bench *b, uint64_t p) {
    const uint64_t from = b->at + p, have = b->n - p < MG_GEMM_NR ? b->n - p : MG_GEMM_NR;
    const float *inverse = b->inverse + b->at;
    float *to = b->block + p * b->n;
    if (from % MG_GEMM_NR == 0 && have == MG_GEMM_NR) { /* the usual case: a panel is a panel of G */
        const float *g = r->use->gram->g + (from * r->cols) + b->at * MG_GEMM_NR;
        for (uint64_t i = 0; i < b->n; i++)
            for (uint64_t j = 0; j < MG_GEMM_NR; j++)
                to[i * MG_GEMM_NR + j] = g[i * MG_GEMM_NR + j] * (inverse[i] * inverse[p + j]);
        return;
    }
    for (uint64_t i = 0; i < b->n; i++)
        for (uint64_t j = 0; j < MG_GEMM_NR; j++)
            to[i * MG_GEMM_NR + j] =
                j < have ? mg_gram_at(r->use->gram, b->at + i, from + j) * (inverse[i] * inverse[p + j]) : 0.0f;
}

static void load_group(const limits_run *r, bench *b, uint64_t group) {
    b->at = group * r->size;
    b->n = r->cols - b->at < r->size ? r->cols - b->at : r->size;
    b->width = whole(b->n);
    b->first = b->at / MG_GEMM_NR;
    b->reach = whole(b->at + b->n) - b->first * MG_GEMM_NR;
    for (uint64_t p = 0; p < b->n; p += MG_GEMM_NR) load_panel(r, b, p);
}

/* Errors of a row from column k on; mr from one to the next. */
static float *errors_at(const limits_run *r, const bench *b, uint64_t row, uint64_t k) {
    return &b->errors[row / b->mr * b->mr * r->cols + k * b->mr + row % b->mr];
}

/* They become e (NULL: 0) over the scale. */
static void set_errors(const limits_run *r, const bench *b, uint64_t row, uint64_t at, uint64_t n, const float *e) {
    const uint64_t mr = b->mr;
    const float *inverse = b->inverse + at;
    float *to = errors_at(r, b, row, at);
    for (uint64_t k = 0; k < n; k++) to[k * mr] = e ? e[k] * inverse[k] : 0.0f;
}

/* Errors of all rows times the group's columns of G. */
static void times_group(const limits_run *r, const bench *b) {
    mg_gram_times(r->use->gram, b->errors, b->rows, b->first, b->reach / MG_GEMM_NR, b->others, b->reach);
}

/* The group's part of row i of that. */
static float *other_of(const bench *b, uint64_t i) {
    return b->others + i * b->reach + b->at % MG_GEMM_NR;
}

/* b of all rows, over the scaled inputs; the group's own errors are taken out of the sum. */
static void load_others(const limits_run *r, const bench *b) {
    for (uint64_t i = 0; i < b->rows; i++) set_errors(r, b, i, b->at, b->n, NULL);
    times_group(r, b);
    for (uint64_t i = 0; i < b->rows; i++) mg_math_get()->mul(other_of(b, i), b->inverse + b->at, b->n);
}

/* loss[t] = e[t] G e[t]^T + 2 e[t] . other. */
static void losses(const bench *b, const float *other, double *loss) {
    const mg_math *math = mg_math_get();
    const uint64_t mr = b->mr, n = b->n;
    for (uint64_t t = 0; t < TRIES; t += mr) {
        const uint64_t m = TRIES - t < mr ? TRIES - t : mr;
        const float *e[TRIES];
        for (uint64_t i = 0; i < m; i++) e[i] = b->e + (t + i) * n;
        math->pack_x(b->packed, e, (uint32_t)m, n);
        math->gemm((uint32_t)m, n, b->packed, b->block, MG_GEMM_NR * n, b->width / MG_GEMM_NR, b->y + t * b->width,
                   b->width, MG_GEMM_NR, true);
    }
    for (uint64_t t = 0; t < TRIES; t++) {
        const float *y = b->y + t * b->width, *e = b->e + t * n;
        float lane[MG_GEMM_NR] = {0};
        uint64_t i = 0;
        for (; i + MG_GEMM_NR <= n; i += MG_GEMM_NR)
            for (uint64_t j = 0; j < MG_GEMM_NR; j++) lane[j] += (y[i + j] + 2.0f * other[i + j]) * e[i + j];
        for (uint64_t j = 0; i < n; i++, j++) lane[j] += (y[i] + 2.0f * other[i]) * e[i];
        loss[t] = 0;
        for (uint64_t j = 0; j < MG_GEMM_NR; j++) loss[t] += (double)lane[j];
    }
}

/* TRIES ranges: the ends of `range` times f. The best that beats *best (the first, when there is none yet) becomes at,
 * its errors kept. *first: what the first of them costs. */
static mg_status try_ranges(const limits_run *r, const bench *b, const float *w, const float *other,
                            const float range[2], float f[TRIES][2], float at[2], double *best, float *keep,
                            double *first, mg_error *err) {
    double loss[TRIES];
    int take = first ? 0 : -1;
    for (int t = 0; t < TRIES; t++) {
        mg_group_params p;
        MG_TRY(mg_group_choose(r->scheme, range[0] * f[t][0], range[1] * f[t][1], &p, err));
        const mg_group_step step = mg_group_step_of(r->scheme, &p);
        mg_group_kernels_get()->error(&step, w, b->n, b->e + (uint64_t)t * b->n);
    }
    losses(b, other, loss);
    if (first) *first = *best = loss[0];
    for (int t = 0; t < TRIES; t++)
        if (loss[t] < *best) {
            *best = loss[t];
            take = t;
        }
    if (take < 0) return MG_OK;
    memcpy(at, f[take], sizeof f[take]);
    memcpy(keep, b->e + (uint64_t)take * b->n, (size_t)b->n * sizeof *keep);
    return MG_OK;
}

/* What a batch tries for the ends of a range: first both ends drawn in together, then each end for itself about the
 * best so far, ever closer. Every range is a new roll of the dice as well, so none is tried twice: points fill the
 * square evenly (multiples of the inverse powers of the plastic number, 0.7549 and 0.5698 of 2^32). */
static void factors(int sweep, int sweeps, int batch, const float at[2], float f[TRIES][2]) {
    static const float shrink[TRIES] = {1, .95f, .9f, .84f, .77f, .68f};
    const float about = .25f - .15f * (float)sweep / (float)(sweeps - 1);
    for (int t = 0; t < TRIES; t++) {
        const uint32_t k = (uint32_t)(sweep * POINTS + batch * TRIES + t);
        for (int i = 0; i < 2; i++) {
            const float point = (float)(k * (i ? 2447445414u : 3242174889u) >> 8) * 0x1p-24f;
            const float move = sweep || batch ? 1.0f + about * (2.0f * point - 1.0f) : shrink[t];
            f[t][i] = at[i] * move < 1.0f ? at[i] * move : 1.0f;
        }
    }
    if (batch == 0) memcpy(f[0], at, sizeof f[0]); /* what there was */
}

/* One row in the group under work; what the sum of losses changes by is added to *gain. */
static mg_status one_row(const limits_run *r, const bench *b, uint64_t i, uint64_t group, int sweep, float *keep,
                         double *gain, mg_error *err) {
    const float *w = b->w + i * r->cols + b->at, *other = other_of(b, i);
    float *at = b->factor + (i * r->groups + group) * 2, range[2], f[TRIES][2];
    double first = 0, best = 0;
    MG_TRY(mg_group_range(w, b->n, &range[0], &range[1], err));
    for (int batch = 0; batch < BATCHES; batch++) {
        factors(sweep, r->sweeps, batch, at, f);
        MG_TRY(try_ranges(r, b, w, other, range, f, at, &best, keep, batch ? NULL : &first, err));
    }
    set_errors(r, b, i, b->at, b->n, keep);
    *gain += best - first;
    return MG_OK;
}

/* Errors of rounding with whole ranges, and what they cost. */
static mg_status start(const limits_run *r, bench *b, double *plain, mg_error *err) {
    for (uint64_t i = 0; i < b->rows; i++)
        for (uint64_t g = 0; g < r->groups; g++) {
            const uint64_t at = g * r->size, n = r->cols - at < r->size ? r->cols - at : r->size;
            mg_group_params p;
            float lo, hi;
            MG_TRY(mg_group_range(b->w + i * r->cols + at, n, &lo, &hi, err));
            MG_TRY(mg_group_choose(r->scheme, lo, hi, &p, err));
            const mg_group_step step = mg_group_step_of(r->scheme, &p);
            mg_group_kernels_get()->error(&step, b->w + i * r->cols + at, n, b->e);
            set_errors(r, b, i, at, n, b->e);
            b->factor[(i * r->groups + g) * 2] = b->factor[(i * r->groups + g) * 2 + 1] = 1.0f;
        }
    *plain = 0;
    for (uint64_t g = 0; g < r->groups; g++) { /* e . (e G), a group of columns at a time */
        load_group(r, b, g);
        times_group(r, b);
        for (uint64_t i = 0; i < b->rows; i++) {
            const float *other = other_of(b, i), *e = errors_at(r, b, i, b->at);
            for (uint64_t k = 0; k < b->n; k++) *plain += (double)other[k] * (double)e[k * b->mr];
        }
    }
    return MG_OK;
}

static mg_status finish(const limits_run *r, const bench *b, uint64_t row, mg_error *err) {
    for (uint64_t i = 0; i < b->rows; i++)
        for (uint64_t g = 0; g < r->groups; g++) {
            const uint64_t at = g * r->size, n = r->cols - at < r->size ? r->cols - at : r->size;
            const float *f = b->factor + (i * r->groups + g) * 2;
            float *out = r->limits + ((row + i) * r->groups + g) * 2, lo, hi;
            MG_TRY(mg_group_range(b->w + i * r->cols + at, n, &lo, &hi, err));
            out[0] = lo < 0 ? lo * f[0] : lo; /* an end on the far side of 0 is not moved */
            out[1] = hi > 0 ? hi * f[1] : hi;
        }
    return MG_OK;
}

static mg_status ticket_rows(const limits_run *r, bench *b, uint64_t row, uint64_t ticket, mg_error *err) {
    MG_TRY(mg_read_f32(r->use->model, r->use->bound, row, b->rows, b->w, err));
    for (uint64_t k = 0; k < r->cols; k++) b->inverse[k] = r->col ? 1.0f / r->col[k] : 1.0f;
    for (uint64_t i = 0; r->col && i < b->rows; i++) mg_math_get()->mul(b->w + i * r->cols, r->col, r->cols);
    MG_TRY(start(r, b, &r->plain[ticket], err));
    r->loss[ticket] = r->plain[ticket];
    float *keep = b->packed + MG_GEMM_MAX_MR * r->size;
    for (int sweep = 0; sweep < r->sweeps; sweep++)
        for (uint64_t g = 0; g < r->groups; g++) {
            load_group(r, b, g);
            load_others(r, b);
            for (uint64_t i = 0; i < b->rows; i++) MG_TRY(one_row(r, b, i, g, sweep, keep, &r->loss[ticket], err));
        }
    return finish(r, b, row, err);
}

static mg_status limits_ticket(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    (void)worker;
    const limits_run *r = ctx;
    const uint64_t row = ticket * ROWS, width = whole(r->size);
    bench b = {.rows = r->rows - row < ROWS ? r->rows - row : ROWS, .mr = mg_math_get()->mr};
    const struct {
        float **to;
        uint64_t n;
    } parts[] = {{&b.w, b.rows * r->cols},
                 {&b.errors, (ROWS + MG_GEMM_MAX_MR) * r->cols},
                 {&b.inverse, r->cols},
                 {&b.factor, 2 * ROWS * r->groups},
                 {&b.block, width * r->size},
                 {&b.others, ROWS * (width + MG_GEMM_NR)},
                 {&b.e, TRIES * r->size},
                 {&b.y, TRIES * width},
                 {&b.packed, (MG_GEMM_MAX_MR + 1) * r->size}};
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

mg_status mg_awq_limits(const mg_awq_use *use, const float *col, const mg_group_scheme *scheme, mg_pool *pool,
                        float *limits, double *plain, double *loss, mg_error *err) {
    limits_run r = {.use = use, .col = col, .scheme = scheme, .limits = limits};
    r.sweeps = scheme->bits <= 3 ? 20 : 4;
    r.rows = mg_bound_rows(use->bound);
    r.cols = use->gram->d;
    r.size = scheme->group_size && scheme->group_size < r.cols ? scheme->group_size : r.cols;
    r.groups = mg_group_count(scheme, r.cols);
    const uint64_t tickets = (r.rows + ROWS - 1) / ROWS;
    r.plain = calloc((size_t)(2 * tickets) + 1, sizeof *r.plain);
    if (!r.plain) return mg_fail_nomem(err, 2 * tickets * sizeof *r.plain);
    r.loss = r.plain + tickets;
    mg_status st = mg_pool_run(pool, tickets, limits_ticket, &r, err);
    *plain = *loss = 0;
    for (uint64_t t = 0; t < tickets; t++) {
        *plain += r.plain[t];
        *loss += r.loss[t];
    }
    free(r.plain);
    if (st != MG_OK) mg_error_at(err, NULL, mg_model_tensor(use->model, use->bound)->name);
    return st;
}
