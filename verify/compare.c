/* compare.c - see compare.h. */
#include "verify/compare.h"

#include <stdlib.h>
#include <string.h>

/* A model being walked. */
typedef struct walker {
    mg_forward *forward;
    mg_scorer *scorer;
    mg_score_rows rows;
} walker;

static mg_status walker_new(walker *w, mg_model *m, const mg_compare_options *opt, const mg_score_options *score,
                            mg_error *err) {
    mg_forward_options f = {.experts_per_token = opt->experts_per_token};
    MG_TRY(mg_forward_check(m, err));
    MG_TRY(mg_forward_new(&w->forward, opt->pool, &f, err));
    return mg_scorer_new(&w->scorer, w->forward, m, opt->windows, score, err);
}

static void walker_free(walker *w) {
    mg_scorer_free(w->scorer);
    mg_forward_free(w->forward);
}

static mg_status check_vocab(const mg_model *a, const mg_candidate *c, mg_error *err) {
    int64_t x = mg_hp_i(a, MG_K_VOCAB), y = mg_hp_i(c->model, MG_K_VOCAB);
    if (x == y) return MG_OK;
    mg_error_at(err, c->path, NULL);
    return mg_fail(err, MG_ERR_CONFLICT, "vocabularies differ: the reference has %lld tokens, this model %lld",
                   (long long)x, (long long)y);
}

/* One step of every walker: the same rows of the same window. */
static mg_status step(walker *ref, walker *w, mg_candidate *cand, uint32_t n, mg_act_ref *act,
                      const mg_compare_options *opt, bool *end, mg_error *err) {
    MG_TRY(mg_scorer_next(ref->scorer, &ref->rows, err));
    bool new_batch = act->writing;
    *end = ref->rows.n == 0;
    for (uint32_t i = 0; i < n; i++) {
        if (new_batch) MG_TRY(mg_act_ref_rewind(act, err));
        mg_status st = mg_scorer_next(w[i].scorer, &w[i].rows, err);
        if (st == MG_OK && !*end)
            st = mg_drift_add(&cand[i].drift, &ref->rows, &w[i].rows, opt->windows->items[ref->rows.window].len,
                              opt->pool, err);
        if (st != MG_OK) {
            mg_error_at(err, cand[i].path, NULL);
            return st;
        }
    }
    mg_progress_add(opt->progress, ref->rows.n, NULL);
    return MG_OK;
}

static mg_status run_drift(mg_model *reference, mg_candidate *cand, uint32_t n, const mg_compare_options *opt,
                           mg_error *err) {
    mg_act_ref act;
    walker ref = {0}, *w = calloc(n, sizeof *w);
    if (!w) return mg_fail_nomem(err, n * sizeof *w);
    mg_act_ref_init(&act, reference);
    uint64_t memory = opt->memory ? opt->memory : 1ull << 30;
    mg_tap_fn ref_tap = opt->logits_only ? NULL : mg_act_ref_tap, tap = opt->logits_only ? NULL : mg_act_drift_tap;
    mg_score_options score = {.memory = memory / (n + 1), .tap = ref_tap, .tap_ctx = &act};
    mg_status st = walker_new(&ref, reference, opt, &score, err);
    if (st == MG_OK) mg_scorer_cuts(ref.scorer, &score); /* every walker cuts batches where the reference does */
    uint32_t top_k = opt->experts_per_token;
    for (uint32_t i = 0; st == MG_OK && i < n; i++) {
        st = check_vocab(reference, &cand[i], err);
        if (st == MG_OK && tap) st = mg_act_drift_init(&cand[i].act, &act, reference, cand[i].model, top_k, err);
        cand[i].drift.classes = opt->classes;
        score.tap = tap;
        score.tap_ctx = &cand[i].act;
        if (st == MG_OK) st = walker_new(&w[i], cand[i].model, opt, &score, err);
    }
    for (bool end = false; st == MG_OK && !end;) st = step(&ref, w, cand, n, &act, opt, &end, err);
    for (uint32_t i = 0; i < n; i++) {
        if (st == MG_OK) st = mg_drift_summarize(&cand[i].drift, &cand[i].summary, err);
        cand[i].has_drift = st == MG_OK;
        walker_free(&w[i]);
    }
    walker_free(&ref);
    mg_act_ref_release(&act);
    free(w);
    return st;
}

mg_status mg_compare_run(mg_model *reference, mg_candidate *cand, uint32_t n, const mg_compare_options *opt,
                         mg_error *err) {
    if (opt->windows) MG_TRY(run_drift(reference, cand, n, opt, err));
    for (uint32_t i = 0; opt->weights && i < n; i++) {
        mg_status st = mg_weight_diff_run(&cand[i].weights, reference, cand[i].model, opt->pool, opt->progress, err);
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
