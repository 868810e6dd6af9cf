/* group_encode.c - see group_encode.h. */
#include "quant/group_encode.h"

#include "formats/base/checked.h"
#include "quant/group_floats.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint32_t top_of(const mg_group_scheme *s) {
    return (1u << s->bits) - 1;
}

mg_status mg_group_scheme_check(const mg_group_scheme *s, mg_error *err) {
    if (s->bits < 2 || s->bits > 8)
        return mg_fail(err, MG_ERR_USAGE, "%" PRIu32 " bits per weight, expected 2 to 8", s->bits);
    if (s->rule == MG_GROUP_FLOAT) return MG_OK; /* made by mg_group_format_scheme, not from options */
    if (s->scale_dtype != MG_F16 && s->scale_dtype != MG_BF16 && s->scale_dtype != MG_F32)
        return mg_fail(err, MG_ERR_USAGE, "scales cannot be stored as %s", mg_dtype_get(s->scale_dtype)->name);
    if (s->symmetric && s->rule == MG_GROUP_EDGE)
        return mg_fail(err, MG_ERR_USAGE, "this format stores a bias for each group and cannot be symmetric");
    return MG_OK;
}

uint64_t mg_group_count(const mg_group_scheme *s, uint64_t cols) {
    return s->group_size && cols ? (cols - 1) / s->group_size + 1 : 1;
}

/* ---- scales ---- */

static float stored(mg_dtype d, float x) {
    if (d == MG_F16) return mg_f16_to_f32(mg_f32_to_f16(x));
    if (d == MG_BF16) return mg_bf16_to_f32(mg_f32_to_bf16(x));
    return x;
}

static float smallest(mg_dtype d) {
    return d == MG_F16 ? 0x1p-24f : d == MG_BF16 ? 0x1p-133f : 0x1p-149f;
}

mg_status mg_group_store_scale(mg_dtype type, float scale, float *out, mg_error *err) {
    const float x = stored(type, scale);
    if (!isfinite(x))
        return mg_fail(err, MG_ERR_UNSUPPORTED, "a scale of %g does not fit %s", (double)scale,
                       mg_dtype_get(type)->name);
    *out = x != 0.0f ? x : copysignf(smallest(type), scale);
    return MG_OK;
}

static mg_status store_scale(const mg_group_scheme *s, float *scale, mg_error *err) {
    return mg_group_store_scale(s->scale_dtype, *scale, scale, err);
}

mg_status mg_group_range(const float *w, uint64_t n, float *lo, float *hi, mg_error *err) {
    if (mg_group_kernels_get()->range(w, n, lo, hi)) return MG_OK;
    uint64_t i = 0;
    while (isfinite(w[i])) i++;
    return mg_fail(err, MG_ERR_FORMAT, "element %" PRIu64 " is %g, expected a finite value", i, (double)w[i]);
}

static mg_status choose_zero_point(const mg_group_scheme *s, float lo, float hi, mg_group_params *p, mg_error *err) {
    const float top = (float)top_of(s);
    lo = lo < 0.0f ? lo : 0.0f;
    hi = hi > 0.0f ? hi : 0.0f;
    p->scale = (hi - lo) / top;
    MG_TRY(store_scale(s, &p->scale, err));
    /* to nearest even, by two additions: below 2^22 also where the smallest number there is became the scale */
    float zero = (-lo / p->scale + 12582912.0f) - 12582912.0f;
    if (zero < (float)s->zero_min) { /* no room below: the codes above it have to reach hi */
        p->scale = hi / (top - (float)s->zero_min);
        MG_TRY(store_scale(s, &p->scale, err));
        zero = (float)s->zero_min;
    }
    p->zero = (uint8_t)(zero < top ? zero : top);
    return MG_OK;
}

static mg_status choose_symmetric(const mg_group_scheme *s, float lo, float hi, mg_group_params *p, mg_error *err) {
    const float most = -lo > hi ? -lo : hi;
    const uint32_t half = 1u << (s->bits - 1);
    p->zero = (uint8_t)half;
    p->scale = s->rule == MG_GROUP_ABSMAX ? most / (float)(half - 1) : most / ((float)top_of(s) / 2.0f);
    return store_scale(s, &p->scale, err);
}

static mg_status choose_edge(const mg_group_scheme *s, float lo, float hi, mg_group_params *p, mg_error *err) {
    const float top = (float)top_of(s);
    const bool low = fabsf(lo) > fabsf(hi);
    const float edge = low ? lo : hi;
    float scale = (hi - lo) / top;
    if (scale < 1e-7f) scale = 1e-7f; /* as MLX, which divides by it */
    scale = low ? scale : -scale;
    const float steps = rintf(edge / scale); /* from the edge to 0, so that 0 has a code as well */
    p->scale = steps != 0.0f ? edge / steps : scale;
    p->bias = steps != 0.0f ? stored(s->scale_dtype, edge) : 0.0f;
    if (!isfinite(p->bias))
        return mg_fail(err, MG_ERR_UNSUPPORTED, "a bias of %g does not fit %s", (double)edge,
                       mg_dtype_get(s->scale_dtype)->name);
    return store_scale(s, &p->scale, err);
}

mg_status mg_group_choose(const mg_group_scheme *s, float lo, float hi, mg_group_params *p, mg_error *err) {
    *p = (mg_group_params){0};
    if (s->rule == MG_GROUP_EDGE) return choose_edge(s, lo, hi, p, err);
    if (lo == 0.0f && hi == 0.0f) lo = -1.0f, hi = 1.0f; /* as GPTQ: any scale decodes zeros */
    return s->symmetric ? choose_symmetric(s, lo, hi, p, err) : choose_zero_point(s, lo, hi, p, err);
}

/* ---- codes ---- */

mg_group_step mg_group_step_of(const mg_group_scheme *s, const mg_group_params *p) {
    return (mg_group_step){.scale = p->scale, .bias = p->bias, .zero = (float)p->zero, .top = (float)top_of(s)};
}

void mg_group_round(const mg_group_scheme *s, const mg_group_params *p, const float *w, uint64_t n, uint8_t *codes) {
    const mg_group_step step = mg_group_step_of(s, p);
    /* the bytes are the same; a vector for one weight would wait until its parts have been stored */
    (n == 1 ? mg_group_kernels_for(MG_ISA_SCALAR) : mg_group_kernels_get())->round(&step, w, n, codes);
}

void mg_group_unround(const mg_group_scheme *s, const mg_group_params *p, const uint8_t *codes, uint64_t n, float *w) {
    if (s->rule == MG_GROUP_EDGE)
        mg_group_kernels_get()->affine(codes, n, p->scale, p->bias, w);
    else
        mg_group_kernels_get()->values(codes, n, (float)p->zero, p->scale, w);
}

/* ---- rows ---- */

mg_status mg_group_codes_init(mg_group_codes *q, const mg_group_scheme *s, uint64_t rows, uint64_t cols,
                              mg_error *err) {
    *q = (mg_group_codes){.scheme = *s, .rows = rows, .cols = cols, .groups = mg_group_count(s, cols)};
    uint64_t codes, params, bytes;
    if (!mg_mul_u64(rows, cols, &codes) || !mg_mul_u64(rows, q->groups, &params) ||
        !mg_mul_u64(params, sizeof(float), &bytes))
        return mg_fail(err, MG_ERR_LIMIT, "%" PRIu64 " x %" PRIu64 " weights are too many", rows, cols);
    const bool edge = s->rule == MG_GROUP_EDGE, zeros = !edge && s->rule != MG_GROUP_FLOAT;
    q->codes = malloc(codes + 1);
    q->scales = malloc(bytes + 1);
    q->zeros = zeros ? malloc(params + 1) : NULL;
    q->biases = edge ? malloc(bytes + 1) : NULL;
    if (q->codes && q->scales && (!edge || q->biases) && (!zeros || q->zeros)) return MG_OK;
    mg_group_codes_release(q);
    return mg_fail_nomem(err, codes);
}

void mg_group_codes_release(mg_group_codes *q) {
    free(q->codes);
    free(q->scales);
    free(q->zeros);
    free(q->biases);
    *q = (mg_group_codes){0};
}

/* Columns [from, from + n) of group g of a row. */
static uint64_t group_run(const mg_group_codes *q, uint64_t g, uint64_t *n) {
    const uint64_t size = q->scheme.group_size ? q->scheme.group_size : q->cols, from = g * size;
    *n = size < q->cols - from ? size : q->cols - from;
    return from;
}

mg_status mg_group_codes_set(mg_group_codes *q, uint64_t row, const float *w, mg_error *err) {
    const uint64_t first = row * q->groups;
    for (uint64_t g = 0; g < q->groups; g++) {
        mg_group_params p;
        float lo, hi;
        uint64_t n, from = group_run(q, g, &n);
        MG_TRY(mg_group_range(w + from, n, &lo, &hi, err));
        MG_TRY(mg_group_choose(&q->scheme, lo, hi, &p, err));
        mg_group_round(&q->scheme, &p, w + from, n, q->codes + row * q->cols + from);
        q->scales[first + g] = p.scale;
        if (q->zeros) q->zeros[first + g] = p.zero;
        if (q->biases) q->biases[first + g] = p.bias;
    }
    return MG_OK;
}

static mg_group_params params_at(const mg_group_codes *q, uint64_t at) {
    return (mg_group_params){q->scales[at], q->biases ? q->biases[at] : 0.0f, q->zeros ? q->zeros[at] : 0};
}

void mg_group_codes_get(const mg_group_codes *q, uint64_t row, float *w) {
    const uint8_t *codes = q->codes + row * q->cols;
    const uint64_t first = row * q->groups;
    if (q->scheme.rule == MG_GROUP_FLOAT) {
        mg_group_float_unround(q, row, w);
        return;
    }
    for (uint64_t k = 0; q->g_idx && k < q->cols; k++) {
        const mg_group_params p = params_at(q, first + q->g_idx[k]);
        mg_group_unround(&q->scheme, &p, codes + k, 1, w + k);
    }
    for (uint64_t g = 0; !q->g_idx && g < q->groups; g++) {
        const mg_group_params p = params_at(q, first + g);
        uint64_t n, from = group_run(q, g, &n);
        mg_group_unround(&q->scheme, &p, codes + from, n, w + from);
    }
}
