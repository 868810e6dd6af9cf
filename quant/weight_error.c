/* weight_error.c - see weight_error.h. */
#include "quant/weight_error.h"

#include "quant/read_f32.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TILE_FLOATS (1u << 18)

typedef struct tiles {
    mg_model *a, *b;
    const mg_bound *x, *y;
    uint64_t rows, cols, per; /* rows of a tile */
    mg_weight_error *part;    /* one of each tile, added up in order */
} tiles;

static mg_status one_tile(void *ctx, uint64_t i, unsigned worker, mg_error *err) {
    (void)worker;
    const tiles *t = ctx;
    const uint64_t row = i * t->per, n = t->rows - row < t->per ? t->rows - row : t->per, size = n * t->cols;
    float *buf = malloc(2 * size * sizeof *buf + 1);
    if (!buf) return mg_fail_nomem(err, 2 * size * sizeof *buf);
    mg_status st = mg_read_f32(t->a, t->x, row, n, buf, err);
    if (st == MG_OK) st = mg_read_f32(t->b, t->y, row, n, buf + size, err);
    mg_weight_error *e = &t->part[i];
    for (uint64_t k = 0; st == MG_OK && k < size; k++) {
        const double r = (double)buf[k], d = (double)buf[size + k] - r;
        e->diff_sq += d * d;
        e->ref_sq += r * r;
    }
    free(buf);
    return st;
}

mg_status mg_weight_error_add(mg_weight_error *e, mg_model *a, const mg_bound *x, mg_model *b, const mg_bound *y,
                              mg_pool *pool, mg_error *err) {
    if (x->rank != y->rank || x->rank == 0 || memcmp(x->shape, y->shape, x->rank * sizeof *x->shape) != 0)
        return mg_fail(err, MG_ERR_INTERNAL, "weights of different shapes are compared");
    tiles t = {.a = a, .b = b, .x = x, .y = y, .rows = mg_bound_rows(x), .cols = x->shape[x->rank - 1]};
    t.per = t.cols && t.cols < TILE_FLOATS ? TILE_FLOATS / t.cols : 1;
    const uint64_t n = (t.rows + t.per - 1) / t.per;
    t.part = calloc(n + 1, sizeof *t.part);
    if (!t.part) return mg_fail_nomem(err, n * sizeof *t.part);
    mg_status st = mg_pool_run(pool, n, one_tile, &t, err);
    for (uint64_t i = 0; st == MG_OK && i < n; i++) {
        e->diff_sq += t.part[i].diff_sq;
        e->ref_sq += t.part[i].ref_sq;
    }
    free(t.part);
    return st;
}

double mg_weight_error_relative(const mg_weight_error *e) {
    if (e->diff_sq == 0) return 0;
    return e->ref_sq > 0 ? e->diff_sq / e->ref_sq : (double)INFINITY;
}
