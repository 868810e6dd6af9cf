/* expr_eval.c - rows of an expression, computed into the caller's buffer.
 *
 * Rules that keep memory bounded: a node asks its children for a few rows at a time (tiles of TILE bytes, or one row
 * when a row is longer), tiles live on a per-worker stack and are reused, and nothing is allocated per row. */
#include "convert/expr.h"

#include "quant/codec.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TILE = 256 * 1024 };

void mg_eval_init(mg_eval *ev) {
    memset(ev, 0, sizeof *ev);
}

void mg_eval_release(mg_eval *ev) {
    for (size_t i = 0; i < sizeof ev->slots / sizeof ev->slots[0]; i++) free(ev->slots[i].p);
    memset(ev, 0, sizeof *ev);
}

mg_status mg_eval_push(mg_eval *ev, uint64_t n, void **out, mg_error *err) {
    if (ev->depth >= sizeof ev->slots / sizeof ev->slots[0])
        return mg_fail(err, MG_ERR_INTERNAL, "evaluation nests too deeply");
    if (ev->slots[ev->depth].cap < n) {
        free(ev->slots[ev->depth].p);
        ev->slots[ev->depth].cap = 0;
        ev->slots[ev->depth].p = malloc((size_t)n);
        if (!ev->slots[ev->depth].p) return mg_fail_nomem(err, n);
        ev->slots[ev->depth].cap = n;
    }
    *out = ev->slots[ev->depth++].p;
    return MG_OK;
}

void mg_eval_pop(mg_eval *ev) {
    ev->depth--;
}

/* Rows of `bytes` each that make a tile: at least one, at most n. */
static uint64_t tile_rows(uint64_t bytes, uint64_t limit, uint64_t n) {
    uint64_t k = bytes ? limit / bytes : n;
    if (k == 0) k = 1;
    return k < n ? k : n;
}

static uint64_t cols_of(const mg_expr *e) {
    return mg_tensor_cols(&e->t);
}

/* ---- leaves ---- */

static mg_status eval_source(const mg_expr *e, mg_eval *ev, uint64_t row, uint64_t n, void *dst, mg_error *err) {
    MG_TRY(mg_checkpoint_read_rows(e->ckpt, e->tensor, row, n, dst, err));
    ev->bytes_read += n * e->row_bytes;
    return MG_OK;
}

static mg_status eval_memory(const mg_expr *e, uint64_t row, uint64_t n, void *dst, mg_error *err) {
    const mg_expr *where = e->slot ? e->slot : e;
    const uint8_t *data = __atomic_load_n(&where->data, __ATOMIC_ACQUIRE);
    if (!data) return mg_fail(err, MG_ERR_INTERNAL, "values that were to be supplied later are read before that");
    memcpy(dst, data + row * e->row_bytes, (size_t)(n * e->row_bytes));
    return MG_OK;
}

/* ---- arithmetic ---- */

mg_status mg_expr_eval_f32(const mg_expr *e, mg_eval *ev, uint64_t row, uint64_t n, float *dst, mg_error *err) {
    if (e->t.dtype == MG_F32) return mg_expr_eval(e, ev, row, n, dst, err);
    const mg_codec *c = mg_codec_get(e->t.dtype);
    if (!c) return mg_fail(err, MG_ERR_UNSUPPORTED, "no arithmetic on the type %s", mg_dtype_get(e->t.dtype)->name);
    uint64_t step = tile_rows(e->row_bytes, TILE, n);
    void *raw;
    MG_TRY(mg_eval_push(ev, step * e->row_bytes, &raw, err));
    mg_status st = MG_OK;
    for (uint64_t i = 0; i < n && st == MG_OK; i += step) {
        uint64_t k = n - i < step ? n - i : step;
        st = mg_expr_eval(e, ev, row + i, k, raw, err);
        if (st == MG_OK) c->decode(raw, k * cols_of(e), dst + i * cols_of(e));
    }
    mg_eval_pop(ev);
    return st;
}

/* Put "row N: " before the message of a failed encoder. */
static void name_row(mg_error *err, uint64_t row) {
    if (!err) return;
    char text[sizeof err->message];
    memcpy(text, err->message, sizeof text);
    text[sizeof text - 1] = 0;
    int used = snprintf(err->message, sizeof err->message, "row %llu: ", (unsigned long long)row);
    size_t at = used > 0 ? (size_t)used : 0, room = sizeof err->message - 1 - at, len = strlen(text);
    if (len > room) len = room;
    memcpy(err->message + at, text, len);
    err->message[at + len] = 0;
}

static mg_status encode_rows(const mg_expr *cast, const float *x, uint64_t row, uint64_t n, uint8_t *dst,
                             mg_error *err) {
    const mg_codec *c = mg_codec_get(cast->t.dtype);
    uint64_t cols = cols_of(cast), per_slice = cast->n_weights > cols ? cast->rows / (cast->n_weights / cols) : 0;
    for (uint64_t i = 0; i < n; i++) {
        const float *w = cast->weights;
        if (w && per_slice) w += (row + i) / per_slice * cols;
        mg_status st = c->encode(x + i * cols, w, cols, dst + i * cast->row_bytes, err);
        if (st != MG_OK) {
            name_row(err, row + i);
            return st;
        }
    }
    return MG_OK;
}

mg_status mg_expr_cast_rows(const mg_expr *cast, mg_eval *ev, const void *child_rows, uint64_t row, uint64_t n,
                            void *dst, mg_error *err) {
    const mg_expr *child = cast->children[0];
    uint64_t cols = cols_of(cast);
    if (cast->t.dtype == MG_F32) {
        mg_codec_get(child->t.dtype)->decode(child_rows, n * cols, dst);
        return MG_OK;
    }
    if (child->t.dtype == MG_F32) return encode_rows(cast, child_rows, row, n, dst, err);
    uint64_t step = tile_rows(cols * sizeof(float), TILE, n);
    void *f32;
    MG_TRY(mg_eval_push(ev, step * cols * sizeof(float), &f32, err));
    mg_status st = MG_OK;
    for (uint64_t i = 0; i < n && st == MG_OK; i += step) {
        uint64_t k = n - i < step ? n - i : step;
        mg_codec_get(child->t.dtype)->decode((const uint8_t *)child_rows + i * child->row_bytes, k * cols, f32);
        st = encode_rows(cast, f32, row + i, k, (uint8_t *)dst + i * cast->row_bytes, err);
    }
    mg_eval_pop(ev);
    return st;
}

static mg_status eval_cast(const mg_expr *e, mg_eval *ev, uint64_t row, uint64_t n, uint8_t *dst, mg_error *err) {
    const mg_expr *child = e->children[0];
    if (e->t.dtype == MG_F32) return mg_expr_eval_f32(child, ev, row, n, (float *)(void *)dst, err);
    uint64_t step = tile_rows(child->row_bytes, TILE, n);
    void *raw;
    MG_TRY(mg_eval_push(ev, step * child->row_bytes, &raw, err));
    mg_status st = MG_OK;
    for (uint64_t i = 0; i < n && st == MG_OK; i += step) {
        uint64_t k = n - i < step ? n - i : step;
        st = mg_expr_eval(child, ev, row + i, k, raw, err);
        if (st == MG_OK) st = mg_expr_cast_rows(e, ev, raw, row + i, k, dst + i * e->row_bytes, err);
    }
    mg_eval_pop(ev);
    return st;
}

/* Factors are rounded to f32 first; then acc = factor_0 * x_0, acc = acc + factor_i * x_i, each operation rounded. */
static mg_status eval_linear(const mg_expr *e, mg_eval *ev, uint64_t row, uint64_t n, float *dst, mg_error *err) {
    uint64_t cols = cols_of(e), step = tile_rows(cols * sizeof(float), TILE, n);
    void *tile;
    MG_TRY(mg_eval_push(ev, step * cols * sizeof(float), &tile, err));
    mg_status st = MG_OK;
    for (uint64_t r = 0; r < n && st == MG_OK; r += step) {
        uint64_t k = n - r < step ? n - r : step;
        float *acc = dst + r * cols, *x = tile;
        for (uint32_t c = 0; c < e->n_children; c++) {
            st = mg_expr_eval_f32(e->children[c], ev, row + r, k, x, err);
            if (st != MG_OK) break;
            float f = (float)e->factors[c];
            for (uint64_t i = 0; i < k * cols; i++) acc[i] = c == 0 ? f * x[i] : acc[i] + f * x[i];
        }
    }
    mg_eval_pop(ev);
    return st;
}

static mg_status eval_add(const mg_expr *e, mg_eval *ev, uint64_t row, uint64_t n, float *dst, mg_error *err) {
    MG_TRY(mg_expr_eval_f32(e->children[0], ev, row, n, dst, err));
    float v = (float)e->view.value;
    for (uint64_t i = 0; i < n * cols_of(e); i++) dst[i] += v;
    return MG_OK;
}

/* ---- rows from several children ---- */

static mg_status eval_below(const mg_expr *e, mg_eval *ev, uint64_t row, uint64_t n, uint8_t *dst, mg_error *err) {
    uint64_t first = 0; /* first row of child c */
    for (uint32_t c = 0; c < e->n_children && n; c++) {
        uint64_t rows = e->children[c]->rows;
        if (row < first + rows) {
            uint64_t k = first + rows - row < n ? first + rows - row : n;
            MG_TRY(mg_expr_eval(e->children[c], ev, row - first, k, dst, err));
            row += k;
            n -= k;
            dst += k * e->row_bytes;
        }
        first += rows;
    }
    return MG_OK;
}

/* Vectors joined: the one row is the children's rows side by side. */
static mg_status eval_beside(const mg_expr *e, mg_eval *ev, uint8_t *dst, mg_error *err) {
    for (uint32_t c = 0; c < e->n_children; c++) {
        MG_TRY(mg_expr_eval(e->children[c], ev, 0, 1, dst, err));
        dst += e->children[c]->row_bytes;
    }
    return MG_OK;
}

/* ---- views ---- */

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
    uint64_t tile = tile_rows(e->row_bytes * step, TILE, n);
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
    uint64_t r_all = e->t.shape[e->t.rank - 1], step = tile_rows(child->row_bytes, 1 << 20, r_all);
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
    uint64_t step = tile_rows(child->row_bytes, TILE, child->rows);
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

static mg_status eval_view(const mg_expr *e, mg_eval *ev, uint64_t row, uint64_t n, void *dst, mg_error *err) {
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

mg_status mg_expr_eval(const mg_expr *e, mg_eval *ev, uint64_t row, uint64_t n, void *dst, mg_error *err) {
    if (n == 0) return MG_OK;
    if (!mg_range_fits(row, n, e->rows))
        return mg_fail(err, MG_ERR_INTERNAL, "rows %llu+%llu of an expression with %llu", (unsigned long long)row,
                       (unsigned long long)n, (unsigned long long)e->rows);
    switch (e->op) {
    case MG_EX_SOURCE:
        return eval_source(e, ev, row, n, dst, err);
    case MG_EX_CONST:
    case MG_EX_SLOT:
        return eval_memory(e, row, n, dst, err);
    case MG_EX_CAST:
        return eval_cast(e, ev, row, n, dst, err);
    case MG_EX_LINEAR:
        return eval_linear(e, ev, row, n, dst, err);
    case MG_EX_CONCAT:
        if (e->t.rank == 1) return eval_beside(e, ev, dst, err);
        return eval_below(e, ev, row, n, dst, err);
    case MG_EX_STACK:
        return eval_below(e, ev, row, n, dst, err);
    case MG_EX_VIEW:
        return eval_view(e, ev, row, n, dst, err);
    case MG_EX_OP_COUNT:
        break;
    }
    return mg_fail(err, MG_ERR_INTERNAL, "unknown expression %d", (int)e->op);
}

/* ---- description ---- */

static const char *const view_names[] = {
    [MG_VIEW_SELECT] = "select",
    [MG_VIEW_ROWS] = "rows",
    [MG_VIEW_GROUPS] = "groups",
    [MG_VIEW_ROPE_UNPERM] = "rope_half_split",
    [MG_VIEW_ROPE_PERM] = "rope_interleave",
    [MG_VIEW_TRANSPOSE] = "transpose",
    [MG_VIEW_RESHAPE] = "reshape",
    [MG_VIEW_ADD] = "add",
};

static mg_json *view_json(const mg_expr *e) {
    mg_json *a = mg_json_new_array();
    const mg_view *v = &e->view;
    mg_json_push(a, mg_json_new_str(view_names[v->kind]));
    if (v->kind == MG_VIEW_ADD) mg_json_push(a, mg_json_new_f64(v->value));
    if (v->kind != MG_VIEW_ADD && v->kind != MG_VIEW_TRANSPOSE) mg_json_push(a, mg_json_new_u64(v->a));
    bool rows = v->kind == MG_VIEW_ROWS || v->kind == MG_VIEW_GROUPS;
    if (rows) mg_json_push(a, mg_json_new_u64(v->step ? v->step : 1));
    if (rows || v->kind == MG_VIEW_RESHAPE) mg_json_push(a, mg_json_new_u64(v->b));
    return a;
}

static mg_json *hash_json(mg_xxh128 h) {
    char hex[33];
    mg_hex(h.bytes, sizeof h.bytes, hex);
    return mg_json_new_str(hex);
}

/* ["const"|"slot", dtype, [shape], xxh3 of the bytes] */
static mg_json *memory_json(const mg_expr *e) {
    mg_json *a = mg_json_new_array(), *shape = mg_json_new_array();
    mg_json_push(a, mg_json_new_str(e->op == MG_EX_CONST ? "const" : "slot"));
    mg_json_push(a, mg_json_new_str(mg_dtype_get(e->t.dtype)->name));
    for (uint32_t i = 0; i < e->t.rank; i++) mg_json_push(shape, mg_json_new_u64(e->t.shape[i]));
    mg_json_push(a, shape);
    const void *data = __atomic_load_n(&(e->slot ? e->slot : e)->data, __ATOMIC_ACQUIRE);
    mg_json_push(a, data ? hash_json(mg_xxh128_of(data, (size_t)e->t.n_bytes)) : mg_json_new_null());
    return a;
}

mg_json *mg_expr_json(const mg_expr *e) {
    static const char *const names[MG_EX_OP_COUNT] = {"source", "const", "slot",   "cast",
                                                      "linear", "stack", "concat", ""};
    mg_json *a;
    if (e->op == MG_EX_CONST || e->op == MG_EX_SLOT) return memory_json(e);
    if (e->op == MG_EX_VIEW) {
        a = view_json(e);
    } else {
        a = mg_json_new_array();
        mg_json_push(a, mg_json_new_str(names[e->op]));
    }
    if (e->op == MG_EX_SOURCE) {
        mg_json_push(a, mg_json_new_u64(e->input));
        mg_json_push(a, mg_json_new_str(e->t.name));
    }
    if (e->op == MG_EX_CAST) {
        mg_json_push(a, mg_json_new_str(mg_dtype_get(e->t.dtype)->name));
        if (e->weights) mg_json_push(a, hash_json(e->hash));
    }
    for (uint32_t i = 0; i < e->n_children; i++) {
        if (e->op == MG_EX_LINEAR) mg_json_push(a, mg_json_new_f64(e->factors[i]));
        mg_json_push(a, mg_expr_json(e->children[i]));
    }
    return a;
}

const char *mg_expr_origin(const mg_expr *e, mg_dtype *dtype) {
    while (e->n_children) e = e->children[0];
    if (dtype) *dtype = e->t.dtype;
    return e->op == MG_EX_SOURCE ? e->t.name : "computed";
}
