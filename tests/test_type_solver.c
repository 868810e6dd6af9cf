/* test_type_solver.c - the choice of types under a size against trying every combination. */
#include <criterion/criterion.h>

#include <math.h>
#include <string.h>

#include "quant/type_solver.h"

enum { ITEMS = 6, OPTIONS = 4 };

static uint64_t state;
static uint64_t next(uint64_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (state >> 33) % n;
}

typedef struct problem {
    mg_solver_option options[ITEMS][OPTIONS];
    mg_solver_item items[ITEMS];
} problem;

static void make(problem *p, uint64_t seed, uint64_t unit) {
    state = seed;
    for (int i = 0; i < ITEMS; i++) {
        p->items[i] = (mg_solver_item){.options = p->options[i], .n = 1 + (uint32_t)next(OPTIONS)};
        for (int k = 0; k < OPTIONS; k++)
            p->options[i][k] = (mg_solver_option){unit * (1 + next(40)), (double)next(1000) / 64.0};
    }
}

/* Least cost within the budget by counting through all combinations; HUGE_VAL when none fits. */
static double by_trying(const problem *p, uint64_t budget) {
    double best = HUGE_VAL;
    for (int code = 0; code < 4096; code++) {
        uint64_t bytes = 0;
        double cost = 0;
        bool real = true;
        for (int i = 0, c = code; i < ITEMS; i++, c /= OPTIONS) {
            real = real && (uint32_t)(c % OPTIONS) < p->items[i].n;
            bytes += p->options[i][c % OPTIONS].bytes;
            cost += p->options[i][c % OPTIONS].cost;
        }
        if (real && bytes <= budget && cost < best) best = cost;
    }
    return best;
}

static uint64_t bytes_of(const problem *p) {
    uint64_t bytes = 0;
    for (int i = 0; i < ITEMS; i++) bytes += p->options[i][p->items[i].chosen].bytes;
    return bytes;
}

Test(type_solver, finds_the_least_cost) {
    problem p;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        make(&p, seed, 2048);
        for (uint64_t budget = 0; budget < 300 * 2048; budget += 12 * 2048 + 77) {
            mg_error err = {0};
            double cost, want = by_trying(&p, budget);
            mg_status st = mg_solve_types(p.items, ITEMS, budget, &cost, &err);
            if (isinf(want)) {
                cr_expect(st == MG_ERR_USAGE, "seed %d", (int)seed);
                continue;
            }
            cr_assert(st == MG_OK, "%s", err.message);
            cr_expect(cost == want, "seed %d: cost %g, by trying %g", (int)seed, cost, want);
            cr_expect(bytes_of(&p) <= budget);
        }
    }
}

/* Sizes without a common divisor and far more of them than the table has entries: rounded up, so never beyond the
 * budget, and what is lost is at most one unit per item. */
Test(type_solver, coarse_units_stay_within_the_budget) {
    problem p;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        make(&p, seed, 1000003);
        for (int i = 0; i < ITEMS; i++)
            for (int k = 0; k < OPTIONS; k++) p.options[i][k].bytes += next(1000000);
        mg_error err = {0};
        const uint64_t budget = 120000000, unit = budget / MG_SOLVER_UNITS + 1;
        double cost;
        if (isinf(by_trying(&p, budget - ITEMS * unit))) continue;
        cr_assert(mg_solve_types(p.items, ITEMS, budget, &cost, &err) == MG_OK, "%s", err.message);
        cr_expect(bytes_of(&p) <= budget);
        cr_expect(cost >= by_trying(&p, budget) && cost <= by_trying(&p, budget - ITEMS * unit));
    }
}
