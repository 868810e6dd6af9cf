/* legacy_avx2.c - F16, Q8_0 and Q4_0 without weights, eight elements at a time. Nothing here sums, so order is no
 * question. */
#include "quant/codec_twins.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>

#include "quant/block_layout.h"
#include "quant/ref/ref.h"
#include "quant/ref/ref_search.h"
#include "quant/x86/codec_avx2.inc"
#include "quant/x86/qx_avx2.inc"

static mg_status f16_encode(const float *x, const float *weights, uint64_t n, void *out, mg_error *err) {
    MG_TRY(mg_ref_check(MG_F16, x, weights, n, err));
    uint8_t *o = out;
    uint64_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(void *)(o + 2 * i), _mm256_cvtps_ph(vf_load(x + i), _MM_FROUND_TO_NEAREST_INT));
    for (; i < n; i++) mg_put16(o + 2 * i, mg_f32_to_f16(x[i]));
    return MG_OK;
}

/* The conversion instruction would set the quiet bit of a signalling NaN; the scalar function keeps it. */
static void f16_decode(const void *in, uint64_t n, float *out) {
    const uint8_t *p = in;
    uint64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        VF v = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p + 2 * i)));
        if (_mm256_movemask_ps(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)))
            for (uint64_t j = i; j < i + 8; j++) out[j] = mg_get_f16(p + 2 * j);
        else
            _mm256_storeu_ps(out + i, v);
    }
    for (; i < n; i++) out[i] = mg_get_f16(p + 2 * i);
}

static float largest(VF v) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

/* Half away from zero: round to even, and one more where exactly a half was dropped. |v| < 2^22. */
static __m256i round_away(VF v) {
    VF a = vf_abs(v), r = vf_round(a);
    VF half = _mm256_cmp_ps(_mm256_sub_ps(a, r), _mm256_set1_ps(0.5f), _CMP_EQ_OQ);
    r = _mm256_add_ps(r, _mm256_and_ps(half, _mm256_set1_ps(1.0f)));
    return _mm256_cvttps_epi32(_mm256_or_ps(r, _mm256_and_ps(v, _mm256_set1_ps(-0.0f))));
}

static mg_status q8_0_encode(const float *x, const float *weights, uint64_t n, void *out, mg_error *err) {
    MG_TRY(mg_ref_check(MG_Q8_0, x, weights, n, err));
    mg_blk_q8_0 *b = out;
    for (; n; n -= 32, x += 32, b++) {
        VF v[4] = {vf_load(x), vf_load(x + 8), vf_load(x + 16), vf_load(x + 24)};
        float amax = largest(
            _mm256_max_ps(_mm256_max_ps(vf_abs(v[0]), vf_abs(v[1])), _mm256_max_ps(vf_abs(v[2]), vf_abs(v[3]))));
        float d = amax / 127.0f, id = mg_ref_inverse(d);
        if (!isfinite(id)) { /* d is subnormal: codes are whatever the conversion of infinity gives */
            MG_TRY(mg_ref_q8_0_encode(x, NULL, 32, b, err));
            continue;
        }
        VF s = _mm256_set1_ps(id);
        __m256i q[4];
        mg_put_f16(b->d, d);
        for (int k = 0; k < 4; k++) q[k] = round_away(_mm256_mul_ps(v[k], s));
        __m256i w = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
        w = _mm256_permutevar8x32_epi32(w, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        _mm256_storeu_si256((__m256i *)(void *)b->qs, w);
    }
    return MG_OK;
}

static void q8_0_decode(const void *in, uint64_t n, float *out) {
    const mg_blk_q8_0 *b = in;
    for (; n; n -= 32, out += 32, b++) {
        VF d = _mm256_set1_ps(mg_get_f16(b->d));
        for (int k = 0; k < 32; k += 8) {
            __m128i q = _mm_loadl_epi64((const __m128i *)(const void *)(b->qs + k));
            _mm256_storeu_ps(out + k, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q)), d));
        }
    }
}

/* Codes of 16 elements as bytes: min(15, trunc(x id + 8.5)), which lies in 0..16 before the minimum. */
static __m128i q4_0_codes(VF a, VF b, VF id) {
    const VF half = _mm256_set1_ps(8.5f);
    __m256i p = _mm256_cvttps_epi32(_mm256_add_ps(_mm256_mul_ps(a, id), half));
    __m256i q = _mm256_cvttps_epi32(_mm256_add_ps(_mm256_mul_ps(b, id), half));
    return _mm_min_epi8(vi_bytes16(p, q), _mm_set1_epi8(15));
}

/* Codes 0..2N-1 of 32 elements from the accepted inverse scale; 0 for a zero block. */
static __m256i qx_codes(const float *x, int N, float s) {
    if (s == 0.0f) return _mm256_setzero_si256();
    __m256i q[4], off = _mm256_set1_epi32(N);
    for (int k = 0; k < 4; k++) {
        q[k] = _mm256_cvtps_epi32(vf_round(_mm256_mul_ps(_mm256_set1_ps(s), vf_load(x + 8 * k))));
        q[k] = _mm256_add_epi32(vi_clamp(q[k], -N, N - 1), off);
    }
    return _mm256_setr_m128i(vi_bytes16(q[0], q[1]), vi_bytes16(q[2], q[3]));
}

static __m128i nibbles(__m256i code) {
    __m256i low = _mm256_and_si256(code, _mm256_set1_epi8(15));
    return _mm_or_si128(_mm256_castsi256_si128(low), _mm_slli_epi16(_mm256_extracti128_si256(low, 1), 4));
}

/* Search of the next up to 32 blocks of a row with the row's sigma2; returns how many. N is a constant at both calls.
 */
static inline __attribute__((always_inline)) int qx_blocks(const int N, const float *x, const float *qw, uint64_t n,
                                                           float row_sigma2, lanes *b) {
    static const float zeros[MAX_LANES * 32];
    float xpad[MAX_LANES * 32], wpad[MAX_LANES * 32], sigma2[MAX_V] = {row_sigma2, row_sigma2, row_sigma2, row_sigma2};
    if (n >= MAX_LANES * 32) {
        qx_load(x, qw, sigma2, 32, MAX_V, b);
        qx(32, MAX_V, N, b);
        return MAX_LANES;
    }
    memcpy(xpad, zeros, sizeof xpad);
    memcpy(wpad, zeros, sizeof wpad);
    memcpy(xpad, x, n * sizeof *x);
    memcpy(wpad, qw, n * sizeof *qw);
    if (n > 16 * 32) {
        qx_load(xpad, wpad, sigma2, 32, MAX_V, b);
        qx(32, MAX_V, N, b);
    } else {
        qx_load(xpad, wpad, sigma2, 32, 2, b);
        qx(32, 2, N, b);
    }
    return (int)(n / 32);
}

static float row_sigma2(const float *x, uint64_t n) {
    float sum = 0.0f;
    for (uint64_t i = 0; i < n; i++) sum += x[i] * x[i];
    return sum / (float)n;
}

static mg_status q4_0_weighted(const float *x, const float *qw, uint64_t n, void *out, mg_error *err) {
    MG_TRY(mg_ref_check(MG_Q4_0, x, qw, n, err));
    mg_blk_q4_0 *blk = out;
    float sigma2 = row_sigma2(x, n);
    lanes b;
    while (n) {
        int count = qx_blocks(8, x, qw, n, sigma2, &b);
        for (int k = 0; k < count; k++, blk++) {
            mg_put_f16(blk->d, b.scale[k]);
            _mm_storeu_si128((__m128i *)(void *)blk->qs, nibbles(qx_codes(x + 32 * k, 8, b.s[k])));
        }
        x += 32 * count;
        qw += 32 * count;
        n -= 32 * (uint64_t)count;
    }
    return MG_OK;
}

static mg_status q5_0_encode(const float *x, const float *qw, uint64_t n, void *out, mg_error *err) {
    if (!qw) return mg_ref_q5_0_encode(x, qw, n, out, err);
    MG_TRY(mg_ref_check(MG_Q5_0, x, qw, n, err));
    mg_blk_q5_0 *blk = out;
    float sigma2 = row_sigma2(x, n);
    lanes b;
    while (n) {
        int count = qx_blocks(16, x, qw, n, sigma2, &b);
        for (int k = 0; k < count; k++, blk++) {
            __m256i code = qx_codes(x + 32 * k, 16, b.s[k]);
            mg_put_f16(blk->d, b.scale[k]);
            mg_put32(blk->qh, (uint32_t)_mm256_movemask_epi8(_mm256_slli_epi16(code, 3))); /* bit 4 of each byte */
            _mm_storeu_si128((__m128i *)(void *)blk->qs, nibbles(code));
        }
        x += 32 * count;
        qw += 32 * count;
        n -= 32 * (uint64_t)count;
    }
    return MG_OK;
}

static mg_status q4_0_encode(const float *x, const float *weights, uint64_t n, void *out, mg_error *err) {
    if (weights) return q4_0_weighted(x, weights, n, out, err);
    MG_TRY(mg_ref_check(MG_Q4_0, x, weights, n, err));
    mg_blk_q4_0 *b = out;
    for (; n; n -= 32, x += 32, b++) {
        VF v[4] = {vf_load(x), vf_load(x + 8), vf_load(x + 16), vf_load(x + 24)};
        float hi = largest(_mm256_max_ps(_mm256_max_ps(v[0], v[1]), _mm256_max_ps(v[2], v[3])));
        VF least = _mm256_min_ps(_mm256_min_ps(v[0], v[1]), _mm256_min_ps(v[2], v[3]));
        float lo = largest(_mm256_xor_ps(least, _mm256_set1_ps(-0.0f)));     /* -minimum */
        float max = hi > lo ? hi : lo > hi ? -lo : mg_ref_signed_max(x, 32); /* equal: the first one decides the sign */
        float d = max / -8.0f, id = mg_ref_inverse(d);
        if (!isfinite(id)) {
            MG_TRY(mg_ref_q4_0_encode(x, NULL, 32, b, err));
            continue;
        }
        mg_put_f16(b->d, d);
        VF s = _mm256_set1_ps(id);
        __m128i low = q4_0_codes(v[0], v[1], s), high = q4_0_codes(v[2], v[3], s);
        _mm_storeu_si128((__m128i *)(void *)b->qs, _mm_or_si128(low, _mm_slli_epi16(high, 4)));
    }
    return MG_OK;
}

void mg_codecs_fill_avx2_legacy(mg_codec *table) {
    table[MG_F16].encode = f16_encode;
    table[MG_F16].decode = f16_decode;
    table[MG_Q8_0].encode = q8_0_encode;
    table[MG_Q8_0].decode = q8_0_decode;
    table[MG_Q4_0].encode = q4_0_encode;
    table[MG_Q5_0].encode = q5_0_encode;
}

#else
void mg_codecs_fill_avx2_legacy(mg_codec *table) {
    (void)table;
}
#endif
