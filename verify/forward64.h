/* forward64.h - the same forward pass in double with the C library's functions: the yardstick of the f32 pass, and what
 * an engine of 16 bits would make of the model.
 *
 * Plain loops, no cache, no promise about bits across machines (libm); independent of the thread count. Use it to see
 * how far rounding goes, on models and texts of moderate size. With MG_PRECISION_BF16 or _F16 the result of every
 * operation is rounded to that type (docs/numerics.md says which operations), weights as they are read. */
#ifndef MG_VERIFY_FORWARD64_H
#define MG_VERIFY_FORWARD64_H

#include "formats/base/pool.h"
#include "quant/eval.h"

typedef struct mg_forward64 mg_forward64;

typedef enum mg_precision {
    MG_PRECISION_F32, /* the f32 pass of forward.h; not for the pass of this header */
    MG_PRECISION_F64,
    MG_PRECISION_BF16,
    MG_PRECISION_F16,
} mg_precision;

/* "f32", "f64", "bf16", "f16"; NULL is f32. MG_ERR_USAGE for another word. */
mg_status mg_precision_parse(const char *word, mg_precision *out, mg_error *err) MG_MUST_CHECK;
const char *mg_precision_name(mg_precision p);

/* experts_per_token as in mg_forward_options. */
mg_status mg_forward64_new(mg_forward64 **out, mg_pool *pool, mg_precision precision, uint32_t experts_per_token,
                           mg_error *err) MG_MUST_CHECK;
void mg_forward64_free(mg_forward64 *f);

/* x [n, hidden]. */
mg_status mg_forward64_embed(mg_forward64 *f, mg_model *m, const int32_t *ids, uint64_t n, double *x,
                             mg_error *err) MG_MUST_CHECK;
/* One layer in place. router (may be NULL): *router = logits [n_tokens, experts] of this layer, valid until the next
 * call; NULL for a dense layer. */
mg_status mg_forward64_layer(mg_forward64 *f, mg_model *m, uint32_t layer, const mg_batch *batch, double *x,
                             const double **router, mg_error *err) MG_MUST_CHECK;
/* Embedding and all layers: x [n_tokens, hidden] of ids. tap (may be NULL) sees MG_TAP_ROUTER_LOGITS and
 * MG_TAP_LAYER_OUT, rounded to f32. */
mg_status mg_forward64_run(mg_forward64 *f, mg_model *m, const mg_batch *batch, const int32_t *ids, double *x,
                           mg_tap_fn tap, void *tap_ctx, mg_error *err) MG_MUST_CHECK;
mg_status mg_forward64_final_norm(mg_forward64 *f, mg_model *m, const double *x, uint64_t n, double *y,
                                  mg_error *err) MG_MUST_CHECK;
/* logits [n, vocab] of x [n, hidden] (before the final norm). */
mg_status mg_forward64_logits(mg_forward64 *f, mg_model *m, const double *x, uint64_t n, double *logits,
                              mg_error *err) MG_MUST_CHECK;

#endif
