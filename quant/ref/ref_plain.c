/* ref_plain.c - F32, F16, BF16, F64: one element per block, round to nearest even.
 *
 * A finite value beyond the f16 range becomes infinity, as the reference stores it; the caller that wants to refuse
 * such a tensor looks at the result. */
#include "quant/block_layout.h"
#include "quant/ref/ref.h"

mg_status mg_ref_f32_encode(const float *x, const float *weights, uint64_t n, void *out, mg_error *err) {
    MG_TRY(mg_ref_check(MG_F32, x, weights, n, err));
    memcpy(out, x, n * sizeof *x);
    return MG_OK;
}

void mg_ref_f32_decode(const void *in, uint64_t n, float *out) {
    memcpy(out, in, n * sizeof *out);
}

mg_status mg_ref_f16_encode(const float *x, const float *weights, uint64_t n, void *out, mg_error *err) {
    MG_TRY(mg_ref_check(MG_F16, x, weights, n, err));
    uint8_t *o = out;
    for (uint64_t i = 0; i < n; i++) mg_put16(o + 2 * i, mg_f32_to_f16(x[i]));
    return MG_OK;
}

void mg_ref_f16_decode(const void *in, uint64_t n, float *out) {
    const uint8_t *p = in;
    for (uint64_t i = 0; i < n; i++) out[i] = mg_get_f16(p + 2 * i);
}

mg_status mg_ref_bf16_encode(const float *x, const float *weights, uint64_t n, void *out, mg_error *err) {
    MG_TRY(mg_ref_check(MG_BF16, x, weights, n, err));
    uint8_t *o = out;
    for (uint64_t i = 0; i < n; i++) { /* as mg_f32_to_bf16, which also has a case for the NaNs refused above */
        uint32_t u;
        memcpy(&u, x + i, sizeof u);
        uint16_t v = (uint16_t)((u + 0x7FFFu + (u >> 16 & 1u)) >> 16);
        memcpy(o + 2 * i, &v, sizeof v);
    }
    return MG_OK;
}

void mg_ref_bf16_decode(const void *in, uint64_t n, float *out) {
    const uint8_t *p = in;
    for (uint64_t i = 0; i < n; i++) out[i] = mg_bf16_to_f32(mg_get16(p + 2 * i));
}

mg_status mg_ref_f64_encode(const float *x, const float *weights, uint64_t n, void *out, mg_error *err) {
    MG_TRY(mg_ref_check(MG_F64, x, weights, n, err));
    uint8_t *o = out;
    for (uint64_t i = 0; i < n; i++) {
        double v = (double)x[i];
        memcpy(o + 8 * i, &v, sizeof v);
    }
    return MG_OK;
}

/* f64 to f32 rounds to nearest even; beyond the f32 range it gives infinity. */
void mg_ref_f64_decode(const void *in, uint64_t n, float *out) {
    const uint8_t *p = in;
    for (uint64_t i = 0; i < n; i++) {
        double v;
        memcpy(&v, p + 8 * i, sizeof v);
        out[i] = (float)v;
    }
}
