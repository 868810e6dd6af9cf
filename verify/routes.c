/* routes.c - see routes.h. */
#include "verify/routes.h"

#include <stdlib.h>

#include "verify/fbuf.h"
#include "verify/router.h"

#define DEFAULT_MEMORY (1ull << 30)

void mg_routes_release(mg_routes *r) {
    for (uint32_t i = 0; r->layers && i < r->n_layers; i++) {
        free(r->layers[i].expert);
        free(r->layers[i].weight);
        free(r->layers[i].load);
        free(r->layers[i].best);
    }
    free(r->layers);
    free(r->majority);
    free(r->majority_share);
    *r = (mg_routes){0};
}

/* ---- what is recorded ---- */

static mg_status choose_layers(mg_routes *r, const mg_model *m, uint32_t layer, mg_error *err) {
    const uint32_t layers = (uint32_t)mg_hp_i(m, MG_K_LAYERS);
    uint32_t routers = 0;
    for (uint32_t l = 0; l < layers; l++) routers += m->layers[l].moe;
    if (layer != MG_ROUTES_ALL && layer >= layers)
        return mg_fail(err, MG_ERR_USAGE, "layer %u: the model has %u, counted from 0", layer, layers);
    if (layer != MG_ROUTES_ALL && !m->layers[layer].moe)
        return mg_fail(err, MG_ERR_USAGE, "layer %u has no router", layer);
    r->layers = calloc(routers, sizeof *r->layers);
    if (!r->layers) return mg_fail_nomem(err, routers * sizeof *r->layers);
    for (uint32_t l = 0; l < layers; l++)
        if (m->layers[l].moe && (layer == MG_ROUTES_ALL || layer == l)) r->layers[r->n_layers++].layer = l;
    return MG_OK;
}

mg_status mg_routes_experts(const mg_forward *f, const mg_model *m, uint32_t *experts, uint32_t *k, mg_error *err) {
    bool any = false;
    for (uint32_t l = 0; l < (uint32_t)mg_hp_i(m, MG_K_LAYERS); l++) any = any || m->layers[l].moe;
    if (!any)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "a dense model: no layer has a router, every token takes the same way");
    const uint32_t asked = mg_forward_experts(f);
    *experts = (uint32_t)mg_hp_i(m, MG_K_EXPERTS);
    *k = asked ? asked : (uint32_t)mg_hp_i(m, MG_K_EXPERTS_USED);
    if (*k == MG_EXPERTS_ALL) *k = *experts;
    if (*k == 0 || *k > *experts)
        return mg_fail(err, MG_ERR_USAGE, "%u experts per token, the model has %u", *k, *experts);
    return MG_OK;
}

static mg_status allocate(mg_routes *r, mg_error *err) {
    uint64_t choices;
    if (__builtin_mul_overflow(r->n, (uint64_t)r->k, &choices) || choices > SIZE_MAX / 16)
        return mg_fail(err, MG_ERR_LIMIT, "too many tokens");
    r->majority = calloc(r->n, sizeof *r->majority);
    r->majority_share = calloc(r->experts, sizeof *r->majority_share);
    bool ok = r->majority && r->majority_share;
    for (uint32_t i = 0; i < r->n_layers; i++) {
        mg_route_layer *l = &r->layers[i];
        l->expert = calloc(choices, sizeof *l->expert);
        l->weight = calloc(choices, sizeof *l->weight);
        l->load = calloc(r->experts, sizeof *l->load);
        l->best = calloc(r->experts, sizeof *l->best);
        ok = ok && l->expert && l->weight && l->load && l->best;
    }
    return ok ? MG_OK : mg_fail_nomem(err, choices * r->n_layers * 8);
}

/* ---- recording ---- */

typedef struct recorder {
    mg_routes *r;
    mg_model *m;
} recorder;

/* The k choices of one token, given by ascending expert, into l by falling weight. */
static void put(const mg_route_layer *l, uint64_t token, uint32_t k, const uint32_t *expert, const float *weight) {
    uint32_t *e = l->expert + token * k;
    float *w = l->weight + token * k;
    for (uint32_t i = 0; i < k; i++) {
        uint32_t at = i;
        for (; at > 0 && w[at - 1] < weight[i]; at--) {
            e[at] = e[at - 1];
            w[at] = w[at - 1];
        }
        e[at] = expert[i];
        w[at] = weight[i];
    }
}

static mg_status on_router(void *ctx, uint64_t token, const mg_tap *t, mg_error *err) {
    recorder *c = ctx;
    mg_routes *r = c->r;
    const mg_route_layer *l = NULL;
    for (uint32_t i = 0; i < r->n_layers && !l; i++)
        if (r->layers[i].layer == t->layer) l = &r->layers[i];
    if (!l) return MG_OK;
    mg_routing route;
    MG_TRY(mg_routing_of(&route, mg_math_get(), c->m, t->layer, r->k, t->data, t->rows, err));
    for (uint64_t i = 0; i < t->rows; i++) put(l, token + i, r->k, route.expert + i * r->k, route.weight + i * r->k);
    mg_routing_release(&route);
    return MG_OK;
}

/* ---- the tokens ---- */

typedef struct walk {
    mg_routes_fn fn;
    void *ctx;
    uint64_t token; /* first of the batch */
    uint32_t last;
    mg_progress *progress;
} walk;

static mg_status on_tap(void *ctx, const mg_tap *t, mg_error *err) {
    const walk *c = ctx;
    return t->point == MG_TAP_ROUTER_LOGITS ? c->fn(c->ctx, c->token, t, err) : MG_OK;
}

/* Windows [from, to). */
static mg_status run_batch(walk *c, mg_forward *f, mg_model *m, const mg_windows *w, uint64_t from, uint64_t to,
                           float *x, mg_error *err) {
    const uint64_t n = w->items[to - 1].at + w->items[to - 1].len - w->items[from].at;
    uint32_t *len = malloc((to - from) * sizeof *len);
    if (!len) return mg_fail_nomem(err, (to - from) * sizeof *len);
    for (uint64_t i = from; i < to; i++) len[i - from] = w->items[i].len;
    const mg_batch batch = {.n_seqs = (uint32_t)(to - from), .len = len, .n_tokens = n};
    c->token = w->items[from].at;
    mg_status st = mg_forward_embed(f, m, w->ids + c->token, n, x, err);
    const uint64_t layers = (uint64_t)c->last + 1;
    for (uint32_t l = 0; st == MG_OK && l < layers; l++) {
        st = mg_forward_layer(f, m, NULL, l, MG_PART_ALL, &batch, x, on_tap, c, err);
        mg_progress_add(c->progress, n * (l + 1) / layers - n * l / layers, NULL);
    }
    free(len);
    return st;
}

mg_status mg_routes_walk(mg_forward *f, mg_model *m, const mg_windows *w, uint32_t last, uint64_t memory,
                         mg_routes_fn fn, void *ctx, mg_progress *progress, mg_error *err) {
    const uint64_t most = (memory ? memory : DEFAULT_MEMORY) / (mg_forward_token_bytes(f, m) + 1);
    const uint64_t hidden = (uint64_t)mg_hp_i(m, MG_K_HIDDEN);
    walk c = {.fn = fn, .ctx = ctx, .last = last, .progress = progress};
    mg_fbuf x = {0};
    mg_status st = MG_OK;
    for (uint64_t from = 0, to; st == MG_OK && from < w->n; from = to) {
        uint64_t n = w->items[from].len;
        for (to = from + 1; to < w->n && n + w->items[to].len <= most; to++) n += w->items[to].len;
        st = mg_fbuf_need(&x, n, hidden, err);
        if (st == MG_OK) st = run_batch(&c, f, m, w, from, to, x.p, err);
    }
    mg_fbuf_release(&x);
    return st;
}

/* ---- summing up ---- */

/* The expert that wins token t over the recorded layers; votes and weight [experts] are scratch. */
static uint32_t winner(const mg_routes *r, uint64_t t, uint32_t *votes, double *weight) {
    uint32_t top = 0;
    for (uint32_t e = 0; e < r->experts; e++) {
        votes[e] = 0;
        weight[e] = 0;
    }
    for (uint32_t i = 0; i < r->n_layers; i++) {
        const mg_route_layer *l = &r->layers[i];
        votes[l->expert[t * r->k]]++;
        for (uint32_t j = 0; j < r->k; j++) weight[l->expert[t * r->k + j]] += (double)l->weight[t * r->k + j];
    }
    for (uint32_t e = 1; e < r->experts; e++)
        if (votes[e] > votes[top] || (votes[e] == votes[top] && weight[e] > weight[top])) top = e;
    return top;
}

static mg_status sum_up(mg_routes *r, const bool *skip, mg_error *err) {
    uint32_t *votes = malloc(r->experts * sizeof *votes);
    double *weight = malloc(r->experts * sizeof *weight);
    for (uint64_t t = 0; votes && weight && t < r->n; t++) {
        r->majority[t] = winner(r, t, votes, weight);
        if (skip && skip[t]) continue;
        r->counted++;
        r->majority_share[r->majority[t]]++;
        for (uint32_t i = 0; i < r->n_layers; i++) {
            const mg_route_layer *l = &r->layers[i];
            l->best[l->expert[t * r->k]]++;
            for (uint32_t j = 0; j < r->k; j++) l->load[l->expert[t * r->k + j]]++;
        }
    }
    const bool ok = votes && weight;
    free(votes);
    free(weight);
    if (!ok) return mg_fail_nomem(err, r->experts * sizeof *weight);
    const double n = r->counted ? (double)r->counted : 1;
    for (uint32_t e = 0; e < r->experts; e++) {
        r->majority_share[e] /= n;
        for (uint32_t i = 0; i < r->n_layers; i++) {
            r->layers[i].best[e] /= n;
            r->layers[i].load[e] /= n * r->k;
        }
    }
    return MG_OK;
}

mg_status mg_routes_run(mg_routes *r, mg_forward *f, mg_model *m, const mg_windows *w, uint32_t layer, const bool *skip,
                        uint64_t memory, mg_progress *progress, mg_error *err) {
    *r = (mg_routes){.n = w->n_ids};
    mg_status st = w->n_ids ? MG_OK : mg_fail(err, MG_ERR_USAGE, "no tokens");
    if (st == MG_OK) st = mg_routes_experts(f, m, &r->experts, &r->k, err);
    if (st == MG_OK) st = choose_layers(r, m, layer, err);
    if (st == MG_OK) st = allocate(r, err);
    recorder c = {.r = r, .m = m};
    if (st == MG_OK)
        st = mg_routes_walk(f, m, w, r->layers[r->n_layers - 1].layer, memory, on_router, &c, progress, err);
    if (st == MG_OK) st = sum_up(r, skip, err);
    if (st != MG_OK) mg_routes_release(r);
    return st;
}
