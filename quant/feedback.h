/* feedback.h - a weight in a ggml block type whose codes make up for each other's errors: scales and minimums as the
 * reference encoder finds them, then codes column by column as GPTQ chooses them (quant/gptq.h), within the grid that
 * the stored scales give. The bytes are ordinary blocks of the type.
 *
 * Scales are chosen before any column is rounded, so columns go in the order of falling diagonal whatever block they
 * are in. Each row is tried four times, and what costs least is kept: with the scales that the encoder finds for the
 * weights without and with importance weights, and then for the best try's weights plus the errors each column had to
 * make up for. Importance weights are the pivots D_k of the factored Hessian: what an error in column k costs when
 * those after it make up for it as well as they can.
 *
 * Fixed order of operations: the same bytes for every number of threads and instruction set. */
#ifndef MG_QUANT_FEEDBACK_H
#define MG_QUANT_FEEDBACK_H

#include "quant/gptq.h"

/* Has the type a grid that codes can be chosen on one by one? Codebooks of several weights at once have none. */
bool mg_feedback_supports(mg_dtype t);
/* All rows of b as blocks of type t [rows][row bytes]. A Hessian without statistics, or one that could not be factored,
 * gives the encoder's own bytes without importance weights. *loss: sum of D_k error^2. */
mg_status mg_feedback_encode(const mg_gptq *h, mg_dtype t, mg_model *m, const mg_bound *b, uint8_t *blocks,
                             mg_pool *pool, double *loss, mg_error *err) MG_MUST_CHECK;

#endif
