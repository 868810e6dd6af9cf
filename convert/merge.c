/* merge.c - donors opened and compared, and the merged model written down as a plan. */
#include "convert/merge.h"

#include "convert/convert.h"
#include "convert/regmean.h"
#include "formats/arch/arch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Every weight of the base must have a place in the result: as itself, or as the dense block that the experts replace.
 */
static mg_status check_base_fits(const mg_merge *m, mg_error *err) {
    const mg_model *b = m->donors[0].model;
    for (uint32_t t = 0; t < b->ckpt->n_tensors; t++) {
        mg_role role;
        if (!mg_model_role_of(b, t, &role, NULL, NULL) || mg_arch_expert_role(m->target, role) != MG_ROLE_COUNT)
            continue;
        bool kept = false;
        for (uint32_t r = 0; r < m->target->n_tensors; r++) kept = kept || m->target->tensors[r].role == role;
        if (!kept) {
            mg_error_at(err, b->ckpt->path, b->ckpt->tensors[t].name);
            return mg_fail(err, MG_ERR_CONFLICT,
                           "a %s model has no place for this weight of the base, and dropping it would break it",
                           m->target->name);
        }
    }
    return MG_OK;
}

/* ---- opening ---- */

/* The family of the result: the first that is made from such donors and that the recipe does not exclude. */
static mg_status pick_target(mg_merge *m, mg_error *err) {
    const char *want = m->spec->architecture ? m->spec->architecture : "";
    for (uint32_t i = 0; i < mg_arch_count(); i++) {
        const mg_arch *a = mg_arch_at(i);
        if (!mg_arch_made_from(a, m->donors[0].model->arch) || strncasecmp(want, a->name, strlen(want)) != 0) continue;
        m->target = a;
        return MG_OK;
    }
    return mg_fail(err, MG_ERR_UNSUPPORTED,
                   "no mixture-of-experts family '%s' that we can write is made from %s donors", want,
                   m->donors[0].model->arch->name);
}

/* What the result will be: the config it will be written with, and its canonical numbers read back from that. */
static mg_status describe_result(mg_merge *m, mg_error *err) {
    m->dtype = m->spec->dtype != MG_DTYPE_COUNT ? m->spec->dtype : mg_config_dtype(m->donors[0].ckpt->config);
    MG_TRY(mg_arch_make_config(&m->config, m->target, m->donors[0].ckpt->config, m->spec->n_experts,
                               m->spec->experts_per_token, err));
    if (m->dtype != MG_DTYPE_COUNT) mg_config_set_dtype(m->config, m->dtype);
    return mg_model_from_config(&m->result, m->config, err);
}

static mg_status open_all(mg_merge *m, mg_error *err) {
    const mg_merge_spec *s = m->spec;
    uint32_t n_trunk = s->trunk ? s->trunk->slices[0].n_sources : 0;
    MG_TRY(MG_ARENA_NEW(&m->arena, &m->donors, (size_t)s->n_experts + 1 + n_trunk, err));
    m->donors[0].name = s->base;
    m->donors[0].path = s->base_path;
    for (uint32_t e = 0; e < s->n_experts; e++) {
        m->donors[e + 1].name = s->experts[e].source;
        m->donors[e + 1].path = s->experts[e].path;
    }
    m->first_trunk = s->n_experts + 1;
    m->n_donors = m->first_trunk + n_trunk;
    for (uint32_t i = 0; i < n_trunk; i++)
        m->donors[m->first_trunk + i].name = m->donors[m->first_trunk + i].path = s->trunk->slices[0].sources[i].path;
    MG_TRY(mg_donors_open(m->donors, m->n_donors, err));
    MG_TRY(pick_target(m, err));
    MG_TRY(mg_donors_compare(m->donors, m->n_donors, false, err));
    MG_TRY(check_base_fits(m, err));
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
    mg_donors_close(m->donors, m->n_donors);
    mg_model_free(m->result);
    mg_json_free(m->config);
    mg_arena_release(&m->arena);
    free(m);
}

/* ---- planning ---- */

/* Does the result have this weight? The routers and experts it has by being a MoE; of the rest, what the base has. */
static bool result_has(const void *ctx, mg_role role, uint32_t layer, uint32_t expert) {
    const mg_merge *m = ctx;
    if (role == MG_R_ROUTER) return true;
    const mg_made_from *made = m->target->made_from;
    for (uint32_t i = 0; i < made->n_roles; i++)
        if (made->roles[i].expert == role)
            return mg_model_has(m->donors[0].model, made->roles[i].dense, layer, 0);
        else if (made->roles[i].dense == role)
            return false;
    return mg_model_has(m->donors[0].model, role, layer, expert);
}

static mg_status donor_expr(const mg_donor *d, mg_plan *p, mg_role role, uint32_t layer, const mg_expr **out,
                            mg_error *err) {
    const mg_bound *b = mg_model_find(d->model, role, layer, 0);
    if (!b && role == MG_R_OUTPUT) b = mg_model_find(d->model, MG_R_TOKEN_EMBD, 0, 0); /* a tied head */
    if (!b) {
        mg_error_at(err, d->ckpt->path, NULL);
        return mg_fail(err, MG_ERR_FORMAT, "the donor has no %s in layer %u", mg_role_name(role), layer);
    }
    return mg_expr_role(p, d->model, b, out, err);
}

/* A weight of the trunk: the base's, or the recipe's merge of several models, or part of the way from one to the other.
 */
static mg_status trunk_expr(const mg_merge *m, mg_plan *p, const mg_part *part, const char *name, const mg_expr **out,
                            mg_error *err) {
    const mg_dense_spec *s = m->spec->trunk;
    const mg_expr *base, *inputs[MG_BLEND_MAX];
    uint32_t stage, layers = (uint32_t)mg_hp_i(m->result, MG_K_LAYERS);
    MG_TRY(donor_expr(&m->donors[0], p, part->role, part->layer, &base, err));
    *out = base;
    if (!s) return MG_OK;
    if (m->regmean && (stage = mg_regmean_find(m->regmean, part->role, part->layer)) != MG_STRMAP_NONE) {
        MG_TRY(mg_expr_source(p, m->regmean, stage, out, err));
    } else {
        bool in_layer = mg_role_scope(part->role) != MG_SCOPE_MODEL;
        mg_blend b;
        MG_TRY(mg_dense_blend(s, 0, name, in_layer && layers > 1 ? (double)part->layer / (layers - 1) : in_layer, &b,
                              err));
        for (uint32_t i = 0; i < b.n; i++)
            MG_TRY(donor_expr(&m->donors[m->first_trunk + i], p, part->role, part->layer, &inputs[i], err));
        MG_TRY(mg_expr_blend(p, inputs, &b, out, err));
    }
    const mg_expr *ends[2] = {base, *out};
    double parts[2] = {1 - m->spec->trunk_strength, m->spec->trunk_strength};
    if (parts[0] != 0) MG_TRY(mg_expr_linear(p, ends, parts, 2, out, err));
    return m->dtype == MG_DTYPE_COUNT ? mg_expr_cast(p, *out, mg_expr_dtype(base), NULL, 0, out, err) : MG_OK;
}

/* Stored rows of one part of a target: the donor's rows, scaled where the recipe says so, in the result's dtype. */
static mg_status part_expr(const mg_merge *m, mg_plan *p, const mg_part *part, const char *name, const mg_expr **out,
                           mg_error *err) {
    if (part->role == MG_R_ROUTER)
        return mg_expr_cast(p, m->routers[part->layer], m->dtype == MG_DTYPE_COUNT ? MG_F32 : m->dtype, NULL, 0, out,
                            err);
    const mg_made_from *made = m->target->made_from;
    const mg_role_pair *pair = NULL;
    for (uint32_t i = 0; i < made->n_roles; i++)
        if (made->roles[i].expert == part->role) pair = &made->roles[i];
    const mg_expr *e;
    if (pair)
        MG_TRY(donor_expr(&m->donors[part->expert + 1], p, pair->dense, part->layer, &e, err));
    else
        MG_TRY(trunk_expr(m, p, part, name, &e, err));
    mg_dtype source = mg_expr_dtype(e);
    double scale = pair && pair->dense == MG_R_FFN_DOWN ? m->spec->experts[part->expert].residual_scale : 1;
    if (scale != 1) {
        MG_TRY(mg_expr_linear(p, &e, &scale, 1, &e, err));
        MG_TRY(mg_expr_cast(p, e, source, NULL, 0, &e, err)); /* mergekit scales in the source dtype, before the cast */
    }
    return mg_expr_cast(p, e, m->dtype == MG_DTYPE_COUNT ? source : m->dtype, NULL, 0, out, err);
}

static mg_status target_expr(mg_merge *m, mg_plan *p, const mg_target *t, const mg_expr **out, mg_error *err) {
    const mg_expr **parts;
    MG_TRY(MG_ARENA_NEW(&m->arena, &parts, t->n_parts, err));
    for (uint32_t i = 0; i < t->n_parts; i++) {
        MG_TRY(part_expr(m, p, &t->parts[i], t->name, &parts[i], err));
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

static mg_status make_slots(mg_merge *m, mg_plan *p, mg_error *err) {
    uint32_t layers = (uint32_t)mg_hp_i(m->result, MG_K_LAYERS);
    uint64_t shape[2] = {m->spec->n_experts, (uint64_t)mg_hp_i(m->result, MG_K_HIDDEN)};
    MG_TRY(MG_ARENA_NEW(&m->arena, &m->routers, layers, err));
    for (uint32_t l = 0; l < layers; l++) MG_TRY(mg_expr_slot(p, 2, shape, &m->routers[l], err));
    return MG_OK;
}

mg_status mg_merge_plan(mg_merge *m, mg_plan *p, const char *dir, uint64_t shard_size, uint32_t *out, mg_error *err) {
    mg_targets targets;
    MG_TRY(mg_plan_add_output(p, MG_OUT_HF_DIR, dir, out, err));
    if (shard_size) MG_TRY(mg_plan_set_shard_size(p, *out, shard_size, err));
    MG_TRY(mg_plan_set_config(p, *out, m->config, err));
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
    MG_TRY(mg_convert_copy_sides(p, *out, m->donors[0].ckpt->dir, NULL, err));
    return mg_plan_add_side_file(p, *out, "mergekit_moe_config.yml", m->spec->text, m->spec->text_size, err);
}
