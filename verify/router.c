/* router.c - see router.h. */
#include "verify/router.h"

#include <stdlib.h>
#include <string.h>

#include "quant/math/topk.h"

void mg_routing_release(mg_routing *r) {
    free(r->expert);
    free(r->weight);
    free(r->pair);
    free(r->first);
    free(r->token);
    free(r->pair_weight);
    *r = (mg_routing){0};
}

static mg_status allocate(mg_routing *r, mg_error *err) {
    uint64_t pairs;
    if (__builtin_mul_overflow(r->n, (uint64_t)r->k, &pairs) || pairs > SIZE_MAX / 64)
        return mg_fail(err, MG_ERR_LIMIT, "too many tokens for one batch");
    const uint64_t some = pairs ? pairs : 1;
    r->expert = malloc(some * sizeof *r->expert);
    r->weight = malloc(some * sizeof *r->weight);
    r->pair = malloc(some * sizeof *r->pair);
    r->token = malloc(some * sizeof *r->token);
    r->pair_weight = malloc(some * sizeof *r->pair_weight);
    r->first = calloc(r->experts + 1u, sizeof *r->first);
    if (!r->expert || !r->weight || !r->pair || !r->token || !r->pair_weight || !r->first)
        return mg_fail_nomem(err, some * 28);
    return MG_OK;
}

/* Experts and weights of one token; p [experts] and order [k] are scratch. */
static void choose(mg_routing *r, const mg_math *math, const float *logits, uint64_t t, bool renormalise, float *p,
                   uint32_t *order, float *w) {
    const uint32_t k = r->k;
    memcpy(p, logits + t * r->experts, r->experts * sizeof *p);
    float l = math->softmax(p, r->experts, 1.0f);
    math->div(p, p, l, r->experts);
    mg_topk(p, r->experts, k, order);
    for (uint32_t i = 0; i < k; i++) w[i] = p[order[i]];
    if (renormalise) math->div(w, w, math->sum(w, k), k);
    /* Into ascending expert index; k is small. */
    uint32_t *e = r->expert + t * k;
    float *out = r->weight + t * k;
    for (uint32_t i = 0; i < k; i++) {
        uint32_t at = i;
        for (; at > 0 && e[at - 1] > order[i]; at--) {
            e[at] = e[at - 1];
            out[at] = out[at - 1];
        }
        e[at] = order[i];
        out[at] = w[i];
    }
}

static void group(mg_routing *r) {
    const uint64_t pairs = r->n * r->k;
    for (uint64_t i = 0; i < pairs; i++) r->first[r->expert[i] + 1]++;
    for (uint32_t e = 0; e < r->experts; e++) r->first[e + 1] += r->first[e];
    for (uint64_t i = 0; i < pairs; i++) {
        uint64_t at = r->first[r->expert[i]]++;
        r->pair[i] = at;
        r->token[at] = (uint32_t)(i / r->k);
        r->pair_weight[at] = r->weight[i];
    }
    for (uint32_t e = r->experts; e > 0; e--) r->first[e] = r->first[e - 1];
    r->first[0] = 0;
}

mg_status mg_routing_init(mg_routing *r, const mg_math *math, mg_router_rule rule, const float *logits, uint64_t n,
                          uint32_t experts, uint32_t k, bool renormalise, mg_error *err) {
    *r = (mg_routing){.experts = experts, .k = k, .n = n};
    if (rule != MG_ROUTER_SOFTMAX_TOPK) return mg_fail(err, MG_ERR_UNSUPPORTED, "this router is not built yet");
    if (k == 0 || k > experts) return mg_fail(err, MG_ERR_USAGE, "%u experts per token, the model has %u", k, experts);
    mg_status st = allocate(r, err);
    float *scratch = malloc((experts + (uint64_t)k * 2) * sizeof *scratch);
    if (st == MG_OK && !scratch) st = mg_fail_nomem(err, experts * sizeof *scratch);
    if (st == MG_OK) {
        for (uint64_t t = 0; t < n; t++)
            choose(r, math, logits, t, renormalise, scratch, (uint32_t *)(void *)(scratch + experts + k),
                   scratch + experts);
        group(r);
    }
    free(scratch);
    if (st != MG_OK) mg_routing_release(r);
    return st;
}
