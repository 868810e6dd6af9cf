/* stage_layer.h - private to the group stage: one layer by AWQ (stage_awq.c) or GPTQ (stage_gptq.c). */
#ifndef MG_CONVERT_STAGE_LAYER_H
#define MG_CONVERT_STAGE_LAYER_H

#include "convert/group_stage.h"
#include "convert/stage_exact.h"
#include "convert/stage_inputs.h"
#include "quant/gptq.h"

typedef struct mg_stage_work {
    const mg_group_stage_options *opt;
    uint64_t memory; /* of Gram matrices */
    mg_model *model;
    mg_stage_stream *stream;
    mg_stage_inputs in;
    mg_stage_exact exact; /* AWQ */
    mg_stage_layer out;
    mg_json *note;
    uint32_t layer;
    bool last; /* of the model: nobody reads what it gives */
    uint32_t few; /* experts without statistics of their own */
} mg_stage_work;

/* A weight for the report. */
void mg_stage_note(mg_stage_work *w, mg_role role, uint32_t expert, const mg_gptq *h, double loss);
/* What the layer's weights become, into w->out and w->note; the stream is moved past the layer, unless it is the last. */
mg_status mg_stage_awq(mg_stage_work *w, mg_error *err) MG_MUST_CHECK;
/* Blocks of a ggml type for the stored rows behind (role, expert), as opt->types wants them, into w->out. A tensor that
 * stays as it is, or that an earlier role of this input shares, is passed over. */
mg_status mg_stage_feedback(mg_stage_work *w, const mg_gptq *h, mg_role role, uint32_t expert,
                            mg_error *err) MG_MUST_CHECK;
/* v: a variant of w->model that w->out's codes are put into; cleared by the caller. */
mg_status mg_stage_gptq(mg_stage_work *w, mg_variant *v, mg_error *err) MG_MUST_CHECK;

/* Is this a weight whose rounding is worked on? Those that read latents are rounded to nearest. */
bool mg_stage_rounds(mg_role role);
/* The Gram matrix a weight is judged by: its input's, or for experts with few tokens that of all tokens, or NULL. */
const mg_gram *mg_stage_gram(const mg_stage_work *w, mg_role role, uint32_t expert);
bool mg_stage_few(const mg_stage_work *w, uint32_t expert);
/* Want all inputs at places of `mask` (1 << point), as many of those not done as fit; false: none was left. done [n].
 */
bool mg_stage_want(mg_stage_work *w, unsigned mask, bool *done);

#endif
