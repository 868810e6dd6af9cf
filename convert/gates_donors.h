/* gates_donors.h - what donors themselves say about routing: rows of their own routers, the direction in which their
 * feed-forward blocks left the base, and which of several experts of one donor a token is for. */
#ifndef MG_CONVERT_GATES_DONORS_H
#define MG_CONVERT_GATES_DONORS_H

#include "convert/gates.h"
#include "convert/merge.h"

/* keep: the row of each expert in its donor's router. rows: [layers][stride][hidden]. MG_ERR_CONFLICT: a donor that is
 * dense, and so has no router. */
mg_status mg_gates_keep(const mg_merge *m, uint32_t stride, float *rows, mg_error *err) MG_MUST_CHECK;

/* svd: the first right singular vector, of length 1, of D = gate projection of the expert less that of the base; of its
 * two signs the one along which the sum of D's rows points, so that the expert's gates open more than the base's. Power
 * iteration on D^T D. MG_ERR_CONFLICT: an expert that does not differ from the base. */
mg_status mg_gates_svd(const mg_merge *m, mg_pool *pool, uint32_t stride, float *rows, mg_error *err) MG_MUST_CHECK;

/* mg_gate_map.choose, ctx an mg_gates_donors: of a mixture's experts the one its own router likes best at this input;
 * of slices of one block the one that contributes most, sum_j h_j^2 |down_j|^2 over its inner units j, where h is what
 * the donor's block makes of the token. */
typedef struct mg_gates_donors {
    const mg_merge *merge;
    const mg_evaluator *eval;
} mg_gates_donors;
mg_status mg_gates_choose(void *ctx, const mg_gate_group *g, mg_error *err) MG_MUST_CHECK;

#endif
