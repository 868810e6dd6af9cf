/* weight_exact.h - is a weight what storing the reference's in its type makes of it, but for a few values?
 *
 * F32, F16, BF16 and Q8_0 are rounded in one way: from the same weights every program stores the same values. So where
 * nearly all values are those that encoding the reference gives, the weight was made from it, and a value that is
 * another one was changed afterwards, however little. Where many differ (the original was wider than the reference, the
 * weight was made another way) nothing follows. A detour through F16, which loses bits of weights below 2^-14 only, is
 * told apart and is no change. */
#ifndef MG_VERIFY_WEIGHT_EXACT_H
#define MG_VERIFY_WEIGHT_EXACT_H

#include "formats/base/status.h"
#include "formats/dtype.h"

typedef struct mg_weight_exact {
    uint64_t units, odd; /* blocks of the type, single values of a float type; those that are not as encoded */
    uint64_t row, col;   /* where the first odd one begins */
} mg_weight_exact;

bool mg_weight_exact_has(mg_dtype t);
/* Add rows of a weight whose candidate is stored as t: reference and candidate [rows][cols], the first being row `row`
 * of the weight; cols a multiple of t's block. Start from zeros. */
mg_status mg_weight_exact_scan(mg_weight_exact *e, mg_dtype t, const float *reference, const float *candidate,
                               uint64_t row, uint64_t rows, uint64_t cols, mg_error *err) MG_MUST_CHECK;
/* Changed values in a weight that is the reference's otherwise: fewer than one in eight. */
static inline bool mg_weight_exact_broken(const mg_weight_exact *e) {
    return e->odd > 0 && e->odd < e->units / 8;
}

#endif
