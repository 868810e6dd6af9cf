/* weight_diff.h - the weights of two models compared role by role, each decoded to f32 in its logical order, so that
 * layouts, permutations, stacking and quantization do not matter. Finds which tensor is damaged, and where.
 *
 * Per weight: rmse, signal-to-noise ratio 10 log10(sum r^2 / sum d^2), largest |difference|, and the worst block: over
 * runs of 32 weights of a row (or the whole row when shorter), the largest rms(difference) / rms(reference), where the
 * reference's rms counts at least a tenth of the whole weight's. A block far above what its type can do is damage: a
 * doubled scale, swapped experts and unpermuted rows give about 1 or more (limits: mg_weight_limit). */
#ifndef MG_VERIFY_WEIGHT_DIFF_H
#define MG_VERIFY_WEIGHT_DIFF_H

#include "formats/arch/model.h"
#include "formats/base/pool.h"
#include "formats/base/progress.h"

typedef struct mg_weight_stat {
    const char *name; /* stored name in the candidate; "NAME[e]" for one expert of a stack */
    mg_dtype reference, candidate;
    uint64_t n;
    double bpw;                   /* of the candidate's type */
    double rmse, snr_db, max_abs; /* snr_db is infinite for equal weights */
    double worst_block;           /* relative, see above */
    uint64_t worst_row, worst_col;
    double limit; /* what worst_block may be for these types */
    bool missing; /* the candidate lacks this weight, or its shape differs */
} mg_weight_stat;

typedef struct mg_weight_diff {
    mg_weight_stat *items; /* worst_block / limit descending: the most suspicious first; missing ones before all */
    uint32_t n, n_bad;     /* n_bad: missing or over their limit */
    mg_arena arena;
} mg_weight_diff;

/* Largest worst_block that storing in this type explains. Measured on gaussian, heavy-tailed and real weights, then
 * roughly doubled: docs/verify.md. */
double mg_weight_limit(mg_dtype t);

mg_status mg_weight_diff_run(mg_weight_diff *out, mg_model *reference, mg_model *candidate, mg_pool *pool,
                             mg_progress *progress, mg_error *err) MG_MUST_CHECK;
void mg_weight_diff_release(mg_weight_diff *d);

#endif
