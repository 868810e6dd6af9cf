/* ref_iq2.c - eight magnitudes per codebook index and separate signs: IQ2_XXS, IQ2_XS, IQ2_S (super-blocks of 256).
 *
 * x = d (0.5 + scale4) 0.25 * g * sign, g = 8, 25 or 43 for code 0, 1, 2 (the encoder reckons with 2 l + 1 = 1, 3, 5).
 */
#include "quant/block_layout.h"
#include "quant/ref/iq_fit.h"
#include "quant/ref/ref.h"
#include "quant/ref/ref_search.h"

static const float worth[4] = {8.0f, 25.0f, 43.0f, 0.0f};

/* Eight values of one index: scale * worth, negated where the sign bit is set. */
static void unpack_group(uint32_t point, uint32_t signs, float scale, float *out) {
    for (int j = 0; j < 8; j++) {
        float v = scale * worth[point >> (2 * j) & 3];
        out[j] = signs >> j & 1 ? -v : v;
    }
}

static float nibble_scale(float d, const uint8_t *scales, int j) {
    return d * (0.5f + (float)(scales[j / 2] >> (j % 2 * 4) & 15)) * 0.25f;
}

static float max_of(const float *v, int n) {
    float max = v[0];
    for (int i = 1; i < n; i++) max = v[i] > max ? v[i] : max;
    return max;
}

/* ---------------------------------------------------------------- IQ2_XXS
 * 66 bytes: | d f16 | 8 x 8 bytes |; sub-block j of 32 in qs[8 j ..]:
 *   4 index bytes, then u32:   31..28 scale4   27..21 signs of group 3   20..14 group 2   13..7 group 1   6..0 group 0
 * Seven signs are stored, the eighth makes their number even. */
static const mg_fit_params fit_xxs = {.n = 32, .base = 5.0f, .step = 0.1f, .reach = 6, .second = MG_SECOND_ALWAYS};

/* Super-blocks whose sub-blocks get their start scales in one call, with what the searches need of them. */
enum { XXS_SUPERS = MG_IQ_STARTS / 8 };
typedef struct xxs_batch {
    float w[XXS_SUPERS * MG_SUPER], xval[XXS_SUPERS * MG_SUPER];
    uint32_t signs[MG_IQ_STARTS]; /* 4 x 7 bits */
    float start[MG_IQ_STARTS];
} xxs_batch;

static void iq2_xxs_prepare(const mg_iq_ops *ops, const float *x, const float *qw, int supers, xxs_batch *t) {
    memset(t->signs, 0, sizeof t->signs);
    for (int k = 0; k < supers; k++) {
        float sigma2 = mg_ref_sum_sq(x + MG_SUPER * k, MG_SUPER) / (float)MG_SUPER;
        ops->weights(x + MG_SUPER * k, qw + MG_SUPER * k, MG_SUPER, sigma2, t->w + MG_SUPER * k);
    }
    for (int k = 0; k < 32 * supers; k++)
        t->signs[k / 4] |= (uint32_t)(ops->signs(x + 8 * k, t->w + 8 * k, true, t->xval + 8 * k) & 127) << (k % 4 * 7);
    ops->starts(t->xval, t->w, 8 * supers, t->start);
}

static mg_status iq2_xxs_sub(const mg_iq_ops *ops, const mg_iq_grid *g, const xxs_batch *t, int j, float *scale,
                             uint8_t *qs, mg_error *err) {
    const float *xval = t->xval + 32 * j, top = 3.0f * t->start[j];
    uint16_t index[4];
    uint32_t signs = t->signs[j];
    *scale = 0.0f;
    if (max_of(xval, 32) < MG_REF_EPS || top <= 0.0f) return MG_OK;
    *scale = t->start[j];
    MG_TRY(ops->fit(&fit_xxs, g, xval, t->w + 32 * j, top, scale, index, err));
    if (*scale < 0.0f) {
        *scale = -*scale;
        signs ^= 0x0FFFFFFFu;
    }
    for (int k = 0; k < 4; k++) qs[k] = (uint8_t)index[k];
    mg_put32(qs + 4, signs);
    return MG_OK;
}

/* The block of sub-blocks first, first + 1, ... of the batch. */
static mg_status iq2_xxs_block(const mg_iq_ops *ops, const mg_iq_grid *g, const xxs_batch *t, int first,
                               mg_blk_iq2_xxs *b, mg_error *err) {
    float scales[8];
    uint8_t l[8];
    memset(b, 0, sizeof *b);
    for (int j = 0; j < 8; j++) MG_TRY(iq2_xxs_sub(ops, g, t, first + j, &scales[j], b->qs + 8 * j, err));
    float d = mg_iq_scale_codes(scales, 8, l);
    if (d == 0.0f) {
        memset(b, 0, sizeof *b);
        return MG_OK;
    }
    mg_put_f16(b->d, d);
    for (int j = 0; j < 8; j++) b->qs[8 * j + 7] |= (uint8_t)(l[j] << 4);
    return MG_OK;
}

mg_status mg_iq2_xxs_rows(const mg_iq_ops *ops, const float *x, const float *weights, uint64_t n, void *out,
                          mg_error *err) {
    MG_TRY(mg_ref_check(MG_IQ2_XXS, x, weights, n, err));
    const mg_iq_grid *g;
    MG_TRY(mg_iq_grid_get(&g, MG_GRID_IQ2_XXS, err));
    mg_blk_iq2_xxs *b = out;
    xxs_batch t;
    for (uint64_t i = 0, supers; i < n; i += supers * MG_SUPER) {
        supers = (n - i) / MG_SUPER < XXS_SUPERS ? (n - i) / MG_SUPER : XXS_SUPERS;
        iq2_xxs_prepare(ops, x + i, weights + i, (int)supers, &t);
        for (int k = 0; k < (int)supers; k++) MG_TRY(iq2_xxs_block(ops, g, &t, 8 * k, b++, err));
    }
    return MG_OK;
}

mg_status mg_ref_iq2_xxs_encode(const float *x, const float *weights, uint64_t n, void *out, mg_error *err) {
    return mg_iq2_xxs_rows(&mg_iq_scalar_ops, x, weights, n, out, err);
}

void mg_ref_iq2_xxs_decode(const void *in, uint64_t n, float *out) {
    const mg_blk_iq2_xxs *b = in;
    for (; n; n -= MG_SUPER, b++) {
        float d = mg_get_f16(b->d);
        for (int j = 0; j < 8; j++) {
            uint32_t s = mg_get32(b->qs + 8 * j + 4);
            float scale = d * (0.5f + (float)(s >> 28)) * 0.25f;
            for (int k = 0; k < 4; k++, out += 8)
                unpack_group(mg_iq_points_iq2_xxs[b->qs[8 * j + k]], mg_iq_sign8(s >> (7 * k)), scale, out);
        }
    }
}

/* ---------------------------------------------------------------- IQ2_XS, IQ2_S: sub-blocks of 16, two groups of 8
 * IQ2_XS, 74 bytes: | d f16 | qs u16[32] | scales 8 |
 *   qs[k]   15..9 seven signs   8..0 index          scales[j / 2]   scale of sub-block j at bit 4 (j % 2)
 * IQ2_S, 82 bytes: | d f16 | qs 32 | signs 32 | qh 8 | scales 8 |
 *   group k = 0..31: index = qs[k] | two bits of qh[k / 4] at bit 2 (k % 4) << 8; signs[k] all eight signs */
static const mg_fit_params fit_16 = {.n = 16, .base = 5.0f, .step = 0.1f, .reach = 9, .second = MG_SECOND_OFF_GRID};

/* One sub-block: index and signs of its two groups. even: signs for the seven-bit form. */
static mg_status iq2_sub16(const mg_iq_ops *ops, const mg_iq_grid *g, const float *x, const float *w, bool even,
                           float eps, float *scale, uint16_t *index, uint8_t *signs, mg_error *err) {
    float xval[16];
    for (int k = 0; k < 2; k++) signs[k] = ops->signs(x + 8 * k, w + 8 * k, even, xval + 8 * k);
    float max = max_of(xval, 16);
    if (max < eps) {
        *scale = 0.0f;
        memset(index, 0, 2 * sizeof *index);
        memset(signs, 0, 2);
        return MG_OK;
    }
    *scale = max / 5.0f;
    MG_TRY(ops->fit(&fit_16, g, xval, w, max, scale, index, err));
    if (*scale < 0.0f) {
        *scale = -*scale;
        for (int k = 0; k < 2; k++) signs[k] = (uint8_t)~signs[k];
    }
    return MG_OK;
}

static mg_status iq2_xs_block(const mg_iq_ops *ops, const mg_iq_grid *g, const float *x, const float *qw,
                              mg_blk_iq2_xs *b, mg_error *err) {
    float scales[16], w[16], sigma2 = mg_ref_sum_sq(x, MG_SUPER) / (float)MG_SUPER;
    uint16_t index[32];
    uint8_t signs[32], l[16];
    memset(b, 0, sizeof *b);
    for (int j = 0; j < 16; j++) {
        ops->weights(x + 16 * j, qw + 16 * j, 16, sigma2, w);
        MG_TRY(iq2_sub16(ops, g, x + 16 * j, w, true, MG_REF_EPS, &scales[j], index + 2 * j, signs + 2 * j, err));
    }
    float d = mg_iq_scale_codes(scales, 16, l);
    if (d == 0.0f) return MG_OK;
    mg_put_f16(b->d, d);
    for (int k = 0; k < 32; k++) mg_put16(b->qs + 2 * k, (uint16_t)(index[k] | (signs[k] & 127) << 9));
    for (int j = 0; j < 16; j++) b->scales[j / 2] |= (uint8_t)(l[j] << (j % 2 * 4));
    return MG_OK;
}

mg_status mg_iq2_xs_rows(const mg_iq_ops *ops, const float *x, const float *weights, uint64_t n, void *out,
                         mg_error *err) {
    MG_TRY(mg_ref_check(MG_IQ2_XS, x, weights, n, err));
    const mg_iq_grid *g;
    MG_TRY(mg_iq_grid_get(&g, MG_GRID_IQ2_XS, err));
    mg_blk_iq2_xs *b = out;
    for (uint64_t i = 0; i < n; i += MG_SUPER) MG_TRY(iq2_xs_block(ops, g, x + i, weights + i, b++, err));
    return MG_OK;
}

mg_status mg_ref_iq2_xs_encode(const float *x, const float *weights, uint64_t n, void *out, mg_error *err) {
    return mg_iq2_xs_rows(&mg_iq_scalar_ops, x, weights, n, out, err);
}

void mg_ref_iq2_xs_decode(const void *in, uint64_t n, float *out) {
    const mg_blk_iq2_xs *b = in;
    for (; n; n -= MG_SUPER, b++) {
        float d = mg_get_f16(b->d);
        for (int k = 0; k < 32; k++, out += 8) {
            uint32_t q = mg_get16(b->qs + 2 * k);
            unpack_group(mg_iq_points_iq2_xs[q & 511], mg_iq_sign8(q >> 9), nibble_scale(d, b->scales, k / 2), out);
        }
    }
}

/* Stored d is 0.9875 of the fitted one. Without importance weights w = sigma2/4 + x^2, sigma2 = 2 mean x^2. */
static mg_status iq2_s_block(const mg_iq_ops *ops, const mg_iq_grid *g, const float *x, const float *qw,
                             mg_blk_iq2_s *b, mg_error *err) {
    float scales[16], w[16], sigma2 = 2.0f * mg_ref_sum_sq(x, MG_SUPER) / (float)MG_SUPER;
    uint16_t index[32];
    uint8_t l[16];
    memset(b, 0, sizeof *b);
    for (int j = 0; j < 16; j++) {
        if (qw)
            ops->weights(x + 16 * j, qw + 16 * j, 16, sigma2, w);
        else
            for (int i = 0; i < 16; i++) w[i] = 0.25f * sigma2 + x[16 * j + i] * x[16 * j + i];
        MG_TRY(iq2_sub16(ops, g, x + 16 * j, w, false, 1e-8f, &scales[j], index + 2 * j, b->signs + 2 * j, err));
    }
    float d = mg_iq_scale_codes(scales, 16, l);
    if (d == 0.0f) {
        memset(b, 0, sizeof *b);
        return MG_OK;
    }
    mg_put_f16(b->d, d * 0.9875f);
    for (int k = 0; k < 32; k++) {
        b->qs[k] = (uint8_t)index[k];
        b->qh[k / 4] |= (uint8_t)(index[k] >> 8 << (k % 4 * 2));
    }
    for (int j = 0; j < 16; j++) b->scales[j / 2] |= (uint8_t)(l[j] << (j % 2 * 4));
    return MG_OK;
}

mg_status mg_iq2_s_rows(const mg_iq_ops *ops, const float *x, const float *weights, uint64_t n, void *out,
                        mg_error *err) {
    MG_TRY(mg_ref_check(MG_IQ2_S, x, weights, n, err));
    const mg_iq_grid *g;
    MG_TRY(mg_iq_grid_get(&g, MG_GRID_IQ2_S, err));
    mg_blk_iq2_s *b = out;
    for (uint64_t i = 0; i < n; i += MG_SUPER)
        MG_TRY(iq2_s_block(ops, g, x + i, weights ? weights + i : NULL, b++, err));
    return MG_OK;
}

mg_status mg_ref_iq2_s_encode(const float *x, const float *weights, uint64_t n, void *out, mg_error *err) {
    return mg_iq2_s_rows(&mg_iq_scalar_ops, x, weights, n, out, err);
}

void mg_ref_iq2_s_decode(const void *in, uint64_t n, float *out) {
    const mg_blk_iq2_s *b = in;
    for (; n; n -= MG_SUPER, b++) {
        float d = mg_get_f16(b->d);
        for (int k = 0; k < 32; k++, out += 8) {
            uint32_t index = (uint32_t)b->qs[k] | (uint32_t)(b->qh[k / 4] >> (k % 4 * 2) & 3) << 8;
            unpack_group(mg_iq_points_iq2_s[index], b->signs[k], nibble_scale(d, b->scales, k / 2), out);
        }
    }
}
