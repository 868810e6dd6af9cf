/* merge.c - donors opened and compared, and the merged model written down as a plan. */
#include "convert/merge.h"

#include "convert/exchange.h"

#include "convert/convert.h"
#include "convert/regmean.h"
#include "formats/base/hash.h"
#include "formats/base/options.h"
#include "formats/arch/arch.h"
#include "quant/read_f32.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static bool is_mixture(const mg_model *m) {
    return mg_hp_i(m, MG_K_EXPERTS) > 0;
}

static bool has_row(const mg_arch *a, mg_role role) {
    for (uint32_t r = 0; r < a->n_tensors; r++)
        if (a->tensors[r].role == role) return true;
    return false;
}

/* Every weight of the base must have a place in the result: as itself, or as the dense block that the experts replace.
 */
static mg_status check_base_fits(const mg_merge *m, mg_error *err) {
    const mg_model *b = m->donors[0].model;
    for (uint32_t t = 0; t < b->ckpt->n_tensors; t++) {
        mg_role role;
        if (!mg_model_role_of(b, t, &role, NULL, NULL) || mg_arch_expert_role(m->target, role) != MG_ROLE_COUNT)
            continue;
        if (!has_row(m->target, role)) {
            mg_error_at(err, b->ckpt->path, b->ckpt->tensors[t].name);
            return mg_fail(err, MG_ERR_CONFLICT,
                           "a %s model has no place for this weight of the base, and dropping it would break it",
                           m->target->name);
        }
    }
    return MG_OK;
}

/* ---- opening ---- */

static bool shared_has_prompts(const mg_merge_spec *s) {
    bool any = false;
    for (uint32_t i = s->n_experts; i < s->n_experts + s->n_shared; i++)
        any = any || s->experts[i].positive.n || s->experts[i].negative.n;
    return any;
}

/* May donors and shared experts like these become the family without being asked? */
static bool is_natural(const mg_merge *m, const mg_arch *a) {
    const mg_made_from *made = a->made_from;
    if (made->order == 0 || m->spec->n_shared > (made->n_shared_roles ? 1u : 0u)) return false;
    if (shared_has_prompts(m->spec) && !has_row(a, MG_R_SHARED_ROUTER)) return false;
    return m->spec->n_shared || !made->needs_shared;
}

static bool begins(const char *name, const char *want) {
    return name && strncasecmp(want, name, strlen(want)) == 0;
}

/* Why there is no family for such donors, and what would help. */
static mg_status no_target(const mg_merge *m, const char *want, mg_error *err) {
    const mg_arch *base = m->donors[0].model->arch;
    char list[256] = "";
    for (uint32_t i = 0; i < mg_arch_count(); i++) {
        const mg_arch *a = mg_arch_at(i);
        if (!mg_arch_made_from(a, base)) continue;
        size_t n = strlen(list);
        snprintf(list + n, sizeof list - n, "%s%s%s", n ? ", " : "", a->name,
                 a->made_from->needs_shared && !m->spec->n_shared ? " (needs an expert under shared_experts)" : "");
    }
    if (!list[0])
        return mg_fail(err, MG_ERR_UNSUPPORTED, "no mixture that we can write is made from %s donors", base->name);
    if (want[0]) return mg_fail(err, MG_ERR_UNSUPPORTED, "%s donors make no '%s', but: %s", base->name, want, list);
    return mg_fail(err, MG_ERR_UNSUPPORTED, "%s donors with %u shared experts need 'architecture', one of: %s",
                   base->name, m->spec->n_shared, list);
}

/* The family of the result: the one the recipe names (the beginning of our name or mergekit's will do), else the first
 * in order that such donors can become. */
static mg_status pick_target(mg_merge *m, mg_error *err) {
    const char *want = m->spec->architecture ? m->spec->architecture : "";
    const mg_arch *asked = NULL, *base = m->donors[0].model->arch;
    if (is_mixture(m->donors[0].model)) { /* it stays what it is */
        m->target = base;
        if (!want[0] || begins(base->name, want) || (base->made_from && begins(base->made_from->called, want)))
            return MG_OK;
        return mg_fail(err, MG_ERR_UNSUPPORTED, "the base is a %s model, which becomes no '%s'", base->name, want);
    }
    for (uint32_t i = 0; i < mg_arch_count(); i++) {
        const mg_arch *a = mg_arch_at(i);
        if (!mg_arch_made_from(a, base)) continue;
        if (want[0] ? !begins(a->name, want) && !begins(a->made_from->called, want) : !is_natural(m, a)) continue;
        if (!asked || a->made_from->order < asked->made_from->order) asked = a;
    }
    m->target = asked;
    return asked ? MG_OK : no_target(m, want, err);
}

/* A shared expert's router row comes from its prompts, where the family has such a router. */
static mg_status check_shared(const mg_merge *m, mg_error *err) {
    const mg_merge_spec *s = m->spec;
    const bool weighed = has_row(m->target, MG_R_SHARED_ROUTER);
    if (!weighed && shared_has_prompts(s))
        return mg_fail(err, MG_ERR_CONFLICT, "a %s model has no router for its shared expert: prompts mean nothing",
                       m->target->name);
    const bool from_prompts =
        s->gate_mode == MG_GATE_HIDDEN || s->gate_mode == MG_GATE_HIDDEN_AVG || s->gate_mode == MG_GATE_CHEAP_EMBED;
    for (uint32_t i = s->n_experts; weighed && from_prompts && i < s->n_experts + s->n_shared; i++)
        if (!s->shared_exact && s->experts[i].positive.n == 0)
            return mg_fail(err, MG_ERR_CONFLICT,
                           "shared expert '%s' has no positive prompts, which gate mode '%s' needs for its router",
                           s->experts[i].source, mg_gate_mode_name(s->gate_mode));
    return MG_OK;
}

static bool has_zero(const mg_arch *a, mg_role role) {
    for (uint32_t i = 0; a->made_from && i < a->made_from->n_zeros; i++)
        if (a->made_from->zeros[i] == role) return true;
    return false;
}

/* The grid of a family that has one: the recipe's, or the squarest. */
static void pick_grid(const mg_merge *m, mg_moe_shape *shape) {
    shape->grid_x = m->spec->grid_x;
    shape->grid_y = m->spec->grid_y;
    for (uint32_t y = 1; !m->spec->grid_x && y * y <= shape->experts; y++)
        if (shape->experts % y == 0) {
            shape->grid_x = shape->experts / y;
            shape->grid_y = y;
        }
}

/* A base that is a mixture brings its config; what it says of experts beyond their number is not ours to change. */
static mg_status config_of_mixture(mg_merge *m, mg_error *err) {
    const mg_merge_spec *s = m->spec;
    const mg_model *base = m->donors[0].model;
    if (s->n_shared || s->n_dense || mg_hp_i(base, MG_K_GRID_X))
        return mg_fail(err, MG_ERR_UNSUPPORTED,
                       "the base is a mixture: its grid, shared expert and dense layers stay as they are");
    if ((int64_t)m->units.ffn != mg_hp_i(base, MG_K_EXPERT_FFN))
        return mg_fail(err, MG_ERR_CONFLICT, "experts of inner size %llu, the base's have %lld",
                       (unsigned long long)m->units.ffn, (long long)mg_hp_i(base, MG_K_EXPERT_FFN));
    MG_TRY(mg_json_dup(&m->config, m->donors[0].config, err));
    mg_config_set_number(m->config, m->target, MG_K_EXPERTS, m->units.per_layer);
    mg_config_set_number(m->config, m->target, MG_K_EXPERTS_USED, m->used);
    return MG_OK;
}

static mg_status config_of_dense(mg_merge *m, mg_error *err) {
    mg_moe_shape shape = {.experts = m->units.per_layer,
                          .used = m->used,
                          .ffn = m->units.ffn,
                          .shared = m->spec->n_shared,
                          .dense = m->spec->dense,
                          .n_dense = m->spec->n_dense};
    pick_grid(m, &shape);
    if (m->spec->grid_x && !has_zero(m->target, MG_R_EXCHANGE))
        return mg_fail(err, MG_ERR_CONFLICT, "a grid means nothing for a %s model", m->target->name);
    if (m->spec->grid_x && m->spec->grid_x * m->spec->grid_y != shape.experts)
        return mg_fail(err, MG_ERR_CONFLICT, "a grid of %u x %u has no place for %u experts", m->spec->grid_x,
                       m->spec->grid_y, shape.experts);
    return mg_arch_make_config(&m->config, m->target, m->donors[0].config, &shape, err);
}

/* What the result will be: the config it will be written with, and its canonical numbers read back from that. */
static mg_status describe_result(mg_merge *m, mg_error *err) {
    const uint32_t used = m->spec->experts_per_token;
    m->dtype = m->spec->dtype != MG_DTYPE_COUNT ? m->spec->dtype : mg_config_dtype(m->donors[0].config);
    m->used = used == MG_EXPERTS_ALL ? m->units.per_layer : used;
    if (m->used > m->units.per_layer)
        return mg_fail(err, MG_ERR_CONFLICT, "experts_per_token is %u, but there are %u experts", m->used,
                       m->units.per_layer);
    MG_TRY(is_mixture(m->donors[0].model) ? config_of_mixture(m, err) : config_of_dense(m, err));
    if (m->dtype != MG_DTYPE_COUNT) mg_config_set_dtype(m->config, m->dtype);
    if (m->vocab) mg_vocab_union_config(m->vocab, m->config, m->target);
    MG_TRY(mg_model_from_config(&m->result, m->config, err));
    if (mg_hp_i(m->result, MG_K_EXPERTS) != m->units.per_layer || mg_hp_i(m->result, MG_K_EXPERTS_USED) != m->used)
        return mg_fail(err, MG_ERR_UNSUPPORTED,
                       "the config of '%s' does not state how many experts there are, or how many a token uses",
                       m->donors[0].name);
    return MG_OK;
}

/* A donor whose experts become experts of the result must keep them as the result does. */
static mg_status check_mixtures(const mg_merge *m, mg_error *err) {
    for (uint32_t e = 0; e < m->spec->n_experts + m->spec->n_shared; e++) {
        const mg_donor *d = &m->donors[e + 1];
        if (is_mixture(d->model) ? d->model->arch != m->target && !mg_arch_kin(m->target, d->model->arch)
                                 : !mg_arch_made_from(m->target, d->model->arch))
            return mg_fail(err, MG_ERR_CONFLICT, "a %s model is not made of %s experts ('%s')", m->target->name,
                           d->model->arch->name, d->name);
        if (is_mixture(d->model) && e >= m->spec->n_experts)
            return mg_fail(err, MG_ERR_UNSUPPORTED, "'%s': a mixture cannot be a shared expert", d->name);
    }
    return MG_OK;
}

static mg_status open_all(mg_merge *m, mg_error *err) {
    const mg_merge_spec *s = m->spec;
    uint32_t n_trunk = s->trunk ? s->trunk->slices[0].n_sources : 0;
    uint32_t experts = s->n_experts + s->n_shared;
    MG_TRY(MG_ARENA_NEW(&m->arena, &m->donors, (size_t)experts + 1 + n_trunk, err));
    m->donors[0].name = s->base;
    m->donors[0].path = s->base_path;
    for (uint32_t e = 0; e < experts; e++) {
        m->donors[e + 1].name = s->experts[e].source;
        m->donors[e + 1].path = s->experts[e].path;
    }
    m->first_trunk = experts + 1;
    m->n_donors = m->first_trunk + n_trunk;
    for (uint32_t i = 0; i < n_trunk; i++)
        m->donors[m->first_trunk + i].name = m->donors[m->first_trunk + i].path = s->trunk->slices[0].sources[i].path;
    MG_TRY(mg_donors_open(m->donors, m->n_donors, err));
    MG_TRY(pick_target(m, err));
    MG_TRY(check_shared(m, err));
    MG_TRY(mg_donors_compare(m->donors, m->n_donors,
                             MG_DONORS_MIXTURES | (s->vocab.rebuild     ? MG_DONORS_NEW_VOCAB
                                                   : s->vocab.any_vocab ? MG_DONORS_ANY_VOCAB
                                                                        : 0),
                             err));
    if (s->vocab.rebuild && s->trunk_regmean)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "trunk: regmean keeps the base's vocabulary (tokenizer_source: base)");
    if (s->vocab.rebuild) MG_TRY(mg_vocab_union_make(&m->vocab, &s->vocab, m->donors, m->n_donors, err));
    MG_TRY(check_mixtures(m, err));
    MG_TRY(check_base_fits(m, err));
    MG_TRY(mg_merge_units_make(&m->units, s, m->donors, &m->arena, err));
    return describe_result(m, err);
}

mg_status mg_merge_open(mg_merge **out, const mg_merge_spec *spec, mg_error *err) {
    mg_merge *m = calloc(1, sizeof *m);
    if (!m) return mg_fail_nomem(err, sizeof *m);
    m->spec = spec;
    mg_arena_init(&m->arena, 0);
    mg_status st = open_all(m, err);
    if (st != MG_OK) {
        mg_merge_free(m);
        return st;
    }
    *out = m;
    return MG_OK;
}

void mg_merge_free(mg_merge *m) {
    if (!m) return;
    mg_checkpoint_free(m->regmean);
    mg_vocab_union_free(m->vocab);
    mg_checkpoint_free(m->exchange);
    mg_donors_close(m->donors, m->n_donors);
    mg_model_free(m->result);
    mg_json_free(m->config);
    mg_arena_release(&m->arena);
    free(m);
}

/* ---- planning ---- */

static const mg_role_pair *pair_of(const mg_role_pair *pairs, uint32_t n, mg_role expert) {
    for (uint32_t i = 0; i < n; i++)
        if (pairs[i].expert == expert) return &pairs[i];
    return NULL;
}

/* Does the result have this weight? What makes it a MoE it has in layers that route, the dense blocks in the others; of
 * the rest, what the base has and what may be zero. */
static bool result_has(const void *ctx, mg_role role, uint32_t layer, uint32_t expert) {
    const mg_merge *m = ctx;
    const mg_made_from *made = m->target->made_from;
    const mg_model *base = m->donors[0].model;
    bool routes = mg_role_scope(role) != MG_SCOPE_MODEL && m->result->layers[layer].moe;
    if (is_mixture(base)) return mg_model_has(base, role, layer, mg_role_scope(role) == MG_SCOPE_EXPERT ? 0 : expert);
    if (role == MG_R_ROUTER) return routes;
    if (role == MG_R_SHARED_ROUTER) return routes && m->spec->n_shared && has_row(m->target, role);
    const mg_role_pair *pair = pair_of(made->roles, made->n_roles, role);
    if (!pair && (pair = pair_of(made->shared, made->n_shared_roles, role))) routes = routes && m->spec->n_shared;
    if (pair) return routes && mg_model_has(base, pair->dense, layer, 0);
    if (role == MG_R_EXCHANGE) return routes && has_zero(m->target, role);
    if (mg_arch_expert_role(m->target, role) != MG_ROLE_COUNT && routes) return false;
    return has_zero(m->target, role) || mg_model_has(base, role, layer, expert);
}

static mg_status donor_expr(const mg_donor *d, mg_plan *p, mg_role role, uint32_t layer, uint32_t expert,
                            const mg_expr **out, mg_error *err) {
    const mg_bound *b = mg_model_find(d->model, role, layer, expert);
    if (!b && role == MG_R_OUTPUT) b = mg_model_find(d->model, MG_R_TOKEN_EMBD, 0, 0); /* a tied head */
    if (!b) {
        mg_error_at(err, d->ckpt->path, NULL);
        return mg_fail(err, MG_ERR_FORMAT, "the donor has no %s in layer %u", mg_role_name(role), layer);
    }
    return mg_expr_role(p, d->model, b, out, err);
}

/* A donor's rows per token, its own or those of the new vocabulary. */
typedef struct own_rows {
    mg_plan *p;
    mg_role role;
} own_rows;
static mg_status rows_of(void *ctx, mg_donor *d, const mg_expr **out, mg_error *err) {
    const own_rows *o = ctx;
    return donor_expr(d, o->p, o->role, 0, 0, out, err);
}

static mg_status part_of_donor(const mg_merge *m, const mg_donor *d, mg_plan *p, const mg_part *part,
                               const mg_expr **out, mg_error *err) {
    own_rows own = {p, part->role};
    if (m->vocab && mg_role_is_vocab(part->role)) return mg_vocab_union_rows(p, m->vocab, d, rows_of, &own, out, err);
    return donor_expr(d, p, part->role, part->layer, part->expert, out, err);
}

/* A weight of the trunk: the base's, or the recipe's merge of several models, or part of the way from one to the other.
 */
static mg_status trunk_expr(const mg_merge *m, mg_plan *p, const mg_part *part, const char *name, const mg_expr **out,
                            mg_error *err) {
    const mg_dense_spec *s = m->spec->trunk;
    const mg_expr *base, *inputs[MG_BLEND_MAX];
    uint32_t stage, layers = (uint32_t)mg_hp_i(m->result, MG_K_LAYERS);
    MG_TRY(part_of_donor(m, &m->donors[0], p, part, &base, err));
    *out = base;
    if (!s) return MG_OK;
    if (m->regmean && (stage = mg_regmean_find(m->regmean, part->role, part->layer)) != MG_STRMAP_NONE) {
        MG_TRY(mg_expr_source(p, m->regmean, stage, out, err));
    } else {
        bool in_layer = mg_role_scope(part->role) != MG_SCOPE_MODEL;
        mg_blend b;
        MG_TRY(mg_dense_blend(s, 0, name, NULL, in_layer && layers > 1 ? (double)part->layer / (layers - 1) : in_layer,
                              &b, err));
        for (uint32_t i = 0; i < b.n; i++) {
            const mg_donor *d = &m->donors[m->first_trunk + i];
            MG_TRY(part_of_donor(m, d, p, part, &inputs[i], err));
            if (mg_role_is_vocab(part->role)) MG_TRY(mg_vocab_map_rows(p, &d->vocab, base, inputs[i], &inputs[i], err));
        }
        MG_TRY(mg_expr_blend(p, inputs, &b, out, err));
    }
    const mg_expr *ends[2] = {base, *out};
    double parts[2] = {1 - m->spec->trunk_strength, m->spec->trunk_strength};
    if (parts[0] != 0) MG_TRY(mg_expr_linear(p, ends, parts, 2, out, err));
    return m->dtype == MG_DTYPE_COUNT ? mg_expr_cast(p, *out, mg_expr_dtype(base), NULL, 0, out, err) : MG_OK;
}

/* Nothing, or what was fitted, in the base's type: a weight that the family has and no donor need have. */
static mg_status zero_expr(const mg_merge *m, mg_plan *p, const mg_target *t, const mg_part *part, const mg_expr **out,
                           mg_error *err) {
    const mg_bound *norm = mg_model_find(m->donors[0].model, MG_R_OUTPUT_NORM, 0, 0);
    const mg_dtype dtype = norm ? mg_model_tensor(m->donors[0].model, norm)->dtype : MG_F32;
    const uint32_t fitted = m->exchange && part->role == MG_R_EXCHANGE
                                ? mg_exchange_find(m->exchange, part->layer, part->expert)
                                : MG_STRMAP_NONE;
    if (fitted != MG_STRMAP_NONE) {
        MG_TRY(mg_expr_source(p, m->exchange, fitted, out, err));
        return mg_expr_cast(p, *out, dtype, NULL, 0, out, err);
    }
    uint64_t shape[MG_MAX_RANK];
    memcpy(shape, t->shape, sizeof shape);
    if (t->rank > 1) shape[0] = part->rows;
    return mg_expr_zeros(p, dtype, t->rank, shape, out, err);
}

/* A share of the inner dimension: rows of gate and up, columns of down. */
static mg_status slice_of(mg_plan *p, const mg_merge_unit *u, bool down, const mg_expr **e, mg_error *err) {
    uint64_t shape[MG_MAX_RANK];
    if (u->slices == 1) return MG_OK;
    if (mg_expr_shape(*e, shape) != 2) return mg_fail(err, MG_ERR_UNSUPPORTED, "only matrices can be split");
    uint64_t n = shape[down] / u->slices;
    mg_view rows = {.kind = MG_VIEW_ROWS, .a = u->slice * n, .b = n};
    if (!down) return mg_expr_view(p, *e, &rows, e, err);
    /* runs of n columns as rows, of which every slices-th is ours */
    mg_view runs = {.kind = MG_VIEW_RESHAPE, .a = shape[0] * u->slices, .b = n};
    mg_view ours = {.kind = MG_VIEW_GROUPS, .a = u->slice, .b = 1, .step = u->slices};
    MG_TRY(mg_expr_view(p, *e, &runs, e, err));
    return mg_expr_view(p, *e, &ours, e, err);
}

/* What of a donor becomes a weight of an expert: of a dense block, or of one of its own experts. */
static mg_role donor_role(const mg_merge *m, const mg_donor *d, mg_role role) {
    return is_mixture(d->model) ? role : mg_arch_dense_role(m->target, role);
}

/* The donor's weight with noise and scaled, rounded to the donor's type as mergekit does before the cast. */
static mg_status altered(const mg_merge *m, mg_plan *p, const mg_merge_expert *x, double scale, const char *name,
                         uint32_t number, const mg_expr **out, mg_error *err) {
    mg_dtype source = mg_expr_dtype(*out);
    if (x->noise_scale != 0) {
        char text[640];
        snprintf(text, sizeof text, "%s %u", name, number); /* a fused tensor holds several experts */
        mg_xxh128 h = mg_xxh128_of(text, strlen(text));
        uint64_t seed;
        memcpy(&seed, h.bytes, sizeof seed);
        MG_TRY(mg_expr_noise(p, *out, x->noise_scale, seed ^ m->seed, out, err));
        if (mg_dtype_is_float(source)) MG_TRY(mg_expr_cast(p, *out, source, NULL, 0, out, err));
    }
    if (scale == 1) return MG_OK;
    MG_TRY(mg_expr_linear(p, out, &scale, 1, out, err));
    return mg_dtype_is_float(source) ? mg_expr_cast(p, *out, source, NULL, 0, out, err) : MG_OK;
}

/* Slices are scaled by their number: with all of them chosen and weighted alike they are the whole block again. */
static mg_status expert_expr(const mg_merge *m, mg_plan *p, const mg_part *part, const char *name, const mg_expr **out,
                             mg_error *err) {
    const mg_merge_unit *u = mg_merge_unit_at(&m->units, part->layer, part->expert);
    const mg_merge_expert *x = &m->spec->experts[u->entry];
    const mg_donor *d = &m->donors[u->entry + 1];
    bool down = part->role == MG_R_EXPERT_DOWN;
    mg_role role = donor_role(m, d, part->role);
    if (role == MG_ROLE_COUNT)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "'%s' has a weight that a dense donor lacks", name);
    MG_TRY(donor_expr(d, p, role, part->layer, u->expert, out, err));
    if (part->role == MG_R_EXPERT_GATE || part->role == MG_R_EXPERT_UP)
        MG_TRY(mg_donor_fit_norm(p, m->donors[0].model, d, part->layer, out, err));
    MG_TRY(slice_of(p, u, down, out, err));
    double scale = down ? x->residual_scale * u->slices : 1;
    if (m->spec->shared_exact && down) scale *= 0.5; /* half of the block comes from the shared expert */
    return altered(m, p, x, scale, name, part->expert, out, err);
}

/* The shared expert's; behind a router of its own, sigmoid(0), it is half already where halves are wanted. */
static mg_status shared_expr(const mg_merge *m, mg_plan *p, const mg_part *part, mg_role role, const char *name,
                             const mg_expr **out, mg_error *err) {
    const uint32_t e = m->spec->n_experts;
    const mg_merge_expert *x = &m->spec->experts[e];
    double scale = role == MG_R_FFN_DOWN ? x->residual_scale : 1;
    if (m->spec->shared_exact && role == MG_R_FFN_DOWN && !m->shared_routers[part->layer]) scale *= 0.5;
    MG_TRY(donor_expr(&m->donors[e + 1], p, role, part->layer, 0, out, err));
    if (role == MG_R_FFN_GATE || role == MG_R_FFN_UP)
        MG_TRY(mg_donor_fit_norm(p, m->donors[0].model, &m->donors[e + 1], part->layer, out, err));
    return altered(m, p, x, scale, name, e, out, err);
}

/* Biases and corrections of a router, one element per expert: kept with the donors' routers, else nothing. */
static mg_status vector_expr(const mg_merge *m, mg_plan *p, const mg_part *part, const mg_expr **out, mg_error *err) {
    const uint64_t n = m->units.per_layer;
    float *x = calloc(n, sizeof *x);
    if (!x) return mg_fail_nomem(err, n * sizeof *x);
    mg_status st = MG_OK;
    for (uint32_t e = 0; st == MG_OK && m->spec->gate_mode == MG_GATE_KEEP && e < n; e++) {
        const mg_merge_unit *u = mg_merge_unit_at(&m->units, part->layer, e);
        mg_model *d = m->donors[u->entry + 1].model;
        const mg_bound *b = mg_model_find(d, part->role, part->layer, 0);
        float *all = b ? malloc(b->shape[0] * sizeof *all) : NULL;
        if (!all) st = mg_fail(err, MG_ERR_FORMAT, "'%s' has no %s", d->ckpt->path, mg_role_name(part->role));
        if (st == MG_OK) st = mg_read_f32(d, b, 0, 1, all, err);
        if (st == MG_OK) x[e] = all[u->expert];
        free(all);
    }
    if (st == MG_OK) st = mg_expr_const(p, MG_F32, 1, &n, x, out, err);
    free(x);
    return st;
}

/* Stored rows of one part of a target in the result's dtype. */
static mg_status part_expr(const mg_merge *m, mg_plan *p, const mg_target *t, const mg_part *part, const mg_expr **out,
                           mg_error *err) {
    const mg_made_from *made = m->target->made_from;
    const mg_role_pair *shared = m->spec->n_shared ? pair_of(made->shared, made->n_shared_roles, part->role) : NULL;
    const bool weighed = part->role == MG_R_SHARED_ROUTER && m->shared_routers[part->layer];
    const mg_expr *e;
    if (part->role == MG_R_ROUTER || weighed)
        e = (part->role == MG_R_ROUTER ? m->routers : m->shared_routers)[part->layer];
    else if (mg_role_scope(part->role) == MG_SCOPE_EXPERT)
        MG_TRY(expert_expr(m, p, part, t->name, &e, err));
    else if (shared)
        MG_TRY(shared_expr(m, p, part, shared->dense, t->name, &e, err));
    else if (part->role == MG_R_ROUTER_BIAS || part->role == MG_R_ROUTER_CORRECTION)
        MG_TRY(vector_expr(m, p, part, &e, err));
    else if (has_zero(m->target, part->role) && !mg_model_has(m->donors[0].model, part->role, part->layer, 0))
        MG_TRY(zero_expr(m, p, t, part, &e, err));
    else
        MG_TRY(trunk_expr(m, p, part, t->name, &e, err));
    mg_dtype own = mg_expr_dtype(e);
    const mg_bound *embd = mg_model_find(m->donors[0].model, MG_R_TOKEN_EMBD, 0, 0);
    if (m->vocab && mg_role_is_vocab(part->role) && embd) /* means of rows are F32 */
        own = mg_model_tensor(m->donors[0].model, embd)->dtype;
    if (!mg_dtype_is_float(own)) own = MG_BF16; /* blocks are a file's business */
    return mg_expr_cast(p, e, m->dtype == MG_DTYPE_COUNT ? own : m->dtype, NULL, 0, out, err);
}

static mg_status target_expr(mg_merge *m, mg_plan *p, const mg_target *t, const mg_expr **out, mg_error *err) {
    const mg_expr **parts;
    if (t->join > 1)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "experts whose gate and up alternate in one tensor cannot be merged");
    MG_TRY(MG_ARENA_NEW(&m->arena, &parts, t->n_parts, err));
    for (uint32_t i = 0; i < t->n_parts; i++) {
        MG_TRY(part_expr(m, p, t, &t->parts[i], &parts[i], err));
        for (const mg_view *v = t->views; v < t->views + MG_MAX_VIEWS && v->kind != MG_VIEW_END; v++)
            MG_TRY(mg_expr_view(p, parts[i], v, &parts[i], err));
    }
    if (t->n_parts == 1) {
        *out = parts[0];
        return MG_OK;
    }
    return t->rank == 3 ? mg_expr_stack(p, parts, t->n_parts, out, err)
                        : mg_expr_concat(p, parts, t->n_parts, out, err);
}

mg_status mg_merge_check_exchange(const mg_merge *m, mg_error *err) {
    if (!has_zero(m->target, MG_R_EXCHANGE))
        return mg_fail(err, MG_ERR_CONFLICT, "exchange means nothing for a %s model", m->target->name);
    bool plain = m->units.per_layer == m->spec->n_experts && !is_mixture(m->donors[0].model) && !m->vocab;
    for (uint32_t e = 0; plain && e < m->spec->n_experts; e++)
        plain = !is_mixture(m->donors[e + 1].model) && m->spec->experts[e].split <= 1 && !m->donors[e + 1].vocab.row;
    if (plain && !m->spec->n_lists) return MG_OK;
    return mg_fail(err, MG_ERR_UNSUPPORTED,
                   "exchange: fit takes dense donors with the base's tokens, each whole and in every layer");
}

static mg_status make_slots(mg_merge *m, mg_plan *p, mg_error *err) {
    uint32_t layers = (uint32_t)mg_hp_i(m->result, MG_K_LAYERS);
    uint64_t shape[2] = {m->units.per_layer, (uint64_t)mg_hp_i(m->result, MG_K_HIDDEN)};
    bool shared = m->spec->n_shared && has_row(m->target, MG_R_SHARED_ROUTER);
    MG_TRY(MG_ARENA_NEW(&m->arena, &m->routers, layers, err));
    MG_TRY(MG_ARENA_NEW(&m->arena, &m->shared_routers, layers, err));
    for (uint32_t l = 0; l < layers; l++) {
        if (!m->result->layers[l].moe) continue;
        MG_TRY(mg_expr_slot(p, 2, shape, &m->routers[l], err));
        if (shared) MG_TRY(mg_expr_slot(p, 2, (uint64_t[2]){1, shape[1]}, &m->shared_routers[l], err));
    }
    return MG_OK;
}

mg_status mg_merge_plan(mg_merge *m, mg_plan *p, const char *dir, uint64_t shard_size, uint32_t *out, mg_error *err) {
    mg_targets targets;
    MG_TRY(mg_plan_add_output(p, MG_OUT_HF_DIR, dir, out, err));
    if (shard_size) MG_TRY(mg_plan_set_shard_size(p, *out, shard_size, err));
    MG_TRY(mg_convert_set_config(p, *out, m->target, m->config, err));
    MG_TRY(make_slots(m, p, err));
    mg_status st =
        mg_arch_targets(&targets, m->target, &m->result->hp, m->result->layers, MG_LAYOUT_HF, result_has, m, err);
    for (size_t i = 0; st == MG_OK && i < targets.n; i++) {
        const mg_expr *e = NULL;
        st = target_expr(m, p, &targets.items[i], &e, err);
        if (st == MG_OK) st = mg_plan_add_tensor(p, *out, targets.items[i].name, e, err);
        if (st != MG_OK) mg_error_at(err, NULL, targets.items[i].name);
    }
    mg_targets_release(&targets);
    if (st != MG_OK) return st;
    MG_TRY(m->vocab ? mg_vocab_union_add_files(p, *out, m->vocab, err)
                    : mg_donor_copy_sides(&m->donors[0], p, *out, err));
    return mg_plan_add_side_file(p, *out, "mergekit_moe_config.yml", m->spec->text, m->spec->text_size, err);
}
