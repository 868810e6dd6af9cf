/* forward.h - the reference forward pass: any bound checkpoint (safetensors, GGUF of any block type, plans) in f32.
 *
 * Weights stream from the checkpoint layer by layer in tiles of a few MiB and are never held; activations of one batch
 * are. So run many tokens per call: each call reads every weight once. Results are the same bits for every thread
 * count, instruction set, batch composition and chunking, with and without a cache (rules: docs/numerics.md).
 *
 * One mg_forward serves any number of models, one call at a time (it is not thread safe; its own threads come from the
 * pool). Layers are driven by the caller through mg_forward_layer or, for other rooms, the mg_evaluator. */
#ifndef MG_VERIFY_FORWARD_H
#define MG_VERIFY_FORWARD_H

#include "formats/base/pool.h"
#include "quant/eval.h"
#include "verify/kvcache.h"

typedef struct mg_forward mg_forward;

#define MG_EXPERTS_ALL UINT32_MAX

typedef struct mg_forward_options {
    uint32_t experts_per_token; /* 0 = what the model says; MG_EXPERTS_ALL; else k <= experts (MG_ERR_USAGE otherwise).
                                   Dense models ignore it. */
    uint64_t keep_bytes; /* keep up to this many bytes of packed weights between calls (for decoding); 0 = none,
                            everything streams. A model that was run must then outlive the pass, or be dropped with
                            mg_forward_forget before it is freed */
} mg_forward_options;

/* pool is borrowed; NULL = the calling thread alone. opt NULL = defaults. */
mg_status mg_forward_new(mg_forward **out, mg_pool *pool, const mg_forward_options *opt, mg_error *err) MG_MUST_CHECK;
void mg_forward_free(mg_forward *f);

/* Drop kept weights of all models. */
void mg_forward_forget(mg_forward *f);

/* What it was made with. */
mg_pool *mg_forward_pool(const mg_forward *f);
uint32_t mg_forward_experts(const mg_forward *f); /* experts_per_token */

/* The contract of quant/eval.h over f; valid while f lives. */
mg_evaluator mg_forward_evaluator(mg_forward *f);

/* MG_ERR_UNSUPPORTED or MG_ERR_CONFLICT when m is something this pass cannot run, before any work. */
mg_status mg_forward_check(const mg_model *m, mg_error *err) MG_MUST_CHECK;

/* x [n, hidden] = rows of the embedding. Ids outside the vocabulary: MG_ERR_FORMAT. */
mg_status mg_forward_embed(mg_forward *f, mg_model *m, const int32_t *ids, uint64_t n, float *x,
                           mg_error *err) MG_MUST_CHECK;
/* As mg_evaluator.run_layer, and with a cache: sequence s continues at position cache->past[s] and its keys and values
 * are stored. The caller moves cache->past on after the last layer (mg_forward_run does). cache NULL: positions start
 * at 0. */
mg_status mg_forward_layer(mg_forward *f, mg_model *m, mg_kvcache *cache, uint32_t layer, unsigned parts,
                           const mg_batch *batch, float *x, mg_tap_fn tap, void *tap_ctx, mg_error *err) MG_MUST_CHECK;
/* y = final norm of x, both [n, hidden]; y may be x. */
mg_status mg_forward_final_norm(mg_forward *f, mg_model *m, const float *x, uint64_t n, float *y,
                                mg_error *err) MG_MUST_CHECK;
/* Final norm and output head: logits [n, vocab] of x [n, hidden]. */
mg_status mg_forward_logits(mg_forward *f, mg_model *m, const float *x, uint64_t n, float *logits,
                            mg_error *err) MG_MUST_CHECK;

/* Embedding and all layers: x [n_tokens, hidden] of ids [n_tokens]. cache as above (past is moved on). */
mg_status mg_forward_run(mg_forward *f, mg_model *m, mg_kvcache *cache, const mg_batch *batch, const int32_t *ids,
                         float *x, mg_tap_fn tap, void *tap_ctx, mg_error *err) MG_MUST_CHECK;

/* Rows of the output head: columns of the logits. */
uint64_t mg_forward_vocab(const mg_model *m);

/* Bytes of activations that one token of a batch takes, for choosing batches within a budget. */
uint64_t mg_forward_token_bytes(const mg_forward *f, const mg_model *m);

#endif
