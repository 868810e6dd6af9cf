/* klstats.h - divergence of one model from another over many positions, and the figures llama-perplexity prints of it.
 */
#ifndef MG_VERIFY_KLSTATS_H
#define MG_VERIFY_KLSTATS_H

#include "formats/base/json.h"
#include "verify/score.h"

typedef struct mg_kl_stats {
    uint64_t n, cap;
    float *kl, *dp; /* per position: divergence; p(target) - p_base(target) */
    uint64_t same_top;
    mg_ppl ppl, base; /* of the model and of what it is compared with */
    double sum_kl, sum_kl2, sum_dp, sum_dp2, sum_dp4;
    double sum_dn, sum_dn2, sum_dn_base; /* dn: nll - nll_base, paired; dn * nll_base */
} mg_kl_stats;

void mg_kl_stats_release(mg_kl_stats *s);
/* nll, nll_base: -log p of the target under both. {0} is an empty collection. */
mg_status mg_kl_stats_add(mg_kl_stats *s, double kl, double nll, double nll_base, bool same_top,
                          mg_error *err) MG_MUST_CHECK;

/* Order statistics, linear between neighbours; p001 has a thousandth of the values below it. */
typedef struct mg_spread {
    double min, p001, p01, p05, p10, p25, median, p75, p90, p95, p99, p999, max;
} mg_spread;

typedef struct mg_kl_summary {
    double mean, stderr_;
    mg_spread kl, dp;                                      /* dp: fractions */
    double dp_mean, dp_mean_stderr, dp_rms, dp_rms_stderr; /* fractions */
    double same_top, same_top_stderr;                      /* fractions */
    double ln_ratio, ln_ratio_stderr;     /* mean of dn: logarithm of the perplexities' ratio, and its paired error */
    double difference, difference_stderr; /* of the perplexities */
    double correlation;                   /* of nll and nll_base over positions; NaN where one of them is constant */
} mg_kl_summary;
/* Sorts the collection. n = 0 gives NaN everywhere. */
mg_kl_summary mg_kl_stats_summary(mg_kl_stats *s);
/* Every figure of a spread under its name ("min" .. "max") into o. */
void mg_spread_json(mg_json *o, const mg_spread *s);

#endif
