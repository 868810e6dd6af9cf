/* grid.c - the grid of experts: its edges, and how many weights of each scope a layer has. */
#include "formats/arch/arch_internal.h"

uint32_t mg_scope_count(mg_scope scope, const mg_hparams *hp) {
    switch (scope) {
    case MG_SCOPE_EXPERT:
        return (uint32_t)hp->i[MG_K_EXPERTS];
    case MG_SCOPE_EDGE:
        return mg_edge_count(hp);
    case MG_SCOPE_MODEL:
    case MG_SCOPE_LAYER:
    case MG_SCOPE_COUNT:
        break;
    }
    return 1;
}

/* Directed edges that start in rows above row r. */
static uint64_t edges_above(uint64_t gx, uint64_t gy, uint64_t r) {
    const uint64_t up = r > 0 ? r - 1 : 0, down = r < gy - 1 ? r : gy - 1;
    return 2 * (gx - 1) * r + gx * (up + down);
}

/* Directed edges that start at cells before cell. */
static uint64_t edges_before(uint64_t gx, uint64_t gy, uint64_t cell) {
    const uint64_t r = cell / gx, c = cell % gx;
    const uint64_t vertical = (uint64_t)(r > 0) + (uint64_t)(r + 1 < gy);
    return edges_above(gx, gy, r) + (c > 0 ? 2 * c - 1 : 0) + c * vertical;
}

uint32_t mg_edge_count(const mg_hparams *hp) {
    const uint64_t gx = (uint64_t)hp->i[MG_K_GRID_X], gy = (uint64_t)hp->i[MG_K_GRID_Y];
    if (!hp->i[MG_K_EXCHANGE] || gx == 0 || gy == 0) return 0;
    return (uint32_t)edges_above(gx, gy, gy);
}

void mg_edge_at(const mg_hparams *hp, uint32_t edge, uint32_t *src, uint32_t *dst) {
    const uint64_t gx = (uint64_t)hp->i[MG_K_GRID_X], gy = (uint64_t)hp->i[MG_K_GRID_Y];
    uint64_t lo = 0, hi = gx * gy; /* the source is in [lo, hi) */
    *src = *dst = 0;
    if (hi == 0) return;
    while (hi - lo > 1) {
        const uint64_t mid = lo + (hi - lo) / 2;
        if (edges_before(gx, gy, mid) <= edge)
            lo = mid;
        else
            hi = mid;
    }
    const uint64_t r = lo / gx, c = lo % gx;
    const struct {
        bool there;
        uint64_t cell;
    } near[4] = {{r > 0, lo - gx}, {c > 0, lo - 1}, {c + 1 < gx, lo + 1}, {r + 1 < gy, lo + gx}};
    uint64_t left = edge - edges_before(gx, gy, lo);
    *src = (uint32_t)lo;
    for (int i = 0; i < 4; i++)
        if (near[i].there && left-- == 0) *dst = (uint32_t)near[i].cell;
}

/* k cells in rows of w, the last row partly filled. */
static uint64_t bonds(uint64_t k, uint64_t w) {
    const uint64_t rows = k / w, rest = k % w;
    const uint64_t full = rows ? rows * (w - 1) + (rows - 1) * w : 0;
    return full + (rest ? rest - 1 + (rows ? rest : 0) : 0);
}

/* Cells packed as a rectangle with at most one unfilled side have the most neighbours. */
uint64_t mg_edge_most(const mg_hparams *hp, uint64_t k) {
    const uint64_t side[2] = {(uint64_t)hp->i[MG_K_GRID_X], (uint64_t)hp->i[MG_K_GRID_Y]};
    uint64_t most = 0;
    if (mg_edge_count(hp) == 0) return 0;
    for (int turned = 0; turned < 2; turned++)
        for (uint64_t w = 1; w <= side[turned] && w <= k; w++)
            if ((k + w - 1) / w <= side[!turned] && bonds(k, w) > most) most = bonds(k, w);
    return 2 * most;
}
