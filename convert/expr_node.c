/* expr_node.c - what expressions have in common: sizes from shapes, identity, and one node for equal expressions.
 *
 * Interning keys are the canonical serialisation of a node (operation, dtype, shape, parameters, child numbers); the
 * same bytes enter the plan id. Children are always older than their parents, so node order is an evaluation order. */
#include "convert/plan_private.h"

#include <stdlib.h>
#include <string.h>

typedef struct key_buf {
    uint8_t *data;
    size_t n, cap;
    bool failed;
} key_buf;

static void key_put(key_buf *k, const void *data, size_t n) {
    if (k->failed) return;
    if (k->n + n > k->cap) {
        size_t cap = (k->n + n) * 2 + 64;
        uint8_t *now = realloc(k->data, cap);
        if (!now) {
            k->failed = true;
            return;
        }
        k->data = now;
        k->cap = cap;
    }
    memcpy(k->data + k->n, data, n);
    k->n += n;
}

static void key_u64(key_buf *k, uint64_t v) {
    key_put(k, &v, sizeof v);
}

static void key_form(key_buf *k, const mg_group_form *f) {
    const mg_group_scheme *s = &f->scheme;
    const uint64_t all[] = {(uint64_t)f->format,      s->bits,    s->group_size, s->symmetric, (uint64_t)s->rule,
                            (uint64_t)s->scale_dtype, s->zero_min};
    key_put(k, all, sizeof all);
}

static void key_of(key_buf *k, const mg_expr *e) {
    key_u64(k, (uint64_t)e->op);
    key_u64(k, (uint64_t)e->t.dtype);
    key_u64(k, e->t.rank);
    key_put(k, e->t.shape, e->t.rank * sizeof e->t.shape[0]);
    switch (e->op) {
    case MG_EX_SOURCE:
        key_u64(k, e->input);
        key_u64(k, e->tensor);
        break;
    case MG_EX_SLOT: /* every slot is its own */
        key_u64(k, e->index);
        break;
    case MG_EX_CONST:
    case MG_EX_CAST:
        key_u64(k, e->n_weights);
        if (e->fixed) key_u64(k, 1);
        key_put(k, e->hash.bytes, sizeof e->hash.bytes);
        break;
    case MG_EX_FEEDBACK:
        key_u64(k, e->tensor);
        key_put(k, e->hash.bytes, sizeof e->hash.bytes);
        break;
    case MG_EX_LINEAR:
        key_put(k, e->factors, e->n_children * sizeof e->factors[0]);
        break;
    case MG_EX_NOISE:
        key_u64(k, e->seed);
        key_put(k, e->factors, sizeof e->factors[0]);
        break;
    case MG_EX_LOWRANK:
        key_put(k, e->factors, sizeof e->factors[0]);
        break;
    case MG_EX_PART:
    case MG_EX_FP4:
    case MG_EX_GLOBAL:
        key_u64(k, e->arg);
        break;
    case MG_EX_GROUPS:
        key_form(k, e->form);
        break;
    case MG_EX_BLEND:
        key_put(k, e->blend, sizeof *e->blend);
        break;
    case MG_EX_VIEW:
        key_u64(k, (uint64_t)e->view.kind);
        key_u64(k, e->view.a);
        key_u64(k, e->view.b);
        key_u64(k, e->view.step);
        key_put(k, &e->view.value, sizeof e->view.value);
        break;
    default:
        break;
    }
    for (uint32_t i = 0; i < e->n_children; i++) key_u64(k, e->children[i]->index);
}

mg_status mg_expr_hash(const mg_expr *e, mg_xxh128_state *s, mg_error *err) {
    key_buf k = {0};
    key_of(&k, e);
    if (!k.failed) mg_xxh128_update(s, k.data, k.n);
    free(k.data);
    if (k.failed) return mg_fail_nomem(err, k.cap);
    if (e->op != MG_EX_SLOT) return MG_OK;
    const void *data = __atomic_load_n(&(e->slot ? e->slot : e)->data, __ATOMIC_ACQUIRE);
    if (!data) return mg_fail(err, MG_ERR_INTERNAL, "a plan with values that are not supplied yet has no identity");
    mg_xxh128_update(s, data, (size_t)e->t.n_bytes);
    return MG_OK;
}

static const char *const op_names[MG_EX_OP_COUNT] = {
    "source", "const",   "slot",    "cast",  "linear", "stack",  "concat", "beside", "view",    "blend",
    "noise",  "lowrank", "columns", "norms", "groups", "global", "part",   "fp4",    "feedback"};

mg_status mg_expr_finish(mg_expr *e, mg_error *err) {
    char text[128];
    if (!mg_tensor_set_sizes(&e->t))
        return mg_fail(err, MG_ERR_FORMAT, "%s: shape %s does not fit the type %s", op_names[e->op],
                       mg_tensor_shape_text(&e->t, text, sizeof text), mg_dtype_get(e->t.dtype)->name);
    e->rows = mg_tensor_rows(&e->t);
    e->row_bytes = mg_tensor_row_bytes(&e->t);
    if (e->op == MG_EX_PART || e->op == MG_EX_FP4) {
        e->rows = e->children[0]->rows;
        e->row_bytes = e->rows ? e->t.n_bytes / e->rows : 0;
    }
    uint64_t f32_row = 0;
    const bool values = e->op != MG_EX_GROUPS; /* a slab is never widened */
    if (e->row_bytes > MG_EXPR_MAX_ROW || (values && !mg_mul_u64(mg_tensor_cols(&e->t), 4, &f32_row)) ||
        f32_row > MG_EXPR_MAX_ROW)
        return mg_fail(err, MG_ERR_LIMIT, "%s: a row of %s has more than %llu bytes", op_names[e->op],
                       mg_tensor_shape_text(&e->t, text, sizeof text), (unsigned long long)MG_EXPR_MAX_ROW);
    if (e->grain == 0) e->grain = 1;
    for (uint32_t i = 0; i < e->n_children; i++) {
        const mg_expr *c = e->children[i];
        if (c->depth + 1 > e->depth) e->depth = c->depth + 1;
        bool reshaped = e->op == MG_EX_VIEW && (e->view.kind == MG_VIEW_RESHAPE || e->view.kind == MG_VIEW_TRANSPOSE);
        reshaped = reshaped || e->op == MG_EX_GROUPS || e->op == MG_EX_GLOBAL ||
                   e->op == MG_EX_PART; /* rows are not the child's */
        if (!reshaped && c->grain > e->grain) e->grain = c->grain;
    }
    if (e->depth > MG_EXPR_MAX_DEPTH)
        return mg_fail(err, MG_ERR_LIMIT, "an expression nests deeper than %d levels", MG_EXPR_MAX_DEPTH);
    return MG_OK;
}

mg_status mg_expr_intern(mg_plan *p, mg_expr *proto, const mg_expr **out, mg_error *err) {
    MG_TRY(mg_expr_finish(proto, err));
    proto->index = p->n_nodes;
    key_buf k = {0};
    key_of(&k, proto);
    if (k.failed) {
        free(k.data);
        return mg_fail_nomem(err, k.cap);
    }
    uint32_t have = mg_strmap_get(&p->interned, (const char *)k.data, k.n);
    if (have != MG_STRMAP_NONE) {
        free(k.data);
        *out = p->nodes[have];
        return MG_OK;
    }
    char *key = mg_arena_strndup(&p->arena, (const char *)k.data, k.n);
    size_t n = k.n;
    free(k.data);
    mg_expr *e;
    MG_TRY(mg_plan_grow(&p->nodes, &p->cap_nodes, p->n_nodes, sizeof *p->nodes, err));
    MG_TRY(MG_ARENA_NEW(&p->arena, &e, 1, err));
    if (!key) return mg_fail_nomem(err, n);
    *e = *proto;
    if (e->n_children) {
        const mg_expr **kids;
        MG_TRY(MG_ARENA_NEW(&p->arena, &kids, e->n_children, err));
        memcpy(kids, proto->children, e->n_children * sizeof *kids);
        e->children = kids;
    }
    MG_TRY(mg_strmap_put(&p->interned, key, n, e->index, NULL, err));
    p->nodes[p->n_nodes++] = e;
    p->laid_out = false;
    *out = e;
    return MG_OK;
}
