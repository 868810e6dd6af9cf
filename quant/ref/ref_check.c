/* ref_check.c - the arguments every encoder refuses. */
#include "quant/ref/ref.h"

#include <inttypes.h>
#include <string.h>

static uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

/* True when some value has all exponent bits set (infinity, NaN). A plain or-reduction, so it vectorises. */
static bool any_nonfinite(const float *x, uint64_t n) {
    uint32_t bad = 0;
    for (uint64_t i = 0; i < n; i++) bad |= (uint32_t)((bits_of(x[i]) & 0x7F800000u) == 0x7F800000u);
    return bad != 0;
}

/* True when some value is below 0, infinite or NaN. -0 is zero. */
static bool any_not_weight(const float *w, uint64_t n) {
    uint32_t bad = 0;
    for (uint64_t i = 0; i < n; i++) bad |= (uint32_t) !(w[i] >= 0.0f && w[i] <= 3.40282347e38f);
    return bad != 0;
}

mg_status mg_ref_check(mg_dtype t, const float *x, const float *weights, uint64_t n, mg_error *err) {
    const mg_dtype_info *d = mg_dtype_get(t);
    mg_imatrix_use use = mg_codec_for(t, MG_ISA_SCALAR)->imatrix;
    if (n % d->block != 0)
        return mg_fail(err, MG_ERR_USAGE, "row of %" PRIu64 " elements is not a whole number of %s blocks of %" PRIu32,
                       n, d->name, d->block);
    if (use == MG_IMATRIX_REQUIRED && !weights)
        return mg_fail(err, MG_ERR_USAGE, "%s cannot be made without an importance matrix", d->name);
    if (any_nonfinite(x, n)) {
        uint64_t i = 0;
        while (!any_nonfinite(x + i, 1)) i++;
        return mg_fail(err, MG_ERR_FORMAT, "element %" PRIu64 " of the row is %g, expected a finite value", i,
                       (double)x[i]);
    }
    if (use != MG_IMATRIX_IGNORED && weights && any_not_weight(weights, n)) {
        uint64_t i = 0;
        while (!any_not_weight(weights + i, 1)) i++;
        return mg_fail(err, MG_ERR_FORMAT, "importance weight %" PRIu64 " is %g, expected a finite value >= 0", i,
                       (double)weights[i]);
    }
    return MG_OK;
}
