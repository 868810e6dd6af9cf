/* compare.h - one reference and any number of candidates walked over the same tokens in step: the reference is computed
 * once, nothing but one batch of activations and one slice of logits per model is held. */
#ifndef MG_VERIFY_COMPARE_H
#define MG_VERIFY_COMPARE_H

#include "verify/act_drift.h"
#include "verify/drift.h"
#include "verify/tokenizer_diff.h"
#include "verify/walk.h"
#include "verify/weight_diff.h"

typedef struct mg_candidate {
    const char *path;
    mg_model *model;        /* borrowed; or */
    mg_recorded *recorded;  /* borrowed: no weights, no layers */
    mg_precision precision; /* the model is run in */
    uint64_t rows;          /* logits per position; 0: a recording that does not say */
    uint64_t ids;           /* compared of the vocabulary (common_vocab.h); 0: all, and the reference has as many */
    mg_drift drift;
    mg_drift_summary summary;
    mg_act_drift act;
    mg_weight_diff weights;
    mg_tokenizer_diff tokenizer;
    mg_json *attribution;      /* owned; NULL: not asked for */
    uint64_t bytes, n_weights; /* of all tensors: the size that candidates are ranked by */
    bool pareto;               /* no other candidate of the run is both smaller and closer */
    bool has_drift, has_weights;
    bool not_finite;     /* it gave a logit that is not finite, first there: no drift follows */
    uint64_t bad_window; /* of the windows */
    uint32_t bad_pos;
} mg_candidate;

typedef struct mg_compare_options {
    mg_pool *pool;
    const mg_windows *windows;  /* NULL: no forward pass, only weights */
    uint32_t experts_per_token; /* 0 = the models' own; MG_EXPERTS_ALL */
    uint64_t memory;            /* bytes for activations and logits of all models together; 0 = 1 GiB */
    bool weights;               /* compare weight by weight */
    const uint8_t *classes;     /* [vocab] mg_token_class of every token; NULL: not told apart */
    bool logits_only;           /* leave the layers inside alone: act stays empty */
    mg_progress
        *progress; /* counts scored positions, then bytes of weights: ask for one of them at a time; may be NULL */
} mg_compare_options;

/* Each candidate has its path, model (or recording), precision and ids set and the rest zeroed, and is released by the
 * caller in every case. Fill drift, summary, act and weights of each candidate; what a recording cannot have stays
 * empty. Recordings of another text: MG_ERR_CONFLICT. Logits that are not finite: of the reference MG_ERR_FORMAT, of a
 * candidate the end of its own comparison (not_finite). */
mg_status mg_compare_run(const mg_walk_source *reference, mg_candidate *cand, uint32_t n, const mg_compare_options *opt,
                         mg_error *err) MG_MUST_CHECK;
void mg_candidate_release(mg_candidate *c);

#endif
