/* compare_donors.h - before merging: how far each donor has moved from the base, where, whether they moved the same
 * way, and the dense model a perfect router would make of one of them. */
#ifndef MG_CONVERT_COMPARE_DONORS_H
#define MG_CONVERT_COMPARE_DONORS_H

#include "convert/donors.h"
#include "convert/plan.h"
#include "formats/base/pool.h"

/* |w - base| / |base| over all weights of a kind; 0 where the base has none. */
typedef struct mg_donor_drift {
    double ffn, attention, other;
} mg_donor_drift;

/* d[0] is the base; drift [n], drift[0] zero; cosine [n * n] between the changes of the feed-forward blocks of donors i
 * and j, 0 when one of them has not changed. Sums in f64 in a fixed order. Donors fit together (mg_donors_compare). */
mg_status mg_donors_drift(mg_donor *d, uint32_t n, mg_donor_drift *drift, double *cosine, mg_error *err) MG_MUST_CHECK;

/* The base with a donor's feed-forward blocks: what a mixture with the base's trunk computes for a token that goes to
 * that expert in every layer. A checkpoint over plan p, evaluated on reading. */
mg_status mg_donor_forced(mg_plan *p, mg_donor *base, mg_donor *donor, mg_checkpoint **out,
                          mg_error *err) MG_MUST_CHECK;

#endif
