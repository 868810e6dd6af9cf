/* expr_build_view.c - constructor of views: which shapes a view accepts and what it makes of them. */
#include "convert/plan_private.h"

#include <string.h>

/* Rows are indices of the slowest dimension: rows of a matrix, elements of a vector, matrices of a stack. */
static mg_status view_rows(mg_expr *e, const mg_tensor *c, const mg_view *v, mg_error *err) {
    uint64_t step = v->step ? v->step : 1, last = 0;
    if (c->rank == 0) return mg_fail(err, MG_ERR_UNSUPPORTED, "rows of a scalar");
    if (v->b == 0 || !mg_mul_u64(v->b - 1, step, &last) || !mg_add_u64(last, v->a, &last) || last >= c->shape[0])
        return mg_fail(err, MG_ERR_FORMAT, "rows %llu, +%llu, %llu of them do not fit %llu rows",
                       (unsigned long long)v->a, (unsigned long long)step, (unsigned long long)v->b,
                       (unsigned long long)c->shape[0]);
    e->t.shape[0] = v->b;
    return MG_OK;
}

static mg_status view_groups(mg_expr *e, const mg_tensor *c, const mg_view *v, mg_error *err) {
    uint64_t step = v->step ? v->step : 1;
    if (c->rank == 0) return mg_fail(err, MG_ERR_UNSUPPORTED, "groups of a scalar");
    if (v->b == 0 || step < v->b || v->a > step - v->b || c->shape[0] % step)
        return mg_fail(err, MG_ERR_FORMAT, "rows %llu+%llu of groups of %llu do not fit %llu rows",
                       (unsigned long long)v->a, (unsigned long long)v->b, (unsigned long long)step,
                       (unsigned long long)c->shape[0]);
    e->t.shape[0] = c->shape[0] / step * v->b;
    return MG_OK;
}

static mg_status view_rope(mg_expr *e, const mg_tensor *c, const mg_view *v, mg_error *err) {
    if (c->rank == 0) return mg_fail(err, MG_ERR_UNSUPPORTED, "rotary order of a scalar");
    if (v->a == 0 || c->shape[0] % v->a || (c->shape[0] / v->a) % 2)
        return mg_fail(err, MG_ERR_FORMAT, "%llu rows are not %llu heads of even size", (unsigned long long)c->shape[0],
                       (unsigned long long)v->a);
    if (c->rank == 2) e->grain = c->shape[0] / v->a;
    return MG_OK;
}

static mg_status view_reshape(mg_expr *e, const mg_tensor *c, const mg_view *v, mg_error *err) {
    uint64_t n;
    e->t.rank = v->step ? 3 : v->b ? 2 : 1;
    e->t.shape[0] = v->a;
    e->t.shape[1] = v->b;
    e->t.shape[2] = v->step;
    if (!mg_mul_u64(v->a, v->b ? v->b : 1, &n) || !mg_mul_u64(n, v->step ? v->step : 1, &n) || n != c->n_elements ||
        (v->step && !v->b))
        return mg_fail(err, MG_ERR_FORMAT, "cannot reshape %llu elements to %llu x %llu x %llu",
                       (unsigned long long)c->n_elements, (unsigned long long)v->a,
                       (unsigned long long)(v->b ? v->b : 1), (unsigned long long)(v->step ? v->step : 1));
    return MG_OK;
}

mg_status mg_expr_view(mg_plan *p, const mg_expr *child, const mg_view *view, const mg_expr **out, mg_error *err) {
    const mg_tensor *c = &child->t;
    bool block = mg_dtype_is_block(c->dtype);
    mg_expr e = {.op = MG_EX_VIEW, .t = *c, .view = *view, .n_children = 1, .children = &child};
    e.t.name = NULL;
    if (c->rank == 1 && block && view->kind != MG_VIEW_RESHAPE && view->kind != MG_VIEW_END)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "elements of a vector of type %s cannot be moved",
                       mg_dtype_get(c->dtype)->name);
    switch (view->kind) {
    case MG_VIEW_END:
        *out = child;
        return MG_OK;
    case MG_VIEW_SELECT:
        if (c->rank < 2 || view->a >= c->shape[0])
            return mg_fail(err, MG_ERR_FORMAT, "no slice %llu in a tensor of rank %u", (unsigned long long)view->a,
                           c->rank);
        e.t.rank = c->rank - 1;
        memmove(e.t.shape, c->shape + 1, e.t.rank * sizeof c->shape[0]);
        break;
    case MG_VIEW_ROWS:
        MG_TRY(view_rows(&e, c, view, err));
        break;
    case MG_VIEW_GROUPS:
        MG_TRY(view_groups(&e, c, view, err));
        break;
    case MG_VIEW_ROPE_UNPERM:
    case MG_VIEW_ROPE_PERM:
        MG_TRY(view_rope(&e, c, view, err));
        break;
    case MG_VIEW_TRANSPOSE:
        if (c->rank < 2 || block)
            return mg_fail(err, MG_ERR_UNSUPPORTED, "cannot transpose a tensor of rank %u and type %s", c->rank,
                           mg_dtype_get(c->dtype)->name);
        e.t.shape[c->rank - 2] = c->shape[c->rank - 1];
        e.t.shape[c->rank - 1] = c->shape[c->rank - 2];
        break;
    case MG_VIEW_RESHAPE:
        MG_TRY(view_reshape(&e, c, view, err));
        break;
    case MG_VIEW_ADD: /* in f32, because the sum of a bf16 weight and 1 need not be a bf16 */
        if (!mg_dtype_is_float(c->dtype))
            return mg_fail(err, MG_ERR_UNSUPPORTED, "cannot add to the type %s", mg_dtype_get(c->dtype)->name);
        e.t.dtype = MG_F32;
        break;
    default:
        return mg_fail(err, MG_ERR_INTERNAL, "unknown view %d", (int)view->kind);
    }
    return mg_expr_intern(p, &e, out, err);
}
