/* test_logreg.c - the regression that fits routers: optimality, gradients by finite differences, known solutions, and
 * equal bits for every number of threads. */
#include <criterion/criterion.h>

#include <math.h>
#include <string.h>

#include "convert/logreg.h"
#include "quant/math/f64.h"

enum { N = 400, DIM = 6, CLASSES = 5 };

static float x[N * DIM];
static uint32_t label[N];
static bool negative[N];
static double weight[N];

static uint32_t seed;
static double unit(void) {
    seed = seed * 1664525u + 1013904223u;
    return (double)(seed >> 8) * 0x1p-24;
}

/* Classes around centres that overlap, so that the optimum is finite and no loss is near 0. */
static mg_logreg problem(bool with_negatives) {
    seed = 7;
    double positive = 0;
    for (int i = 0; i < N; i++) {
        label[i] = (uint32_t)(unit() * CLASSES);
        negative[i] = with_negatives && i % 5 == 0;
        weight[i] = 0.5 + unit();
        if (!negative[i]) positive += weight[i];
        for (int k = 0; k < DIM; k++)
            x[i * DIM + k] = (float)(2 * unit() - 1 + (k == (int)label[i] ? (negative[i] ? -0.7 : 0.7) : 0));
    }
    for (int i = 0; i < N; i++) weight[i] /= positive;
    return (mg_logreg){.x = x,
                       .label = label,
                       .negative = with_negatives ? negative : NULL,
                       .weight = weight,
                       .n = N,
                       .dim = DIM,
                       .classes = CLASSES,
                       .ridge = 1e-3,
                       .max_iterations = 500};
}

/* The objective as the header states it, written anew. */
static double objective(const mg_logreg *p, const double *w) {
    double f = 0;
    for (uint64_t i = 0; i < p->n; i++) {
        double z[CLASSES], sum = 0;
        for (uint32_t c = 0; c < p->classes; c++) {
            z[c] = 0;
            for (uint64_t k = 0; k < p->dim; k++) z[c] += w[c * p->dim + k] * (double)p->x[i * p->dim + k];
            sum += exp(z[c]);
        }
        double own = exp(z[p->label[i]]) / sum;
        f -= p->weight[i] * log(p->negative && p->negative[i] ? 1 - own : own);
    }
    for (uint64_t i = 0; i < p->classes * p->dim; i++) f += 0.5 * p->ridge * w[i] * w[i];
    return f;
}

static void solve(const mg_logreg *p, unsigned threads, double *w, double *loss) {
    mg_pool *pool;
    mg_error err = {0};
    unsigned iterations = 0;
    cr_assert(mg_pool_new(&pool, threads, &err) == MG_OK);
    cr_assert(mg_logreg_solve(p, pool, w, &iterations, loss, &err) == MG_OK, "%s", err.message);
    mg_pool_free(pool);
    cr_assert(iterations > 1 && iterations < p->max_iterations);
}

/* At the optimum every central difference of the objective is 0. Stopping at a step that gains less than 1e-9 leaves a
 * gradient of about sqrt(1e-9 * curvature) = 1e-5; 1e-4 leaves room, while at the start it is about 0.1. */
static void check_optimal(bool with_negatives) {
    mg_logreg p = problem(with_negatives);
    double w[CLASSES * DIM], zero[CLASSES * DIM] = {0}, loss, largest = 0;
    solve(&p, 2, w, &loss);
    cr_expect_float_eq(loss, objective(&p, w), 1e-12);
    cr_expect_lt(loss, objective(&p, zero) - 0.1);
    for (int i = 0; i < CLASSES * DIM; i++) {
        double keep = w[i], h = 1e-5, slope;
        w[i] = keep + h;
        slope = objective(&p, w);
        w[i] = keep - h;
        slope = (slope - objective(&p, w)) / (2 * h);
        w[i] = keep;
        cr_expect_lt(fabs(slope), 1e-4, "derivative %d is %g", i, slope);
        double at_zero[CLASSES * DIM] = {0};
        at_zero[i] = h;
        slope = objective(&p, at_zero);
        at_zero[i] = -h;
        slope = (slope - objective(&p, at_zero)) / (2 * h);
        largest = fmax(largest, fabs(slope));
    }
    cr_expect_gt(largest, 0.05);
}

Test(logreg, is_at_the_optimum) {
    check_optimal(false);
}

Test(logreg, is_at_the_optimum_with_negative_rows) {
    check_optimal(true);
}

/* One input of 1 in every row and two classes of weights 0.8 and 0.2: without a ridge W0 - W1 = log 4. */
Test(logreg, known_solution) {
    const float ones[2] = {1, 1};
    const uint32_t labels[2] = {0, 1};
    const double weights[2] = {0.8, 0.2};
    mg_logreg p = {
        .x = ones, .label = labels, .weight = weights, .n = 2, .dim = 1, .classes = 2, .max_iterations = 100};
    double w[2], loss;
    solve(&p, 1, w, &loss);
    cr_expect_float_eq(w[0] - w[1], log(4), 1e-4);
    cr_expect_float_eq(w[0] + w[1], 0, 1e-12);
    cr_expect_float_eq(loss, -0.8 * log(0.8) - 0.2 * log(0.2), 1e-8);
}

Test(logreg, same_bits_for_every_thread_count) {
    mg_logreg p = problem(true);
    double a[CLASSES * DIM], b[CLASSES * DIM], loss_a, loss_b;
    solve(&p, 1, a, &loss_a);
    for (unsigned t = 2; t <= 3; t++) {
        solve(&p, t, b, &loss_b);
        cr_expect_arr_eq(a, b, sizeof a);
        cr_expect(loss_a == loss_b);
    }
}

/* Gradient of both kinds of rows at a point that is no optimum, through one step: with one iteration allowed the result
 * lies along the negative gradient at zero. */
Test(logreg, first_step_follows_the_gradient) {
    mg_logreg p = problem(true);
    p.max_iterations = 1;
    double w[CLASSES * DIM], dot = 0, ww = 0, gg = 0;
    mg_error err = {0};
    cr_assert(mg_logreg_solve(&p, NULL, w, NULL, NULL, &err) == MG_OK, "%s", err.message);
    for (int i = 0; i < CLASSES * DIM; i++) {
        double at[CLASSES * DIM] = {0}, h = 1e-4, slope;
        at[i] = h;
        slope = objective(&p, at);
        at[i] = -h;
        slope = (slope - objective(&p, at)) / (2 * h);
        dot -= slope * w[i];
        ww += w[i] * w[i];
        gg += slope * slope;
    }
    cr_expect_gt(dot / sqrt(ww * gg), 1 - 1e-9);
}

Test(logreg, refuses_what_it_cannot_solve) {
    mg_logreg p = problem(false);
    double w[CLASSES * DIM];
    mg_error err = {0};
    x[3] = (float)NAN;
    cr_expect_eq(mg_logreg_solve(&p, NULL, w, NULL, NULL, &err), MG_ERR_FORMAT);
    x[3] = (float)INFINITY;
    cr_expect_eq(mg_logreg_solve(&p, NULL, w, NULL, NULL, NULL), MG_ERR_FORMAT);
    p.n = 0;
    cr_expect_eq(mg_logreg_solve(&p, NULL, w, NULL, NULL, NULL), MG_ERR_INTERNAL);
}
