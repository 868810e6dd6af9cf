/* ksigned_avx2.c - Q6_K, and Q3_K with importance weights: encoders with one sub-block of 16 per lane; the Q6_K
 * decoder. */
#include "quant/codec_twins.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>

#include "quant/ref/ref.h"
#include "quant/ref/ref_kparts.h"
#include "quant/x86/codec_avx2.inc"
#include "quant/x86/qx_avx2.inc"

enum { SUB = 16 };

/* factor 2 mean of x^2 of `count` <= 2 super-blocks, repeated for the two vectors of each. */
static void super_sigma2(const float *x, int count, float *out) {
    for (int k = 0; k < count; k++)
        out[2 * k] = out[2 * k + 1] = 2.0f * mg_ref_sum_sq(x + MG_SUPER * k, MG_SUPER) / (float)MG_SUPER;
}

/* Final codes of 16 elements with the stored scale D; those of the search when D = 0. */
static void final_codes(const float *x, int N, float D, float s, uint8_t *code) {
    if (D == 0.0f) {
        for (int i = 0; i < SUB; i++)
            code[i] = (uint8_t)(s == 0.0f ? 0 : N + mg_ref_clamp(mg_ref_round(s * x[i]), -N, N - 1));
        return;
    }
    VF vd = _mm256_set1_ps(D);
    __m256i off = _mm256_set1_epi32(N);
    __m256i a = vi_clamp(vi_round_bits(_mm256_div_ps(vf_load(x), vd)), -N, N - 1);
    __m256i c = vi_clamp(vi_round_bits(_mm256_div_ps(vf_load(x + 8), vd)), -N, N - 1);
    _mm_storeu_si128((__m128i *)(void *)code, vi_bytes16(_mm256_add_epi32(a, off), _mm256_add_epi32(c, off)));
}

static mg_status q6_k_encode(const float *x, const float *qw, uint64_t n, void *out, mg_error *err) {
    MG_TRY(mg_ref_check(MG_Q6_K, x, qw, n, err));
    mg_blk_q6_k *blk = out;
    lanes b;
    uint8_t code[MG_SUPER];
    float D[16];
    for (uint64_t left = n / MG_SUPER; left;) {
        int count = left >= 2 ? 2 : 1;
        qx_load(x, qw, NULL, SUB, 2 * count, &b);
        if (count == 2)
            qx(SUB, 4, 32, &b);
        else
            qx(SUB, 2, 32, &b);
        for (int k = 0; k < count; k++, x += MG_SUPER, blk++) {
            if (!mg_ref_q6_k_scales(b.scale + 16 * k, blk, D)) continue;
            for (int j = 0; j < 16; j++) final_codes(x + SUB * j, 32, D[j], b.s[16 * k + j], code + SUB * j);
            mg_ref_q6_k_pack(code, blk);
        }
        if (qw) qw += MG_SUPER * count;
        left -= (uint64_t)count;
    }
    return MG_OK;
}

/* With importance weights only: without them Q3_K is a serial descent (Q3), which stays scalar. */
static mg_status q3_k_encode(const float *x, const float *qw, uint64_t n, void *out, mg_error *err) {
    if (!qw) return mg_ref_q3_k_encode(x, qw, n, out, err);
    MG_TRY(mg_ref_check(MG_Q3_K, x, qw, n, err));
    mg_blk_q3_k *blk = out;
    lanes b;
    uint8_t code[MG_SUPER];
    float D[16], sigma2[4];
    for (uint64_t left = n / MG_SUPER; left;) {
        int count = left >= 2 ? 2 : 1;
        super_sigma2(x, count, sigma2);
        qx_load(x, qw, sigma2, SUB, 2 * count, &b);
        if (count == 2)
            qx(SUB, 4, 4, &b);
        else
            qx(SUB, 2, 4, &b);
        for (int k = 0; k < count; k++, x += MG_SUPER, blk++) {
            mg_ref_q3_k_scales(b.scale + 16 * k, b.sum_w + 16 * k, blk, D);
            for (int j = 0; j < 16; j++) final_codes(x + SUB * j, 4, D[j], b.s[16 * k + j], code + SUB * j);
            mg_ref_q3_k_pack(code, blk);
        }
        qw += MG_SUPER * count;
        left -= (uint64_t)count;
    }
    return MG_OK;
}

static inline __m256i bytes8(const uint8_t *p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
}

static void q6_k_decode(const void *in, uint64_t n, float *out) {
    const mg_blk_q6_k *b = in;
    const __m256i low4 = _mm256_set1_epi32(15), high2 = _mm256_set1_epi32(0x30), off = _mm256_set1_epi32(32);
    for (; n; n -= MG_SUPER, b++) {
        float d = mg_get_f16(b->d);
        for (int g = 0; g < 8; g++, out += 32) { /* quarter k of half h */
            int h = g / 4, k = g % 4;
            const uint8_t *ql = b->ql + 64 * h + 32 * (k % 2), *qh = b->qh + 32 * h;
            __m128i down = _mm_cvtsi32_si128(k / 2 * 4), up = _mm_cvtsi32_si128(2 * k);
            for (int l = 0; l < 32; l += 8) {
                __m256i low = _mm256_and_si256(_mm256_srl_epi32(bytes8(ql + l), down), low4);
                __m256i high = _mm256_srl_epi32(_mm256_slli_epi32(bytes8(qh + l), 4), up);
                __m256i q = _mm256_sub_epi32(_mm256_or_si256(low, _mm256_and_si256(high, high2)), off);
                VF scale = _mm256_set1_ps(d * (float)b->scales[2 * g + l / 16]);
                _mm256_storeu_ps(out + l, _mm256_mul_ps(scale, _mm256_cvtepi32_ps(q)));
            }
        }
    }
}

void mg_codecs_fill_avx2_ksigned(mg_codec *table) {
    table[MG_Q3_K].encode = q3_k_encode;
    table[MG_Q6_K].encode = q6_k_encode;
    table[MG_Q6_K].decode = q6_k_decode;
}

#else
void mg_codecs_fill_avx2_ksigned(mg_codec *table) {
    (void)table;
}
#endif
