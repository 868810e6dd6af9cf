/* targets.c - the writing side: which tensors a layout has for a model, and of which logical weights each is made.
 *
 * The first form of every row is written. Its reading chain is inverted: SELECT and ROWS at the front of the chain say
 * which rows of the stored tensor a weight occupies and become the concatenation of parts; the rest of the chain is
 * undone view by view, last first. */
#include "formats/arch/arch_internal.h"
#include "formats/base/strmap.h"

#include <stdlib.h>
#include <string.h>

#define TARGETS_ARENA ((uint64_t)2 << 30)
#define MAX_RUNS      ((uint64_t)1 << 20) /* of a weight whose rows lie apart: far more than there are heads */

/* A weight on its way into a target. */
typedef struct piece {
    uint32_t target;
    mg_part part;
    uint64_t first, n; /* elements of the target */
} piece;

typedef struct builder {
    mg_targets *out;
    const mg_arch *arch;
    const mg_hparams *hp;
    const mg_layer *layers;
    mg_layout layout;
    mg_forms forms;
    mg_has_fn has;
    const void *ctx;
    mg_strmap names;
    piece *pieces;
    size_t n_pieces, cap_pieces, cap_targets;
    mg_error *err;
} builder;

static uint64_t product(const uint64_t *shape, uint32_t rank) {
    uint64_t n = 1;
    for (uint32_t i = 0; i < rank; i++) n *= shape[i];
    return n;
}

/* Rows are along the last dimension; a vector is one row. */
static uint64_t rows_of(uint64_t elements, const uint64_t *stored, uint32_t rank) {
    return rank < 2 ? 1 : elements / stored[rank - 1];
}

static mg_view inverse(const mg_view *v) {
    mg_view w = *v;
    if (v->kind == MG_VIEW_ROPE_UNPERM) w.kind = MG_VIEW_ROPE_PERM;
    if (v->kind == MG_VIEW_ROPE_PERM) w.kind = MG_VIEW_ROPE_UNPERM;
    if (v->kind == MG_VIEW_ADD) w.value = -v->value;
    return w;
}

/* A reading chain taken apart: where the weight begins in the stored tensor, which rows of it are apart there, and how
 * the rest is undone. */
typedef struct inverse_chain {
    uint64_t first; /* stored element */
    mg_view groups; /* of kind GROUPS: the weight's rows lie in runs, b of every step */
    uint64_t nth;   /* join > 1: its place among those whose rows alternate */
    uint32_t join;
    mg_view views[MG_MAX_VIEWS]; /* per part, or after joining */
} inverse_chain;

static mg_status invert(inverse_chain *c, const mg_view *views, uint32_t rank, const uint64_t *stored, mg_error *err) {
    uint32_t n = 0, k = 0, d = 0, used = 0;
    uint64_t offset = 0;
    *c = (inverse_chain){.join = 1};
    while (n < MG_MAX_VIEWS && views[n].kind != MG_VIEW_END) n++;
    for (; k < n && (views[k].kind == MG_VIEW_SELECT || (views[k].kind == MG_VIEW_ROWS && views[k].step <= 1)); k++) {
        offset += views[k].a * product(stored + d + 1, rank - d - 1);
        if (views[k].kind == MG_VIEW_SELECT) d++;
    }
    c->first = offset;
    if (n > k && views[n - 1].kind == MG_VIEW_GROUPS) {
        c->groups = views[--n];
        if (n > k) return mg_fail(err, MG_ERR_UNSUPPORTED, "this layout cannot be written");
    } else if (n > k && views[n - 1].kind == MG_VIEW_ROWS && views[n - 1].step == 2 && views[n - 1].a < 2) {
        c->join = 2; /* one weight below the other, then their rows alternate */
        c->nth = views[--n].a;
        c->views[used++] = (mg_view){.kind = MG_VIEW_ROPE_PERM, .a = 1};
    }
    /* the shape before each view, which undoing a reshape needs */
    uint64_t shape[MG_MAX_VIEWS + 1][MG_MAX_RANK] = {{0}};
    uint32_t ranks[MG_MAX_VIEWS + 1];
    for (uint32_t i = k; i <= n; i++) {
        mg_view head[MG_MAX_VIEWS] = {{0}};
        memcpy(head, views, i * sizeof *views);
        if (!mg_views_shape(head, rank, stored, &ranks[i], shape[i]))
            return mg_fail(err, MG_ERR_FORMAT, "a view does not fit the shape it is stored in");
    }
    for (uint32_t i = n; i-- > k;) {
        mg_view_kind kind = views[i].kind;
        if (kind != MG_VIEW_ROPE_UNPERM && kind != MG_VIEW_ROPE_PERM && kind != MG_VIEW_ADD &&
            kind != MG_VIEW_TRANSPOSE && kind != MG_VIEW_RESHAPE)
            return mg_fail(err, MG_ERR_UNSUPPORTED, "this layout cannot be written");
        c->views[used] = inverse(&views[i]);
        if (kind == MG_VIEW_RESHAPE) {
            c->views[used].a = shape[i][0];
            c->views[used].b = ranks[i] > 1 ? shape[i][1] : 0;
            c->views[used].step = ranks[i] > 2 ? shape[i][2] : 0;
        }
        used++;
    }
    return MG_OK;
}

static mg_status grow(void **p, size_t *cap, size_t n, size_t size, mg_error *err) {
    if (n < *cap) return MG_OK;
    size_t want = *cap ? 2 * *cap : 256;
    void *q = realloc(*p, want * size);
    if (!q) return mg_fail_nomem(err, want * size);
    *p = q;
    *cap = want;
    return MG_OK;
}

/* The target of this name, made when it is new. */
static mg_status target_named(builder *b, const char *name, const mg_target *like, uint32_t *index) {
    *index = mg_strmap_get(&b->names, name, strlen(name));
    if (*index != MG_STRMAP_NONE) return MG_OK;
    *index = (uint32_t)b->out->n;
    MG_TRY(grow((void **)&b->out->items, &b->cap_targets, b->out->n, sizeof(mg_target), b->err));
    mg_target *t = &b->out->items[b->out->n];
    *t = *like;
    t->name = mg_arena_strdup(&b->out->arena, name);
    if (!t->name) return mg_fail_nomem(b->err, strlen(name));
    b->out->n++;
    return mg_strmap_put(&b->names, t->name, strlen(name), *index, NULL, b->err);
}

static const char *const layout_name[MG_LAYOUT_COUNT] = {"Hugging Face", "GGUF", "native"};

static mg_status put_piece(builder *b, const uint64_t *stored, uint32_t rank, piece p) {
    MG_TRY(grow((void **)&b->pieces, &b->cap_pieces, b->n_pieces, sizeof(piece), b->err));
    p.part.rows = rows_of(p.n, stored, rank);
    b->pieces[b->n_pieces++] = p;
    return MG_OK;
}

/* The form of a row that holds blocks; NULL when the family stores no such. */
static const mg_form *blocks_form(const mg_tensor_row *r) {
    for (uint32_t f = 0; f < MG_MAX_FORMS && r->forms[MG_LAYOUT_HF][f].pattern; f++)
        if (r->forms[MG_LAYOUT_HF][f].blocks) return &r->forms[MG_LAYOUT_HF][f];
    return NULL;
}

/* The form of a row that is one weight as it is; NULL when the family stores none such. */
static const mg_form *matrix_form(const mg_tensor_row *r) {
    if (mg_role_scope(r->role) != MG_SCOPE_EXPERT) return NULL;
    for (uint32_t f = 0; f < MG_MAX_FORMS && r->forms[MG_LAYOUT_HF][f].pattern; f++)
        if (r->forms[MG_LAYOUT_HF][f].views[0].kind == MG_VIEW_END) return &r->forms[MG_LAYOUT_HF][f];
    return NULL;
}

static const mg_form *mlx_form(const mg_tensor_row *r) {
    for (uint32_t f = 0; f < MG_MAX_FORMS && r->forms[MG_LAYOUT_HF][f].pattern; f++)
        if (r->forms[MG_LAYOUT_HF][f].mlx) return &r->forms[MG_LAYOUT_HF][f];
    return NULL;
}

static const mg_form *form_of(const builder *b, const mg_tensor_row *r) {
    const mg_form *f = b->forms == MG_FORMS_BLOCKS ? blocks_form(r) : b->forms == MG_FORMS_MLX ? mlx_form(r) : NULL;
    if (!f && (b->forms == MG_FORMS_MATRICES || b->forms == MG_FORMS_MLX)) f = matrix_form(r);
    return f ? f : &r->forms[b->layout][0];
}

static mg_status add_piece(builder *b, uint32_t row, uint32_t l, uint32_t e, bool generated) {
    const mg_tensor_row *r = &b->arch->tensors[row];
    const mg_form *f = form_of(b, r);
    mg_view chain[MG_MAX_VIEWS];
    inverse_chain inv;
    uint64_t shape[3], stored[4] = {0};
    mg_target like = {.blocks = f->blocks, .generated = generated, .row = row, .flush = r->flush};
    char name[256];
    uint32_t rank = mg_sym_shape(shape, r->shape, 3, b->hp, e);
    if (!f->pattern)
        return mg_fail(b->err, MG_ERR_UNSUPPORTED, "'%s' has no place in the %s layout of family '%s'",
                       mg_role_name(r->role), layout_name[b->layout], b->arch->name);
    if (!mg_pattern_expand(name, sizeof name, f->pattern, b->hp, l, e))
        return mg_fail(b->err, MG_ERR_FORMAT, "pattern too long");
    bool own = f->stored[0].kind != MG_SYM_NONE;
    like.rank = mg_sym_shape(stored, own ? f->stored : r->shape, own ? 4 : 3, b->hp, e);
    memcpy(like.shape, stored, sizeof stored);
    size_t end = strlen(name);
    const bool weight = end > 7 && strcmp(name + end - 7, ".weight") == 0;
    like.always_f32 = like.rank < 2 || r->role == MG_R_ROUTER || r->role == MG_R_SHARED_ROUTER ||
                      (b->layout == MG_LAYOUT_GGUF && !weight);
    mg_form_views(chain, f, b->hp, e);
    MG_TRY(invert(&inv, chain, like.rank, stored, b->err));
    like.join = inv.join;
    memcpy(inv.join > 1 ? like.after : like.views, inv.views, sizeof inv.views);
    uint32_t index;
    MG_TRY(target_named(b, name, &like, &index));
    const uint64_t n = product(shape, rank), inner = shape[0] ? n / shape[0] : 0;
    if (n == 0 || product(stored, like.rank) == 0) return mg_fail(b->err, MG_ERR_FORMAT, "'%s' has no elements", name);
    if (inv.groups.kind == MG_VIEW_END)
        return put_piece(b, stored, like.rank, (piece){index, {r->role, l, e, 0, 0, 0}, inv.first + inv.nth * n, n});
    const uint64_t run = inv.groups.b, step = inv.groups.step;
    if (run == 0 || step < run || shape[0] / run > MAX_RUNS)
        return mg_fail(b->err, MG_ERR_FORMAT, "'%s': its rows lie in no runs that can be written", name);
    for (uint64_t g = 0; g * run < shape[0]; g++)
        MG_TRY(put_piece(
            b, stored, like.rank,
            (piece){
                index, {r->role, l, e, 0, g * run, run}, inv.first + (g * step + inv.groups.a) * inner, run * inner}));
    return MG_OK;
}

/* Is there such a weight, and is it one that has to be made? */
static bool present(const builder *b, const mg_tensor_row *r, uint32_t l, uint32_t e, bool *generated) {
    const mg_layer *layer = mg_role_scope(r->role) == MG_SCOPE_MODEL ? NULL : &b->layers[l];
    bool has = b->has ? b->has(b->ctx, r->role, l, e) : mg_cond_holds(r->when, b->hp, layer);
    const int64_t rope = b->hp->i[MG_K_ROPE_TYPE];
    const bool factors =
        (r->when == MG_IF_LLAMA3 && rope == MG_ROPE_LLAMA3) || (r->when == MG_IF_LONGROPE && rope == MG_ROPE_LONGROPE);
    *generated = !has && factors && b->layout == MG_LAYOUT_GGUF;
    if (r->when == MG_IF_LONGROPE && b->layout == MG_LAYOUT_HF) return false; /* the config has the lists */
    return has || *generated;
}

static uint32_t layers_of(const builder *b, mg_role role) {
    return mg_role_scope(role) == MG_SCOPE_MODEL ? 1 : (uint32_t)b->hp->i[MG_K_LAYERS];
}

static uint32_t experts_of(const builder *b, mg_role role) {
    return mg_scope_count(mg_role_scope(role), b->hp);
}

static mg_status add_row(builder *b, uint32_t row, uint32_t l) {
    const mg_tensor_row *r = &b->arch->tensors[row];
    for (uint32_t e = 0, n = experts_of(b, r->role); e < n; e++) {
        bool generated;
        if (present(b, r, l, e, &generated)) MG_TRY(add_piece(b, row, l, e, generated));
    }
    return MG_OK;
}

/* A weight of the source that the family has no row for must not vanish silently. */
static mg_status check_no_loss(const builder *b) {
    if (!b->has) return MG_OK;
    for (int role = 0; role < MG_ROLE_COUNT; role++) {
        if (mg_arch_row(b->arch, (mg_role)role)) continue;
        for (uint32_t l = 0, n = layers_of(b, (mg_role)role); l < n; l++)
            if (b->has(b->ctx, (mg_role)role, l, 0))
                return mg_fail(b->err, MG_ERR_UNSUPPORTED,
                               "the source has '%s' weights, for which family '%s' has no place",
                               mg_role_name((mg_role)role), b->arch->name);
    }
    return MG_OK;
}

static int by_place(const void *pa, const void *pb) {
    const piece *a = pa, *b = pb;
    if (a->target != b->target) return a->target < b->target ? -1 : 1;
    return a->first < b->first ? -1 : a->first > b->first;
}

/* Hand the sorted pieces to their targets; every element must come from exactly one. */
static mg_status assign_parts(builder *b) {
    mg_part *parts;
    MG_TRY(MG_ARENA_NEW(&b->out->arena, &parts, b->n_pieces, b->err));
    if (b->n_pieces) qsort(b->pieces, b->n_pieces, sizeof *b->pieces, by_place);
    for (size_t i = 0; i < b->n_pieces;) {
        mg_target *t = &b->out->items[b->pieces[i].target];
        uint64_t at = 0, all = product(t->shape, t->rank);
        t->parts = parts + i;
        for (uint32_t target = b->pieces[i].target; i < b->n_pieces && b->pieces[i].target == target; i++) {
            if (b->pieces[i].first != at) break;
            parts[i] = b->pieces[i].part;
            at += b->pieces[i].n;
            t->n_parts++;
        }
        if (at != all) {
            mg_fail(b->err, MG_ERR_FORMAT, "%llu of its %llu elements have a source", (unsigned long long)at,
                    (unsigned long long)all);
            mg_error_at(b->err, NULL, t->name);
            return MG_ERR_FORMAT;
        }
    }
    return MG_OK;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const mg_target *)a)->name, ((const mg_target *)b)->name);
}

static mg_status build(builder *b) {
    MG_TRY(check_no_loss(b));
    for (uint32_t i = 0; i < b->arch->n_tensors; i++)
        if (mg_role_scope(b->arch->tensors[i].role) == MG_SCOPE_MODEL) MG_TRY(add_row(b, i, 0));
    for (uint32_t l = 0; l < (uint32_t)b->hp->i[MG_K_LAYERS]; l++)
        for (uint32_t i = 0; i < b->arch->n_tensors; i++)
            if (mg_role_scope(b->arch->tensors[i].role) != MG_SCOPE_MODEL) MG_TRY(add_row(b, i, l));
    MG_TRY(assign_parts(b));
    if (b->layout != MG_LAYOUT_GGUF && b->out->n) qsort(b->out->items, b->out->n, sizeof *b->out->items, by_name);
    return MG_OK;
}

static mg_status targets(builder *b) {
    memset(b->out, 0, sizeof *b->out);
    mg_arena_init(&b->out->arena, TARGETS_ARENA);
    mg_strmap_init(&b->names);
    mg_status st = build(b);
    mg_strmap_release(&b->names);
    free(b->pieces);
    return st;
}

mg_status mg_arch_targets(mg_targets *out, const mg_arch *arch, const mg_hparams *hp, const mg_layer *layers,
                          mg_layout layout, mg_has_fn has, const void *ctx, mg_error *err) {
    builder b = {
        .out = out, .arch = arch, .hp = hp, .layers = layers, .layout = layout, .has = has, .ctx = ctx, .err = err};
    return targets(&b);
}

mg_status mg_arch_targets_in(mg_targets *out, const mg_arch *arch, const mg_hparams *hp, const mg_layer *layers,
                             mg_forms forms, mg_has_fn has, const void *ctx, mg_error *err) {
    builder b = {.out = out, .arch = arch, .hp = hp, .layers = layers, .layout = MG_LAYOUT_HF, .forms = forms};
    b.has = has;
    b.ctx = ctx;
    b.err = err;
    return targets(&b);
}

bool mg_arch_has_mlx_form(const mg_arch *arch, mg_role role) {
    const mg_tensor_row *r = mg_arch_row(arch, role);
    return r && mlx_form(r);
}

bool mg_arch_stacks(const mg_arch *arch, mg_role role) {
    const mg_tensor_row *r = mg_role_scope(role) == MG_SCOPE_EXPERT ? mg_arch_row(arch, role) : NULL;
    return r && r->forms[MG_LAYOUT_HF][0].views[0].kind != MG_VIEW_END;
}

bool mg_model_has_blocks(const mg_model *m) {
    bool any = false;
    for (uint32_t i = 0; i < m->arch->n_tensors; i++) {
        const mg_tensor_row *r = &m->arch->tensors[i];
        const uint32_t experts = mg_scope_count(mg_role_scope(r->role), &m->hp);
        if (!blocks_form(r)) continue;
        for (uint32_t l = 0; l < (uint32_t)m->hp.i[MG_K_LAYERS]; l++)
            for (uint32_t e = 0; e < experts; e++) {
                const mg_bound *b = mg_model_find(m, r->role, l, e);
                if (b && mg_model_tensor(m, b)->dtype != MG_MXFP4) return false;
                any = any || b;
            }
    }
    return any;
}

void mg_targets_release(mg_targets *t) {
    free(t->items);
    mg_arena_release(&t->arena);
    memset(t, 0, sizeof *t);
}

uint32_t mg_target_part_of_row(const mg_target *t, uint64_t row, uint64_t *row_in_part) {
    /* stacks have parts of equal height, so the guess is right at once; a fused tensor is walked */
    uint64_t h = t->parts[0].rows;
    bool equal = h && h * t->n_parts == rows_of(product(t->shape, t->rank), t->shape, t->rank);
    for (uint32_t i = 1; equal && i < t->n_parts && i < 3; i++) equal = t->parts[i].rows == h;
    uint32_t p = 0;
    if (equal) {
        p = (uint32_t)(row / h);
        row %= h;
    } else {
        while (p + 1 < t->n_parts && row >= t->parts[p].rows) row -= t->parts[p++].rows;
    }
    *row_in_part = row;
    return p;
}

mg_status mg_target_bind(mg_bound *out, const mg_model *source, const mg_target *t, uint32_t part, mg_error *err) {
    const mg_part *p = &t->parts[part];
    const mg_bound *b = mg_model_find(source, p->role, p->layer, p->expert);
    if (!b) {
        mg_fail(err, MG_ERR_FORMAT, "the source has no %s (layer %u, expert %u)", mg_role_name(p->role), p->layer,
                p->expert);
        mg_error_at(err, NULL, t->name);
        return MG_ERR_FORMAT;
    }
    const mg_tensor *x = mg_model_tensor(source, b);
    *out = *b;
    const mg_view slice[MG_MAX_VIEWS] = {{.kind = p->slice ? MG_VIEW_ROWS : MG_VIEW_END, .a = p->first, .b = p->slice}};
    if (!mg_views_append(out->views, slice) || !mg_views_append(out->views, t->views) ||
        !mg_views_shape(out->views, x->rank, x->shape, &out->rank, out->shape))
        return mg_fail(err, MG_ERR_FORMAT, "views of '%s' do not compose with those of '%s'", x->name, t->name);
    return MG_OK;
}

bool mg_target_newest_name(const mg_target *t, const mg_arch *arch, const mg_hparams *hp, char *buf, size_t size) {
    const char *pattern = NULL;
    const mg_form *forms = arch->tensors[t->row].forms[MG_LAYOUT_HF];
    for (uint32_t f = 0; t->n_parts == 1 && f < MG_MAX_FORMS && forms[f].pattern; f++)
        if (forms[f].views[0].kind == MG_VIEW_END) pattern = forms[f].pattern;
    return pattern && mg_pattern_expand(buf, size, pattern, hp, t->parts[0].layer, t->parts[0].expert);
}

/* ---- the reference converter's order ---- */

typedef struct order_key {
    uint32_t phase; /* 0: generated; 1: repacked from blocks, which the reference does before all others; 2 */
    uint32_t rank, row, layer;
    mg_target target;
} order_key;

typedef struct name_key {
    uint32_t file, tensor;
    const char *name;
} name_key;

static int by_shard_and_name(const void *pa, const void *pb) {
    const name_key *a = pa, *b = pb;
    if (a->file != b->file) return a->file < b->file ? -1 : 1;
    return strcmp(a->name, b->name);
}

static int by_order(const void *pa, const void *pb) {
    const order_key *a = pa, *b = pb;
    if (a->phase != b->phase) return a->phase < b->phase ? -1 : 1;
    if (a->rank != b->rank) return a->rank < b->rank ? -1 : 1;
    if (a->layer != b->layer) return a->layer < b->layer ? -1 : 1;
    return a->row < b->row ? -1 : a->row > b->row;
}

/* When the converter sees each tensor of the source. */
static mg_status arrival(uint32_t **out, const mg_checkpoint *c, mg_error *err) {
    uint32_t *rank = malloc((c->n_tensors + 1) * sizeof *rank);
    name_key *keys = malloc((c->n_tensors + 1) * sizeof *keys);
    if (!rank || !keys) {
        free(rank);
        free(keys);
        return mg_fail_nomem(err, (uint64_t)c->n_tensors * sizeof *keys);
    }
    for (uint32_t i = 0; i < c->n_tensors; i++) keys[i] = (name_key){c->tensors[i].file, i, c->tensors[i].name};
    if (!c->kv && c->n_tensors) qsort(keys, c->n_tensors, sizeof *keys, by_shard_and_name);
    for (uint32_t i = 0; i < c->n_tensors; i++) rank[keys[i].tensor] = i;
    free(keys);
    *out = rank;
    return MG_OK;
}

/* A flush group waits for the last of its sources in its layer. */
static void flush_together(order_key *keys, size_t n) {
    for (size_t i = 0; i < n;) { /* keys are still in enumeration order: a layer's targets stand together */
        size_t end = i;
        while (end < n && keys[end].layer == keys[i].layer) end++;
        for (size_t a = i; a < end; a++)
            for (size_t b = i; b < end; b++) {
                uint32_t fa = keys[a].target.flush, fb = keys[b].target.flush;
                if (fa && fa == fb && keys[b].rank > keys[a].rank) keys[a].rank = keys[b].rank;
            }
        i = end;
    }
}

static mg_status fill_keys(order_key *keys, const mg_targets *t, const mg_model *source, const uint32_t *rank,
                           mg_error *err) {
    for (size_t i = 0; i < t->n; i++) {
        const mg_target *x = &t->items[i];
        keys[i] = (order_key){.phase = x->generated ? 0 : 2, .row = x->row, .layer = x->parts[0].layer, .target = *x};
        for (uint32_t p = 0; p < x->n_parts && !x->generated; p++) {
            mg_bound b;
            MG_TRY(mg_target_bind(&b, source, x, p, err));
            if (rank[b.tensor] > keys[i].rank) keys[i].rank = rank[b.tensor];
            if (!source->ckpt->kv && mg_dtype_is_block(source->ckpt->tensors[b.tensor].dtype)) keys[i].phase = 1;
        }
    }
    return MG_OK;
}

mg_status mg_targets_order(mg_targets *t, const mg_model *source, mg_error *err) {
    if (!source->ckpt) return mg_fail(err, MG_ERR_INTERNAL, "a model without tensors has no order");
    if (!t->n) return MG_OK;
    uint32_t *rank = NULL;
    MG_TRY(arrival(&rank, source->ckpt, err));
    order_key *keys = malloc(t->n * sizeof *keys);
    mg_status st = keys ? fill_keys(keys, t, source, rank, err) : mg_fail_nomem(err, t->n * sizeof *keys);
    if (st == MG_OK) {
        flush_together(keys, t->n);
        qsort(keys, t->n, sizeof *keys, by_order);
        for (size_t i = 0; i < t->n; i++) t->items[i] = keys[i].target;
    }
    free(keys);
    free(rank);
    return st;
}
