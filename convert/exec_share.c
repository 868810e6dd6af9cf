/* exec_share.c - which units of a plan a rank takes: a run of consecutive units whose estimated cost is one part in
 * `world` of the whole.
 *
 * Every rank cuts for itself and must cut alike: costs are whole numbers that follow from the plan alone, never from
 * the machine. Consecutive units, because a rank then reads its inputs and writes its outputs front to back, and at
 * most one tensor is shared with each neighbour. Costs decide how even the work is, never what is written. */
#include "convert/exec.h"

#include "formats/base/checked.h"

#include <stdlib.h>

/* Picoseconds a byte takes to be read, written and hashed, of the order of a page cache's. */
enum { BYTE_COST = 400 };

/* Picoseconds a weight takes to be encoded, from docs/bench.md (one thread, AVX2, no importance matrix). */
static uint64_t encode_cost(mg_dtype t) {
    switch (t) {
    case MG_Q4_0:
    case MG_Q4_1:
    case MG_Q5_0:
    case MG_Q5_1:
        return 600;
    case MG_Q8_0:
        return 700;
    case MG_Q3_K:
        return 1900;
    case MG_Q6_K:
        return 2900;
    case MG_Q2_K:
    case MG_Q4_K:
    case MG_Q5_K:
        return 5000;
    case MG_IQ4_NL:
    case MG_IQ4_XS:
        return 7500;
    case MG_IQ1_S:
    case MG_IQ1_M:
        return 20000;
    case MG_IQ2_XXS:
    case MG_IQ2_XS:
    case MG_IQ2_S:
    case MG_IQ3_XXS:
    case MG_IQ3_S:
        return 50000;
    default:
        return 500;
    }
}

static uint64_t add(uint64_t a, uint64_t b) {
    uint64_t sum;
    return mg_add_u64(a, b, &sum) ? sum : UINT64_MAX;
}

static uint64_t mul(uint64_t a, uint64_t b) {
    uint64_t product;
    return mg_mul_u64(a, b, &product) ? product : UINT64_MAX;
}

/* a * b / c, c not 0, without losing the product's upper half. */
static uint64_t scale(uint64_t a, uint64_t b, uint64_t c) {
    const unsigned __int128 q = (unsigned __int128)a * b / c;
    return q > UINT64_MAX ? UINT64_MAX : (uint64_t)q;
}

static uint64_t cast_cost(const mg_expr *e) {
    const uint64_t each = encode_cost(e->t.dtype);
    if (e->op != MG_EX_CAST) return 0;
    return mul(e->t.n_elements, e->weights ? 2 * each : each); /* weighted searches take twice as long */
}

/* Cost of all rows of an expression, given that of its children: cost[node]. */
static uint64_t node_cost(const mg_expr *e, const uint64_t *cost) {
    uint64_t sum = add(mul(e->t.n_bytes, BYTE_COST), cast_cost(e));
    for (uint32_t i = 0; i < e->n_children; i++) {
        const mg_expr *c = e->children[i];
        uint64_t part = cost[c->index];
        /* of a tensor that is only cut out of, the rest is not read */
        if (e->op == MG_EX_VIEW && c->t.n_elements > e->t.n_elements)
            part = scale(part, e->t.n_elements, c->t.n_elements);
        sum = add(sum, part);
    }
    return sum;
}

/* Cost of all units of a group: the core once, and every member's own work. */
static uint64_t group_cost(const mg_plan_units *u, const mg_plan_group *g, const uint64_t *cost) {
    uint64_t sum = cost[g->core->index];
    for (uint32_t i = 0; i < g->n_members; i++) {
        const mg_expr *e = u->members[g->first_member + i].e;
        if (e == g->core) continue;
        sum = add(sum, add(mul(e->t.n_bytes, BYTE_COST), cast_cost(e)));
    }
    return sum;
}

/* before[g] = cost of the groups before g, before[n_groups] of all; small enough that nothing below overflows. */
static mg_status sum_up(const mg_plan *p, const mg_plan_units *u, uint64_t *before, mg_error *err) {
    uint64_t *cost = calloc((size_t)p->n_nodes + 1, sizeof *cost);
    if (!cost) return mg_fail_nomem(err, p->n_nodes * sizeof *cost);
    for (uint32_t i = 0; i < p->n_nodes; i++) cost[p->nodes[i]->index] = node_cost(p->nodes[i], cost);
    uint64_t sum = 0;
    for (uint32_t g = 0; g < u->n_groups; g++) {
        before[g] = sum;
        if (u->groups[g].n_units) sum = add(sum, group_cost(u, &u->groups[g], cost) / 1000 + u->groups[g].n_units);
    }
    before[u->n_groups] = sum;
    free(cost);
    return MG_OK;
}

mg_status mg_plan_shares(const mg_plan *p, const mg_plan_units *u, uint32_t world, uint64_t *bounds, uint64_t *costs,
                         mg_error *err) {
    uint64_t *before = calloc((size_t)u->n_groups + 1, sizeof *before);
    if (!before) return mg_fail_nomem(err, u->n_groups * sizeof *before);
    mg_status st = sum_up(p, u, before, err);
    const uint64_t total = before[u->n_groups];
    uint32_t r = 0;
    for (uint32_t g = 0; st == MG_OK && g < u->n_groups; g++) {
        const mg_plan_group *group = &u->groups[g];
        for (uint64_t i = 0; i < group->n_units; i++) {
            /* a unit begins here; rank r begins at the first that lies in its part */
            const uint64_t at = before[g] + scale(before[g + 1] - before[g], i, group->n_units);
            for (; r < world && at >= scale(total, r, world); r++) {
                bounds[r] = group->first_unit + i;
                if (costs) costs[r] = at;
            }
        }
    }
    for (; r <= world; r++) {
        bounds[r] = u->n_units;
        if (costs) costs[r] = total;
    }
    free(before);
    return st;
}

/* Output bytes of units [first, end). */
uint64_t mg_plan_units_bytes(const mg_plan_units *u, uint64_t first, uint64_t end) {
    uint64_t total = 0;
    for (uint32_t i = 0; i < u->n_groups; i++) {
        const mg_plan_group *g = &u->groups[i];
        const uint64_t from = first > g->first_unit ? first : g->first_unit;
        const uint64_t to = end < g->first_unit + g->n_units ? end : g->first_unit + g->n_units;
        if (from >= to) continue;
        const uint64_t row = (from - g->first_unit) * g->unit_rows, stop = (to - g->first_unit) * g->unit_rows;
        for (uint32_t m = 0; m < g->n_members; m++)
            total +=
                ((stop < g->core->rows ? stop : g->core->rows) - row) * u->members[g->first_member + m].e->row_bytes;
    }
    return total;
}

mg_status mg_plan_share_list(mg_plan *p, uint32_t world, mg_plan_share *shares, mg_error *err) {
    mg_plan_units u;
    MG_TRY(mg_plan_layout(p, err));
    MG_TRY(mg_plan_units_init(&u, p, err));
    uint64_t *bounds = calloc(2 * ((size_t)world + 1), sizeof *bounds), *costs = bounds + world + 1;
    mg_status st =
        bounds ? mg_plan_shares(p, &u, world, bounds, costs, err) : mg_fail_nomem(err, world * sizeof *bounds);
    for (uint32_t r = 0; st == MG_OK && r < world; r++)
        shares[r] =
            (mg_plan_share){.first_unit = bounds[r],
                            .n_units = bounds[r + 1] - bounds[r],
                            .bytes = mg_plan_units_bytes(&u, bounds[r], bounds[r + 1]),
                            .cost = costs[world] ? (double)(costs[r + 1] - costs[r]) / (double)costs[world] : 0};
    free(bounds);
    mg_plan_units_release(&u);
    return st;
}

mg_status mg_exec_share_init(mg_exec *x, mg_error *err) {
    const uint32_t world = x->opt->world;
    x->end_unit = x->end_visit = x->units.n_units;
    if (!world) return MG_OK;
    if (x->opt->rank >= world)
        return mg_fail(err, MG_ERR_USAGE, "rank %u of %u: ranks count from 0", x->opt->rank, world);
    x->bounds = calloc((size_t)world + 1, sizeof *x->bounds);
    if (!x->bounds) return mg_fail_nomem(err, world * sizeof *x->bounds);
    MG_TRY(mg_plan_shares(x->p, &x->units, world, x->bounds, NULL, err));
    x->first_unit = x->bounds[x->opt->rank];
    x->end_unit = x->end_visit = x->bounds[x->opt->rank + 1];
    if (!x->opt->manifest || !x->opt->hash_sources || x->first_unit == x->end_unit) return MG_OK;
    /* the digest of what the last tensor was encoded from goes on where the next rank writes */
    uint64_t row, n;
    const mg_plan_group *last = mg_plan_unit_at(&x->units, x->end_unit - 1, &row, &n);
    if (last->first_unit >= x->first_unit && mg_exec_is_encoded(x, last))
        x->end_visit = last->first_unit + last->n_units;
    return MG_OK;
}

bool mg_exec_is_ours(const mg_exec *x, uint64_t unit) {
    return unit >= x->first_unit && unit < x->end_unit;
}
