/* ref_iq4.c - 4-bit codes into a fixed non-uniform codebook: IQ4_NL (blocks of 32), IQ4_XS (super-blocks of 256).
 *
 * x = scale * v[code]. Search per 32 elements: with max the signed value of largest magnitude, scale candidates put max
 * on v[0] = -127 (id = -127/max) and on 15 points around it, id = (t - 127)/max, t = -7..7; each is refitted as in QX.
 */
#include "quant/block_layout.h"
#include "quant/ref/ref.h"
#include "quant/ref/ref_kparts.h"
#include "quant/ref/ref_search.h"

enum { QK = 32 };

const int8_t mg_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/* Each difference is rounded before the comparison. */
int mg_ref_iq4_nearest(float x) {
    if (x <= (float)mg_iq4_values[0]) return 0;
    if (x >= (float)mg_iq4_values[15]) return 15;
    int lo = 0, hi = 15;
    while (hi - lo > 1) {
        int mid = (lo + hi) / 2;
        if (x < (float)mg_iq4_values[mid])
            hi = mid;
        else
            lo = mid;
    }
    return x - (float)mg_iq4_values[hi - 1] < (float)mg_iq4_values[hi] - x ? hi - 1 : hi;
}

static void sums(const float *x, const float *w, float id, float *A, float *B) {
    float a = 0.0f, b = 0.0f;
    for (int i = 0; i < QK; i++) {
        float q = (float)mg_iq4_values[mg_ref_iq4_nearest(id * x[i])], wq = w[i] * q;
        a += wq * x[i];
        b += wq * q;
    }
    *A = a;
    *B = b;
}

/* The f32 scale of 32 elements; 0 when all are below EPS. */
static float search(const float *x, const float *w) {
    float max = mg_ref_signed_max(x, QK), A, B;
    if (fabsf(max) < MG_REF_EPS) return 0.0f;
    float d = -max / (float)mg_iq4_values[0];
    sums(x, w, 1.0f / d, &A, &B);
    d = B > 0.0f ? A / B : 0.0f; /* all weights 0 */
    float best = d * A;
    for (int t = -7; t <= 7; t++) {
        sums(x, w, ((float)t + (float)mg_iq4_values[0]) / max, &A, &B);
        if (B > 0.0f && A * A > best * B) {
            d = A / B;
            best = d * A;
        }
    }
    return d;
}

/* w = x^2, or qw sqrt(sigma2 + x^2). */
static void weights_of(const float *x, const float *qw, float sigma2, float *w) {
    if (qw)
        mg_ref_weights(x, qw, QK, sigma2, w);
    else
        for (int i = 0; i < QK; i++) w[i] = x[i] * x[i];
}

/* qs[j]   7..4 code[j + 16]   3..0 code[j] */
static void pack(const float *x, float id, uint8_t *qs) {
    for (int j = 0; j < 16; j++)
        qs[j] = (uint8_t)(mg_ref_iq4_nearest(id * x[j]) | mg_ref_iq4_nearest(id * x[j + 16]) << 4);
}

/* IQ4_NL, 18 bytes: | d f16 | qs 16 |. Final codes with the unrounded d; d = 0 gives code 8, the smallest entry. */
mg_status mg_ref_iq4_nl_encode(const float *x, const float *weights, uint64_t n, void *out, mg_error *err) {
    MG_TRY(mg_ref_check(MG_IQ4_NL, x, weights, n, err));
    mg_blk_iq4_nl *b = out;
    float w[QK];
    for (uint64_t i = 0; i < n; i += QK, b++) {
        weights_of(x + i, weights ? weights + i : NULL, mg_ref_sum_sq(x + i, QK) * (2.0f / (float)QK), w);
        float d = search(x + i, w);
        mg_put_f16(b->d, d);
        pack(x + i, mg_ref_inverse(d), b->qs);
    }
    return MG_OK;
}

void mg_ref_iq4_nl_decode(const void *in, uint64_t n, float *out) {
    const mg_blk_iq4_nl *b = in;
    for (; n; n -= QK, b++, out += QK) {
        float d = mg_get_f16(b->d);
        for (int j = 0; j < 16; j++) {
            out[j] = d * (float)mg_iq4_values[b->qs[j] & 15];
            out[j + 16] = d * (float)mg_iq4_values[b->qs[j] >> 4];
        }
    }
}

/* IQ4_XS, 136 bytes: | d f16 | scales_h u16 | scales_l 4 | qs 128 |
 * sub-block j = 0..7 of 32: 16 bytes of qs as IQ4_NL; 6-bit scale ls_j (value ls_j - 32):
 *   scales_l[j / 2]   low four bits at bit 4 (j % 2)        scales_h   top two bits at bit 2 j
 * d = -(scale of largest magnitude)/32, unrounded while coding. A zero block has d = -0 and all ls = 32. */
static void iq4_xs_block(const float *x, const float *qw, mg_blk_iq4_xs *b) {
    float scales[8], w[QK], sigma2 = mg_ref_sum_sq(x, MG_SUPER) * (2.0f / (float)MG_SUPER);
    for (int j = 0; j < 8; j++) {
        weights_of(x + QK * j, qw ? qw + QK * j : NULL, sigma2, w);
        scales[j] = search(x + QK * j, w);
    }
    float d = -mg_ref_signed_max(scales, 8) / 32.0f, id = mg_ref_inverse(d);
    uint32_t high = 0;
    mg_put_f16(b->d, d);
    memset(b->scales_l, 0, sizeof b->scales_l);
    for (int j = 0; j < 8; j++) {
        int l = mg_ref_clamp(mg_ref_round(id * scales[j]), -32, 31);
        pack(x + QK * j, mg_ref_inverse(d * (float)l), b->qs + 16 * j);
        b->scales_l[j / 2] |= (uint8_t)(((l + 32) & 15) << (j % 2 * 4));
        high |= (uint32_t)(l + 32) >> 4 << (2 * j);
    }
    mg_put16(b->scales_h, (uint16_t)high);
}

mg_status mg_ref_iq4_xs_encode(const float *x, const float *weights, uint64_t n, void *out, mg_error *err) {
    MG_TRY(mg_ref_check(MG_IQ4_XS, x, weights, n, err));
    mg_blk_iq4_xs *b = out;
    for (uint64_t i = 0; i < n; i += MG_SUPER) iq4_xs_block(x + i, weights ? weights + i : NULL, b++);
    return MG_OK;
}

void mg_ref_iq4_xs_decode(const void *in, uint64_t n, float *out) {
    const mg_blk_iq4_xs *b = in;
    for (; n; n -= MG_SUPER, b++) {
        float d = mg_get_f16(b->d);
        for (int j = 0; j < 8; j++, out += QK) {
            float dl = d * (float)mg_iq4_xs_scale(b, j);
            for (int l = 0; l < 16; l++) {
                out[l] = dl * (float)mg_iq4_values[b->qs[16 * j + l] & 15];
                out[l + 16] = dl * (float)mg_iq4_values[b->qs[16 * j + l] >> 4];
            }
        }
    }
}
