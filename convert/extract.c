/* extract.c - see extract.h. */
#include "convert/extract.h"

#include "convert/convert.h"
#include "formats/arch/arch.h"

typedef struct extract {
    mg_model *moe;
    uint32_t expert;
} extract;

static mg_status dense_family(const mg_model *m, const mg_arch **out, mg_error *err) {
    *out = NULL;
    const mg_made_from *made = m->arch->made_from;
    for (size_t i = 0; made && i < sizeof made->families / sizeof *made->families && made->families[i]; i++)
        *out = mg_arch_find(made->families[i]);
    return *out ? MG_OK : mg_fail(err, MG_ERR_UNSUPPORTED, "a %s model is not made of dense experts", m->arch->name);
}

/* The weight of the mixture that becomes the dense model's (role, layer). */
static const mg_bound *source_of(const extract *x, mg_role role, uint32_t layer) {
    mg_role expert = mg_arch_expert_role(x->moe->arch, role);
    return expert != MG_ROLE_COUNT ? mg_model_find(x->moe, expert, layer, x->expert)
                                   : mg_model_find(x->moe, role, layer, 0);
}

/* All but what makes the mixture one; rotary factors are the config in another form. */
static bool has(const void *ctx, mg_role role, uint32_t layer, uint32_t expert) {
    (void)expert;
    const extract *x = ctx;
    if (role == MG_R_ROUTER || role == MG_R_ROPE_FREQS) return false;
    return mg_arch_dense_role(x->moe->arch, role) == MG_ROLE_COUNT && source_of(x, role, layer);
}

/* config.json of the dense model from the mixture's canonical numbers. */
static mg_status dense_config(const mg_model *m, const mg_arch *dense, mg_json **out, mg_error *err) {
    mg_hparams hp = m->hp;
    hp.i[MG_K_EXPERTS] = hp.i[MG_K_EXPERTS_USED] = 0;
    hp.i[MG_K_FFN] = hp.i[MG_K_EXPERT_FFN];
    const mg_bound *norm = mg_model_find(m, MG_R_TOKEN_EMBD, 0, 0);
    mg_dtype dtype = m->ckpt->config ? mg_config_dtype(m->ckpt->config) : MG_DTYPE_COUNT;
    if (dtype == MG_DTYPE_COUNT && norm) dtype = mg_model_tensor(m, norm)->dtype;
    return mg_arch_new_config(out, dense, &hp, dtype, err);
}

static mg_status add_tensors(const extract *x, mg_plan *p, uint32_t out, const mg_model *dense, mg_error *err) {
    mg_targets targets;
    mg_status st = mg_arch_targets(&targets, dense->arch, &dense->hp, dense->layers, MG_LAYOUT_HF, has, x, err);
    for (size_t i = 0; st == MG_OK && i < targets.n; i++) {
        const mg_target *t = &targets.items[i];
        const mg_expr *e = NULL;
        const mg_bound *b = source_of(x, t->parts[0].role, t->parts[0].layer);
        if (t->n_parts != 1 || t->views[0].kind != MG_VIEW_END)
            st = mg_fail(err, MG_ERR_UNSUPPORTED, "a tensor that is stored fused cannot be extracted yet");
        if (st == MG_OK) st = mg_expr_role(p, x->moe, b, &e, err);
        if (st == MG_OK) st = mg_plan_add_tensor(p, out, t->name, e, err);
        if (st != MG_OK) mg_error_at(err, NULL, t->name);
    }
    mg_targets_release(&targets);
    return st;
}

mg_status mg_extract_plan(mg_plan *p, mg_model *m, uint32_t expert, const char *dir, uint32_t *out, mg_error *err) {
    const mg_arch *family;
    MG_TRY(dense_family(m, &family, err));
    if (expert >= mg_hp_i(m, MG_K_EXPERTS))
        return mg_fail(err, MG_ERR_USAGE, "expert %u: the model has experts 0 to %lld", expert,
                       (long long)mg_hp_i(m, MG_K_EXPERTS) - 1);
    extract x = {m, expert};
    mg_json *config = NULL;
    mg_model *dense = NULL;
    mg_status st = dense_config(m, family, &config, err);
    if (st == MG_OK) st = mg_model_from_config(&dense, config, err);
    if (st == MG_OK) st = mg_plan_add_output(p, MG_OUT_HF_DIR, dir, out, err);
    if (st == MG_OK) st = mg_plan_set_config(p, *out, config, err);
    if (st == MG_OK) st = add_tensors(&x, p, *out, dense, err);
    if (st == MG_OK) st = mg_convert_copy_sides(p, *out, m->ckpt->dir, NULL, err);
    mg_model_free(dense);
    mg_json_free(config);
    return st;
}
