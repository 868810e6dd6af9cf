/* iq_grids.h - the codebooks of IQ1_*, IQ2_* and IQ3_* and their neighbour lists (private to quant/).
 *
 * A point has dims codes l of `bits` bits (8 x 2 with l = 0..2, or 4 x 3 with l = 0..7), packed with element 0 lowest.
 * Worth of a code to the encoder: 2 l + 1 (IQ1: l - 1 and a shift of 1/8). Worth to the decoder: IQ2 8, 25, 43; IQ3_XXS
 * 4, 12, 20, 28, 36, 44, 52, 62; IQ3_S 2 l + 1; IQ1 l - 1 +- 1/8.
 *
 * Only some patterns are points. For every other pattern the encoder tries the points at its k smallest distinct
 * squared distances (in codes), ordered by (distance, index). These lists are computed at the first use of a codebook.
 */
#ifndef MG_QUANT_IQ_GRIDS_H
#define MG_QUANT_IQ_GRIDS_H

#include "formats/base/status.h"

extern const uint16_t mg_iq_points_iq2_xxs[256], mg_iq_points_iq2_xs[512], mg_iq_points_iq2_s[1024];
extern const uint16_t mg_iq_points_iq3_xxs[256], mg_iq_points_iq3_s[512], mg_iq_points_iq1[2048];

typedef enum mg_iq_grid_id {
    MG_GRID_IQ2_XXS,
    MG_GRID_IQ2_XS,
    MG_GRID_IQ2_S,
    MG_GRID_IQ3_XXS,
    MG_GRID_IQ3_S,
    MG_GRID_IQ1,
    MG_GRID_COUNT
} mg_iq_grid_id;

typedef struct mg_iq_grid {
    const uint16_t *points; /* [n], ascending */
    uint32_t n;
    int dims, bits, levels; /* 8, 2, 3 or 4, 3, 8 */
    int shells;             /* k: distinct distances in a list */
    uint32_t
        *map; /* [1 << 16] or [1 << 12] by packed pattern: index of a point, or MG_OFF_GRID and where its list is */
    uint16_t *lists; /* packed points, each list filled up to a multiple of 8 with its last point, the rarest choice */
} mg_iq_grid;

#define MG_OFF_GRID 0x80000000u

/* The list of a map entry with MG_OFF_GRID, and its length. The first of equals wins, so the filling never does. */
static inline const uint16_t *mg_iq_list(const mg_iq_grid *g, uint32_t entry) {
    return g->lists + 8 * (size_t)(entry & 0xFFFFFFu);
}
static inline int mg_iq_list_length(uint32_t entry) {
    return (int)(8 * (entry >> 24 & 127));
}

/* The codebook with its lists, built by the first caller (any thread), kept for the life of the process; under 3 MiB
 * each. MG_ERR_LIMIT when memory ran out. */
mg_status mg_iq_grid_get(const mg_iq_grid **out, mg_iq_grid_id id, mg_error *err) MG_MUST_CHECK;

/* Code j of a packed point. */
static inline int mg_iq_code(const mg_iq_grid *g, uint32_t packed, int j) {
    return (int)(packed >> (g->bits * j)) & ((1 << g->bits) - 1);
}

#endif
