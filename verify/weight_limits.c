/* weight_limits.c - what storing in a type explains: see weight_diff.h. */
#include "verify/weight_diff.h"

#include <math.h>

mg_weight_limits mg_weight_limits_of(mg_dtype t) {
    switch (t) {
    case MG_F64:
    case MG_F32:
        return (mg_weight_limits){0, 0};
    case MG_F16:
    case MG_BF16:
        return (mg_weight_limits){0.01, 0.005};
    case MG_Q8_0:
        return (mg_weight_limits){0.05, 0.02};
    case MG_Q6_K:
        return (mg_weight_limits){0.1, 0.05};
    case MG_Q5_0:
    case MG_Q5_1:
    case MG_Q5_K:
        return (mg_weight_limits){0.25, 0.1};
    case MG_Q4_0:
    case MG_Q4_1:
    case MG_Q4_K:
    case MG_IQ4_NL:
    case MG_IQ4_XS:
    case MG_MXFP4:
    case MG_NVFP4:
        return (mg_weight_limits){0.5, 0.2};
    case MG_Q3_K:
        return (mg_weight_limits){0.6, 0.27};
    case MG_IQ3_S:
        return (mg_weight_limits){0.6, 0.3};
    case MG_IQ3_XXS:
        return (mg_weight_limits){0.75, 0.4};
    default: /* little more is asked than that the block is better than zeros */
        return (mg_weight_limits){1.3, 1};
    }
}

mg_weight_limits mg_weight_limits_join(mg_weight_limits x, mg_weight_limits y) {
    return (mg_weight_limits){fmax(x.block, y.block), hypot(x.total, y.total)};
}
