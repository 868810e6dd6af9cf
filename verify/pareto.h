/* pareto.h - which of several models no other one beats in both size and a figure. */
#ifndef MG_VERIFY_PARETO_H
#define MG_VERIFY_PARETO_H

#include <stdbool.h>
#include <stdint.h>

typedef struct mg_ranked {
    uint64_t bytes;
    double figure; /* lower is better; NaN: none, never on the front */
    bool unsized;  /* has no size: listed first, never on the front */
    uint32_t index;
    bool pareto;
} mg_ranked;

/* Sort by size, of equal size the better first (then by index), and mark the front. */
void mg_rank(mg_ranked *items, uint32_t n);

#endif
