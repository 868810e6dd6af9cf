/* type_solver.h - which of several encodings each tensor gets so that a file stays within a size: the sum of costs is
 * made as small as it can be.
 *
 * A table over sizes (multiple choice knapsack by dynamic programming): entry [i][s] is the least cost of the first i
 * tensors in s units. The unit is the greatest common divisor of the sizes, so the answer is exact; only where that
 * would need more than MG_SOLVER_UNITS entries per tensor sizes are rounded up to a coarser unit, which may leave up to
 * one part in MG_SOLVER_UNITS per tensor unused and never exceeds the budget. Ties go to the first option. */
#ifndef MG_QUANT_TYPE_SOLVER_H
#define MG_QUANT_TYPE_SOLVER_H

#include "formats/base/status.h"

#define MG_SOLVER_UNITS (1u << 17)

typedef struct mg_solver_option {
    uint64_t bytes;
    double cost; /* any unit that adds up, here divergence in nats */
} mg_solver_option;

typedef struct mg_solver_item {
    const mg_solver_option *options;
    uint32_t n;      /* 1..255 */
    uint32_t chosen; /* result */
} mg_solver_item;

/* Choose for every item; *cost is the sum. MG_ERR_USAGE, naming both sizes, when the smallest options together exceed
 * the budget. */
mg_status mg_solve_types(mg_solver_item *items, uint32_t n, uint64_t budget, double *cost, mg_error *err) MG_MUST_CHECK;

#endif
