/* expr_json.c - an expression in words: the recipe of the manifest, and where a tensor mainly comes from. */
#include "convert/expr.h"

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

const char *mg_expr_view_name(mg_view_kind kind) {
    return (size_t)kind < sizeof view_names / sizeof *view_names ? view_names[kind] : NULL;
}

static mg_json *view_json(const mg_expr *e) {
    mg_json *a = mg_json_new_array();
    const mg_view *v = &e->view;
    mg_json_push(a, mg_json_new_str(view_names[v->kind]));
    if (v->kind == MG_VIEW_ADD) mg_json_push(a, mg_json_new_f64(v->value));
    if (v->kind != MG_VIEW_ADD && v->kind != MG_VIEW_TRANSPOSE) mg_json_push(a, mg_json_new_u64(v->a));
    bool rows = v->kind == MG_VIEW_ROWS || v->kind == MG_VIEW_GROUPS;
    if (rows) mg_json_push(a, mg_json_new_u64(v->step ? v->step : 1));
    if (rows || v->kind == MG_VIEW_RESHAPE) mg_json_push(a, mg_json_new_u64(v->b));
    if (v->kind == MG_VIEW_RESHAPE && v->step) mg_json_push(a, mg_json_new_u64(v->step));
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

/* {"format": "awq", "bits": 4, "group_size": 128, "symmetric": false, "dtype": "F16"}; dtype: of scales, of the model
 * where weights are small floats */
static mg_json *form_json(const mg_group_form *f) {
    mg_json *o = mg_json_new_object();
    mg_json_set_str(o, "format", mg_group_format_name(f->format));
    mg_json_set_u64(o, "bits", f->scheme.bits);
    mg_json_set_i64(o, "group_size", f->scheme.group_size ? (int64_t)f->scheme.group_size : -1);
    mg_json_set(o, "symmetric", mg_json_new_bool(f->scheme.symmetric));
    const bool small = mg_group_format_is_float(f->format);
    mg_json_set_str(o, "dtype", mg_dtype_get(small ? f->scheme.model_dtype : f->scheme.scale_dtype)->name);
    return o;
}

static void list_json(mg_json *o, const char *key, const double *v, uint32_t n) {
    mg_json *list = mg_json_new_array();
    for (uint32_t i = 0; i < n; i++) mg_json_push(list, mg_json_new_f64(v[i]));
    mg_json_set(o, key, list);
}

/* Everything that a blend is made of but its inputs; expr_parse.c reads it. */
static mg_json *blend_json(const mg_blend *b) {
    mg_json *o = mg_json_new_object();
    mg_json_set_bool(o, "has_base", b->has_base);
    mg_json_set_bool(o, "normalize", b->normalize);
    mg_json_set_bool(o, "rescale", b->rescale);
    mg_json_set_u64(o, "max_iter", b->max_iter);
    mg_json_set_u64(o, "seed", b->seed);
    mg_json_set_f64(o, "t", b->t);
    mg_json_set_f64(o, "lambda", b->lambda);
    mg_json_set_f64(o, "eps", b->eps);
    mg_json_set_f64(o, "tol", b->tol);
    mg_json_set_f64(o, "select_topk", b->select_topk);
    list_json(o, "weight", b->weight, b->n);
    list_json(o, "density", b->density, b->n);
    list_json(o, "gamma", b->gamma, b->n);
    list_json(o, "epsilon", b->epsilon, b->n);
    return o;
}

mg_json *mg_expr_json(const mg_expr *e) {
    static const char *const names[MG_EX_OP_COUNT] = {
        "source", "const",   "slot",    "cast",  "linear", "stack",  "concat", "beside", "",        "blend",
        "noise",  "lowrank", "columns", "norms", "groups", "global", "part",   "fp4",    "feedback"};
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
        if (e->fixed) mg_json_push(a, mg_json_new_str("fixed"));
        if (e->weights) mg_json_push(a, hash_json(e->hash));
    }
    if (e->op == MG_EX_FEEDBACK) {
        mg_json_push(a, mg_json_new_str(mg_dtype_get(e->t.dtype)->name));
        mg_json_push(a, hash_json(e->hash));
    }
    if (e->op == MG_EX_NOISE || e->op == MG_EX_LOWRANK) mg_json_push(a, mg_json_new_f64(e->factors[0]));
    if (e->op == MG_EX_NOISE) mg_json_push(a, mg_json_new_u64(e->seed));
    if (e->op == MG_EX_GLOBAL) mg_json_push(a, mg_json_new_str(mg_dtype_get((mg_dtype)e->arg)->name));
    if (e->op == MG_EX_GROUPS) mg_json_push(a, form_json(e->form));
    if (e->op == MG_EX_FP4) mg_json_push(a, mg_json_new_str(e->arg == MG_FP4_CODES ? "codes" : "scales"));
    if (e->op == MG_EX_PART) mg_json_push(a, mg_json_new_str(e->children[0]->form->parts[e->arg].suffix));
    if (e->op == MG_EX_BLEND) {
        mg_json_push(a, mg_json_new_str(mg_blend_info_of(e->blend->method)->name));
        mg_json_push(a, blend_json(e->blend));
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
