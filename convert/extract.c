/* extract.c - see extract.h. */
#include "convert/extract.h"

#include "convert/convert_common.h"
#include "convert/group_copy.h"
#include "convert/hf_vocab.h"
#include "quant/group_checkpoint.h"
#include "quant/read_f32.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct job {
    mg_plan *p;
    mg_extract *x;
    mg_model *moe;
    uint32_t out;
    bool gguf, raw;       /* raw: weights in groups keep their codes */
    const mg_arch *dense; /* the family that is being tried */
    mg_model *result;     /* its numbers */
    mg_group_names names;
} job;

/* ---- what becomes what ---- */

static const mg_tensor_row *row_of(const mg_arch *a, mg_role role) {
    for (uint32_t i = 0; i < a->n_tensors; i++)
        if (a->tensors[i].role == role) return &a->tensors[i];
    return NULL;
}

static mg_role shared_role(const mg_arch *a, mg_role dense) {
    for (uint32_t i = 0; i < a->made_from->n_shared_roles; i++)
        if (a->made_from->shared[i].dense == dense) return a->made_from->shared[i].expert;
    return MG_ROLE_COUNT;
}

static bool is_routed(const job *j, mg_role role, uint32_t layer) {
    return mg_arch_expert_role(j->moe->arch, role) != MG_ROLE_COUNT && j->moe->layers[layer].moe;
}

static const mg_bound *expert_of(const job *j, mg_role role, uint32_t layer) {
    if (j->x->shared == MG_SHARED_ONLY) return NULL;
    return mg_model_find(j->moe, mg_arch_expert_role(j->moe->arch, role), layer, j->x->expert);
}

static const mg_bound *shared_of(const job *j, mg_role role, uint32_t layer) {
    const mg_role shared = shared_role(j->moe->arch, role);
    return shared == MG_ROLE_COUNT || j->x->shared == MG_SHARED_APART ? NULL : mg_model_find(j->moe, shared, layer, 0);
}

/* Weights that only a mixture has. */
static bool of_mixture(const mg_arch *a, mg_role role) {
    const mg_tensor_row *r = row_of(a, role);
    return !r || r->when == MG_IF_MOE || r->when == MG_IF_SHARED || r->when == MG_IF_EXCHANGE ||
           role == MG_R_ROPE_FREQS; /* the config in another form */
}

/* Is it stored only because the mixture's family wants it, and nothing? Those are vectors. */
static mg_status is_zero(const job *j, mg_role role, bool *zero, mg_error *err) {
    *zero = false;
    for (uint32_t i = 0; i < j->moe->arch->made_from->n_zeros; i++)
        *zero = *zero || j->moe->arch->made_from->zeros[i] == role;
    for (uint32_t l = 0; *zero && l < (uint32_t)mg_hp_i(j->moe, MG_K_LAYERS); l++) {
        const mg_bound *b = mg_model_find(j->moe, role, l, 0);
        if (!b || b->rank != 1) continue;
        float *v = malloc((size_t)b->shape[0] * sizeof *v);
        if (!v) return mg_fail_nomem(err, b->shape[0] * sizeof *v);
        mg_status st = mg_read_f32(j->moe, b, 0, 1, v, err);
        for (uint64_t k = 0; st == MG_OK && k < b->shape[0]; k++) *zero = *zero && v[k] == 0;
        free(v);
        MG_TRY(st);
    }
    return MG_OK;
}

/* Does the dense model have it? What its family has no row for was found to be nothing. */
static bool has(const void *ctx, mg_role role, uint32_t layer, uint32_t expert) {
    const job *j = ctx;
    (void)expert;
    if (!row_of(j->dense, role)) return false;
    const bool in_layer = mg_role_scope(role) != MG_SCOPE_MODEL;
    if (in_layer && is_routed(j, role, layer)) return expert_of(j, role, layer) || shared_of(j, role, layer);
    return role != MG_R_ROPE_FREQS && mg_model_has(j->moe, role, layer, 0);
}

/* ---- sizes ---- */

static uint64_t ffn_of(const job *j, uint32_t layer) {
    uint64_t n = 0;
    if (!j->moe->layers[layer].moe) return (uint64_t)mg_hp_i(j->moe, MG_K_FFN);
    if (j->x->shared != MG_SHARED_ONLY) n += (uint64_t)mg_hp_i(j->moe, MG_K_EXPERT_FFN);
    if (j->x->shared != MG_SHARED_APART) n += (uint64_t)mg_hp_i(j->moe, MG_K_SHARED_FFN);
    return n;
}

/* A dense model has one inner size: the largest. Units of nothing make up for the difference, and add nothing. */
static void find_ffn(job *j) {
    uint64_t least = UINT64_MAX;
    j->x->ffn = 0;
    for (uint32_t l = 0; l < (uint32_t)mg_hp_i(j->moe, MG_K_LAYERS); l++) {
        const uint64_t n = ffn_of(j, l);
        if (n > j->x->ffn) j->x->ffn = n;
        if (n < least) least = n;
    }
    j->x->padded = least < j->x->ffn;
}

/* ---- the family ---- */

/* config.json of the dense model from the mixture's canonical numbers. */
static mg_status dense_config(const job *j, mg_json **out, mg_error *err) {
    mg_hparams hp = j->moe->hp;
    MG_TRY(mg_convert_recover_rope(j->moe, &hp, err));
    hp.i[MG_K_EXPERTS] = hp.i[MG_K_EXPERTS_USED] = 0;
    hp.i[MG_K_FFN] = (int64_t)j->x->ffn;
    hp.i[MG_K_ATTN_BIAS] = has(j, MG_R_ATTN_Q_BIAS, 0, 0);
    memset(hp.dense, 0, sizeof hp.dense);
    const mg_bound *embd = mg_model_find(j->moe, MG_R_TOKEN_EMBD, 0, 0);
    mg_dtype dtype = j->x->dtype;
    if (!mg_dtype_is_float(dtype) && j->moe->ckpt->config) dtype = mg_config_dtype(j->moe->ckpt->config);
    if (dtype == MG_DTYPE_COUNT && embd) dtype = mg_model_tensor(j->moe, embd)->dtype;
    if (dtype == MG_DTYPE_COUNT || !mg_dtype_is_float(dtype)) dtype = MG_F32;
    return mg_arch_new_config(out, j->dense, &hp, dtype, err);
}

/* A weight of the mixture that the dense family would lose: its role; ROLE_COUNT: none. */
static mg_status find_loss(const job *j, mg_role *lost, mg_error *err) {
    for (int r = 0; r < MG_ROLE_COUNT; r++) {
        const mg_role role = (mg_role)r;
        bool there = false, zero;
        if (of_mixture(j->moe->arch, role) || row_of(j->dense, role)) continue;
        const uint32_t layers = mg_role_scope(role) == MG_SCOPE_MODEL ? 1 : (uint32_t)mg_hp_i(j->moe, MG_K_LAYERS);
        for (uint32_t l = 0; l < layers; l++) there = there || mg_model_has(j->moe, role, l, 0);
        if (!there) continue;
        MG_TRY(is_zero(j, role, &zero, err));
        if (!zero) {
            *lost = role;
            return MG_OK;
        }
    }
    *lost = MG_ROLE_COUNT;
    return MG_OK;
}

/* A weight that the dense family needs and the mixture lacks; ROLE_COUNT: none. */
static mg_status find_lack(const job *j, mg_role *lacking, mg_error *err) {
    mg_targets t;
    *lacking = MG_ROLE_COUNT;
    mg_status st = mg_arch_targets(&t, j->dense, &j->result->hp, j->result->layers, MG_LAYOUT_HF, NULL, NULL, err);
    for (size_t i = 0; st == MG_OK && i < t.n; i++)
        for (uint32_t k = 0; k < t.items[i].n_parts; k++)
            if (!has(j, t.items[i].parts[k].role, t.items[i].parts[k].layer, 0)) *lacking = t.items[i].parts[k].role;
    mg_targets_release(&t);
    return st;
}

/* May it be the family of the result? why: the role that stands against it. */
static mg_status try_family(job *j, mg_json **config, mg_role *why, mg_error *err) {
    MG_TRY(find_loss(j, why, err));
    if (*why != MG_ROLE_COUNT) return MG_OK;
    MG_TRY(dense_config(j, config, err));
    mg_status st = mg_model_from_config(&j->result, *config, err);
    if (st == MG_OK) st = find_lack(j, why, err);
    if (st == MG_OK && *why == MG_ROLE_COUNT) return MG_OK;
    mg_model_free(j->result);
    mg_json_free(*config);
    j->result = NULL;
    *config = NULL;
    return st;
}

static mg_status pick_family(job *j, mg_json **config, mg_error *err) {
    const mg_made_from *made = j->moe->arch->made_from;
    mg_role why = MG_ROLE_COUNT;
    uint32_t n = 0;
    while (n < sizeof made->families / sizeof *made->families && made->families[n]) n++;
    if (j->x->family && !mg_arch_made_from(j->moe->arch, j->x->family))
        return mg_fail(err, MG_ERR_USAGE, "a %s model is not made of %s experts", j->moe->arch->name,
                       j->x->family->name);
    while (n-- > 0 && !*config) {
        j->dense = mg_arch_find(made->families[n]);
        if (!j->dense || (j->x->family && j->dense != j->x->family)) continue;
        MG_TRY(try_family(j, config, &why, err));
    }
    if (!*config)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "no dense family that a %s model is made of fits its '%s' weights",
                       j->moe->arch->name, mg_role_name(why));
    j->x->family = j->dense;
    return MG_OK;
}

/* ---- weights ---- */

/* What the shared expert is weighted by in a layer: nothing, the sigmoid of zero, or what the caller makes of a router
 * whose weight depends on the token. */
static mg_status shared_factor(const job *j, uint32_t layer, double *out, mg_error *err) {
    const mg_bound *b = mg_model_find(j->moe, MG_R_SHARED_ROUTER, layer, 0);
    *out = 1;
    if (!b || j->x->shared != MG_SHARED_MERGE) return MG_OK;
    const uint64_t n = b->shape[b->rank - 1];
    float *row = malloc((size_t)n * sizeof *row);
    if (!row) return mg_fail_nomem(err, n * sizeof *row);
    mg_status st = mg_read_f32(j->moe, b, 0, 1, row, err);
    bool zero = true;
    for (uint64_t i = 0; st == MG_OK && i < n; i++) zero = zero && row[i] == 0;
    free(row);
    MG_TRY(st);
    *out = zero ? 0.5 : j->x->shared_weight;
    if (!isnan(*out)) return MG_OK;
    return mg_fail(err, MG_ERR_UNSUPPORTED,
                   "the weight of the shared expert of layer %u depends on the token (its router is not zero), so no "
                   "dense block equals both: --shared-weight X takes a constant instead",
                   layer);
}

static mg_status source_expr(const job *j, const mg_bound *b, const mg_expr **out, mg_error *err) {
    if (!j->raw) return mg_expr_role(j->p, j->moe, b, out, err);
    MG_TRY(mg_group_copy_plain(j->p, j->moe->ckpt, b->tensor, out, err));
    for (int i = 0; i < MG_MAX_VIEWS && b->views[i].kind != MG_VIEW_END; i++)
        MG_TRY(mg_expr_view(j->p, *out, &b->views[i], out, err));
    return MG_OK;
}

/* A weight in the type of the result, times a factor. */
static mg_status weight(const job *j, const mg_bound *b, double factor, const mg_expr **out, mg_error *err) {
    if (j->raw && mg_group_checkpoint_matrix(j->moe->ckpt, b->tensor))
        return mg_fail(err, MG_ERR_UNSUPPORTED,
                       "weights in groups cannot be cut, joined or scaled as they are stored: --outtype f16 or another "
                       "float type decodes them");
    MG_TRY(source_expr(j, b, out, err));
    const mg_dtype have = mg_expr_dtype(*out);
    mg_dtype want = b->rank > 1 && j->x->dtype != MG_DTYPE_COUNT ? j->x->dtype : have;
    if (mg_dtype_is_block(want) && !j->gguf) want = MG_F32;
    if (factor != 1) {
        if (mg_dtype_is_block(want) && want == have)
            return mg_fail(err, MG_ERR_UNSUPPORTED, "blocks of %s cannot be multiplied: --outtype takes a float type",
                           mg_dtype_get(have)->name);
        MG_TRY(mg_expr_linear(j->p, out, &factor, 1, out, err));
    }
    return mg_expr_cast(j->p, *out, want, NULL, 0, out, err);
}

/* Zeros below or beside, up to the inner size of the result. */
static mg_status pad(const job *j, bool down, const mg_expr **e, mg_error *err) {
    uint64_t shape[MG_MAX_RANK];
    const mg_expr *both[2] = {*e, NULL};
    if (mg_expr_shape(*e, shape) != 2 || shape[down] == j->x->ffn) return MG_OK;
    shape[down] = j->x->ffn - shape[down];
    MG_TRY(mg_expr_zeros(j->p, mg_expr_dtype(*e), 2, shape, &both[1], err));
    return (down ? mg_expr_beside : mg_expr_concat)(j->p, both, 2, e, err);
}

/* The feed-forward block of a layer: sum of the expert's and the shared one's, because both are sums over inner units.
 */
static mg_status block_expr(const job *j, mg_role role, uint32_t layer, const mg_expr **out, mg_error *err) {
    const mg_bound *all[2] = {expert_of(j, role, layer), shared_of(j, role, layer)};
    const mg_expr *parts[2];
    const bool down = role == MG_R_FFN_DOWN;
    double factors[2] = {j->x->scale, j->x->scale};
    uint32_t n = 0;
    double share = 1;
    if (down) MG_TRY(shared_factor(j, layer, &share, err));
    factors[1] *= share;
    for (uint32_t i = 0; i < 2; i++)
        if (all[i]) MG_TRY(weight(j, all[i], down ? factors[i] : 1, &parts[n++], err));
    *out = parts[0];
    if (n == 2 && mg_expr_dtype(parts[0]) != mg_expr_dtype(parts[1]))
        return mg_fail(err, MG_ERR_UNSUPPORTED, "the expert is %s and the shared one %s: --outtype makes them one",
                       mg_dtype_get(mg_expr_dtype(parts[0]))->name, mg_dtype_get(mg_expr_dtype(parts[1]))->name);
    return n == 2 ? (down ? mg_expr_beside : mg_expr_concat)(j->p, parts, 2, out, err) : MG_OK;
}

static mg_status part_expr(const void *ctx, const mg_target *t, uint32_t part, const mg_expr **out, mg_error *err) {
    const job *j = ctx;
    const mg_part *x = &t->parts[part];
    const bool of_block = mg_arch_expert_role(j->moe->arch, x->role) != MG_ROLE_COUNT;
    if (of_block && is_routed(j, x->role, x->layer))
        MG_TRY(block_expr(j, x->role, x->layer, out, err));
    else
        MG_TRY(weight(j, mg_model_find(j->moe, x->role, x->layer, 0), 1, out, err));
    if (of_block) MG_TRY(pad(j, x->role == MG_R_FFN_DOWN, out, err));
    mg_view slice = {.kind = MG_VIEW_ROWS, .a = x->first, .b = x->slice};
    if (x->slice) MG_TRY(mg_expr_view(j->p, *out, &slice, out, err));
    for (const mg_view *v = t->views; v < t->views + MG_MAX_VIEWS && v->kind != MG_VIEW_END; v++)
        MG_TRY(mg_expr_view(j->p, *out, v, out, err));
    return MG_OK;
}

/* The one weight that a target is, where it is neither cut nor scaled nor padded; else NULL. */
static const mg_bound *whole(const job *j, const mg_target *t) {
    const mg_part *x = &t->parts[0];
    const mg_bound *b = NULL;
    if (t->n_parts != 1 || t->views[0].kind != MG_VIEW_END || x->slice) return NULL;
    if (!is_routed(j, x->role, mg_role_scope(x->role) == MG_SCOPE_MODEL ? 0 : x->layer)) {
        b = mg_model_find(j->moe, x->role, x->layer, 0);
    } else if (j->x->shared != MG_SHARED_MERGE && j->x->scale == 1) {
        b = j->x->shared == MG_SHARED_ONLY ? shared_of(j, x->role, x->layer) : expert_of(j, x->role, x->layer);
    }
    const bool of_block = mg_arch_expert_role(j->moe->arch, x->role) != MG_ROLE_COUNT;
    if (b && of_block && b->shape[x->role == MG_R_FFN_DOWN] != j->x->ffn) return NULL;
    return b && b->views[0].kind == MG_VIEW_END ? b : NULL;
}

static mg_status add_target(job *j, const mg_target *t, mg_error *err) {
    const mg_expr *e;
    const mg_bound *b = j->raw ? whole(j, t) : NULL;
    if (b && mg_group_checkpoint_matrix(j->moe->ckpt, b->tensor))
        return mg_group_copy(j->p, j->out, j->moe->ckpt, b->tensor, t->name, &j->names, err);
    MG_TRY(mg_convert_target_of(j->p, t, part_expr, j, &e, err));
    MG_TRY(mg_convert_expect_shape(e, t, err));
    return mg_plan_add_tensor(j->p, j->out, t->name, e, err);
}

static mg_status add_tensors(job *j, mg_error *err) {
    mg_targets targets;
    mg_status st = mg_arch_targets(&targets, j->dense, &j->result->hp, j->result->layers, MG_LAYOUT_HF, has, j, err);
    for (size_t i = 0; st == MG_OK && i < targets.n; i++) {
        st = add_target(j, &targets.items[i], err);
        if (st != MG_OK) mg_error_at(err, j->moe->ckpt->path, targets.items[i].name);
    }
    mg_targets_release(&targets);
    return st;
}

/* ---- the model ---- */

static mg_status check(const job *j, mg_error *err) {
    const mg_model *m = j->moe;
    const mg_extract *x = j->x;
    if (!m->arch->made_from)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "a %s model is not made of dense experts", m->arch->name);
    if (x->shared != MG_SHARED_ONLY && x->expert >= mg_hp_i(m, MG_K_EXPERTS))
        return mg_fail(err, MG_ERR_USAGE, "expert %u: the model has experts 0 to %lld", x->expert,
                       (long long)mg_hp_i(m, MG_K_EXPERTS) - 1);
    if (x->shared != MG_SHARED_APART && mg_hp_i(m, MG_K_SHARED_FFN) == 0)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "the model has no shared expert");
    return MG_OK;
}

static mg_status add_side_files(job *j, mg_error *err) {
    bool had;
    const mg_checkpoint *c = j->moe->ckpt;
    if (j->gguf) return MG_OK; /* what the GGUF's keys are made of is the caller's */
    return c->kv ? mg_hf_vocab_add(j->p, j->out, c->kv, &had, err)
                 : mg_convert_copy_sides(j->p, j->out, c->dir, NULL, err);
}

static mg_status plan(job *j, const char *path, mg_error *err) {
    mg_json *config = NULL;
    MG_TRY(check(j, err));
    find_ffn(j);
    mg_status st = pick_family(j, &config, err);
    if (st == MG_OK) st = mg_plan_add_output(j->p, j->gguf ? MG_OUT_GGUF : MG_OUT_HF_DIR, path, &j->out, err);
    if (st == MG_OK) st = add_tensors(j, err);
    if (st == MG_OK && j->raw) st = mg_group_copy_config(j->p, j->out, j->moe->ckpt, config, &j->names, true, err);
    if (st == MG_OK) st = mg_plan_set_config(j->p, j->out, config, err);
    if (st == MG_OK) st = add_side_files(j, err);
    mg_json_free(config);
    return st;
}

mg_status mg_extract_plan(mg_plan *p, mg_extract *x, const char *path, bool gguf, uint32_t *out, mg_error *err) {
    job j = {.p = p, .x = x, .moe = x->m, .gguf = gguf};
    j.raw = !gguf && x->dtype == MG_DTYPE_COUNT && mg_group_checkpoint_is_view(x->m->ckpt);
    mg_group_names_init(&j.names);
    mg_status st = plan(&j, path, err);
    *out = j.out;
    mg_group_names_release(&j.names);
    mg_model_free(j.result);
    return st;
}
