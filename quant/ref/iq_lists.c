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

/* Squared distances between halves of patterns, dims/2 codes each: a distance is the sum of two entries. */
typedef struct halves {
    int bits; /* of a half */
    uint8_t d2[256][256];
} halves;

static void fill_halves(const mg_iq_grid *g, halves *h) {
    h->bits = g->dims * g->bits / 2;
    for (uint32_t a = 0; a < 1u << h->bits; a++)
        for (uint32_t b = 0; b < 1u << h->bits; b++) {
            int d2 = 0;
            for (int j = 0; j < g->dims / 2; j++) {
                int d = mg_iq_code(g, a, j) - mg_iq_code(g, b, j);
                d2 += d * d;
            }
            h->d2[a][b] = (uint8_t)d2;
        }
}

/* Distances of all points to a pattern; returns the k-th smallest distinct one (k = shells). */
static int distances(const mg_iq_grid *g, const halves *h, uint32_t pattern, uint8_t *dist) {
    const uint8_t *low = h->d2[pattern & ((1u << h->bits) - 1u)], *high = h->d2[pattern >> h->bits];
    uint32_t mask = (1u << h->bits) - 1u;
    bool seen[MAX_DISTANCE + 1] = {false};
    for (uint32_t p = 0; p < g->n; p++) {
        dist[p] = (uint8_t)(low[g->points[p] & mask] + high[g->points[p] >> h->bits]);
        seen[dist[p]] = true;
    }
    int last = 0;
    for (int d2 = 0, shells = 0; d2 <= MAX_DISTANCE && shells < g->shells; d2++)
        if (seen[d2]) {
            shells++;
            last = d2;
        }
    return last;
}

/* Writes one list, points by (distance, index) up to distance last; returns its filled length. */
static uint32_t write_list(const mg_iq_grid *g, const uint8_t *dist, int last, uint16_t *out) {
    uint16_t near[MAX_POINTS], count = 0;
    uint32_t used = 0;
    for (uint32_t p = 0; p < g->n; p++)
        if (dist[p] <= last) near[count++] = (uint16_t)p;
    for (int d2 = 0; d2 <= last; d2++)
        for (uint32_t i = 0; i < count; i++)
            if (dist[near[i]] == d2) out[used++] = g->points[near[i]];
    for (; used % 8 != 0; used++) out[used] = out[used - 1];
    return used;
}

static bool pattern_exists(const mg_iq_grid *g, uint32_t pattern) {
    for (int j = 0; j < g->dims; j++)
        if (mg_iq_code(g, pattern, j) >= g->levels) return false;
    return true;
}

/* Room for one more list; capacity doubles. */
static bool grow(uint16_t **lists, size_t used, size_t *capacity) {
    if (used + MAX_POINTS <= *capacity) return true;
    size_t want = 2 * *capacity + MAX_POINTS;
    uint16_t *p = realloc(*lists, want * sizeof **lists);
    if (!p) return false;
    *lists = p;
    *capacity = want;
    return true;
}

/* All lists, with their places in map; NULL without memory. */
static uint16_t *build_lists(const mg_iq_grid *g, const halves *h, uint32_t *map) {
    uint16_t *lists = NULL;
    uint8_t dist[MAX_POINTS];
    size_t used = 0, capacity = 0;
    for (uint32_t pattern = 0; pattern < 1u << (g->dims * g->bits); pattern++) {
        if (map[pattern] != UINT32_MAX || !pattern_exists(g, pattern)) continue;
        if (!grow(&lists, used, &capacity)) {
            free(lists);
            return NULL;
        }
        uint32_t n = write_list(g, dist, distances(g, h, pattern, dist), lists + used);
        map[pattern] = MG_OFF_GRID | n / 8 << 24 | (uint32_t)(used / 8);
        used += n;
    }
    uint16_t *fitted = realloc(lists, used * sizeof *lists);
    return fitted ? fitted : lists;
}

static void build(mg_iq_grid *g) {
    size_t patterns = (size_t)1 << (g->dims * g->bits);
    uint32_t *map = malloc(patterns * sizeof *map);
    halves *h = malloc(sizeof *h);
    if (map && h) {
        memset(map, 0xFF, patterns * sizeof *map);
        for (uint32_t p = 0; p < g->n; p++) map[g->points[p]] = p;
        fill_halves(g, h);
        g->lists = build_lists(g, h, map);
    }
    free(h);
    if (g->lists)
        g->map = map;
    else
        free(map);
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
