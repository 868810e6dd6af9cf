/* ref_ksigned.c - the super-blocks of 256 with a signed scale per sub-block and no minimum: Q3_K, Q6_K.
 *
 * 16 sub-blocks of 16; x = (d sc_j) (code - N). Encoding: a scale per sub-block (Q3 or QX), the scales quantized, then
 * every element coded again with the scale as stored: code = R(x/D) + N, D = h(d) sc_j. Where D = 0 the search codes
 * stay. */
#include "quant/block_layout.h"
#include "quant/ref/ref.h"
#include "quant/ref/ref_kparts.h"
#include "quant/ref/ref_search.h"

/* Final codes of the 16 elements of one sub-block. NaN counts as not 0. */
static void requantize(const float *x, float D, int N, uint8_t *code) {
    if (D == 0.0f) return;
    for (int i = 0; i < 16; i++) code[i] = (uint8_t)(N + mg_ref_clamp(mg_ref_round(x[i] / D), -N, N - 1));
}

/* ---------------------------------------------------------------- Q3_K
 * 110 bytes:   | hmask 32 | qs 64 | B 12 | d f16 |       code = v + 4 in 0..7, v = -4..3
 *   hmask[i % 32]   bit i/32 = code_i > 3
 *   qs[32 h + l]    two low bits of c[l], c[l + 32], c[l + 64], c[l + 96] from bit 0 upwards; c = codes of half h
 *   6-bit scales s_j (value s_j - 32), j < 16:
 *     B[j % 8]      low four bits of s_j: 3..0 for j < 8, 7..4 for j >= 8
 *     B[8 + j % 4]  top two bits of s_j at bit 2 (j / 4) */
static void q3_pack_scales(const uint8_t *s, uint8_t *B) {
    memset(B, 0, 12);
    for (int j = 0; j < 16; j++) {
        B[j % 8] |= (uint8_t)((s[j] & 15) << (j / 8 * 4));
        B[8 + j % 4] |= (uint8_t)(s[j] >> 4 << (j / 4 * 2));
    }
}

/* 6-bit codes of the scales against the one of largest magnitude (which becomes -32); returns the f32 super-scale. */
static float q3_scale_codes(const float *scales, uint8_t *s) {
    float max = mg_ref_signed_max(scales, 16);
    memset(s, 0, 16);
    if (max == 0.0f) return 0.0f;
    float inv = -32.0f / max;
    for (int j = 0; j < 16; j++) s[j] = (uint8_t)(32 + mg_ref_clamp(mg_ref_round(inv * scales[j]), -32, 31));
    return 1.0f / inv;
}

void mg_ref_q3_k_pack(const uint8_t *code, mg_blk_q3_k *b) {
    memset(b->hmask, 0, sizeof b->hmask);
    memset(b->qs, 0, sizeof b->qs);
    for (int i = 0; i < MG_SUPER; i++) {
        b->hmask[i % 32] |= (uint8_t)((code[i] >> 2) << (i / 32));
        b->qs[32 * (i / 128) + i % 32] |= (uint8_t)((code[i] & 3) << (i / 32 % 4 * 2));
    }
}

void mg_ref_q3_k_scales(const float *scales, const float *sw, mg_blk_q3_k *b, float *D) {
    uint8_t s[16];
    float d = sw ? mg_ref_qx(16, 32, scales, sw, s) : q3_scale_codes(scales, s);
    mg_ref_q3_k_put(d, s, b, D);
}

void mg_ref_q3_k_put(float d32, const uint8_t *s, mg_blk_q3_k *b, float *D) {
    float d = mg_put_f16(b->d, d32);
    q3_pack_scales(s, b->scales);
    for (int j = 0; j < 16; j++) D[j] = d * (float)((int)s[j] - 32);
}

static void q3_k_block(const float *x, const float *qw, mg_blk_q3_k *b) {
    uint8_t code[MG_SUPER];
    float scales[16], sw[16], w[16], D[16];
    float sigma2 = qw ? 2.0f * mg_ref_sum_sq(x, MG_SUPER) / (float)MG_SUPER : 0.0f;
    for (int j = 0; j < 16; j++) {
        if (!qw) {
            scales[j] = mg_ref_q3(16, 4, x + 16 * j, code + 16 * j);
            continue;
        }
        mg_ref_weights(x + 16 * j, qw + 16 * j, 16, sigma2, w);
        sw[j] = 0.0f;
        for (int i = 0; i < 16; i++) sw[j] += w[i];
        scales[j] = mg_ref_qx(16, 4, x + 16 * j, w, code + 16 * j);
    }
    mg_ref_q3_k_scales(scales, qw ? sw : NULL, b, D);
    for (int j = 0; j < 16; j++) requantize(x + 16 * j, D[j], 4, code + 16 * j);
    mg_ref_q3_k_pack(code, b);
}

mg_status mg_ref_q3_k_encode(const float *x, const float *weights, uint64_t n, void *out, mg_error *err) {
    MG_TRY(mg_ref_check(MG_Q3_K, x, weights, n, err));
    mg_blk_q3_k *b = out;
    for (uint64_t i = 0; i < n; i += MG_SUPER) q3_k_block(x + i, weights ? weights + i : NULL, b++);
    return MG_OK;
}

void mg_ref_q3_k_decode(const void *in, uint64_t n, float *out) {
    const mg_blk_q3_k *b = in;
    for (; n; n -= MG_SUPER, b++) {
        float d = mg_get_f16(b->d);
        for (int g = 0; g < 8; g++, out += 32) { /* 32 elements: one bit position of qs and of hmask, two scales */
            const uint8_t *qs = b->qs + 32 * (g / 4);
            float scale[2] = {d * (float)mg_q3_k_scale(b->scales, 2 * g),
                              d * (float)mg_q3_k_scale(b->scales, 2 * g + 1)};
            for (int l = 0; l < 32; l++) {
                int q = (qs[l] >> (g % 4 * 2) & 3) + 4 * (b->hmask[l] >> g & 1) - 4;
                out[l] = scale[l / 16] * (float)q;
            }
        }
    }
}

/* ---------------------------------------------------------------- Q6_K
 * 210 bytes:   | ql 128 | qh 64 | sc int8[16] | d f16 |       code = v + 32 in 0..63; c = codes of half h, l < 32
 *   ql[64 h + l]        7..4 c[l + 64] low   3..0 c[l] low
 *   ql[64 h + l + 32]   7..4 c[l + 96] low   3..0 c[l + 32] low
 *   qh[32 h + l]        two top bits of c[l], c[l + 32], c[l + 64], c[l + 96] from bit 0 upwards */
void mg_ref_q6_k_pack(const uint8_t *code, mg_blk_q6_k *b) {
    for (int h = 0; h < 2; h++)
        for (int l = 0; l < 32; l++) {
            const uint8_t *c = code + 128 * h + l;
            b->ql[64 * h + l] = (uint8_t)((c[0] & 15) | (c[64] & 15) << 4);
            b->ql[64 * h + l + 32] = (uint8_t)((c[32] & 15) | (c[96] & 15) << 4);
            b->qh[32 * h + l] = (uint8_t)(c[0] >> 4 | c[32] >> 4 << 2 | c[64] >> 4 << 4 | c[96] >> 4 << 6);
        }
}

bool mg_ref_q6_k_scales(const float *scales, mg_blk_q6_k *b, float *D) {
    float max = mg_ref_signed_max(scales, 16);
    if (fabsf(max) < MG_REF_EPS) {
        memset(b, 0, sizeof *b);
        return false;
    }
    float inv = -128.0f / max, d = mg_put_f16(b->d, 1.0f / inv);
    for (int j = 0; j < 16; j++) {
        int32_t s = mg_ref_round(inv * scales[j]);
        b->scales[j] = (int8_t)(s < 127 ? s : 127);
        D[j] = d * (float)b->scales[j];
    }
    return true;
}

/* Importance weights enter QX as they are, without the sigma term of the other types. */
static void q6_k_block(const float *x, const float *qw, mg_blk_q6_k *b) {
    uint8_t code[MG_SUPER];
    float scales[16], D[16];
    for (int j = 0; j < 16; j++) scales[j] = mg_ref_qx(16, 32, x + 16 * j, qw ? qw + 16 * j : NULL, code + 16 * j);
    if (!mg_ref_q6_k_scales(scales, b, D)) return;
    for (int j = 0; j < 16; j++) requantize(x + 16 * j, D[j], 32, code + 16 * j);
    mg_ref_q6_k_pack(code, b);
}

mg_status mg_ref_q6_k_encode(const float *x, const float *weights, uint64_t n, void *out, mg_error *err) {
    MG_TRY(mg_ref_check(MG_Q6_K, x, weights, n, err));
    mg_blk_q6_k *b = out;
    for (uint64_t i = 0; i < n; i += MG_SUPER) q6_k_block(x + i, weights ? weights + i : NULL, b++);
    return MG_OK;
}

void mg_ref_q6_k_decode(const void *in, uint64_t n, float *out) {
    const mg_blk_q6_k *b = in;
    for (; n; n -= MG_SUPER, b++) {
        float d = mg_get_f16(b->d);
        for (int g = 0; g < 8; g++, out += 32) { /* quarter k of half h */
            int h = g / 4, k = g % 4;
            const uint8_t *ql = b->ql + 64 * h + 32 * (k % 2), *qh = b->qh + 32 * h;
            float scale[2] = {d * (float)b->scales[2 * g], d * (float)b->scales[2 * g + 1]};
            for (int l = 0; l < 32; l++) {
                int q = ((ql[l] >> (k / 2 * 4) & 15) | (qh[l] >> (2 * k) & 3) << 4) - 32;
                out[l] = scale[l / 16] * (float)q;
            }
        }
    }
}
