/* logreg.c - see logreg.h. The objective is convex (without negative rows), smooth and small (classes * dim unknowns, a
 * few thousand rows), which is what L-BFGS with a backtracking line search is good at. */
#include "convert/logreg.h"

#include "quant/math/f64.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK  128u /* rows per block: the unit of the fixed summation order */
#define MEMORY 10u  /* L-BFGS pairs kept */
#define ROWS   4u   /* of a block, handled at a time */
#define LANES  4u   /* classes are padded to a multiple, so that the inner loops vectorise over classes */

typedef struct solver {
    const mg_logreg *p;
    mg_pool *pool;
    uint32_t lanes; /* padded classes */
    size_t size;    /* dim * lanes: W is stored [dim][lanes] */
    uint64_t n_blocks;
    double *block_grad;   /* [wave][size] */
    double *block_scores; /* [wave][2][BLOCK][lanes] scores and their derivatives */
    double *block_loss;   /* [wave] */
    uint64_t wave_first;
    unsigned wave; /* blocks evaluated side by side before they are added up in order */
    const double *w;
} solver;

/* Scores z [n][lanes] of n rows. Four at a time: their sums do not wait for each other, and each keeps its order. */
static void scores(const solver *s, const float *x, uint64_t n, double *z) {
    const uint64_t dim = s->p->dim;
    for (uint64_t i = 0; i < n; i += i + ROWS <= n ? ROWS : 1) {
        const float *row = x + i * dim;
        for (uint32_t l = 0; l < s->lanes; l += LANES) {
            double acc[ROWS][LANES] = {{0}};
            const double *w = s->w + l;
            if (i + ROWS <= n)
                for (uint64_t k = 0; k < dim; k++, w += s->lanes)
                    for (uint32_t r = 0; r < ROWS; r++)
                        for (uint32_t j = 0; j < LANES; j++) acc[r][j] += (double)row[r * dim + k] * w[j];
            else
                for (uint64_t k = 0; k < dim; k++, w += s->lanes)
                    for (uint32_t j = 0; j < LANES; j++) acc[0][j] += (double)row[k] * w[j];
            for (uint32_t r = 0; r < (i + ROWS <= n ? ROWS : 1); r++)
                memcpy(z + (i + r) * s->lanes + l, acc[r], sizeof acc[r]);
        }
    }
}

/* grad [dim][lanes] += x^T g over n rows, in their order: four of them for each time it is read and written. */
static void add_gradient(const solver *s, const float *x, uint64_t n, const double *g, double *grad) {
    const uint64_t dim = s->p->dim, lanes = s->lanes;
    uint64_t i = 0;
    for (; i + ROWS <= n; i += ROWS, x += ROWS * dim, g += ROWS * lanes)
        for (uint64_t k = 0; k < dim; k++)
            for (uint64_t l = 0; l < lanes; l++) {
                double a = grad[k * lanes + l];
                for (uint32_t r = 0; r < ROWS; r++) a += (double)x[r * dim + k] * g[r * lanes + l];
                grad[k * lanes + l] = a;
            }
    for (; i < n; i++, x += dim, g += lanes)
        for (uint64_t k = 0; k < dim; k++)
            for (uint64_t l = 0; l < lanes; l++) grad[k * lanes + l] += (double)x[k] * g[l];
}

/* Loss of a row and, in g, its derivative with respect to the scores. */
static double row_loss(const solver *s, uint64_t row, const double *z, double *g) {
    uint32_t n = s->p->classes, label = s->p->label[row];
    bool negative = s->p->negative && s->p->negative[row];
    double max = z[0], sum = 0;
    for (uint32_t c = 1; c < n; c++) max = z[c] > max ? z[c] : max;
    for (uint32_t c = 0; c < n; c++) sum += g[c] = mg_f64_exp(z[c] - max);
    for (uint32_t c = 0; c < n; c++) g[c] /= sum;
    if (!negative) {
        double loss = mg_f64_log(sum) - (z[label] - max);
        g[label] -= 1;
        return loss;
    }
    double rest = 0;
    for (uint32_t c = 0; c < n; c++) rest += c == label ? 0 : g[c];
    if (rest < 1e-300) rest = 1e-300; /* p_label rounds to 1: keep the step finite */
    for (uint32_t c = 0; c < n; c++) g[c] = c == label ? g[c] : g[c] - g[c] / rest;
    return -mg_f64_log(rest);
}

static mg_status eval_block(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    (void)worker;
    (void)err;
    solver *s = ctx;
    const mg_logreg *p = s->p;
    uint64_t first = (s->wave_first + ticket) * BLOCK, end = first + BLOCK < p->n ? first + BLOCK : p->n;
    double *grad = s->block_grad + ticket * s->size, loss = 0;
    double *z = s->block_scores + ticket * 2 * BLOCK * s->lanes, *g = z + BLOCK * s->lanes;
    memset(grad, 0, s->size * sizeof *grad);
    memset(g, 0, (end - first) * s->lanes * sizeof *g);
    scores(s, p->x + first * p->dim, end - first, z);
    for (uint64_t i = first; i < end; i++) {
        double *zi = z + (i - first) * s->lanes, *gi = g + (i - first) * s->lanes;
        if (p->offset) zi[0] += p->offset[i];
        loss += p->weight[i] * row_loss(s, i, zi, gi);
        for (uint32_t c = 0; c < p->classes; c++) gi[c] *= p->weight[i];
    }
    add_gradient(s, p->x + first * p->dim, end - first, g, grad);
    s->block_loss[ticket] = loss;
    return MG_OK;
}

/* Objective and gradient at w. */
static mg_status evaluate(solver *s, const double *w, double *grad, double *value, mg_error *err) {
    s->w = w;
    double f = 0, norm = 0;
    memset(grad, 0, s->size * sizeof *grad);
    for (s->wave_first = 0; s->wave_first < s->n_blocks; s->wave_first += s->wave) {
        uint64_t left = s->n_blocks - s->wave_first, n = left < s->wave ? left : s->wave;
        MG_TRY(mg_pool_run(s->pool, n, eval_block, s, err));
        for (uint64_t b = 0; b < n; b++) {
            f += s->block_loss[b];
            for (size_t i = 0; i < s->size; i++) grad[i] += s->block_grad[b * s->size + i];
        }
    }
    for (size_t i = 0; i < s->size; i++) {
        grad[i] += s->p->ridge * w[i];
        norm += w[i] * w[i];
    }
    *value = f + 0.5 * s->p->ridge * norm;
    return MG_OK;
}

static double dot(const double *a, const double *b, size_t n) {
    double s = 0;
    for (size_t i = 0; i < n; i++) s += a[i] * b[i];
    return s;
}

typedef struct history {
    double *step[MEMORY], *diff[MEMORY], rho[MEMORY];
    unsigned n, next;
} history;

/* The two-loop recursion: dir = -H grad (Nocedal & Wright, algorithm 7.4). */
static void direction(const history *h, const double *grad, double *dir, size_t n) {
    double alpha[MEMORY];
    for (size_t i = 0; i < n; i++) dir[i] = -grad[i];
    for (unsigned k = 0; k < h->n; k++) {
        unsigned j = (h->next + MEMORY - 1 - k) % MEMORY;
        alpha[j] = h->rho[j] * dot(h->step[j], dir, n);
        for (size_t i = 0; i < n; i++) dir[i] -= alpha[j] * h->diff[j][i];
    }
    if (h->n) {
        unsigned j = (h->next + MEMORY - 1) % MEMORY;
        double scale = 1 / (h->rho[j] * dot(h->diff[j], h->diff[j], n));
        for (size_t i = 0; i < n; i++) dir[i] *= scale;
    }
    for (unsigned k = h->n; k-- > 0;) {
        unsigned j = (h->next + MEMORY - 1 - k) % MEMORY;
        double beta = h->rho[j] * dot(h->diff[j], dir, n);
        for (size_t i = 0; i < n; i++) dir[i] += (alpha[j] - beta) * h->step[j][i];
    }
}

static void remember(history *h, const double *w0, const double *w1, const double *g0, const double *g1, size_t n) {
    double *s = h->step[h->next], *y = h->diff[h->next];
    for (size_t i = 0; i < n; i++) {
        s[i] = w1[i] - w0[i];
        y[i] = g1[i] - g0[i];
    }
    double sy = dot(s, y, n);
    if (sy <= 1e-14 * dot(y, y, n)) return; /* no curvature: keeping the pair would break positive definiteness */
    h->rho[h->next] = 1 / sy;
    h->next = (h->next + 1) % MEMORY;
    if (h->n < MEMORY) h->n++;
}

typedef struct work {
    double *w, *g, *w1, *g1, *dir, *all;
    history h;
} work;

static mg_status work_new(work *k, size_t size, mg_error *err) {
    size_t vectors = 5 + 2 * MEMORY;
    k->all = calloc(vectors * size, sizeof(double));
    if (!k->all) return mg_fail_nomem(err, (uint64_t)vectors * size * sizeof(double));
    double **named[] = {&k->w, &k->g, &k->w1, &k->g1, &k->dir};
    for (size_t i = 0; i < 5; i++) *named[i] = k->all + i * size;
    for (size_t i = 0; i < MEMORY; i++) {
        k->h.step[i] = k->all + (5 + i) * size;
        k->h.diff[i] = k->all + (5 + MEMORY + i) * size;
    }
    return MG_OK;
}

/* Step along dir until the Armijo condition holds; *moved false when no step does (converged to rounding). */
static mg_status line_search(solver *s, work *k, double *value, bool *moved, mg_error *err) {
    double slope = dot(k->g, k->dir, s->size), t = k->h.n ? 1 : 1 / (1e-12 + sqrt(dot(k->g, k->g, s->size))), f1;
    *moved = false;
    for (int tries = 0; tries < 30 && slope < 0; tries++, t *= 0.5) {
        for (size_t i = 0; i < s->size; i++) k->w1[i] = k->w[i] + t * k->dir[i];
        MG_TRY(evaluate(s, k->w1, k->g1, &f1, err));
        if (!(f1 <= *value + 1e-4 * t * slope)) continue;
        remember(&k->h, k->w, k->w1, k->g, k->g1, s->size);
        memcpy(k->w, k->w1, s->size * sizeof(double));
        memcpy(k->g, k->g1, s->size * sizeof(double));
        *moved = *value - f1 > 1e-9 * (1 + fabs(f1));
        *value = f1;
        return MG_OK;
    }
    return MG_OK;
}

static mg_status minimise(solver *s, work *k, unsigned *iterations, double *value, mg_error *err) {
    MG_TRY(evaluate(s, k->w, k->g, value, err));
    if (!isfinite(*value)) return mg_fail(err, MG_ERR_FORMAT, "an input of the regression is not finite");
    bool moved = true;
    unsigned it = 0;
    for (; it < s->p->max_iterations && moved; it++) {
        direction(&k->h, k->g, k->dir, s->size);
        MG_TRY(line_search(s, k, value, &moved, err));
    }
    *iterations = it;
    return MG_OK;
}

mg_status mg_logreg_solve(const mg_logreg *p, mg_pool *pool, double *w, unsigned *iterations, double *loss,
                          mg_error *err) {
    if (p->n == 0 || p->dim == 0 || p->classes == 0 || p->classes > 1024)
        return mg_fail(err, MG_ERR_INTERNAL, "logistic regression of %llu rows and %u classes",
                       (unsigned long long)p->n, p->classes);
    solver s = {.p = p, .pool = pool, .lanes = (p->classes + LANES - 1) / LANES * LANES};
    s.size = (size_t)p->dim * s.lanes;
    s.n_blocks = (p->n + BLOCK - 1) / BLOCK;
    s.wave = 8; /* bounds memory to 8 gradients; a constant, so that the order of additions never depends on threads */
    work k = {0};
    mg_status st = work_new(&k, s.size, err);
    s.block_grad = calloc(s.wave * s.size, sizeof(double));
    s.block_loss = calloc(s.wave, sizeof(double));
    s.block_scores = calloc((size_t)s.wave * 2 * BLOCK * s.lanes, sizeof(double));
    if (st == MG_OK && (!s.block_grad || !s.block_loss || !s.block_scores))
        st = mg_fail_nomem(err, (uint64_t)s.wave * s.size * sizeof(double));
    unsigned its = 0;
    double value = 0;
    if (st == MG_OK) st = minimise(&s, &k, &its, &value, err);
    if (st == MG_OK) {
        for (uint32_t c = 0; c < p->classes; c++)
            for (uint64_t d = 0; d < p->dim; d++) w[c * p->dim + d] = k.w[d * s.lanes + c];
        if (iterations) *iterations = its;
        if (loss) *loss = value;
    }
    free(k.all);
    free(s.block_grad);
    free(s.block_loss);
    free(s.block_scores);
    return st;
}
