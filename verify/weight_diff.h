/* weight_diff.h - the weights of two models compared role by role, each decoded to f32 in its logical order, so that
 * layouts, permutations, stacking and quantization do not matter. Finds which tensor is damaged, and where.
 *
 * Per weight: rmse, signal-to-noise ratio 10 log10(sum r^2 / sum d^2), largest |difference|, and the worst block: over
 * runs of 32 weights of a row (or the whole row when shorter), the largest rms(difference) / rms(reference), where the
 * reference's rms counts at least a tenth of the whole weight's. A block far above what its type can do is damage (a
 * doubled scale gives about 1), and so is a whole weight above it (swapped experts of donors that are much alike).
 *
 * Types that round in one way are held to the very values that encoding the reference gives (weight_exact.h). An expert
 * that is nearer to another expert of the reference than to its own stands in the wrong place (weight_nearest.h).
 *
 * Scaled weights (AWQ and its kin): a norm divided by factors and the columns of what reads it multiplied by them
 * compute the same. Where more of a norm's readers come nearer to the reference by undoing the factors that its norm
 * shows than do not, they are compared that way, and a reader that was left unscaled is what stands out. The same for
 * rows of v scaled against columns of the attention's output, and of up against down; there the factors are estimated.
 */
#ifndef MG_VERIFY_WEIGHT_DIFF_H
#define MG_VERIFY_WEIGHT_DIFF_H

#include "formats/arch/model.h"
#include "formats/base/pool.h"
#include "formats/base/progress.h"
#include "verify/weight_exact.h"
#include "verify/weight_stored.h"

/* Measured on gaussian, heavy-tailed and real weights, with room to spare (docs/verify.md has the table,
 * tests/test_weight_limits.c measures it again). */
mg_weight_limits mg_weight_limits_of(mg_dtype t);
/* The same for a weight stored in two ways: neither need be the original. Errors of whole weights add as squares. */
mg_weight_limits mg_weight_limits_join(mg_weight_limits x, mg_weight_limits y);

typedef struct mg_weight_stat {
    const char *name; /* stored name in the candidate; "NAME[e]" for one expert of a stack */
    mg_weight_stored reference, candidate;
    uint64_t n;
    double rmse, snr_db, max_abs; /* snr_db is infinite for equal weights */
    double worst_block;           /* relative, see above */
    uint64_t worst_row, worst_col;
    double error;            /* rms(difference) / rms(reference) of the whole weight: 10^(-snr_db / 20) */
    mg_weight_limits limits; /* what worst_block and error may be for these types */
    mg_weight_exact exact;   /* of types that round in one way, against a reference of another type */
    uint32_t expert;         /* of an expert's weight: which one */
    bool exchanged;          /* nearer to expert `nearest` of the reference: damaged */
    uint32_t nearest;        /* with exchanged */
    double nearest_error;    /* and its error, as `error` */
    bool refolded;           /* the norm has other scales and what reads it has the inverse: not damaged for it */
    bool missing;            /* the candidate lacks this weight, or its shape differs */
    bool apart;              /* one side's block is dense, the other's a mixture: nothing to compare this weight with */
    /* Rows of an embedding or head that are compared, where one side is padded, and those beyond on either side, which
     * are not; 0 elsewhere. */
    uint64_t ids, padding_reference, padding_candidate;
} mg_weight_stat;

typedef struct mg_weight_diff {
    mg_weight_stat *items; /* worst_block or error over its limit descending: the most suspicious first; missing ones
                              before all */
    uint32_t n, n_bad;     /* n_bad: damaged */
    uint32_t n_apart;      /* not compared */
    int64_t expert;        /* of the mixture with which the other's dense blocks are compared; -1: none */
    mg_arena arena;
} mg_weight_diff;

/* Is this more than rounding? */
static inline bool mg_weight_damaged(const mg_weight_stat *s) {
    if (s->refolded || s->apart) return false;
    return s->missing || s->worst_block > s->limits.block || s->error > s->limits.total || s->exchanged ||
           mg_weight_exact_broken(&s->exact);
}

/* The worst block of a weight, found piece by piece: start from zeros, then any number of mg_worst_block_scan. */
#define MG_WEIGHT_BLOCK 32u /* the smallest run of weights that shares a scale in the common types */
#define MG_WEIGHT_FLOOR 0.1 /* share of the whole weight's rms that a block's rms counts at least */
typedef struct mg_worst_block {
    double error; /* rms(difference) / max(rms(reference), floor_rms); infinite where a value is not finite */
    uint64_t row, col;
} mg_worst_block;
/* reference and candidate: [rows][cols], the first of them being row `row` of the weight. floor_rms: MG_WEIGHT_FLOOR
 * times the rms of the whole reference. */
void mg_worst_block_scan(mg_worst_block *w, const float *reference, const float *candidate, uint64_t row, uint64_t rows,
                         uint64_t cols, double floor_rms);

/* ids: rows of embeddings and heads that count where one side has more (common_vocab.h); 0: both have as many. progress
 * counts bytes of the candidate; may be NULL. out is released by the caller in every case. */
mg_status mg_weight_diff_run(mg_weight_diff *out, mg_model *reference, mg_model *candidate, uint64_t ids, mg_pool *pool,
                             mg_progress *progress, mg_error *err) MG_MUST_CHECK;
void mg_weight_diff_release(mg_weight_diff *d);

#endif
