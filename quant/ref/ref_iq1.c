/* ref_iq1.c - ternary codes from a codebook of 2048 points, with a shift: IQ1_S, IQ1_M (super-blocks of 256).
 *
 * x = d (2 scale3 + 1) (t + delta), t = -1, 0, 1 for code l = 0, 1, 2 and delta = +-1/8. Search: in ascending order of
 * x the codes must ascend too, so a sub-block is described by two cuts i1 <= i2 (0 before i1, 1 before i2, 2 after) and
 * its shift; prefix sums over the sorted elements give A = sum w x v and B = sum w v v of every choice. Best A^2/B
 * wins, first of equals. */
#include "quant/ref/ref_iq1.h"

#include "quant/ref/iq_grids.h"
#include "quant/ref/ref.h"
#include "quant/ref/ref_search.h"

#include <float.h>

/* Values of codes 0, 1, 2 with shift +1/8 and -1/8. */
static const float shifted[2][3] = {{-0.875f, 0.125f, 1.125f}, {-1.125f, -0.125f, 0.875f}};

/* Stable ascending order of n <= 32 values, as the merge sort of glibc's qsort leaves ties. */
static void sort_order(const float *x, int n, uint8_t *order) {
    for (int i = 0; i < n; i++) {
        int j = i;
        for (; j > 0 && x[order[j - 1]] > x[i]; j--) order[j] = order[j - 1];
        order[j] = (uint8_t)i;
    }
}

/* The neighbour with the smallest sum of (w diff) diff, diff = scale v - x; -1 when all overflow. */
static int best_neighbour(const mg_iq_grid *g, uint32_t entry, const float *x, const float *w, float scale,
                          const float *v) {
    float e[8][4], best_err = FLT_MAX;
    const uint16_t *list = mg_iq_list(g, entry);
    int best = -1, length = mg_iq_list_length(entry);
    for (int j = 0; j < 8; j++)
        for (int l = 0; l < 3; l++) {
            float diff = scale * v[l] - x[j];
            e[j][l] = w[j] * diff * diff;
        }
    for (int k = 0; k < length; k++) {
        uint32_t point = list[k];
        float err = 0.0f;
        for (int j = 0; j < 8; j++) err += e[j][point >> (2 * j) & 3];
        if (err < best_err) {
            best_err = err;
            best = (int)g->map[list[k]];
        }
    }
    return best;
}

static mg_status overflow(mg_error *err) {
    return mg_fail(err, MG_ERR_FORMAT, "values are too large for this type: the codebook fit overflows");
}

/* Codes of the n elements to codebook indices; when any group was off the codebook, the scale is refitted to the new
 * codes. */
static mg_status to_codebook(const mg_iq_grid *g, int n, const float *x, const float *w, const uint8_t *codes,
                             mg_iq1_fit *f, mg_error *err) {
    bool any_off = false;
    for (int k = 0; k < n / 8; k++) {
        uint32_t packed = 0;
        for (int j = 0; j < 8; j++) packed |= (uint32_t)codes[8 * k + j] << (2 * j);
        uint32_t m = g->map[packed];
        int point = (int)m;
        if (m & MG_OFF_GRID) {
            any_off = true;
            point = best_neighbour(g, m, x + 8 * k, w + 8 * k, f->scale, shifted[f->minus[8 * k / (n / 2)]]);
            if (point < 0)
                return mg_fail(err, MG_ERR_FORMAT,
                               "values are too large for this type: every codebook error overflows");
        }
        f->index[k] = (uint16_t)point;
    }
    if (isnan(f->scale)) return overflow(err);
    if (!any_off) return MG_OK;
    float A = 0.0f, B = 0.0f;
    for (int i = 0; i < n; i++) {
        float q = shifted[f->minus[i / (n / 2)]][g->points[f->index[i / 8]] >> (i % 8 * 2) & 3];
        A += w[i] * q * x[i];
        B += w[i] * q * q;
    }
    if (A > 0.0f && B > 0.0f) f->scale = A / B;
    return isnan(f->scale) ? overflow(err) : MG_OK;
}

/* Codes from the cuts; a negative scale is made positive by reversing codes and shifts. */
static void codes_of_cuts(int n, const uint8_t *order, int i1, int i2, mg_iq1_fit *f, uint8_t *codes) {
    bool flip = f->scale < 0.0f;
    for (int j = 0; j < n; j++) {
        int l = j < i1 ? 0 : j < i2 ? 1 : 2;
        codes[order[j]] = (uint8_t)(flip ? 2 - l : l);
    }
    if (!flip) return;
    f->scale = -f->scale;
    for (int h = 0; h < 2; h++) f->minus[h] ^= 1;
}

static float abs_max(const float *x, int n) {
    return fabsf(mg_ref_signed_max(x, n));
}

static float max_scale(const mg_iq1_fit *f, int n) {
    float max = 0.0f;
    for (int j = 0; j < n; j++) max = f[j].scale > max ? f[j].scale : max;
    return max;
}

static int scale3(float id, float scale) {
    return mg_ref_clamp(mg_ref_round(0.5f * (id * scale - 1.0f)), 0, 7);
}

/* ---------------------------------------------------------------- IQ1_S
 * 50 bytes: | d f16 | qs 32 | qh u16[8] |, sub-blocks of 32, four groups of 8:
 *   qs[4 j + k]   low eight bits of the index of group k
 *   qh[j]   15 shift is -1/8   14..12 scale3   11..9 top index bits of group 3   8..6 of 2   5..3 of 1   2..0 of 0
 * Stored d is 1.125 of the fitted one. */
static bool iq1_s_cuts(const float *x, const float *w, mg_iq1_fit *f, uint8_t *codes) {
    uint8_t order[32];
    float PX[33], PW[33], best = -FLT_MAX;
    int best_i1 = -1, best_i2 = -1;
    sort_order(x, 32, order);
    PX[0] = PW[0] = 0.0f;
    for (int j = 0; j < 32; j++) {
        PX[j + 1] = PX[j] + w[order[j]] * x[order[j]];
        PW[j + 1] = PW[j] + w[order[j]];
    }
    for (int i1 = 0; i1 <= 32; i1++)
        for (int i2 = i1; i2 <= 32; i2++)
            for (uint8_t minus = 0; minus < 2; minus++) {
                const float *v = shifted[minus];
                float A = (PX[i1] - PX[0]) * v[0] + (PX[i2] - PX[i1]) * v[1] + (PX[32] - PX[i2]) * v[2];
                float B =
                    (PW[i1] - PW[0]) * v[0] * v[0] + (PW[i2] - PW[i1]) * v[1] * v[1] + (PW[32] - PW[i2]) * v[2] * v[2];
                if (!(B > 0.0f && A * A > best * B)) continue;
                f->scale = A / B;
                best = f->scale * A;
                best_i1 = i1;
                best_i2 = i2;
                f->minus[0] = f->minus[1] = minus;
            }
    if (best_i1 < 0) return false;
    codes_of_cuts(32, order, best_i1, best_i2, f, codes);
    return true;
}

void mg_ref_iq1_s_put(const mg_iq1_fit *fit, mg_blk_iq1_s *b) {
    float max = max_scale(fit, 8);
    memset(b, 0, sizeof *b);
    if (max == 0.0f) return;
    float d = max / 15.0f, id = 1.0f / d;
    mg_put_f16(b->d, d * 1.125f);
    for (int j = 0; j < 8; j++) {
        uint32_t qh = (uint32_t)scale3(id, fit[j].scale) << 12 | (uint32_t)fit[j].minus[0] << 15;
        for (int k = 0; k < 4; k++) {
            b->qs[4 * j + k] = (uint8_t)fit[j].index[k];
            qh |= (uint32_t)(fit[j].index[k] >> 8) << (3 * k);
        }
        mg_put16(b->qh + 2 * j, (uint16_t)qh);
    }
}

static mg_status iq1_s_block(const mg_iq_grid *g, const float *x, const float *qw, mg_blk_iq1_s *b, mg_error *err) {
    mg_iq1_fit fit[8] = {0};
    float w[32], sigma2 = 2.0f * mg_ref_sum_sq(x, MG_SUPER) / (float)MG_SUPER;
    uint8_t codes[32];
    for (int j = 0; j < 8; j++) {
        const float *xj = x + 32 * j;
        if (abs_max(xj, 32) < 1e-12f) continue;
        mg_ref_weights(xj, qw + 32 * j, 32, sigma2, w);
        if (!iq1_s_cuts(xj, w, &fit[j], codes)) continue; /* all weights 0 */
        MG_TRY(to_codebook(g, 32, xj, w, codes, &fit[j], err));
    }
    mg_ref_iq1_s_put(fit, b);
    return MG_OK;
}

mg_status mg_ref_iq1_s_encode(const float *x, const float *weights, uint64_t n, void *out, mg_error *err) {
    MG_TRY(mg_ref_check(MG_IQ1_S, x, weights, n, err));
    const mg_iq_grid *g;
    MG_TRY(mg_iq_grid_get(&g, MG_GRID_IQ1, err));
    mg_blk_iq1_s *b = out;
    for (uint64_t i = 0; i < n; i += MG_SUPER) MG_TRY(iq1_s_block(g, x + i, weights + i, b++, err));
    return MG_OK;
}

static void unpack_group(uint32_t index, float scale, bool minus, float *out) {
    uint32_t point = mg_iq_points_iq1[index];
    for (int j = 0; j < 8; j++) out[j] = scale * ((float)(point >> (2 * j) & 3) - 1.0f + (minus ? -0.125f : 0.125f));
}

void mg_ref_iq1_s_decode(const void *in, uint64_t n, float *out) {
    const mg_blk_iq1_s *b = in;
    for (; n; n -= MG_SUPER, b++) {
        float d = mg_get_f16(b->d);
        for (int j = 0; j < 8; j++) {
            uint32_t qh = mg_get16(b->qh + 2 * j);
            float scale = d * (float)(2 * (qh >> 12 & 7) + 1);
            for (int k = 0; k < 4; k++, out += 8)
                unpack_group(b->qs[4 * j + k] | (qh >> (3 * k) & 7) << 8, scale, qh >> 15, out);
        }
    }
}

/* ---------------------------------------------------------------- IQ1_M
 * 56 bytes: | qs 32 | qh 16 | scales u16[4] |, sub-blocks of 16, two groups of 8 with a shift each:
 *   qs[2 j + k]   low eight bits of the index of group k
 *   qh[j]   7 shift of group 1 is -1/8   6..4 top index bits of group 1   3 shift of group 0   2..0 index of group 0
 *   scales[m]   15..12 nibble m of the f16 d   11..9 scale3 of sub-block 4 m + 3   8..6, 5..3, 2..0 of 4 m + 2, + 1, +
 * 0 Stored d is 1.1125 of the one refitted over the whole super-block after the scales are coded. */
static bool iq1_m_cuts(const float *x, const float *w, mg_iq1_fit *f, uint8_t *codes) {
    uint8_t order[16];
    float PX[2][17] = {{0}}, PW[2][17] = {{0}}, best = -FLT_MAX;
    int best_i1 = -1, best_i2 = -1;
    sort_order(x, 16, order);
    for (int j = 0; j < 16; j++) {
        int i = order[j];
        for (int h = 0; h < 2; h++) {
            PX[h][j + 1] = i / 8 == h ? PX[h][j] + w[i] * x[i] : PX[h][j];
            PW[h][j + 1] = i / 8 == h ? PW[h][j] + w[i] : PW[h][j];
        }
    }
    for (int i1 = 0; i1 <= 16; i1++)
        for (int i2 = i1; i2 <= 16; i2++) {
            float A[2][2], B[2][2]; /* [half][shift] */
            for (int h = 0; h < 2; h++)
                for (int s = 0; s < 2; s++) {
                    const float *v = shifted[s];
                    A[h][s] = PX[h][16] * v[2] - (PX[h][i1] + PX[h][i2]);
                    B[h][s] = PW[h][16] * v[2] * v[2] + PW[h][i1] * (v[0] * v[0] - v[1] * v[1]) +
                              PW[h][i2] * (v[1] * v[1] - v[2] * v[2]);
                }
            for (uint8_t combo = 0; combo < 4; combo++) {
                uint8_t s0 = combo >> 1, s1 = combo & 1;
                float a = A[0][s0] + A[1][s1], b = B[0][s0] + B[1][s1];
                if (!(b > 0.0f && a * a > best * b)) continue;
                f->scale = a / b;
                best = f->scale * a;
                best_i1 = i1;
                best_i2 = i2;
                f->minus[0] = s0;
                f->minus[1] = s1;
            }
        }
    if (best_i1 < 0) return false;
    codes_of_cuts(16, order, best_i1, best_i2, f, codes);
    return true;
}

/* w = qw sqrt(sigma2 + x^2), or x^2. */
static void iq1_m_weights(const float *x, const float *qw, float sigma2, float *w) {
    if (qw)
        mg_ref_weights(x, qw, 16, sigma2, w);
    else
        for (int i = 0; i < 16; i++) w[i] = x[i] * x[i];
}

/* The super-scale that fits x best with all codes and 3-bit scales fixed, or d when the fit is empty. */
static float iq1_m_refit(const mg_iq_grid *g, const float *x, const float *qw, float sigma2, const mg_iq1_fit *fit,
                         const uint8_t *l, float d) {
    float w[16], A = 0.0f, B = 0.0f;
    for (int j = 0; j < 16; j++) {
        iq1_m_weights(x + 16 * j, qw ? qw + 16 * j : NULL, sigma2, w);
        for (int i = 0; i < 16; i++) {
            uint32_t point = g->points[fit[j].index[i / 8]];
            float q = shifted[fit[j].minus[i / 8]][point >> (i % 8 * 2) & 3] * (float)(2 * l[j] + 1);
            A += w[i] * q * x[16 * j + i];
            B += w[i] * q * q;
        }
    }
    return B > 0.0f ? A / B : d;
}

bool mg_ref_iq1_m_scales(const mg_iq1_fit *fit, uint8_t *l, float *d) {
    float max = max_scale(fit, 16);
    if (max == 0.0f) return false;
    *d = max / 15.0f;
    float id = 1.0f / *d;
    for (int j = 0; j < 16; j++) l[j] = (uint8_t)scale3(id, fit[j].scale);
    return true;
}

void mg_ref_iq1_m_put(const mg_iq1_fit *fit, const uint8_t *l, float d, mg_blk_iq1_m *b) {
    uint32_t words[4] = {0}, d16 = mg_f32_to_f16(d * 1.1125f);
    for (int j = 0; j < 16; j++) {
        words[j / 4] |= (uint32_t)l[j] << (j % 4 * 3);
        b->qh[j] = 0;
        for (int k = 0; k < 2; k++) {
            b->qs[2 * j + k] = (uint8_t)fit[j].index[k];
            b->qh[j] |= (uint8_t)((fit[j].index[k] >> 8 | fit[j].minus[k] << 3) << (4 * k));
        }
    }
    for (int m = 0; m < 4; m++) mg_put16(b->scales + 2 * m, (uint16_t)(words[m] | (d16 >> (4 * m) & 15) << 12));
}

static mg_status iq1_m_block(const mg_iq_grid *g, const float *x, const float *qw, mg_blk_iq1_m *b, mg_error *err) {
    mg_iq1_fit fit[16] = {0};
    float w[16], sigma2 = qw ? 2.0f * mg_ref_sum_sq(x, MG_SUPER) / (float)MG_SUPER : 0.0f;
    uint8_t codes[16], l[16];
    memset(b, 0, sizeof *b);
    for (int j = 0; j < 16; j++) {
        const float *xj = x + 16 * j;
        if (abs_max(xj, 16) < 1e-7f) continue;
        iq1_m_weights(xj, qw ? qw + 16 * j : NULL, sigma2, w);
        if (!iq1_m_cuts(xj, w, &fit[j], codes)) continue; /* all weights 0 */
        MG_TRY(to_codebook(g, 16, xj, w, codes, &fit[j], err));
    }
    float d;
    if (mg_ref_iq1_m_scales(fit, l, &d)) mg_ref_iq1_m_put(fit, l, iq1_m_refit(g, x, qw, sigma2, fit, l, d), b);
    return MG_OK;
}

mg_status mg_ref_iq1_m_encode(const float *x, const float *weights, uint64_t n, void *out, mg_error *err) {
    MG_TRY(mg_ref_check(MG_IQ1_M, x, weights, n, err));
    const mg_iq_grid *g;
    MG_TRY(mg_iq_grid_get(&g, MG_GRID_IQ1, err));
    mg_blk_iq1_m *b = out;
    for (uint64_t i = 0; i < n; i += MG_SUPER) MG_TRY(iq1_m_block(g, x + i, weights ? weights + i : NULL, b++, err));
    return MG_OK;
}

void mg_ref_iq1_m_decode(const void *in, uint64_t n, float *out) {
    const mg_blk_iq1_m *b = in;
    for (; n; n -= MG_SUPER, b++) {
        uint32_t words[4], d16 = 0;
        for (int m = 0; m < 4; m++) {
            words[m] = mg_get16(b->scales + 2 * m);
            d16 |= words[m] >> 12 << (4 * m);
        }
        float d = mg_f16_to_f32((uint16_t)d16);
        for (int j = 0; j < 16; j++) {
            float scale = d * (float)(2 * (words[j / 4] >> (j % 4 * 3) & 7) + 1);
            for (int k = 0; k < 2; k++, out += 8) {
                uint32_t qh = (uint32_t)b->qh[j] >> (4 * k);
                unpack_group(b->qs[2 * j + k] | (qh & 7) << 8, scale, qh >> 3 & 1, out);
            }
        }
    }
}
