/* stage_exact.h - private to the group stage: what candidates of AWQ's scales do to the output of the block that reads
 * the scaled input: attention with its softmax, the feed-forward with its nonlinearity, its experts and their weights.
 * Gram matrices see the weights' own outputs only; the block is run for the last few candidates, on the first tokens of
 * the text.
 *
 * Rounded weights are made as they are read (mg_patch.round), so nothing of a weight's size is held. */
#ifndef MG_CONVERT_STAGE_EXACT_H
#define MG_CONVERT_STAGE_EXACT_H

#include "convert/stage_stream.h"
#include "quant/group_encode.h"
#include "quant/variant.h"

/* Tokens looked at. A candidate costs as much as running its block on them; with more of them the choice is seldom
 * another one. */
enum { MG_STAGE_EXACT_TOKENS = 512 };

typedef struct mg_stage_exact {
    mg_stage_stream *stream;
    mg_model *model;
    mg_variant *variant; /* of model */
    uint32_t layer;
    uint32_t *len; /* the first sequences, the last one cut */
    mg_batch batch;
    float *x[3]; /* [n_tokens][hidden] before attention, before the feed-forward, after it, with nothing rounded */
    float *work; /* [n_tokens][hidden] */
} mg_stage_exact;

/* Bytes it holds for a model of this width, the pass over the tokens aside. */
uint64_t mg_stage_exact_bytes(uint64_t hidden);
/* The stream is before the layer. x is released by mg_stage_exact_release also after a failure. */
mg_status mg_stage_exact_init(mg_stage_exact *x, mg_stage_stream *stream, mg_model *m, uint32_t layer,
                              mg_error *err) MG_MUST_CHECK;
void mg_stage_exact_release(mg_stage_exact *x);
/* Sum of squares of what the patches in x->variant change in the output of part, MG_PART_ATTN or MG_PART_FFN. */
mg_status mg_stage_exact_loss(mg_stage_exact *x, unsigned part, double *loss, mg_error *err) MG_MUST_CHECK;

#endif
