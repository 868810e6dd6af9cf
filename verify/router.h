/* router.h - from router logits to experts and weights, and the grouping of tokens by expert. */
#ifndef MG_VERIFY_ROUTER_H
#define MG_VERIFY_ROUTER_H

#include "formats/arch/arch.h"
#include "quant/math/mathops.h"

/* What each token chose, and the same sorted by expert. Slots of a token are in ascending expert index, the order in
 * which its outputs are summed. A pair is one (token, slot); pairs of expert e are first[e]..first[e+1]-1, tokens
 * ascending. */
typedef struct mg_routing {
    uint32_t experts, k;
    uint64_t n;
    uint32_t *expert;   /* [n][k] */
    float *weight;      /* [n][k] */
    uint64_t *pair;     /* [n][k] place in expert order */
    uint64_t *first;    /* [experts + 1] */
    uint32_t *token;    /* [n * k] of each pair in expert order */
    float *pair_weight; /* [n * k] */
} mg_routing;

/* logits [n][experts]. Softmax over all experts in f32, the k largest (ties to the lower index), divided by their sum
 * (T16 in descending order of probability) when renormalise. MG_ERR_LIMIT without memory. */
mg_status mg_routing_init(mg_routing *r, const mg_math *math, mg_router_rule rule, const float *logits, uint64_t n,
                          uint32_t experts, uint32_t k, bool renormalise, mg_error *err) MG_MUST_CHECK;
void mg_routing_release(mg_routing *r);

#endif
