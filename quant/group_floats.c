/* group_floats.c - see group_floats.h. */
#include "quant/group_floats.h"

#include <math.h>
#include <string.h>

#include "quant/small_float.h"

/* The first scale of a row: rows of a block share them. */
static float *scales_of(const mg_group_codes *q, uint64_t row) {
    return q->scales + row / q->scheme.row_block * q->groups;
}

static uint64_t group_end(const mg_group_codes *q, uint64_t from) {
    const uint64_t size = q->scheme.group_size;
    return size && size < q->cols - from ? from + size : q->cols;
}

mg_status mg_group_float_peaks(const mg_group_codes *q, const float *w, float *peaks, mg_error *err) {
    for (uint64_t g = 0, from = 0, end; from < q->cols; g++, from = end) {
        float lo, hi;
        end = group_end(q, from);
        MG_TRY(mg_group_range(w + from, end - from, &lo, &hi, err));
        const float most = -lo > hi ? -lo : hi;
        if (most > peaks[g]) peaks[g] = most;
    }
    return MG_OK;
}

/* ---- scales ---- */

/* Its exponent alone: peak / 4 rounded down to a power of two, up from 1.75 of one on. */
static float mx_scale(float peak) {
    uint32_t u;
    memcpy(&u, &peak, sizeof u);
    const int32_t code = (int32_t)((u + (1u << 21)) >> 23) - 2;
    return mg_e8m0_to_f32((uint8_t)(code > 0 ? code : 0));
}

static float nv_scale(const mg_group_codes *q, float peak) {
    float local = peak / MG_E2M1_MAX;
    if (q->scheme.model_dtype == MG_BF16) local = mg_bf16_to_f32(mg_f32_to_bf16(local));
    if (peak == 0.0f) return 0.125f;
    const float scale = mg_e4m3_to_f32(mg_f32_to_e4m3(local * q->global));
    return scale != 0.0f ? scale : 0x1p-9f;
}

/* The distance from 1 to the next number: what llm-compressor stores for zeros. */
static float epsilon(mg_dtype d) {
    return d == MG_F16 ? 0x1p-10f : d == MG_BF16 ? 0x1p-7f : 0x1p-23f;
}

mg_status mg_group_float_scales(mg_group_codes *q, uint64_t row, const float *peaks, mg_error *err) {
    const mg_dtype type = q->scheme.scale_dtype;
    float *scales = scales_of(q, row);
    for (uint64_t g = 0; g < q->groups; g++) {
        if (type == MG_F8_E8M0)
            scales[g] = mx_scale(peaks[g]);
        else if (type == MG_F8_E4M3)
            scales[g] = nv_scale(q, peaks[g]);
        else if (peaks[g] == 0.0f)
            scales[g] = epsilon(type);
        else
            MG_TRY(mg_group_store_scale(type, peaks[g] / MG_E4M3_MAX, &scales[g], err));
    }
    return MG_OK;
}

float mg_group_float_global(float peak, mg_dtype model) {
    float global = 1.0f / peak; /* torch divides a number by a tensor in two steps */
    if (model == MG_BF16) global = mg_bf16_to_f32(mg_f32_to_bf16(global));
    global *= MG_E4M3_MAX * MG_E2M1_MAX;
    if (model == MG_BF16) global = mg_bf16_to_f32(mg_f32_to_bf16(global));
    return isfinite(global) && global > 0.0f ? global : 1.0f;
}

/* ---- codes ---- */

/* What a code is multiplied by. */
static float step_of(const mg_group_codes *q, float scale) {
    return q->scheme.scale_dtype == MG_F8_E4M3 ? scale / q->global : scale;
}

static mg_group_value kind_of(const mg_group_codes *q) {
    return q->scheme.bits == 8 ? MG_CODE_E4M3 : MG_CODE_E2M1;
}

void mg_group_float_round(mg_group_codes *q, uint64_t row, const float *w) {
    const float *scales = scales_of(q, row);
    uint8_t *codes = q->codes + row * q->cols;
    for (uint64_t g = 0, k = 0, end; k < q->cols; g++, k = end) {
        end = group_end(q, k);
        mg_group_kernels_get()->narrow(w + k, end - k, kind_of(q), step_of(q, scales[g]), codes + k);
    }
}

void mg_group_float_unround(const mg_group_codes *q, uint64_t row, float *w) {
    const float *scales = scales_of(q, row);
    const uint8_t *codes = q->codes + row * q->cols;
    for (uint64_t g = 0, k = 0, end; k < q->cols; g++, k = end) {
        end = group_end(q, k);
        mg_group_kernels_get()->floats(codes + k, end - k, kind_of(q), step_of(q, scales[g]), w + k);
    }
}
