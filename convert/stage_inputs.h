/* stage_inputs.h - private to the group stage: Gram matrices of the inputs of one layer's weights. */
#ifndef MG_CONVERT_STAGE_INPUTS_H
#define MG_CONVERT_STAGE_INPUTS_H

#include "convert/stage_stream.h"
#include "formats/arch/inputs.h"
#include "quant/math/gram.h"

/* One input: a place in the layer, and the expert for places inside experts. */
typedef struct mg_stage_input {
    mg_tap_point point;
    uint32_t expert;
    mg_gram gram;
    bool wanted;
    float most; /* largest magnitude seen */
} mg_stage_input;

/* All inputs of a layer, as many as the model has. */
typedef struct mg_stage_inputs {
    mg_stage_input *items;
    uint32_t n;
    mg_pool *pool;
    uint64_t *tokens; /* [experts] that reached each in the last run */
    uint32_t experts;
} mg_stage_inputs;

mg_status mg_stage_inputs_init(mg_stage_inputs *in, const mg_model *m, uint32_t layer, mg_pool *pool,
                               mg_error *err) MG_MUST_CHECK;
void mg_stage_inputs_release(mg_stage_inputs *in);
/* Where the forward pass shows an input. */
mg_tap_point mg_stage_tap_of(mg_layer_input input);
/* The input weights of this role read; NULL for roles that read none of them. */
mg_stage_input *mg_stage_input_of(const mg_stage_inputs *in, mg_role role, uint32_t expert);
/* Bytes a Gram matrix of it takes. */
uint64_t mg_stage_input_bytes(const mg_stage_input *x);
/* Gather the wanted ones in one run over parts of a layer; keep: see mg_stage_stream_run. Rows of experts count with
 * the square of their router weight: what their errors are multiplied by. */
mg_status mg_stage_inputs_gather(mg_stage_inputs *in, mg_stage_stream *s, mg_model *m, uint32_t layer, unsigned parts,
                                 bool keep, mg_error *err) MG_MUST_CHECK;
/* Forget the matrices, and what was wanted. */
void mg_stage_inputs_clear(mg_stage_inputs *in);

#endif
