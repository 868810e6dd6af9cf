/* merge_units.h - which weights become which expert of a mixture. An entry of the recipe stands for one expert, for
 * those of a mixture it names, or for slices of its donor's inner dimension; a layer takes all of them or those of its
 * own list. */
#ifndef MG_CONVERT_MERGE_UNITS_H
#define MG_CONVERT_MERGE_UNITS_H

#include "convert/donors.h"
#include "convert/merge_spec.h"

typedef struct mg_merge_unit {
    uint32_t entry;         /* of the recipe's experts */
    uint32_t expert;        /* of its donor, where that is a mixture */
    uint32_t slice, slices; /* which part of the inner dimension, of how many */
} mg_merge_unit;

typedef struct mg_merge_units {
    const mg_merge_unit *unit; /* [n] in the recipe's order */
    uint32_t n;
    uint32_t per_layer;   /* experts of every layer that routes */
    const uint32_t *pick; /* [layers][per_layer] the unit that is that expert */
    uint64_t ffn;         /* inner size of each */
} mg_merge_units;

/* donors: [1 + n_experts], donors[0] the base, opened. MG_ERR_CONFLICT: experts of a mixture that it has not, sizes
 * that differ or cannot be split evenly, layers with different numbers of experts. Lists are in the arena. */
mg_status mg_merge_units_make(mg_merge_units *u, const mg_merge_spec *spec, const mg_donor *donors, mg_arena *arena,
                              mg_error *err) MG_MUST_CHECK;
/* The unit that is expert e of a layer. */
const mg_merge_unit *mg_merge_unit_at(const mg_merge_units *u, uint32_t layer, uint32_t e);

#endif
