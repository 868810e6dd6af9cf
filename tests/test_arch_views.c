/* Views: every kind against an index formula written out here, the number of reads, and what is refused. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "formats/arch/arch_internal.h"
#include "memory_checkpoint.h"

/* A tensor of float32 whose element i is i. */
static memory_checkpoint *counting(uint32_t rank, const uint64_t *shape) {
    memory_checkpoint *m = memory_new(NULL);
    memory_add(m, "t", MG_F32, rank, shape);
    for (uint64_t i = 0; i < m->base.tensors[0].n_elements; i++) ((float *)(void *)m->data[0])[i] = (float)i;
    return m;
}

static void read_all(memory_checkpoint *m, const mg_view *views, float *out, uint32_t *rank, uint64_t *shape) {
    cr_assert(mg_views_shape(views, m->base.tensors[0].rank, m->base.tensors[0].shape, rank, shape));
    uint64_t rows = 1;
    for (uint32_t i = 0; i + 1 < *rank; i++) rows *= shape[i];
    mg_error err = {0};
    char text[2048];
    cr_assert_eq(mg_views_read(&m->base, 0, views, 0, rows, out, &err), MG_OK, "%s",
                 mg_error_text(&err, text, sizeof text));
}

Test(views, rotary_order_is_undone_by_head_in_one_read) {
    enum { H = 3, D = 8, C = 5 };
    memory_checkpoint *m = counting(2, (uint64_t[]){H * D, C});
    mg_view v[MG_MAX_VIEWS] = {{.kind = MG_VIEW_ROPE_UNPERM, .a = H}};
    float out[H * D * C];
    uint32_t rank;
    uint64_t shape[MG_MAX_RANK];
    read_all(m, v, out, &rank, shape);
    cr_assert_eq(m->reads, 1);
    for (int h = 0; h < H; h++)
        for (int t = 0; t < 2; t++)
            for (int j = 0; j < D / 2; j++)
                for (int c = 0; c < C; c++)
                    cr_assert_eq(out[(h * D + t * D / 2 + j) * C + c], (float)((h * D + 2 * j + t) * C + c));
    /* and any range of rows is the same rows */
    for (int first = 0; first < H * D; first++)
        for (int n = 1; first + n <= H * D; n++) {
            float part[H * D * C];
            cr_assert_eq(mg_views_read(&m->base, 0, v, (uint64_t)first, (uint64_t)n, part, NULL), MG_OK);
            cr_assert_arr_eq(part, out + first * C, (size_t)(n * C) * sizeof *out);
        }
    mg_checkpoint_free(&m->base);
}

Test(views, rotary_views_are_inverse) {
    memory_checkpoint *m = counting(2, (uint64_t[]){16, 4});
    mg_view v[MG_MAX_VIEWS] = {{.kind = MG_VIEW_ROPE_UNPERM, .a = 2}, {.kind = MG_VIEW_ROPE_PERM, .a = 2}};
    float out[64];
    uint32_t rank;
    uint64_t shape[MG_MAX_RANK];
    read_all(m, v, out, &rank, shape);
    for (int i = 0; i < 64; i++) cr_assert_eq(out[i], (float)i);
    mg_view chain[MG_MAX_VIEWS] = {{.kind = MG_VIEW_SELECT, .a = 1}, {.kind = MG_VIEW_ROPE_PERM, .a = 2}};
    cr_assert(mg_views_append(chain, v));
    cr_assert_eq(mg_views_count(chain), 2, "PERM UNPERM PERM is PERM");
    cr_assert_eq(chain[1].kind, MG_VIEW_ROPE_PERM);
    mg_checkpoint_free(&m->base);
}

Test(views, a_vector_moves_by_elements) {
    memory_checkpoint *m = counting(1, (uint64_t[]){8});
    mg_view v[MG_MAX_VIEWS] = {{.kind = MG_VIEW_ROPE_UNPERM, .a = 2}};
    static const float want[] = {0, 2, 1, 3, 4, 6, 5, 7};
    float out[8];
    cr_assert_eq(mg_views_read(&m->base, 0, v, 0, 1, out, NULL), MG_OK);
    cr_assert_arr_eq(out, want, sizeof want);
    mg_checkpoint_free(&m->base);
}

Test(views, fused_experts_are_one_contiguous_read) {
    enum { E = 3, I = 4, C = 2 };
    memory_checkpoint *m = counting(3, (uint64_t[]){E, 2 * I, C});
    mg_view up[MG_MAX_VIEWS] = {{.kind = MG_VIEW_SELECT, .a = 1}, {.kind = MG_VIEW_ROWS, .a = I, .b = I}};
    float out[I * C];
    uint32_t rank;
    uint64_t shape[MG_MAX_RANK];
    read_all(m, up, out, &rank, shape);
    cr_assert(rank == 2 && shape[0] == I && shape[1] == C);
    cr_assert_eq(m->reads, 1);
    for (int i = 0; i < I * C; i++) cr_assert_eq(out[i], (float)(1 * 2 * I * C + I * C + i));
    mg_checkpoint_free(&m->base);
}

Test(views, interleaved_rows_of_a_transposed_expert) { /* gpt_oss: [E, h, 2i], columns alternate gate and up */
    enum { E = 2, H = 6, I = 3 };
    memory_checkpoint *m = counting(3, (uint64_t[]){E, H, 2 * I});
    mg_view v[MG_MAX_VIEWS] = {{.kind = MG_VIEW_SELECT, .a = 1},
                               {.kind = MG_VIEW_TRANSPOSE},
                               {.kind = MG_VIEW_ROWS, .a = 1, .b = I, .step = 2}};
    float out[I * H];
    uint32_t rank;
    uint64_t shape[MG_MAX_RANK];
    read_all(m, v, out, &rank, shape);
    cr_assert(rank == 2 && shape[0] == I && shape[1] == H);
    for (int i = 0; i < I; i++)
        for (int h = 0; h < H; h++) cr_assert_eq(out[i * H + h], (float)(H * 2 * I + h * 2 * I + 2 * i + 1));
    mg_checkpoint_free(&m->base);
}

Test(views, a_large_transpose_is_read_in_slabs) {
    enum { R = 700, C = 900 };
    memory_checkpoint *m = counting(2, (uint64_t[]){R, C});
    mg_view v[MG_MAX_VIEWS] = {{.kind = MG_VIEW_TRANSPOSE}};
    float *out = malloc(sizeof(float) * 7 * R);
    cr_assert_eq(mg_views_read(&m->base, 0, v, 450, 7, out, NULL), MG_OK);
    for (int i = 0; i < 7; i++)
        for (int r = 0; r < R; r++) cr_assert_eq(out[i * R + r], (float)(r * C + 450 + i));
    cr_assert_lt(m->reads, 5);
    free(out);
    mg_checkpoint_free(&m->base);
}

/* DeepSeek's kv_b holds, head after head, N key rows and V value rows over R latents. GGUF stores the key half
 * transposed per head and stacked. Both must give the same rows. */
Test(views, the_halves_of_mla) {
    enum { H = 3, N = 4, V = 2, R = 5 };
    memory_checkpoint *hf = counting(2, (uint64_t[]){H * (N + V), R});
    mg_view keys[MG_MAX_VIEWS] = {{.kind = MG_VIEW_GROUPS, .a = 0, .b = N, .step = N + V}};
    mg_view values[MG_MAX_VIEWS] = {{.kind = MG_VIEW_GROUPS, .a = N, .b = V, .step = N + V}};
    float k[H * N * R], v[H * V * R], back[H * N * R];
    uint32_t rank;
    uint64_t shape[MG_MAX_RANK];
    read_all(hf, keys, k, &rank, shape);
    cr_assert(rank == 2 && shape[0] == H * N && shape[1] == R);
    read_all(hf, values, v, &rank, shape);
    cr_assert(rank == 2 && shape[0] == H * V && shape[1] == R);
    memory_checkpoint *gguf = memory_new(NULL);
    memory_add(gguf, "k_b", MG_F32, 3, (uint64_t[]){H, R, N});
    for (int h = 0; h < H; h++)
        for (int r = 0; r < R; r++) {
            for (int n = 0; n < N; n++) {
                cr_assert_eq(k[(h * N + n) * R + r], (float)((h * (N + V) + n) * R + r));
                ((float *)(void *)gguf->data[0])[(h * R + r) * N + n] = k[(h * N + n) * R + r];
            }
            for (int n = 0; n < V; n++) cr_assert_eq(v[(h * V + n) * R + r], (float)((h * (N + V) + N + n) * R + r));
        }
    mg_view heads[MG_MAX_VIEWS] = {{.kind = MG_VIEW_TRANSPOSE}, {.kind = MG_VIEW_RESHAPE, .a = H * N, .b = R}};
    read_all(gguf, heads, back, &rank, shape);
    cr_assert(rank == 2 && shape[0] == H * N && shape[1] == R);
    cr_assert_arr_eq(back, k, sizeof k);
    for (uint64_t row = 0; row + 3 <= H * N; row++) { /* ranges over the border of two heads */
        cr_assert_eq(mg_views_read(&gguf->base, 0, heads, row, 3, back, NULL), MG_OK);
        cr_assert_arr_eq(back, k + row * R, 3 * R * sizeof *k);
    }
    mg_checkpoint_free(&gguf->base);
    mg_checkpoint_free(&hf->base);
}

Test(views, an_added_constant_can_be_left_to_the_reader) {
    mg_bound b = {.views = {{.kind = MG_VIEW_SELECT, .a = 1}, {.kind = MG_VIEW_ADD, .value = 1}}};
    cr_assert_eq(mg_bound_take_add(&b), 1);
    cr_assert_eq(mg_views_count(b.views), 1);
    cr_assert_eq(mg_bound_take_add(&b), 0);
}

Test(views, added_constants_round_to_the_stored_type) {
    static const float in[] = {0.5f, -1.0f, 1e-3f, 255.0f};
    for (int k = 0; k < 3; k++) {
        mg_dtype type = (mg_dtype[]){MG_F32, MG_F16, MG_BF16}[k];
        memory_checkpoint *m = memory_new(NULL);
        memory_add(m, "t", type, 1, (uint64_t[]){4});
        for (int i = 0; i < 4; i++) {
            uint16_t h = type == MG_F16 ? mg_f32_to_f16(in[i]) : mg_f32_to_bf16(in[i]);
            if (type == MG_F32)
                memcpy(m->data[0] + 4 * i, &in[i], 4);
            else
                memcpy(m->data[0] + 2 * i, &h, 2);
        }
        mg_view v[MG_MAX_VIEWS] = {{.kind = MG_VIEW_ADD, .value = 1}};
        uint8_t out[16];
        cr_assert_eq(mg_views_read(&m->base, 0, v, 0, 1, out, NULL), MG_OK);
        for (int i = 0; i < 4; i++) {
            float f;
            uint16_t h;
            memcpy(&f, out + 4 * i, 4);
            memcpy(&h, out + 2 * i, 2);
            if (type == MG_F32) cr_assert_eq(f, in[i] + 1.0f);
            if (type == MG_F16) cr_assert_eq(h, mg_f32_to_f16(mg_f16_to_f32(mg_f32_to_f16(in[i])) + 1.0f));
            if (type == MG_BF16) cr_assert_eq(h, mg_f32_to_bf16(mg_bf16_to_f32(mg_f32_to_bf16(in[i])) + 1.0f));
        }
        mg_checkpoint_free(&m->base);
    }
}

Test(views, rows_of_blocks_move_whole_and_elements_of_blocks_do_not) {
    memory_checkpoint *m = memory_new(NULL);
    memory_add(m, "w", MG_Q8_0, 2, (uint64_t[]){8, 64});
    for (uint64_t i = 0; i < m->base.tensors[0].n_bytes; i++) m->data[0][i] = (uint8_t)(i / 68); /* row number */
    mg_view v[MG_MAX_VIEWS] = {{.kind = MG_VIEW_ROPE_UNPERM, .a = 2}};
    uint8_t out[8 * 68];
    cr_assert_eq(mg_views_read(&m->base, 0, v, 0, 8, out, NULL), MG_OK);
    static const uint8_t rows[] = {0, 2, 1, 3, 4, 6, 5, 7};
    for (int r = 0; r < 8; r++)
        for (int i = 0; i < 68; i++) cr_assert_eq(out[r * 68 + i], rows[r]);

    mg_error err = {0};
    mg_view t[MG_MAX_VIEWS] = {{.kind = MG_VIEW_TRANSPOSE}};
    cr_assert_eq(mg_views_read(&m->base, 0, t, 0, 1, out, &err), MG_ERR_UNSUPPORTED);
    cr_assert_str_eq(err.tensor, "w");
    mg_view a[MG_MAX_VIEWS] = {{.kind = MG_VIEW_ADD, .value = 1}};
    cr_assert_eq(mg_views_read(&m->base, 0, a, 0, 1, out, NULL), MG_ERR_UNSUPPORTED);
    mg_view e[MG_MAX_VIEWS] = {{.kind = MG_VIEW_RESHAPE, .a = 512}, {.kind = MG_VIEW_ROPE_UNPERM, .a = 2}};
    cr_assert_eq(mg_views_read(&m->base, 0, e, 0, 1, out, NULL), MG_ERR_UNSUPPORTED);
    mg_checkpoint_free(&m->base);
}

Test(views, chains_that_do_not_fit_are_refused) {
    uint64_t shape[] = {4, 6}, out[MG_MAX_RANK];
    uint32_t rank;
    const mg_view bad[] = {{.kind = MG_VIEW_SELECT, .a = 4},
                           {.kind = MG_VIEW_ROWS, .a = 1, .b = 4},
                           {.kind = MG_VIEW_ROWS, .a = 0, .b = 0},
                           {.kind = MG_VIEW_ROWS, .a = 1, .b = 2, .step = UINT64_MAX},
                           {.kind = MG_VIEW_GROUPS, .a = 0, .b = 1, .step = 3},
                           {.kind = MG_VIEW_GROUPS, .a = 1, .b = 2, .step = 2},
                           {.kind = MG_VIEW_GROUPS, .a = UINT64_MAX, .b = 2, .step = 2},
                           {.kind = MG_VIEW_ROPE_UNPERM, .a = 3},
                           {.kind = MG_VIEW_ROPE_UNPERM, .a = 4},
                           {.kind = MG_VIEW_ROPE_PERM, .a = 0},
                           {.kind = MG_VIEW_RESHAPE, .a = 5, .b = 5},
                           {.kind = MG_VIEW_RESHAPE, .a = UINT64_MAX, .b = 24}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        mg_view v[MG_MAX_VIEWS] = {bad[i]};
        cr_assert_not(mg_views_shape(v, 2, shape, &rank, out), "case %zu", i);
    }
}
