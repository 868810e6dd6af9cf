/* quantize_groups.c - see quantize_groups.h. */
#include "convert/quantize_groups.h"

#include "convert/convert_common.h"
#include "formats/arch/inputs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct job {
    mg_plan *plan;
    mg_model *m;
    const mg_groups_options *opt;
    mg_groups_report *report;
    uint32_t out;
    mg_dtype dtype; /* of everything that stays a float */
    mg_arena arena;
    mg_groups_names names;
    const mg_targets *targets;
    mg_strmap by_weight; /* target of a role, layer and expert; formats with a global scale */
} job;

/* ---- types ---- */

/* AWQ and GPTQ kernels compute in F16 and AWQ's old ones refuse another model type; the others keep the model's. */
static mg_dtype float_type(const mg_model *m, mg_group_format format) {
    if (format == MG_FORMAT_AWQ || format == MG_FORMAT_GPTQ || format == MG_FORMAT_GPTQ_V2) return MG_F16;
    const mg_dtype d = m->ckpt->config ? mg_config_dtype(m->ckpt->config) : MG_DTYPE_COUNT;
    return d == MG_F16 || d == MG_BF16 || d == MG_F32 ? d : mg_convert_auto_dtype(m->ckpt);
}

mg_group_scheme mg_groups_scheme(const mg_model *m, const mg_groups_options *opt) {
    return mg_group_format_scheme(opt->format, opt->bits, opt->group_size, opt->symmetric, float_type(m, opt->format));
}

/* ---- tensors ---- */

static mg_status add(job *j, const char *name, const mg_expr *e, mg_error *err) {
    uint64_t shape[MG_MAX_RANK], n = 1;
    const uint32_t rank = mg_expr_shape(e, shape);
    for (uint32_t i = 0; i < rank; i++) n *= shape[i]; /* fits: the expression exists */
    j->report->elements += n;
    return mg_plan_add_tensor(j->plan, j->out, name, e, err);
}

static mg_status add_suffixed(job *j, const char *module, const char *suffix, const mg_expr *e, mg_error *err) {
    const char *name = mg_arena_printf(&j->arena, "%s%s", module, suffix);
    return name ? add(j, name, e, err) : mg_fail_nomem(err, strlen(module));
}

/* Group of each column, in order. */
static mg_status ordered(mg_plan *p, const mg_group_form *f, const mg_expr **out, mg_error *err) {
    int32_t *g = malloc(f->cols * sizeof *g);
    if (!g) return mg_fail_nomem(err, f->cols * sizeof *g);
    for (uint64_t k = 0; k < f->cols; k++) g[k] = (int32_t)(k / f->slab_cols);
    mg_status st = mg_expr_const(p, MG_I32, 1, &f->cols, g, out, err);
    free(g);
    return st;
}

mg_status mg_groups_companion(mg_plan *p, const mg_group_form *f, const char **suffix, const mg_expr **out,
                              mg_error *err) {
    const bool gptq = f->format == MG_FORMAT_GPTQ || f->format == MG_FORMAT_GPTQ_V2;
    *suffix = gptq ? ".g_idx" : f->format == MG_FORMAT_CT ? ".weight_shape" : NULL;
    if (gptq) return ordered(p, f, out, err);
    const int64_t shape[2] = {(int64_t)f->rows, (int64_t)f->cols};
    const uint64_t two = 2;
    return *suffix ? mg_expr_const(p, MG_I64, 1, &two, shape, out, err) : MG_OK;
}

/* ---- weights that kernels join share NVFP4's global scale ---- */

/* Which are multiplied as one matrix: llm-compressor's FUSED_LAYER_NAMES as roles, ended by TOKEN_EMBD. */
static const mg_role joined[][4] = {{MG_R_ATTN_Q, MG_R_ATTN_K, MG_R_ATTN_V},
                                    {MG_R_ATTN_Q_A, MG_R_ATTN_KV_A},
                                    {MG_R_FFN_GATE, MG_R_FFN_UP},
                                    {MG_R_SHARED_GATE, MG_R_SHARED_UP},
                                    {MG_R_EXPERT_GATE, MG_R_EXPERT_UP}};

static size_t weight_key(char key[64], mg_role role, uint32_t layer, uint32_t expert) {
    return (size_t)snprintf(key, 64, "%d %u %u", (int)role, layer, expert);
}

static mg_status index_targets(job *j, mg_error *err) {
    for (size_t i = 0; i < j->targets->n; i++) {
        mg_convert_item item = {0};
        char key[64];
        mg_convert_item_of(&item, &j->targets->items[i]);
        const size_t n = weight_key(key, item.role, item.layer, item.expert);
        char *own = mg_arena_strndup(&j->arena, key, n);
        if (!own) return mg_fail_nomem(err, n);
        MG_TRY(mg_strmap_put(&j->by_weight, own, n, (uint32_t)i, NULL, err));
    }
    return MG_OK;
}

static mg_status global_scale(job *j, const mg_convert_item *item, const mg_expr *e, const mg_expr **out,
                              mg_error *err) {
    const mg_expr *all[4] = {e};
    uint32_t n = 1;
    for (size_t g = 0; g < sizeof joined / sizeof *joined; g++) {
        const mg_role *roles = joined[g], *r = roles;
        while (*r != MG_R_TOKEN_EMBD && *r != item->role) r++;
        if (*r == MG_R_TOKEN_EMBD) continue;
        for (n = 0, r = roles; *r != MG_R_TOKEN_EMBD; r++) { /* in one order, so that all of them find one node */
            char key[64];
            const uint32_t at = mg_strmap_get(&j->by_weight, key, weight_key(key, *r, item->layer, item->expert));
            if (at != MG_STRMAP_NONE)
                MG_TRY(mg_convert_target_expr(j->plan, j->m, &j->targets->items[at], &all[n++], err));
        }
    }
    return mg_expr_group_global(j->plan, all, n, j->dtype, out, err);
}

/* ---- one weight ---- */

/* Is the weight in the format's numbers already? */
static bool is_stored(const job *j, mg_dtype source) {
    return source == MG_MXFP4 && (j->opt->format == MG_FORMAT_MXFP4A16 || j->opt->format == MG_FORMAT_MXFP4);
}

static mg_status stored_parts(job *j, const mg_expr *e, const mg_group_form *form, const mg_expr **parts,
                              mg_error *err) {
    for (uint32_t i = 0; i < form->n_parts; i++) {
        const mg_group_part *part = &form->parts[i];
        MG_TRY(mg_expr_fp4_part(j->plan, e, part->what == MG_PART_CODES ? MG_FP4_CODES : MG_FP4_SCALES, part->rank,
                                part->shape, &parts[i], err));
    }
    return MG_OK;
}

static mg_status add_quantized(job *j, const char *module, const mg_target *t, const mg_convert_item *item,
                               const mg_expr *e, mg_error *err) {
    const mg_groups_options *o = j->opt;
    const mg_group_scheme s = mg_groups_scheme(j->m, o);
    const mg_expr *parts[MG_GROUP_MAX_PARTS], *global = NULL;
    mg_group_form form;
    MG_TRY(mg_expr_group_form(&form, o->format, &s, e, err));
    if (o->format == MG_FORMAT_NVFP4A16) {
        MG_TRY(global_scale(j, item, e, &global, err));
        MG_TRY(add_suffixed(j, module, ".weight_global_scale", global, err));
    }
    if (is_stored(j, item->source))
        MG_TRY(stored_parts(j, e, &form, parts, err));
    else
        MG_TRY(o->make ? o->make(o->ctx, j->plan, t, e, &form, parts, err)
                       : mg_expr_group_encode(j->plan, e, global, &form, parts, err));
    for (uint32_t i = 0; i < form.n_parts; i++) MG_TRY(add_suffixed(j, module, form.parts[i].suffix, parts[i], err));
    const char *suffix;
    const mg_expr *companion;
    MG_TRY(mg_groups_companion(j->plan, &form, &suffix, &companion, err));
    if (suffix) MG_TRY(add_suffixed(j, module, suffix, companion, err));
    j->names.quantized[j->names.n_quantized++] = module;
    return MG_OK;
}

static bool ends_in_weight(const char *name) {
    const size_t n = strlen(name);
    return n > 7 && strcmp(name + n - 7, ".weight") == 0;
}

/* A tensor as the directory names it. v5: the last of the family's names that is stored as it is. */
static const char *name_of(job *j, const mg_target *t) {
    char buf[512];
    if (!j->opt->v5_names || !mg_target_newest_name(t, j->m->arch, &j->m->hp, buf, sizeof buf)) return t->name;
    return mg_arena_strdup(&j->arena, buf);
}

static mg_status add_target(job *j, const mg_target *t, mg_error *err) {
    const mg_expr *e;
    MG_TRY(mg_convert_target_expr(j->plan, j->m, t, &e, err));
    mg_convert_item item = {.name = name_of(j, t)};
    if (!item.name) return mg_fail_nomem(err, 512);
    mg_convert_item_of(&item, t);
    item.source = mg_expr_dtype(e);
    item.rank = mg_expr_shape(e, item.shape);
    const bool stored = is_stored(j, item.source);
    if (mg_dtype_is_block(item.source) && !stored && !j->opt->as_stored && !j->opt->allow_requantize)
        return mg_fail(err, MG_ERR_USAGE, "it is %s already; --allow-requantize permits another loss",
                       mg_dtype_get(item.source)->name);
    const bool linear = mg_role_is_linear(item.role);
    if (linear && item.rank > 2 && j->opt->format != MG_FORMAT_MLX)
        return mg_fail(
            err, MG_ERR_UNSUPPORTED,
            "this family keeps its experts in tensors of %u dimensions, and no loader reads such experts, or "
            "slices of them, from a group format other than MLX; GGUF types hold them",
            item.rank);
    if ((linear || item.rank == 2) && ends_in_weight(item.name)) {
        const char *module = mg_arena_strndup(&j->arena, item.name, strlen(item.name) - 7);
        if (!module) return mg_fail_nomem(err, strlen(item.name));
        if (linear && (stored || !j->opt->as_stored)) return add_quantized(j, module, t, &item, e, err);
        if (item.role != MG_R_TOKEN_EMBD && item.role != MG_R_OUTPUT) j->names.kept[j->names.n_kept++] = module;
    }
    MG_TRY(mg_expr_cast(j->plan, e, j->dtype, NULL, 0, &e, err));
    return add(j, item.name, e, err);
}

/* ---- the directory ---- */

/* transformers 5 writes keys that 4 (and with it AutoAWQ and mlx-lm) does not know, and reads the old ones as well. */
static mg_status both_spellings(mg_json *config, mg_dtype dtype, mg_error *err) {
    const mg_json *rope = mg_json_get(config, "rope_parameters"), *scaling = mg_json_get(config, "rope_scaling");
    const char *type = mg_json_str(mg_json_get(rope, "rope_type"));
    mg_json *copy;
    double theta;
    mg_config_set_dtype(config, dtype);
    const char *name = mg_json_str(mg_json_get(config, "dtype"));
    if (name && !mg_json_get(config, "torch_dtype")) mg_json_set_str(config, "torch_dtype", name);
    if (!mg_json_get(config, "rope_theta") && mg_json_f64(mg_json_get(rope, "rope_theta"), &theta))
        mg_json_set_f64(config, "rope_theta", theta);
    if (!type || strcmp(type, "default") == 0 || (scaling && mg_json_type(scaling) != MG_JSON_NULL)) return MG_OK;
    MG_TRY(mg_json_dup(&copy, rope, err));
    mg_json_set(config, "rope_scaling", copy);
    return MG_OK;
}

static mg_status add_config(job *j, mg_error *err) {
    mg_json *config;
    const char *side = NULL;
    char *text = NULL;
    if (j->m->ckpt->config)
        MG_TRY(mg_json_dup(&config, j->m->ckpt->config, err));
    else
        MG_TRY(mg_arch_new_config(&config, j->m->arch, &j->m->hp, j->dtype, err));
    mg_status st = both_spellings(config, j->dtype, err);
    if (st == MG_OK) st = mg_groups_config(config, j->opt, &j->names, &side, &text, err);
    if (st == MG_OK) st = mg_convert_set_config(j->plan, j->out, j->m->arch, config, err);
    if (st == MG_OK && side) st = mg_plan_add_side_file(j->plan, j->out, side, text, strlen(text), err);
    free(text);
    mg_json_free(config);
    return st;
}

static mg_status add_targets(job *j, const mg_targets *ts, mg_error *err) {
    MG_TRY(MG_ARENA_NEW(&j->arena, &j->names.quantized, ts->n + 1, err));
    MG_TRY(MG_ARENA_NEW(&j->arena, &j->names.kept, ts->n + 1, err));
    j->names.arena = &j->arena;
    for (size_t i = 0; i < ts->n; i++) {
        mg_status st = add_target(j, &ts->items[i], err);
        if (st == MG_OK) continue;
        mg_error_at(err, j->m->ckpt->path, ts->items[i].name);
        return st;
    }
    j->report->quantized = (uint32_t)j->names.n_quantized;
    j->report->kept = (uint32_t)j->names.n_kept;
    if (j->names.n_quantized) return MG_OK;
    return mg_fail(err, MG_ERR_UNSUPPORTED,
                   j->opt->as_stored ? "no weight is MXFP4; moegraft-quantize MXFP4A16 rounds to it"
                                     : "the model has no linear layer to quantize");
}

static mg_status fill(job *j, const char *dir, mg_error *err) {
    mg_targets ts;
    mg_hparams hp = j->m->hp;
    MG_TRY(mg_convert_recover_rope(j->m, &hp, err));
    MG_TRY(mg_plan_add_output(j->plan, MG_OUT_HF_DIR, dir, &j->out, err));
    const mg_forms forms = j->opt->format == MG_FORMAT_MLX ? MG_FORMS_MLX : MG_FORMS_MATRICES;
    mg_status st = mg_arch_targets_in(&ts, j->m->arch, &hp, j->m->layers, forms, mg_convert_has_for_dir, j->m, err);
    j->targets = &ts;
    if (st == MG_OK && j->opt->format == MG_FORMAT_NVFP4A16) st = index_targets(j, err);
    if (st == MG_OK) st = add_targets(j, &ts, err);
    if (st == MG_OK) st = add_config(j, err);
    mg_targets_release(&ts);
    if (st == MG_OK)
        st =
            mg_convert_copy_sides(j->plan, j->out, j->m->ckpt->kv ? NULL : j->m->ckpt->dir, j->opt->had_tokenizer, err);
    return st;
}

mg_status mg_quantize_plan_groups(mg_plan *p, mg_model *m, const char *dir, const mg_groups_options *opt,
                                  mg_groups_report *report, uint32_t *out, mg_error *err) {
    *report = (mg_groups_report){0};
    job j = {.plan = p, .m = m, .opt = opt, .report = report, .dtype = float_type(m, opt->format)};
    mg_arena_init(&j.arena, 0);
    mg_strmap_init(&j.by_weight);
    mg_status st = fill(&j, dir, err);
    *out = j.out;
    mg_strmap_release(&j.by_weight);
    mg_arena_release(&j.arena);
    return st;
}
