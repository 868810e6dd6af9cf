/* panels.h - packed weights, as codes where they are such and as f32, kept between calls, for models small enough and
 * runs of many short calls (decoding).
 *
 * Off unless a budget is given: then whole matrices are kept, first come, first served, until the budget is used up;
 * the rest streams as always. Bits do not change: the panels are those the kernel would be fed anyway. */
#ifndef MG_VERIFY_PANELS_H
#define MG_VERIFY_PANELS_H

#include "quant/code_source.h"

/* One matrix: tiles of nc output columns. tile[i] is NULL until the ticket that owns it has filled it: with panels of
 * codes where codes.form.bits says so, else of f32, those of the chunk at k0 from float k0 * (columns rounded up to 16)
 * on. */
typedef struct mg_panel_entry {
    const mg_model *m;
    const mg_bound *w;
    mg_code_source codes;
    uint64_t nc, tiles;
    void **tile;
} mg_panel_entry;

typedef struct mg_panel_cache {
    uint64_t budget, used;  /* bytes */
    mg_panel_entry **slots; /* hash table, open addressing, n_slots a power of two */
    uint64_t n_slots, n;
} mg_panel_cache;

void mg_panels_clear(mg_panel_cache *c); /* keeps the budget */

/* The entry of weight w of m; NULL: not cached. Not thread safe, neither is mg_panels_new. */
mg_panel_entry *mg_panels_find(const mg_panel_cache *c, const mg_model *m, const mg_bound *w);
/* An entry for weight w [rows, k], which has none, in tiles of nc columns: of codes where codes->form.bits is not 0,
 * and *codes is the entry's then; else of f32. NULL: the budget does not allow it, or none was given. */
mg_panel_entry *mg_panels_new(mg_panel_cache *c, const mg_model *m, const mg_bound *w, uint64_t rows, uint64_t k,
                              uint64_t nc, mg_code_source *codes);

#endif
