/* drift_bounds.h - divergence at a position of which one side or both are recorded and not all is known.
 *
 * Of the tokens whose log-probability both sides have (C) everything is exact; what is left of p and of q is taken as
 * one token, which can only make the divergence smaller (log sum inequality):
 *     KL >= sum over C of p (log p - log q) + P log(P / Q),   P = 1 - sum over C of p, Q likewise.
 * When q is known everywhere and only p is not, the largest KL is reached where the rest of p lies on the tokens that q
 * gives least, each with as much as the least likely listed token has: convex in p, so a corner. When q is not known
 * everywhere nothing bounds KL from above. */
#ifndef MG_VERIFY_DRIFT_BOUNDS_H
#define MG_VERIFY_DRIFT_BOUNDS_H

#include "verify/score.h"

typedef enum mg_kl_kind {
    MG_KL_EXACT, /* of all logits */
    MG_KL_BASE,  /* of a base file's 16-bit log-probabilities, as llama-perplexity forms it */
    MG_KL_LOWER, /* a lower bound */
} mg_kl_kind;
const char *mg_kl_kind_name(mg_kl_kind k);

typedef struct mg_bounded_row {
    mg_kl_kind kind;
    double kl, kl_upper; /* equal unless kind is MG_KL_LOWER; kl_upper may be infinite */
    double nll_ref, nll_cand;
    uint64_t top_ref, top_cand;
    uint32_t shared; /* of the five most likely tokens */
    bool knows_five; /* shared is known */
    bool cut;        /* a side lists ids that are left out */
} mg_bounded_row;

/* Row i of both, one of them at least not MG_ROWS_LOGITS, over the ids below `ids` (0: all): what a side has beyond is
 * left out and the rest of its probabilities divided by their sum. MG_ERR_CONFLICT: a token that the other side does
 * not have. MG_ERR_FORMAT: nothing is left. */
mg_status mg_drift_bounded(mg_bounded_row *out, const mg_score_rows *ref, const mg_score_rows *cand, uint32_t i,
                           uint64_t ids, mg_error *err) MG_MUST_CHECK;

#endif
