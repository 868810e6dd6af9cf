/* expr_eval.c - rows of an expression, computed into the caller's buffer.
 *
 * Rules that keep memory bounded: a node asks its children for a few rows at a time (tiles of MG_EXPR_TILE bytes, or
 * one row when a row is longer), tiles live on a per-worker stack and are reused, and nothing is allocated per row. */
#include "convert/expr_tile.h"

#include "formats/base/mix64.h"
#include "formats/base/pool.h"
#include "quant/codec.h"
#include "quant/fixed.h"
#include "quant/math/f64.h"
#include "quant/scan.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    uint64_t step = mg_expr_tile_rows(e->row_bytes, MG_EXPR_TILE, n);
    void *raw;
    MG_TRY(mg_eval_push(ev, step * e->row_bytes, &raw, err));
    mg_status st = MG_OK;
    for (uint64_t i = 0; i < n && st == MG_OK; i += step) {
        uint64_t k = n - i < step ? n - i : step;
        st = mg_expr_eval(e, ev, row + i, k, raw, err);
        if (st == MG_OK) c->decode(raw, k * mg_expr_cols(e), dst + i * mg_expr_cols(e));
    }
    mg_eval_pop(ev);
    return st;
}

void mg_expr_name_row(mg_error *err, uint64_t row) {
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
    uint64_t cols = mg_expr_cols(cast), per_slice = cast->n_weights > cols ? cast->rows / (cast->n_weights / cols) : 0;
    /* without weights blocks do not know their row, and many at once are faster; an error is found again by row below
     */
    if (!cast->weights && !cast->fixed && c->encode(x, NULL, n * cols, dst, NULL) == MG_OK) return MG_OK;
    for (uint64_t i = 0; i < n; i++) {
        const float *w = cast->weights;
        if (w && per_slice) w += (row + i) / per_slice * cols;
        uint8_t *to = dst + i * cast->row_bytes;
        mg_status st = cast->fixed ? mg_fixed_encode(c, x + i * cols, w, cols, to, err)
                                   : c->encode(x + i * cols, w, cols, to, err);
        if (st != MG_OK) {
            mg_expr_name_row(err, row + i);
            return st;
        }
    }
    return MG_OK;
}

mg_status mg_expr_cast_rows(const mg_expr *cast, mg_eval *ev, const void *child_rows, uint64_t row, uint64_t n,
                            void *dst, mg_error *err) {
    const mg_expr *child = cast->children[0];
    uint64_t cols = mg_expr_cols(cast);
    if (cast->t.dtype == MG_F32) {
        mg_codec_get(child->t.dtype)->decode(child_rows, n * cols, dst);
        return MG_OK;
    }
    if (child->t.dtype == MG_F32) return encode_rows(cast, child_rows, row, n, dst, err);
    uint64_t step = mg_expr_tile_rows(cols * sizeof(float), MG_EXPR_TILE, n);
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

mg_status mg_expr_check_cast(const mg_expr *cast, const void *stored, uint64_t row, mg_error *err) {
    const uint64_t cols = mg_expr_cols(cast);
    if (mg_dtype_is_block(cast->t.dtype) || mg_scan_finite(cast->t.dtype, stored, cols, NULL) == MG_OK) return MG_OK;
    mg_eval ev;
    float *x = malloc((size_t)cols * sizeof *x);
    if (!x) return mg_fail_nomem(err, cols * sizeof *x);
    mg_eval_init(&ev);
    mg_status st = mg_expr_eval_f32(cast->children[0], &ev, row, 1, x, err);
    if (st == MG_OK) st = mg_scan_finite(MG_F32, x, cols, err);
    for (uint64_t k = 0; st == MG_OK && k < cols; k++) /* the source is finite: the first of its largest */
        if (fabsf(x[k]) >= (cast->t.dtype == MG_F16 ? 65520.0f : 0x1.ffp127f))
            st = mg_fail(err, MG_ERR_UNSUPPORTED, "element %llu of the row is %g, which does not fit %s",
                         (unsigned long long)k, (double)x[k], mg_dtype_get(cast->t.dtype)->name);
    if (st != MG_OK) mg_expr_name_row(err, row);
    mg_eval_release(&ev);
    free(x);
    return st;
}

static mg_status eval_cast(const mg_expr *e, mg_eval *ev, uint64_t row, uint64_t n, uint8_t *dst, mg_error *err) {
    const mg_expr *child = e->children[0];
    if (e->t.dtype == MG_F32) return mg_expr_eval_f32(child, ev, row, n, (float *)(void *)dst, err);
    uint64_t step = mg_expr_tile_rows(child->row_bytes, MG_EXPR_TILE, n);
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
    uint64_t cols = mg_expr_cols(e), step = mg_expr_tile_rows(cols * sizeof(float), MG_EXPR_TILE, n);
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

/* ---- merge methods ---- */

typedef struct blend_read {
    const mg_expr *e;
    mg_eval *ev;
} blend_read;

static mg_status read_input(void *ctx, uint32_t input, uint64_t row, uint64_t n, float *dst, mg_error *err) {
    blend_read *b = ctx;
    return mg_expr_eval_f32(b->e->children[input], b->ev, row, n, dst, err);
}

/* The first reader gathers, others wait: what they wait for is read once. */
static mg_status blend_stats(const mg_expr *e, mg_eval *ev, float *work, uint64_t step, mg_error *err) {
    blend_read read = {e, ev};
    mg_blend_source source = {e->rows, mg_expr_cols(e), read_input, &read};
    mg_blend_state *s = e->state;
    pthread_mutex_lock(&s->lock);
    mg_status st = s->ready ? MG_OK : mg_blend_prepare(e->blend, &source, work, step, &s->stats, err);
    s->ready = st == MG_OK;
    pthread_mutex_unlock(&s->lock);
    return st;
}

static mg_status eval_blend(const mg_expr *e, mg_eval *ev, uint64_t row, uint64_t n, float *dst, mg_error *err) {
    uint64_t cols = mg_expr_cols(e), all = e->n_children * cols * sizeof(float);
    uint64_t step = mg_expr_tile_rows(all, MG_EXPR_TILE * 4, e->rows);
    void *tile, *scratch;
    float *x[MG_BLEND_MAX];
    MG_TRY(mg_eval_push(ev, step * all, &tile, err));
    mg_status st = mg_eval_push(ev, mg_blend_scratch(e->blend, cols), &scratch, err);
    if (st == MG_OK) {
        for (uint32_t c = 0; c < e->n_children; c++) x[c] = (float *)tile + c * (step * cols);
        st = blend_stats(e, ev, tile, step, err);
        for (uint64_t r = 0; r < n && st == MG_OK; r += step) {
            uint64_t k = n - r < step ? n - r : step;
            for (uint32_t c = 0; c < e->n_children && st == MG_OK; c++)
                st = mg_expr_eval_f32(e->children[c], ev, row + r, k, x[c], err);
            if (st == MG_OK) mg_blend_rows(e->blend, &e->state->stats, row + r, k, cols, x, scratch, dst + r * cols);
        }
        mg_eval_pop(ev);
    }
    mg_eval_pop(ev);
    return st;
}

/* ---- noise and low-rank additions ---- */

/* The number of one element, from a counter: nothing depends on which rows are asked for together. */
static double normal_at(uint64_t seed, uint64_t i) {
    uint64_t a = mg_mix64(seed + (2 * i + 1) * MG_MIX64_STEP), b = mg_mix64(seed + (2 * i + 2) * MG_MIX64_STEP);
    return mg_f64_normal(mg_open_unit_from(a), mg_open_unit_from(b));
}

static mg_status eval_noise(const mg_expr *e, mg_eval *ev, uint64_t row, uint64_t n, float *dst, mg_error *err) {
    uint64_t cols = mg_expr_cols(e);
    MG_TRY(mg_expr_eval_f32(e->children[0], ev, row, n, dst, err));
    for (uint64_t i = 0; i < n * cols; i++) dst[i] += (float)(e->factors[0] * normal_at(e->seed, row * cols + i));
    return MG_OK;
}

static mg_status eval_lowrank(const mg_expr *e, mg_eval *ev, uint64_t row, uint64_t n, float *dst, mg_error *err) {
    uint64_t cols = mg_expr_cols(e), rank = e->children[2]->rows;
    void *a, *b;
    float f = (float)e->factors[0];
    MG_TRY(mg_eval_push(ev, (rank + 1) * cols * sizeof(float), &a, err));
    mg_status st = mg_eval_push(ev, n * rank * sizeof(float), &b, err);
    float *sum = (float *)a + rank * cols;
    if (st == MG_OK) {
        st = mg_expr_eval_f32(e->children[2], ev, 0, rank, a, err);
        if (st == MG_OK) st = mg_expr_eval_f32(e->children[1], ev, row, n, b, err);
        if (st == MG_OK) st = mg_expr_eval_f32(e->children[0], ev, row, n, dst, err);
        for (uint64_t i = 0; st == MG_OK && i < n; i++) {
            memset(sum, 0, (size_t)cols * sizeof *sum);
            for (uint64_t r = 0; r < rank; r++) {
                float x = ((float *)b)[i * rank + r], *ar = (float *)a + r * cols;
                for (uint64_t k = 0; k < cols; k++) sum[k] += x * ar[k];
            }
            for (uint64_t k = 0; k < cols; k++) dst[i * cols + k] += f * sum[k];
        }
        mg_eval_pop(ev);
    }
    mg_eval_pop(ev);
    return st;
}

static mg_status eval_columns(const mg_expr *e, mg_eval *ev, uint64_t row, uint64_t n, float *dst, mg_error *err) {
    const uint64_t cols = mg_expr_cols(e);
    void *v;
    MG_TRY(mg_eval_push(ev, cols * sizeof(float), &v, err));
    mg_status st = mg_expr_eval_f32(e->children[1], ev, 0, 1, v, err);
    if (st == MG_OK) st = mg_expr_eval_f32(e->children[0], ev, row, n, dst, err);
    const float *factor = v;
    for (uint64_t i = 0; st == MG_OK && i < n; i++)
        for (uint64_t k = 0; k < cols; k++) dst[i * cols + k] *= factor[k];
    mg_eval_pop(ev);
    return st;
}

/* The norm is summed in double: rows have thousands of elements, and no order of summing is then to be seen in f32. */
static mg_status eval_norms(const mg_expr *e, mg_eval *ev, uint64_t row, uint64_t n, float *dst, mg_error *err) {
    const uint64_t cols = mg_expr_cols(e);
    void *v;
    MG_TRY(mg_eval_push(ev, e->rows * sizeof(float), &v, err));
    mg_status st = mg_expr_eval_f32(e->children[1], ev, 0, 1, v, err);
    if (st == MG_OK) st = mg_expr_eval_f32(e->children[0], ev, row, n, dst, err);
    for (uint64_t i = 0; st == MG_OK && i < n; i++) {
        double sum = 0;
        for (uint64_t k = 0; k < cols; k++) sum += (double)dst[i * cols + k] * (double)dst[i * cols + k];
        const float factor = ((const float *)v)[row + i] / (float)sqrt(sum);
        if (!isfinite(factor)) {
            st = mg_fail(err, MG_ERR_FORMAT, "a norm of %g for a row of norm %g", (double)((const float *)v)[row + i],
                         sqrt(sum));
            mg_expr_name_row(err, row + i);
        }
        for (uint64_t k = 0; st == MG_OK && k < cols; k++) dst[i * cols + k] *= factor;
    }
    mg_eval_pop(ev);
    return st;
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

/* Matrices joined: each row is the children's rows side by side. */
static mg_status eval_rows_beside(const mg_expr *e, mg_eval *ev, uint64_t row, uint64_t n, uint8_t *dst,
                                  mg_error *err) {
    uint64_t step = mg_expr_tile_rows(e->row_bytes, MG_EXPR_TILE, n);
    void *tile;
    MG_TRY(mg_eval_push(ev, step * e->row_bytes, &tile, err));
    mg_status st = MG_OK;
    for (uint64_t at = 0; at < n && st == MG_OK; at += step) {
        const uint64_t k = n - at < step ? n - at : step;
        uint8_t *to = dst + at * e->row_bytes;
        for (uint32_t c = 0; c < e->n_children && st == MG_OK; c++) {
            const uint64_t size = e->children[c]->row_bytes;
            st = mg_expr_eval(e->children[c], ev, row + at, k, tile, err);
            for (uint64_t r = 0; r < k && st == MG_OK; r++)
                memcpy(to + r * e->row_bytes, (const uint8_t *)tile + r * size, (size_t)size);
            to += size;
        }
    }
    mg_eval_pop(ev);
    return st;
}

mg_status mg_expr_eval(const mg_expr *e, mg_eval *ev, uint64_t row, uint64_t n, void *dst, mg_error *err) {
    if (n == 0) return MG_OK;
    if (!mg_range_fits(row, n, e->rows))
        return mg_fail(err, MG_ERR_INTERNAL, "rows %llu+%llu of an expression with %llu", (unsigned long long)row,
                       (unsigned long long)n, (unsigned long long)e->rows);
    switch (e->op) {
    case MG_EX_SOURCE:
    case MG_EX_FEEDBACK:
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
    case MG_EX_BESIDE:
        return eval_rows_beside(e, ev, row, n, dst, err);
    case MG_EX_STACK:
        return eval_below(e, ev, row, n, dst, err);
    case MG_EX_NOISE:
        return eval_noise(e, ev, row, n, dst, err);
    case MG_EX_LOWRANK:
        return eval_lowrank(e, ev, row, n, dst, err);
    case MG_EX_COLUMNS:
        return eval_columns(e, ev, row, n, dst, err);
    case MG_EX_NORMS:
        return eval_norms(e, ev, row, n, dst, err);
    case MG_EX_BLEND:
        return eval_blend(e, ev, row, n, dst, err);
    case MG_EX_VIEW:
        return mg_expr_eval_view(e, ev, row, n, dst, err);
    case MG_EX_GROUPS:
        return mg_expr_eval_groups(e, ev, row, n, dst, err);
    case MG_EX_GLOBAL:
        return mg_expr_eval_global(e, ev, dst, err);
    case MG_EX_PART:
        return mg_expr_eval_part(e, ev, row, n, dst, err);
    case MG_EX_FP4:
        return mg_expr_eval_fp4(e, ev, row, n, dst, err);
    case MG_EX_OP_COUNT:
        break;
    }
    return mg_fail(err, MG_ERR_INTERNAL, "unknown expression %d", (int)e->op);
}

mg_status mg_expr_digest_rows(const mg_expr *e, mg_eval *ev, mg_xxh128_state *s, mg_error *err) {
    const uint64_t step = mg_expr_tile_rows(e->row_bytes, 1 << 20, e->rows ? e->rows : 1);
    void *tile;
    ev->depth = 0;
    MG_TRY(mg_eval_push(ev, step * e->row_bytes + 1, &tile, err));
    mg_status st = MG_OK;
    for (uint64_t row = 0; row < e->rows && st == MG_OK; row += step) {
        const uint64_t n = e->rows - row < step ? e->rows - row : step;
        st = mg_expr_eval(e, ev, row, n, tile, err);
        if (st == MG_OK) mg_xxh128_update(s, tile, (size_t)(n * e->row_bytes));
        if (mg_interrupted()) st = mg_fail(err, (mg_status)mg_interrupted(), "interrupted");
    }
    mg_eval_pop(ev);
    return st;
}
