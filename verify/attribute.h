/* attribute.h - which weights cause the drift: the reference is run with one part of the candidate in it at a time.
 *
 * Parts form a tree: the whole model, its layers (and embedding, final norm and head), the roles of a layer, the
 * experts of a role. The part with the most drift is opened first and its children are measured, as long as the budget
 * lasts; a part that causes none is never opened. Drift of parts does not add up exactly, because the network is not
 * linear. */
#ifndef MG_VERIFY_ATTRIBUTE_H
#define MG_VERIFY_ATTRIBUTE_H

#include "formats/arch/overlay.h"
#include "verify/compare.h"

#define MG_ATTRIBUTE_ALL UINT32_MAX /* a part that is not narrowed down to one layer or one expert */

typedef struct mg_attribution_part {
    char name[160];         /* "layer 3", or the stored name in the candidate; "NAME[e]" for one expert of a stack */
    mg_role role;           /* MG_ROLE_COUNT: a whole layer */
    uint32_t layer, expert; /* MG_ATTRIBUTE_ALL where that has no meaning */
    uint64_t bytes;         /* stored in the candidate */
    double error;           /* sum of squared differences over sum of squares of all its weights; of measured parts */
    bool measured, opened;
    double kl, kl_stderr, ppl; /* of the reference with this part of the candidate */
} mg_attribution_part;

typedef struct mg_attribution {
    mg_attribution_part *parts; /* measured ones first, most drift first (of equal drift the smaller part first) */
    uint32_t n, n_measured, cap;
} mg_attribution;

/* budget: most parts to measure. opt->windows is what is scored; opt->progress counts measured parts times scored
 * positions. out is released by the caller in every case. MG_ERR_CONFLICT when the two have different shapes. */
mg_status mg_attribute_run(mg_attribution *out, mg_model *reference, mg_model *candidate, uint32_t budget,
                           const mg_compare_options *opt, mg_error *err) MG_MUST_CHECK;
void mg_attribution_release(mg_attribution *a);
mg_status mg_attribution_json(mg_json **out, const mg_attribution *a, mg_error *err) MG_MUST_CHECK;

#endif
