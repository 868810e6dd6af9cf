/* ksigned_avx2.c - Q6_K: the encoder with one sub-block of 16 in each of eight lanes, up to four vectors in step; the
 * decoder.
 *
 * QX has no running state but the best score, so every lane runs its sub-block through the 19 candidates in the scalar
 * order. R needs no guard: |s x| <= 32.9 since |x| <= |max| and max is at least 1e-15. */
#include "quant/codec_twins.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>

#include "quant/ref/ref.h"
#include "quant/ref/ref_kparts.h"
#include "quant/x86/codec_avx2.inc"

enum { MAX_V = 4, MAX_LANES = 8 * MAX_V, SUB = 16 };

typedef struct lanes {
    float x[SUB * MAX_LANES], w[SUB * MAX_LANES]; /* [element][lane] */
    float scale[MAX_LANES];
    float s[MAX_LANES]; /* code = clamp(R(s x), -N, N - 1) + N; 0 for zero sub-blocks, whose code is 0 */
} lanes;

#define EACH_V _Pragma("GCC unroll 4") for (int v = 0; v < nv; v++)

static inline __attribute__((always_inline)) void qx(const int nv, const int N, lanes *b) {
    const size_t L = 8 * (size_t)nv;
    const VF zero = _mm256_setzero_ps(), one = _mm256_set1_ps(1.0f);
    const VF low = _mm256_set1_ps((float)-N), high = _mm256_set1_ps((float)(N - 1));
    VF amax[MAX_V], max[MAX_V], live[MAX_V], scale[MAX_V], best[MAX_V], s_acc[MAX_V];
    EACH_V amax[v] = max[v] = zero;
    for (int i = 0; i < SUB; i++) {
        EACH_V {
            VF x = vf_load(b->x + (size_t)i * L + 8 * v), a = vf_abs(x), more = _mm256_cmp_ps(a, amax[v], _CMP_GT_OQ);
            amax[v] = _mm256_blendv_ps(amax[v], a, more);
            max[v] = _mm256_blendv_ps(max[v], x, more);
        }
    }
    EACH_V {
        live[v] = _mm256_cmp_ps(amax[v], _mm256_set1_ps(MG_REF_EPS), _CMP_GE_OQ);
        max[v] = _mm256_blendv_ps(one, max[v], live[v]);
        scale[v] = best[v] = s_acc[v] = zero;
    }
    for (int c = 0; c < 20; c++) {
        int i = c - 10; /* c = 0: the start; then -9 .. 9 */
        if (c > 0 && i == 0) continue;
        const VF top = _mm256_set1_ps(c == 0 ? -(float)N : -((float)N + 0.1f * (float)i));
        VF s[MAX_V], A[MAX_V], B[MAX_V];
        EACH_V {
            s[v] = _mm256_div_ps(top, max[v]);
            A[v] = B[v] = zero;
        }
        for (int k = 0; k < SUB; k++) {
            EACH_V {
                VF x = vf_load(b->x + (size_t)k * L + 8 * v), w = vf_load(b->w + (size_t)k * L + 8 * v);
                VF l = _mm256_min_ps(_mm256_max_ps(vf_round(_mm256_mul_ps(s[v], x)), low), high);
                A[v] = _mm256_add_ps(A[v], _mm256_mul_ps(_mm256_mul_ps(w, x), l));
                B[v] = _mm256_add_ps(B[v], _mm256_mul_ps(_mm256_mul_ps(w, l), l));
            }
        }
        EACH_V {
            VF take;
            if (c == 0) {
                take = _mm256_cmp_ps(B[v], zero, _CMP_NEQ_UQ);
                s_acc[v] = s[v];
            } else {
                take =
                    _mm256_and_ps(_mm256_cmp_ps(B[v], zero, _CMP_GT_OQ),
                                  _mm256_cmp_ps(_mm256_mul_ps(A[v], A[v]), _mm256_mul_ps(best[v], B[v]), _CMP_GT_OQ));
                if (!_mm256_movemask_ps(take)) continue;
                s_acc[v] = _mm256_blendv_ps(s_acc[v], s[v], take);
            }
            scale[v] = _mm256_blendv_ps(scale[v], _mm256_div_ps(A[v], B[v]), take);
            /* at the start best = scale A even where B = 0 and scale = 0 */
            VF gain = _mm256_mul_ps(scale[v], A[v]);
            best[v] = c == 0 ? gain : _mm256_blendv_ps(best[v], gain, take);
        }
    }
    EACH_V {
        _mm256_storeu_ps(b->scale + 8 * v, _mm256_and_ps(scale[v], live[v]));
        _mm256_storeu_ps(b->s + 8 * v, _mm256_and_ps(s_acc[v], live[v]));
    }
}

static void search(const float *x, const float *qw, int nv, lanes *b) {
    size_t L = 8 * (size_t)nv;
    for (int v = 0; v < nv; v++) {
        vf_to_lanes(x + 8 * SUB * v, SUB, b->x + 8 * v, L);
        if (qw) vf_to_lanes(qw + 8 * SUB * v, SUB, b->w + 8 * v, L);
    }
    if (!qw)
        for (size_t i = 0; i < SUB * L; i += 8) {
            VF v = vf_load(b->x + i);
            _mm256_storeu_ps(b->w + i, _mm256_mul_ps(v, v));
        }
    if (nv == 4)
        qx(4, 32, b);
    else
        qx(2, 32, b);
}

/* Final codes of 16 elements with the stored scale D; those of the search when D = 0. */
static void final_codes(const float *x, float D, float s, uint8_t *code) {
    if (D == 0.0f) {
        for (int i = 0; i < SUB; i++)
            code[i] = (uint8_t)(s == 0.0f ? 0 : 32 + mg_ref_clamp(mg_ref_round(s * x[i]), -32, 31));
        return;
    }
    VF vd = _mm256_set1_ps(D);
    __m256i off = _mm256_set1_epi32(32);
    __m256i a = vi_clamp(vi_round_bits(_mm256_div_ps(vf_load(x), vd)), -32, 31);
    __m256i c = vi_clamp(vi_round_bits(_mm256_div_ps(vf_load(x + 8), vd)), -32, 31);
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
        search(x, qw, 2 * count, &b);
        for (int k = 0; k < count; k++, x += MG_SUPER, blk++) {
            if (!mg_ref_q6_k_scales(b.scale + 16 * k, blk, D)) continue;
            for (int j = 0; j < 16; j++) final_codes(x + SUB * j, D[j], b.s[16 * k + j], code + SUB * j);
            mg_ref_q6_k_pack(code, blk);
        }
        if (qw) qw += MG_SUPER * count;
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
    table[MG_Q6_K].encode = q6_k_encode;
    table[MG_Q6_K].decode = q6_k_decode;
}

#else
void mg_codecs_fill_avx2_ksigned(mg_codec *table) {
    (void)table;
}
#endif
