/* test_codes.c - products on codes (quant/code_source.h, verify/linear.h) are to the bit those of the f32 weights, for
 * every format that stores codes, kept or streamed, few rows or many, and for what no quantizer writes. */
#include "group_stored.h"
#include "quant/block_steps.h"
#include "quant/group_decode.h"
#include "quant/math/gemm.h"
#include "verify/linear.h"

enum { MOST_X = 13, COLUMNS = 768, ROWS = 64 };

static bool same(float a, float b) {
    return memcmp(&a, &b, 4) == 0 || (isnan(a) && isnan(b));
}

/* A model that is one tensor, and all of it or a view of it. */
typedef struct one {
    mg_model m;
    mg_bound b;
} one;

static one model_of(mg_checkpoint *c, uint32_t t, const mg_view *v, uint64_t rows) {
    one o = {.m.ckpt = c, .b = {.tensor = t, .rank = 2, .shape = {rows, c->tensors[t].shape[1]}}};
    if (v) o.b.views[0] = *v;
    return o;
}

/* What the product must be: of the weights as f32. */
static float *definition(one *o, const float *x, uint64_t m) {
    mg_error err = {0};
    const uint64_t n = o->b.shape[0], k = o->b.shape[1];
    float *w = malloc(n * k * 4), *y = malloc(m * n * 4);
    cr_assert_eq(mg_read_f32(&o->m, &o->b, 0, n, w, &err), MG_OK, "%s", err.message);
    cr_assert_eq(mg_gemm(mg_math_for(MG_ISA_SCALAR), y, n, x, k, w, k, m, n, k, &err), MG_OK);
    free(w);
    return y;
}

static void check_product(one *o, const char *what, uint64_t m, uint64_t budget) {
    static float x[MOST_X * COLUMNS];
    mg_error err = {0};
    const uint64_t n = o->b.shape[0], k = o->b.shape[1];
    for (uint64_t i = 0; i < m * k; i++) x[i] = gaussian();
    float *want = definition(o, x, m), *got = malloc(m * n * 4);
    mg_linear l;
    mg_fbuf packed = {0};
    mg_linear_job job = {.w = &o->b, .y = got, .ldy = n};
    cr_assert_eq(mg_linear_init(&l, NULL, &err), MG_OK);
    l.panels.budget = budget;
    cr_assert_eq(mg_linear_pack_buf(&l, &job.x, &packed, x, k, m, k, &err), MG_OK);
    for (int again = 0; again < 2; again++) {
        memset(got, 0xa5, m * n * 4);
        cr_assert_eq(mg_linear_run(&l, &o->m, &job, 1, &err), MG_OK, "%s", err.message);
        for (uint64_t i = 0; i < m * n; i++)
            cr_assert(same(got[i], want[i]), "%s, %u rows of x, budget %u, run %d: column %u of row %u is %a, not %a",
                      what, (unsigned)m, (unsigned)budget, again, (unsigned)(i % n), (unsigned)(i / n), (double)got[i],
                      (double)want[i]);
    }
    mg_linear_release(&l);
    mg_fbuf_release(&packed);
    free(want);
    free(got);
}

/* Is all of it exact as codes? And the products, whatever it is. */
static bool check_weight(one *o, const char *what) {
    static const uint64_t ms[] = {1, 4, MOST_X};
    mg_error err = {0};
    mg_f32_source w;
    mg_code_source s;
    bool exact = false;
    cr_assert_eq(mg_f32_source_init(&w, &o->m, &o->b, &err), MG_OK, "%s", err.message);
    cr_assert_eq(mg_code_source_init(&s, &w, &err), MG_OK, "%s", err.message);
    if (s.form.bits) {
        uint8_t *panels = malloc((o->b.shape[0] + 15) / 16 * mg_codes_panel_bytes(&s.form));
        cr_assert_eq(mg_code_source_read(&s, 0, o->b.shape[0], panels, &exact, &err), MG_OK, "%s", err.message);
        free(panels);
    }
    mg_code_source_release(&s);
    for (unsigned i = 0; i < 3; i++) {
        check_product(o, what, ms[i], 0);
        check_product(o, what, ms[i], 1 << 30);
    }
    return exact;
}

/* ---- groups ---- */

typedef enum damage { SOUND, WIDE_SCALES, WILD_SCALES } damage;

/* A random weight in a format, g_idx of any order with `shuffled`. */
static bool try_format(mg_group_format format, uint32_t bits, uint64_t group, bool symmetric, mg_dtype scales,
                       bool shuffled, damage d) {
    static float w[COLUMNS];
    static uint32_t order[COLUMNS];
    const uint64_t cols = group ? 3 * group : 200 - 200 % 32, shape = cols;
    const mg_group_scheme s = mg_group_format_scheme(format, bits, group, symmetric, scales);
    mg_group_form f;
    mg_group_codes q;
    mg_error err = {0};
    char what[128];
    if (mg_group_form_init(&f, format, &s, ROWS, cols, &err) != MG_OK) return false;
    snprintf(what, sizeof what, "%s, %u bits, group %u%s%s", mg_group_format_name(format), bits, (unsigned)group,
             symmetric ? ", symmetric" : "", shuffled ? ", shuffled" : "");
    cr_assert_eq(mg_group_codes_init(&q, &s, ROWS, cols, &err), MG_OK);
    for (uint64_t r = 0; r < ROWS; r++) {
        for (uint64_t k = 0; k < cols; k++) w[k] = gaussian() * 0.02f;
        cr_assert_eq(mg_group_codes_set(&q, r, w, &err), MG_OK, "%s", err.message);
    }
    for (uint64_t i = 0; d == WILD_SCALES && i < ROWS * q.groups; i += 1 + rng() % 5) {
        const uint32_t bits32 = (uint32_t)rng();
        memcpy(&q.scales[i], &bits32, 4);
    }
    uint8_t *slabs = (uint8_t *)packed(&f, &q);
    mg_checkpoint *view, *in = stored(&f, &q, slabs);
    for (uint64_t k = 0; k < cols; k++)
        order[k] = shuffled ? (uint32_t)(rng() % q.groups) : group ? (uint32_t)(k / group) : 0;
    if (format == MG_FORMAT_GPTQ || format == MG_FORMAT_GPTQ_V2)
        memory_put((memory_checkpoint *)in, "m.g_idx", MG_I32, 1, &shape, order);
    cr_assert_eq(mg_group_checkpoint_wrap(&view, in, &err), MG_OK, "%s: %s", err.tensor, err.message);
    one o = model_of(view, 0, NULL, ROWS);
    const bool exact = check_weight(&o, what);
    if (d == SOUND) cr_assert(exact, "%s", what);
    if (d == SOUND && group == 32) {
        const mg_view some = {MG_VIEW_ROWS, .a = 3, .b = 19, .step = 3}, heads = {MG_VIEW_ROPE_UNPERM, .a = 4};
        o = model_of(view, 0, &some, some.b);
        cr_assert(check_weight(&o, what));
        o = model_of(view, 0, &heads, ROWS);
        cr_assert(check_weight(&o, what));
    }
    mg_checkpoint_free(view);
    free(slabs);
    mg_group_codes_release(&q);
    return true;
}

Test(codes, groups) {
    static const uint32_t bits[] = {2, 3, 4, 5, 8};
    static const uint64_t groups[] = {32, 128, 0};
    unsigned done = 0;
    for (mg_group_format f = 0; f <= MG_FORMAT_MLX; f++)
        for (unsigned b = 0; b < 5; b++)
            for (unsigned g = 0; g < 3; g++)
                for (unsigned sym = 0; sym < 2; sym++)
                    done += try_format(f, bits[b], groups[g], sym, f < MG_FORMAT_CT ? MG_F16 : MG_BF16,
                                       groups[g] && f <= MG_FORMAT_GPTQ_V2 && b % 2 == 0, SOUND);
    cr_assert_eq(done, 5 * 6 + 2 * 4 * 6 + 5 * 6 + 5 * 2);
}

/* Scales of 24 bits, infinite, not numbers: the values of the f32 weight all the same. */
Test(codes, scales_that_are_not_exact) {
    for (mg_group_format f = MG_FORMAT_AWQ; f <= MG_FORMAT_MLX; f++) {
        try_format(f, 4, 32, false, MG_F32, false, WIDE_SCALES);
        try_format(f, 4, 32, true, MG_F32, false, WIDE_SCALES);
        try_format(f, 4, 32, false, MG_F16, false, WILD_SCALES);
        try_format(f, 8, 64, false, MG_BF16, false, WILD_SCALES);
        try_format(f, 4, 32, false, MG_F32, false, WILD_SCALES);
    }
}

/* ---- blocks ---- */

static void try_blocks(mg_dtype type, bool any_bits) {
    static float w[COLUMNS];
    const uint64_t shape[2] = {37, COLUMNS};
    mg_error err = {0};
    memory_checkpoint *c = memory_new(NULL);
    const uint32_t t = memory_add(c, "m.weight", type, 2, shape);
    const uint64_t bytes = c->base.tensors[t].n_bytes, row = bytes / shape[0];
    for (uint64_t i = 0; i < bytes; i++) c->data[t][i] = (uint8_t)rng();
    for (uint64_t r = 0; r < shape[0] && !any_bits; r++) {
        for (uint64_t k = 0; k < COLUMNS; k++) w[k] = gaussian() * (r % 5 ? 0.02f : r % 2 ? 1e-6f : 300.0f);
        cr_assert_eq(mg_codec_get(type)->encode(w, NULL, COLUMNS, c->data[t] + r * row, &err), MG_OK);
    }
    one o = model_of(&c->base, t, NULL, shape[0]);
    const bool exact = check_weight(&o, mg_dtype_get(type)->name);
    if (!any_bits) cr_assert(exact, "%s", mg_dtype_get(type)->name);
    mg_checkpoint_free(&c->base);
}

Test(codes, blocks) {
    unsigned n = 0;
    for (int t = 0; t < MG_DTYPE_COUNT; t++) {
        if (!mg_block_steps_of((mg_dtype)t)) continue;
        try_blocks((mg_dtype)t, false);
        try_blocks((mg_dtype)t, true);
        n++;
    }
    cr_assert_eq(n, 10);
}

/* Other types, an addition, an element moved: not codes. */
Test(codes, weights_that_have_none) {
    const uint64_t shape[2] = {4, 256};
    const mg_view add = {MG_VIEW_ADD, .value = 1.0};
    mg_error err = {0};
    mg_f32_source w;
    mg_code_source s;
    memory_checkpoint *c = memory_new(NULL);
    memory_add(c, "a.weight", MG_BF16, 2, shape);
    memory_add(c, "b.weight", MG_IQ4_XS, 2, shape);
    for (uint32_t t = 0; t < 2; t++) {
        one o = model_of(&c->base, t, t ? NULL : &add, 4);
        cr_assert_eq(mg_f32_source_init(&w, &o.m, &o.b, &err), MG_OK);
        cr_assert_eq(mg_code_source_init(&s, &w, &err), MG_OK);
        cr_assert_eq(s.form.bits, 0);
    }
    mg_checkpoint_free(&c->base);
}
