/* Expressions: every node evaluated over whole and partial row ranges against a loop that states its meaning. */
#include <criterion/criterion.h>

#include "convert/plan_private.h"
#include "memory_checkpoint.h"
#include "quant/codec.h"

static mg_plan *plan;
static memory_checkpoint *mem;
static mg_error err;

static void setup(void) {
    cr_assert_eq(mg_plan_new(&plan, &err), MG_OK);
    mem = memory_new(NULL);
}

static void teardown(void) {
    mg_plan_free(plan);
    mg_checkpoint_free(&mem->base);
}

TestSuite(expr, .init = setup, .fini = teardown);

static const mg_expr *source(uint32_t t) {
    const mg_expr *e;
    cr_assert_eq(mg_expr_source(plan, &mem->base, t, &e, &err), MG_OK);
    return e;
}

static const mg_expr *view(const mg_expr *c, mg_view v) {
    const mg_expr *e;
    cr_assert_eq(mg_expr_view(plan, c, &v, &e, &err), MG_OK, "%s", err.message);
    return e;
}

/* All rows of e, and every sub-range of them, must equal want. */
static void check_bytes(const mg_expr *e, const void *want) {
    mg_eval ev;
    mg_eval_init(&ev);
    uint8_t *got = malloc(e->t.n_bytes);
    for (uint64_t r = 0; r < e->rows; r++)
        for (uint64_t n = 1; n <= e->rows - r; n += n < 5 ? 1 : 7) {
            memset(got, 0xEE, e->t.n_bytes);
            cr_assert_eq(mg_expr_eval(e, &ev, r, n, got, &err), MG_OK, "%s", err.message);
            cr_assert_eq(ev.depth, 0);
            cr_assert_arr_eq(got, (const uint8_t *)want + r * e->row_bytes, n * e->row_bytes);
        }
    cr_assert_eq(mg_expr_eval(e, &ev, e->rows, 1, got, NULL), MG_ERR_INTERNAL);
    free(got);
    mg_eval_release(&ev);
}

Test(expr, source_and_interning) {
    uint32_t a = memory_add_known(mem, "a", MG_BF16, 2, (uint64_t[]){24, 6}, 1);
    const mg_expr *e = source(a);
    check_bytes(e, mem->data[a]);
    cr_assert_eq(source(a), e);
    mg_view v = {.kind = MG_VIEW_ROPE_PERM, .a = 3};
    cr_assert_eq(view(e, v), view(source(a), v));
    v.a = 1;
    cr_assert_neq(view(e, v), view(e, (mg_view){.kind = MG_VIEW_ROPE_PERM, .a = 3}));
}

Test(expr, rotary_order_both_ways) {
    enum { H = 3, D = 8, C = 5 };
    uint32_t a = memory_add_known(mem, "a", MG_F16, 2, (uint64_t[]){H * D, C}, 3);
    const uint16_t *in = (const uint16_t *)(void *)mem->data[a];
    uint16_t perm[H * D * C], unperm[H * D * C];
    for (int h = 0; h < H; h++)
        for (int t = 0; t < 2; t++)
            for (int j = 0; j < D / 2; j++)
                for (int c = 0; c < C; c++) {
                    perm[(h * D + 2 * j + t) * C + c] = in[(h * D + t * D / 2 + j) * C + c];
                    unperm[(h * D + t * D / 2 + j) * C + c] = in[(h * D + 2 * j + t) * C + c];
                }
    const mg_expr *p = view(source(a), (mg_view){.kind = MG_VIEW_ROPE_PERM, .a = H});
    check_bytes(p, perm);
    cr_assert_eq(p->grain, D);
    check_bytes(view(source(a), (mg_view){.kind = MG_VIEW_ROPE_UNPERM, .a = H}), unperm);
    check_bytes(view(p, (mg_view){.kind = MG_VIEW_ROPE_UNPERM, .a = H}), in);
    /* A bias: elements move. */
    uint32_t b = memory_add_known(mem, "b", MG_F32, 1, (uint64_t[]){H * D}, 5);
    const float *bias = (const float *)(void *)mem->data[b];
    float want[H * D];
    for (int h = 0; h < H; h++)
        for (int t = 0; t < 2; t++)
            for (int j = 0; j < D / 2; j++) want[h * D + 2 * j + t] = bias[h * D + t * D / 2 + j];
    check_bytes(view(source(b), (mg_view){.kind = MG_VIEW_ROPE_PERM, .a = H}), want);
}

Test(expr, a_head_is_one_read) {
    uint32_t a = memory_add_known(mem, "a", MG_F16, 2, (uint64_t[]){64, 4}, 3);
    const mg_expr *p = view(source(a), (mg_view){.kind = MG_VIEW_ROPE_PERM, .a = 4});
    mg_eval ev;
    uint16_t out[64 * 4];
    mg_eval_init(&ev);
    cr_assert_eq(mg_expr_eval(p, &ev, 0, 64, out, &err), MG_OK);
    cr_assert_eq(mem->reads, 4);
    cr_assert_eq(ev.bytes_read, sizeof out);
    mg_eval_release(&ev);
}

Test(expr, select_rows_reshape_transpose) {
    uint32_t a = memory_add_known(mem, "a", MG_BF16, 3, (uint64_t[]){3, 10, 4}, 7);
    const uint16_t *in = (const uint16_t *)(void *)mem->data[a];
    check_bytes(view(source(a), (mg_view){.kind = MG_VIEW_SELECT, .a = 2}), in + 2 * 40);
    uint32_t b = memory_add_known(mem, "b", MG_BF16, 2, (uint64_t[]){12, 6}, 9);
    in = (const uint16_t *)(void *)mem->data[b];
    uint16_t want[72];
    for (uint64_t step = 1; step <= 6; step++) { /* both the span and the row by row path */
        uint64_t n = 11 / step;
        for (uint64_t i = 0; i < n; i++) memcpy(want + i * 6, in + (1 + i * step) * 6, 12);
        check_bytes(view(source(b), (mg_view){.kind = MG_VIEW_ROWS, .a = 1, .b = n, .step = step}), want);
    }
    check_bytes(view(source(b), (mg_view){.kind = MG_VIEW_RESHAPE, .a = 8, .b = 9}), in);
    check_bytes(view(source(b), (mg_view){.kind = MG_VIEW_RESHAPE, .a = 72}), in);
    check_bytes(view(source(b), (mg_view){.kind = MG_VIEW_RESHAPE, .a = 36, .b = 2}), in);
    for (int r = 0; r < 12; r++)
        for (int c = 0; c < 6; c++) want[c * 12 + r] = in[r * 6 + c];
    check_bytes(view(source(b), (mg_view){.kind = MG_VIEW_TRANSPOSE}), want);
}

/* Groups of rows; and the slowest dimension of a stack: matrices are picked, reordered and transposed one by one. */
Test(expr, groups_and_stacks) {
    uint32_t b = memory_add_known(mem, "b", MG_BF16, 2, (uint64_t[]){12, 6}, 9),
             c = memory_add_known(mem, "c", MG_BF16, 3, (uint64_t[]){8, 3, 5}, 2);
    const uint16_t *in = (const uint16_t *)(void *)mem->data[b];
    uint16_t want[120];
    for (int g = 0; g < 3; g++) memcpy(want + g * 12, in + (g * 4 + 1) * 6, 24);
    check_bytes(view(source(b), (mg_view){.kind = MG_VIEW_GROUPS, .a = 1, .b = 2, .step = 4}), want);
    in = (const uint16_t *)(void *)mem->data[c];
    for (int i = 0; i < 3; i++) memcpy(want + i * 15, in + (1 + 2 * i) * 15, 30);
    check_bytes(view(source(c), (mg_view){.kind = MG_VIEW_ROWS, .a = 1, .b = 3, .step = 2}), want);
    for (int i = 0; i < 8; i++) memcpy(want + (i / 4 * 4 + i % 2 * 2 + i % 4 / 2) * 15, in + i * 15, 30);
    check_bytes(view(source(c), (mg_view){.kind = MG_VIEW_ROPE_PERM, .a = 2}), want);
    for (int i = 0; i < 120; i++) want[i / 15 * 15 + i % 5 * 3 + i % 15 / 5] = in[i];
    check_bytes(view(source(c), (mg_view){.kind = MG_VIEW_TRANSPOSE}), want);
}

Test(expr, add_is_exact_f32) {
    uint32_t a = memory_add_known(mem, "a", MG_BF16, 1, (uint64_t[]){9}, 2);
    float want[9];
    for (int i = 0; i < 9; i++) want[i] = mg_bf16_to_f32(((uint16_t *)(void *)mem->data[a])[i]) + 0.0009765625f;
    const mg_expr *e = view(source(a), (mg_view){.kind = MG_VIEW_ADD, .value = 0.0009765625});
    cr_assert_eq(e->t.dtype, MG_F32);
    check_bytes(e, want);
}

Test(expr, stack_and_concat) {
    uint32_t a = memory_add_known(mem, "a", MG_F16, 2, (uint64_t[]){5, 4}, 1),
             b = memory_add_known(mem, "b", MG_F16, 2, (uint64_t[]){5, 4}, 2);
    uint32_t c = memory_add_known(mem, "c", MG_F16, 2, (uint64_t[]){2, 4}, 3),
             d = memory_add_known(mem, "d", MG_F32, 1, (uint64_t[]){3}, 4);
    const mg_expr *ab[3] = {source(a), source(b), source(c)}, *e;
    uint8_t want[96];
    memcpy(want, mem->data[a], 40);
    memcpy(want + 40, mem->data[b], 40);
    memcpy(want + 80, mem->data[c], 16);
    cr_assert_eq(mg_expr_stack(plan, ab, 2, &e, &err), MG_OK);
    cr_assert_eq(e->t.rank, 3);
    cr_assert_eq(e->t.shape[0], 2);
    check_bytes(e, want);
    cr_assert_eq(mg_expr_concat(plan, ab, 3, &e, &err), MG_OK);
    cr_assert_eq(e->rows, 12);
    check_bytes(e, want);
    cr_assert_eq(mg_expr_stack(plan, ab, 3, &e, NULL), MG_ERR_CONFLICT);
    const mg_expr *dd[2] = {source(d), source(d)};
    cr_assert_eq(mg_expr_concat(plan, dd, 2, &e, &err), MG_OK);
    memcpy(want, mem->data[d], 12);
    memcpy(want + 12, mem->data[d], 12);
    check_bytes(e, want);
}

Test(expr, cast_and_linear) {
    enum { R = 6, C = 64 };
    uint32_t a = memory_add_known(mem, "a", MG_BF16, 2, (uint64_t[]){R, C}, 1),
             b = memory_add_known(mem, "b", MG_F32, 2, (uint64_t[]){R, C}, 8);
    const mg_expr *e;
    float x[R * C], y[R * C];
    mg_codec_get(MG_BF16)->decode(mem->data[a], R * C, x);
    cr_assert_eq(mg_expr_cast(plan, source(a), MG_BF16, NULL, 0, &e, &err), MG_OK);
    cr_assert_eq(e, source(a));
    cr_assert_eq(mg_expr_cast(plan, source(a), MG_F32, NULL, 0, &e, &err), MG_OK);
    check_bytes(e, x);
    uint8_t q[R * C / 32 * 34];
    cr_assert_eq(mg_codec_get(MG_Q8_0)->encode(x, NULL, R * C, q, &err), MG_OK);
    cr_assert_eq(mg_expr_cast(plan, source(a), MG_Q8_0, NULL, 0, &e, &err), MG_OK);
    check_bytes(e, q);
    memcpy(y, mem->data[b], sizeof y);
    for (int i = 0; i < R * C; i++) {
        float s = 0.1f * x[i];
        x[i] = s + -2.5f * y[i];
    }
    const mg_expr *ab[2] = {source(a), source(b)};
    double f[2] = {0.1, -2.5};
    cr_assert_eq(mg_expr_linear(plan, ab, f, 2, &e, &err), MG_OK);
    check_bytes(e, x);
}

Test(expr, weights_go_by_slice) {
    enum { E = 2, R = 3, C = 256 };
    uint32_t a = memory_add_known(mem, "a", MG_F32, 3, (uint64_t[]){E, R, C}, 1);
    float w[E * C];
    for (int i = 0; i < E * C; i++) w[i] = 1.0f + (float)(i * i % 17);
    const mg_expr *e;
    cr_assert_eq(mg_expr_cast(plan, source(a), MG_Q4_0, w, C, &e, NULL), MG_ERR_FORMAT);
    cr_assert_eq(mg_expr_cast(plan, source(a), MG_Q4_0, w, E * C, &e, &err), MG_OK);
    uint8_t want[E * R * C / 32 * 18];
    for (int r = 0; r < E * R; r++)
        cr_assert_eq(mg_codec_get(MG_Q4_0)->encode((float *)(void *)mem->data[a] + r * C, w + r / R * C, C,
                                                   want + r * (C / 32 * 18), &err),
                     MG_OK);
    check_bytes(e, want);
    const mg_expr *plain;
    cr_assert_eq(mg_expr_cast(plan, source(a), MG_Q4_0, NULL, 0, &plain, &err), MG_OK);
    cr_assert_neq(plain, e);
}

Test(expr, encode_errors_name_the_row) {
    uint32_t a = memory_add_known(mem, "a", MG_F32, 2, (uint64_t[]){4, 32}, 1);
    uint32_t nan = 0x7FC00000;
    memcpy(mem->data[a] + (2 * 32 + 5) * 4, &nan, 4);
    const mg_expr *e;
    cr_assert_eq(mg_expr_cast(plan, source(a), MG_Q4_0, NULL, 0, &e, &err), MG_OK);
    mg_eval ev;
    uint8_t out[4 * 18];
    mg_eval_init(&ev);
    cr_assert_eq(mg_expr_eval(e, &ev, 0, 4, out, &err), MG_ERR_FORMAT);
    cr_assert_eq(strncmp(err.message, "row 2: ", 7), 0, "%s", err.message);
    mg_eval_release(&ev);
}

Test(expr, slots_and_constants) {
    uint64_t shape[2] = {2, 3};
    float v[6] = {1, 2, 3, 4, 5, 6};
    const mg_expr *s, *c;
    mg_xxh128 id;
    cr_assert_eq(mg_expr_slot(plan, 2, shape, &s, &err), MG_OK);
    mg_eval ev;
    float out[6];
    mg_eval_init(&ev);
    cr_assert_eq(mg_expr_eval(s, &ev, 0, 1, out, NULL), MG_ERR_INTERNAL);
    cr_assert_eq(mg_plan_id(plan, &id, NULL), MG_ERR_INTERNAL);
    cr_assert_eq(mg_expr_supply(plan, s, v, &err), MG_OK);
    check_bytes(s, v);
    cr_assert_eq(mg_plan_id(plan, &id, &err), MG_OK);
    cr_assert_eq(mg_expr_const(plan, MG_F32, 2, shape, v, &c, &err), MG_OK);
    check_bytes(c, v);
    mg_eval_release(&ev);
}

Test(expr, refusals) {
    uint32_t a = memory_add_known(mem, "a", MG_F32, 2, (uint64_t[]){6, 8}, 1);
    const mg_expr *e;
    const mg_view bad[] = {{.kind = MG_VIEW_ROPE_PERM, .a = 4},
                           {.kind = MG_VIEW_ROPE_PERM, .a = 2},
                           {.kind = MG_VIEW_ROPE_PERM, .a = 0},
                           {.kind = MG_VIEW_SELECT, .a = 6},
                           {.kind = MG_VIEW_ROWS, .a = 3, .b = 4},
                           {.kind = MG_VIEW_ROWS, .a = 1, .b = UINT64_MAX, .step = 3},
                           {.kind = MG_VIEW_GROUPS, .a = 0, .b = 2, .step = 4},
                           {.kind = MG_VIEW_GROUPS, .a = 2, .b = 2, .step = 3},
                           {.kind = MG_VIEW_RESHAPE, .a = 7, .b = 7}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        cr_assert_eq(mg_expr_view(plan, source(a), &bad[i], &e, NULL), MG_ERR_FORMAT, "%zu", i);
    cr_assert_eq(mg_expr_cast(plan, source(a), MG_I32, NULL, 0, &e, NULL), MG_ERR_UNSUPPORTED);
    cr_assert_eq(mg_expr_cast(plan, source(a), MG_Q8_0, NULL, 0, &e, NULL), MG_ERR_FORMAT); /* 8 columns */
}

static const mg_expr *constant(mg_dtype d, uint32_t rank, uint64_t a, uint64_t b, const void *data) {
    const mg_expr *e;
    const uint64_t shape[2] = {a, b};
    cr_assert_eq(mg_expr_const(plan, d, rank, shape, data, &e, &err), MG_OK, "%s", err.message);
    return e;
}

/* Codes chosen by a stage of its own are packed like those of rounding to nearest; one that needs more bits is refused.
 */
Test(expr, group_pack_is_group_encode) {
    enum { N = 64, K = 96 };
    const mg_expr *w = source(memory_add_known(mem, "w", MG_F32, 2, (uint64_t[]){N, K}, 5)), *a[MG_GROUP_MAX_PARTS],
                  *b[MG_GROUP_MAX_PARTS];
    for (mg_group_format f = 0; f < MG_FORMAT_MLX; f++) {
        const mg_group_scheme s = mg_group_format_scheme(f, 4, 32, false, MG_F16);
        mg_group_form form;
        mg_group_codes q;
        cr_assert_eq(mg_group_form_init(&form, f, &s, N, K, &err), MG_OK);
        cr_assert_eq(mg_group_codes_init(&q, &s, N, K, &err), MG_OK);
        for (uint64_t i = 0; i < N; i++)
            cr_assert_eq(mg_group_codes_set(&q, i, (const float *)(const void *)mem->data[w->tensor] + i * K, &err), 0);
        const mg_expr *scales = constant(MG_F32, 2, N, 3, q.scales), *zeros = constant(MG_U8, 2, N, 3, q.zeros), *codes;
        codes = constant(MG_U8, 2, N, K, q.codes);
        cr_assert_eq(mg_expr_group_encode(plan, w, NULL, &form, a, &err), MG_OK, "%s", err.message);
        cr_assert_eq(mg_expr_group_pack(plan, codes, scales, zeros, &form, b, &err), MG_OK, "%s", err.message);
        mg_eval ev;
        mg_eval_init(&ev);
        for (uint32_t p = 0; p < form.n_parts; p++) {
            uint8_t *want = malloc(a[p]->t.n_bytes);
            cr_assert_eq(mg_expr_eval(a[p], &ev, 0, a[p]->rows, want, &err), MG_OK, "%s", err.message);
            check_bytes(b[p], want);
            free(want);
        }
        q.codes[70] = 16;
        codes = constant(MG_U8, 2, N, K, q.codes);
        cr_assert_eq(mg_expr_group_pack(plan, codes, scales, zeros, &form, b, &err), MG_OK);
        uint8_t *out = malloc(b[0]->t.n_bytes);
        cr_assert_eq(mg_expr_eval(b[0], &ev, 0, b[0]->rows, out, NULL), MG_ERR_FORMAT);
        free(out);
        mg_eval_release(&ev);
        mg_group_codes_release(&q);
    }
}
