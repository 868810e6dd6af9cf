/* expr_build.c - constructors of expressions: shape rules, and import from another plan. */
#include "convert/plan_private.h"

#include "quant/codec.h"
#include "quant/fixed.h"

#include <stdlib.h>
#include <string.h>

static mg_status own_copy(mg_plan *p, const void *data, uint64_t n, void **out, mg_error *err) {
    void *copy;
    MG_TRY(mg_arena_get(&p->arena, &copy, n ? (size_t)n : 1, 1, err));
    if (n) memcpy(copy, data, (size_t)n);
    *out = copy;
    return MG_OK;
}

/* ---- leaves ---- */

static mg_status input_index(mg_plan *p, mg_checkpoint *c, uint32_t *out, mg_error *err) {
    for (uint32_t i = 0; i < p->n_inputs; i++)
        if (p->inputs[i] == c) {
            *out = i;
            return MG_OK;
        }
    MG_TRY(mg_plan_grow(&p->inputs, &p->cap_inputs, p->n_inputs, sizeof *p->inputs, err));
    *out = p->n_inputs;
    p->inputs[p->n_inputs++] = c;
    return MG_OK;
}

mg_status mg_plan_add_inputs(mg_plan *p, const mg_plan *from, mg_error *err) {
    uint32_t index;
    for (uint32_t i = 0; i < from->n_inputs; i++) MG_TRY(input_index(p, from->inputs[i], &index, err));
    return MG_OK;
}

static uint32_t n_factors(const mg_expr *e) {
    return e->op == MG_EX_LINEAR ? e->n_children : 1;
}

/* Rebuild an expression of another plan in this one, so that reading a plan costs nothing over reading its inputs. */
static mg_status import(mg_plan *p, const mg_expr *from, const mg_expr **out, mg_error *err) {
    if (from->op == MG_EX_SOURCE) return mg_expr_source(p, from->ckpt, from->tensor, out, err);
    mg_expr e = *from;
    e.grain = from->grain;
    e.depth = 0;
    const mg_expr **kids = NULL;
    if (from->op == MG_EX_SLOT && !from->slot) e.slot = from;
    if (from->n_children && !(kids = calloc(from->n_children, sizeof *kids)))
        return mg_fail_nomem(err, from->n_children * sizeof *kids);
    mg_status st = MG_OK;
    for (uint32_t i = 0; i < from->n_children && st == MG_OK; i++) st = import(p, from->children[i], &kids[i], err);
    e.children = kids;
    void *copy;
    if (st == MG_OK && from->op == MG_EX_CONST && (st = own_copy(p, from->data, from->t.n_bytes, &copy, err)) == MG_OK)
        e.data = copy;
    if (st == MG_OK && from->weights &&
        (st = own_copy(p, from->weights, from->n_weights * sizeof(float), &copy, err)) == MG_OK)
        e.weights = copy;
    if (st == MG_OK && from->factors &&
        (st = own_copy(p, from->factors, n_factors(from) * sizeof(double), &copy, err)) == MG_OK)
        e.factors = copy;
    if (st == MG_OK && from->blend && (st = own_copy(p, from->blend, sizeof *from->blend, &copy, err)) == MG_OK)
        e.blend = copy;
    if (st == MG_OK && from->form && (st = own_copy(p, from->form, sizeof *from->form, &copy, err)) == MG_OK)
        e.form = copy;
    /* A slot imported twice must stay one node: look for it first. */
    if (st == MG_OK && e.op == MG_EX_SLOT)
        for (uint32_t i = 0; i < p->n_nodes; i++)
            if (p->nodes[i]->op == MG_EX_SLOT && p->nodes[i]->slot == e.slot) {
                free(kids);
                *out = p->nodes[i];
                return MG_OK;
            }
    if (st == MG_OK) st = mg_expr_intern(p, &e, out, err);
    free(kids);
    return st;
}

mg_status mg_expr_source(mg_plan *p, mg_checkpoint *ckpt, uint32_t tensor, const mg_expr **out, mg_error *err) {
    if (tensor >= ckpt->n_tensors)
        return mg_fail(err, MG_ERR_INTERNAL, "tensor %u of a checkpoint with %u", tensor, ckpt->n_tensors);
    const mg_expr *inner = mg_plan_checkpoint_expr(ckpt, tensor);
    if (inner) return import(p, inner, out, err);
    mg_expr e = {.op = MG_EX_SOURCE, .t = ckpt->tensors[tensor], .ckpt = ckpt, .tensor = tensor};
    MG_TRY(input_index(p, ckpt, &e.input, err));
    mg_status st = mg_expr_intern(p, &e, out, err);
    if (st != MG_OK) mg_error_at(err, ckpt->path, ckpt->tensors[tensor].name);
    return st;
}

static void set_shape(mg_expr *e, uint32_t rank, const uint64_t *shape) {
    e->t.rank = rank;
    memcpy(e->t.shape, shape, rank * sizeof *shape);
}

mg_status mg_expr_const(mg_plan *p, mg_dtype dtype, uint32_t rank, const uint64_t *shape, const void *data,
                        const mg_expr **out, mg_error *err) {
    if (rank > MG_MAX_RANK) return mg_fail(err, MG_ERR_INTERNAL, "rank %u of a constant", rank);
    mg_expr e = {.op = MG_EX_CONST, .t = {.dtype = dtype}};
    set_shape(&e, rank, shape);
    MG_TRY(mg_expr_finish(&e, err));
    e.hash = mg_xxh128_of(data, (size_t)e.t.n_bytes);
    void *copy;
    MG_TRY(own_copy(p, data, e.t.n_bytes, &copy, err));
    e.data = copy;
    return mg_expr_intern(p, &e, out, err);
}

mg_status mg_expr_zeros(mg_plan *p, mg_dtype dtype, uint32_t rank, const uint64_t *shape, const mg_expr **out,
                        mg_error *err) {
    mg_tensor z = {.dtype = dtype, .rank = rank};
    if (rank > MG_MAX_RANK) return mg_fail(err, MG_ERR_INTERNAL, "rank %u of a constant", rank);
    memcpy(z.shape, shape, rank * sizeof *shape);
    if (!mg_tensor_set_sizes(&z)) return mg_fail(err, MG_ERR_LIMIT, "a tensor of zeros is too large");
    void *zeros = calloc(1, (size_t)z.n_bytes + 1);
    if (!zeros) return mg_fail_nomem(err, z.n_bytes);
    mg_status st = mg_expr_const(p, dtype, rank, shape, zeros, out, err);
    free(zeros);
    return st;
}

mg_status mg_expr_slot(mg_plan *p, uint32_t rank, const uint64_t *shape, const mg_expr **out, mg_error *err) {
    if (rank > MG_MAX_RANK) return mg_fail(err, MG_ERR_INTERNAL, "rank %u of a slot", rank);
    mg_expr e = {.op = MG_EX_SLOT, .t = {.dtype = MG_F32}};
    set_shape(&e, rank, shape);
    return mg_expr_intern(p, &e, out, err);
}

mg_status mg_expr_supply(mg_plan *p, const mg_expr *slot, const float *data, mg_error *err) {
    if (slot->index >= p->n_nodes || p->nodes[slot->index] != slot || slot->op != MG_EX_SLOT || slot->slot)
        return mg_fail(err, MG_ERR_INTERNAL, "only a slot of this plan can be supplied");
    void *copy;
    MG_TRY(own_copy(p, data, slot->t.n_bytes, &copy, err));
    __atomic_store_n(&p->nodes[slot->index]->data, (const void *)copy, __ATOMIC_RELEASE);
    return MG_OK;
}

/* ---- inner nodes ---- */

static mg_status cast(mg_plan *p, const mg_expr *child, mg_dtype dtype, const float *weights, uint64_t n_weights,
                      bool fixed, const mg_expr **out, mg_error *err) {
    if (child->t.dtype == dtype) {
        *out = child;
        return MG_OK;
    }
    if (!mg_codec_get(child->t.dtype) || !mg_codec_get(dtype))
        return mg_fail(err, MG_ERR_UNSUPPORTED, "no conversion from %s to %s", mg_dtype_get(child->t.dtype)->name,
                       mg_dtype_get(dtype)->name);
    mg_expr e = {.op = MG_EX_CAST, .t = child->t, .n_children = 1, .children = &child, .fixed = fixed};
    e.t.dtype = dtype;
    e.t.name = NULL;
    if (weights) {
        uint64_t slices = child->t.rank == 3 ? child->t.shape[0] : 1, want = 0;
        if (!mg_mul_u64(slices, mg_tensor_cols(&child->t), &want) || want != n_weights)
            return mg_fail(err, MG_ERR_FORMAT, "%llu importance weights for %llu slices of %llu columns",
                           (unsigned long long)n_weights, (unsigned long long)slices,
                           (unsigned long long)mg_tensor_cols(&child->t));
        e.hash = mg_xxh128_of(weights, (size_t)n_weights * sizeof *weights);
        void *copy;
        MG_TRY(own_copy(p, weights, n_weights * sizeof *weights, &copy, err));
        e.weights = copy;
        e.n_weights = n_weights;
    }
    return mg_expr_intern(p, &e, out, err);
}

mg_status mg_expr_cast(mg_plan *p, const mg_expr *child, mg_dtype dtype, const float *weights, uint64_t n_weights,
                       const mg_expr **out, mg_error *err) {
    return cast(p, child, dtype, weights, n_weights, false, out, err);
}

mg_status mg_expr_cast_fixed(mg_plan *p, const mg_expr *child, mg_dtype dtype, const float *weights, uint64_t n_weights,
                             const mg_expr **out, mg_error *err) {
    return cast(p, child, dtype, weights, n_weights, mg_fixed_matters(dtype, weights != NULL), out, err);
}

mg_status mg_expr_feedback(mg_plan *p, const mg_expr *child, mg_checkpoint *ckpt, uint32_t tensor, mg_xxh128 id,
                           const mg_expr **out, mg_error *err) {
    mg_expr e = {.op = MG_EX_FEEDBACK, .t = child->t, .n_children = 1, .children = &child};
    e.t.dtype = ckpt->tensors[tensor].dtype;
    e.t.name = NULL;
    e.ckpt = ckpt;
    e.tensor = tensor;
    e.hash = id;
    return mg_expr_intern(p, &e, out, err);
}

static bool same_shape(const mg_expr *a, const mg_expr *b, uint32_t from) {
    if (a->t.rank != b->t.rank) return false;
    for (uint32_t i = from; i < a->t.rank; i++)
        if (a->t.shape[i] != b->t.shape[i]) return false;
    return true;
}

/* Children of stack, concat and linear agree in shape (and dtype unless `any_dtype`); dimension 0 is free for concat.
 */
static mg_status check_children(const char *what, const mg_expr *const *c, uint32_t n, uint32_t from, bool any_dtype,
                                mg_error *err) {
    char a[128], b[128];
    if (n == 0) return mg_fail(err, MG_ERR_INTERNAL, "%s of nothing", what);
    for (uint32_t i = 1; i < n; i++)
        if (!same_shape(c[0], c[i], from) || (!any_dtype && c[0]->t.dtype != c[i]->t.dtype))
            return mg_fail(err, MG_ERR_CONFLICT, "%s: part %u is %s %s, part 0 is %s %s", what, i,
                           mg_dtype_get(c[i]->t.dtype)->name, mg_tensor_shape_text(&c[i]->t, a, sizeof a),
                           mg_dtype_get(c[0]->t.dtype)->name, mg_tensor_shape_text(&c[0]->t, b, sizeof b));
    return MG_OK;
}

mg_status mg_expr_stack(mg_plan *p, const mg_expr *const *children, uint32_t n, const mg_expr **out, mg_error *err) {
    MG_TRY(check_children("stack", children, n, 0, false, err));
    const mg_tensor *c = &children[0]->t;
    if (c->rank + 1 > MG_MAX_RANK || c->rank == 0) return mg_fail(err, MG_ERR_UNSUPPORTED, "stack of rank %u", c->rank);
    mg_expr e = {.op = MG_EX_STACK, .t = {.dtype = c->dtype}, .n_children = n, .children = (const mg_expr **)children};
    e.t.rank = c->rank + 1;
    e.t.shape[0] = n;
    memcpy(e.t.shape + 1, c->shape, c->rank * sizeof c->shape[0]);
    return mg_expr_intern(p, &e, out, err);
}

mg_status mg_expr_concat(mg_plan *p, const mg_expr *const *children, uint32_t n, const mg_expr **out, mg_error *err) {
    MG_TRY(check_children("concat", children, n, 1, false, err));
    const mg_tensor *c = &children[0]->t;
    if (c->rank == 0) return mg_fail(err, MG_ERR_UNSUPPORTED, "concat of scalars");
    mg_expr e = {.op = MG_EX_CONCAT, .t = *c, .n_children = n, .children = (const mg_expr **)children};
    e.t.name = NULL;
    for (uint32_t i = 1; i < n; i++)
        if (!mg_add_u64(e.t.shape[0], children[i]->t.shape[0], &e.t.shape[0]))
            return mg_fail(err, MG_ERR_LIMIT, "concat has too many rows");
    return mg_expr_intern(p, &e, out, err);
}

mg_status mg_expr_beside(mg_plan *p, const mg_expr *const *children, uint32_t n, const mg_expr **out, mg_error *err) {
    char a[128], b[128];
    const mg_tensor *c = &children[0]->t;
    if (c->rank != 2) return mg_fail(err, MG_ERR_UNSUPPORTED, "only matrices can lie beside each other");
    mg_expr e = {.op = MG_EX_BESIDE, .t = *c, .n_children = n, .children = (const mg_expr **)children};
    e.t.name = NULL;
    for (uint32_t i = 1; i < n; i++) {
        const mg_tensor *x = &children[i]->t;
        if (x->rank != 2 || x->shape[0] != c->shape[0] || x->dtype != c->dtype)
            return mg_fail(err, MG_ERR_CONFLICT, "beside: part %u is %s %s, part 0 is %s %s", i,
                           mg_dtype_get(x->dtype)->name, mg_tensor_shape_text(x, a, sizeof a),
                           mg_dtype_get(c->dtype)->name, mg_tensor_shape_text(c, b, sizeof b));
        if (!mg_add_u64(e.t.shape[1], x->shape[1], &e.t.shape[1]))
            return mg_fail(err, MG_ERR_LIMIT, "rows beside each other are too long");
    }
    return mg_expr_intern(p, &e, out, err);
}

mg_status mg_expr_linear(mg_plan *p, const mg_expr *const *children, const double *factors, uint32_t n,
                         const mg_expr **out, mg_error *err) {
    MG_TRY(check_children("linear", children, n, 0, true, err));
    for (uint32_t i = 0; i < n; i++)
        if (!mg_codec_get(children[i]->t.dtype))
            return mg_fail(err, MG_ERR_UNSUPPORTED, "no arithmetic on the type %s",
                           mg_dtype_get(children[i]->t.dtype)->name);
    mg_expr e = {.op = MG_EX_LINEAR, .t = children[0]->t, .n_children = n, .children = (const mg_expr **)children};
    e.t.dtype = MG_F32;
    e.t.name = NULL;
    void *copy;
    MG_TRY(own_copy(p, factors, n * sizeof *factors, &copy, err));
    e.factors = copy;
    return mg_expr_intern(p, &e, out, err);
}

mg_status mg_expr_blend(mg_plan *p, const mg_expr *const *children, const mg_blend *blend, const mg_expr **out,
                        mg_error *err) {
    MG_TRY(mg_blend_check(blend, err));
    if (blend->method == MG_BLEND_LINEAR || blend->method == MG_BLEND_PASSTHROUGH) {
        double factors[MG_BLEND_MAX] = {0};
        MG_TRY(mg_blend_weights(blend, factors, err));
        *out = children[0];
        return blend->n == 1 && factors[0] == 1 ? MG_OK : mg_expr_linear(p, children, factors, blend->n, out, err);
    }
    MG_TRY(check_children("blend", children, blend->n, 0, true, err));
    for (uint32_t i = 0; i < blend->n; i++)
        if (!mg_codec_get(children[i]->t.dtype))
            return mg_fail(err, MG_ERR_UNSUPPORTED, "no arithmetic on the type %s",
                           mg_dtype_get(children[i]->t.dtype)->name);
    mg_expr e = {
        .op = MG_EX_BLEND, .t = children[0]->t, .n_children = blend->n, .children = (const mg_expr **)children};
    e.t.dtype = MG_F32;
    e.t.name = NULL;
    void *copy;
    MG_TRY(own_copy(p, blend, sizeof *blend, &copy, err));
    e.blend = copy;
    MG_TRY(MG_ARENA_NEW(&p->arena, &e.state, 1, err));
    pthread_mutex_init(&e.state->lock, NULL); /* holds no resource on the systems we build for: never destroyed */
    return mg_expr_intern(p, &e, out, err);
}

/* A node of f32 values with one factor. */
static mg_status factor_node(mg_plan *p, mg_expr *e, double factor, const mg_expr **out, mg_error *err) {
    for (uint32_t i = 0; i < e->n_children; i++)
        if (!mg_codec_get(e->children[i]->t.dtype))
            return mg_fail(err, MG_ERR_UNSUPPORTED, "no arithmetic on the type %s",
                           mg_dtype_get(e->children[i]->t.dtype)->name);
    e->t = e->children[0]->t;
    e->t.dtype = MG_F32;
    e->t.name = NULL;
    void *copy;
    MG_TRY(own_copy(p, &factor, sizeof factor, &copy, err));
    e->factors = copy;
    return mg_expr_intern(p, e, out, err);
}

mg_status mg_expr_noise(mg_plan *p, const mg_expr *child, double scale, uint64_t seed, const mg_expr **out,
                        mg_error *err) {
    mg_expr e = {.op = MG_EX_NOISE, .n_children = 1, .children = &child, .seed = seed};
    return factor_node(p, &e, scale, out, err);
}

mg_status mg_expr_lowrank(mg_plan *p, const mg_expr *w, const mg_expr *b, const mg_expr *a, double scale,
                          const mg_expr **out, mg_error *err) {
    char tw[128], tb[128], ta[128];
    const mg_expr *children[3] = {w, b, a};
    if (w->t.rank != 2 || a->t.rank != 2 || b->t.rank != 2 || b->t.shape[0] != w->t.shape[0] ||
        a->t.shape[1] != w->t.shape[1] || a->t.shape[0] != b->t.shape[1])
        return mg_fail(err, MG_ERR_CONFLICT, "low-rank factors %s and %s do not fit a weight %s",
                       mg_tensor_shape_text(&b->t, tb, sizeof tb), mg_tensor_shape_text(&a->t, ta, sizeof ta),
                       mg_tensor_shape_text(&w->t, tw, sizeof tw));
    mg_expr e = {.op = MG_EX_LOWRANK, .n_children = 3, .children = children};
    return factor_node(p, &e, scale, out, err);
}

mg_status mg_expr_columns(mg_plan *p, const mg_expr *w, const mg_expr *v, const mg_expr **out, mg_error *err) {
    char tw[128], tv[128];
    const mg_expr *children[2] = {w, v};
    if (w->t.rank != 2 || v->t.rank != 1 || v->t.shape[0] != w->t.shape[1])
        return mg_fail(err, MG_ERR_CONFLICT, "factors %s for the columns of a weight %s",
                       mg_tensor_shape_text(&v->t, tv, sizeof tv), mg_tensor_shape_text(&w->t, tw, sizeof tw));
    mg_expr e = {.op = MG_EX_COLUMNS, .n_children = 2, .children = children};
    return factor_node(p, &e, 1, out, err);
}

mg_status mg_expr_norms(mg_plan *p, const mg_expr *w, const mg_expr *v, const mg_expr **out, mg_error *err) {
    char tw[128], tv[128];
    const mg_expr *children[2] = {w, v};
    if (w->t.rank != 2 || v->t.rank != 1 || v->t.shape[0] != w->t.shape[0])
        return mg_fail(err, MG_ERR_CONFLICT, "norms %s for the rows of a weight %s",
                       mg_tensor_shape_text(&v->t, tv, sizeof tv), mg_tensor_shape_text(&w->t, tw, sizeof tw));
    mg_expr e = {.op = MG_EX_NORMS, .n_children = 2, .children = children};
    return factor_node(p, &e, 1, out, err);
}

mg_status mg_expr_role(mg_plan *p, mg_model *m, const mg_bound *b, const mg_expr **out, mg_error *err) {
    const mg_expr *e;
    MG_TRY(mg_expr_source(p, m->ckpt, b->tensor, &e, err));
    for (int i = 0; i < MG_MAX_VIEWS && b->views[i].kind != MG_VIEW_END; i++) {
        mg_status st = mg_expr_view(p, e, &b->views[i], &e, err);
        if (st != MG_OK) {
            mg_error_at(err, m->ckpt->path, m->ckpt->tensors[b->tensor].name);
            return st;
        }
    }
    *out = e;
    return MG_OK;
}

mg_dtype mg_expr_dtype(const mg_expr *e) {
    return e->t.dtype;
}

uint32_t mg_expr_shape(const mg_expr *e, uint64_t shape[MG_MAX_RANK]) {
    memcpy(shape, e->t.shape, e->t.rank * sizeof *shape);
    return e->t.rank;
}
