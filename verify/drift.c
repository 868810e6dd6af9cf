/* drift.c - see drift.h. */
#include "verify/drift.h"

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
    double kl, nll_ref, nll_cand, max_abs, diff_sq, dot, ref_sq, cand_sq;
    bool same_top, finite;
} row_result;

typedef struct row_work {
    const mg_score_rows *ref, *cand;
    row_result *out;
} row_work;

static mg_status one_row(void *ctx, uint64_t i, unsigned worker, mg_error *err) {
    (void)worker;
    (void)err;
    const row_work *w = ctx;
    uint64_t v = w->ref->vocab;
    const float *a = w->ref->logits + i * v, *b = w->cand->logits + i * v;
    row_result r = {0};
    mg_lse la = mg_row_lse(a, v), lb = mg_row_lse(b, v);
    uint64_t target = (uint64_t)w->ref->targets[i];
    r.kl = mg_row_kl(&la, a, &lb, b, v);
    r.nll_ref = mg_row_nll(&la, a, target);
    r.nll_cand = mg_row_nll(&lb, b, target);
    r.same_top = la.argmax == lb.argmax;
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

static mg_status add_row(mg_drift *d, const row_result *r, uint32_t bin, mg_error *err) {
    MG_TRY(mg_kl_stats_add(&d->stats, r->kl, r->nll_cand, r->nll_ref, r->same_top, err));
    d->logit_max_abs = r->max_abs > d->logit_max_abs ? r->max_abs : d->logit_max_abs;
    d->diff_sq += r->diff_sq;
    d->dot += r->dot;
    d->ref_sq += r->ref_sq;
    d->cand_sq += r->cand_sq;
    d->bin_kl[bin] += r->kl;
    d->bin_n[bin]++;
    return MG_OK;
}

mg_status mg_drift_add(mg_drift *d, const mg_score_rows *ref, const mg_score_rows *cand, uint32_t window_len,
                       mg_pool *pool, mg_error *err) {
    if (ref->n != cand->n || ref->pos != cand->pos || ref->window != cand->window || ref->vocab != cand->vocab)
        return mg_fail(err, MG_ERR_INTERNAL, "reference and candidate are not in step");
    row_result *out = calloc(ref->n ? ref->n : 1, sizeof *out);
    if (!out) return mg_fail_nomem(err, ref->n * sizeof *out);
    row_work w = {ref, cand, out};
    mg_status st = mg_pool_run(pool, ref->n, one_row, &w, err);
    for (uint32_t i = 0; st == MG_OK && i < ref->n; i++) {
        uint64_t pos = ref->pos + i, bin = pos * MG_DRIFT_BINS / (window_len ? window_len : 1);
        if (!out[i].finite)
            st = mg_fail(err, MG_ERR_FORMAT, "window %llu, position %llu: a logit is not finite",
                         (unsigned long long)ref->window, (unsigned long long)pos);
        else
            st = add_row(d, &out[i], (uint32_t)(bin < MG_DRIFT_BINS ? bin : MG_DRIFT_BINS - 1), err);
    }
    d->n_logits += st == MG_OK ? ref->n * ref->vocab : 0;
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
    s->logit_cosine = d->ref_sq > 0 && d->cand_sq > 0 ? d->dot / sqrt(d->ref_sq * d->cand_sq) : 0;
    return MG_OK;
}
