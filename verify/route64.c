/* route64.c - the router rules in double, written from their formulas and not from router.c: the yardstick. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "verify/router.h"

/* p = softmax of x over the open ones, 0 for the others. */
static void softmax(const double *x, const bool *open, uint32_t n, double *p) {
    double max = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < n; i++)
        if (open[i] && x[i] > max) max = x[i];
    for (uint32_t i = 0; i < n; i++) {
        p[i] = open[i] ? exp(x[i] - max) : 0.0;
        sum += p[i];
    }
    for (uint32_t i = 0; i < n; i++) p[i] /= sum;
}

/* Is i among the k largest of the open ones? Larger first, ties to the lower index. */
static bool among(const double *x, const bool *open, uint32_t n, uint32_t k, uint32_t i) {
    uint32_t before = 0;
    for (uint32_t o = 0; o < n; o++) before += open[o] && (x[o] > x[i] || (x[o] == x[i] && o < i));
    return open[i] && before < k;
}

/* What one token needs. */
typedef struct scratch {
    double *p, *choice, *group; /* [experts], [experts], [groups] */
    bool *open, *other;         /* [experts], [experts] */
} scratch;

/* Close the experts outside the best groups. best: how many of a group's members make up its score. */
static void close_groups(const mg_router *r, const scratch *s, uint32_t best) {
    const uint32_t size = r->experts / r->groups;
    for (uint32_t g = 0; g < r->groups; g++) {
        s->other[g] = true;
        s->group[g] = 0;
        for (uint32_t e = 0; e < size; e++)
            if (among(s->choice + g * size, s->open + g * size, size, best, e)) s->group[g] += s->choice[g * size + e];
    }
    for (uint32_t e = 0; e < r->experts; e++)
        s->open[e] = among(s->group, s->other, r->groups, r->groups_used, e / size);
}

/* One step of the sparse mixer among the experts still open: closes the best and gives it its weight. */
static void mix_one(const mg_router *r, const double *x, const scratch *s, double *weight) {
    uint32_t best = 0;
    while (best + 1 < r->experts && !among(x, s->open, r->experts, 1, best)) best++;
    const double top = x[best];
    for (uint32_t e = 0; e < r->experts; e++)
        s->other[e] = s->open[e] && !((top - x[e]) / fmax(fabs(x[e]), top) > 2.0 * (double)r->jitter);
    softmax(x, s->other, r->experts, s->p);
    s->open[best] = false;
    weight[best] = s->p[best];
}

static void route(const mg_router *r, const double *logits, const scratch *s, double *weight) {
    const uint32_t n = r->experts;
    double sum = 0;
    for (uint32_t e = 0; e < n; e++) {
        s->open[e] = true;
        weight[e] = 0;
    }
    if (r->rule == MG_ROUTER_SPARSEMIXER) {
        for (uint32_t i = 0; i < r->k; i++) mix_one(r, logits, s, weight);
        return;
    }
    softmax(logits, s->open, n, s->p);
    for (uint32_t e = 0; e < n; e++) {
        if (r->rule == MG_ROUTER_SIGMOID) s->p[e] = 1.0 / (1.0 + exp(-logits[e]));
        s->choice[e] = s->p[e] + (r->correction ? (double)r->correction[e] : 0.0);
    }
    if (r->groups) close_groups(r, s, r->rule == MG_ROUTER_SIGMOID ? 2 : 1);
    for (uint32_t e = 0; e < n; e++)
        if (among(s->choice, s->open, n, r->k, e)) sum += weight[e] = s->p[e];
    /* A softmax over the chosen is a softmax over all, renormalised. */
    if (r->renormalise || r->rule == MG_ROUTER_TOPK_SOFTMAX)
        for (uint32_t e = 0; e < n; e++) weight[e] /= fmax(sum + (double)r->sum_add, (double)r->sum_min);
    for (uint32_t e = 0; e < n; e++) weight[e] *= (double)r->scale;
}

mg_status mg_route64(const mg_router *r, const double *logits, double *weight, mg_error *err) {
    double *d = malloc((2 * (size_t)r->experts + r->groups + 1) * sizeof *d);
    bool *b = calloc(2 * (size_t)r->experts + 1, sizeof *b);
    mg_status st = d && b ? MG_OK : mg_fail_nomem(err, (size_t)r->experts * sizeof *d);
    if (st == MG_OK) {
        const scratch s = {.p = d, .choice = d + r->experts, .group = d + 2 * (size_t)r->experts};
        route(r, logits, &(scratch){s.p, s.choice, s.group, b, b + r->experts}, weight);
    }
    free(d);
    free(b);
    return st;
}
