/* drift.h - how far a candidate's predictions are from a reference's, position by position, and how their logits
 * differ. p is the reference's distribution, q the candidate's.
 *
 *   top5      share of the reference's five most likely tokens that are among the candidate's five
 *   kl        sum p (log p - log q), nats          delta_p   q(target) - p(target)
 *   top1      both have the same most likely token  ppl       exp(mean -log prob of the target)
 * Percentiles interpolate linearly between order statistics. Standard errors are sqrt(variance / (n - 1)). */
#ifndef MG_VERIFY_DRIFT_H
#define MG_VERIFY_DRIFT_H

#include "verify/drift_bounds.h"
#include "verify/klstats.h"
#include "verify/token_class.h"

#define MG_DRIFT_BINS  32u /* positions within a window, for the plot */
#define MG_DRIFT_WORST 20u /* positions kept as the worst */
#define MG_DRIFT_TOP   5u

/* One position among the worst. */
typedef struct mg_drift_position {
    uint64_t window;
    uint32_t pos;
    int32_t target, top_ref, top_cand; /* the token that follows, and the most likely of both */
    double kl, p_ref, p_cand;          /* probabilities of the target */
} mg_drift_position;

/* The positions whose following token is of one class. */
typedef struct mg_drift_class {
    uint64_t n, same_top;
    double kl, nll_ref, nll_cand; /* sums */
} mg_drift_class;

typedef struct mg_drift {
    mg_kl_stats stats;                                   /* divergence, delta_p, perplexities, top tokens */
    double logit_max_abs, diff_sq, dot, ref_sq, cand_sq; /* sums over all logits */
    uint64_t n_logits;
    double bin_kl[MG_DRIFT_BINS];
    uint64_t bin_n[MG_DRIFT_BINS];
    uint64_t top_shared;     /* of MG_DRIFT_TOP per position */
    uint64_t n_cut;          /* positions at which a recording lists ids beyond `ids`, which are left out */
    mg_kl_kind kl_kind;      /* what the divergences are; not exact where a side is recorded */
    double sum_kl_upper;     /* of MG_KL_LOWER */
    bool no_logits, no_five; /* logits, or the best five tokens, are not known everywhere */
    uint64_t ids;            /* compare ids 0 .. ids - 1 (common_vocab.h); 0: all, and both sides have as many */
    const uint8_t *classes;  /* [vocab] mg_token_class, borrowed; NULL: not told apart */
    mg_drift_class by_class[MG_CLASS_COUNT];
    mg_drift_position worst[MG_DRIFT_WORST]; /* most divergence first; of equal ones the earlier first */
    uint32_t n_worst;
} mg_drift;

void mg_drift_init(mg_drift *d);
void mg_drift_release(mg_drift *d);
/* Add the rows of two scorers walked in step. window_len: tokens of the rows' window, for the bins. pool may be NULL;
 * the result does not depend on it. Every target is one of the ids compared. MG_ERR_FORMAT when a logit is not finite,
 * MG_ERR_CONFLICT when a recording has tokens that the other side lacks and d->ids does not leave out. */
mg_status mg_drift_add(mg_drift *d, const mg_score_rows *ref, const mg_score_rows *cand, uint32_t window_len,
                       mg_pool *pool, mg_error *err) MG_MUST_CHECK;

typedef struct mg_drift_summary {
    uint64_t n;
    double ppl_reference, ppl_reference_stderr, ppl_candidate, ppl_candidate_stderr;
    mg_kl_summary kl;
    mg_kl_kind kl_kind;
    double kl_upper;                               /* of the mean, NaN when nothing bounds it; equal to it when exact */
    double logit_max_abs, logit_rms, logit_cosine; /* NaN where a side has no logits */
    double top5;                                   /* NaN where it is not known */
} mg_drift_summary;
/* Sorts what was collected: nothing may be added afterwards. MG_ERR_USAGE when no position was scored. */
mg_status mg_drift_summarize(mg_drift *d, mg_drift_summary *out, mg_error *err) MG_MUST_CHECK;

#endif
