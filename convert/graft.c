/* graft.c - see graft.h. The result's tensors are laid out for its own numbers; a part that is expert i of a layer is
 * read where expert keep[layer][i] lies. */
#include "convert/graft.h"

#include "convert/convert_common.h"
#include "convert/group_copy.h"
#include "quant/group_checkpoint.h"
#include "quant/codec.h"
#include "quant/read_f32.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct job {
    mg_plan *p;
    mg_graft *g;
    uint32_t out;
    mg_hparams hp; /* of the result */
    uint32_t experts, layers;
    bool groups;          /* weights are quantized in groups, and stay so */
    mg_group_names names; /* of those */
} job;

static uint32_t kept(const job *j, uint32_t layer, uint32_t i) {
    return j->g->keep[layer * j->g->n_keep + i];
}

/* ---- what a mixture must be like ---- */

static mg_status check_mixture(const job *j, mg_error *err) {
    const mg_graft *g = j->g;
    const mg_model *m = g->m;
    if (mg_hp_i(m, MG_K_EXPERTS) == 0) return mg_fail(err, MG_ERR_UNSUPPORTED, "'%s' has no experts", m->ckpt->path);
    if (mg_hp_i(m, MG_K_GRID_X) && (g->n_add || g->n_keep != mg_hp_i(m, MG_K_EXPERTS)))
        return mg_fail(err, MG_ERR_UNSUPPORTED,
                       "experts on a grid cannot be dropped or added: their neighbours would change");
    if (!m->ckpt->config && !m->ckpt->kv)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "only Hugging Face directories and GGUF files can be grafted");
    if (j->hp.i[MG_K_EXPERTS_USED] > j->experts)
        return mg_fail(err, MG_ERR_CONFLICT, "%lld experts per token of %u (--experts-per-token)",
                       (long long)j->hp.i[MG_K_EXPERTS_USED], j->experts);
    if (g->n_add && !g->regate)
        return mg_fail(err, MG_ERR_USAGE,
                       "an added expert gets tokens only from new routers: its prompts (--add DONOR:PROMPTS) or "
                       "--regate CONFIG are "
                       "needed");
    return MG_OK;
}

static mg_status check_donor(const job *j, const mg_donor *d, mg_error *err) {
    const mg_model *m = j->g->m;
    static const struct {
        mg_key moe, dense;
        const char *what;
    } sizes[] = {{MG_K_HIDDEN, MG_K_HIDDEN, "hidden size"},
                 {MG_K_EXPERT_FFN, MG_K_FFN, "feed-forward size"},
                 {MG_K_LAYERS, MG_K_LAYERS, "number of layers"}};
    if (!mg_arch_made_from(m->arch, d->model->arch))
        return mg_fail(err, MG_ERR_CONFLICT, "a %s model is not made of %s experts ('%s')", m->arch->name,
                       d->model->arch->name, d->name);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (mg_hp_i(m, sizes[i].moe) != mg_hp_i(d->model, sizes[i].dense))
            return mg_fail(err, MG_ERR_CONFLICT, "'%s' has %s %lld, the experts have %lld", d->name, sizes[i].what,
                           (long long)mg_hp_i(d->model, sizes[i].dense), (long long)mg_hp_i(m, sizes[i].moe));
    return MG_OK;
}

/* A weight of the mixture that is not quantized in groups, read where it is stored. */
static mg_status stored_expr(const job *j, const mg_bound *b, const mg_expr **out, mg_error *err) {
    if (!j->groups) return mg_expr_role(j->p, j->g->m, b, out, err);
    if (mg_group_checkpoint_matrix(j->g->m->ckpt, b->tensor))
        return mg_fail(err, MG_ERR_UNSUPPORTED,
                       "weights in groups that are stacked or joined in one tensor cannot be grafted as they are "
                       "stored: convert to a float type first");
    MG_TRY(mg_group_copy_plain(j->p, j->g->m->ckpt, b->tensor, out, err));
    for (int i = 0; i < MG_MAX_VIEWS && b->views[i].kind != MG_VIEW_END; i++)
        MG_TRY(mg_expr_view(j->p, *out, &b->views[i], out, err));
    return MG_OK;
}

static mg_status stored_part(const void *ctx, const mg_target *t, uint32_t part, const mg_expr **out, mg_error *err) {
    const job *j = ctx;
    mg_bound b;
    MG_TRY(mg_target_bind(&b, j->g->m, t, part, err));
    return stored_expr(j, &b, out, err);
}

static mg_status target_of_mixture(const job *j, const mg_target *t, const mg_expr **out, mg_error *err) {
    if (!j->groups || t->generated) return mg_convert_target_expr(j->p, j->g->m, t, out, err);
    MG_TRY(mg_convert_target_of(j->p, t, stored_part, j, out, err));
    return mg_convert_expect_shape(*out, t, err);
}

/* ---- routers ---- */

/* Elements of a vector over experts (biases, corrections) of those that stay; added experts get 0. */
static mg_status vector_expr(const job *j, const mg_bound *b, uint32_t layer, const mg_expr **out, mg_error *err) {
    uint64_t n = j->experts, old = b->shape[0];
    mg_dtype dtype = mg_model_tensor(j->g->m, b)->dtype;
    float *have = malloc((size_t)(old + n) * sizeof *have);
    if (!have) return mg_fail_nomem(err, (old + n) * sizeof *have);
    float *want = have + old;
    memset(want, 0, (size_t)n * sizeof *want);
    mg_status st = mg_read_f32(j->g->m, b, 0, 1, have, err);
    for (uint32_t i = 0; st == MG_OK && i < j->g->n_keep; i++) want[i] = have[kept(j, layer, i)];
    if (st == MG_OK) st = mg_expr_const(j->p, MG_F32, 1, &n, want, out, err);
    if (st == MG_OK) st = mg_expr_cast(j->p, *out, dtype, NULL, 0, out, err);
    free(have);
    return st;
}

static mg_status router_expr(const job *j, const mg_target *t, const mg_expr **out, mg_error *err) {
    uint32_t layer = t->parts[0].layer;
    const mg_bound *b = mg_model_find(j->g->m, t->parts[0].role, layer, 0);
    if (!b) return mg_fail(err, MG_ERR_FORMAT, "no %s in layer %u", mg_role_name(t->parts[0].role), layer);
    if (t->parts[0].role == MG_R_ROUTER && j->g->regate)
        return mg_expr_cast(j->p, j->g->routers[layer], mg_model_tensor(j->g->m, b)->dtype, NULL, 0, out, err);
    if (b->rank == 1) return vector_expr(j, b, layer, out, err);
    const mg_expr *whole, **rows = calloc(j->g->n_keep, sizeof *rows);
    if (!rows) return mg_fail_nomem(err, j->g->n_keep * sizeof *rows);
    mg_status st = stored_expr(j, b, &whole, err);
    for (uint32_t i = 0; st == MG_OK && i < j->g->n_keep; i++) {
        mg_view one = {.kind = MG_VIEW_ROWS, .a = kept(j, layer, i), .b = 1};
        st = mg_expr_view(j->p, whole, &one, &rows[i], err);
    }
    if (st == MG_OK) st = mg_expr_concat(j->p, rows, j->g->n_keep, out, err);
    free(rows);
    return st;
}

static bool is_of_router(mg_role r) {
    return r == MG_R_ROUTER || r == MG_R_ROUTER_BIAS || r == MG_R_ROUTER_CORRECTION;
}

/* ---- experts ---- */

/* A target of one expert: part i of a stack, or the only one. */
static mg_status expert_slice(const job *j, const mg_target *t, uint32_t i, const mg_expr *like, const mg_expr **out,
                              mg_error *err) {
    mg_part part = t->parts[i];
    mg_target one = *t;
    one.parts = &part;
    one.n_parts = 1;
    if (t->rank == 3) {
        one.rank = 2;
        one.shape[0] = t->shape[1];
        one.shape[1] = t->shape[2];
    }
    if (part.expert < j->g->n_keep) {
        part.expert = kept(j, part.layer, part.expert);
        return target_of_mixture(j, &one, out, err);
    }
    mg_donor *d = &j->g->donors[part.expert - j->g->n_keep];
    mg_dtype dtype = mg_expr_dtype(like);
    part.role = mg_arch_dense_role(j->g->m->arch, part.role);
    part.expert = 0;
    if (part.role == MG_ROLE_COUNT)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "'%s' has a weight that a dense donor lacks", t->name);
    MG_TRY(mg_convert_target_expr(j->p, d->model, &one, out, err));
    const mg_role in = t->parts[i].role;
    if (in == MG_R_EXPERT_GATE || in == MG_R_EXPERT_UP)
        MG_TRY(mg_donor_fit_norm(j->p, j->g->m, d, part.layer, out, err));
    *(mg_expr_dtype(*out) == dtype ? &j->g->n_copied : &j->g->n_rounded) += 1;
    if (mg_dtype_is_block(dtype) && mg_expr_dtype(*out) != dtype && mg_codec_get(dtype)->imatrix == MG_IMATRIX_REQUIRED)
        return mg_fail(err, MG_ERR_UNSUPPORTED,
                       "%s is not made without an importance matrix: quantize '%s' to it first, its blocks are copied",
                       mg_dtype_get(dtype)->name, d->name);
    return mg_expr_cast(j->p, *out, dtype, NULL, 0, out, err);
}

/* Experts that stay, as they are stored. */
static mg_status kept_expr(const job *j, const mg_target *t, const mg_expr **out, mg_error *err) {
    mg_target moved = *t;
    mg_part *parts = calloc(t->n_parts, sizeof *parts);
    if (!parts) return mg_fail_nomem(err, t->n_parts * sizeof *parts);
    for (uint32_t i = 0; i < t->n_parts; i++) {
        parts[i] = t->parts[i];
        parts[i].expert = kept(j, parts[i].layer, parts[i].expert);
    }
    moved.parts = parts;
    mg_status st = target_of_mixture(j, &moved, out, err);
    free(parts);
    return st;
}

static mg_status experts_expr(const job *j, const mg_target *t, const mg_expr **out, mg_error *err) {
    if (!j->g->n_add || (t->n_parts == 1 && t->parts[0].expert < j->g->n_keep)) return kept_expr(j, t, out, err);
    const mg_expr *like = NULL;
    if (t->n_parts == 1) { /* a tensor of its own for an added expert: typed as the first one's */
        mg_target first = *t;
        mg_part part = t->parts[0];
        part.expert = 0;
        first.parts = &part;
        MG_TRY(expert_slice(j, &first, 0, NULL, &like, err));
        return expert_slice(j, t, 0, like, out, err);
    }
    if (t->rank != 3 || t->n_parts != j->experts || t->join > 1)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "experts stored as '%s' cannot be added to", t->name);
    const mg_expr **slices = calloc(t->n_parts, sizeof *slices);
    if (!slices) return mg_fail_nomem(err, t->n_parts * sizeof *slices);
    mg_status st = MG_OK;
    for (uint32_t i = 0; st == MG_OK && i < t->n_parts; i++) st = expert_slice(j, t, i, slices[0], &slices[i], err);
    if (st == MG_OK) st = mg_expr_stack(j->p, slices, t->n_parts, out, err);
    free(slices);
    return st;
}

/* ---- the file ---- */

static mg_status target_expr(const job *j, const mg_target *t, const mg_expr **out, mg_error *err) {
    mg_role role = t->parts[0].role;
    if (!t->generated && is_of_router(role)) return router_expr(j, t, out, err);
    if (!t->generated && mg_role_scope(role) == MG_SCOPE_EXPERT) return experts_expr(j, t, out, err);
    return target_of_mixture(j, t, out, err);
}

/* ---- weights in groups ---- */

/* Where the weight lies that a target of its own is, or for an added expert the one of the last expert; NULL for
 * targets that are put together. */
static const mg_bound *own_weight(const job *j, const mg_target *t) {
    const mg_part *x = &t->parts[0];
    if (t->generated || t->n_parts != 1 || t->views[0].kind != MG_VIEW_END || x->slice) return NULL;
    const bool expert = mg_role_scope(x->role) == MG_SCOPE_EXPERT;
    const uint32_t i = expert && x->expert >= j->g->n_keep ? j->g->n_keep - 1 : x->expert;
    const mg_bound *b = mg_model_find(j->g->m, x->role, x->layer, expert ? kept(j, x->layer, i) : i);
    return b && b->views[0].kind == MG_VIEW_END ? b : NULL;
}

/* The name that the source's own names make of a target: loaders are told of modules by name. */
static const char *own_name(job *j, const mg_target *t, const mg_bound *b) {
    const mg_part *x = &t->parts[0];
    const char *name = j->g->m->ckpt->tensors[b->tensor].name;
    char number[32];
    if (mg_role_scope(x->role) != MG_SCOPE_EXPERT) return name;
    const uint32_t i = x->expert >= j->g->n_keep ? j->g->n_keep - 1 : x->expert;
    const int n = snprintf(number, sizeof number, "experts.%u.", kept(j, x->layer, i));
    const char *at = strstr(name, number);
    if (!at) return t->name;
    return mg_arena_printf(&j->names.arena, "%.*sexperts.%u.%s", (int)(at - name), name, x->expert, at + n);
}

static mg_status add_group(job *j, const mg_target *t, const mg_bound *b, const char *name, mg_error *err) {
    mg_checkpoint *view = j->g->m->ckpt;
    const mg_part *x = &t->parts[0];
    if (mg_role_scope(x->role) != MG_SCOPE_EXPERT || x->expert < j->g->n_keep)
        return mg_group_copy(j->p, j->out, view, b->tensor, name, &j->names, err);
    mg_donor *d = &j->g->donors[x->expert - j->g->n_keep];
    const mg_role role = mg_arch_dense_role(j->g->m->arch, x->role);
    const mg_bound *from = role == MG_ROLE_COUNT ? NULL : mg_model_find(d->model, role, x->layer, 0);
    if (!from) return mg_fail(err, MG_ERR_UNSUPPORTED, "'%s' has a weight that a dense donor lacks", t->name);
    const mg_expr *e, *as_it_is;
    MG_TRY(mg_expr_role(j->p, d->model, from, &as_it_is, err));
    e = as_it_is;
    if (x->role == MG_R_EXPERT_GATE || x->role == MG_R_EXPERT_UP)
        MG_TRY(mg_donor_fit_norm(j->p, j->g->m, d, x->layer, &e, err));
    if (e == as_it_is && from->views[0].kind == MG_VIEW_END &&
        mg_group_same_layout(view, b->tensor, d->ckpt, from->tensor)) {
        j->g->n_copied++;
        return mg_group_copy(j->p, j->out, d->ckpt, from->tensor, name, &j->names, err);
    }
    j->g->n_rounded++;
    return mg_group_round_like(j->p, j->out, view, b->tensor, name, e, &j->names, err);
}

static mg_status add_target(job *j, const mg_target *t, mg_error *err) {
    const mg_bound *b = j->groups ? own_weight(j, t) : NULL;
    const char *name = b ? own_name(j, t, b) : t->name;
    if (!name) return mg_fail_nomem(err, strlen(t->name));
    if (b && mg_group_checkpoint_matrix(j->g->m->ckpt, b->tensor)) return add_group(j, t, b, name, err);
    const mg_expr *e = NULL;
    MG_TRY(target_expr(j, t, &e, err));
    return mg_plan_add_tensor(j->p, j->out, name, e, err);
}

static bool has(const void *ctx, mg_role role, uint32_t layer, uint32_t expert) {
    const job *j = ctx;
    bool of_expert = mg_role_scope(role) == MG_SCOPE_EXPERT;
    return mg_model_has(j->g->m, role, layer, of_expert ? kept(j, layer, 0) : expert);
}

/* The order of the source's file, which is that of the same names in the result. */
static mg_status add_in_order(job *j, const mg_targets *t, mg_error *err) {
    mg_targets old;
    const mg_model *m = j->g->m;
    bool gguf = m->ckpt->kv != NULL;
    mg_layout layout = gguf ? MG_LAYOUT_GGUF : MG_LAYOUT_HF;
    mg_strmap names;
    mg_strmap_init(&names);
    mg_status st = mg_arch_targets(&old, m->arch, &m->hp, m->layers, layout, mg_model_has, m, err);
    if (st == MG_OK && gguf) st = mg_targets_order(&old, m, err);
    for (size_t i = 0; st == MG_OK && i < t->n; i++)
        st = mg_strmap_put(&names, t->items[i].name, strlen(t->items[i].name), (uint32_t)i, NULL, err);
    bool *done = calloc(t->n + 1, sizeof *done);
    if (st == MG_OK && !done) st = mg_fail_nomem(err, t->n);
    for (size_t i = 0; st == MG_OK && i < old.n + t->n; i++) { /* those with a place, then new ones */
        uint32_t at =
            i < old.n ? mg_strmap_get(&names, old.items[i].name, strlen(old.items[i].name)) : (uint32_t)(i - old.n);
        if (at == MG_STRMAP_NONE || done[at]) continue;
        done[at] = true;
        st = add_target(j, &t->items[at], err);
        if (st != MG_OK) mg_error_at(err, NULL, t->items[at].name);
    }
    free(done);
    mg_strmap_release(&names);
    mg_targets_release(&old);
    return st;
}

static mg_status add_tensors(job *j, mg_error *err) {
    const mg_model *m = j->g->m;
    mg_targets t;
    mg_status st =
        mg_arch_targets(&t, m->arch, &j->hp, m->layers, m->ckpt->kv ? MG_LAYOUT_GGUF : MG_LAYOUT_HF, has, j, err);
    if (st == MG_OK) st = add_in_order(j, &t, err);
    mg_targets_release(&t);
    return st;
}

/* The numbers of experts where the source states them. */
static mg_status describe_gguf(job *j, mg_error *err) {
    const mg_model *m = j->g->m;
    char key[128];
    mg_kvs kv;
    mg_kvs_init(&kv);
    mg_status st = MG_OK;
    for (size_t i = 0; st == MG_OK && i < m->ckpt->kv->n; i++)
        if (strncmp(m->ckpt->kv->items[i].key.data, "split.", 6) != 0) /* the result is one file */
            st = mg_kvs_copy(&kv, &m->ckpt->kv->items[i], err);
    snprintf(key, sizeof key, "%s.expert_count", m->arch->gguf_arch);
    if (st == MG_OK) st = mg_kvs_set_u32(&kv, key, j->experts, err);
    snprintf(key, sizeof key, "%s.expert_used_count", m->arch->gguf_arch);
    if (st == MG_OK) st = mg_kvs_set_u32(&kv, key, (uint32_t)j->hp.i[MG_K_EXPERTS_USED], err);
    if (st == MG_OK) st = mg_plan_set_kv(j->p, j->out, &kv, err);
    mg_kvs_release(&kv);
    return st;
}

static mg_status describe_dir(job *j, mg_error *err) {
    const mg_model *m = j->g->m;
    mg_json *config = NULL;
    MG_TRY(mg_json_dup(&config, m->ckpt->config, err));
    mg_config_set_number(config, m->arch, MG_K_EXPERTS, j->experts);
    mg_config_set_number(config, m->arch, MG_K_EXPERTS_USED, j->hp.i[MG_K_EXPERTS_USED]);
    const bool renumbered = j->g->n_keep != (uint32_t)mg_hp_i(m, MG_K_EXPERTS) || j->g->n_add;
    mg_status st = mg_group_copy_config(j->p, j->out, m->ckpt, config, &j->names, renumbered, err);
    if (st == MG_OK) st = mg_convert_set_config(j->p, j->out, m->arch, config, err);
    mg_json_free(config);
    if (st == MG_OK) st = mg_convert_copy_sides(j->p, j->out, m->ckpt->dir, NULL, err);
    return st;
}

static mg_status make_slots(const job *j, mg_error *err) {
    uint64_t shape[2] = {j->experts, (uint64_t)mg_hp_i(j->g->m, MG_K_HIDDEN)};
    for (uint32_t l = 0; j->g->regate && l < j->layers; l++)
        if (mg_model_has(j->g->m, MG_R_ROUTER, l, 0)) MG_TRY(mg_expr_slot(j->p, 2, shape, &j->g->routers[l], err));
    return MG_OK;
}

static mg_status plan(job *j, const char *path, mg_error *err) {
    const bool gguf = j->g->m->ckpt->kv != NULL;
    MG_TRY(mg_plan_add_output(j->p, gguf ? MG_OUT_GGUF : MG_OUT_HF_DIR, path, &j->out, err));
    MG_TRY(make_slots(j, err));
    MG_TRY(add_tensors(j, err));
    return gguf ? describe_gguf(j, err) : describe_dir(j, err);
}

mg_status mg_graft_plan(mg_plan *p, mg_graft *g, const char *path, uint32_t *out, mg_error *err) {
    job j = {.p = p,
             .g = g,
             .hp = g->m->hp,
             .experts = g->n_keep + g->n_add,
             .layers = (uint32_t)mg_hp_i(g->m, MG_K_LAYERS),
             .groups = mg_group_checkpoint_is_view(g->m->ckpt)};
    j.hp.i[MG_K_EXPERTS] = j.experts;
    if (g->used) j.hp.i[MG_K_EXPERTS_USED] = g->used;
    g->n_copied = g->n_rounded = 0;
    MG_TRY(check_mixture(&j, err));
    for (uint32_t i = 0; i < g->n_add; i++) MG_TRY(check_donor(&j, &g->donors[i], err));
    mg_group_names_init(&j.names);
    mg_status st = plan(&j, path, err);
    mg_group_names_release(&j.names);
    *out = j.out;
    return st;
}
