/* ref_iq3.c - four magnitudes per codebook index and separate signs: IQ3_XXS, IQ3_S (super-blocks of 256, sub-blocks of
 * 32). */
#include "quant/block_layout.h"
#include "quant/ref/iq_fit.h"
#include "quant/ref/ref.h"
#include "quant/ref/ref_search.h"

static float max_of(const float *v, int n) {
    float max = v[0];
    for (int i = 1; i < n; i++) max = v[i] > max ? v[i] : max;
    return max;
}

static float super_sigma2(const float *x) {
    return 2.0f * mg_ref_sum_sq(x, MG_SUPER) / (float)MG_SUPER;
}

/* ---------------------------------------------------------------- IQ3_XXS
 * 98 bytes: | d f16 | qs 64 | u32[8] |        x = d (0.5 + scale4) 0.5 * g * sign, g = 4, 12, 20, 28, 36, 44, 52, 62
 *   qs[8 j + k]   index of the four elements 32 j + 4 k, k < 8
 *   u32 j         31..28 scale4   27..21 signs of elements 24..31   20..14 of 16..23   13..7 of 8..15   6..0 of 0..7
 * Stored d is 1.0125 of the fitted one. */
static const float worth_xxs[8] = {4.0f, 12.0f, 20.0f, 28.0f, 36.0f, 44.0f, 52.0f, 62.0f};
static const mg_fit_params fit_xxs = {.n = 32, .base = 15.0f, .step = 0.2f, .reach = 15, .second = MG_SECOND_OFF_GRID};

static mg_status iq3_xxs_sub(const mg_iq_ops *ops, const mg_iq_grid *g, const float *x, const float *w, float *scale,
                             uint8_t *qs, uint8_t *signs32, mg_error *err) {
    float xval[32];
    uint16_t index[8];
    uint32_t signs = 0;
    for (int k = 0; k < 4; k++)
        signs |= (uint32_t)(ops->signs(x + 8 * k, w + 8 * k, true, xval + 8 * k) & 127) << (7 * k);
    float max = max_of(xval, 32);
    *scale = 0.0f;
    if (max < 1e-8f) return MG_OK;
    *scale = max / 15.0f;
    MG_TRY(ops->fit(&fit_xxs, g, xval, w, max, scale, index, err));
    if (*scale < 0.0f) {
        *scale = -*scale;
        signs ^= 0x0FFFFFFFu;
    }
    for (int k = 0; k < 8; k++) qs[k] = (uint8_t)index[k];
    mg_put32(signs32, signs);
    return MG_OK;
}

static mg_status iq3_xxs_block(const mg_iq_ops *ops, const mg_iq_grid *g, const float *x, const float *qw,
                               mg_blk_iq3_xxs *b, mg_error *err) {
    float scales[8], w[32], sigma2 = qw ? super_sigma2(x) : 0.0f;
    uint8_t l[8];
    memset(b, 0, sizeof *b);
    for (int j = 0; j < 8; j++) {
        ops->weights(x + 32 * j, qw ? qw + 32 * j : NULL, 32, sigma2, w);
        MG_TRY(iq3_xxs_sub(ops, g, x + 32 * j, w, &scales[j], b->qs + 8 * j, b->signs + 4 * j, err));
    }
    float d = mg_iq_scale_codes(scales, 8, l);
    if (d == 0.0f) {
        memset(b, 0, sizeof *b);
        return MG_OK;
    }
    mg_put_f16(b->d, d * 1.0125f);
    for (int j = 0; j < 8; j++) b->signs[4 * j + 3] |= (uint8_t)(l[j] << 4);
    return MG_OK;
}

mg_status mg_iq3_xxs_rows(const mg_iq_ops *ops, const float *x, const float *weights, uint64_t n, void *out,
                          mg_error *err) {
    MG_TRY(mg_ref_check(MG_IQ3_XXS, x, weights, n, err));
    const mg_iq_grid *g;
    MG_TRY(mg_iq_grid_get(&g, MG_GRID_IQ3_XXS, err));
    mg_blk_iq3_xxs *b = out;
    for (uint64_t i = 0; i < n; i += MG_SUPER)
        MG_TRY(iq3_xxs_block(ops, g, x + i, weights ? weights + i : NULL, b++, err));
    return MG_OK;
}

mg_status mg_ref_iq3_xxs_encode(const float *x, const float *weights, uint64_t n, void *out, mg_error *err) {
    return mg_iq3_xxs_rows(&mg_iq_scalar_ops, x, weights, n, out, err);
}

void mg_ref_iq3_xxs_decode(const void *in, uint64_t n, float *out) {
    const mg_blk_iq3_xxs *b = in;
    for (; n; n -= MG_SUPER, b++) {
        float d = mg_get_f16(b->d);
        for (int j = 0; j < 8; j++) {
            uint32_t s = mg_get32(b->signs + 4 * j);
            float scale = d * (0.5f + (float)(s >> 28)) * 0.5f;
            for (int i = 0; i < 32; i++) {
                float v = scale * worth_xxs[mg_iq_points_iq3_xxs[b->qs[8 * j + i / 4]] >> (i % 4 * 3) & 7];
                *out++ = mg_iq_sign8(s >> (i / 8 * 7)) >> (i % 8) & 1 ? -v : v;
            }
        }
    }
}

/* ---------------------------------------------------------------- IQ3_S
 * 110 bytes: | d f16 | qs 64 | qh 8 | signs 32 | scales 4 |        x = d (1 + 2 scale4) * (2 l + 1) * sign
 *   group k = 0..7 of sub-block j: index = qs[8 j + k] | bit k of qh[j] << 8
 *   signs[4 j + m]   eight signs of elements 32 j + 8 m ..      scales[j / 2]   scale4 of sub-block j at bit 4 (j % 2)
 * Stored d is 1.033 of the fitted one.
 *
 * Quirk reproduced: the reference does not advance its write positions in qs and signs over a sub-block of zeros. Every
 * later sub-block of the super-block then lies one slot too early there, while its qh and scale are in place: the
 * super-block decodes to wrong values unless the zero sub-blocks come last. `slot` below is that write position. */
static const mg_fit_params fit_s = {.n = 32, .base = 15.0f, .step = 0.2f, .reach = 9, .second = MG_SECOND_ALL_IF_ANY};

static mg_status iq3_s_sub(const mg_iq_ops *ops, const mg_iq_grid *g, const float *x, const float *w, float *scale,
                           uint8_t *qs, uint8_t *qh, uint8_t *signs, bool *zero, mg_error *err) {
    float xval[32];
    uint8_t s[4];
    uint16_t index[8];
    for (int k = 0; k < 4; k++) s[k] = ops->signs(x + 8 * k, w + 8 * k, false, xval + 8 * k);
    float max = max_of(xval, 32);
    *scale = 0.0f;
    *zero = max == 0.0f;
    if (*zero) return MG_OK;
    *scale = max / 15.0f;
    MG_TRY(ops->fit(&fit_s, g, xval, w, max, scale, index, err));
    bool flip = *scale < 0.0f;
    if (flip) *scale = -*scale;
    for (int k = 0; k < 4; k++) signs[k] = flip ? (uint8_t)~s[k] : s[k];
    for (int k = 0; k < 8; k++) {
        qs[k] = (uint8_t)index[k];
        *qh |= (uint8_t)(index[k] >> 8 << k);
    }
    return MG_OK;
}

static mg_status iq3_s_block(const mg_iq_ops *ops, const mg_iq_grid *g, const float *x, const float *qw,
                             mg_blk_iq3_s *b, mg_error *err) {
    float scales[8], w[32], sigma2 = qw ? super_sigma2(x) : 0.0f;
    uint8_t l[8];
    memset(b, 0, sizeof *b);
    for (int j = 0, slot = 0; j < 8; j++) {
        bool zero;
        ops->weights(x + 32 * j, qw ? qw + 32 * j : NULL, 32, sigma2, w);
        MG_TRY(
            iq3_s_sub(ops, g, x + 32 * j, w, &scales[j], b->qs + 8 * slot, &b->qh[j], b->signs + 4 * slot, &zero, err));
        if (!zero) slot++;
    }
    float d = mg_iq_scale_codes(scales, 8, l);
    if (d == 0.0f) return MG_OK;
    mg_put_f16(b->d, d * 1.033f);
    for (int j = 0; j < 8; j++) b->scales[j / 2] |= (uint8_t)(l[j] << (j % 2 * 4));
    return MG_OK;
}

mg_status mg_iq3_s_rows(const mg_iq_ops *ops, const float *x, const float *weights, uint64_t n, void *out,
                        mg_error *err) {
    MG_TRY(mg_ref_check(MG_IQ3_S, x, weights, n, err));
    const mg_iq_grid *g;
    MG_TRY(mg_iq_grid_get(&g, MG_GRID_IQ3_S, err));
    mg_blk_iq3_s *b = out;
    for (uint64_t i = 0; i < n; i += MG_SUPER)
        MG_TRY(iq3_s_block(ops, g, x + i, weights ? weights + i : NULL, b++, err));
    return MG_OK;
}

mg_status mg_ref_iq3_s_encode(const float *x, const float *weights, uint64_t n, void *out, mg_error *err) {
    return mg_iq3_s_rows(&mg_iq_scalar_ops, x, weights, n, out, err);
}

void mg_ref_iq3_s_decode(const void *in, uint64_t n, float *out) {
    const mg_blk_iq3_s *b = in;
    for (; n; n -= MG_SUPER, b++) {
        float d = mg_get_f16(b->d);
        for (int j = 0; j < 8; j++) {
            float scale = d * (float)(1 + 2 * (b->scales[j / 2] >> (j % 2 * 4) & 15));
            for (int i = 0; i < 32; i++) {
                uint32_t index = (uint32_t)b->qs[8 * j + i / 4] | (uint32_t)(b->qh[j] >> (i / 4) & 1) << 8;
                float v = scale * (float)(2 * (mg_iq_points_iq3_s[index] >> (i % 4 * 3) & 7) + 1);
                *out++ = b->signs[4 * j + i / 8] >> (i % 8) & 1 ? -v : v;
            }
        }
    }
}
