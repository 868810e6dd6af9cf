/* restate.c - see restate.h. Every weight of the result is the source's weight of the same role, zero, or twice it. */
#include "convert/restate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/convert_common.h"
#include "formats/base/options.h"
#include "quant/read_f32.h"

/* ---- whether it can be said ---- */

static bool listed(const mg_role *roles, uint32_t n, mg_role role) {
    for (uint32_t i = 0; i < n; i++)
        if (roles[i] == role) return true;
    return false;
}

static bool states(const mg_arch *a, mg_key key) {
    for (uint32_t i = 0; i < a->n_config; i++)
        if (a->config[i].key == key && a->config[i].gguf_when != MG_GGUF_FILE_TYPE) return true;
    return false;
}

static bool says(const mg_arch *a, const char *family) {
    for (size_t i = 0;
         a->restates && i < sizeof a->restates->families / sizeof *a->restates->families && a->restates->families[i];
         i++)
        if (!strcmp(a->restates->families[i], family)) return true;
    return false;
}

static mg_status all_zero(mg_model *m, mg_role role, uint32_t layer, uint32_t index, const char *family,
                          mg_error *err) {
    const mg_bound *b = mg_model_find(m, role, layer, index);
    if (!b) return MG_OK;
    uint64_t rows = b->rank < 2 ? 1 : mg_bound_rows(b), cols = b->shape[b->rank - 1];
    float *row = malloc(cols * sizeof *row);
    if (!row) return mg_fail_nomem(err, cols * sizeof *row);
    mg_status st = MG_OK;
    for (uint64_t r = 0; st == MG_OK && r < rows; r++) {
        st = mg_read_f32(m, b, r, 1, row, err);
        for (uint64_t k = 0; st == MG_OK && k < cols; k++)
            if (row[k] != 0)
                st = mg_fail(
                    err, MG_ERR_UNSUPPORTED, "'%s' is not zero (row %llu, column %llu: %g), and %s has no such weight",
                    mg_model_tensor(m, b)->name, (unsigned long long)r, (unsigned long long)k, (double)row[k], family);
    }
    free(row);
    return st;
}

static mg_status check_vanishing(mg_model *m, const mg_arch *a, mg_error *err) {
    for (uint32_t i = 0; i < a->restates->n_vanishing; i++) {
        const mg_role role = a->restates->vanishing[i];
        const uint32_t n = (uint32_t)mg_scope_count(mg_role_scope(role), &m->hp);
        for (uint32_t l = 0; l < (uint32_t)mg_hp_i(m, MG_K_LAYERS); l++)
            for (uint32_t k = 0; k < n; k++) MG_TRY(all_zero(m, role, l, k, a->name, err));
    }
    return MG_OK;
}

mg_status mg_restate_find(const mg_arch **out, mg_model *m, const char *name, mg_error *err) {
    const char *names[64] = {0};
    uint32_t n = 0;
    for (uint32_t i = 0; i < mg_arch_count() && n + 1 < sizeof names / sizeof *names; i++)
        if (says(mg_arch_at(i), m->arch->name)) names[n++] = mg_arch_at(i)->name;
    *out = mg_arch_find(name);
    if (!*out) {
        const char *near = mg_nearest(name, names);
        return mg_fail(err, MG_ERR_USAGE, "--as: no family is called '%s'%s%s%s", name, near ? ", did you mean '" : "",
                       near ? near : "", near ? "'?" : "");
    }
    if (!says(*out, m->arch->name))
        return mg_fail(err, MG_ERR_UNSUPPORTED, "a %s model cannot be said as %s exactly%s%s%s", m->arch->name, name,
                       n ? " (as " : "", n ? names[0] : "", n ? ": yes)" : "");
    if ((*out)->block.norm_topk && !mg_hp_i(m, MG_K_NORM_TOPK) && !states(*out, MG_K_NORM_TOPK))
        return mg_fail(err, MG_ERR_UNSUPPORTED,
                       "%s divides the weights of a token's experts by their sum, this model does not", name);
    return check_vanishing(m, *out, err);
}

/* ---- weights ---- */

typedef struct job {
    mg_plan *p;
    mg_model *m;
    const mg_arch *arch;
    mg_dtype dtype;
} job;

static bool result_has(const void *ctx, mg_role role, uint32_t layer, uint32_t expert) {
    const job *j = ctx;
    const mg_restates *r = j->arch->restates;
    if (listed(r->vanishing, r->n_vanishing, role)) return false;
    return listed(r->zeros, r->n_zeros, role) || mg_convert_has_for_dir(j->m, role, layer, expert);
}

/* A part of a target, laid out as stored. */
static mg_status part_expr(const void *ctx, const mg_target *t, uint32_t i, const mg_expr **out, mg_error *err) {
    const job *j = ctx;
    const mg_restates *r = j->arch->restates;
    const mg_part *part = &t->parts[i];
    mg_bound b;
    if (listed(r->zeros, r->n_zeros, part->role)) {
        const mg_bound *q = mg_model_find(j->m, MG_R_ATTN_Q, part->layer, 0);
        const mg_dtype own = mg_model_tensor(j->m, q)->dtype;
        const uint64_t shape[2] = {part->slice ? part->slice : part->rows, t->shape[t->rank - 1]};
        return mg_expr_zeros(j->p, mg_dtype_is_float(own) ? own : MG_F32, 2, shape, out, err);
    }
    MG_TRY(mg_target_bind(&b, j->m, t, i, err));
    MG_TRY(mg_expr_role(j->p, j->m, &b, out, err));
    if (!listed(r->doubled, r->n_doubled, part->role)) return MG_OK;
    const double two = 2; /* exact but for overflow, which writing refuses */
    const mg_dtype own = mg_expr_dtype(*out);
    MG_TRY(mg_expr_linear(j->p, out, &two, 1, out, err));
    return mg_expr_cast(j->p, *out, mg_dtype_is_float(own) ? own : MG_F32, NULL, 0, out, err);
}

/* Whether y = w - offset, as the target stores it, is exact in t: then w comes back as y + offset. */
static bool is_exact(const float *w, uint64_t n, float offset, mg_dtype t) {
    for (uint64_t i = 0; i < n; i++) {
        float y = w[i] - offset, back = y;
        uint8_t half[4];
        const mg_codec *c = mg_codec_get(t);
        if (t != MG_F32 && (c->encode(&y, NULL, 1, half, NULL) != MG_OK || (c->decode(half, 1, &back), back != y)))
            return false;
        if (back + offset != w[i]) return false;
    }
    return true;
}

/* The type of a tensor that is stored with an offset: that of the source where it holds the values. */
static mg_status offset_dtype(const job *j, const mg_target *t, mg_dtype *dtype, mg_error *err) {
    const mg_view *add = NULL;
    for (const mg_view *v = t->views; v < t->views + MG_MAX_VIEWS && v->kind != MG_VIEW_END; v++)
        if (v->kind == MG_VIEW_ADD) add = v;
    if (!add) return MG_OK;
    const mg_bound *b = mg_model_find(j->m, t->parts[0].role, t->parts[0].layer, t->parts[0].expert);
    const mg_dtype own = mg_model_tensor(j->m, b)->dtype;
    const uint64_t n = b->shape[0];
    float *w = malloc(n * sizeof *w);
    if (!w) return mg_fail_nomem(err, n * sizeof *w);
    mg_status st = mg_read_f32(j->m, b, 0, 1, w, err);
    *dtype = mg_dtype_is_float(own) ? own : MG_F32;
    if (st == MG_OK && !is_exact(w, n, (float)-add->value, *dtype)) *dtype = MG_F32;
    if (st == MG_OK && !is_exact(w, n, (float)-add->value, MG_F32))
        st = mg_fail(err, MG_ERR_UNSUPPORTED, "'%s': values of '%s' change when stored with an offset of %g", t->name,
                     mg_model_tensor(j->m, b)->name, add->value);
    free(w);
    return st;
}

static mg_status add_target(const job *j, const mg_target *t, uint32_t out, mg_error *err) {
    const mg_expr *e;
    mg_dtype dtype = j->dtype;
    MG_TRY(mg_convert_target_of(j->p, t, part_expr, j, &e, err));
    MG_TRY(mg_convert_expect_shape(e, t, err));
    if (dtype == MG_DTYPE_COUNT) {
        dtype = mg_dtype_is_float(mg_expr_dtype(e)) ? mg_expr_dtype(e) : MG_F32;
        MG_TRY(offset_dtype(j, t, &dtype, err));
    }
    MG_TRY(mg_expr_cast(j->p, e, dtype, NULL, 0, &e, err));
    return mg_plan_add_tensor(j->p, out, t->name, e, err);
}

/* ---- the whole ---- */

/* What is written is read back: every number that both families have must be what it was. */
static mg_status check_config(const job *j, const mg_json *config, mg_error *err) {
    mg_model *back;
    MG_TRY(mg_model_from_config(&back, config, err));
    mg_status st =
        back->arch == j->arch ? MG_OK : mg_fail(err, MG_ERR_INTERNAL, "the config is not one of %s", j->arch->name);
    for (uint32_t i = 0; st == MG_OK && i < j->arch->n_config; i++) {
        const mg_key k = j->arch->config[i].key;
        if (!states(j->m->arch, k)) continue;
        if (back->hp.i[k] != j->m->hp.i[k] || back->hp.f[k] != j->m->hp.f[k])
            st = mg_fail(err, MG_ERR_UNSUPPORTED, "%s of this model cannot be said in a config of %s", mg_key_name(k),
                         j->arch->name);
    }
    for (uint32_t l = 0; st == MG_OK && l < (uint32_t)mg_hp_i(j->m, MG_K_LAYERS); l++)
        if (back->layers[l].moe != j->m->layers[l].moe || back->layers[l].window != j->m->layers[l].window)
            st = mg_fail(err, MG_ERR_UNSUPPORTED, "layer %u of this model cannot be said in a config of %s", l,
                         j->arch->name);
    mg_model_free(back);
    return st;
}

static mg_status add_config(const job *j, const mg_hparams *hp, uint32_t out, mg_error *err) {
    const mg_bound *head = mg_model_find(j->m, MG_R_TOKEN_EMBD, 0, 0);
    mg_dtype dtype = j->dtype != MG_DTYPE_COUNT ? j->dtype : mg_model_tensor(j->m, head)->dtype;
    mg_json *config;
    MG_TRY(mg_arch_new_config(&config, j->arch, hp, mg_dtype_is_float(dtype) ? dtype : MG_F32, err));
    mg_status st = check_config(j, config, err);
    if (st == MG_OK) st = mg_convert_set_config(j->p, out, j->arch, config, err);
    mg_json_free(config);
    return st;
}

/* A weight that the other family needs and m has not is found as by any reader. */
static mg_status check_complete(mg_plan *p, mg_model *m, uint32_t out, mg_error *err) {
    mg_checkpoint *c = NULL;
    mg_model *x = NULL;
    mg_error why = {0};
    MG_TRY(mg_plan_checkpoint(p, out, &c, err));
    mg_status st = mg_model_open(&x, c, &why);
    if (st != MG_OK)
        st = mg_fail(err, MG_ERR_UNSUPPORTED, "'%s' cannot be said so: %s%s%s", m->ckpt->path, why.tensor,
                     why.tensor[0] ? ": " : "", why.message);
    mg_model_free(x);
    mg_checkpoint_free(c);
    return st;
}

mg_status mg_restate_plan(mg_plan *p, mg_model *m, const mg_arch *arch, const char *dir, mg_dtype dtype,
                          uint64_t shard_size, bool *had_tokenizer, uint32_t *out, mg_error *err) {
    const job j = {.p = p, .m = m, .arch = arch, .dtype = dtype};
    mg_targets ts;
    mg_hparams hp = m->hp;
    hp.f[MG_K_ROTARY_PART] = (double)hp.i[MG_K_ROPE_DIM] / (double)hp.i[MG_K_HEAD_DIM];
    MG_TRY(mg_plan_add_output(p, MG_OUT_HF_DIR, dir, out, err));
    if (shard_size) MG_TRY(mg_plan_set_shard_size(p, *out, shard_size, err));
    MG_TRY(add_config(&j, &hp, *out, err));
    mg_status st = mg_arch_targets(&ts, arch, &hp, m->layers, MG_LAYOUT_HF, result_has, &j, err);
    for (size_t i = 0; st == MG_OK && i < ts.n; i++) {
        st = add_target(&j, &ts.items[i], *out, err);
        if (st != MG_OK) mg_error_at(err, NULL, ts.items[i].name);
    }
    mg_targets_release(&ts);
    if (st == MG_OK) st = mg_convert_copy_sides(p, *out, m->ckpt->kv ? NULL : m->ckpt->dir, had_tokenizer, err);
    return st == MG_OK ? check_complete(p, m, *out, err) : st;
}
