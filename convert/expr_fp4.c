/* expr_fp4.c - the codes, or the scales, of a tensor of 4-bit float blocks, as safetensors checkpoints store them. Rows
 * of the node are those of its child, whatever shape is shown: both members of a pair are cut from one reading. */
#include "convert/expr_tile.h"
#include "convert/plan_private.h"

#include "quant/fp4_repack.h"

/* Bytes of the node's part of one block. */
static uint32_t part_bytes(const mg_expr *e) {
    const mg_dtype type = e->children[0]->t.dtype;
    return e->arg == MG_FP4_CODES ? mg_fp4_code_bytes(type) : mg_fp4_scale_bytes(type);
}

mg_status mg_expr_fp4_part(mg_plan *p, const mg_expr *child, mg_fp4_part part, uint32_t rank, const uint64_t *shape,
                           const mg_expr **out, mg_error *err) {
    mg_expr e = {.op = MG_EX_FP4, .n_children = 1, .children = &child, .arg = part};
    e.t = (mg_tensor){.dtype = MG_U8, .rank = rank};
    uint64_t n = 1;
    for (uint32_t i = 0; i < rank; i++) {
        e.t.shape[i] = shape[i];
        n *= shape[i];
    }
    const uint64_t blocks = child->t.n_elements / mg_dtype_get(child->t.dtype)->block;
    if (part_bytes(&e) == 0)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "the type %s is not stored as codes and scales",
                       mg_dtype_get(child->t.dtype)->name);
    if (n != blocks * part_bytes(&e)) return mg_fail(err, MG_ERR_INTERNAL, "codes and scales of another shape");
    return mg_expr_intern(p, &e, out, err);
}

void mg_expr_fp4_rows(const mg_expr *e, const void *child_rows, uint64_t n, void *dst) {
    const mg_dtype type = e->children[0]->t.dtype;
    const uint64_t blocks = n * e->row_bytes / part_bytes(e);
    if (e->arg == MG_FP4_CODES)
        mg_fp4_codes(type, child_rows, blocks, dst);
    else
        mg_fp4_scales(type, child_rows, blocks, dst);
}

mg_status mg_expr_eval_fp4(const mg_expr *e, mg_eval *ev, uint64_t row, uint64_t n, uint8_t *dst, mg_error *err) {
    const mg_expr *child = e->children[0];
    const uint64_t step = mg_expr_tile_rows(child->row_bytes, MG_EXPR_TILE, n);
    void *tile;
    MG_TRY(mg_eval_push(ev, step * child->row_bytes, &tile, err));
    mg_status st = MG_OK;
    for (uint64_t i = 0; i < n && st == MG_OK; i += step) {
        const uint64_t k = n - i < step ? n - i : step;
        st = mg_expr_eval(child, ev, row + i, k, tile, err);
        if (st == MG_OK) mg_expr_fp4_rows(e, tile, k, dst + i * e->row_bytes);
    }
    mg_eval_pop(ev);
    return st;
}
