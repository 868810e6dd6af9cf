/* ref_ternary.c - the smallest codes, without search and without importance weights: Q1_0, Q2_0, TQ1_0, TQ2_0. */
#include "quant/block_layout.h"
#include "quant/ref/ref.h"
#include "quant/ref/ref_search.h"

static float abs_max(const float *x, int n) {
    return fabsf(mg_ref_signed_max(x, n));
}

/* Q1_0, 18 bytes for 128: | d f16 | qs 16 |       x = code ? d : -d
 * qs[i / 8] bit i % 8 = x_i >= 0; d = mean of |x|. */
mg_status mg_ref_q1_0_encode(const float *x, const float *weights, uint64_t n, void *out, mg_error *err) {
    MG_TRY(mg_ref_check(MG_Q1_0, x, weights, n, err));
    mg_blk_q1_0 *b = out;
    for (; n; n -= 128, x += 128, b++) {
        float sum = 0.0f;
        memset(b->qs, 0, sizeof b->qs);
        for (int i = 0; i < 128; i++) {
            sum += fabsf(x[i]);
            b->qs[i / 8] |= (uint8_t)((x[i] >= 0.0f) << (i % 8));
        }
        mg_put_f16(b->d, sum / 128.0f);
    }
    return MG_OK;
}

void mg_ref_q1_0_decode(const void *in, uint64_t n, float *out) {
    const mg_blk_q1_0 *b = in;
    for (; n; n -= 128, out += 128, b++) {
        float d = mg_get_f16(b->d);
        for (int i = 0; i < 128; i++) out[i] = b->qs[i / 8] >> (i % 8) & 1 ? d : -d;
    }
}

/* Q2_0, 18 bytes for 64: | d f16 | qs 16 |       x = d (code - 1), code 0..3
 * qs[i / 4]   code_i at bit 2 (i % 4);  d = amax, so code 3 (value 2 d) is never made. */
mg_status mg_ref_q2_0_encode(const float *x, const float *weights, uint64_t n, void *out, mg_error *err) {
    MG_TRY(mg_ref_check(MG_Q2_0, x, weights, n, err));
    mg_blk_q2_0 *b = out;
    for (; n; n -= 64, x += 64, b++) {
        float d = abs_max(x, 64), id = mg_ref_inverse(d);
        mg_put_f16(b->d, d);
        memset(b->qs, 0, sizeof b->qs);
        for (int i = 0; i < 64; i++) {
            int q = mg_ref_clamp(mg_ref_trunc(roundf(x[i] * id)) + 1, 0, 3);
            b->qs[i / 4] |= (uint8_t)(q << (i % 4 * 2));
        }
    }
    return MG_OK;
}

void mg_ref_q2_0_decode(const void *in, uint64_t n, float *out) {
    const mg_blk_q2_0 *b = in;
    for (; n; n -= 64, out += 64, b++) {
        float d = mg_get_f16(b->d);
        for (int i = 0; i < 64; i++) out[i] = (float)((b->qs[i / 4] >> (i % 4 * 2) & 3) - 1) * d;
    }
}

/* round(x/d) + 1 with d = amax, half away from zero: 0, 1 or 2. An overflowing quotient counts as 0. */
static int trit(float x, float id) {
    float v = roundf(x * id);
    return v >= -1.0f && v <= 1.0f ? (int)v + 1 : 1;
}

/* TQ1_0, 54 bytes for 256: | qs 48 | qh 4 | d f16 |       x = d (trit - 1)
 * Trits in base 3, the first the most significant, five to a byte; the byte holds ceil(value 256/243), so that trit n
 * is (byte 3^n mod 256) 3 >> 8. qs[m]        m < 32    elements m + 32 n         n = 0..4 qs[32 + m]   m < 16 elements
 * 160 + m + 16 n   n = 0..4 qh[j]        j < 4     elements 240 + j + 4 n    n = 0..3, then a fifth digit 0 */
static uint8_t tq1_byte(const float *x, float id, int stride, int count) {
    int value = 0;
    for (int n = 0; n < 5; n++) value = 3 * value + (n < count ? trit(x[n * stride], id) : 0);
    return (uint8_t)((value * 256 + 242) / 243);
}

mg_status mg_ref_tq1_0_encode(const float *x, const float *weights, uint64_t n, void *out, mg_error *err) {
    MG_TRY(mg_ref_check(MG_TQ1_0, x, weights, n, err));
    mg_blk_tq1_0 *b = out;
    for (; n; n -= MG_SUPER, x += MG_SUPER, b++) {
        float d = abs_max(x, MG_SUPER), id = mg_ref_inverse(d);
        for (int m = 0; m < 32; m++) b->qs[m] = tq1_byte(x + m, id, 32, 5);
        for (int m = 0; m < 16; m++) b->qs[32 + m] = tq1_byte(x + 160 + m, id, 16, 5);
        for (int j = 0; j < 4; j++) b->qh[j] = tq1_byte(x + 240 + j, id, 4, 4);
        mg_put_f16(b->d, d);
    }
    return MG_OK;
}

static void tq1_unpack(uint8_t byte, float d, int stride, int count, float *out) {
    for (int n = 0; n < count; n++, byte = (uint8_t)(byte * 3)) out[n * stride] = (float)((byte * 3 >> 8) - 1) * d;
}

void mg_ref_tq1_0_decode(const void *in, uint64_t n, float *out) {
    const mg_blk_tq1_0 *b = in;
    for (; n; n -= MG_SUPER, out += MG_SUPER, b++) {
        float d = mg_get_f16(b->d);
        for (int m = 0; m < 32; m++) tq1_unpack(b->qs[m], d, 32, 5, out + m);
        for (int m = 0; m < 16; m++) tq1_unpack(b->qs[32 + m], d, 16, 5, out + 160 + m);
        for (int j = 0; j < 4; j++) tq1_unpack(b->qh[j], d, 4, 4, out + 240 + j);
    }
}

/* TQ2_0, 66 bytes for 256: | qs 64 | d f16 |       x = d (trit - 1)
 * qs[32 h + m]   trit of element m + 32 n of half h at bit 2 n, m < 32, n < 4 */
mg_status mg_ref_tq2_0_encode(const float *x, const float *weights, uint64_t n, void *out, mg_error *err) {
    MG_TRY(mg_ref_check(MG_TQ2_0, x, weights, n, err));
    mg_blk_tq2_0 *b = out;
    for (; n; n -= MG_SUPER, x += MG_SUPER, b++) {
        float d = abs_max(x, MG_SUPER), id = mg_ref_inverse(d);
        memset(b->qs, 0, sizeof b->qs);
        for (int i = 0; i < MG_SUPER; i++)
            b->qs[32 * (i / 128) + i % 32] |= (uint8_t)(trit(x[i], id) << (i / 32 % 4 * 2));
        mg_put_f16(b->d, d);
    }
    return MG_OK;
}

void mg_ref_tq2_0_decode(const void *in, uint64_t n, float *out) {
    const mg_blk_tq2_0 *b = in;
    for (; n; n -= MG_SUPER, out += MG_SUPER, b++) {
        float d = mg_get_f16(b->d);
        for (int i = 0; i < MG_SUPER; i++)
            out[i] = (float)((b->qs[32 * (i / 128) + i % 32] >> (i / 32 % 4 * 2) & 3) - 1) * d;
    }
}
