/* weight_fold.h - weights whose scales were moved to another weight, compared as what they were (weight_diff.h says
 * how); and the pairs that weight_diff.c and weight_fold.c work on. */
#ifndef MG_VERIFY_WEIGHT_FOLD_H
#define MG_VERIFY_WEIGHT_FOLD_H

#include "verify/weight_diff.h"

/* One pair of weights to compare. */
typedef struct mg_weight_pair {
    const mg_bound *a, *b;
    mg_weight_stat *stat;
    mg_role role;
    uint32_t layer, expert;
    uint64_t rows, cols;    /* compared: all, but of a padded vocabulary */
    const float *undo;      /* [cols] factors for the candidate's columns, NULL for none */
    const float *undo_rows; /* [rows] and for its rows */
    bool dropped;           /* told elsewhere: no entry of its own */
} mg_weight_pair;

/* Both sides are there, of one shape. */
static inline bool mg_weight_pair_both(const mg_weight_pair *p) {
    return !p->stat->missing && !p->stat->apart;
}

typedef struct mg_weight_work {
    mg_model *ref, *cand;
    mg_weight_pair *pairs;
    mg_progress *progress;
} mg_weight_work;

/* Fill p->stat up to the figures, and rows and cols, from the other members. of_expert: p->expert is one of a stack.
 * ids as in mg_weight_diff_run. */
mg_status mg_weight_pair_begin(const mg_weight_work *w, mg_weight_pair *p, bool of_expert, uint64_t ids,
                               mg_arena *names, mg_error *err) MG_MUST_CHECK;
/* n rows of both from `row`, the candidate's with its factors undone: the reference's into buf [n][cols], then the
 * candidate's. */
mg_status mg_weight_pair_read(const mg_weight_work *w, const mg_weight_pair *p, uint64_t row, uint64_t n, uint64_t cols,
                              float *buf, mg_error *err) MG_MUST_CHECK;
/* Fill p->stat; what is missing stays so. */
mg_status mg_weight_pair_compare(const mg_weight_work *w, const mg_weight_pair *p, mg_error *err) MG_MUST_CHECK;
/* Compare again, with factors undone, what d has found damaged or stored in groups, where that explains it. */
mg_status mg_weight_folds_undo(mg_weight_work *w, mg_weight_diff *d, mg_error *err) MG_MUST_CHECK;

/* Dense blocks that have no counterpart in a mixture: compared with the expert that is nearest to them, where more than
 * half of their weights are that expert's but for rounding. */
mg_status mg_weight_expert_find(mg_weight_work *w, mg_weight_diff *d, mg_error *err) MG_MUST_CHECK;

#endif
