/* weight_expert.c - a dense model beside a mixture: the expert that its feed-forward blocks have become. */
#include "verify/weight_fold.h"

#include <stdlib.h>

/* What a weight of a dense block is in an expert. */
static mg_role in_expert(mg_role r) {
    switch (r) {
    case MG_R_FFN_GATE:
        return MG_R_EXPERT_GATE;
    case MG_R_FFN_UP:
        return MG_R_EXPERT_UP;
    case MG_R_FFN_DOWN:
        return MG_R_EXPERT_DOWN;
    case MG_R_FFN_GATE_BIAS:
        return MG_R_EXPERT_GATE_BIAS;
    case MG_R_FFN_UP_BIAS:
        return MG_R_EXPERT_UP_BIAS;
    case MG_R_FFN_DOWN_BIAS:
        return MG_R_EXPERT_DOWN_BIAS;
    default:
        return MG_ROLE_COUNT;
    }
}

static bool is_dense(const mg_weight_pair *p) {
    return p->stat->apart && in_expert(p->role) != MG_ROLE_COUNT;
}

/* p, which has nothing beside it, compared with expert e of the other model into *out and *stat. */
static mg_status with_expert(const mg_weight_work *w, const mg_weight_pair *p, uint32_t e, mg_arena *names,
                             mg_weight_pair *out, mg_weight_stat *stat, mg_error *err) {
    *out = *p;
    out->stat = stat;
    out->expert = e;
    *(p->a ? &out->b : &out->a) = mg_model_find(p->a ? w->cand : w->ref, in_expert(p->role), p->layer, e);
    MG_TRY(mg_weight_pair_begin(w, out, true, 0, names, err));
    if (stat->apart) { /* this expert has no such weight */
        stat->apart = false;
        stat->missing = true;
    }
    return mg_weight_pair_compare(w, out, err);
}

/* The expert whose weight is nearest to that of p; the number of experts when none has its shape. */
static mg_status nearest(const mg_weight_work *w, const mg_weight_pair *p, uint32_t experts, mg_arena *names,
                         uint32_t *best, mg_error *err) {
    double least = 0;
    *best = experts;
    for (uint32_t e = 0; e < experts; e++) {
        mg_weight_pair pair;
        mg_weight_stat stat;
        MG_TRY(with_expert(w, p, e, names, &pair, &stat, err));
        if (stat.missing || (*best < experts && !(stat.error < least))) continue;
        least = stat.error;
        *best = e;
    }
    return MG_OK;
}

/* Take the comparisons of all dense weights with expert e in place of theirs; the expert's own entries go. */
static void adopt(mg_weight_work *w, mg_weight_diff *d, uint32_t e, const mg_weight_pair *pairs,
                  const mg_weight_stat *stats) {
    d->expert = e;
    for (uint32_t i = 0, n = 0; i < d->n; i++) {
        mg_weight_pair *p = &w->pairs[i];
        if (!p->stat->apart) continue;
        if (is_dense(p)) {
            mg_weight_stat *stat = p->stat;
            *p = pairs[n];
            p->stat = stat;
            *stat = stats[n++];
        } else if (mg_role_scope(p->role) == MG_SCOPE_EXPERT && p->expert == e) {
            p->dropped = true;
        } else {
            continue;
        }
        d->n_apart--;
    }
}

mg_status mg_weight_expert_find(mg_weight_work *w, mg_weight_diff *d, mg_error *err) {
    const mg_weight_pair *probe = NULL;
    uint32_t n = 0, best, good = 0;
    for (uint32_t i = 0; i < d->n; i++) {
        if (!is_dense(&w->pairs[i])) continue;
        if (!probe || (probe->role != MG_R_FFN_DOWN && w->pairs[i].role == MG_R_FFN_DOWN)) probe = &w->pairs[i];
        n++;
    }
    if (!probe) return MG_OK;
    const uint32_t experts = (uint32_t)mg_hp_i(probe->a ? w->cand : w->ref, MG_K_EXPERTS);
    MG_TRY(nearest(w, probe, experts, &d->arena, &best, err));
    if (best == experts) return MG_OK;
    mg_weight_pair *pairs = calloc(n, sizeof *pairs);
    mg_weight_stat *stats = calloc(n, sizeof *stats);
    mg_status st = pairs && stats ? MG_OK : mg_fail_nomem(err, n * (sizeof *pairs + sizeof *stats));
    for (uint32_t i = 0, k = 0; st == MG_OK && i < d->n; i++) {
        if (!is_dense(&w->pairs[i])) continue;
        st = with_expert(w, &w->pairs[i], best, &d->arena, &pairs[k], &stats[k], err);
        good += st == MG_OK && !mg_weight_damaged(&stats[k]);
        k++;
    }
    if (st == MG_OK && 2 * good > n) adopt(w, d, best, pairs, stats);
    free(pairs);
    free(stats);
    return st;
}
