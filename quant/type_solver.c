/* type_solver.c - see type_solver.h. */
#include "quant/type_solver.h"

#include "formats/base/checked.h"

#include <math.h>
#include <stdlib.h>

static uint64_t gcd(uint64_t a, uint64_t b) {
    while (b) {
        uint64_t r = a % b;
        a = b;
        b = r;
    }
    return a;
}

static uint64_t unit_of(const mg_solver_item *items, uint32_t n, uint64_t budget) {
    uint64_t unit = 0;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < items[i].n; k++) unit = gcd(unit, items[i].options[k].bytes);
    if (unit == 0) unit = 1;
    uint64_t least = budget / MG_SOLVER_UNITS + 1;
    return unit < least ? least : unit;
}

static uint64_t units(uint64_t bytes, uint64_t unit) {
    return bytes / unit + (bytes % unit != 0);
}

/* All of the least: also what is taken when rounding up leaves the table without an answer. */
static mg_status smallest(mg_solver_item *items, uint32_t n, uint64_t budget, mg_error *err) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        items[i].chosen = 0;
        for (uint32_t k = 1; k < items[i].n; k++)
            if (items[i].options[k].bytes < items[i].options[items[i].chosen].bytes) items[i].chosen = k;
        if (!mg_add_u64(sum, items[i].options[items[i].chosen].bytes, &sum))
            return mg_fail(err, MG_ERR_LIMIT, "sizes beyond 64 bits");
    }
    if (sum <= budget) return MG_OK;
    return mg_fail(err, MG_ERR_USAGE, "the smallest types need %llu bytes of tensor data, the target leaves %llu",
                   (unsigned long long)sum, (unsigned long long)budget);
}

/* cost[s]: least cost of the items so far in at most s units; pick [n][size + 1]: option of item i there. */
static void fill(const mg_solver_item *items, uint32_t n, uint64_t unit, uint64_t size, double *cost, uint8_t *pick) {
    for (uint64_t s = 0; s <= size; s++) cost[s] = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint8_t *row = pick + i * (size + 1);
        for (uint64_t s = size + 1; s-- > 0;) { /* downwards: cost[s - need] is still that of the items before */
            double best = HUGE_VAL;
            row[s] = 0;
            for (uint32_t k = 0; k < items[i].n; k++) {
                uint64_t need = units(items[i].options[k].bytes, unit);
                if (need > s || !(cost[s - need] + items[i].options[k].cost < best)) continue;
                best = cost[s - need] + items[i].options[k].cost;
                row[s] = (uint8_t)k;
            }
            cost[s] = best;
        }
    }
}

mg_status mg_solve_types(mg_solver_item *items, uint32_t n, uint64_t budget, double *cost, mg_error *err) {
    *cost = 0;
    MG_TRY(smallest(items, n, budget, err));
    uint64_t unit = unit_of(items, n, budget), size = budget / unit, most = 0, table;
    for (uint32_t i = 0; i < n; i++) { /* a budget that takes the largest of all needs no table beyond that */
        uint64_t large = 0;
        for (uint32_t k = 0; k < items[i].n; k++)
            if (units(items[i].options[k].bytes, unit) > large) large = units(items[i].options[k].bytes, unit);
        most += large;
    }
    if (size > most) size = most;
    if (!mg_mul_u64(size + 1, n + 1u, &table)) return mg_fail(err, MG_ERR_LIMIT, "too many tensors");
    double *c = malloc((size + 1) * sizeof *c);
    uint8_t *pick = malloc(table);
    if (!c || !pick) {
        free(c);
        free(pick);
        return mg_fail_nomem(err, table);
    }
    fill(items, n, unit, size, c, pick);
    bool solved = n == 0 || c[size] < HUGE_VAL;
    for (uint64_t i = n, left = size; solved && i-- > 0;) {
        items[i].chosen = pick[i * (size + 1) + left];
        left -= units(items[i].options[items[i].chosen].bytes, unit);
    }
    for (uint32_t i = 0; i < n; i++) *cost += items[i].options[items[i].chosen].cost;
    free(c);
    free(pick);
    return MG_OK;
}
