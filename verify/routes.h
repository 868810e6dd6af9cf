/* routes.h - which experts every token takes, in every layer with a router. */
#ifndef MG_VERIFY_ROUTES_H
#define MG_VERIFY_ROUTES_H

#include "formats/base/progress.h"
#include "verify/forward.h"
#include "verify/windows.h"

#define MG_ROUTES_ALL UINT32_MAX

typedef struct mg_route_layer {
    uint32_t layer;   /* index in the model */
    uint32_t *expert; /* [n][k], the largest weight first; equal weights: the lower index first */
    float *weight;    /* [n][k] as the forward pass uses them */
    double *load;     /* [experts] fraction of all choices (n * k of them) that fell on it; sums to 1 */
    double *best;     /* [experts] fraction of the tokens that give it their largest weight; sums to 1 */
} mg_route_layer;

typedef struct mg_routes {
    uint32_t experts, k, n_layers; /* layers recorded */
    uint64_t n, counted;           /* tokens; tokens that load and best count */
    mg_route_layer *layers;
    /* [n] the expert that is best in most of the recorded layers; then the one with more weight in all of them, then
     * the lower index. */
    uint32_t *majority;
    double *majority_share; /* [experts] fraction of the counted tokens */
} mg_routes;

/* progress, here and below (may be NULL), counts tokens, each in equal parts over the layers that are run. */
/* Run the tokens of all windows and record the choices of one layer or of MG_ROUTES_ALL. Tokens are numbered as in
 * w->ids. skip [w->n_ids]: tokens that load, best and majority_share leave out (NULL: none). memory: bytes for
 * activations, 0 = 1 GiB; at least one window is run at a time.
 * A model without a router is MG_ERR_UNSUPPORTED; a layer that does not exist or has no router MG_ERR_USAGE. */
mg_status mg_routes_run(mg_routes *r, mg_forward *f, mg_model *m, const mg_windows *w, uint32_t layer, const bool *skip,
                        uint64_t memory, mg_progress *progress, mg_error *err) MG_MUST_CHECK;
void mg_routes_release(mg_routes *r);

/* Router logits [rows, experts] of one layer for consecutive tokens of the windows, from `token` on. */
typedef mg_status (*mg_routes_fn)(void *ctx, uint64_t token, const mg_tap *logits, mg_error *err);
/* The tokens of all windows through the layers up to `last`; memory as above. */
mg_status mg_routes_walk(mg_forward *f, mg_model *m, const mg_windows *w, uint32_t last, uint64_t memory,
                         mg_routes_fn fn, void *ctx, mg_progress *progress, mg_error *err) MG_MUST_CHECK;
/* Experts of m and how many a token takes in this pass. A model without a router is MG_ERR_UNSUPPORTED. */
mg_status mg_routes_experts(const mg_forward *f, const mg_model *m, uint32_t *experts, uint32_t *k,
                            mg_error *err) MG_MUST_CHECK;

#endif
