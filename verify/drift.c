/* drift.c - see drift.h. */
#include "verify/drift.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void mg_drift_init(mg_drift *d) {
    memset(d, 0, sizeof *d);
}

void mg_drift_release(mg_drift *d) {
    free(d->kl);
    free(d->delta_p);
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

static mg_status grow(mg_drift *d, uint64_t n, mg_error *err) {
    if (d->n + n <= d->cap) return MG_OK;
    uint64_t cap = (d->n + n) * 2;
    double *kl = realloc(d->kl, cap * sizeof *kl);
    if (kl) d->kl = kl;
    double *dp = kl ? realloc(d->delta_p, cap * sizeof *dp) : NULL;
    if (!dp) return mg_fail_nomem(err, 2 * cap * sizeof *dp);
    d->delta_p = dp;
    d->cap = cap;
    return MG_OK;
}

static void add_row(mg_drift *d, const row_result *r, uint32_t bin) {
    d->kl[d->n] = r->kl;
    d->delta_p[d->n++] = exp(-r->nll_cand) - exp(-r->nll_ref);
    mg_ppl_add(&d->reference, r->nll_ref);
    mg_ppl_add(&d->candidate, r->nll_cand);
    d->same_top += r->same_top;
    d->logit_max_abs = r->max_abs > d->logit_max_abs ? r->max_abs : d->logit_max_abs;
    d->diff_sq += r->diff_sq;
    d->dot += r->dot;
    d->ref_sq += r->ref_sq;
    d->cand_sq += r->cand_sq;
    d->bin_kl[bin] += r->kl;
    d->bin_n[bin]++;
}

mg_status mg_drift_add(mg_drift *d, const mg_score_rows *ref, const mg_score_rows *cand, uint32_t window_len,
                       mg_pool *pool, mg_error *err) {
    if (ref->n != cand->n || ref->pos != cand->pos || ref->window != cand->window || ref->vocab != cand->vocab)
        return mg_fail(err, MG_ERR_INTERNAL, "reference and candidate are not in step");
    MG_TRY(grow(d, ref->n, err));
    row_result *out = calloc(ref->n ? ref->n : 1, sizeof *out);
    if (!out) return mg_fail_nomem(err, ref->n * sizeof *out);
    row_work w = {ref, cand, out};
    mg_status st = mg_pool_run(pool, ref->n, one_row, &w, err);
    for (uint32_t i = 0; st == MG_OK && i < ref->n; i++) {
        if (!out[i].finite) {
            st = mg_fail(err, MG_ERR_FORMAT, "window %llu, position %u: a logit is not finite",
                         (unsigned long long)ref->window, ref->pos + i);
            break;
        }
        add_row(d, &out[i],
                (uint32_t)((uint64_t)(ref->pos + i) * MG_DRIFT_BINS / (window_len ? window_len : 1)) % MG_DRIFT_BINS);
    }
    d->n_logits += st == MG_OK ? ref->n * ref->vocab : 0;
    free(out);
    return st;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile(const double *sorted, uint64_t n, double fraction) {
    double at = fraction * (double)(n - 1);
    uint64_t i = (uint64_t)at;
    double rest = at - (double)i;
    return (1 - rest) * sorted[i] + rest * sorted[i + 1 < n ? i + 1 : n - 1];
}

static void summarize_kl(const double *sorted, uint64_t n, mg_drift_summary *s) {
    double sum = 0, sum_sq = 0;
    for (uint64_t i = 0; i < n; i++) {
        sum += sorted[i];
        sum_sq += sorted[i] * sorted[i];
    }
    s->kl_mean = sum / (double)n;
    double variance = sum_sq / (double)n - s->kl_mean * s->kl_mean;
    s->kl_stderr = n > 1 && variance > 0 ? sqrt(variance / (double)(n - 1)) : 0;
    s->kl_median = percentile(sorted, n, 0.5);
    s->kl_p90 = percentile(sorted, n, 0.9);
    s->kl_p95 = percentile(sorted, n, 0.95);
    s->kl_p99 = percentile(sorted, n, 0.99);
    s->kl_p999 = percentile(sorted, n, 0.999);
    s->kl_max = sorted[n - 1];
}

mg_status mg_drift_summarize(const mg_drift *d, mg_drift_summary *s, mg_error *err) {
    memset(s, 0, sizeof *s);
    if (d->n == 0) return mg_fail(err, MG_ERR_USAGE, "no position was scored: the text is too short");
    double *sorted = malloc(d->n * sizeof *sorted);
    if (!sorted) return mg_fail_nomem(err, d->n * sizeof *sorted);
    memcpy(sorted, d->kl, d->n * sizeof *sorted);
    qsort(sorted, d->n, sizeof *sorted, ascending);
    summarize_kl(sorted, d->n, s);
    free(sorted);
    s->n = d->n;
    s->ppl_reference = mg_ppl_value(&d->reference);
    s->ppl_reference_stderr = mg_ppl_stderr(&d->reference);
    s->ppl_candidate = mg_ppl_value(&d->candidate);
    s->ppl_candidate_stderr = mg_ppl_stderr(&d->candidate);
    s->top1 = (double)d->same_top / (double)d->n;
    for (uint64_t i = 0; i < d->n; i++) {
        s->delta_p_mean += d->delta_p[i];
        s->delta_p_rms += d->delta_p[i] * d->delta_p[i];
    }
    s->delta_p_mean /= (double)d->n;
    s->delta_p_rms = sqrt(s->delta_p_rms / (double)d->n);
    s->logit_max_abs = d->logit_max_abs;
    s->logit_rms = sqrt(d->diff_sq / (double)d->n_logits);
    s->logit_cosine = d->ref_sq > 0 && d->cand_sq > 0 ? d->dot / sqrt(d->ref_sq * d->cand_sq) : 0;
    return MG_OK;
}
