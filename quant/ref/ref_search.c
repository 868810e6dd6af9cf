/* ref_search.c - the searches of ref_search.h, one formula each. */
#include "quant/ref/ref_search.h"

float mg_ref_signed_max(const float *x, int n) {
    float amax = 0.0f, max = 0.0f;
    for (int i = 0; i < n; i++) {
        float a = fabsf(x[i]);
        if (a > amax) {
            amax = a;
            max = x[i];
        }
    }
    return max;
}

float mg_ref_sum_sq(const float *x, int n) {
    float sum = 0.0f;
    for (int i = 0; i < n; i++) sum += x[i] * x[i];
    return sum;
}

void mg_ref_weights(const float *x, const float *qw, int n, float sigma2, float *w) {
    for (int i = 0; i < n; i++) w[i] = qw[i] * sqrtf(sigma2 + x[i] * x[i]);
}

/* A and B of the codes R(s x) clamped to -N..N-1. */
static void qx_sums(int n, int N, float s, const float *x, const float *w, float *A, float *B) {
    float a = 0.0f, b = 0.0f;
    for (int i = 0; i < n; i++) {
        float l = (float)mg_ref_clamp(mg_ref_round(s * x[i]), -N, N - 1);
        float wi = w ? w[i] : x[i] * x[i];
        a += wi * x[i] * l;
        b += wi * l * l;
    }
    *A = a;
    *B = b;
}

static void qx_codes(int n, int N, float s, const float *x, uint8_t *codes) {
    for (int i = 0; i < n; i++) codes[i] = (uint8_t)(N + mg_ref_clamp(mg_ref_round(s * x[i]), -N, N - 1));
}

float mg_ref_qx(int n, int N, const float *x, const float *w, uint8_t *codes) {
    float max = mg_ref_signed_max(x, n), A, B;
    if (fabsf(max) < MG_REF_EPS) {
        memset(codes, 0, (size_t)n);
        return 0.0f;
    }
    float s = -(float)N / max, s_best = s;
    qx_sums(n, N, s, x, w, &A, &B);
    float scale = B != 0.0f ? A / B : 0.0f, best = scale * A;
    for (int i = -9; i <= 9; i++) {
        if (i == 0) continue;
        s = -((float)N + 0.1f * (float)i) / max;
        qx_sums(n, N, s, x, w, &A, &B);
        if (B > 0.0f && A * A > best * B) {
            s_best = s;
            scale = A / B;
            best = scale * A;
        }
    }
    qx_codes(n, N, s_best, x, codes);
    return scale;
}

float mg_ref_q3(int n, int N, const float *x, uint8_t *codes) {
    float max = mg_ref_signed_max(x, n);
    if (fabsf(max) < MG_REF_EPS) {
        memset(codes, 0, (size_t)n);
        return 0.0f;
    }
    float s = -(float)N / max, A, B;
    qx_codes(n, N, s, x, codes);
    qx_sums(n, N, s, x, NULL, &A, &B);
    for (int pass = 0, changed = 1; pass < 5 && changed; pass++) {
        changed = 0;
        for (int i = 0; i < n; i++) {
            int32_t l = (int32_t)codes[i] - N;
            float w = x[i] * x[i], a = A - w * x[i] * (float)l;
            if (!(a > 0.0f)) continue;
            float b = B - w * (float)l * (float)l;
            int32_t l2 = mg_ref_clamp(mg_ref_round(x[i] * b / a), -N, N - 1);
            if (l2 == l) continue;
            a += w * x[i] * (float)l2;
            b += w * (float)l2 * (float)l2;
            if (b > 0.0f && a * a * B > A * A * b) {
                codes[i] = (uint8_t)(N + l2);
                A = a;
                B = b;
                changed = 1;
            }
        }
    }
    return B > 0.0f ? A / B : 0.0f;
}

/* Weighted error of scale l + lo against x. */
static float qkx_error(const mg_qkx_search *p, int n, const float *x, const float *w, const uint8_t *l, float scale,
                       float lo) {
    float err = 0.0f;
    for (int i = 0; i < n; i++) {
        float diff = scale * (float)l[i] + lo - x[i];
        diff = p->absolute ? fabsf(diff) : diff * diff;
        err += w[i] * diff;
    }
    return err;
}

float mg_ref_qkx(const mg_qkx_search *p, int n, const float *x, const float *w, uint8_t *codes, float *minimum) {
    float lo = x[0], max = x[0], W = w[0], X = w[0] * x[0], N = (float)p->N;
    for (int i = 1; i < n; i++) {
        if (x[i] < lo) lo = x[i];
        if (x[i] > max) max = x[i];
        W += w[i];
        X += w[i] * x[i];
    }
    if (lo > 0.0f) lo = 0.0f;
    if (max <= lo) {
        memset(codes, 0, (size_t)n);
        *minimum = -lo;
        return 0.0f;
    }
    float s = N / (max - lo), scale = 1.0f / s;
    for (int i = 0; i < n; i++) codes[i] = (uint8_t)mg_ref_clamp(mg_ref_round(s * (x[i] - lo)), 0, p->N);
    float best = qkx_error(p, n, x, w, codes, scale, lo);
    for (int step = 0; step <= p->steps; step++) {
        uint8_t trial[32];
        float SL = 0.0f, SL2 = 0.0f, SX = 0.0f;
        s = (p->rmin + p->rdelta * (float)step + N) / (max - lo);
        for (int i = 0; i < n; i++) {
            int32_t c = mg_ref_clamp(mg_ref_round(s * (x[i] - lo)), 0, p->N);
            float l = (float)c, wl = w[i] * l;
            trial[i] = (uint8_t)c;
            SL += wl;
            SL2 += wl * l;
            SX += wl * x[i];
        }
        float D = W * SL2 - SL * SL;
        if (!(D > 0.0f)) continue;
        float sc = (W * SX - X * SL) / D, mn = (SL2 * X - SL * SX) / D;
        if (mn > 0.0f) {
            mn = 0.0f;
            sc = SX / SL2;
        }
        float err = qkx_error(p, n, x, w, trial, sc, mn);
        if (err < best) {
            memcpy(codes, trial, (size_t)n);
            best = err;
            scale = sc;
            lo = mn;
        }
    }
    *minimum = -lo;
    return scale;
}

static float qp_error(int n, int N, float s, const float *x, const float *w) {
    float scale = 1.0f / s, err = 0.0f;
    for (int i = 0; i < n; i++) {
        int32_t l = mg_ref_round(s * x[i]);
        float diff = x[i] - scale * (float)(l < N ? l : N);
        err += w[i] * diff * diff;
    }
    return err;
}

/* As qp_error for the start, whose codes have been through eight bits and are not clamped. */
static float qp_start_error(int n, float s, const float *x, const float *w) {
    float scale = 1.0f / s, err = 0.0f;
    for (int i = 0; i < n; i++) {
        float diff = x[i] - scale * (float)(uint8_t)mg_ref_round(s * x[i]);
        err += w[i] * diff * diff;
    }
    return err;
}

float mg_ref_qp(int n, int N, const float *x, const float *w, uint8_t *codes) {
    float max = 0.0f;
    for (int i = 0; i < n; i++)
        if (x[i] > max) max = x[i];
    if (max < MG_REF_EPS) {
        memset(codes, 0, (size_t)n);
        return 0.0f;
    }
    float s = (float)N / max, best = qp_start_error(n, s, x, w);
    for (int i = -4; i <= 4; i++) {
        if (i == 0) continue;
        float trial = (0.1f * (float)i + (float)N) / max, err = qp_error(n, N, trial, x, w);
        if (err < best) {
            best = err;
            s = trial;
        }
    }
    float A = 0.0f, B = 0.0f;
    for (int i = 0; i < n; i++) {
        int32_t l = mg_ref_round(s * x[i]);
        l = l < N ? l : N;
        codes[i] = (uint8_t)l;
        A += w[i] * x[i] * (float)l;
        B += w[i] * (float)l * (float)l;
    }
    for (int pass = 0, changed = 1; pass < 5 && changed; pass++) {
        changed = 0;
        for (int i = 0; i < n; i++) {
            float l = (float)codes[i], a = A - w[i] * x[i] * l, b = B - w[i] * l * l;
            if (!(a > 0.0f && b > 0.0f)) continue;
            int32_t l2 = mg_ref_round(x[i] * b / a);
            l2 = l2 < N ? l2 : N;
            if (l2 == (int32_t)codes[i]) continue;
            a += w[i] * x[i] * (float)l2;
            b += w[i] * (float)l2 * (float)l2;
            if (a * a * B > A * A * b) {
                codes[i] = (uint8_t)l2;
                A = a;
                B = b;
                changed = 1;
            }
        }
    }
    return B > 0.0f ? A / B : 0.0f;
}
