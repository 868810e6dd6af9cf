/* walk.c - see walk.h. */
#include "verify/walk.h"

#include <stdlib.h>

#define RECORDED_ROWS 64u /* rows of a step when nothing is run that would choose */

uint64_t mg_walk_rows(const mg_walk_source *s) {
    return s->recorded ? mg_recorded_vocab(s->recorded) : mg_forward_vocab(s->model);
}

static mg_status start_model(mg_walk *w, mg_walker *k, mg_tap_fn tap, void *ctx, mg_error *err) {
    const mg_forward_options f = {.experts_per_token = w->opt.experts_per_token};
    mg_score_options score = w->cuts; /* every walker cuts batches where the leader does */
    score.tap = tap;
    score.tap_ctx = ctx;
    score.precision = k->source.precision;
    MG_TRY(mg_forward_check(k->source.model, err));
    MG_TRY(mg_forward_new(&k->forward, w->opt.pool, &f, err));
    MG_TRY(mg_scorer_new(&k->scorer, k->forward, k->source.model, w->opt.windows, &score, err));
    if (w->leader != w->n) return MG_OK;
    w->leader = (uint32_t)(k - w->walkers);
    mg_scorer_cuts(k->scorer, &w->cuts);
    return MG_OK;
}

mg_status mg_walk_new(mg_walk *w, const mg_walk_source *sources, uint32_t n, const mg_walk_options *opt,
                      const mg_tap_fn *taps, void *const *tap_ctx, mg_error *err) {
    uint64_t memory = opt->memory ? opt->memory : 1ull << 30, rows = 0;
    bool wide = false;
    for (uint32_t i = 0; i < n; i++) wide = wide || sources[i].precision != MG_PRECISION_F32;
    for (uint32_t i = 0; i < n; i++)
        if (mg_walk_rows(&sources[i]) > rows) rows = mg_walk_rows(&sources[i]);
    if (wide) memory /= 2; /* doubles take twice the room, and all cut alike */
    *w = (mg_walk){.opt = *opt, .n = n, .leader = n, .cuts = {.memory = memory / n, .vocab = rows}};
    w->walkers = calloc(n, sizeof *w->walkers);
    if (!w->walkers) return mg_fail_nomem(err, n * sizeof *w->walkers);
    mg_status st = MG_OK;
    for (uint32_t i = 0; st == MG_OK && i < n; i++) {
        w->walkers[i].source = sources[i];
        st = sources[i].recorded ? mg_recorded_check(sources[i].recorded, opt->windows, err)
                                 : start_model(w, &w->walkers[i], taps ? taps[i] : NULL, taps ? tap_ctx[i] : NULL, err);
        if (st != MG_OK) mg_error_at(err, sources[i].path, NULL);
    }
    return st;
}

void mg_walk_release(mg_walk *w) {
    for (uint32_t i = 0; w->walkers && i < w->n; i++) {
        mg_scorer_free(w->walkers[i].scorer);
        mg_forward_free(w->walkers[i].forward);
    }
    free(w->walkers);
    *w = (mg_walk){0};
}

/* The next positions when everything is recorded. */
static void next_cut(mg_walk *w, mg_score_rows *cut) {
    const mg_windows *all = w->opt.windows;
    *cut = (mg_score_rows){0};
    for (; w->window < all->n; w->window++, w->pos = 0) {
        const mg_window *o = &all->items[w->window];
        if (w->pos < o->first) w->pos = o->first;
        if (w->pos + 1u >= o->len) continue;
        const uint32_t left = o->len - 1u - w->pos;
        cut->window = w->window;
        cut->pos = w->pos;
        cut->n = left < RECORDED_ROWS ? left : RECORDED_ROWS;
        cut->targets = all->ids + o->at + w->pos + 1;
        w->pos += cut->n;
        return;
    }
}

mg_status mg_walk_lead(mg_walk *w, mg_score_rows *cut, mg_error *err) {
    if (w->leader == w->n) {
        next_cut(w, cut);
        return MG_OK;
    }
    mg_walker *k = &w->walkers[w->leader];
    mg_status st = mg_scorer_next(k->scorer, &k->rows, err);
    if (st != MG_OK) mg_error_at(err, k->source.path, NULL);
    *cut = k->rows;
    return st;
}

mg_status mg_walk_follow(mg_walk *w, uint32_t i, const mg_score_rows *cut, mg_error *err) {
    mg_walker *k = &w->walkers[i];
    if (i == w->leader) return MG_OK;
    mg_status st = MG_OK;
    if (!k->source.recorded)
        st = mg_scorer_next(k->scorer, &k->rows, err);
    else if (cut->n)
        st = mg_recorded_rows(k->source.recorded, cut, &k->rows, err);
    if (st != MG_OK) mg_error_at(err, k->source.path, NULL);
    return st;
}

mg_status mg_walk_check(const mg_walk *w, uint32_t i, mg_error *err) {
    mg_status st = mg_score_rows_check(&w->walkers[i].rows, err);
    if (st != MG_OK) mg_error_at(err, w->walkers[i].source.path, NULL);
    return st;
}
