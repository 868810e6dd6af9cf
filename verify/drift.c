/* drift.c - see drift.h. */
#include "verify/drift.h"

#include "quant/math/f64.h"
#include "quant/math/topk.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void mg_drift_init(mg_drift *d) {
    memset(d, 0, sizeof *d);
}

void mg_drift_release(mg_drift *d) {
    mg_kl_stats_release(&d->stats);
    mg_drift_init(d);
}

/* What one position contributes; computed in parallel, added up in order. */
typedef struct row_result {
    double kl, kl_upper, nll_ref, nll_cand, max_abs, diff_sq, dot, ref_sq, cand_sq;
    uint64_t top_ref, top_cand;
    uint32_t shared; /* among the first five */
    mg_kl_kind kind;
    bool same_top, finite, no_logits, no_five, cut;
} row_result;

typedef struct row_work {
    const mg_score_rows *ref, *cand;
    uint64_t ids; /* as in mg_drift */
    row_result *out;
} row_work;

/* How many of the best tokens of both are the same; a vocabulary shorter than five has as many as it has. */
static uint32_t shared_top(const float *a, const float *b, uint64_t v) {
    uint32_t x[MG_DRIFT_TOP], y[MG_DRIFT_TOP], n = v < MG_DRIFT_TOP ? (uint32_t)v : MG_DRIFT_TOP, shared = 0;
    mg_topk(a, (uint32_t)v, n, x);
    mg_topk(b, (uint32_t)v, n, y);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) shared += x[i] == y[j];
    return shared + (MG_DRIFT_TOP - n);
}

/* One side at least is recorded and has no logits. */
static mg_status recorded_row(const row_work *w, uint64_t i, mg_error *err) {
    mg_bounded_row b;
    mg_error why = {0};
    mg_status st = mg_drift_bounded(&b, w->ref, w->cand, (uint32_t)i, w->ids, &why);
    if (st != MG_OK)
        return mg_fail(err, st, "window %llu, position %llu: %s", (unsigned long long)w->ref->window,
                       (unsigned long long)(w->ref->pos + i), why.message);
    w->out[i] = (row_result){.kl = b.kl,
                             .kl_upper = b.kl_upper,
                             .nll_ref = b.nll_ref,
                             .nll_cand = b.nll_cand,
                             .top_ref = b.top_ref,
                             .top_cand = b.top_cand,
                             .shared = b.shared,
                             .kind = b.kind,
                             .same_top = b.top_ref == b.top_cand,
                             .finite = isfinite(b.kl) && isfinite(b.nll_ref) && isfinite(b.nll_cand),
                             .no_logits = true,
                             .no_five = !b.knows_five,
                             .cut = b.cut};
    return MG_OK;
}

static mg_status one_row(void *ctx, uint64_t i, unsigned worker, mg_error *err) {
    (void)worker;
    const row_work *w = ctx;
    if (w->ref->kind != MG_ROWS_LOGITS || w->cand->kind != MG_ROWS_LOGITS) return recorded_row(w, i, err);
    const uint64_t v = w->ids ? w->ids : w->ref->vocab;
    const float *a = w->ref->logits + i * w->ref->vocab, *b = w->cand->logits + i * w->cand->vocab;
    row_result r = {0};
    mg_lse la = mg_row_lse(a, v), lb = mg_row_lse(b, v);
    uint64_t target = (uint64_t)w->ref->targets[i];
    r.kl = r.kl_upper = mg_row_kl(&la, a, &lb, b, v);
    r.nll_ref = mg_row_nll(&la, a, target);
    r.nll_cand = mg_row_nll(&lb, b, target);
    r.same_top = la.argmax == lb.argmax;
    r.top_ref = la.argmax;
    r.top_cand = lb.argmax;
    r.shared = shared_top(a, b, v);
    for (uint64_t k = 0; k < v; k++) {
        double x = (double)a[k], y = (double)b[k], diff = y - x;
        r.max_abs = fabs(diff) > r.max_abs ? fabs(diff) : r.max_abs;
        r.diff_sq += diff * diff;
        r.dot += x * y;
        r.ref_sq += x * x;
        r.cand_sq += y * y;
    }
    r.finite = isfinite(r.kl) && isfinite(r.ref_sq) && isfinite(r.cand_sq);
    w->out[i] = r;
    return MG_OK;
}

static void add_class(mg_drift *d, const row_result *r, int32_t target) {
    mg_drift_class *c = &d->by_class[d->classes[target]];
    c->n++;
    c->same_top += r->same_top;
    c->kl += r->kl;
    c->nll_ref += r->nll_ref;
    c->nll_cand += r->nll_cand;
}

/* Into the list of the worst when it belongs there. */
static void add_worst(mg_drift *d, const mg_drift_position *p) {
    uint32_t at = d->n_worst;
    while (at > 0 && d->worst[at - 1].kl < p->kl) at--;
    if (at == MG_DRIFT_WORST) return;
    const uint32_t keep = d->n_worst < MG_DRIFT_WORST ? d->n_worst : MG_DRIFT_WORST - 1;
    memmove(&d->worst[at + 1], &d->worst[at], (keep - at) * sizeof *p);
    d->worst[at] = *p;
    d->n_worst = keep + 1;
}

static mg_status add_row(mg_drift *d, const row_result *r, uint32_t bin, mg_error *err) {
    MG_TRY(mg_kl_stats_add(&d->stats, r->kl, r->nll_cand, r->nll_ref, r->same_top, err));
    d->logit_max_abs = r->max_abs > d->logit_max_abs ? r->max_abs : d->logit_max_abs;
    d->diff_sq += r->diff_sq;
    d->dot += r->dot;
    d->ref_sq += r->ref_sq;
    d->cand_sq += r->cand_sq;
    d->bin_kl[bin] += r->kl;
    d->bin_n[bin]++;
    d->top_shared += r->shared;
    d->sum_kl_upper += r->kl_upper;
    if (r->kind > d->kl_kind) d->kl_kind = r->kind;
    d->no_logits = d->no_logits || r->no_logits;
    d->no_five = d->no_five || r->no_five;
    d->n_cut += r->cut;
    return MG_OK;
}

mg_status mg_drift_add(mg_drift *d, const mg_score_rows *ref, const mg_score_rows *cand, uint32_t window_len,
                       mg_pool *pool, mg_error *err) {
    const uint64_t a = ref->vocab, b = cand->vocab;
    const bool widths = !d->ids ? a == b || !a || !b : (!a || a >= d->ids) && (!b || b >= d->ids);
    if (ref->n != cand->n || ref->pos != cand->pos || ref->window != cand->window || !widths)
        return mg_fail(err, MG_ERR_INTERNAL, "reference and candidate are not in step");
    row_result *out = calloc(ref->n ? ref->n : 1, sizeof *out);
    if (!out) return mg_fail_nomem(err, ref->n * sizeof *out);
    row_work w = {ref, cand, d->ids, out};
    mg_status st = mg_pool_run(pool, ref->n, one_row, &w, err);
    for (uint32_t i = 0; st == MG_OK && i < ref->n; i++) {
        uint64_t pos = ref->pos + i, bin = pos * MG_DRIFT_BINS / (window_len ? window_len : 1);
        if (!out[i].finite)
            st = mg_fail(err, MG_ERR_FORMAT, "window %llu, position %llu: a logit is not finite",
                         (unsigned long long)ref->window, (unsigned long long)pos);
        else
            st = add_row(d, &out[i], (uint32_t)(bin < MG_DRIFT_BINS ? bin : MG_DRIFT_BINS - 1), err);
        if (st != MG_OK) break;
        if (d->classes) add_class(d, &out[i], ref->targets[i]);
        add_worst(d, &(mg_drift_position){.window = ref->window,
                                          .pos = (uint32_t)pos,
                                          .target = ref->targets[i],
                                          .top_ref = (int32_t)out[i].top_ref,
                                          .top_cand = (int32_t)out[i].top_cand,
                                          .kl = out[i].kl,
                                          .p_ref = mg_f64_exp(-out[i].nll_ref),
                                          .p_cand = mg_f64_exp(-out[i].nll_cand)});
    }
    d->n_logits += st == MG_OK ? ref->n * (d->ids ? d->ids : ref->vocab) : 0;
    free(out);
    return st;
}

mg_status mg_drift_summarize(mg_drift *d, mg_drift_summary *s, mg_error *err) {
    memset(s, 0, sizeof *s);
    if (d->stats.n == 0) return mg_fail(err, MG_ERR_USAGE, "no position was scored: the text is too short");
    s->n = d->stats.n;
    s->ppl_reference = mg_ppl_value(&d->stats.base);
    s->ppl_reference_stderr = mg_ppl_stderr(&d->stats.base);
    s->ppl_candidate = mg_ppl_value(&d->stats.ppl);
    s->ppl_candidate_stderr = mg_ppl_stderr(&d->stats.ppl);
    s->kl = mg_kl_stats_summary(&d->stats);
    s->logit_max_abs = d->logit_max_abs;
    s->logit_rms = sqrt(d->diff_sq / (double)d->n_logits);
    const double n = (double)s->n;
    s->top5 = (double)d->top_shared / (MG_DRIFT_TOP * n);
    s->logit_cosine = d->ref_sq > 0 && d->cand_sq > 0 ? d->dot / sqrt(d->ref_sq * d->cand_sq) : 0;
    s->kl_kind = d->kl_kind;
    s->kl_upper = isfinite(d->sum_kl_upper) ? d->sum_kl_upper / n : (double)NAN;
    if (d->no_five) s->top5 = (double)NAN;
    if (d->no_logits) s->logit_max_abs = s->logit_rms = s->logit_cosine = (double)NAN;
    return MG_OK;
}
