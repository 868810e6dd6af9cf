/* test_group_floats.c - small floats that share scales: conversions against a search through all values, and
 * read(write(x)) = x through the readers over random shapes. */
#include "group_stored.h"
#include "quant/group_floats.h"
#include "quant/small_float.h"

/* What is nearest, found by looking at all. */
static void check_nearest(float x, uint8_t got, float (*value)(uint8_t), unsigned n, float most) {
    const float want = fabsf(x) > most ? copysignf(most, x) : x;
    for (unsigned c = 0; c < n; c++) {
        const float v = value((uint8_t)c);
        const float off = fabsf(v - want) - fabsf(value(got) - want);
        cr_assert(isnan(v) || off > 0 || (off == 0 && (v == value(got) || !(got & 1))), "%g became %g, not %g",
                  (double)x, (double)value(got), (double)v);
    }
}

Test(group_floats, small_floats) {
    for (unsigned c = 0; c < 256; c++) {
        const float v = mg_e4m3_to_f32((uint8_t)c);
        cr_assert_eq(mg_f32_to_e4m3(v), c, "%02x", c);
        if (c < 16 && c != 8) cr_assert_eq(mg_f32_to_e2m1(mg_e2m1_to_f32((uint8_t)c)), c);
        if (c < 255) cr_assert_eq(mg_f32_to_e8m0(mg_e8m0_to_f32((uint8_t)c)), c);
    }
    cr_assert(mg_e4m3_to_f32(0x7e) == 448.0f && mg_e4m3_to_f32(1) == 0x1p-9f && isnan(mg_e4m3_to_f32(0x7f)));
    cr_assert_eq(mg_f32_to_e2m1(-0.0f), 0);
    cr_assert_eq(mg_f32_to_e2m1(-1e-30f), 8);
    for (unsigned i = 0; i < 20000; i++) {
        const float tie = ldexpf((float)(rng() % 64) - 32.0f, (int)(rng() % 16) - 10);
        const float x = i % 2 ? tie : gaussian() * ldexpf(1.0f, (int)(rng() % 24) - 14);
        check_nearest(x, mg_f32_to_e4m3(x), mg_e4m3_to_f32, 256, 448.0f);
        check_nearest(x, mg_f32_to_e2m1(x), mg_e2m1_to_f32, 16, 6.0f);
    }
}

/* All of w, as the planner does. */
static void round_floats(mg_group_codes *q, const float *w) {
    float *peaks = calloc(q->groups, sizeof *peaks);
    for (uint64_t r = 0, end; r < q->rows; r = end) {
        end = q->rows - r < q->scheme.row_block ? q->rows : r + q->scheme.row_block;
        memset(peaks, 0, q->groups * sizeof *peaks);
        for (uint64_t i = r; i < end; i++) cr_assert_eq(mg_group_float_peaks(q, w + i * q->cols, peaks, NULL), MG_OK);
        cr_assert_eq(mg_group_float_scales(q, r, peaks, NULL), MG_OK);
        for (uint64_t i = r; i < end; i++) mg_group_float_round(q, i, w + i * q->cols);
    }
    free(peaks);
}

/* What is written is read; rounding what was read again changes nothing where scales are powers of two. */
Test(group_floats, floats_are_read) {
    static const mg_dtype types[] = {MG_F16, MG_BF16, MG_F32};
    for (unsigned i = 0; i < 60; i++) {
        const mg_group_format format = MG_FORMAT_FP8_DYNAMIC + i % 4;
        const mg_group_scheme s = mg_group_format_scheme(format, 0, 0, true, types[rng() % 3]);
        const uint64_t rows = 1 + rng() % 300, cols = s.bits == 4 ? s.group_size * (1 + rng() % 6) : 1 + rng() % 300;
        mg_group_form f;
        mg_group_codes q;
        mg_error err = {0};
        float *w = malloc(rows * cols * 4), *back = malloc(rows * cols * 4), most = 0.0f;
        fill(w, rows, cols);
        for (uint64_t k = 0; k < rows * cols; k++) most = fabsf(w[k]) > most ? fabsf(w[k]) : most;
        cr_assert_eq(mg_group_form_init(&f, format, &s, rows, cols, &err), MG_OK, "%s", err.message);
        cr_assert_eq(mg_group_codes_init(&q, &s, rows, cols, &err), MG_OK);
        q.global = mg_group_float_global(most, s.model_dtype);
        round_floats(&q, w);
        uint8_t *slabs = (uint8_t *)packed(&f, &q);
        check_read(&f, &q, slabs);
        for (uint64_t r = 0; r < rows; r++) mg_group_codes_get(&q, r, back + r * cols);
        /* Half of the widest step between neighbours, 2 of 6 and 32 of 448, of the largest value of the tensor, and
         * what rounding the scales (E4M3: 2^-4) may cut off. */
        for (uint64_t k = 0; k < rows * cols; k++)
            cr_assert_leq(fabsf(back[k] - w[k]), most * (s.bits == 4 ? 0.25f : 0.045f));
        round_floats(&q, back);
        for (uint64_t r = 0; r < rows && s.scale_dtype == MG_F8_E8M0; r++) {
            mg_group_codes_get(&q, r, w);
            for (uint64_t k = 0; k < cols; k++) cr_assert(w[k] == back[r * cols + k]); /* a zero may lose its sign */
        }
        free(slabs);
        free(w);
        free(back);
        mg_group_codes_release(&q);
    }
}
