/* merge_linear.c - the weighted mean of whole models. */
#include "convert/merge_linear.h"

#include "convert/donors.h"
#include "convert/merge_yaml.h"
#include "convert/convert.h"
#include "formats/arch/arch.h"
#include "formats/base/file.h"

#include <stdlib.h>
#include <string.h>

#define MAX_MODELS 64u

mg_status mg_merge_is_dense(const char *path, bool *dense, mg_error *err) {
    mg_yaml_doc *doc;
    MG_TRY(mg_yaml_load(&doc, path, err));
    const mg_yaml *root = mg_yaml_root(doc);
    *dense = mg_yaml_get(root, "merge_method") || mg_yaml_get(root, "slices") || mg_yaml_get(root, "models");
    mg_yaml_free(doc);
    return MG_OK;
}

/* ---- the recipe ---- */

static mg_status get_number(const mg_yaml *map, const char *key, double *out, mg_error *err) {
    const mg_yaml *v = mg_yaml_get(map, key);
    if (!v || mg_yaml_is_null(v)) return MG_OK;
    if (v->type != MG_YAML_SCALAR)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "line %u: gradients and filters of '%s' are not built yet", v->line,
                       key);
    return mg_yaml_f64(v, out) ? MG_OK : mg_merge_yaml_schema(err, v, key, "a number");
}

static mg_status get_normalize(mg_linear_spec *s, const mg_yaml *parameters, mg_error *err) {
    static const char *const keys[] = {"normalize", "weight", NULL};
    s->normalize = true;
    if (!parameters || mg_yaml_is_null(parameters)) return MG_OK;
    MG_TRY(mg_merge_yaml_check_keys(parameters, keys, "the parameters", err));
    const mg_yaml *v = mg_yaml_get(parameters, "normalize");
    if (v && !mg_yaml_bool(v, &s->normalize)) return mg_merge_yaml_schema(err, v, "normalize", "true or false");
    return MG_OK;
}

static mg_status get_model(mg_linear_spec *s, const char *dir, const mg_yaml *v, double fallback, mg_error *err) {
    static const char *const keys[] = {"model", "parameters", NULL}, *const inner[] = {"weight", NULL};
    if (v->type != MG_YAML_MAP) return mg_merge_yaml_schema(err, v, "models", "a list of mappings");
    MG_TRY(mg_merge_yaml_check_keys(v, keys, "a model", err));
    const char *name;
    MG_TRY(mg_merge_yaml_model(&s->arena, mg_yaml_get(v, "model"), "model", &name, err));
    MG_TRY(mg_merge_yaml_resolve(&s->arena, dir, name, &s->path[s->n], err));
    const mg_yaml *parameters = mg_yaml_get(v, "parameters");
    s->weight[s->n] = fallback;
    if (parameters && !mg_yaml_is_null(parameters)) {
        MG_TRY(mg_merge_yaml_check_keys(parameters, inner, "a model's parameters", err));
        MG_TRY(get_number(parameters, "weight", &s->weight[s->n], err));
    }
    s->n++;
    return MG_OK;
}

static mg_status read_root(mg_linear_spec *s, const char *dir, const mg_yaml *root, mg_error *err) {
    static const char *const keys[] = {"merge_method", "models",    "base_model", "parameters",
                                       "dtype",        "out_dtype", NULL};
    const mg_yaml *method = mg_yaml_get(root, "merge_method"), *models = mg_yaml_get(root, "models");
    if (mg_yaml_get(root, "slices")) return mg_fail(err, MG_ERR_UNSUPPORTED, "slices are not built yet");
    if (!method || method->type != MG_YAML_SCALAR) return mg_fail(err, MG_ERR_FORMAT, "'merge_method' is missing");
    if (strcmp(method->text, "linear") != 0)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "line %u: merge method '%s' is not built yet, only linear",
                       method->line, method->text);
    MG_TRY(mg_merge_yaml_check_keys(root, keys, "the recipe", err));
    if (!models || models->type != MG_YAML_SEQ || models->n_children == 0)
        return mg_fail(err, MG_ERR_FORMAT, "'models' must be a list of at least one model");
    if (models->n_children > MAX_MODELS) return mg_fail(err, MG_ERR_LIMIT, "more than %u models", MAX_MODELS);
    const mg_yaml *parameters = mg_yaml_get(root, "parameters");
    MG_TRY(get_normalize(s, parameters, err));
    double fallback = 1;
    if (parameters && parameters->type == MG_YAML_MAP) MG_TRY(get_number(parameters, "weight", &fallback, err));
    MG_TRY(MG_ARENA_NEW(&s->arena, &s->path, models->n_children, err));
    MG_TRY(MG_ARENA_NEW(&s->arena, &s->weight, models->n_children, err));
    for (const mg_yaml *v = models->child; v; v = v->next) MG_TRY(get_model(s, dir, v, fallback, err));
    s->base_path = s->path[0];
    const mg_yaml *base = mg_yaml_get(root, "base_model");
    if (base && !mg_yaml_is_null(base)) {
        MG_TRY(mg_merge_yaml_model(&s->arena, base, "base_model", &s->base_path, err));
        MG_TRY(mg_merge_yaml_resolve(&s->arena, dir, s->base_path, &s->base_path, err));
    }
    s->dtype = MG_DTYPE_COUNT;
    MG_TRY(mg_merge_yaml_dtype(root, "dtype", &s->dtype, err));
    return mg_merge_yaml_dtype(root, "out_dtype", &s->dtype, err);
}

mg_status mg_linear_spec_load(mg_linear_spec **out, const char *path, mg_error *err) {
    mg_linear_spec *s = calloc(1, sizeof *s);
    if (!s) return mg_fail_nomem(err, sizeof *s);
    mg_arena_init(&s->arena, 64u << 20);
    char *text = NULL, dir[4096];
    mg_yaml_doc *doc = NULL;
    mg_merge_yaml_dir(path, dir, sizeof dir);
    mg_status st = mg_file_slurp(path, 1u << 20, &text, &s->text_size, err);
    if (st == MG_OK) st = mg_yaml_parse(&doc, text, s->text_size, path, err);
    if (st == MG_OK && !(s->text = mg_arena_strndup(&s->arena, text, s->text_size)))
        st = mg_fail_nomem(err, s->text_size);
    if (st == MG_OK) st = read_root(s, dir, mg_yaml_root(doc), err);
    mg_yaml_free(doc);
    free(text);
    if (st != MG_OK) {
        mg_error_at(err, path, NULL);
        mg_linear_spec_free(s);
        return st;
    }
    *out = s;
    return MG_OK;
}

void mg_linear_spec_free(mg_linear_spec *s) {
    if (!s) return;
    mg_arena_release(&s->arena);
    free(s);
}

/* ---- the plan ---- */

/* donors[0] is the base, 1..n the models to be averaged. */
static mg_status mean_expr(mg_linear_run *r, const mg_linear_spec *s, const mg_part *part, mg_dtype dtype,
                           const mg_expr **out, mg_error *err) {
    const mg_expr *children[MAX_MODELS];
    double factors[MAX_MODELS], total = 0;
    for (uint32_t i = 0; i < s->n; i++) total += s->weight[i];
    if (s->normalize && total == 0)
        return mg_fail(err, MG_ERR_CONFLICT, "the weights sum to 0 and cannot be normalised");
    for (uint32_t i = 0; i < s->n; i++) {
        const mg_donor *d = &r->donors[i + 1];
        const mg_bound *b = mg_model_find(d->model, part->role, part->layer, part->expert);
        if (!b)
            return mg_fail(err, MG_ERR_CONFLICT, "'%s' has no %s in layer %u", d->name, mg_role_name(part->role),
                           part->layer);
        MG_TRY(mg_expr_role(r->plan, d->model, b, &children[i], err));
        factors[i] = s->normalize ? s->weight[i] / total : s->weight[i];
    }
    if (dtype == MG_DTYPE_COUNT) dtype = mg_expr_dtype(children[0]);
    MG_TRY(mg_expr_linear(r->plan, children, factors, s->n, out, err));
    return mg_expr_cast(r->plan, *out, dtype, NULL, 0, out, err);
}

static mg_status add_tensors(mg_linear_run *r, const mg_linear_spec *s, mg_dtype dtype, mg_error *err) {
    const mg_model *base = r->donors[0].model;
    mg_targets targets;
    mg_status st =
        mg_arch_targets(&targets, base->arch, &base->hp, base->layers, MG_LAYOUT_HF, mg_model_has, base, err);
    for (size_t i = 0; st == MG_OK && i < targets.n; i++) {
        const mg_target *t = &targets.items[i];
        const mg_expr *e = NULL;
        if (t->n_parts != 1 || t->views[0].kind != MG_VIEW_END)
            st = mg_fail(err, MG_ERR_UNSUPPORTED,
                         "the mean of a tensor that is stored fused or stacked is not built yet");
        if (st == MG_OK) st = mean_expr(r, s, &t->parts[0], dtype, &e, err);
        if (st == MG_OK) st = mg_plan_add_tensor(r->plan, r->out, t->name, e, err);
        if (st != MG_OK) mg_error_at(err, NULL, t->name);
    }
    mg_targets_release(&targets);
    return st;
}

static mg_status plan_config(mg_linear_run *r, mg_dtype dtype, mg_error *err) {
    mg_json *config = NULL;
    MG_TRY(mg_json_dup(&config, r->donors[0].ckpt->config, err));
    if (dtype != MG_DTYPE_COUNT) mg_config_set_dtype(config, dtype);
    mg_status st = mg_plan_set_config(r->plan, r->out, config, err);
    mg_json_free(config);
    return st;
}

static mg_status run_init(mg_linear_run *r, const mg_linear_spec *s, const char *dir, uint64_t shard_size,
                          mg_error *err) {
    r->n_donors = s->n + 1;
    mg_arena_init(&r->arena, 0);
    MG_TRY(MG_ARENA_NEW(&r->arena, &r->donors, r->n_donors, err));
    for (uint32_t i = 0; i < r->n_donors; i++)
        r->donors[i].name = r->donors[i].path = i ? s->path[i - 1] : s->base_path;
    MG_TRY(mg_donors_open(r->donors, r->n_donors, err));
    MG_TRY(mg_donors_compare(r->donors, r->n_donors, err));
    MG_TRY(mg_plan_new(&r->plan, err));
    MG_TRY(mg_plan_add_output(r->plan, MG_OUT_HF_DIR, dir, &r->out, err));
    if (shard_size) MG_TRY(mg_plan_set_shard_size(r->plan, r->out, shard_size, err));
    mg_dtype dtype = s->dtype != MG_DTYPE_COUNT ? s->dtype : mg_config_dtype(r->donors[0].ckpt->config);
    MG_TRY(plan_config(r, dtype, err));
    MG_TRY(add_tensors(r, s, dtype, err));
    MG_TRY(mg_convert_copy_sides(r->plan, r->out, r->donors[0].ckpt->dir, NULL, err));
    MG_TRY(mg_plan_add_side_file(r->plan, r->out, "mergekit_config.yml", s->text, s->text_size, err));
    MG_TRY(mg_plan_checkpoint(r->plan, r->out, &r->ckpt, err));
    r->ckpt->dir = r->donors[0].ckpt->dir; /* the tokenizer files are the base's */
    return MG_OK;
}

mg_status mg_linear_run_new(mg_linear_run **out, const mg_linear_spec *spec, const char *dir, uint64_t shard_size,
                            mg_error *err) {
    mg_linear_run *r = calloc(1, sizeof *r);
    if (!r) return mg_fail_nomem(err, sizeof *r);
    mg_status st = run_init(r, spec, dir, shard_size, err);
    if (st != MG_OK) {
        mg_linear_run_free(r);
        return st;
    }
    *out = r;
    return MG_OK;
}

void mg_linear_run_free(mg_linear_run *r) {
    if (!r) return;
    mg_checkpoint_free(r->ckpt);
    mg_plan_free(r->plan);
    mg_donors_close(r->donors, r->n_donors);
    mg_arena_release(&r->arena);
    free(r);
}
