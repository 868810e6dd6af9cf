/* expr_parse.c - see expr_parse.h. Operands of a node come first, then its children, as expr_json.c writes them. */
#include "convert/expr_parse.h"

#include "convert/plan_private.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_CHILDREN = 65536 };

/* One node being read. */
typedef struct node {
    const mg_recipe_scope *s;
    const mg_tensor *tensor;
    const mg_json *at; /* the next operand or child */
    unsigned depth;
    const mg_expr **child;
    uint32_t n;
    mg_error *err;
} node;

static mg_status bad(const node *k, const char *what) {
    return mg_fail(k->err, MG_ERR_FORMAT, "recipe: %s", what);
}

static mg_status take_u64(node *k, uint64_t *out) {
    if (!k->at || !mg_json_u64(k->at, out)) return bad(k, "a whole number is missing");
    k->at = mg_json_next(k->at);
    return MG_OK;
}

static mg_status take_f64(node *k, double *out) {
    if (!k->at || !mg_json_f64(k->at, out)) return bad(k, "a number is missing");
    k->at = mg_json_next(k->at);
    return MG_OK;
}

static mg_status take_str(node *k, const char **out) {
    *out = k->at ? mg_json_str(k->at) : NULL;
    if (!*out) return bad(k, "a word is missing");
    k->at = mg_json_next(k->at);
    return MG_OK;
}

static mg_status take_dtype(node *k, mg_dtype *out) {
    const char *name;
    MG_TRY(take_str(k, &name));
    *out = mg_dtype_from_name(name);
    return *out < MG_DTYPE_COUNT ? MG_OK : bad(k, "an unknown type");
}

static mg_status parse(const mg_expr **out, const mg_recipe_scope *s, const mg_json *v, const mg_tensor *t,
                       unsigned depth, mg_error *err);

static mg_status take_children(node *k, uint32_t least, uint32_t most) {
    uint64_t n = 0;
    for (const mg_json *v = k->at; v; v = mg_json_next(v)) n++;
    if (n < least || n > most) return bad(k, "the wrong number of parts");
    k->child = calloc((size_t)n + 1, sizeof *k->child);
    if (!k->child) return mg_fail_nomem(k->err, n * sizeof *k->child);
    for (; k->at; k->at = mg_json_next(k->at))
        MG_TRY(parse(&k->child[k->n++], k->s, k->at, k->tensor, k->depth + 1, k->err));
    return MG_OK;
}

/* ---- leaves ---- */

static mg_status source(node *k, const mg_expr **out) {
    uint64_t input;
    const char *name;
    MG_TRY(take_u64(k, &input));
    MG_TRY(take_str(k, &name));
    if (input >= k->s->n_inputs) return bad(k, "an input that is not listed");
    mg_checkpoint *c = k->s->inputs[input];
    if (!c) return mg_fail(k->err, MG_ERR_UNSUPPORTED, "made from what a stage made and did not keep ('%s')", name);
    const uint32_t at = mg_checkpoint_find(c, name);
    if (at == MG_STRMAP_NONE) {
        mg_status st = mg_fail(k->err, MG_ERR_INTEGRITY, "it has no tensor '%s', which was read from it", name);
        mg_error_at(k->err, c->path, name);
        return st;
    }
    return mg_expr_source(k->s->plan, c, at, out, k->err);
}

static bool is_hash(mg_xxh128 h, const char *hex) {
    char text[33];
    mg_hex(h.bytes, sizeof h.bytes, text);
    return strcmp(text, hex) == 0;
}

/* Is this the digest of n bytes of 0? More than a plan would hold in memory are not asked about. */
static mg_status is_zeros(uint64_t n, const char *hash, bool *yes, mg_error *err) {
    enum { CHUNK = 4096 };
    static const uint8_t none[CHUNK];
    mg_xxh128_state *s;
    *yes = false;
    if (n > (uint64_t)1 << 30) return MG_OK;
    MG_TRY(mg_xxh128_new(&s, err));
    for (uint64_t at = 0; at < n; at += CHUNK) mg_xxh128_update(s, none, (size_t)(n - at < CHUNK ? n - at : CHUNK));
    *yes = is_hash(mg_xxh128_final(s), hash);
    mg_xxh128_free(s);
    return MG_OK;
}

/* Values in memory: zeros, or those of the same hash and size in the plan that was given for them. */
static mg_status memory(node *k, const char *kind, const mg_expr **out) {
    mg_tensor t = {0};
    const char *hash;
    MG_TRY(take_dtype(k, &t.dtype));
    for (const mg_json *d = mg_json_first(k->at); d; d = mg_json_next(d))
        if (t.rank == MG_MAX_RANK || !mg_json_u64(d, &t.shape[t.rank++])) return bad(k, "a shape");
    k->at = k->at ? mg_json_next(k->at) : NULL;
    MG_TRY(take_str(k, &hash));
    if (!mg_tensor_set_sizes(&t)) return bad(k, "a shape");
    bool zeros;
    MG_TRY(is_zeros(t.n_bytes, hash, &zeros, k->err));
    if (zeros) return mg_expr_zeros(k->s->plan, t.dtype, t.rank, t.shape, out, k->err);
    for (uint32_t i = 0; k->s->values && i < k->s->values->n_nodes; i++) {
        const mg_expr *e = k->s->values->nodes[i];
        const void *data = (e->slot ? e->slot : e)->data;
        if ((e->op != MG_EX_CONST && e->op != MG_EX_SLOT) || !data || e->t.n_bytes != t.n_bytes) continue;
        if (is_hash(mg_xxh128_of(data, (size_t)t.n_bytes), hash))
            return mg_expr_const(k->s->plan, t.dtype, t.rank, t.shape, data, out, k->err);
    }
    if (k->s->values)
        return mg_fail(k->err, MG_ERR_INTEGRITY, "the recipe given computes other values (%s %s)", kind, hash);
    return mg_fail(k->err, MG_ERR_UNSUPPORTED, "values that were computed (%s)%s", kind,
                   strcmp(kind, "slot") == 0 ? ": give the merge recipe as well" : "");
}

/* ---- nodes ---- */

static mg_status weights(const node *k, const char *hash, const float **values, uint64_t *n) {
    for (uint32_t i = 0; k->s->imatrix && i < k->s->imatrix->n; i++) {
        const mg_imatrix_entry *e = &k->s->imatrix->entries[i];
        if (!is_hash(mg_xxh128_of(e->values, (size_t)(e->n_mat * e->cols) * sizeof *e->values), hash)) continue;
        *values = e->values;
        *n = e->n_mat * e->cols;
        return MG_OK;
    }
    if (k->s->imatrix)
        return mg_fail(k->err, MG_ERR_INTEGRITY, "the importance matrix has no weights with the hash %s", hash);
    return mg_fail(k->err, MG_ERR_UNSUPPORTED, "importance weights: give the matrix (--imatrix FILE)");
}

static mg_status cast(node *k, const mg_expr **out) {
    mg_dtype dtype;
    bool fixed = false;
    const float *values = NULL;
    uint64_t n = 0;
    MG_TRY(take_dtype(k, &dtype));
    while (k->at && mg_json_str(k->at)) {
        const char *word;
        MG_TRY(take_str(k, &word));
        if (strcmp(word, "fixed") == 0)
            fixed = true;
        else
            MG_TRY(weights(k, word, &values, &n));
    }
    MG_TRY(take_children(k, 1, 1));
    return fixed ? mg_expr_cast_fixed(k->s->plan, k->child[0], dtype, values, n, out, k->err)
                 : mg_expr_cast(k->s->plan, k->child[0], dtype, values, n, out, k->err);
}

static mg_status view(node *k, mg_view_kind kind, const mg_expr **out) {
    mg_view v = {.kind = kind};
    const bool rows = kind == MG_VIEW_ROWS || kind == MG_VIEW_GROUPS;
    if (kind == MG_VIEW_ADD) {
        double x;
        MG_TRY(take_f64(k, &x));
        v.value = x;
    } else if (kind != MG_VIEW_TRANSPOSE) {
        MG_TRY(take_u64(k, &v.a));
    }
    if (rows) MG_TRY(take_u64(k, &v.step));
    if (rows || kind == MG_VIEW_RESHAPE) MG_TRY(take_u64(k, &v.b));
    if (kind == MG_VIEW_RESHAPE && mg_json_u64(k->at, &v.step)) k->at = mg_json_next(k->at);
    MG_TRY(take_children(k, 1, 1));
    return mg_expr_view(k->s->plan, k->child[0], &v, out, k->err);
}

static mg_status linear(node *k, const mg_expr **out) {
    double factors[MG_BLEND_MAX];
    uint32_t n = 0;
    const mg_expr *child[MG_BLEND_MAX];
    while (k->at) {
        if (n == MG_BLEND_MAX) return bad(k, "too many parts");
        MG_TRY(take_f64(k, &factors[n]));
        if (!k->at) return bad(k, "the wrong number of parts");
        MG_TRY(parse(&child[n++], k->s, k->at, k->tensor, k->depth + 1, k->err));
        k->at = mg_json_next(k->at);
    }
    return mg_expr_linear(k->s->plan, child, factors, n, out, k->err);
}

static bool blend_list(const mg_json *o, const char *key, double *to, uint32_t n) {
    const mg_json *v = mg_json_first(mg_json_get(o, key));
    for (uint32_t i = 0; i < n; i++, v = mg_json_next(v))
        if (!v || !mg_json_f64(v, &to[i])) return false;
    return true;
}

static mg_status blend(node *k, const mg_expr **out) {
    mg_blend b;
    uint64_t iter = 0;
    const char *name;
    memset(&b, 0, sizeof b); /* its padding is part of its identity */
    MG_TRY(take_str(k, &name));
    MG_TRY(mg_blend_parse(name, &b.method, k->err));
    const mg_json *o = k->at;
    k->at = o ? mg_json_next(o) : NULL;
    MG_TRY(take_children(k, 1, MG_BLEND_MAX));
    b.n = k->n;
    bool ok = mg_json_bool(mg_json_get(o, "has_base"), &b.has_base);
    ok = mg_json_bool(mg_json_get(o, "normalize"), &b.normalize) && ok;
    ok = mg_json_bool(mg_json_get(o, "rescale"), &b.rescale) && ok;
    ok = mg_json_u64(mg_json_get(o, "max_iter"), &iter) && iter <= UINT32_MAX && ok;
    b.max_iter = (uint32_t)iter;
    ok = mg_json_u64(mg_json_get(o, "seed"), &b.seed) && ok;
    const struct {
        const char *key;
        double *to;
    } numbers[] = {
        {"t", &b.t}, {"lambda", &b.lambda}, {"eps", &b.eps}, {"tol", &b.tol}, {"select_topk", &b.select_topk}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        ok = mg_json_f64(mg_json_get(o, numbers[i].key), numbers[i].to) && ok;
    ok = blend_list(o, "weight", b.weight, b.n) && blend_list(o, "density", b.density, b.n) && ok;
    ok = blend_list(o, "gamma", b.gamma, b.n) && blend_list(o, "epsilon", b.epsilon, b.n) && ok;
    if (!ok) return bad(k, "the parameters of a merge method");
    return mg_expr_blend(k->s->plan, k->child, &b, out, k->err);
}

/* ["part", suffix, ["groups", form, child...]]: all parts of a form are made at once. */
static mg_status part(node *k, const mg_expr **out) {
    const char *suffix, *format, *type;
    uint64_t bits = 0;
    int64_t size = 0;
    bool symmetric = false;
    MG_TRY(take_str(k, &suffix));
    const mg_json *groups = k->at, *form = mg_json_next(mg_json_first(groups));
    k->at = form ? mg_json_next(form) : NULL;
    MG_TRY(take_children(k, 1, 3));
    format = mg_json_str(mg_json_get(form, "format"));
    type = mg_json_str(mg_json_get(form, "dtype"));
    if (!format || !type || !mg_json_u64(mg_json_get(form, "bits"), &bits) || bits > 8 ||
        !mg_json_i64(mg_json_get(form, "group_size"), &size) ||
        !mg_json_bool(mg_json_get(form, "symmetric"), &symmetric))
        return bad(k, "a form of groups");
    const mg_group_format f = mg_group_format_find(format);
    const mg_dtype scales = mg_dtype_from_name(type);
    if (f == MG_FORMAT_COUNT || scales >= MG_DTYPE_COUNT) return bad(k, "a form of groups");
    const mg_group_scheme scheme =
        mg_group_format_scheme(f, (uint32_t)bits, size < 0 ? 0 : (uint64_t)size, symmetric, scales);
    mg_group_form made;
    const mg_expr *parts[MG_GROUP_MAX_PARTS];
    MG_TRY(mg_expr_group_form(&made, f, &scheme, k->child[0], k->err));
    MG_TRY(k->n == 3
               ? mg_expr_group_pack(k->s->plan, k->child[0], k->child[1], k->child[2], &made, parts, k->err)
               : mg_expr_group_encode(k->s->plan, k->child[0], k->n == 2 ? k->child[1] : NULL, &made, parts, k->err));
    for (uint32_t i = 0; i < made.n_parts; i++)
        if (strcmp(made.parts[i].suffix, suffix) == 0) {
            *out = parts[i];
            return MG_OK;
        }
    return bad(k, "a part that its form does not have");
}

static mg_status fp4(node *k, const mg_expr **out) {
    const char *which;
    MG_TRY(take_str(k, &which));
    MG_TRY(take_children(k, 1, 1));
    return mg_expr_fp4_part(k->s->plan, k->child[0], strcmp(which, "codes") == 0 ? MG_FP4_CODES : MG_FP4_SCALES,
                            k->tensor->rank, k->tensor->shape, out, k->err);
}

/* ["global", type of the model's floats, weight...] */
static mg_status global(node *k, const mg_expr **out) {
    mg_dtype model;
    MG_TRY(take_dtype(k, &model));
    MG_TRY(take_children(k, 1, MAX_CHILDREN));
    return mg_expr_group_global(k->s->plan, k->child, k->n, model, out, k->err);
}

/* Nodes with a factor. */
static mg_status factor_node(node *k, const char *op, const mg_expr **out) {
    double factor = 0;
    uint64_t number = 0;
    mg_plan *p = k->s->plan;
    MG_TRY(take_f64(k, &factor));
    if (strcmp(op, "noise") == 0) MG_TRY(take_u64(k, &number));
    const uint32_t n = strcmp(op, "noise") == 0 ? 1 : 3;
    MG_TRY(take_children(k, n, n));
    return n == 1 ? mg_expr_noise(p, k->child[0], factor, number, out, k->err)
                  : mg_expr_lowrank(p, k->child[0], k->child[1], k->child[2], factor, out, k->err);
}

static mg_status inner(node *k, const char *op, const mg_expr **out) {
    for (int v = 0; v <= MG_VIEW_ADD; v++)
        if (mg_expr_view_name((mg_view_kind)v) && strcmp(op, mg_expr_view_name((mg_view_kind)v)) == 0)
            return view(k, (mg_view_kind)v, out);
    if (strcmp(op, "stack") == 0 || strcmp(op, "concat") == 0) {
        MG_TRY(take_children(k, 1, MAX_CHILDREN));
        return (*op == 's' ? mg_expr_stack : mg_expr_concat)(k->s->plan, k->child, k->n, out, k->err);
    }
    if (strcmp(op, "beside") == 0) {
        MG_TRY(take_children(k, 1, MAX_CHILDREN));
        return mg_expr_beside(k->s->plan, k->child, k->n, out, k->err);
    }
    if (strcmp(op, "columns") == 0 || strcmp(op, "norms") == 0) {
        MG_TRY(take_children(k, 2, 2));
        return (*op == 'c' ? mg_expr_columns : mg_expr_norms)(k->s->plan, k->child[0], k->child[1], out, k->err);
    }
    if (strcmp(op, "cast") == 0) return cast(k, out);
    if (strcmp(op, "linear") == 0) return linear(k, out);
    if (strcmp(op, "blend") == 0) return blend(k, out);
    if (strcmp(op, "part") == 0) return part(k, out);
    if (strcmp(op, "fp4") == 0) return fp4(k, out);
    if (strcmp(op, "global") == 0) return global(k, out);
    if (strcmp(op, "noise") == 0 || strcmp(op, "lowrank") == 0) return factor_node(k, op, out);
    if (strcmp(op, "feedback") == 0)
        return mg_fail(k->err, MG_ERR_UNSUPPORTED, "codes that a stage chose from a text (feedback): not kept");
    return mg_fail(k->err, MG_ERR_FORMAT, "recipe: unknown operation '%.40s'", op);
}

static mg_status parse(const mg_expr **out, const mg_recipe_scope *s, const mg_json *v, const mg_tensor *t,
                       unsigned depth, mg_error *err) {
    node k = {.s = s, .tensor = t, .at = mg_json_first(v), .depth = depth, .err = err};
    const char *op;
    if (depth > MG_EXPR_MAX_DEPTH) return mg_fail(err, MG_ERR_LIMIT, "recipe: nested too deeply");
    MG_TRY(take_str(&k, &op));
    mg_status st;
    if (strcmp(op, "source") == 0)
        st = source(&k, out);
    else if (strcmp(op, "const") == 0 || strcmp(op, "slot") == 0)
        st = memory(&k, op, out);
    else
        st = inner(&k, op, out);
    free(k.child);
    return st;
}

mg_status mg_expr_parse(const mg_expr **out, const mg_recipe_scope *s, const mg_json *recipe, const mg_tensor *t,
                        mg_error *err) {
    return parse(out, s, recipe, t, 0, err);
}
