/* router_stats.c - see router_stats.h. While tokens come in, the fields of a share hold sums; finish() divides. */
#include "verify/router_stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quant/read_f32.h"
#include "verify/router.h"
#include "verify/routes.h"

const double mg_router_capacity[MG_CAPACITIES] = {1, 1.25, 2};

static void share_release(mg_router_share *s) {
    free(s->load);
    free(s->first);
    free(s->weight);
    free(s->prob);
}

void mg_router_stats_release(mg_router_stats *s) {
    for (uint32_t i = 0; s->layers && i < s->n_layers; i++) {
        for (uint32_t k = 0; s->layers[i].sets && k <= s->n_sets; k++) share_release(&s->layers[i].sets[k]);
        free(s->layers[i].sets);
        free(s->layers[i].cosine);
    }
    free(s->layers);
    *s = (mg_router_stats){0};
}

static bool share_init(mg_router_share *s, uint32_t experts) {
    s->load = calloc(experts, sizeof *s->load);
    s->first = calloc(experts, sizeof *s->first);
    s->weight = calloc(experts, sizeof *s->weight);
    s->prob = calloc(experts, sizeof *s->prob);
    return s->load && s->first && s->weight && s->prob;
}

/* Over every token of a layer, control tokens too. */
typedef struct all_tokens {
    double *choices, *prob; /* [experts] sums */
    double z;
} all_tokens;

typedef struct recorder {
    mg_router_stats *s;
    mg_model *m;
    const mg_router_set *sets;
    const uint32_t *set_of_token;
    const bool *skip;
    all_tokens *all; /* [n_layers] */
    double *p;       /* [experts] */
} recorder;

/* ---- tokens ---- */

/* p of one token; returns log(sum exp(logits)). */
static double softmax(const float *logits, uint32_t n, double *p) {
    double top = -INFINITY, sum = 0;
    for (uint32_t e = 0; e < n; e++) top = fmax(top, (double)logits[e]);
    for (uint32_t e = 0; e < n; e++) sum += p[e] = exp((double)logits[e] - top);
    for (uint32_t e = 0; e < n; e++) p[e] /= sum;
    return top + log(sum);
}

static void count(mg_router_share *share, const mg_router_set *set, const recorder *c, const uint32_t *expert,
                  const float *weight) {
    const uint32_t n = c->s->experts, k = c->s->k;
    uint32_t best = 0;
    bool chosen = false;
    for (uint32_t j = 0; j < k; j++) {
        share->load[expert[j]]++;
        share->weight[expert[j]] += (double)weight[j];
        if (weight[j] > weight[best]) best = j;
        chosen = chosen || (set && expert[j] == set->intended);
    }
    share->tokens++;
    share->first[expert[best]]++;
    for (uint32_t e = 0; e < n; e++) {
        share->prob[e] += c->p[e];
        if (c->p[e] > 0) share->entropy -= c->p[e] * log(c->p[e]);
    }
    if (!set || set->intended == MG_ROUTER_NOBODY) return;
    share->chosen += chosen != set->negative;
    share->best += (expert[best] == set->intended) != set->negative;
}

static void count_token(recorder *c, mg_router_layer *l, all_tokens *all, uint64_t token, const float *logits,
                        const uint32_t *expert, const float *weight) {
    const double z = softmax(logits, c->s->experts, c->p);
    all->z += z * z;
    for (uint32_t e = 0; e < c->s->experts; e++) all->prob[e] += c->p[e];
    for (uint32_t j = 0; j < c->s->k; j++) all->choices[expert[j]]++;
    if (c->skip && c->skip[token]) return;
    const uint32_t set = c->set_of_token[token];
    count(&l->sets[set], &c->sets[set], c, expert, weight);
    count(&l->sets[c->s->n_sets], NULL, c, expert, weight);
}

static mg_status on_router(void *ctx, uint64_t token, const mg_tap *t, mg_error *err) {
    recorder *c = ctx;
    uint32_t i = 0;
    while (i < c->s->n_layers && c->s->layers[i].layer != t->layer) i++;
    if (i == c->s->n_layers) return MG_OK;
    mg_routing route;
    MG_TRY(mg_routing_of(&route, mg_math_get(), c->m, t->layer, c->s->k, t->data, t->rows, err));
    for (uint64_t r = 0; r < t->rows; r++)
        count_token(c, &c->s->layers[i], &c->all[i], token + r, t->data + r * t->cols, route.expert + r * c->s->k,
                    route.weight + r * c->s->k);
    mg_routing_release(&route);
    return MG_OK;
}

/* ---- summing up ---- */

static void finish_share(mg_router_share *s, const mg_router_set *set, uint32_t experts, uint32_t k) {
    const double n = s->tokens ? (double)s->tokens : 1;
    for (uint32_t e = 0; e < experts; e++) {
        s->load[e] /= n * k;
        s->first[e] /= n;
        s->weight[e] /= n;
        s->prob[e] /= n;
    }
    s->entropy /= n * log(experts);
    const bool meant = set && set->intended != MG_ROUTER_NOBODY && s->tokens;
    s->chosen = meant ? s->chosen / n : NAN;
    s->best = meant ? s->best / n : NAN;
}

static double balance(const double *choices, const double *prob, uint32_t experts, double n) {
    double sum = 0;
    for (uint32_t e = 0; e < experts; e++) sum += choices[e] / n * (prob[e] / n);
    return sum * experts;
}

static void finish(mg_router_stats *s, const mg_router_set *sets, const all_tokens *all, double *choices,
                   double *prob) {
    const double n = (double)s->tokens;
    for (uint32_t i = 0; i < s->n_layers; i++) {
        mg_router_layer *l = &s->layers[i];
        for (uint32_t k = 0; k <= s->n_sets; k++)
            finish_share(&l->sets[k], k < s->n_sets ? &sets[k] : NULL, s->experts, s->k);
        l->balance_loss = balance(all[i].choices, all[i].prob, s->experts, n);
        l->z_loss = all[i].z / n;
        for (int c = 0; c < MG_CAPACITIES; c++) {
            const double room = floor(mg_router_capacity[c] * n * s->k / s->experts);
            for (uint32_t e = 0; e < s->experts; e++) l->dropped[c] += fmax(0, all[i].choices[e] - room);
            l->dropped[c] /= n * s->k;
        }
        for (uint32_t e = 0; e < s->experts; e++) {
            choices[e] += all[i].choices[e];
            prob[e] += all[i].prob[e];
        }
    }
    s->balance_loss = balance(choices, prob, s->experts, n * s->n_layers);
}

static mg_status read_rows(mg_router_stats *s, mg_model *m, mg_error *err) {
    for (uint32_t i = 0; i < s->n_layers; i++) {
        mg_router_layer *l = &s->layers[i];
        const mg_bound *b = mg_model_find(m, MG_R_ROUTER, l->layer, 0);
        const uint64_t cols = (uint64_t)mg_hp_i(m, MG_K_HIDDEN);
        if (!b) return mg_fail(err, MG_ERR_INTERNAL, "layer %u routes without a router", l->layer);
        float *rows = malloc(s->experts * cols * sizeof *rows);
        if (!rows) return mg_fail_nomem(err, s->experts * cols * sizeof *rows);
        mg_status st = mg_read_f32(m, b, 0, s->experts, rows, err);
        if (st == MG_OK) st = mg_router_rows(rows, s->experts, cols, l->cosine, &l->condition, err);
        free(rows);
        MG_TRY(st);
    }
    return MG_OK;
}

/* ---- the whole ---- */

static mg_status allocate(mg_router_stats *s, mg_model *m, mg_error *err) {
    s->layers = calloc(s->n_layers, sizeof *s->layers);
    if (!s->layers) return mg_fail_nomem(err, s->n_layers * sizeof *s->layers);
    uint32_t n = 0;
    for (uint32_t l = 0; n < s->n_layers; l++)
        if (m->layers[l].moe) s->layers[n++].layer = l;
    bool ok = true;
    for (uint32_t i = 0; i < s->n_layers && ok; i++) {
        s->layers[i].cosine = calloc((size_t)s->experts * s->experts, sizeof *s->layers[i].cosine);
        s->layers[i].sets = calloc((size_t)s->n_sets + 1, sizeof *s->layers[i].sets);
        ok = s->layers[i].cosine && s->layers[i].sets;
        for (uint32_t k = 0; ok && k <= s->n_sets; k++) ok = share_init(&s->layers[i].sets[k], s->experts);
    }
    return ok ? MG_OK : mg_fail_nomem(err, (uint64_t)s->experts * s->experts * sizeof(double));
}

static mg_status run(recorder *c, mg_forward *f, const mg_windows *w, uint32_t *set_of_token, const uint32_t *set_of,
                     double *sums, uint64_t memory, mg_progress *progress, mg_error *err) {
    mg_router_stats *s = c->s;
    const uint32_t experts = s->experts;
    for (uint64_t i = 0; i < w->n; i++)
        for (uint32_t t = 0; t < w->items[i].len; t++) set_of_token[w->items[i].at + t] = set_of[i];
    for (uint32_t i = 0; i < s->n_layers; i++)
        c->all[i] =
            (all_tokens){.choices = sums + (3 + 2 * (size_t)i) * experts, .prob = sums + (4 + 2 * (size_t)i) * experts};
    c->p = sums;
    c->set_of_token = set_of_token;
    MG_TRY(mg_routes_walk(f, c->m, w, s->layers[s->n_layers - 1].layer, memory, on_router, c, progress, err));
    finish(s, c->sets, c->all, sums + experts, sums + 2 * (size_t)experts);
    return read_rows(s, c->m, err);
}

mg_status mg_router_stats_run(mg_router_stats *s, mg_forward *f, mg_model *m, const mg_windows *w,
                              const uint32_t *set_of, const mg_router_set *sets, uint32_t n_sets, const bool *skip,
                              uint64_t memory, mg_progress *progress, mg_error *err) {
    *s = (mg_router_stats){.n_sets = n_sets, .tokens = w->n_ids};
    if (!w->n_ids) return mg_fail(err, MG_ERR_USAGE, "no tokens");
    for (uint32_t l = 0; l < (uint32_t)mg_hp_i(m, MG_K_LAYERS); l++) s->n_layers += m->layers[l].moe;
    MG_TRY(mg_routes_experts(f, m, &s->experts, &s->k, err));
    recorder c = {.s = s, .m = m, .sets = sets, .skip = skip, .all = calloc(s->n_layers, sizeof *c.all)};
    uint32_t *set_of_token = malloc(w->n_ids * sizeof *set_of_token);
    double *sums = calloc((size_t)s->experts * (3 + 2 * (size_t)s->n_layers), sizeof *sums);
    mg_status st = c.all && set_of_token && sums ? MG_OK : mg_fail_nomem(err, w->n_ids * sizeof *set_of_token);
    for (uint32_t i = 0; st == MG_OK && i < n_sets; i++)
        if (sets[i].intended != MG_ROUTER_NOBODY && sets[i].intended >= s->experts)
            st = mg_fail(err, MG_ERR_USAGE, "text '%s' is meant for expert %u, the model has %u", sets[i].name,
                         sets[i].intended, s->experts);
    if (st == MG_OK) st = allocate(s, m, err);
    if (st == MG_OK) st = run(&c, f, w, set_of_token, set_of, sums, memory, progress, err);
    free(c.all);
    free(set_of_token);
    free(sums);
    if (st != MG_OK) mg_router_stats_release(s);
    return st;
}
