/* weight_nearest.h - experts that stand in another's place: is a candidate's expert nearer to another expert of the
 * reference than to its own? Rounding hides an exchange of experts that are much alike from any limit on the error of
 * one weight; between two references the same rounding counts on both sides, and the nearer one is the original. */
#ifndef MG_VERIFY_WEIGHT_NEAREST_H
#define MG_VERIFY_WEIGHT_NEAREST_H

#include "verify/weight_fold.h"

/* Fill `exchanged`, `nearest` and `nearest_error` of the stats of d: of every expert's weight that is compared, not
 * equal and not shown to be its own by its very values. The pairs of w as weight_diff.c and weight_fold.c have left
 * them. Reads a sample of every other expert's rows of the same role and layer, together about twice the experts'
 * weights however many there are, and all rows of an expert that is nearer in it. A few MiB for each thread. */
mg_status mg_weight_nearest_find(mg_weight_work *w, mg_weight_diff *d, mg_pool *pool, mg_error *err) MG_MUST_CHECK;

#endif
