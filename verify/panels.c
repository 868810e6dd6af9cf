/* panels.c - see panels.h. Running out of memory only means that something is not cached. */
#include "verify/panels.h"

#include <stdlib.h>

#include "formats/base/checked.h"
#include "quant/math/mathops.h"

static void entry_free(mg_panel_entry *e) {
    if (!e) return;
    for (uint64_t i = 0; i < e->tiles; i++) free(e->tile[i]);
    mg_code_source_release(&e->codes);
    free(e->tile);
    free(e);
}

void mg_panels_clear(mg_panel_cache *c) {
    for (uint64_t i = 0; i < c->n_slots; i++) entry_free(c->slots[i]);
    free(c->slots);
    *c = (mg_panel_cache){.budget = c->budget};
}

/* The slot that holds w, or the empty one where it belongs. */
static mg_panel_entry **slot_of(mg_panel_entry **slots, uint64_t n, const mg_model *m, const mg_bound *w) {
    uint64_t h = (uint64_t)(uintptr_t)w * 0x9E3779B97F4A7C15u;
    for (uint64_t i = h >> 32;; i++) {
        mg_panel_entry **s = &slots[i & (n - 1)];
        if (!*s || ((*s)->w == w && (*s)->m == m)) return s;
    }
}

static bool grow(mg_panel_cache *c) {
    const uint64_t n = c->n_slots ? 2 * c->n_slots : 64;
    mg_panel_entry **slots = calloc(n, sizeof(mg_panel_entry *));
    if (!slots) return false;
    for (uint64_t i = 0; i < c->n_slots; i++)
        if (c->slots[i]) *slot_of(slots, n, c->slots[i]->m, c->slots[i]->w) = c->slots[i];
    free(c->slots);
    c->slots = slots;
    c->n_slots = n;
    return true;
}

mg_panel_entry *mg_panels_find(const mg_panel_cache *c, const mg_model *m, const mg_bound *w) {
    return c->n_slots ? *slot_of(c->slots, c->n_slots, m, w) : NULL;
}

mg_panel_entry *mg_panels_new(mg_panel_cache *c, const mg_model *m, const mg_bound *w, uint64_t rows, uint64_t k,
                              uint64_t nc, mg_code_source *codes) {
    uint64_t bytes;
    if (!c->budget || !rows) return NULL;
    if (2 * (c->n + 1) > c->n_slots && !grow(c)) return NULL;
    const uint64_t panels = (rows - 1) / MG_GEMM_NR + 1;
    const bool sized = codes->form.bits ? mg_mul_u64(panels, mg_codes_panel_bytes(&codes->form), &bytes)
                                        : mg_mul_u64(panels * MG_GEMM_NR * sizeof(float), k, &bytes);
    if (!sized || bytes > c->budget - c->used) return NULL;
    mg_panel_entry *e = calloc(1, sizeof *e);
    if (!e) return NULL;
    *e = (mg_panel_entry){.m = m, .w = w, .nc = nc, .tiles = (rows + nc - 1) / nc};
    e->tile = calloc(e->tiles, sizeof *e->tile);
    if (!e->tile) {
        free(e);
        return NULL;
    }
    e->codes = *codes;
    *codes = (mg_code_source){0};
    c->used += bytes;
    c->n++;
    return *slot_of(c->slots, c->n_slots, m, w) = e;
}
