/* router.h - from router logits to experts and weights, and the grouping of tokens by expert. */
#ifndef MG_VERIFY_ROUTER_H
#define MG_VERIFY_ROUTER_H

#include "formats/arch/arch.h"
#include "quant/math/mathops.h"

/* How one layer's router chooses: the rule (formulas: mg_router_rule) and its numbers. */
typedef struct mg_router {
    mg_router_rule rule;
    uint32_t experts, k;
    uint32_t groups, groups_used; /* 0 = not limited to groups */
    bool renormalise;
    float sum_add, sum_min; /* of the divisor */
    float scale;            /* of the weights; 1 = none */
    float jitter;
    float *correction; /* [experts] added to the scores experts are chosen by; NULL = none */
} mg_router;

/* The router of a layer of m with k experts per token (0: what the model says; MG_EXPERTS_ALL: all). MG_ERR_USAGE when
 * the rule cannot choose k. */
mg_status mg_router_open(mg_router *out, mg_model *m, uint32_t layer, uint32_t k, mg_error *err) MG_MUST_CHECK;
void mg_router_release(mg_router *r);

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

/* logits [n][experts]. Ties go to the lower index; sums run by T16 over the chosen in descending order of the score
 * they were chosen by. MG_ERR_LIMIT without memory. */
mg_status mg_routing_init(mg_routing *r, const mg_math *math, const mg_router *router, const float *logits, uint64_t n,
                          mg_error *err) MG_MUST_CHECK;
/* The same by the router of a layer of m with k experts per token, as mg_router_open takes it. */
mg_status mg_routing_of(mg_routing *r, const mg_math *math, mg_model *m, uint32_t layer, uint32_t k,
                        const float *logits, uint64_t n, mg_error *err) MG_MUST_CHECK;
void mg_routing_release(mg_routing *r);

/* The same rule in double for one token: weight [experts], 0 for those not chosen. For the double pass. */
mg_status mg_route64(const mg_router *r, const double *logits, double *weight, mg_error *err) MG_MUST_CHECK;

#endif
