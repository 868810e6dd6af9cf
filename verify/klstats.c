/* klstats.c - see klstats.h. */
#include "verify/klstats.h"

#include <math.h>
#include <stdlib.h>

#include "quant/math/f64.h"

void mg_kl_stats_release(mg_kl_stats *s) {
    free(s->kl);
    free(s->dp);
    *s = (mg_kl_stats){0};
}

static mg_status grow(mg_kl_stats *s, mg_error *err) {
    const uint64_t cap = s->cap ? s->cap * 2 : 4096;
    float *kl = realloc(s->kl, cap * sizeof *kl);
    if (kl) s->kl = kl;
    float *dp = realloc(s->dp, cap * sizeof *dp);
    if (dp) s->dp = dp;
    if (!kl || !dp) return mg_fail_nomem(err, cap * sizeof *kl);
    s->cap = cap;
    return MG_OK;
}

mg_status mg_kl_stats_add(mg_kl_stats *s, double kl, double nll, double nll_base, bool same_top, mg_error *err) {
    if (s->n == s->cap) MG_TRY(grow(s, err));
    const double dp = mg_f64_exp(-nll) - mg_f64_exp(-nll_base);
    s->kl[s->n] = (float)kl;
    s->dp[s->n++] = (float)dp;
    s->same_top += same_top;
    mg_ppl_add(&s->ppl, nll);
    mg_ppl_add(&s->base, nll_base);
    s->sum_kl += kl;
    s->sum_kl2 += kl * kl;
    s->sum_dp += dp;
    s->sum_dp2 += dp * dp;
    s->sum_dp4 += dp * dp * dp * dp;
    return MG_OK;
}

static int ascending(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    if (x != x || y != y) return (x != x) - (y != y); /* NaN last */
    return (x > y) - (x < y);
}

static double percentile(const float *v, uint64_t n, double fraction) {
    const double p = fraction * (double)(n - 1);
    const uint64_t i = (uint64_t)p;
    const double t = p - (double)i;
    return (1 - t) * (double)v[i] + t * (double)v[i + 1 < n ? i + 1 : n - 1];
}

/* Standard error of a mean from sums of values and squares. */
static double error_of(double sum, double sum_sq, double n) {
    const double mean = sum / n, var = sum_sq / n - mean * mean;
    return n > 1 && var > 0 ? sqrt(var / (n - 1)) : 0.0;
}

mg_kl_summary mg_kl_stats_summary(mg_kl_stats *s) {
    const double n = (double)s->n, nan = (double)NAN;
    if (s->n == 0) return (mg_kl_summary){nan, nan, nan, nan, nan, nan, nan, nan, nan, nan, nan, nan, nan, nan, nan};
    qsort(s->kl, s->n, sizeof *s->kl, ascending);
    qsort(s->dp, s->n, sizeof *s->dp, ascending);
    mg_kl_summary r = {.mean = s->sum_kl / n, .stderr_ = error_of(s->sum_kl, s->sum_kl2, n)};
    r.median = percentile(s->kl, s->n, 0.5);
    r.p90 = percentile(s->kl, s->n, 0.9);
    r.p95 = percentile(s->kl, s->n, 0.95);
    r.p99 = percentile(s->kl, s->n, 0.99);
    r.p999 = percentile(s->kl, s->n, 0.999);
    r.min = (double)s->kl[0];
    r.max = (double)s->kl[s->n - 1];
    r.dp_mean = s->sum_dp / n;
    r.dp_mean_stderr = error_of(s->sum_dp, s->sum_dp2, n);
    r.dp_rms = sqrt(s->sum_dp2 / n);
    r.dp_rms_stderr = r.dp_rms > 0 ? 0.5 * error_of(s->sum_dp2, s->sum_dp4, n) / r.dp_rms : 0.0;
    r.same_top = (double)s->same_top / n;
    r.same_top_stderr = s->n > 1 ? sqrt(r.same_top * (1 - r.same_top) / (n - 1)) : 0.0;
    return r;
}
