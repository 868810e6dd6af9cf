/* kmin_avx2.c - Q2_K, Q4_K, Q5_K encoders, one sub-block in each of eight lanes; Q4_K and Q5_K decoders.
 *
 * The search QKX is serial over its candidates (each acceptance moves the minimum the next one starts from), but
 * sub-blocks do not know each other. So every lane runs one sub-block through the scalar operations in the scalar
 * order, and up to four vectors go in step, because the sums of one alone are latency chains. Codes stay floats and are
 * not kept: the final coding overwrites them, and the few sub-blocks where it does not (stored scale 0) are coded again
 * from the accepted inverse scale.
 *
 * R is the rounding instruction while its argument is small. When a lane's range or minimum leaves the limits below,
 * where that could fail, the batch is left to the scalar code. */
#include "quant/codec_twins.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>

#include "quant/ref/ref.h"
#include "quant/ref/ref_kparts.h"
#include "quant/x86/codec_avx2.inc"

enum { MAX_V = 4, MAX_LANES = 8 * MAX_V, MAX_N = 32 };

typedef struct lanes {
    float x[MAX_N * MAX_LANES], w[MAX_N * MAX_LANES]; /* [element][lane] */
    float scale[MAX_LANES], minimum[MAX_LANES], sum_w[MAX_LANES];
    float s[MAX_LANES], lo[MAX_LANES]; /* code = clamp(R(s (x - lo)), 0, N); s = 0 for sub-blocks without range */
} lanes;

#define EACH_V _Pragma("GCC unroll 4") for (int v = 0; v < nv; v++)

/* QKX on nv vectors; false when a lane left the domain of the rounding instruction. |s (x - lo)| stays below 33 * 256 *
 * 101 < 2^22. */
static inline __attribute__((always_inline)) bool qkx(const mg_qkx_search *p, const int n, const int nv, lanes *b) {
    const size_t L = 8 * (size_t)nv;
    const VF zero = _mm256_setzero_ps(), one = _mm256_set1_ps(1.0f), N = _mm256_set1_ps((float)p->N);
    VF lo[MAX_V], lo0[MAX_V], max[MAX_V], W[MAX_V], X[MAX_V], range[MAX_V], live[MAX_V], s[MAX_V], scale[MAX_V],
        best[MAX_V], s_acc[MAX_V], lo_acc[MAX_V];
    float codes[MAX_N * MAX_LANES];
    EACH_V {
        lo[v] = max[v] = vf_load(b->x + 8 * v);
        W[v] = vf_load(b->w + 8 * v);
        X[v] = _mm256_mul_ps(W[v], lo[v]);
    }
    for (int i = 1; i < n; i++) {
        EACH_V {
            VF x = vf_load(b->x + (size_t)i * L + 8 * v), w = vf_load(b->w + (size_t)i * L + 8 * v);
            lo[v] = _mm256_min_ps(x, lo[v]);
            max[v] = _mm256_max_ps(x, max[v]);
            W[v] = _mm256_add_ps(W[v], w);
            X[v] = _mm256_add_ps(X[v], _mm256_mul_ps(w, x));
        }
    }
    int bad = 0;
    EACH_V {
        lo[v] = _mm256_min_ps(zero, lo[v]);
        live[v] = _mm256_cmp_ps(max[v], lo[v], _CMP_GT_OQ);
        VF r = _mm256_sub_ps(max[v], lo[v]);
        VF ok = _mm256_and_ps(_mm256_cmp_ps(r, _mm256_set1_ps(1e-28f), _CMP_GE_OQ),
                              _mm256_cmp_ps(r, _mm256_set1_ps(1e28f), _CMP_LE_OQ));
        bad |= _mm256_movemask_ps(_mm256_andnot_ps(ok, live[v]));
        range[v] = _mm256_blendv_ps(one, r, live[v]);
        lo0[v] = lo_acc[v] = lo[v];
        s[v] = s_acc[v] = _mm256_div_ps(N, range[v]);
        scale[v] = _mm256_div_ps(one, s[v]);
        best[v] = zero;
    }
    if (bad) return false;
    for (int i = 0; i < n; i++) {
        EACH_V {
            VF x = vf_load(b->x + (size_t)i * L + 8 * v), w = vf_load(b->w + (size_t)i * L + 8 * v);
            VF l = vf_round(_mm256_mul_ps(s[v], _mm256_sub_ps(x, lo[v])));
            l = _mm256_min_ps(_mm256_max_ps(l, zero), N);
            VF diff = _mm256_sub_ps(_mm256_add_ps(_mm256_mul_ps(scale[v], l), lo[v]), x);
            diff = p->absolute ? vf_abs(diff) : _mm256_mul_ps(diff, diff);
            best[v] = _mm256_add_ps(best[v], _mm256_mul_ps(w, diff));
        }
    }
    for (int step = 0; step <= p->steps; step++) {
        const VF top = _mm256_set1_ps(p->rmin + p->rdelta * (float)step + (float)p->N);
        VF SL[MAX_V], SL2[MAX_V], SX[MAX_V], sc[MAX_V], mn[MAX_V], err[MAX_V], valid[MAX_V];
        EACH_V {
            s[v] = _mm256_div_ps(top, _mm256_blendv_ps(one, _mm256_sub_ps(max[v], lo[v]), live[v]));
            SL[v] = SL2[v] = SX[v] = err[v] = zero;
        }
        for (int i = 0; i < n; i++) {
            EACH_V {
                VF x = vf_load(b->x + (size_t)i * L + 8 * v);
                VF l = vf_round(_mm256_mul_ps(s[v], _mm256_sub_ps(x, lo[v])));
                l = _mm256_min_ps(_mm256_max_ps(l, zero), N);
                _mm256_storeu_ps(codes + (size_t)i * L + 8 * v, l);
                VF wl = _mm256_mul_ps(vf_load(b->w + (size_t)i * L + 8 * v), l);
                SL[v] = _mm256_add_ps(SL[v], wl);
                SL2[v] = _mm256_add_ps(SL2[v], _mm256_mul_ps(wl, l));
                SX[v] = _mm256_add_ps(SX[v], _mm256_mul_ps(wl, x));
            }
        }
        EACH_V {
            VF D = _mm256_sub_ps(_mm256_mul_ps(W[v], SL2[v]), _mm256_mul_ps(SL[v], SL[v]));
            valid[v] = _mm256_cmp_ps(D, zero, _CMP_GT_OQ);
            sc[v] = _mm256_div_ps(_mm256_sub_ps(_mm256_mul_ps(W[v], SX[v]), _mm256_mul_ps(X[v], SL[v])), D);
            mn[v] = _mm256_div_ps(_mm256_sub_ps(_mm256_mul_ps(SL2[v], X[v]), _mm256_mul_ps(SL[v], SX[v])), D);
            VF positive = _mm256_cmp_ps(mn[v], zero, _CMP_GT_OQ);
            if (_mm256_movemask_ps(positive)) {
                mn[v] = _mm256_andnot_ps(positive, mn[v]);
                sc[v] = _mm256_blendv_ps(sc[v], _mm256_div_ps(SX[v], SL2[v]), positive);
            }
        }
        for (int i = 0; i < n; i++) {
            EACH_V {
                VF x = vf_load(b->x + (size_t)i * L + 8 * v), l = vf_load(codes + (size_t)i * L + 8 * v);
                VF diff = _mm256_sub_ps(_mm256_add_ps(_mm256_mul_ps(sc[v], l), mn[v]), x);
                diff = p->absolute ? vf_abs(diff) : _mm256_mul_ps(diff, diff);
                err[v] = _mm256_add_ps(err[v], _mm256_mul_ps(vf_load(b->w + (size_t)i * L + 8 * v), diff));
            }
        }
        EACH_V {
            VF take = _mm256_and_ps(valid[v], _mm256_cmp_ps(err[v], best[v], _CMP_LT_OQ));
            if (!_mm256_movemask_ps(take)) continue;
            best[v] = _mm256_blendv_ps(best[v], err[v], take);
            scale[v] = _mm256_blendv_ps(scale[v], sc[v], take);
            s_acc[v] = _mm256_blendv_ps(s_acc[v], s[v], take);
            lo_acc[v] = _mm256_blendv_ps(lo_acc[v], lo[v], take);
            lo[v] = _mm256_blendv_ps(lo[v], mn[v], take);
            VF moved = vf_abs(_mm256_sub_ps(lo[v], lo0[v]));
            VF ok = _mm256_and_ps(_mm256_cmp_ps(moved, _mm256_mul_ps(range[v], _mm256_set1_ps(100.0f)), _CMP_LE_OQ),
                                  _mm256_cmp_ps(_mm256_sub_ps(max[v], lo[v]),
                                                _mm256_mul_ps(range[v], _mm256_set1_ps(1.0f / 256.0f)), _CMP_GE_OQ));
            bad |= _mm256_movemask_ps(_mm256_andnot_ps(ok, live[v]));
        }
        if (bad) return false;
    }
    EACH_V {
        _mm256_storeu_ps(b->scale + 8 * v, _mm256_and_ps(scale[v], live[v]));
        _mm256_storeu_ps(b->minimum + 8 * v, _mm256_xor_ps(lo[v], _mm256_set1_ps(-0.0f)));
        _mm256_storeu_ps(b->sum_w + 8 * v, W[v]);
        _mm256_storeu_ps(b->s + 8 * v, _mm256_and_ps(s_acc[v], live[v]));
        _mm256_storeu_ps(b->lo + 8 * v, lo_acc[v]);
    }
    return true;
}

/* One body per number of vectors, so that the loops over v unroll. */
static bool qkx_16(const mg_qkx_search *p, int nv, lanes *b) {
    return nv == 4 ? qkx(p, 16, 4, b) : qkx(p, 16, 2, b);
}
static bool qkx_32(const mg_qkx_search *p, int nv, lanes *b) {
    return nv == 4 ? qkx(p, 32, 4, b) : nv == 2 ? qkx(p, 32, 2, b) : qkx(p, 32, 1, b);
}

/* factor * mean of x^2 of `count` super-blocks, their chains interleaved. */
static void super_sigma2(const float *x, int count, float factor, float *out) {
    float sum[MAX_V] = {0};
    for (int i = 0; i < MG_SUPER; i++)
        for (int k = 0; k < count; k++) sum[k] += x[k * MG_SUPER + i] * x[k * MG_SUPER + i];
    for (int k = 0; k < count; k++) out[k] = factor * sum[k] / (float)MG_SUPER;
}

/* Importance weights of `vectors` vectors: qw sqrt(sigma2 + x^2), per_super vectors to a super-block. */
static void weights_qw(lanes *b, const float *qw, int n, int nv, int per_super, const float *sigma2) {
    size_t L = 8 * (size_t)nv;
    for (int v = 0; v < nv; v++) {
        vf_to_lanes(qw + (size_t)v * 8 * (size_t)n, n, b->w + 8 * v, L);
        VF s2 = _mm256_set1_ps(sigma2[v / per_super]);
        for (size_t i = 0; i < (size_t)n; i++) {
            VF x = vf_load(b->x + i * L + 8 * (size_t)v);
            float *w = b->w + i * L + 8 * (size_t)v;
            _mm256_storeu_ps(w, _mm256_mul_ps(vf_load(w), _mm256_sqrt_ps(_mm256_add_ps(s2, _mm256_mul_ps(x, x)))));
        }
    }
}

/* w = |x|, or rms of the sub-block + |x|. */
static void weights_plain(lanes *b, int n, int nv, bool rms) {
    size_t L = 8 * (size_t)nv;
    for (int v = 0; v < nv; v++) {
        VF sum = _mm256_setzero_ps(), add;
        for (size_t i = 0; i < (size_t)n; i++) {
            VF x = vf_load(b->x + i * L + 8 * (size_t)v);
            sum = _mm256_add_ps(sum, _mm256_mul_ps(x, x));
        }
        add = _mm256_sqrt_ps(_mm256_div_ps(sum, _mm256_set1_ps((float)n)));
        for (size_t i = 0; i < (size_t)n; i++) {
            VF a = vf_abs(vf_load(b->x + i * L + 8 * (size_t)v));
            _mm256_storeu_ps(b->w + i * L + 8 * (size_t)v, rms ? _mm256_add_ps(add, a) : a);
        }
    }
}

/* Final codes of one sub-block (n a multiple of 16) with its stored scale D and minimum M; those of the search when D =
 * 0. */
static void final_codes(const float *x, int n, int N, float D, float M, float s, float lo, uint8_t *code) {
    if (D == 0.0f) {
        for (int i = 0; i < n; i++)
            code[i] = (uint8_t)(s == 0.0f ? 0 : mg_ref_clamp(mg_ref_round(s * (x[i] - lo)), 0, N));
        return;
    }
    VF vd = _mm256_set1_ps(D), vm = _mm256_set1_ps(M);
    for (int i = 0; i < n; i += 16) {
        __m256i a = vi_round_bits(_mm256_div_ps(_mm256_add_ps(vf_load(x + i), vm), vd));
        __m256i c = vi_round_bits(_mm256_div_ps(_mm256_add_ps(vf_load(x + i + 8), vm), vd));
        _mm_storeu_si128((__m128i *)(void *)(code + i), vi_bytes16(vi_clamp(a, 0, N), vi_clamp(c, 0, N)));
    }
}

/* Search of up to `count` super-blocks of n-element sub-blocks; false: leave them to the scalar code. */
static bool search(const mg_qkx_search *p, const float *x, const float *qw, int n, int count, float sigma_factor,
                   lanes *b) {
    int per_super = MG_SUPER / (8 * n), nv = count * per_super;
    size_t L = 8 * (size_t)nv;
    for (int v = 0; v < nv; v++) vf_to_lanes(x + (size_t)v * 8 * (size_t)n, n, b->x + 8 * v, L);
    if (qw) {
        float sigma2[MAX_V];
        super_sigma2(x, count, sigma_factor, sigma2);
        weights_qw(b, qw, n, nv, per_super, sigma2);
    } else {
        weights_plain(b, n, nv, n == 32);
    }
    return n == 32 ? qkx_32(p, nv, b) : qkx_16(p, nv, b);
}

/* What differs between the three types. */
typedef struct kmin_type {
    mg_dtype dtype;
    const mg_qkx_search *plain, *weighted;
    int n;        /* elements of a sub-block */
    int most;     /* super-blocks of a full batch: four vectors */
    float sigma2; /* factor of sigma2 */
    void (*scales)(const lanes *b, int at, bool weighted, void *blk, float *D, float *M);
    void (*pack)(const uint8_t *code, void *blk);
    mg_status (*scalar)(const float *x, const float *qw, uint64_t n, void *out, mg_error *err);
} kmin_type;

static void block_of(const kmin_type *t, const lanes *b, int k, bool weighted, const float *x, void *blk) {
    uint8_t code[MG_SUPER];
    float D[16], M[16];
    int per_super = MG_SUPER / t->n, at = per_super * k;
    t->scales(b, at, weighted, blk, D, M);
    for (int j = 0; j < per_super; j++)
        final_codes(x + t->n * j, t->n, t->plain->N, D[j], M[j], b->s[at + j], b->lo[at + j], code + t->n * j);
    t->pack(code, blk);
}

static mg_status encode(const kmin_type *t, const float *x, const float *qw, uint64_t n, void *out, mg_error *err) {
    MG_TRY(mg_ref_check(t->dtype, x, qw, n, err));
    uint8_t *blk = out;
    uint32_t bytes = mg_dtype_get(t->dtype)->block_bytes;
    lanes b;
    for (uint64_t left = n / MG_SUPER; left;) {
        int count = t->most;
        while ((uint64_t)count > left) count /= 2;
        if (search(qw ? t->weighted : t->plain, x, qw, t->n, count, t->sigma2, &b)) {
            for (int k = 0; k < count; k++) block_of(t, &b, k, qw != NULL, x + MG_SUPER * k, blk + bytes * (uint32_t)k);
        } else {
            MG_TRY(t->scalar(x, qw, (uint64_t)count * MG_SUPER, blk, err));
        }
        x += MG_SUPER * count;
        if (qw) qw += MG_SUPER * count;
        blk += bytes * (uint32_t)count;
        left -= (uint64_t)count;
    }
    return MG_OK;
}

static void q2_scales(const lanes *b, int at, bool weighted, void *blk, float *D, float *M) {
    mg_ref_q2_k_scales(b->scale + at, b->minimum + at, weighted ? b->sum_w + at : NULL, blk, D, M);
}
static void q4_scales(const lanes *b, int at, bool weighted, void *blk, float *D, float *M) {
    mg_blk_q4_k *o = blk;
    mg_ref_k45_scales(b->scale + at, b->minimum + at, weighted ? b->sum_w + at : NULL, o->d, o->dmin, o->scales, D, M);
}
static void q5_scales(const lanes *b, int at, bool weighted, void *blk, float *D, float *M) {
    mg_blk_q5_k *o = blk;
    mg_ref_k45_scales(b->scale + at, b->minimum + at, weighted ? b->sum_w + at : NULL, o->d, o->dmin, o->scales, D, M);
}
static void q2_pack(const uint8_t *code, void *blk) {
    mg_ref_q2_k_pack(code, blk);
}
static void q4_pack(const uint8_t *code, void *blk) {
    mg_ref_q4_k_pack(code, blk);
}
static void q5_pack(const uint8_t *code, void *blk) {
    mg_ref_q5_k_pack(code, blk);
}

static const kmin_type q2 = {MG_Q2_K,   &mg_qkx_q2_plain, &mg_qkx_q2_weighted, 16, 2, 1.0f,
                             q2_scales, q2_pack,          mg_ref_q2_k_encode};
static const kmin_type q4 = {MG_Q4_K,   &mg_qkx_q4_plain, &mg_qkx_q4_weighted, 32, 4, 2.0f,
                             q4_scales, q4_pack,          mg_ref_q4_k_encode};
static const kmin_type q5 = {MG_Q5_K,   &mg_qkx_q5_plain, &mg_qkx_q5_weighted, 32, 4, 2.0f,
                             q5_scales, q5_pack,          mg_ref_q5_k_encode};

static mg_status q2_k_encode(const float *x, const float *qw, uint64_t n, void *out, mg_error *err) {
    return encode(&q2, x, qw, n, out, err);
}
static mg_status q4_k_encode(const float *x, const float *qw, uint64_t n, void *out, mg_error *err) {
    return encode(&q4, x, qw, n, out, err);
}
static mg_status q5_k_encode(const float *x, const float *qw, uint64_t n, void *out, mg_error *err) {
    return encode(&q5, x, qw, n, out, err);
}

/* 8 codes, each in the low bits of a byte at p after a shift. */
static inline __m256i codes8(const uint8_t *p, int shift, int mask) {
    __m256i q = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
    return _mm256_and_si256(_mm256_srl_epi32(q, _mm_cvtsi32_si128(shift)), _mm256_set1_epi32(mask));
}

/* out = D code - M */
static inline void put8(float *out, VF D, VF M, __m256i code) {
    _mm256_storeu_ps(out, _mm256_sub_ps(_mm256_mul_ps(D, _mm256_cvtepi32_ps(code)), M));
}

static void q4_k_decode(const void *in, uint64_t n, float *out) {
    const mg_blk_q4_k *b = in;
    for (; n; n -= MG_SUPER, b++) {
        float D[8], M[8];
        mg_ref_k45_unpack(mg_get_f16(b->d), mg_get_f16(b->dmin), b->scales, D, M);
        for (int j = 0; j < 8; j++, out += 32) {
            VF d = _mm256_set1_ps(D[j]), m = _mm256_set1_ps(M[j]);
            for (int l = 0; l < 32; l += 8) put8(out + l, d, m, codes8(b->qs + 32 * (j / 2) + l, j % 2 * 4, 15));
        }
    }
}

static void q5_k_decode(const void *in, uint64_t n, float *out) {
    const mg_blk_q5_k *b = in;
    for (; n; n -= MG_SUPER, b++) {
        float D[8], M[8];
        mg_ref_k45_unpack(mg_get_f16(b->d), mg_get_f16(b->dmin), b->scales, D, M);
        for (int j = 0; j < 8; j++, out += 32) {
            VF d = _mm256_set1_ps(D[j]), m = _mm256_set1_ps(M[j]);
            for (int l = 0; l < 32; l += 8) {
                __m256i high = _mm256_slli_epi32(codes8(b->qh + l, j, 1), 4);
                put8(out + l, d, m, _mm256_or_si256(high, codes8(b->qs + 32 * (j / 2) + l, j % 2 * 4, 15)));
            }
        }
    }
}

void mg_codecs_fill_avx2_kmin(mg_codec *table) {
    table[MG_Q2_K].encode = q2_k_encode;
    table[MG_Q4_K].encode = q4_k_encode;
    table[MG_Q5_K].encode = q5_k_encode;
    table[MG_Q4_K].decode = q4_k_decode;
    table[MG_Q5_K].decode = q5_k_decode;
}

#else
void mg_codecs_fill_avx2_kmin(mg_codec *table) {
    (void)table;
}
#endif
