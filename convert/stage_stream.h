/* stage_stream.h - the residual stream of a text on its way through a model, layer by layer, for stages that look at
 * activations: kept in memory when it fits, else in temporary files compressed with zstd. */
#ifndef MG_CONVERT_STAGE_STREAM_H
#define MG_CONVERT_STAGE_STREAM_H

#include "formats/base/zfile.h"
#include "quant/eval.h"

typedef struct mg_stage_text {
    const int32_t *ids;  /* of all sequences, end to end */
    const uint32_t *len; /* [n_seqs] */
    uint32_t n_seqs;
    uint64_t n_tokens;
    uint64_t token_bytes; /* of activations that running a layer takes for each token of a batch */
} mg_stage_text;

typedef struct mg_stage_stream {
    const mg_evaluator *eval;
    const mg_stage_text *text;
    uint64_t hidden;
    struct mg_stage_batch {
        mg_batch batch;
        uint64_t token; /* the first */
    } * batches;
    uint32_t n_batches;
    uint64_t largest;      /* tokens of the largest batch */
    float *x;              /* [n_tokens][hidden], NULL when spilled */
    mg_zcapture *in, *out; /* when spilled: before and after the layer under way */
    float *buf;            /* [largest batch][hidden] */
} mg_stage_stream;

/* memory: for the stream and for the activations of a batch, half each. The stream starts as the embeddings. */
mg_status mg_stage_stream_init(mg_stage_stream *s, const mg_evaluator *eval, mg_model *m, const mg_stage_text *text,
                               uint64_t memory, mg_error *err) MG_MUST_CHECK;
void mg_stage_stream_release(mg_stage_stream *s);
/* Run parts of a layer of m over all tokens, with tap. keep: what comes out is the stream from now on. */
mg_status mg_stage_stream_run(mg_stage_stream *s, mg_model *m, uint32_t layer, unsigned parts, bool keep, mg_tap_fn tap,
                              void *ctx, mg_error *err) MG_MUST_CHECK;

/* The first n tokens of the stream as it is, into x [n][hidden]. */
mg_status mg_stage_stream_first(mg_stage_stream *s, uint64_t n, float *x, mg_error *err) MG_MUST_CHECK;

#endif
