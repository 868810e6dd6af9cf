/* expr_tile.h - between expr_eval.c and expr_views.c: how many rows are asked for at a time. */
#ifndef MG_CONVERT_EXPR_TILE_H
#define MG_CONVERT_EXPR_TILE_H

#include "convert/expr.h"

enum { MG_EXPR_TILE = 256 * 1024 }; /* bytes */

/* Rows of `bytes` each that make a tile of `limit` bytes: at least one, at most n. */
static inline uint64_t mg_expr_tile_rows(uint64_t bytes, uint64_t limit, uint64_t n) {
    uint64_t k = bytes ? limit / bytes : n;
    if (k == 0) k = 1;
    return k < n ? k : n;
}

static inline uint64_t mg_expr_cols(const mg_expr *e) {
    return mg_tensor_cols(&e->t);
}

/* Put "row N: " before the message of a failed encoder. */
void mg_expr_name_row(mg_error *err, uint64_t row);

/* Is row `row` of a cast, as it is stored, finite? MG_ERR_FORMAT when the source is not, MG_ERR_UNSUPPORTED when it is
 * too large for the type. Block types are judged by their encoders. */
mg_status mg_expr_check_cast(const mg_expr *cast, const void *stored, uint64_t row, mg_error *err) MG_MUST_CHECK;

/* mg_expr_eval of a VIEW node. */
mg_status mg_expr_eval_view(const mg_expr *e, mg_eval *ev, uint64_t row, uint64_t n, void *dst,
                            mg_error *err) MG_MUST_CHECK;

#endif
