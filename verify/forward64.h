/* forward64.h - the same forward pass in double with the C library's functions: the yardstick of the f32 pass.
 *
 * Plain loops, no cache, no promise about bits across machines (libm); independent of the thread count. Use it to see
 * how far f32 rounding goes, on models and texts of moderate size. */
#ifndef MG_VERIFY_FORWARD64_H
#define MG_VERIFY_FORWARD64_H

#include "formats/base/pool.h"
#include "quant/eval.h"

typedef struct mg_forward64 mg_forward64;

/* experts_per_token as in mg_forward_options. */
mg_status mg_forward64_new(mg_forward64 **out, mg_pool *pool, uint32_t experts_per_token, mg_error *err) MG_MUST_CHECK;
void mg_forward64_free(mg_forward64 *f);

/* x [n, hidden]. */
mg_status mg_forward64_embed(mg_forward64 *f, mg_model *m, const int32_t *ids, uint64_t n, double *x,
                             mg_error *err) MG_MUST_CHECK;
/* One layer in place. router (may be NULL): *router = logits [n_tokens, experts] of this layer, valid until the next
 * call; NULL for a dense layer. */
mg_status mg_forward64_layer(mg_forward64 *f, mg_model *m, uint32_t layer, const mg_batch *batch, double *x,
                             const double **router, mg_error *err) MG_MUST_CHECK;
mg_status mg_forward64_final_norm(mg_forward64 *f, mg_model *m, const double *x, uint64_t n, double *y,
                                  mg_error *err) MG_MUST_CHECK;
/* logits [n, vocab] of x [n, hidden] (before the final norm). */
mg_status mg_forward64_logits(mg_forward64 *f, mg_model *m, const double *x, uint64_t n, double *logits,
                              mg_error *err) MG_MUST_CHECK;

#endif
