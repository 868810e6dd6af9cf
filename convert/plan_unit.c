/* plan_unit.c - cutting a plan into units of work.
 *
 * Group: all output tensors (of all outputs) whose expression is the same core, or one cast or part of it; the core is
 * evaluated once per unit and every member encodes from it. Groups follow the order of their first member; units number
 * the rows of the groups in ascending order. The numbering is a function of the plan alone, never of threads or memory:
 * the journal of an interrupted run refers to it. */
#include "convert/plan_private.h"

#include <stdlib.h>
#include <string.h>

static const mg_expr *core_of(const mg_expr *e) {
    return e->op == MG_EX_CAST || e->op == MG_EX_PART || e->op == MG_EX_FP4 ? e->children[0] : e;
}

/* Rows per unit: about unit_bytes of the larger of stored and f32 rows, a multiple of the grain. */
static uint64_t unit_rows(const mg_plan *p, const mg_expr *core, bool any_cast) {
    if (core->op == MG_EX_GROUPS) return mg_expr_group_unit(core, p->unit_bytes);
    uint64_t cost = core->row_bytes, f32 = mg_tensor_cols(&core->t) * sizeof(float);
    if (any_cast && f32 > cost) cost = f32;
    if (cost == 0) cost = 1;
    uint64_t rows = p->unit_bytes / cost, grain = core->grain;
    if (rows == 0) rows = 1;
    if (rows >= grain) return rows - rows % grain;
    return grain <= 4 * p->unit_bytes / cost ? grain : rows;
}

/* Number the groups in order of first appearance and count their members. */
static void find_groups(mg_plan_units *u, const mg_plan *p, uint32_t *group_of_node) {
    for (uint32_t o = 0; o < p->n_outputs; o++)
        for (uint32_t t = 0; t < p->outputs[o]->n_tensors; t++) {
            const mg_expr *core = core_of(p->outputs[o]->tensors[t].e);
            uint32_t *g = &group_of_node[core->index];
            if (*g == UINT32_MAX) {
                *g = u->n_groups++;
                u->groups[*g].core = core;
            }
            u->groups[*g].n_members++;
        }
}

static void fill_members(mg_plan_units *u, const mg_plan *p, const uint32_t *group_of_node) {
    uint32_t at = 0;
    for (uint32_t g = 0; g < u->n_groups; g++) {
        u->groups[g].first_member = at;
        at += u->groups[g].n_members;
        u->groups[g].n_members = 0;
    }
    for (uint32_t o = 0; o < p->n_outputs; o++)
        for (uint32_t t = 0; t < p->outputs[o]->n_tensors; t++) {
            const mg_expr *e = p->outputs[o]->tensors[t].e;
            mg_plan_group *g = &u->groups[group_of_node[core_of(e)->index]];
            u->members[g->first_member + g->n_members++] = (mg_plan_member){.output = o, .tensor = t, .e = e};
        }
}

static void cut(mg_plan_units *u, const mg_plan *p) {
    for (uint32_t i = 0; i < u->n_groups; i++) {
        mg_plan_group *g = &u->groups[i];
        uint64_t largest = 0;
        for (uint32_t m = 0; m < g->n_members; m++) {
            const mg_expr *e = u->members[g->first_member + m].e;
            if (e != g->core && e->row_bytes > largest) largest = e->row_bytes;
        }
        g->unit_rows = unit_rows(p, g->core, largest > 0);
        g->first_unit = u->n_units;
        g->n_units = g->core->t.n_bytes ? (g->core->rows + g->unit_rows - 1) / g->unit_rows : 0;
        u->n_units += g->n_units;
        uint64_t rows = g->unit_rows < g->core->rows ? g->unit_rows : g->core->rows;
        uint64_t tile = rows * (g->core->row_bytes + largest);
        if (g->core->op == MG_EX_GROUPS) tile += mg_expr_group_scratch(g->core);
        if (tile > u->tile_bytes) u->tile_bytes = tile;
    }
}

mg_status mg_plan_units_init(mg_plan_units *u, const mg_plan *p, mg_error *err) {
    memset(u, 0, sizeof *u);
    for (uint32_t o = 0; o < p->n_outputs; o++) u->n_members += p->outputs[o]->n_tensors;
    u->groups = calloc(u->n_members + 1, sizeof *u->groups);
    u->members = calloc(u->n_members + 1, sizeof *u->members);
    uint32_t *group_of_node = malloc(((size_t)p->n_nodes + 1) * sizeof *group_of_node);
    if (!u->groups || !u->members || !group_of_node) {
        free(group_of_node);
        mg_plan_units_release(u);
        return mg_fail_nomem(err, u->n_members * sizeof *u->groups);
    }
    memset(group_of_node, 0xFF, ((size_t)p->n_nodes + 1) * sizeof *group_of_node);
    find_groups(u, p, group_of_node);
    fill_members(u, p, group_of_node);
    cut(u, p);
    free(group_of_node);
    return MG_OK;
}

void mg_plan_units_release(mg_plan_units *u) {
    free(u->groups);
    free(u->members);
    memset(u, 0, sizeof *u);
}

const mg_plan_group *mg_plan_unit_at(const mg_plan_units *u, uint64_t unit, uint64_t *row, uint64_t *n_rows) {
    uint32_t lo = 0, hi = u->n_groups; /* the last group with first_unit <= unit; empty groups have no units */
    while (hi - lo > 1) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (u->groups[mid].first_unit <= unit)
            lo = mid;
        else
            hi = mid;
    }
    const mg_plan_group *g = &u->groups[lo];
    *row = (unit - g->first_unit) * g->unit_rows;
    *n_rows = g->core->rows - *row < g->unit_rows ? g->core->rows - *row : g->unit_rows;
    return g;
}
