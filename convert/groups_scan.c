/* groups_scan.c - what rounding into groups would refuse for its values, found before hours of calibration: see
 * mg_groups_scan in quantize_groups.h. */
#include "convert/expr_tile.h"
#include "convert/plan_private.h"
#include "convert/quantize_groups.h"
#include "quant/scan.h"

/* Plain rounding of rows [n][cols]: the widest ranges that a group gets. */
static mg_status scan_rows(const mg_group_form *f, const float *w, uint64_t row, uint64_t n, mg_groups_values *v,
                           mg_error *err) {
    const uint64_t size = f->scheme.group_size ? f->scheme.group_size : f->cols;
    for (uint64_t i = 0; i < n; i++)
        for (uint64_t at = 0; at < f->cols; at += size) {
            mg_group_params p;
            float lo, hi;
            mg_status st = mg_group_range(w + i * f->cols + at, size, &lo, &hi, err);
            if (st == MG_OK) st = mg_group_choose(&f->scheme, lo, hi, &p, err);
            if (st != MG_OK) {
                mg_expr_name_row(err, row + i);
                return st;
            }
            v->zero_groups += lo == 0.0f && hi == 0.0f;
        }
    return MG_OK;
}

static mg_status scan_weight(const mg_expr *groups, mg_eval *ev, mg_groups_values *v, mg_error *err) {
    const mg_expr *w = groups->children[0];
    const uint64_t cols = mg_expr_cols(w), step = mg_expr_tile_rows(cols * sizeof(float), MG_EXPR_TILE, w->rows);
    void *tile;
    MG_TRY(mg_eval_push(ev, step * cols * sizeof(float), &tile, err));
    mg_status st = MG_OK;
    for (uint64_t row = 0; st == MG_OK && row < w->rows; row += step) {
        const uint64_t n = w->rows - row < step ? w->rows - row : step;
        st = mg_expr_eval_f32(w, ev, row, n, tile, err);
        if (st == MG_OK) st = scan_rows(groups->form, tile, row, n, v, err);
    }
    mg_eval_pop(ev);
    return st;
}

/* What stays a float, in the type it will have. */
static mg_status scan_cast(const mg_expr *cast, mg_eval *ev, mg_error *err) {
    const uint64_t step = mg_expr_tile_rows(cast->row_bytes, MG_EXPR_TILE, cast->rows);
    void *tile;
    MG_TRY(mg_eval_push(ev, step * cast->row_bytes, &tile, err));
    mg_status st = MG_OK;
    for (uint64_t row = 0; st == MG_OK && row < cast->rows; row += step) {
        const uint64_t n = cast->rows - row < step ? cast->rows - row : step;
        st = mg_expr_eval(cast, ev, row, n, tile, err);
        for (uint64_t i = 0; st == MG_OK && i < n; i++)
            st = mg_expr_check_cast(cast, (const uint8_t *)tile + i * cast->row_bytes, row + i, err);
    }
    mg_eval_pop(ev);
    return st;
}

mg_status mg_groups_scan(const mg_plan *p, uint32_t out, mg_groups_values *v, mg_error *err) {
    const mg_plan_output *o = p->outputs[out];
    mg_status st = MG_OK;
    mg_eval ev;
    *v = (mg_groups_values){0};
    mg_eval_init(&ev);
    for (uint32_t i = 0; st == MG_OK && i < o->n_tensors; i++) {
        const mg_expr *e = o->tensors[i].e;
        if (e->op == MG_EX_CAST) st = scan_cast(e, &ev, err);
        if (e->op == MG_EX_PART && e->arg == 0) st = scan_weight(e->children[0], &ev, v, err);
        if (st != MG_OK) mg_error_at(err, NULL, o->tensors[i].name);
    }
    mg_eval_release(&ev);
    return st;
}
