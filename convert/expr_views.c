/* expr_views.c - rows of a view: the child's rows picked, reordered, transposed or cut elsewhere. What is contiguous in
 * the child is read in one piece. */
#include "convert/expr_tile.h"

#include <string.h>

/* Which stored index of the slowest dimension holds logical index i. D: indices of a head. */
static uint64_t source_index(const mg_expr *e, uint64_t D, uint64_t i) {
    const mg_view *v = &e->view;
    if (v->kind == MG_VIEW_ROWS) return v->a + i * (v->step ? v->step : 1);
    if (v->kind == MG_VIEW_GROUPS) return i / v->b * v->step + v->a + i % v->b;
    uint64_t head = i / D * D, r = i % D, half = D / 2;
    if (v->kind == MG_VIEW_ROPE_UNPERM) return head + 2 * (r % half) + r / half;
    return head + r % 2 * half + r / 2;
}

/* The same for rows: an index of the slowest dimension of a rank-3 tensor is several rows. */
static uint64_t source_row(const mg_expr *e, uint64_t D, uint64_t row) {
    if (e->t.rank < 3) return source_index(e, D, row);
    uint64_t inner = e->rows / e->t.shape[0];
    return source_index(e, D, row / inner) * inner + row % inner;
}

static uint64_t head_size(const mg_expr *e) {
    bool rope = e->view.kind == MG_VIEW_ROPE_PERM || e->view.kind == MG_VIEW_ROPE_UNPERM;
    return rope ? e->t.shape[0] / e->view.a : 1;
}

/* A vector's elements reordered or picked. */
static mg_status eval_elements(const mg_expr *e, mg_eval *ev, uint8_t *dst, mg_error *err) {
    const mg_expr *child = e->children[0];
    size_t size = mg_dtype_get(e->t.dtype)->block_bytes;
    uint64_t D = head_size(e);
    void *row;
    MG_TRY(mg_eval_push(ev, child->row_bytes, &row, err));
    mg_status st = mg_expr_eval(child, ev, 0, 1, row, err);
    for (uint64_t i = 0; st == MG_OK && i < e->t.n_elements; i++)
        memcpy(dst + i * size, (const uint8_t *)row + source_index(e, D, i) * size, size);
    mg_eval_pop(ev);
    return st;
}

/* Rows first..first+span of the child are read in one piece, then out rows [row, row+n) are picked from them. */
static mg_status gather_span(const mg_expr *e, mg_eval *ev, uint64_t D, uint64_t row, uint64_t n, uint64_t first,
                             uint64_t span, uint8_t *dst, mg_error *err) {
    const mg_expr *child = e->children[0];
    void *tile;
    MG_TRY(mg_eval_push(ev, span * child->row_bytes, &tile, err));
    mg_status st = mg_expr_eval(child, ev, first, span, tile, err);
    for (uint64_t i = 0; st == MG_OK && i < n; i++)
        memcpy(dst + i * e->row_bytes, (const uint8_t *)tile + (source_row(e, D, row + i) - first) * e->row_bytes,
               (size_t)e->row_bytes);
    mg_eval_pop(ev);
    return st;
}

/* Runs of rows that are neighbours in the child, one read each. */
static mg_status gather_runs(const mg_expr *e, mg_eval *ev, uint64_t D, uint64_t row, uint64_t n, uint8_t *dst,
                             mg_error *err) {
    while (n) {
        uint64_t first = source_row(e, D, row), k = 1;
        while (k < n && source_row(e, D, row + k) == first + k) k++;
        MG_TRY(mg_expr_eval(e->children[0], ev, first, k, dst, err));
        row += k;
        n -= k;
        dst += k * e->row_bytes;
    }
    return MG_OK;
}

/* One head at a time: its rows are contiguous in the child, so they are one read and a shuffle; a few rows of a head,
 * or a head too large for a tile, are read run by run. */
static mg_status eval_rope(const mg_expr *e, mg_eval *ev, uint64_t row, uint64_t n, uint8_t *dst, mg_error *err) {
    if (e->t.rank == 1) return eval_elements(e, ev, dst, err);
    uint64_t D = head_size(e), rows = D * (e->rows / e->t.shape[0]); /* of a head */
    bool big = rows > (16u << 20) / (e->row_bytes ? e->row_bytes : 1);
    while (n) {
        uint64_t head = row / rows * rows, k = head + rows - row < n ? head + rows - row : n;
        if (big || k < rows / 4)
            MG_TRY(gather_runs(e, ev, D, row, k, dst, err));
        else
            MG_TRY(gather_span(e, ev, D, row, k, head, rows, dst, err));
        row += k;
        n -= k;
        dst += k * e->row_bytes;
    }
    return MG_OK;
}

/* Every second, third or fourth row is picked from a contiguous read; wider steps are read run by run. */
static mg_status eval_rows(const mg_expr *e, mg_eval *ev, uint64_t row, uint64_t n, uint8_t *dst, mg_error *err) {
    if (e->t.rank == 1) return eval_elements(e, ev, dst, err);
    uint64_t step = e->view.step;
    if (e->view.kind != MG_VIEW_ROWS || e->t.rank != 2 || step < 2 || step > 4)
        return gather_runs(e, ev, 1, row, n, dst, err);
    uint64_t tile = mg_expr_tile_rows(e->row_bytes * step, MG_EXPR_TILE, n);
    for (uint64_t i = 0; i < n; i += tile) {
        uint64_t k = n - i < tile ? n - i : tile, first = source_row(e, 1, row + i);
        MG_TRY(gather_span(e, ev, 1, row + i, k, first, (k - 1) * step + 1, dst + i * e->row_bytes, err));
    }
    return MG_OK;
}

/* Of one matrix [r, c]: out row i is column i. Tiles of child rows, a column strip taken from each. first: the matrix's
 * first row in the child. */
static mg_status transpose_matrix(const mg_expr *e, mg_eval *ev, uint64_t first, uint64_t row, uint64_t n, uint8_t *dst,
                                  mg_error *err) {
    const mg_expr *child = e->children[0];
    size_t size = mg_dtype_get(e->t.dtype)->block_bytes;
    uint64_t r_all = e->t.shape[e->t.rank - 1], step = mg_expr_tile_rows(child->row_bytes, 1 << 20, r_all);
    void *tile;
    MG_TRY(mg_eval_push(ev, step * child->row_bytes, &tile, err));
    mg_status st = MG_OK;
    for (uint64_t j = 0; j < r_all && st == MG_OK; j += step) {
        uint64_t k = r_all - j < step ? r_all - j : step;
        st = mg_expr_eval(child, ev, first + j, k, tile, err);
        for (uint64_t i = 0; st == MG_OK && i < n; i++)
            for (uint64_t r = 0; r < k; r++)
                memcpy(dst + i * e->row_bytes + (j + r) * size,
                       (const uint8_t *)tile + r * child->row_bytes + (row + i) * size, size);
    }
    mg_eval_pop(ev);
    return st;
}

static mg_status eval_transpose(const mg_expr *e, mg_eval *ev, uint64_t row, uint64_t n, uint8_t *dst, mg_error *err) {
    uint64_t c = e->t.shape[e->t.rank - 2], r = e->t.shape[e->t.rank - 1];
    while (n) {
        uint64_t matrix = row / c, at = row % c, k = c - at < n ? c - at : n;
        MG_TRY(transpose_matrix(e, ev, matrix * r, at, k, dst, err));
        row += k;
        n -= k;
        dst += k * e->row_bytes;
    }
    return MG_OK;
}

/* The bytes are the same, only the rows are cut elsewhere: copy from the child's covering rows. */
static mg_status eval_reshape(const mg_expr *e, mg_eval *ev, uint64_t row, uint64_t n, uint8_t *dst, mg_error *err) {
    const mg_expr *child = e->children[0];
    if (e->row_bytes == child->row_bytes) return mg_expr_eval(child, ev, row, n, dst, err);
    uint64_t at = row * e->row_bytes, left = n * e->row_bytes;
    uint64_t step = mg_expr_tile_rows(child->row_bytes, MG_EXPR_TILE, child->rows);
    void *tile;
    if (left == 0) return MG_OK;
    MG_TRY(mg_eval_push(ev, step * child->row_bytes, &tile, err));
    mg_status st = MG_OK;
    while (left && st == MG_OK) {
        uint64_t r = at / child->row_bytes, skip = at % child->row_bytes;
        uint64_t want = (skip + left + child->row_bytes - 1) / child->row_bytes, k = want < step ? want : step;
        st = mg_expr_eval(child, ev, r, k, tile, err);
        uint64_t take = k * child->row_bytes - skip;
        if (take > left) take = left;
        if (st == MG_OK) memcpy(dst, (const uint8_t *)tile + skip, (size_t)take);
        at += take;
        left -= take;
        dst += take;
    }
    mg_eval_pop(ev);
    return st;
}

static mg_status eval_add(const mg_expr *e, mg_eval *ev, uint64_t row, uint64_t n, float *dst, mg_error *err) {
    MG_TRY(mg_expr_eval_f32(e->children[0], ev, row, n, dst, err));
    float v = (float)e->view.value;
    for (uint64_t i = 0; i < n * mg_expr_cols(e); i++) dst[i] += v;
    return MG_OK;
}

mg_status mg_expr_eval_view(const mg_expr *e, mg_eval *ev, uint64_t row, uint64_t n, void *dst, mg_error *err) {
    switch (e->view.kind) {
    case MG_VIEW_SELECT:
        return mg_expr_eval(e->children[0], ev, e->view.a * e->rows + row, n, dst, err);
    case MG_VIEW_ROWS:
    case MG_VIEW_GROUPS:
        return eval_rows(e, ev, row, n, dst, err);
    case MG_VIEW_ROPE_UNPERM:
    case MG_VIEW_ROPE_PERM:
        return eval_rope(e, ev, row, n, dst, err);
    case MG_VIEW_TRANSPOSE:
        return eval_transpose(e, ev, row, n, dst, err);
    case MG_VIEW_RESHAPE:
        return eval_reshape(e, ev, row, n, dst, err);
    case MG_VIEW_ADD:
        return eval_add(e, ev, row, n, dst, err);
    case MG_VIEW_END:
        break;
    }
    return mg_fail(err, MG_ERR_INTERNAL, "unknown view %d", (int)e->view.kind);
}
