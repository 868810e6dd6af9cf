/* test_group_pack.c - rounding in groups and the stored forms: published words, and read(write(x)) = x through the
 * readers for every format, number of bits, group size and zero convention, over random shapes. */
#include "group_stored.h"

/* Codes W[n][k] = by_row ? n : k modulo 2^bits, scale 1, zero `zero`. */
static mg_group_codes counting(const mg_group_scheme *s, uint64_t rows, uint64_t cols, bool by_row, uint8_t zero) {
    mg_group_codes q;
    cr_assert_eq(mg_group_codes_init(&q, s, rows, cols, NULL), MG_OK);
    for (uint64_t n = 0; n < rows; n++)
        for (uint64_t k = 0; k < cols; k++) q.codes[n * cols + k] = (uint8_t)((by_row ? n : k) & ((1u << s->bits) - 1));
    for (uint64_t i = 0; i < rows * q.groups; i++) {
        q.scales[i] = 1.0f;
        if (q.zeros) q.zeros[i] = zero;
    }
    return q;
}

static void expect_words(mg_group_format format, uint32_t bits, bool by_row, uint64_t rows, const uint32_t *want,
                         unsigned n, unsigned step) {
    const mg_group_scheme s = mg_group_format_scheme(format, bits, 32, false, MG_F16);
    mg_group_form f;
    mg_group_codes q = counting(&s, rows, 32, by_row, 1);
    cr_assert_eq(mg_group_form_init(&f, format, &s, rows, 32, NULL), MG_OK);
    uint32_t *words = packed(&f, &q);
    for (unsigned i = 0; i < n; i++)
        cr_assert_eq(words[i * step], want[i], "%s %u bits, word %u: %08x, expected %08x", mg_group_format_name(format),
                     bits, i, words[i * step], want[i]);
    free(words);
    mg_group_codes_release(&q);
}

Test(group_pack, published_words) {
    const uint32_t awq[] = {0x75316420, 0xfdb9eca8}, dense4[] = {0x76543210, 0xfedcba98},
                   dense3[] = {0x88fac688, 0xc688fac6, 0xfac688fa};
    expect_words(MG_FORMAT_AWQ, 4, true, 16, awq, 2, 1);
    expect_words(MG_FORMAT_CT, 4, false, 32, dense4, 2, 1);
    expect_words(MG_FORMAT_CT, 3, false, 32, dense3, 3, 1);
    expect_words(MG_FORMAT_MLX, 4, false, 1, dense4, 2, 1);
    expect_words(MG_FORMAT_GPTQ_V2, 4, false, 32, dense4, 2, 32); /* one word below the other */
    expect_words(MG_FORMAT_GPTQ_V2, 3, false, 32, dense3, 3, 32);
    expect_words(MG_FORMAT_AWQ, 3, true, 32, dense3, 3, 1); /* other widths are in natural order */
}

/* What symmetric weights store for zero in GPTQ: the middle, or one less. */
Test(group_pack, symmetric_zeros) {
    static const struct {
        uint32_t bits, v1, v2;
    } cases[] = {{4, 0x77777777, 0x88888888}, {8, 0x7f7f7f7f, 0x80808080}, {2, 0x55555555, 0xaaaaaaaa}};
    for (unsigned i = 0; i < 3; i++)
        for (unsigned v2 = 0; v2 < 2; v2++) {
            const mg_group_format format = v2 ? MG_FORMAT_GPTQ_V2 : MG_FORMAT_GPTQ;
            const mg_group_scheme s = mg_group_format_scheme(format, cases[i].bits, 0, true, MG_F16);
            mg_group_form f;
            mg_group_codes q = counting(&s, 32, 32, false, (uint8_t)(1u << (cases[i].bits - 1)));
            cr_assert_eq(mg_group_form_init(&f, format, &s, 32, 32, NULL), MG_OK);
            uint32_t *words = packed(&f, &q);
            cr_assert_eq(words[f.parts[1].slab_at / 4], v2 ? cases[i].v2 : cases[i].v1);
            free(words);
            mg_group_codes_release(&q);
        }
}

/* ---- read(write(x)) = x ---- */

/* Rounding a weight costs half a step, rounding the zero moves the far end by half a step, rounding the scale by up to
 * one (255 steps of a BF16, whose relative error is 2^-8). Biases are rounded too, and making 0 exact costs half a
 * step. */
static void check_error(const mg_group_codes *q, uint64_t row, const float *w, float *back) {
    mg_group_codes_get(q, row, back);
    for (uint64_t k = 0; k < q->cols; k++) {
        const uint64_t g = q->scheme.group_size ? k / q->scheme.group_size : 0;
        const float step = fabsf(q->scales[row * q->groups + g]);
        const float bias = q->biases ? fabsf(q->biases[row * q->groups + g]) : 0.0f;
        cr_assert_leq(fabsf(back[k] - w[k]), step * (q->biases ? 2.01f : 1.51f) + bias * 0x1p-8f,
                      "row %u column %u: %g became %g, step %g", (unsigned)row, (unsigned)k, (double)w[k],
                      (double)back[k], (double)step);
    }
}

static void round_trip(mg_group_format format, uint32_t bits, uint64_t group, bool symmetric, mg_dtype scales,
                       uint64_t rows, uint64_t cols) {
    const mg_group_scheme s = mg_group_format_scheme(format, bits, group, symmetric, scales);
    mg_group_form f;
    mg_group_codes q;
    mg_error err = {0};
    cr_assert_eq(mg_group_form_init(&f, format, &s, rows, cols, &err), MG_OK, "%s", err.message);
    cr_assert_eq(mg_group_codes_init(&q, &s, rows, cols, &err), MG_OK);
    float *w = malloc(rows * cols * 4), *back = malloc(cols * 4);
    fill(w, rows, cols);
    for (uint64_t r = 0; r < rows; r++) {
        cr_assert_eq(mg_group_codes_set(&q, r, w + r * cols, &err), MG_OK, "%s", err.message);
        check_error(&q, r, w + r * cols, back);
    }
    uint8_t *slabs = (uint8_t *)packed(&f, &q);
    check_read(&f, &q, slabs);
    free(slabs);
    free(w);
    free(back);
    mg_group_codes_release(&q);
}

Test(group_pack, what_is_written_is_read) {
    static const uint64_t groups[] = {32, 64, 128, 0};
    static const mg_dtype types[] = {MG_F16, MG_BF16, MG_F32};
    unsigned done = 0;
    for (mg_group_format f = 0; f <= MG_FORMAT_MLX; f++)
        for (uint32_t bits = 2; bits <= 8; bits++)
            for (unsigned g = 0; g < 4; g++)
                for (unsigned sym = 0; sym < 2; sym++) {
                    const mg_group_scheme s = mg_group_format_scheme(f, bits, groups[g], sym, MG_F16);
                    mg_group_form form;
                    if (mg_group_form_init(&form, f, &s, 64, 256, NULL) != MG_OK) continue;
                    for (unsigned shape = 0; shape < 2; shape++) {
                        const uint64_t step = groups[g] ? groups[g] : 32;
                        round_trip(f, bits, groups[g], sym, types[rng() % 3], 32 * (1 + rng() % 4),
                                   step * (1 + rng() % 4));
                        done++;
                    }
                }
    cr_assert_eq(done, 2 * (7 * 8 + 4 * 8 + 4 * 8 + 7 * 8 + 6 * 3));
}

/* Rows that do not fill strips of 32, where the format allows them. */
Test(group_pack, ragged_rows) {
    for (uint64_t rows = 8; rows <= 72; rows += 8) round_trip(MG_FORMAT_AWQ, 4, 64, false, MG_F16, rows, 128);
    for (uint64_t rows = 1; rows <= 70; rows += 3) {
        round_trip(MG_FORMAT_CT, 4, 32, true, MG_BF16, rows, 64);
        round_trip(MG_FORMAT_CT, 3, 32, false, MG_BF16, rows, 64);
        round_trip(MG_FORMAT_MLX, 5, 32, false, MG_BF16, rows, 64);
        round_trip(MG_FORMAT_CT, 3, 0, true, MG_BF16, rows, 1 + rng() % 100);
    }
}

/* Pieces of a weight packed one after the other are the whole. */
Test(group_pack, bands_and_slabs) {
    const uint64_t rows = 96, cols = 256;
    for (mg_group_format format = 0; format <= MG_FORMAT_MLX; format++) {
        const mg_group_scheme s = mg_group_format_scheme(format, 4, 64, false, MG_F16);
        mg_group_form f;
        mg_group_codes q, part;
        cr_assert_eq(mg_group_form_init(&f, format, &s, rows, cols, NULL), MG_OK);
        cr_assert_eq(mg_group_codes_init(&q, &s, rows, cols, NULL), MG_OK);
        for (uint64_t i = 0; i < rows * cols; i++) q.codes[i] = rng() & 15;
        for (uint64_t i = 0; i < rows * q.groups; i++) {
            q.scales[i] = 1.0f;
            if (q.zeros) q.zeros[i] = 1 + (rng() % 15);
            if (q.biases) q.biases[i] = -1.0f;
        }
        uint8_t *whole = (uint8_t *)packed(&f, &q), *pieces = malloc(f.slabs * f.slab_bytes);
        for (uint64_t slab = 0; slab < f.slabs; slab += f.by_group ? 2 : f.slabs / 3) {
            const uint64_t take = f.by_group ? 2 : f.slabs / 3, from = f.by_group ? 0 : slab * f.slab_rows,
                           end = f.by_group ? rows : from + take * f.slab_rows;
            const uint64_t col = f.by_group ? slab * 64 : 0, n_cols = f.by_group ? take * 64 : cols;
            for (uint64_t row = from; row < end; row += 32) {
                cr_assert_eq(mg_group_codes_init(&part, &s, 32, n_cols, NULL), MG_OK);
                for (uint64_t i = 0; i < 32; i++) {
                    memcpy(part.codes + i * n_cols, q.codes + (row + i) * cols + col, n_cols);
                    for (uint64_t g = 0; g < part.groups; g++) {
                        const uint64_t at = (row + i) * q.groups + col / 64 + g;
                        part.scales[i * part.groups + g] = q.scales[at];
                        if (q.zeros) part.zeros[i * part.groups + g] = q.zeros[at];
                        if (q.biases) part.biases[i * part.groups + g] = q.biases[at];
                    }
                }
                uint8_t *dst = pieces + (f.by_group ? slab : row / f.slab_rows) * f.slab_bytes;
                mg_group_form_pack(&f, &part, f.by_group ? row : 0, dst);
                mg_group_codes_release(&part);
            }
        }
        cr_assert_eq(memcmp(whole, pieces, f.slabs * f.slab_bytes), 0, "%s", mg_group_format_name(format));
        free(whole);
        free(pieces);
        mg_group_codes_release(&q);
    }
}

/* ---- rounding ---- */

Test(group_pack, choices) {
    mg_group_params p;
    mg_error err = {0};
    mg_group_scheme s = mg_group_format_scheme(MG_FORMAT_GPTQ_V2, 4, 32, false, MG_F32);
    cr_assert_eq(mg_group_choose(&s, -0.5f, 1.0f, &p, &err), MG_OK);
    cr_assert(p.scale == 0.1f && p.zero == 5);
    cr_assert_eq(mg_group_choose(&s, 0.5f, 1.5f, &p, &err), MG_OK); /* 0 belongs to the range */
    cr_assert(p.scale == 0.1f && p.zero == 0);
    s.zero_min = 1; /* GPTQ v1: a zero of 0 has no clean form */
    cr_assert_eq(mg_group_choose(&s, 0.5f, 1.4f, &p, &err), MG_OK);
    cr_assert(p.scale == 0.1f && p.zero == 1);
    s.symmetric = true;
    cr_assert_eq(mg_group_choose(&s, -0.5f, 0.75f, &p, &err), MG_OK);
    cr_assert(p.scale == 0.1f && p.zero == 8); /* amax / 7.5 */
    s.rule = MG_GROUP_ABSMAX;
    cr_assert_eq(mg_group_choose(&s, -0.5f, 0.7f, &p, &err), MG_OK);
    cr_assert(p.scale == 0.1f && p.zero == 8);
    s = mg_group_format_scheme(MG_FORMAT_AWQ, 4, 32, false, MG_F16);
    cr_assert_eq(mg_group_choose(&s, -1e-9f, 1e-9f, &p, &err), MG_OK);
    cr_assert(p.scale == 0x1p-24f); /* the smallest F16, not 0 */
    cr_assert_eq(mg_group_choose(&s, -1e7f, 1e7f, &p, &err), MG_ERR_UNSUPPORTED);
    err = (mg_error){0};
    const float bad[3] = {1.0f, NAN, 0.0f};
    float lo, hi;
    cr_assert_eq(mg_group_range(bad, 3, &lo, &hi, &err), MG_ERR_FORMAT);
    cr_assert_not_null(strstr(err.message, "element 1"));
}

/* The edge of an MLX group is exact, and 0 has a code. */
Test(group_pack, edge) {
    const mg_group_scheme s = mg_group_format_scheme(MG_FORMAT_MLX, 4, 32, false, MG_F32);
    mg_group_params p;
    uint8_t code;
    float back, zero = 0.0f;
    for (int i = 0; i < 1000; i++) {
        const float a = gaussian(), b = gaussian(), lo = a < b ? a : b, hi = a < b ? b : a;
        const float edge = fabsf(lo) > fabsf(hi) ? lo : hi;
        cr_assert_eq(mg_group_choose(&s, lo, hi, &p, NULL), MG_OK);
        mg_group_round(&s, &p, &edge, 1, &code);
        mg_group_unround(&s, &p, &code, 1, &back);
        cr_assert(back == edge);
        if (lo > 0 || hi < 0) continue;
        mg_group_round(&s, &p, &zero, 1, &code);
        mg_group_unround(&s, &p, &code, 1, &back);
        cr_assert_leq(fabsf(back), 1e-6f);
    }
}

Test(group_pack, refusals) {
    mg_group_form f;
    mg_error err = {0};
    mg_group_scheme s = mg_group_format_scheme(MG_FORMAT_AWQ, 4, 128, false, MG_F16);
    cr_assert_eq(mg_group_form_init(&f, MG_FORMAT_AWQ, &s, 64, 192, &err), MG_ERR_UNSUPPORTED);
    cr_assert_not_null(strstr(err.message, "192 input features"));
    err = (mg_error){0};
    cr_assert_eq(mg_group_form_init(&f, MG_FORMAT_AWQ, &s, 12, 128, &err), MG_ERR_UNSUPPORTED);
    cr_assert_not_null(strstr(err.message, "12 output features"));
    s.bits = 5;
    cr_assert_eq(mg_group_form_init(&f, MG_FORMAT_GPTQ, &s, 64, 128, NULL), MG_ERR_UNSUPPORTED);
    s.bits = 9;
    cr_assert_eq(mg_group_form_init(&f, MG_FORMAT_CT, &s, 64, 128, NULL), MG_ERR_USAGE);
    s = mg_group_format_scheme(MG_FORMAT_MLX, 4, 0, false, MG_F16);
    cr_assert_eq(mg_group_form_init(&f, MG_FORMAT_MLX, &s, 64, 128, NULL), MG_ERR_UNSUPPORTED);
    s = mg_group_format_scheme(MG_FORMAT_MLX, 4, 32, true, MG_F16);
    cr_assert_eq(mg_group_form_init(&f, MG_FORMAT_MLX, &s, 64, 128, NULL), MG_ERR_USAGE);
}
