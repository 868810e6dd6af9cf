/* ref_kmin.c - the super-blocks of 256 with a scale and a minimum per sub-block: Q2_K, Q4_K, Q5_K.
 *
 * Element i of a sub-block with 4- or 6-bit scale sc and minimum mn is x = (d sc) code - dmin mn. Encoding: search
 * scale and minimum of every sub-block (QKX), quantize the scales and the minimums themselves, then code all elements
 * again with the scales as stored: code = R((x + M)/D), D = h(d) sc, M = h(dmin) mn. Where D = 0 the codes of the
 * search stay. */
#include "quant/block_layout.h"
#include "quant/ref/ref.h"
#include "quant/ref/ref_kparts.h"
#include "quant/ref/ref_search.h"

/* sigma2 of the weights: factor * (mean of x^2 over the super-block). */
static float super_sigma2(const float *x, float factor) {
    return factor * mg_ref_sum_sq(x, MG_SUPER) / (float)MG_SUPER;
}

static float sum_of(const float *w, int n) {
    float sum = 0.0f;
    for (int i = 0; i < n; i++) sum += w[i];
    return sum;
}

/* Largest value above 0, else 0. */
static float positive_max(const float *v, int n) {
    float max = 0.0f;
    for (int i = 0; i < n; i++) max = v[i] > max ? v[i] : max;
    return max;
}

/* Final codes of one sub-block with its stored scales; see the head of the file. NaN counts as not 0. */
static void requantize(const float *x, int n, float D, float M, int N, uint8_t *code) {
    if (D == 0.0f) return;
    for (int i = 0; i < n; i++) code[i] = (uint8_t)mg_ref_clamp(mg_ref_round((x[i] + M) / D), 0, N);
}

/* ---------------------------------------------------------------- Q2_K
 * 84 bytes, 16 sub-blocks of 16:   | scales 16 | qs 64 | d f16 | dmin f16 |
 *   scales[j]   7..4  3..0          qs[32 h + l]   7..6       5..4       3..2       1..0
 *               mn_j  sc_j                         c[l + 96]  c[l + 64]  c[l + 32]  c[l]     c = codes of half h, l <
 * 32 */
const mg_qkx_search mg_qkx_q2_plain = {.N = 3, .rmin = -0.5f, .rdelta = 0.1f, .steps = 15, .absolute = true};
const mg_qkx_search mg_qkx_q2_weighted = {.N = 3, .rmin = -0.9f, .rdelta = 0.05f, .steps = 36};

/* Codes 0..15 of the 16 values v against their own maximum; returns the f32 scale. */
static float q2_scale_codes(const float *v, uint8_t *l) {
    float max = positive_max(v, 16);
    memset(l, 0, 16);
    if (!(max > 0.0f)) return 0.0f;
    float s = 15.0f / max;
    for (int j = 0; j < 16; j++) l[j] = (uint8_t)mg_ref_round(s * v[j]);
    return max / 15.0f;
}

void mg_ref_q2_k_scales(const float *scales, const float *mins, const float *sw, mg_blk_q2_k *b, float *D, float *M) {
    uint8_t ls[16], lm[16];
    float d = sw ? mg_ref_qp(16, 15, scales, sw, ls) : q2_scale_codes(scales, ls);
    float dmin = sw ? mg_ref_qp(16, 15, mins, sw, lm) : q2_scale_codes(mins, lm);
    mg_ref_q2_k_put(d, dmin, ls, lm, b, D, M);
}

void mg_ref_q2_k_put(float d32, float dmin32, const uint8_t *ls, const uint8_t *lm, mg_blk_q2_k *b, float *D,
                     float *M) {
    float d = mg_put_f16(b->d, d32), dmin = mg_put_f16(b->dmin, dmin32);
    for (int j = 0; j < 16; j++) {
        b->scales[j] = (uint8_t)(ls[j] | lm[j] << 4);
        D[j] = d * (float)(b->scales[j] & 15);
        M[j] = dmin * (float)(b->scales[j] >> 4);
    }
}

void mg_ref_q2_k_pack(const uint8_t *code, mg_blk_q2_k *b) {
    for (int h = 0; h < 2; h++)
        for (int l = 0; l < 32; l++) {
            const uint8_t *c = code + 128 * h + l;
            b->qs[32 * h + l] = (uint8_t)(c[0] | c[32] << 2 | c[64] << 4 | c[96] << 6);
        }
}

static void q2_k_block(const float *x, const float *qw, mg_blk_q2_k *b) {
    uint8_t code[MG_SUPER];
    float scales[16], mins[16], sw[16], w[16], D[16], M[16], sigma2 = qw ? super_sigma2(x, 1.0f) : 0.0f;
    for (int j = 0; j < 16; j++) {
        const float *xj = x + 16 * j;
        if (qw) {
            mg_ref_weights(xj, qw + 16 * j, 16, sigma2, w);
            sw[j] = sum_of(w, 16);
        } else {
            for (int i = 0; i < 16; i++) w[i] = fabsf(xj[i]);
        }
        scales[j] = mg_ref_qkx(qw ? &mg_qkx_q2_weighted : &mg_qkx_q2_plain, 16, xj, w, code + 16 * j, &mins[j]);
    }
    mg_ref_q2_k_scales(scales, mins, qw ? sw : NULL, b, D, M);
    for (int j = 0; j < 16; j++) requantize(x + 16 * j, 16, D[j], M[j], 3, code + 16 * j);
    mg_ref_q2_k_pack(code, b);
}

mg_status mg_ref_q2_k_encode(const float *x, const float *weights, uint64_t n, void *out, mg_error *err) {
    MG_TRY(mg_ref_check(MG_Q2_K, x, weights, n, err));
    mg_blk_q2_k *b = out;
    for (uint64_t i = 0; i < n; i += MG_SUPER) q2_k_block(x + i, weights ? weights + i : NULL, b++);
    return MG_OK;
}

void mg_ref_q2_k_decode(const void *in, uint64_t n, float *out) {
    const mg_blk_q2_k *b = in;
    for (; n; n -= MG_SUPER, b++) {
        float d = mg_get_f16(b->d), dmin = mg_get_f16(b->dmin);
        for (int j = 0; j < 16; j++, out += 16) {
            const uint8_t *qs = b->qs + 32 * (j / 8) + 16 * (j % 2);
            float D = d * (float)(b->scales[j] & 15), M = dmin * (float)(b->scales[j] >> 4);
            for (int l = 0; l < 16; l++) out[l] = D * (float)(qs[l] >> (j / 2 % 4 * 2) & 3) - M;
        }
    }
}

/* ---------------------------------------------------------------- Q4_K, Q5_K
 * 8 sub-blocks of 32, 6-bit scales sc_j and minimums mn_j in 12 bytes B:
 *   j < 4:   B[j]     7..6 sc_{j+4} top   5..0 sc_j
 *            B[j+4]   7..6 mn_{j+4} top   5..0 mn_j
 *            B[j+8]   7..4 mn_{j+4} low   3..0 sc_{j+4} low
 * Q4_K, 144 bytes: | d f16 | dmin f16 | B 12 | qs 128 |      Q5_K, 176 bytes: | d | dmin | B 12 | qh 32 | qs 128 |
 *   qs[32 g + l]   7..4           3..0                  c = codes of the 64 elements of group g = 0..3, l < 32
 *                  c[l + 32]&15   c[l]&15               qh[l]   bit 2g: c[l] > 15, bit 2g+1: c[l + 32] > 15 */
const mg_qkx_search mg_qkx_q4_plain = {.N = 15, .rmin = -1.0f, .rdelta = 0.1f, .steps = 20};
const mg_qkx_search mg_qkx_q4_weighted = {.N = 15, .rmin = -0.9f, .rdelta = 0.05f, .steps = 36};
const mg_qkx_search mg_qkx_q5_plain = {.N = 31, .rmin = -0.5f, .rdelta = 0.1f, .steps = 15};
const mg_qkx_search mg_qkx_q5_weighted = {.N = 31, .rmin = -0.9f, .rdelta = 0.05f, .steps = 36};

static void pack_scales(const uint8_t *sc, const uint8_t *mn, uint8_t *B) {
    for (int j = 0; j < 4; j++) {
        B[j] = (uint8_t)(sc[j] | sc[j + 4] >> 4 << 6);
        B[j + 4] = (uint8_t)(mn[j] | mn[j + 4] >> 4 << 6);
        B[j + 8] = (uint8_t)((sc[j + 4] & 15) | (mn[j + 4] & 15) << 4);
    }
}

static void unpack_scales(const uint8_t *B, uint8_t *sc, uint8_t *mn) {
    for (int j = 0; j < 4; j++) {
        sc[j] = B[j] & 63;
        mn[j] = B[j + 4] & 63;
        sc[j + 4] = (uint8_t)((B[j + 8] & 15) | B[j] >> 6 << 4);
        mn[j + 4] = (uint8_t)(B[j + 8] >> 4 | B[j + 4] >> 6 << 4);
    }
}

void mg_ref_k45_unpack(float d, float dmin, const uint8_t *B, float *D, float *M) {
    uint8_t sc[8], mn[8];
    unpack_scales(B, sc, mn);
    for (int j = 0; j < 8; j++) {
        D[j] = d * (float)sc[j];
        M[j] = dmin * (float)mn[j];
    }
}

/* 6-bit codes of v against its own maximum, without weights; returns the f32 scale. */
static float k45_scale_codes(const float *v, uint8_t *l) {
    float max = positive_max(v, 8), s = max > 0.0f ? 63.0f / max : 0.0f;
    for (int j = 0; j < 8; j++) {
        uint8_t c = (uint8_t)mg_ref_round(s * v[j]);
        l[j] = c < 63 ? c : 63;
    }
    return max / 63.0f;
}

void mg_ref_k45_scales(const float *scales, const float *mins, const float *sw, uint8_t *d16, uint8_t *dmin16,
                       uint8_t *B, float *D, float *M) {
    uint8_t ls[8], lm[8];
    float d = sw ? mg_ref_qp(8, 63, scales, sw, ls) : k45_scale_codes(scales, ls);
    float dmin = sw ? mg_ref_qp(8, 63, mins, sw, lm) : k45_scale_codes(mins, lm);
    mg_ref_k45_put(d, dmin, ls, lm, d16, dmin16, B, D, M);
}

void mg_ref_k45_put(float d32, float dmin32, const uint8_t *ls, const uint8_t *lm, uint8_t *d16, uint8_t *dmin16,
                    uint8_t *B, float *D, float *M) {
    float d = mg_put_f16(d16, d32), dmin = mg_put_f16(dmin16, dmin32);
    pack_scales(ls, lm, B);
    mg_ref_k45_unpack(d, dmin, B, D, M);
}

/* Everything but the packing of the codes. Weights without qw: rms of the sub-block + |x|. */
static void k45_search(const float *x, const float *qw, const mg_qkx_search *p, uint8_t *code, uint8_t *d16,
                       uint8_t *dmin16, uint8_t *B) {
    float scales[8], mins[8], sw[8], w[32], D[8], M[8], sigma2 = qw ? super_sigma2(x, 2.0f) : 0.0f;
    for (int j = 0; j < 8; j++) {
        const float *xj = x + 32 * j;
        if (qw) {
            mg_ref_weights(xj, qw + 32 * j, 32, sigma2, w);
            sw[j] = sum_of(w, 32);
        } else {
            float rms = sqrtf(mg_ref_sum_sq(xj, 32) / 32.0f);
            for (int i = 0; i < 32; i++) w[i] = rms + fabsf(xj[i]);
        }
        scales[j] = mg_ref_qkx(p, 32, xj, w, code + 32 * j, &mins[j]);
    }
    mg_ref_k45_scales(scales, mins, qw ? sw : NULL, d16, dmin16, B, D, M);
    for (int j = 0; j < 8; j++) requantize(x + 32 * j, 32, D[j], M[j], p->N, code + 32 * j);
}

static void pack_nibbles(const uint8_t *code, uint8_t *qs) {
    for (int g = 0; g < 4; g++)
        for (int l = 0; l < 32; l++) {
            const uint8_t *c = code + 64 * g + l;
            qs[32 * g + l] = (uint8_t)((c[0] & 15) | (c[32] & 15) << 4);
        }
}

void mg_ref_q4_k_pack(const uint8_t *code, mg_blk_q4_k *b) {
    pack_nibbles(code, b->qs);
}

void mg_ref_q5_k_pack(const uint8_t *code, mg_blk_q5_k *b) {
    pack_nibbles(code, b->qs);
    for (int l = 0; l < 32; l++) {
        int high = 0;
        for (int j = 0; j < 8; j++) high |= code[32 * j + l] >> 4 << j;
        b->qh[l] = (uint8_t)high;
    }
}

mg_status mg_ref_q4_k_encode(const float *x, const float *weights, uint64_t n, void *out, mg_error *err) {
    MG_TRY(mg_ref_check(MG_Q4_K, x, weights, n, err));
    mg_blk_q4_k *b = out;
    uint8_t code[MG_SUPER];
    for (uint64_t i = 0; i < n; i += MG_SUPER, b++) {
        k45_search(x + i, weights ? weights + i : NULL, weights ? &mg_qkx_q4_weighted : &mg_qkx_q4_plain, code, b->d,
                   b->dmin, b->scales);
        mg_ref_q4_k_pack(code, b);
    }
    return MG_OK;
}

void mg_ref_q4_k_decode(const void *in, uint64_t n, float *out) {
    const mg_blk_q4_k *b = in;
    for (; n; n -= MG_SUPER, b++, out += MG_SUPER) {
        float Ds[8], Ms[8];
        mg_ref_k45_unpack(mg_get_f16(b->d), mg_get_f16(b->dmin), b->scales, Ds, Ms);
        for (int j = 0; j < 8; j++) {
            float D = Ds[j], M = Ms[j];
            const uint8_t *qs = b->qs + 32 * (j / 2);
            for (int l = 0; l < 32; l++) out[32 * j + l] = D * (float)(qs[l] >> (j % 2 * 4) & 15) - M;
        }
    }
}

mg_status mg_ref_q5_k_encode(const float *x, const float *weights, uint64_t n, void *out, mg_error *err) {
    MG_TRY(mg_ref_check(MG_Q5_K, x, weights, n, err));
    mg_blk_q5_k *b = out;
    uint8_t code[MG_SUPER];
    for (uint64_t i = 0; i < n; i += MG_SUPER, b++) {
        k45_search(x + i, weights ? weights + i : NULL, weights ? &mg_qkx_q5_weighted : &mg_qkx_q5_plain, code, b->d,
                   b->dmin, b->scales);
        mg_ref_q5_k_pack(code, b);
    }
    return MG_OK;
}

void mg_ref_q5_k_decode(const void *in, uint64_t n, float *out) {
    const mg_blk_q5_k *b = in;
    for (; n; n -= MG_SUPER, b++, out += MG_SUPER) {
        float Ds[8], Ms[8];
        mg_ref_k45_unpack(mg_get_f16(b->d), mg_get_f16(b->dmin), b->scales, Ds, Ms);
        for (int j = 0; j < 8; j++) {
            float D = Ds[j], M = Ms[j];
            const uint8_t *qs = b->qs + 32 * (j / 2);
            for (int l = 0; l < 32; l++) {
                int q = (qs[l] >> (j % 2 * 4) & 15) | (b->qh[l] >> j & 1) << 4;
                out[32 * j + l] = D * (float)q - M;
            }
        }
    }
}
