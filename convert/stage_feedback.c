/* stage_feedback.c - error feedback on one weight: the rows as they are stored, so that what the views of a role do to
 * them does not matter, and several roles that share a tensor are one weight. */
#include <stdlib.h>
#include <string.h>

#include "convert/stage_layer.h"
#include "quant/feedback.h"

/* Views that only move rows keep a row what it is: a row of this input's weight. */
static bool moves_rows(const mg_bound *b, const mg_tensor *t, uint32_t expert) {
    int i = 0;
    if (t->rank == 3 && (b->views[i].kind != MG_VIEW_SELECT || b->views[i++].a != expert)) return false;
    for (; i < MG_MAX_VIEWS && b->views[i].kind != MG_VIEW_END; i++)
        if (b->views[i].kind != MG_VIEW_ROWS && b->views[i].kind != MG_VIEW_GROUPS &&
            b->views[i].kind != MG_VIEW_ROPE_UNPERM && b->views[i].kind != MG_VIEW_ROPE_PERM)
            return false;
    return t->rank >= 2;
}

/* Has a role before this one the same rows? */
static bool is_done(const mg_stage_work *w, mg_role role, uint32_t expert, const mg_bound *b) {
    for (mg_role r = 0; r < role; r++) {
        const mg_bound *other = mg_stage_rounds(r) ? mg_model_find(w->model, r, w->layer, expert) : NULL;
        if (other && other->tensor == b->tensor) return true;
    }
    return false;
}

mg_status mg_stage_feedback(mg_stage_work *w, const mg_gptq *h, mg_role role, uint32_t expert, mg_error *err) {
    const mg_bound *b = mg_model_find(w->model, role, w->layer, expert);
    const mg_tensor *t = mg_model_tensor(w->model, b);
    const mg_dtype type = w->opt->types[b->tensor];
    uint64_t row_bytes;
    double loss;
    if (type == MG_DTYPE_COUNT || !moves_rows(b, t, expert) || is_done(w, role, expert, b)) return MG_OK;
    mg_bound rows = {.tensor = b->tensor, .rank = 2, .shape = {t->shape[t->rank - 2], t->shape[t->rank - 1]}};
    if (t->rank == 3) rows.views[0] = b->views[0];
    if (rows.shape[1] != h->d || !mg_dtype_row_bytes(type, h->d, &row_bytes))
        return mg_fail(err, MG_ERR_INTERNAL, "'%s': rows of another length than its input", t->name);
    uint8_t *blocks = malloc((size_t)(rows.shape[0] * row_bytes) + 1);
    if (!blocks) return mg_fail_nomem(err, rows.shape[0] * row_bytes);
    mg_status st = mg_feedback_encode(h, type, w->model, &rows, blocks, w->opt->pool, &loss, err);
    if (st != MG_OK) {
        free(blocks);
        return st;
    }
    mg_stage_note(w, role, expert, h, loss);
    const mg_stage_piece p = {.role = role,
                              .expert = expert,
                              .what = MG_STAGE_BLOCKS,
                              .rank = 2,
                              .shape = {rows.shape[0], row_bytes},
                              .data = blocks};
    return mg_stage_layer_add(&w->out, &p, err);
}
