/* panels.h - packed f32 weights kept between calls, for models small enough and runs of many short calls (decoding).
 *
 * Off unless a budget is given: then whole matrices are kept, first come, first served, until the budget is used up;
 * the rest streams as always. Bits do not change: the panels are those the kernel would be fed anyway. */
#ifndef MG_VERIFY_PANELS_H
#define MG_VERIFY_PANELS_H

#include "formats/arch/model.h"

/* One matrix: tiles of nc output columns. tile[i] is NULL until the ticket that owns it has filled it: panels of
 * the chunk at k0 begin at tile[i] + k0 * (columns rounded up to 16). */
typedef struct mg_panel_entry {
    const mg_model *m;
    const mg_bound *w;
    uint64_t nc, tiles;
    float **tile;
} mg_panel_entry;

typedef struct mg_panel_cache {
    uint64_t budget, used;  /* bytes */
    mg_panel_entry **slots; /* hash table, open addressing, n_slots a power of two */
    uint64_t n_slots, n;
} mg_panel_cache;

void mg_panels_clear(mg_panel_cache *c); /* keeps the budget */

/* The entry of weight w [rows, k] of m; made with tiles of nc columns when there is none and the budget allows. NULL:
 * not cached. Not thread safe. */
mg_panel_entry *mg_panels_entry(mg_panel_cache *c, const mg_model *m, const mg_bound *w, uint64_t rows, uint64_t k,
                                uint64_t nc);

#endif
