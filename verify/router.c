/* router.c - see router.h. */
#include "verify/router.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quant/math/topk.h"
#include "quant/read_f32.h"
#include "verify/forward.h"

/* ---- a layer's router ---- */

void mg_router_release(mg_router *r) {
    free(r->correction);
    *r = (mg_router){0};
}

mg_status mg_router_open(mg_router *out, mg_model *m, uint32_t layer, uint32_t k, mg_error *err) {
    const mg_block *b = &m->arch->block;
    *out = (mg_router){.rule = b->router, .experts = (uint32_t)mg_hp_i(m, MG_K_EXPERTS)};
    out->k = k == 0 ? (uint32_t)mg_hp_i(m, MG_K_EXPERTS_USED) : k == MG_EXPERTS_ALL ? out->experts : k;
    out->groups = (uint32_t)mg_hp_i(m, MG_K_GROUPS);
    out->groups_used = (uint32_t)mg_hp_i(m, MG_K_GROUPS_USED);
    if (out->groups <= 1 || out->groups_used >= out->groups) out->groups = out->groups_used = 0;
    out->renormalise = mg_hp_i(m, MG_K_NORM_TOPK) != 0;
    out->sum_add = (float)b->topk_sum_add;
    out->sum_min = (float)mg_hp_f(m, MG_K_TOPK_SUM_MIN);
    out->scale = mg_hp_f(m, MG_K_ROUTED_SCALE) != 0 ? (float)mg_hp_f(m, MG_K_ROUTED_SCALE) : 1.0f;
    out->jitter = (float)mg_hp_f(m, MG_K_ROUTER_JITTER);
    if (out->k == 0 || out->k > out->experts)
        return mg_fail(err, MG_ERR_USAGE, "%u experts per token, the model has %u", out->k, out->experts);
    if (out->rule == MG_ROUTER_SPARSEMIXER && out->k != 2)
        return mg_fail(err, MG_ERR_USAGE, "%u experts per token: this model's router is made for exactly 2", out->k);
    if (out->groups && out->k > (uint64_t)out->experts / out->groups * out->groups_used)
        return mg_fail(err, MG_ERR_USAGE, "%u experts per token, %u of %u groups of the %u experts are open to a token",
                       out->k, out->groups_used, out->groups, out->experts);
    const mg_bound *c = mg_model_find(m, MG_R_ROUTER_CORRECTION, layer, 0);
    if (!c) return MG_OK;
    out->correction = malloc(out->experts * sizeof *out->correction);
    if (!out->correction) return mg_fail_nomem(err, out->experts * sizeof *out->correction);
    return mg_read_f32(m, c, 0, 1, out->correction, err);
}

/* ---- choosing ---- */

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

/* What one token needs while it chooses. */
typedef struct chooser {
    const mg_router *r;
    const mg_math *math;
    float *p;        /* [experts] scores that become weights */
    float *choice;   /* [experts] scores that decide */
    float *group;    /* [groups] */
    uint32_t *best;  /* [groups_used] */
    uint32_t *order; /* [k] by falling choice */
    float *w;        /* [k] */
} chooser;

static void softmax(const chooser *c, float *p, uint32_t n) {
    const float l = c->math->softmax(p, n, 1.0f);
    c->math->div(p, p, l, n);
}

/* A group's score: its best member, or the sum of its best two. */
static float group_score(const float *x, uint32_t n, bool two) {
    float first = -INFINITY, second = -INFINITY;
    for (uint32_t i = 0; i < n; i++) {
        if (x[i] > first) {
            second = first;
            first = x[i];
        } else if (x[i] > second) {
            second = x[i];
        }
    }
    return two && n > 1 ? first + second : first;
}

/* Experts outside the best groups get the score `out`. */
static void limit_groups(const chooser *c, bool two, float out) {
    const mg_router *r = c->r;
    const uint32_t size = r->groups ? r->experts / r->groups : 0;
    for (uint32_t g = 0; g < r->groups; g++) c->group[g] = group_score(c->choice + g * size, size, two);
    if (r->groups) mg_topk(c->group, r->groups, r->groups_used, c->best);
    for (uint32_t g = 0; g < r->groups; g++) {
        bool open = false;
        for (uint32_t i = 0; i < r->groups_used; i++) open = open || c->best[i] == g;
        for (uint32_t e = g * size; !open && e < (g + 1) * size; e++) c->choice[e] = out;
    }
}

/* Weight of the best of the open experts (all but `taken`) in a softmax over those near it; *best is its index. */
static float near_best(const chooser *c, const float *x, uint32_t taken, uint32_t *best) {
    const uint32_t n = c->r->experts;
    memcpy(c->choice, x, n * sizeof *x);
    if (taken < n) c->choice[taken] = -INFINITY;
    mg_topk(c->choice, n, 1, best);
    const float top = c->choice[*best];
    for (uint32_t e = 0; e < n; e++) {
        const float size = fabsf(x[e]) > top ? fabsf(x[e]) : top;
        if ((top - x[e]) / size > 2.0f * c->r->jitter) c->choice[e] = -INFINITY;
    }
    softmax(c, c->choice, n);
    return c->choice[*best];
}

static void choose_two(const chooser *c, const float *logits) {
    c->w[0] = near_best(c, logits, UINT32_MAX, &c->order[0]);
    c->w[1] = near_best(c, logits, c->order[0], &c->order[1]);
}

/* Experts into c->order, weights into c->w. */
static void choose(const chooser *c, const float *logits) {
    const mg_router *r = c->r;
    const uint32_t n = r->experts, k = r->k;
    if (r->rule == MG_ROUTER_SPARSEMIXER) {
        choose_two(c, logits);
        return;
    }
    if (r->rule == MG_ROUTER_SIGMOID) {
        c->math->sigmoid(c->p, logits, n);
    } else {
        memcpy(c->p, logits, n * sizeof *logits);
        if (r->rule != MG_ROUTER_TOPK_SOFTMAX) softmax(c, c->p, n);
    }
    memcpy(c->choice, c->p, n * sizeof *c->p);
    if (r->correction) c->math->add(c->choice, r->correction, n);
    if (r->rule == MG_ROUTER_SIGMOID) limit_groups(c, true, -INFINITY);
    if (r->rule == MG_ROUTER_SOFTMAX_GROUPS) limit_groups(c, false, 0.0f);
    mg_topk(c->choice, n, k, c->order);
    for (uint32_t i = 0; i < k; i++) c->w[i] = c->p[c->order[i]];
    if (r->rule == MG_ROUTER_TOPK_SOFTMAX) {
        softmax(c, c->w, k);
    } else if (r->renormalise) {
        float sum = c->math->sum(c->w, k) + r->sum_add;
        c->math->div(c->w, c->w, sum < r->sum_min ? r->sum_min : sum, k);
    }
    for (uint32_t i = 0; r->scale != 1.0f && i < k; i++) c->w[i] = c->w[i] * r->scale;
}

/* Into ascending expert index; k is small. */
static void put_sorted(mg_routing *r, uint64_t t, const uint32_t *order, const float *w) {
    uint32_t *e = r->expert + t * r->k;
    float *out = r->weight + t * r->k;
    for (uint32_t i = 0; i < r->k; i++) {
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

mg_status mg_routing_init(mg_routing *r, const mg_math *math, const mg_router *router, const float *logits, uint64_t n,
                          mg_error *err) {
    const uint32_t experts = router->experts, k = router->k, groups = router->groups;
    *r = (mg_routing){.experts = experts, .k = k, .n = n};
    float *floats = malloc((2 * (uint64_t)experts + groups + k) * sizeof *floats);
    uint32_t *indices = malloc(((uint64_t)groups + k) * sizeof *indices);
    mg_status st = floats && indices ? allocate(r, err) : mg_fail_nomem(err, (uint64_t)experts * 12);
    if (st == MG_OK) {
        const chooser c = {.r = router,
                           .math = math,
                           .p = floats,
                           .choice = floats + experts,
                           .group = floats + 2 * experts,
                           .w = floats + 2 * experts + groups,
                           .best = indices,
                           .order = indices + groups};
        for (uint64_t t = 0; t < n; t++) {
            choose(&c, logits + t * experts);
            put_sorted(r, t, c.order, c.w);
        }
        group(r);
    }
    free(floats);
    free(indices);
    if (st != MG_OK) mg_routing_release(r);
    return st;
}

mg_status mg_routing_of(mg_routing *r, const mg_math *math, mg_model *m, uint32_t layer, uint32_t k,
                        const float *logits, uint64_t n, mg_error *err) {
    mg_router router;
    mg_status st = mg_router_open(&router, m, layer, k, err);
    if (st == MG_OK) st = mg_routing_init(r, math, &router, logits, n, err);
    mg_router_release(&router);
    return st;
}
