/* iq_lists.c - neighbour lists of the IQ codebooks: computed, not stored. */
#include "quant/ref/iq_grids.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static mg_iq_grid grids[MG_GRID_COUNT] = {
    [MG_GRID_IQ2_XXS] = {mg_iq_points_iq2_xxs, 256, 8, 2, 3, 2, NULL, NULL},
    [MG_GRID_IQ2_XS] = {mg_iq_points_iq2_xs, 512, 8, 2, 3, 2, NULL, NULL},
    [MG_GRID_IQ2_S] = {mg_iq_points_iq2_s, 1024, 8, 2, 3, 1, NULL, NULL},
    [MG_GRID_IQ3_XXS] = {mg_iq_points_iq3_xxs, 256, 4, 3, 8, 2, NULL, NULL},
    [MG_GRID_IQ3_S] = {mg_iq_points_iq3_s, 512, 4, 3, 8, 3, NULL, NULL},
    [MG_GRID_IQ1] = {mg_iq_points_iq1, 2048, 8, 2, 3, 3, NULL, NULL},
};

enum { MAX_POINTS = 2048, MAX_DISTANCE = 4 * 49 }; /* 4 codes differing by 7; 8 codes differing by 2 give 32 */

/* Squared distances of all points to a pattern; below[] of size MAX_DISTANCE + 1 counts points per distance. */
static void distances(const mg_iq_grid *g, uint32_t pattern, uint8_t *dist, uint16_t *count) {
    memset(count, 0, (MAX_DISTANCE + 1) * sizeof *count);
    for (uint32_t p = 0; p < g->n; p++) {
        int d2 = 0;
        for (int j = 0; j < g->dims; j++) {
            int d = mg_iq_code(g, g->points[p], j) - mg_iq_code(g, pattern, j);
            d2 += d * d;
        }
        dist[p] = (uint8_t)d2;
        count[d2]++;
    }
}

/* Writes count and indices of one list at out; returns the number of values written. */
static uint32_t write_list(const mg_iq_grid *g, const uint8_t *dist, const uint16_t *count, uint16_t *out) {
    uint32_t used = 1;
    for (int d2 = 0, shells = 0; d2 <= MAX_DISTANCE && shells < g->shells; d2++) {
        if (count[d2] == 0) continue;
        shells++;
        for (uint32_t p = 0; p < g->n; p++)
            if (dist[p] == d2) out[used++] = (uint16_t)p;
    }
    out[0] = (uint16_t)(used - 1);
    return used;
}

static bool pattern_exists(const mg_iq_grid *g, uint32_t pattern) {
    for (int j = 0; j < g->dims; j++)
        if (mg_iq_code(g, pattern, j) >= g->levels) return false;
    return true;
}

/* Room for one more list of n + 1 values; capacity doubles. */
static bool grow(uint16_t **lists, size_t used, size_t *capacity) {
    if (used + MAX_POINTS + 1 <= *capacity) return true;
    size_t want = 2 * *capacity + MAX_POINTS + 1;
    uint16_t *p = realloc(*lists, want * sizeof **lists);
    if (!p) return false;
    *lists = p;
    *capacity = want;
    return true;
}

static void build(mg_iq_grid *g) {
    uint32_t patterns = 1u << (g->dims * g->bits);
    uint32_t *map = malloc(patterns * sizeof *map);
    uint16_t *lists = NULL, count[MAX_DISTANCE + 1];
    uint8_t dist[MAX_POINTS];
    size_t used = 0, capacity = 0;
    if (!map) return;
    memset(map, 0xFF, patterns * sizeof *map);
    for (uint32_t p = 0; p < g->n; p++) map[g->points[p]] = p;
    for (uint32_t pattern = 0; pattern < patterns; pattern++) {
        if (map[pattern] != UINT32_MAX || !pattern_exists(g, pattern)) continue;
        if (!grow(&lists, used, &capacity)) {
            free(map);
            free(lists);
            return;
        }
        distances(g, pattern, dist, count);
        map[pattern] = MG_OFF_GRID | (uint32_t)used;
        used += write_list(g, dist, count, lists + used);
    }
    uint16_t *fitted = realloc(lists, used * sizeof *lists);
    g->lists = fitted ? fitted : lists;
    g->map = map;
}

/* pthread_once passes no argument, hence one starter per codebook. */
#define STARTER(id)                                                                                                    \
    static void build_##id(void) {                                                                                     \
        build(&grids[id]);                                                                                             \
    }
STARTER(MG_GRID_IQ2_XXS)
STARTER(MG_GRID_IQ2_XS)
STARTER(MG_GRID_IQ2_S)
STARTER(MG_GRID_IQ3_XXS)
STARTER(MG_GRID_IQ3_S)
STARTER(MG_GRID_IQ1)

static struct {
    pthread_once_t once;
    void (*start)(void);
} starters[MG_GRID_COUNT] = {
    [MG_GRID_IQ2_XXS] = {PTHREAD_ONCE_INIT, build_MG_GRID_IQ2_XXS},
    [MG_GRID_IQ2_XS] = {PTHREAD_ONCE_INIT, build_MG_GRID_IQ2_XS},
    [MG_GRID_IQ2_S] = {PTHREAD_ONCE_INIT, build_MG_GRID_IQ2_S},
    [MG_GRID_IQ3_XXS] = {PTHREAD_ONCE_INIT, build_MG_GRID_IQ3_XXS},
    [MG_GRID_IQ3_S] = {PTHREAD_ONCE_INIT, build_MG_GRID_IQ3_S},
    [MG_GRID_IQ1] = {PTHREAD_ONCE_INIT, build_MG_GRID_IQ1},
};

mg_status mg_iq_grid_get(const mg_iq_grid **out, mg_iq_grid_id id, mg_error *err) {
    (void)pthread_once(&starters[id].once, starters[id].start);
    if (!grids[id].map) return mg_fail(err, MG_ERR_LIMIT, "out of memory for the neighbour lists of an IQ codebook");
    *out = &grids[id];
    return MG_OK;
}
