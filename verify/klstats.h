/* klstats.h - divergence of one model from another over many positions, and the figures llama-perplexity prints of it.
 */
#ifndef MG_VERIFY_KLSTATS_H
#define MG_VERIFY_KLSTATS_H

#include "formats/base/status.h"
#include "verify/score.h"

typedef struct mg_kl_stats {
    uint64_t n, cap;
    float *kl, *dp; /* per position: divergence; p(target) - p_base(target) */
    uint64_t same_top;
    mg_ppl ppl, base; /* of the model and of what it is compared with */
    double sum_kl, sum_kl2, sum_dp, sum_dp2, sum_dp4;
} mg_kl_stats;

void mg_kl_stats_release(mg_kl_stats *s);
/* nll, nll_base: -log p of the target under both. {0} is an empty collection. */
mg_status mg_kl_stats_add(mg_kl_stats *s, double kl, double nll, double nll_base, bool same_top,
                          mg_error *err) MG_MUST_CHECK;

typedef struct mg_kl_summary {
    double mean, stderr_, median, p90, p95, p99, p999, max, min; /* of the divergence */
    double dp_mean, dp_mean_stderr, dp_rms, dp_rms_stderr;       /* fractions */
    double same_top, same_top_stderr;                            /* fractions */
} mg_kl_summary;
/* Sorts the collection. n = 0 gives NaN everywhere. Percentiles interpolate between neighbours. */
mg_kl_summary mg_kl_stats_summary(mg_kl_stats *s);

#endif
