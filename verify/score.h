/* score.h - runs a model over windows and hands out logits; log-probabilities, perplexity and divergence of rows.
 *
 * A scorer is pulled: each call gives logits of consecutive scored positions of one window, in order. Windows are run
 * many at a time, so every weight is read once per batch. Two scorers over the same windows with the same options give
 * the same cuts, so a reference and a candidate can be walked in step. They need an mg_forward each. Logits are exact
 * f32 of the forward pass whatever the batch (those of the double pass are rounded to f32). */
#ifndef MG_VERIFY_SCORE_H
#define MG_VERIFY_SCORE_H

#include "verify/forward.h"
#include "verify/forward64.h"
#include "verify/windows.h"

/* What is known of a position. */
typedef enum mg_rows_kind {
    MG_ROWS_LOGITS, /* a logit of every token */
    MG_ROWS_BASE,   /* a log-probability of every token, cut off MG_BASE_RANGE below the largest (kldbase.h) */
    MG_ROWS_TOP,    /* log-probabilities of some tokens, the most likely ones among them */
} mg_rows_kind;

/* One position of MG_ROWS_TOP. */
typedef struct mg_top_row {
    uint32_t n;
    const int32_t *ids; /* ascending */
    const double *logp;
    double target; /* of the token that follows, which is among the ids */
    double most;   /* no token that is not listed has more than this */
    bool five;     /* the five most likely are listed */
} mg_top_row;

typedef struct mg_score_rows {
    uint64_t window; /* index */
    uint32_t pos, n; /* positions pos..pos+n-1; n = 0: the end */
    uint64_t vocab;
    const float *logits;   /* [n][vocab], valid until the next call; NULL for MG_ROWS_TOP */
    const mg_top_row *top; /* [n] for MG_ROWS_TOP */
    mg_rows_kind kind;
    const int32_t *targets; /* [n] the tokens that follow */
    uint32_t finite;        /* rows in front of the first that has a logit that is not finite: n, when there is none */
} mg_score_rows;

typedef struct mg_score_options {
    uint64_t memory; /* bytes for activations and logits; 0 = 1 GiB. At least one window is run whatever it says */
    uint64_t batch_tokens; /* tokens per batch; 0 = as many as memory allows. Always whole windows, at least one */
    uint64_t slice_rows;   /* most rows of logits at a time; 0 = as many as memory allows */
    uint64_t vocab; /* logits of a row that memory must hold where others walk in step; the model's own at least */
    mg_tap_fn tap;  /* sees the layers of each batch; may be NULL */
    void *tap_ctx;
    mg_precision
        precision; /* other than F32: by forward64.h, logits rounded to f32; the tap sees what that pass shows */
} mg_score_options;

typedef struct mg_scorer mg_scorer;

/* Everything is borrowed. To walk two models in step set batch_tokens and slice_rows, or take those that the first
 * scorer chose (mg_scorer_cuts) for the second. */
mg_status mg_scorer_new(mg_scorer **out, mg_forward *f, mg_model *m, const mg_windows *w, const mg_score_options *opt,
                        mg_error *err) MG_MUST_CHECK;
void mg_scorer_free(mg_scorer *s);
/* Logits that are not finite are no error here: rows->finite says where they begin. */
mg_status mg_scorer_next(mg_scorer *s, mg_score_rows *rows, mg_error *err) MG_MUST_CHECK;
/* Fill rows->finite of logits. */
void mg_score_rows_scan(mg_score_rows *rows);
/* MG_ERR_FORMAT naming window and position when not all of them are finite: no probability follows from such a row. */
mg_status mg_score_rows_check(const mg_score_rows *rows, mg_error *err) MG_MUST_CHECK;
/* The cuts in force, as options. */
void mg_scorer_cuts(const mg_scorer *s, mg_score_options *opt);

/* The same as a loop with a callback, which gets finite logits only. */
typedef mg_status (*mg_score_fn)(void *ctx, const mg_score_rows *rows, mg_error *err);
mg_status mg_score_run(mg_forward *f, mg_model *m, const mg_windows *w, const mg_score_options *opt, mg_score_fn fn,
                       void *ctx, mg_error *err) MG_MUST_CHECK;

/* log sum exp of a row: maximum in f32, exp in f32, sum in f64 (16 lanes by index, fixed tree), log in f64. */
typedef struct mg_lse {
    float max;
    uint64_t argmax; /* lowest index of the maximum */
    double log_sum;  /* of exp(x - max): log p_i = (x_i - max) - log_sum */
} mg_lse;
mg_lse mg_row_lse(const float *logits, uint64_t vocab);
/* Index of the first logit that is NaN or infinite, vocab when there is none. */
uint64_t mg_row_not_finite(const float *logits, uint64_t vocab);
/* -log p of one token, as llama-perplexity forms it: (x - max) in f32, the rest in f64. */
static inline double mg_row_nll(const mg_lse *l, const float *logits, uint64_t token) {
    return l->log_sum - (double)(logits[token] - l->max);
}
/* Sum over the vocabulary of p (log p - log q) with p from a, q from b; f64 sums of f32 exponentials. NaN when a logit
 * is NaN. */
double mg_row_kl(const mg_lse *la, const float *a, const mg_lse *lb, const float *b, uint64_t vocab);

/* Mean of negative log likelihoods with its standard error as llama-perplexity states it. */
typedef struct mg_ppl {
    uint64_t n;
    double sum, sum_sq;
} mg_ppl;
static inline void mg_ppl_add(mg_ppl *p, double nll) {
    p->n++;
    p->sum += nll;
    p->sum_sq += nll * nll;
}
double mg_ppl_value(const mg_ppl *p);  /* exp(mean); NaN for n = 0 */
double mg_ppl_stderr(const mg_ppl *p); /* value * sqrt(variance / (n - 1)); 0 for n < 2 */

#endif
