/* compare.c - see compare.h. */
#include "verify/compare.h"

#include <stdlib.h>

/* The rows of walker i, which is c. */
static mg_status add_rows(mg_candidate *c, const mg_walk *w, uint32_t i, const mg_compare_options *opt, mg_error *err) {
    const mg_score_rows *rows = &w->walkers[i].rows;
    if (!c->not_finite && rows->finite < rows->n) {
        c->not_finite = true;
        c->bad_window = rows->window;
        c->bad_pos = rows->pos + rows->finite;
    }
    if (c->not_finite) return MG_OK;
    return mg_drift_add(&c->drift, &w->walkers[0].rows, rows, opt->windows->items[rows->window].len, opt->pool, err);
}

/* The reference first, then the candidates: those that gave a logit that is not finite no longer, but for the cuts of
 * one that leads. */
static mg_status step(mg_walk *w, mg_candidate *cand, mg_act_ref *act, const mg_compare_options *opt, bool *end,
                      mg_error *err) {
    mg_score_rows cut;
    MG_TRY(mg_walk_lead(w, &cut, err));
    MG_TRY(mg_walk_follow(w, 0, &cut, err));
    MG_TRY(mg_walk_check(w, 0, err));
    const bool new_batch = act->writing;
    uint32_t left = 0;
    *end = cut.n == 0;
    for (uint32_t i = 0; i + 1 < w->n; i++) {
        if (cand[i].not_finite && w->leader != i + 1) continue;
        if (new_batch) MG_TRY(mg_act_ref_rewind(act, err));
        MG_TRY(mg_walk_follow(w, i + 1, &cut, err));
        if (*end) continue;
        mg_status st = add_rows(&cand[i], w, i + 1, opt, err);
        if (st != MG_OK) {
            mg_error_at(err, cand[i].path, NULL);
            return st;
        }
        left += !cand[i].not_finite;
    }
    if (left == 0) *end = true;
    mg_progress_add(opt->progress, cut.n, NULL);
    return MG_OK;
}

/* Everything of a comparison that the walk needs room for. */
typedef struct cast {
    mg_walk_source *sources; /* [n + 1] */
    mg_tap_fn *taps;
    void **tap_ctx;
} cast;

static mg_status fill_cast(cast *k, const mg_walk_source *reference, mg_candidate *cand, uint32_t n, mg_act_ref *act,
                           const mg_compare_options *opt, mg_error *err) {
    k->sources = calloc(n + 1, sizeof *k->sources);
    k->taps = calloc(n + 1, sizeof *k->taps);
    k->tap_ctx = calloc(n + 1, sizeof *k->tap_ctx);
    if (!k->sources || !k->taps || !k->tap_ctx) return mg_fail_nomem(err, (n + 1) * sizeof *k->sources);
    const bool inside = reference->model && !opt->logits_only;
    k->sources[0] = *reference;
    k->taps[0] = inside ? mg_act_ref_tap : NULL;
    k->tap_ctx[0] = act;
    for (uint32_t i = 0; i < n; i++) {
        mg_candidate *c = &cand[i];
        k->sources[i + 1] =
            (mg_walk_source){.model = c->model, .recorded = c->recorded, .path = c->path, .precision = c->precision};
        c->drift.ids = c->ids;
        c->drift.classes = opt->classes;
        if (!inside || !c->model) continue;
        k->taps[i + 1] = mg_act_drift_tap;
        k->tap_ctx[i + 1] = &c->act;
        MG_TRY(mg_act_drift_init(&c->act, act, reference->model, c->model, opt->experts_per_token, err));
    }
    return MG_OK;
}

static mg_status run_drift(const mg_walk_source *reference, mg_candidate *cand, uint32_t n,
                           const mg_compare_options *opt, mg_error *err) {
    mg_act_ref act = {0};
    mg_walk w = {0};
    cast k = {0};
    if (reference->model) mg_act_ref_init(&act, reference->model);
    const mg_walk_options walk = {
        .pool = opt->pool, .windows = opt->windows, .experts_per_token = opt->experts_per_token, .memory = opt->memory};
    mg_status st = fill_cast(&k, reference, cand, n, &act, opt, err);
    if (st == MG_OK) st = mg_walk_new(&w, k.sources, n + 1, &walk, k.taps, k.tap_ctx, err);
    for (bool end = false; st == MG_OK && !end;) st = step(&w, cand, &act, opt, &end, err);
    for (uint32_t i = 0; i < n; i++) {
        if (st == MG_OK && !cand[i].not_finite) st = mg_drift_summarize(&cand[i].drift, &cand[i].summary, err);
        cand[i].has_drift = st == MG_OK && !cand[i].not_finite;
    }
    mg_walk_release(&w);
    if (reference->model) mg_act_ref_release(&act);
    free(k.sources);
    free(k.taps);
    free(k.tap_ctx);
    return st;
}

mg_status mg_compare_run(const mg_walk_source *reference, mg_candidate *cand, uint32_t n, const mg_compare_options *opt,
                         mg_error *err) {
    if (opt->windows) MG_TRY(run_drift(reference, cand, n, opt, err));
    for (uint32_t i = 0; opt->weights && i < n; i++) {
        mg_status st = mg_weight_diff_run(&cand[i].weights, reference->model, cand[i].model, cand[i].ids, opt->pool,
                                          opt->progress, err);
        if (st != MG_OK) {
            mg_error_at(err, cand[i].path, NULL);
            return st;
        }
        cand[i].has_weights = true;
    }
    return MG_OK;
}

void mg_candidate_release(mg_candidate *c) {
    mg_drift_release(&c->drift);
    mg_act_drift_release(&c->act);
    mg_weight_diff_release(&c->weights);
    mg_json_free(c->attribution);
}
