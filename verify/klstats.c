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
    const double dn = nll - nll_base;
    s->sum_dn += dn;
    s->sum_dn2 += dn * dn;
    s->sum_dn_base += dn * nll_base;
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

/* v ascending */
static mg_spread spread_of(const float *v, uint64_t n) {
    return (mg_spread){.min = (double)v[0],
                       .p001 = percentile(v, n, 0.001),
                       .p01 = percentile(v, n, 0.01),
                       .p05 = percentile(v, n, 0.05),
                       .p10 = percentile(v, n, 0.1),
                       .p25 = percentile(v, n, 0.25),
                       .median = percentile(v, n, 0.5),
                       .p75 = percentile(v, n, 0.75),
                       .p90 = percentile(v, n, 0.9),
                       .p95 = percentile(v, n, 0.95),
                       .p99 = percentile(v, n, 0.99),
                       .p999 = percentile(v, n, 0.999),
                       .max = (double)v[n - 1]};
}

void mg_spread_json(mg_json *o, const mg_spread *s) {
    const struct {
        const char *name;
        double x;
    } rows[] = {{"min", s->min}, {"p001", s->p001},     {"p01", s->p01}, {"p05", s->p05}, {"p10", s->p10},
                {"p25", s->p25}, {"median", s->median}, {"p75", s->p75}, {"p90", s->p90}, {"p95", s->p95},
                {"p99", s->p99}, {"p999", s->p999},     {"max", s->max}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) mg_json_set_f64(o, rows[i].name, rows[i].x);
}

/* Standard error of a mean from sums of values and squares. */
static double error_of(double sum, double sum_sq, double n) {
    const double mean = sum / n, var = sum_sq / n - mean * mean;
    return n > 1 && var > 0 ? sqrt(var / (n - 1)) : 0.0;
}

/* What depends on both models at one position at a time. llama-perplexity goes by the covariance of nll and nll_base;
 * here everything is built on dn = nll - nll_base, which is the same and does not cancel where the models are close. */
static void paired(mg_kl_summary *r, const mg_kl_stats *s) {
    const double n = (double)s->n, base = s->base.sum / n, dn = s->sum_dn / n, q = mg_ppl_value(&s->ppl);
    const double var_base = s->base.sum_sq / n - base * base, var_dn = s->sum_dn2 / n - dn * dn,
                 cov = s->sum_dn_base / n - dn * base, var = var_base + var_dn + 2 * cov;
    r->ln_ratio = dn;
    r->ln_ratio_stderr = error_of(s->sum_dn, s->sum_dn2, n);
    r->difference = q - mg_ppl_value(&s->base);
    /* variance of q nll - p nll_base = q dn + (q - p) nll_base, p and q being the perplexities */
    const double d = q * q * var_dn + r->difference * r->difference * var_base + 2 * q * r->difference * cov;
    r->difference_stderr = s->n > 1 && d > 0 ? sqrt(d / (n - 1)) : 0.0;
    r->correlation = var > 0 && var_base > 0 ? (var_base + cov) / sqrt(var * var_base) : (double)NAN;
}

mg_kl_summary mg_kl_stats_summary(mg_kl_stats *s) {
    const double n = (double)s->n, nan = (double)NAN;
    const mg_spread none = {nan, nan, nan, nan, nan, nan, nan, nan, nan, nan, nan, nan, nan};
    if (s->n == 0) return (mg_kl_summary){nan, nan, none, none, nan, nan, nan, nan, nan, nan, nan, nan, nan, nan, nan};
    qsort(s->kl, s->n, sizeof *s->kl, ascending);
    qsort(s->dp, s->n, sizeof *s->dp, ascending);
    mg_kl_summary r = {.mean = s->sum_kl / n, .stderr_ = error_of(s->sum_kl, s->sum_kl2, n)};
    r.kl = spread_of(s->kl, s->n);
    r.dp = spread_of(s->dp, s->n);
    r.dp_mean = s->sum_dp / n;
    r.dp_mean_stderr = error_of(s->sum_dp, s->sum_dp2, n);
    r.dp_rms = sqrt(s->sum_dp2 / n);
    r.dp_rms_stderr = r.dp_rms > 0 ? 0.5 * error_of(s->sum_dp2, s->sum_dp4, n) / r.dp_rms : 0.0;
    r.same_top = (double)s->same_top / n;
    r.same_top_stderr = s->n > 1 ? sqrt(r.same_top * (1 - r.same_top) / (n - 1)) : 0.0;
    paired(&r, s);
    return r;
}
