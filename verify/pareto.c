/* pareto.c - see pareto.h. */
#include "verify/pareto.h"

#include <math.h>
#include <stdlib.h>

static int by_size(const void *x, const void *y) {
    const mg_ranked *a = x, *b = y;
    if (a->unsized != b->unsized) return a->unsized ? -1 : 1;
    if (a->bytes != b->bytes) return a->bytes < b->bytes ? -1 : 1;
    if (a->figure < b->figure || a->figure > b->figure) return a->figure < b->figure ? -1 : 1;
    if (isnan(a->figure) != isnan(b->figure)) return isnan(b->figure) ? -1 : 1;
    return (a->index > b->index) - (a->index < b->index);
}

void mg_rank(mg_ranked *items, uint32_t n) {
    double best = (double)INFINITY;
    qsort(items, n, sizeof *items, by_size);
    for (uint32_t i = 0; i < n; i++) {
        items[i].pareto = !items[i].unsized && items[i].figure < best;
        if (items[i].pareto) best = items[i].figure;
    }
}
