/* peer.c - see peer.h. */
#include "verify/peer.h"

#include <stdlib.h>

#include "verify/pareto.h"

static mg_status add_step(mg_peers *p, const mg_walk *w, const mg_score_rows *cut, mg_error *err) {
    const uint32_t len = w->opt.windows->items[cut->window].len;
    for (uint32_t i = 0; i < p->n_pairs; i++) {
        mg_peer_pair *k = &p->pairs[i];
        const mg_score_rows *a = &w->walkers[k->a].rows, *b = &w->walkers[k->b].rows;
        mg_status st = mg_drift_add(&k->ab, a, b, len, w->opt.pool, err);
        if (st == MG_OK) st = mg_drift_add(&k->ba, b, a, len, w->opt.pool, err);
        if (st != MG_OK) {
            mg_error_at(err, p->peers[k->b].source.path, NULL);
            return st;
        }
    }
    return MG_OK;
}

static mg_status walk_all(mg_peers *p, mg_walk *w, mg_progress *progress, mg_error *err) {
    for (;;) {
        mg_score_rows cut;
        MG_TRY(mg_walk_lead(w, &cut, err));
        for (uint32_t i = 0; i < p->n; i++) {
            MG_TRY(mg_walk_follow(w, i, &cut, err));
            MG_TRY(mg_walk_check(w, i, err));
        }
        if (cut.n == 0) return MG_OK;
        MG_TRY(add_step(p, w, &cut, err));
        mg_progress_add(progress, cut.n, NULL);
    }
}

static void rank(mg_peers *p) {
    mg_ranked r[MG_PEERS_MAX];
    for (uint32_t i = 0; i < p->n; i++)
        r[i] = (mg_ranked){.bytes = p->peers[i].bytes,
                           .figure = p->peers[i].ppl,
                           .unsized = p->peers[i].source.recorded != NULL,
                           .index = i};
    mg_rank(r, p->n);
    for (uint32_t i = 0; i < p->n; i++) p->peers[r[i].index].pareto = r[i].pareto;
}

static mg_status summarize(mg_peers *p, mg_error *err) {
    for (uint32_t i = 0; i < p->n_pairs; i++) {
        mg_peer_pair *k = &p->pairs[i];
        MG_TRY(mg_drift_summarize(&k->ab, &k->of_ab, err));
        MG_TRY(mg_drift_summarize(&k->ba, &k->of_ba, err));
        p->peers[k->a].ppl = k->of_ab.ppl_reference;
        p->peers[k->a].ppl_stderr = k->of_ab.ppl_reference_stderr;
        p->peers[k->b].ppl = k->of_ab.ppl_candidate;
        p->peers[k->b].ppl_stderr = k->of_ab.ppl_candidate_stderr;
    }
    rank(p);
    return MG_OK;
}

mg_status mg_peers_run(mg_peers *p, const mg_walk_options *opt, mg_progress *progress, mg_error *err) {
    mg_walk_source sources[MG_PEERS_MAX];
    mg_walk w = {0};
    p->pairs = calloc(p->n * (p->n - 1) / 2, sizeof *p->pairs);
    if (!p->pairs) return mg_fail_nomem(err, p->n * p->n * sizeof *p->pairs);
    for (uint32_t a = 0; a < p->n; a++) {
        sources[a] = p->peers[a].source;
        for (uint32_t b = a + 1; b < p->n; b++) {
            mg_peer_pair *k = &p->pairs[p->n_pairs++];
            *k = (mg_peer_pair){.a = a, .b = b};
            k->ab.ids = k->ba.ids = p->ids;
        }
    }
    mg_status st = mg_walk_new(&w, sources, p->n, opt, NULL, NULL, err);
    if (st == MG_OK) st = walk_all(p, &w, progress, err);
    if (st == MG_OK) st = summarize(p, err);
    mg_walk_release(&w);
    return st;
}

void mg_peers_release(mg_peers *p) {
    for (uint32_t i = 0; i < p->n_pairs; i++) {
        mg_drift_release(&p->pairs[i].ab);
        mg_drift_release(&p->pairs[i].ba);
    }
    free(p->pairs);
    *p = (mg_peers){0};
}
