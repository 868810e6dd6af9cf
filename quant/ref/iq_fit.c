/* iq_fit.c - codebook search of the IQ2 and IQ3 types; the formulas are in iq_fit.h. */
#include "quant/ref/iq_fit.h"

#include "quant/ref/ref_search.h"

#include <float.h>

static void starts(const float *xval, const float *w, int subs, float *start) {
    uint8_t codes[32];
    for (int j = 0; j < subs; j++) start[j] = mg_ref_qp(32, 4, xval + 32 * j, w + 32 * j, codes);
}

const mg_iq_ops mg_iq_scalar_ops = {mg_iq_weights, mg_iq_signs, starts, mg_iq_fit};

void mg_iq_weights(const float *x, const float *qw, int n, float sigma2, float *w) {
    if (qw)
        mg_ref_weights(x, qw, n, sigma2, w);
    else
        for (int i = 0; i < n; i++) w[i] = x[i] * x[i];
}

uint8_t mg_iq_signs(const float *x, const float *w, bool even, float *xval) {
    uint8_t signs = 0;
    for (int i = 0; i < 8; i++) {
        xval[i] = x[i] >= 0.0f ? x[i] : -x[i];
        signs |= (uint8_t)(!(x[i] >= 0.0f) << i);
    }
    if (even && __builtin_parity(signs)) {
        int min_at = 0;
        float min = w[0] * x[0] * x[0];
        for (int i = 1; i < 8; i++) {
            float e = w[i] * x[i] * x[i];
            if (e < min) {
                min = e;
                min_at = i;
            }
        }
        xval[min_at] = -xval[min_at];
        signs ^= (uint8_t)(1 << min_at);
    }
    return signs;
}

/* The best point of the list for one group at a given scale, or -1. The error of every (element, code) is computed
 * once; the sums then run in element order, as if each were computed in place. */
static int best_neighbour(const mg_iq_grid *g, uint32_t entry, const float *xval, const float *waux, float scale) {
    float e[8][8], best_err = FLT_MAX;
    const uint16_t *list = mg_iq_list(g, entry);
    int best = -1, length = mg_iq_list_length(entry);
    for (int j = 0; j < g->dims; j++)
        for (int l = 0; l < g->levels; l++) {
            float diff = scale * (float)(2 * l + 1) - xval[j];
            e[j][l] = waux[j] * diff * diff;
        }
    for (int k = 0; k < length; k++) {
        uint32_t point = list[k];
        float err = 0.0f;
        for (int j = 0; j < g->dims; j++, point >>= g->bits) err += e[j][point & ((1u << g->bits) - 1u)];
        if (err < best_err) {
            best_err = err;
            best = (int)g->map[list[k]];
        }
    }
    return best;
}

/* Codebook index of one group for a scale and its inverse id, whichever of the two was rounded last; -1 as
 * best_neighbour. *on_grid tells whether the pattern was a point. */
static int code_group(const mg_iq_grid *g, const float *xval, const float *waux, float id, float scale, bool *on_grid) {
    uint32_t packed = 0;
    for (int j = 0; j < g->dims; j++) {
        int l = mg_ref_clamp(mg_ref_round(0.5f * (id * xval[j] - 1.0f)), 0, g->levels - 1);
        packed |= (uint32_t)l << (g->bits * j);
    }
    uint32_t m = g->map[packed];
    *on_grid = !(m & MG_OFF_GRID);
    return *on_grid ? (int)m : best_neighbour(g, m, xval, waux, scale);
}

static void sums(const mg_iq_grid *g, int n, const float *xval, const float *w, const uint16_t *index, float *A,
                 float *B) {
    float a = 0.0f, b = 0.0f;
    for (int i = 0; i < n; i++) {
        float q = (float)(2 * mg_iq_code(g, g->points[index[i / g->dims]], i % g->dims) + 1);
        a += w[i] * xval[i] * q;
        b += w[i] * q * q;
    }
    *A = a;
    *B = b;
}

static mg_status overflow(mg_error *err) {
    return mg_fail(err, MG_ERR_FORMAT, "values are too large for this type: the codebook fit overflows");
}

mg_status mg_iq_fit(const mg_fit_params *p, const mg_iq_grid *g, const float *xval, const float *w, float top,
                    float *scale, uint16_t *index, mg_error *err) {
    int groups = p->n / g->dims;
    float waux[MG_FIT_MAX], best = 0.0f, A, B;
    bool off[MG_FIT_GROUPS], any_off = false;
    for (int k = 0; k < groups; k++) off[k] = p->second == MG_SECOND_ALL_IF_ANY; /* what holds without a winner */
    for (int i = 0; i < p->n; i++) waux[i] = sqrtf(w[i]);
    memset(index, 0, (size_t)groups * sizeof *index);
    for (int c = -p->reach; c <= p->reach; c++) {
        float id = (p->base + (float)c * p->step) / top;
        uint16_t trial[MG_FIT_GROUPS];
        bool on[MG_FIT_GROUPS];
        for (int k = 0; k < groups; k++) {
            int point = code_group(g, xval + g->dims * k, waux + g->dims * k, id, 1.0f / id, &on[k]);
            if (point < 0) return overflow(err);
            trial[k] = (uint16_t)point;
        }
        sums(g, p->n, xval, w, trial, &A, &B);
        if (!(B > 0.0f && A * A > best * B)) continue;
        *scale = A / B;
        best = *scale * A;
        memcpy(index, trial, (size_t)groups * sizeof *index);
        for (int k = 0; k < groups; k++) off[k] = !on[k];
    }
    for (int k = 0; k < groups; k++) any_off |= off[k];
    if (isnan(*scale)) return overflow(err);
    if (*scale <= 0.0f || !(any_off || p->second == MG_SECOND_ALWAYS)) return MG_OK;
    for (int k = 0; k < groups; k++) {
        if (p->second == MG_SECOND_OFF_GRID && !off[k]) continue;
        bool on;
        int point = code_group(g, xval + g->dims * k, waux + g->dims * k, 1.0f / *scale, *scale, &on);
        if (point < 0) return overflow(err);
        index[k] = (uint16_t)point;
    }
    sums(g, p->n, xval, w, index, &A, &B);
    if (B > 0.0f) *scale = A / B;
    if (isnan(*scale)) return overflow(err);
    return MG_OK;
}

float mg_iq_scale_codes(const float *scales, int n, uint8_t *l) {
    float max = 0.0f;
    for (int j = 0; j < n; j++) max = scales[j] > max ? scales[j] : max;
    if (max == 0.0f) return 0.0f;
    float d = max / 31.0f, id = 1.0f / d;
    for (int j = 0; j < n; j++) l[j] = (uint8_t)mg_ref_clamp(mg_ref_round(0.5f * (id * scales[j] - 1.0f)), 0, 15);
    return d;
}
