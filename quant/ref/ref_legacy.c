/* ref_legacy.c - the 32-element blocks: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
 *
 * With importance weights qw the first four minimise a weighted error, w = qw sqrt(sigma2 + x^2), where sigma2 = mean
 * of x^2 over the WHOLE ROW: the row is the unit of encoding here, not the block. */
#include "quant/block_layout.h"
#include "quant/ref/ref.h"
#include "quant/ref/ref_search.h"

enum { QK = 32 };

static const mg_qkx_search search_q4_1 = {.N = 15, .rmin = -0.9f, .rdelta = 0.05f, .steps = 36};
static const mg_qkx_search search_q5_1 = {.N = 31, .rmin = -0.9f, .rdelta = 0.05f, .steps = 36};

static float row_sigma2(const float *x, uint64_t n) {
    float sum = 0.0f;
    for (uint64_t i = 0; i < n; i++) sum += x[i] * x[i];
    return sum / (float)n;
}

static void min_max(const float *x, float *lo, float *hi) {
    *lo = *hi = x[0];
    for (int i = 1; i < QK; i++) {
        if (x[i] < *lo) *lo = x[i];
        if (x[i] > *hi) *hi = x[i];
    }
}

/* Nibbles of all four types:      qs[j]   7..4      3..0
 *                                       code[j+16] code[j]      j = 0..15 */
static void pack_nibbles(const uint8_t *code, uint8_t *qs) {
    for (int j = 0; j < 16; j++) qs[j] = (uint8_t)((code[j] & 15) | (code[j + 16] & 15) << 4);
}

static uint32_t pack_fifth_bits(const uint8_t *code) {
    uint32_t qh = 0;
    for (int j = 0; j < QK; j++) qh |= (uint32_t)(code[j] >> 4 & 1) << j;
    return qh;
}

/* Q4_0, 18 bytes: | d f16 | qs 16 |       x = d (code - 8)
 * d = max/-8 with max the signed value of largest magnitude, so that max itself is code 0. */
static void q4_0_plain(const float *x, mg_blk_q4_0 *b) {
    uint8_t code[QK];
    float d = mg_ref_signed_max(x, QK) / -8.0f, id = mg_ref_inverse(d);
    mg_put_f16(b->d, d);
    for (int j = 0; j < QK; j++) {
        int8_t c = (int8_t)mg_ref_trunc(x[j] * id + 8.5f);
        code[j] = (uint8_t)(c < 15 ? c : 15);
    }
    pack_nibbles(code, b->qs);
}

mg_status mg_ref_q4_0_encode(const float *x, const float *weights, uint64_t n, void *out, mg_error *err) {
    MG_TRY(mg_ref_check(MG_Q4_0, x, weights, n, err));
    mg_blk_q4_0 *b = out;
    float sigma2 = weights ? row_sigma2(x, n) : 0.0f, w[QK];
    uint8_t code[QK];
    for (uint64_t i = 0; i < n; i += QK, b++) {
        if (!weights) {
            q4_0_plain(x + i, b);
            continue;
        }
        mg_ref_weights(x + i, weights + i, QK, sigma2, w);
        mg_put_f16(b->d, mg_ref_qx(QK, 8, x + i, w, code));
        pack_nibbles(code, b->qs);
    }
    return MG_OK;
}

void mg_ref_q4_0_decode(const void *in, uint64_t n, float *out) {
    const mg_blk_q4_0 *b = in;
    for (uint64_t i = 0; i < n; i += QK, b++) {
        float d = mg_get_f16(b->d);
        for (int j = 0; j < 16; j++) {
            out[i + (uint64_t)j] = (float)((b->qs[j] & 15) - 8) * d;
            out[i + (uint64_t)j + 16] = (float)((b->qs[j] >> 4) - 8) * d;
        }
    }
}

/* Q4_1, 20 bytes: | d f16 | m f16 | qs 16 |       x = d code + m */
static void q4_1_plain(const float *x, mg_blk_q4_1 *b) {
    uint8_t code[QK];
    float lo, hi;
    min_max(x, &lo, &hi);
    float d = (hi - lo) / 15.0f, id = mg_ref_inverse(d);
    mg_put_f16(b->d, d);
    mg_put_f16(b->m, lo);
    for (int j = 0; j < QK; j++) {
        int8_t c = (int8_t)mg_ref_trunc((x[j] - lo) * id + 0.5f);
        code[j] = (uint8_t)(c < 15 ? c : 15);
    }
    pack_nibbles(code, b->qs);
}

mg_status mg_ref_q4_1_encode(const float *x, const float *weights, uint64_t n, void *out, mg_error *err) {
    MG_TRY(mg_ref_check(MG_Q4_1, x, weights, n, err));
    mg_blk_q4_1 *b = out;
    float sigma2 = weights ? row_sigma2(x, n) : 0.0f, w[QK], minimum;
    uint8_t code[QK];
    for (uint64_t i = 0; i < n; i += QK, b++) {
        if (!weights) {
            q4_1_plain(x + i, b);
            continue;
        }
        mg_ref_weights(x + i, weights + i, QK, sigma2, w);
        mg_put_f16(b->d, mg_ref_qkx(&search_q4_1, QK, x + i, w, code, &minimum));
        mg_put_f16(b->m, -minimum);
        pack_nibbles(code, b->qs);
    }
    return MG_OK;
}

void mg_ref_q4_1_decode(const void *in, uint64_t n, float *out) {
    const mg_blk_q4_1 *b = in;
    for (uint64_t i = 0; i < n; i += QK, b++) {
        float d = mg_get_f16(b->d), m = mg_get_f16(b->m);
        for (int j = 0; j < 16; j++) {
            out[i + (uint64_t)j] = (float)(b->qs[j] & 15) * d + m;
            out[i + (uint64_t)j + 16] = (float)(b->qs[j] >> 4) * d + m;
        }
    }
}

/* Q5_0, 22 bytes: | d f16 | qh u32 | qs 16 |       x = d (code - 16)
 * code[j] = (bit j of qh) << 4 | nibble j. d = max/-16. */
static void q5_0_plain(const float *x, mg_blk_q5_0 *b) {
    uint8_t code[QK];
    float d = mg_ref_signed_max(x, QK) / -16.0f, id = mg_ref_inverse(d);
    mg_put_f16(b->d, d);
    for (int j = 0; j < QK; j++) {
        int8_t c = (int8_t)mg_ref_trunc(x[j] * id + 16.5f);
        code[j] = (uint8_t)(c < 31 ? c : 31);
    }
    mg_put32(b->qh, pack_fifth_bits(code));
    pack_nibbles(code, b->qs);
}

mg_status mg_ref_q5_0_encode(const float *x, const float *weights, uint64_t n, void *out, mg_error *err) {
    MG_TRY(mg_ref_check(MG_Q5_0, x, weights, n, err));
    mg_blk_q5_0 *b = out;
    float sigma2 = weights ? row_sigma2(x, n) : 0.0f, w[QK];
    uint8_t code[QK];
    for (uint64_t i = 0; i < n; i += QK, b++) {
        if (!weights) {
            q5_0_plain(x + i, b);
            continue;
        }
        mg_ref_weights(x + i, weights + i, QK, sigma2, w);
        mg_put_f16(b->d, mg_ref_qx(QK, 16, x + i, w, code));
        mg_put32(b->qh, pack_fifth_bits(code));
        pack_nibbles(code, b->qs);
    }
    return MG_OK;
}

void mg_ref_q5_0_decode(const void *in, uint64_t n, float *out) {
    const mg_blk_q5_0 *b = in;
    for (uint64_t i = 0; i < n; i += QK, b++) {
        float d = mg_get_f16(b->d);
        uint32_t qh = mg_get32(b->qh);
        for (uint32_t j = 0; j < 16; j++) {
            uint32_t lo = (b->qs[j] & 15u) | (qh >> j & 1u) << 4, hi = (uint32_t)b->qs[j] >> 4 | (qh >> (j + 16) & 1u)
                                                                                                     << 4;
            out[i + j] = (float)((int)lo - 16) * d;
            out[i + j + 16] = (float)((int)hi - 16) * d;
        }
    }
}

/* Q5_1, 24 bytes: | d f16 | m f16 | qh u32 | qs 16 |       x = d code + m
 * The plain code is not clamped to 31: rounding cannot pass it, and out of range only the low five bits are kept. */
static void q5_1_plain(const float *x, mg_blk_q5_1 *b) {
    uint8_t code[QK];
    float lo, hi;
    min_max(x, &lo, &hi);
    float d = (hi - lo) / 31.0f, id = mg_ref_inverse(d);
    mg_put_f16(b->d, d);
    mg_put_f16(b->m, lo);
    for (int j = 0; j < QK; j++) code[j] = (uint8_t)mg_ref_trunc((x[j] - lo) * id + 0.5f);
    mg_put32(b->qh, pack_fifth_bits(code));
    pack_nibbles(code, b->qs);
}

mg_status mg_ref_q5_1_encode(const float *x, const float *weights, uint64_t n, void *out, mg_error *err) {
    MG_TRY(mg_ref_check(MG_Q5_1, x, weights, n, err));
    mg_blk_q5_1 *b = out;
    float sigma2 = weights ? row_sigma2(x, n) : 0.0f, w[QK], minimum;
    uint8_t code[QK];
    for (uint64_t i = 0; i < n; i += QK, b++) {
        if (!weights) {
            q5_1_plain(x + i, b);
            continue;
        }
        mg_ref_weights(x + i, weights + i, QK, sigma2, w);
        mg_put_f16(b->d, mg_ref_qkx(&search_q5_1, QK, x + i, w, code, &minimum));
        mg_put_f16(b->m, -minimum);
        mg_put32(b->qh, pack_fifth_bits(code));
        pack_nibbles(code, b->qs);
    }
    return MG_OK;
}

void mg_ref_q5_1_decode(const void *in, uint64_t n, float *out) {
    const mg_blk_q5_1 *b = in;
    for (uint64_t i = 0; i < n; i += QK, b++) {
        float d = mg_get_f16(b->d), m = mg_get_f16(b->m);
        uint32_t qh = mg_get32(b->qh);
        for (uint32_t j = 0; j < 16; j++) {
            uint32_t lo = (b->qs[j] & 15u) | (qh >> j & 1u) << 4, hi = (uint32_t)b->qs[j] >> 4 | (qh >> (j + 16) & 1u)
                                                                                                     << 4;
            out[i + j] = (float)lo * d + m;
            out[i + j + 16] = (float)hi * d + m;
        }
    }
}

/* Q8_0, 34 bytes: | d f16 | qs int8[32] |       x = d q
 * d = amax/127, q = x/d rounded half away from zero, with the unrounded d. */
mg_status mg_ref_q8_0_encode(const float *x, const float *weights, uint64_t n, void *out, mg_error *err) {
    MG_TRY(mg_ref_check(MG_Q8_0, x, weights, n, err));
    mg_blk_q8_0 *b = out;
    for (uint64_t i = 0; i < n; i += QK, b++) {
        float amax = 0.0f;
        for (uint64_t j = 0; j < QK; j++) amax = fabsf(x[i + j]) > amax ? fabsf(x[i + j]) : amax;
        float d = amax / 127.0f, id = mg_ref_inverse(d);
        mg_put_f16(b->d, d);
        for (uint64_t j = 0; j < QK; j++) b->qs[j] = (int8_t)mg_ref_trunc(roundf(x[i + j] * id));
    }
    return MG_OK;
}

void mg_ref_q8_0_decode(const void *in, uint64_t n, float *out) {
    const mg_blk_q8_0 *b = in;
    for (uint64_t i = 0; i < n; i += QK, b++) {
        float d = mg_get_f16(b->d);
        for (uint64_t j = 0; j < QK; j++) out[i + j] = (float)b->qs[j] * d;
    }
}
