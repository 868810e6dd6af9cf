/* merge_dense_spec.c - reading mergekit-yaml recipes and evaluating their parameters. */
#include "convert/merge_dense_spec.h"

#include "convert/merge_yaml.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SLICES 4096u

mg_status mg_merge_is_dense(const char *path, bool *dense, mg_error *err) {
    mg_yaml_doc *doc;
    MG_TRY(mg_yaml_load(&doc, path, err));
    const mg_yaml *root = mg_yaml_root(doc);
    *dense = mg_yaml_get(root, "merge_method") || mg_yaml_get(root, "slices") || mg_yaml_get(root, "models");
    mg_yaml_free(doc);
    return MG_OK;
}

/* ---- parameters ---- */

static bool is_set(const mg_yaml *v) {
    return v && !mg_yaml_is_null(v);
}

static mg_status scalar(const mg_yaml *v, const char *key, bool flag, double *out, mg_error *err) {
    bool b;
    if (flag && mg_yaml_bool(v, &b)) {
        *out = b;
        return MG_OK;
    }
    if (!flag && mg_yaml_f64(v, out) && isfinite(*out)) return MG_OK;
    return mg_merge_yaml_schema(err, v, key,
                                flag ? "true or false" : "a number, a list of numbers or a list of filters");
}

static const mg_yaml *nth(const mg_yaml *seq, uint64_t i) {
    const mg_yaml *v = seq->child;
    while (i-- && v) v = v->next;
    return v;
}

/* Values spread evenly over a slice: numbers are interpolated, flags taken from the left. */
static mg_status gradient(const mg_yaml *seq, const char *key, bool flag, double t, double *out, mg_error *err) {
    double scaled = t * (double)(seq->n_children - 1), a, b;
    uint64_t i = (uint64_t)scaled;
    MG_TRY(scalar(nth(seq, i), key, flag, &a, err));
    const mg_yaml *next = nth(seq, i + 1);
    *out = a;
    if (flag || !next) return MG_OK;
    MG_TRY(scalar(next, key, flag, &b, err));
    double part = scaled - (double)i;
    *out = (1 - part) * a + part * b;
    return MG_OK;
}

static mg_status setting(const mg_yaml *v, const char *key, bool flag, const char *tensor, double t, double *out,
                         bool *found, mg_error *err);

/* {filter, value}: taken when the filter is absent, "*" or part of the tensor's name. */
static mg_status conditional(const mg_yaml *v, const char *key, bool flag, const char *tensor, double t, double *out,
                             bool *found, mg_error *err) {
    static const char *const keys[] = {"filter", "value", NULL};
    MG_TRY(mg_merge_yaml_check_keys(v, keys, key, err));
    const mg_yaml *filter = mg_yaml_get(v, "filter"), *value = mg_yaml_get(v, "value");
    if (!value || value->type == MG_YAML_MAP) return mg_merge_yaml_schema(err, v, key, "a mapping with a 'value'");
    if (is_set(filter) && filter->type != MG_YAML_SCALAR) return mg_merge_yaml_schema(err, filter, "filter", "a text");
    if (is_set(filter) && strcmp(filter->text, "*") != 0 && !strstr(tensor, filter->text)) return MG_OK;
    return setting(value, key, flag, tensor, t, out, found, err);
}

static mg_status setting(const mg_yaml *v, const char *key, bool flag, const char *tensor, double t, double *out,
                         bool *found, mg_error *err) {
    if (v->type == MG_YAML_MAP) return conditional(v, key, flag, tensor, t, out, found, err);
    if (v->type == MG_YAML_SCALAR) {
        *found = true;
        return scalar(v, key, flag, out, err);
    }
    if (!v->n_children) return MG_OK;
    if (v->child->type == MG_YAML_SCALAR) {
        *found = true;
        return gradient(v, key, flag, t, out, err);
    }
    for (const mg_yaml *c = v->child; c && !*found; c = c->next) {
        if (c->type != MG_YAML_MAP) return mg_merge_yaml_schema(err, c, key, "a list of {filter, value}");
        MG_TRY(conditional(c, key, flag, tensor, t, out, found, err));
    }
    return MG_OK;
}

typedef struct lookup {
    const mg_dense_spec *s;
    const mg_dense_slice *slice;
    const mg_dense_source *source; /* NULL: shared parameters */
    const char *tensor;
    double t;
} lookup;

/* *out keeps its value, the default, when no scope has one. */
static mg_status find(const lookup *q, const char *key, bool flag, double *out, bool *found, mg_error *err) {
    const mg_yaml *scopes[] = {q->source ? q->source->parameters : NULL, q->slice->parameters, q->s->parameters};
    *found = false;
    for (size_t i = 0; i < 3 && !*found; i++) {
        const mg_yaml *v = scopes[i] ? mg_yaml_get(scopes[i], key) : NULL;
        if (is_set(v)) MG_TRY(setting(v, key, flag, q->tensor, q->t, out, found, err));
    }
    return MG_OK;
}

static bool takes(const mg_blend_info *info, const char *key) {
    for (const char *const *k = info->parameters; *k; k++)
        if (strcmp(*k, key) == 0) return true;
    return false;
}

static mg_status number(const lookup *q, const mg_blend_info *info, const char *key, double *out, mg_error *err) {
    bool found;
    return takes(info, key) ? find(q, key, false, out, &found, err) : MG_OK;
}

static mg_status flag(const lookup *q, const mg_blend_info *info, const char *key, bool *out, mg_error *err) {
    bool found;
    double v = *out;
    if (!takes(info, key)) return MG_OK;
    MG_TRY(find(q, key, true, &v, &found, err));
    *out = v != 0;
    return MG_OK;
}

/* The parameters of one model: a weight is demanded, as mergekit does, by all methods that have one. */
static mg_status of_input(const lookup *q, const mg_blend_info *info, uint32_t i, mg_blend *out, mg_error *err) {
    bool found;
    out->weight[i] = isnan(q->s->default_weight) ? 1 : q->s->default_weight;
    out->density[i] = 1;
    out->gamma[i] = 0.01;
    out->epsilon[i] = 0.15;
    if (out->has_base && i == 0) return MG_OK;
    if (takes(info, "weight")) {
        MG_TRY(find(q, "weight", false, &out->weight[i], &found, err));
        if (!found && isnan(q->s->default_weight))
            return mg_fail(err, MG_ERR_CONFLICT, "merge method '%s' needs a weight for '%s'", info->name,
                           q->source->path);
    }
    MG_TRY(number(q, info, "scale", &out->weight[i], err));
    MG_TRY(number(q, info, "density", &out->density[i], err));
    MG_TRY(number(q, info, "gamma", &out->gamma[i], err));
    return number(q, info, "epsilon", &out->epsilon[i], err);
}

static mg_status shared(const lookup *q, const mg_blend_info *info, mg_blend *out, mg_error *err) {
    double iterations = 10;
    bool found = false;
    out->normalize = info->normalize;
    out->rescale = info->rescale;
    out->lambda = 1;
    out->eps = 1e-8;
    out->tol = 1e-5;
    out->select_topk = 1;
    if (takes(info, "t")) {
        MG_TRY(find(q, "t", false, &out->t, &found, err));
        if (!found) return mg_fail(err, MG_ERR_CONFLICT, "merge method '%s' needs the parameter t", info->name);
    }
    MG_TRY(flag(q, info, "normalize", &out->normalize, err));
    MG_TRY(flag(q, info, "normalize_weights", &out->normalize, err));
    MG_TRY(flag(q, info, "rescale", &out->rescale, err));
    MG_TRY(number(q, info, "lambda", &out->lambda, err));
    MG_TRY(number(q, info, "eps", &out->eps, err));
    MG_TRY(number(q, info, "tol", &out->tol, err));
    MG_TRY(number(q, info, "select_topk", &out->select_topk, err));
    MG_TRY(number(q, info, "max_iter", &iterations, err));
    if (!(iterations >= 0 && iterations <= 1e6)) return mg_fail(err, MG_ERR_CONFLICT, "max_iter %g", iterations);
    out->max_iter = (uint32_t)iterations;
    return MG_OK;
}

mg_status mg_dense_blend(const mg_dense_spec *s, uint32_t slice, const char *tensor, const char *const *inputs,
                         double t, mg_blend *out, mg_error *err) {
    const mg_dense_slice *sl = &s->slices[slice];
    const mg_blend_info *info = mg_blend_info_of(s->method);
    lookup q = {s, sl, NULL, tensor, t};
    memset(out, 0, sizeof *out); /* its bytes are its identity */
    out->method = s->method;
    out->n = sl->n_sources;
    out->has_base = sl->sources[0].is_base;
    mg_xxh128 h = mg_xxh128_of(tensor, strlen(tensor));
    memcpy(&out->seed, h.bytes, sizeof out->seed);
    out->seed ^= s->seed;
    MG_TRY(shared(&q, info, out, err));
    for (uint32_t i = 0; i < out->n; i++) {
        q.source = &sl->sources[i];
        if (inputs) q.tensor = inputs[i];
        MG_TRY(of_input(&q, info, i, out, err));
    }
    return MG_OK;
}

/* ---- the recipe ---- */

static mg_status get_parameters(const mg_dense_spec *s, const mg_yaml *map, const mg_yaml **out, mg_error *err) {
    const mg_yaml *v = mg_yaml_get(map, "parameters");
    if (!is_set(v)) return MG_OK;
    if (v->type != MG_YAML_MAP) return mg_merge_yaml_schema(err, v, "parameters", "a mapping");
    *out = v;
    return mg_merge_yaml_check_keys(v, mg_blend_info_of(s->method)->parameters, "the parameters of this merge method",
                                    err);
}

static mg_status get_range(mg_dense_source *d, const mg_yaml *map, mg_error *err) {
    const mg_yaml *v = mg_yaml_get(map, "layer_range");
    int64_t first, end;
    if (!v) return mg_fail(err, MG_ERR_FORMAT, "line %u: a source of a slice needs a 'layer_range'", map->line);
    if (v->type != MG_YAML_SEQ || v->n_children != 2 || !mg_yaml_i64(v->child, &first) ||
        !mg_yaml_i64(v->child->next, &end) || first < 0 || end <= first || end > UINT32_MAX)
        return mg_merge_yaml_schema(err, v, "layer_range", "[first, end] with first < end");
    d->first = (uint32_t)first;
    d->end = (uint32_t)end;
    return MG_OK;
}

static mg_status get_source(mg_dense_spec *s, const char *dir, const mg_yaml *v, bool whole, mg_dense_source *d,
                            mg_error *err) {
    static const char *const of_models[] = {"model", "parameters", NULL}, *const of_slices[] = {"model", "layer_range",
                                                                                                "parameters", NULL};
    if (v->type != MG_YAML_MAP) return mg_merge_yaml_schema(err, v, whole ? "models" : "sources", "a list of mappings");
    MG_TRY(mg_merge_yaml_check_keys(v, whole ? of_models : of_slices, "a model", err));
    const char *name;
    MG_TRY(mg_merge_yaml_model(&s->arena, mg_yaml_get(v, "model"), "model", &name, err));
    MG_TRY(mg_merge_yaml_resolve(&s->arena, dir, name, &d->path, err));
    d->whole = whole;
    if (!whole) MG_TRY(get_range(d, v, err));
    return get_parameters(s, v, &d->parameters, err);
}

/* The base goes first. Among models it may be missing and is added; in a slice it needs its own layers. */
static mg_status place_base(const mg_dense_spec *s, mg_dense_slice *slice, const char *base, bool whole,
                            mg_error *err) {
    const mg_blend_info *info = mg_blend_info_of(s->method);
    if (info->base == MG_BLEND_BASE_NONE) return MG_OK;
    if (!base)
        return info->base == MG_BLEND_BASE_OPTIONAL
                   ? MG_OK
                   : mg_fail(err, MG_ERR_CONFLICT, "merge method '%s' needs a base_model", info->name);
    uint32_t at = 0;
    while (at < slice->n_sources && strcmp(slice->sources[at].path, base) != 0) at++;
    mg_dense_source d = {.path = base, .whole = true};
    if (at < slice->n_sources)
        d = slice->sources[at];
    else if (whole)
        slice->n_sources++;
    else
        return mg_fail(err, MG_ERR_CONFLICT, "a slice lacks the base model '%s', which merge method '%s' needs", base,
                       info->name);
    memmove(slice->sources + 1, slice->sources, at * sizeof d);
    slice->sources[0] = d;
    slice->sources[0].is_base = true;
    return MG_OK;
}

static mg_status get_sources(mg_dense_spec *s, const char *dir, const mg_yaml *seq, bool whole, mg_dense_slice *slice,
                             mg_error *err) {
    if (!seq || seq->type != MG_YAML_SEQ || seq->n_children == 0)
        return mg_fail(err, MG_ERR_FORMAT, "'%s' must be a list of at least one model", whole ? "models" : "sources");
    if (seq->n_children >= MG_BLEND_MAX) return mg_fail(err, MG_ERR_LIMIT, "more than %d models", MG_BLEND_MAX - 1);
    MG_TRY(MG_ARENA_NEW(&s->arena, &slice->sources, seq->n_children + 1, err)); /* one more for the base */
    for (const mg_yaml *v = seq->child; v; v = v->next)
        MG_TRY(get_source(s, dir, v, whole, &slice->sources[slice->n_sources++], err));
    return MG_OK;
}

static mg_status get_slice(mg_dense_spec *s, const char *dir, const mg_yaml *v, const char *base, mg_dense_slice *slice,
                           mg_error *err) {
    static const char *const keys[] = {"sources", "base_model", "parameters", "residual_weight", NULL};
    if (v->type != MG_YAML_MAP) return mg_merge_yaml_schema(err, v, "slices", "a list of mappings");
    MG_TRY(mg_merge_yaml_check_keys(v, keys, "a slice", err));
    if (is_set(mg_yaml_get(v, "residual_weight")))
        return mg_fail(err, MG_ERR_UNSUPPORTED, "line %u: residual_weight, which mergekit reads and ignores", v->line);
    MG_TRY(get_parameters(s, v, &slice->parameters, err));
    MG_TRY(get_sources(s, dir, mg_yaml_get(v, "sources"), false, slice, err));
    const mg_yaml *own = mg_yaml_get(v, "base_model");
    if (is_set(own)) {
        MG_TRY(mg_merge_yaml_model(&s->arena, own, "base_model", &base, err));
        MG_TRY(mg_merge_yaml_resolve(&s->arena, dir, base, &base, err));
    }
    for (uint32_t i = 1; i < slice->n_sources; i++)
        if (slice->sources[i].end - slice->sources[i].first != slice->sources[0].end - slice->sources[0].first)
            return mg_fail(err, MG_ERR_CONFLICT, "line %u: the sources of a slice have different numbers of layers",
                           v->line);
    return place_base(s, slice, base, false, err);
}

static mg_status get_slices(mg_dense_spec *s, const char *dir, const mg_yaml *root, const char *base, mg_error *err) {
    const mg_yaml *models = mg_yaml_get(root, "models"), *slices = mg_yaml_get(root, "slices");
    if (!models == !slices) return mg_fail(err, MG_ERR_FORMAT, "a dense merge has either 'models' or 'slices'");
    if (models) {
        MG_TRY(MG_ARENA_NEW(&s->arena, &s->slices, 1, err));
        s->n_slices = 1;
        MG_TRY(get_sources(s, dir, models, true, s->slices, err));
        return place_base(s, s->slices, base, true, err);
    }
    if (slices->type != MG_YAML_SEQ || slices->n_children == 0)
        return mg_fail(err, MG_ERR_FORMAT, "'slices' must be a list of at least one slice");
    if (slices->n_children > MAX_SLICES) return mg_fail(err, MG_ERR_LIMIT, "more than %u slices", MAX_SLICES);
    MG_TRY(MG_ARENA_NEW(&s->arena, &s->slices, slices->n_children, err));
    for (const mg_yaml *v = slices->child; v; v = v->next)
        MG_TRY(get_slice(s, dir, v, base, &s->slices[s->n_slices++], err));
    return MG_OK;
}

static mg_status check_tokenizer_keys(mg_dense_spec *s, const char *dir, const mg_yaml *root, mg_error *err) {
    const mg_yaml *chat = mg_yaml_get(root, "chat_template");
    if (is_set(chat) && (chat->type != MG_YAML_SCALAR || strcmp(chat->text, "auto") != 0))
        return mg_fail(err, MG_ERR_UNSUPPORTED, "line %u: only chat_template: auto, the base's, is built", chat->line);
    return mg_vocab_spec_read(&s->vocab, &s->arena, dir, root, err);
}

static mg_status read_root(mg_dense_spec *s, const char *dir, const mg_yaml *root, mg_error *err) {
    static const char *const keys[] = {"merge_method", "models",        "slices",    "base_model",
                                       "parameters",   "dtype",         "out_dtype", "tokenizer_source",
                                       "tokenizer",    "chat_template", "name",      NULL};
    const mg_yaml *method = mg_yaml_get(root, "merge_method"), *base = mg_yaml_get(root, "base_model");
    if (mg_yaml_get(root, "modules"))
        return mg_fail(err, MG_ERR_UNSUPPORTED, "'modules' are not built: use models or slices");
    if (!method || method->type != MG_YAML_SCALAR) return mg_fail(err, MG_ERR_FORMAT, "'merge_method' is missing");
    MG_TRY(mg_merge_yaml_check_keys(root, keys, "the recipe", err));
    MG_TRY(mg_blend_parse(method->text, &s->method, err));
    MG_TRY(check_tokenizer_keys(s, dir, root, err));
    MG_TRY(get_parameters(s, root, &s->parameters, err));
    if (is_set(base)) {
        MG_TRY(mg_merge_yaml_model(&s->arena, base, "base_model", &s->base_path, err));
        MG_TRY(mg_merge_yaml_resolve(&s->arena, dir, s->base_path, &s->base_path, err));
    }
    MG_TRY(get_slices(s, dir, root, s->base_path, err));
    if (!s->base_path) s->base_path = s->slices[0].sources[0].path;
    s->dtype = MG_DTYPE_COUNT;
    s->default_weight = NAN;
    MG_TRY(mg_merge_yaml_dtype(root, "dtype", &s->dtype, err));
    return mg_merge_yaml_dtype(root, "out_dtype", &s->dtype, err);
}

static mg_status read_trunk(mg_dense_spec *s, const char *dir, const mg_yaml *v, const char *method, const char *base,
                            const char *const *experts, uint32_t n, mg_error *err) {
    const mg_yaml *models = v->type == MG_YAML_MAP ? mg_yaml_get(v, "models") : NULL;
    MG_TRY(mg_blend_parse(method, &s->method, err));
    s->dtype = MG_DTYPE_COUNT;
    s->default_weight = 1;
    s->base_path = base;
    s->n_slices = 1;
    MG_TRY(MG_ARENA_NEW(&s->arena, &s->slices, 1, err));
    if (v->type == MG_YAML_MAP) MG_TRY(get_parameters(s, v, &s->parameters, err));
    if (models) {
        MG_TRY(get_sources(s, dir, models, true, s->slices, err));
    } else {
        if (n >= MG_BLEND_MAX) return mg_fail(err, MG_ERR_LIMIT, "more than %d models", MG_BLEND_MAX - 1);
        MG_TRY(MG_ARENA_NEW(&s->arena, &s->slices->sources, n + 1, err));
        for (; s->slices->n_sources < n; s->slices->n_sources++)
            s->slices->sources[s->slices->n_sources] =
                (mg_dense_source){.path = experts[s->slices->n_sources], .whole = true};
    }
    return place_base(s, s->slices, base, true, err);
}

mg_status mg_dense_spec_trunk(mg_dense_spec **out, const char *dir, const mg_yaml *v, const char *method,
                              const char *base, const char *const *experts, uint32_t n, mg_error *err) {
    mg_dense_spec *s = calloc(1, sizeof *s);
    if (!s) return mg_fail_nomem(err, sizeof *s);
    mg_arena_init(&s->arena, 64u << 20);
    mg_status st = read_trunk(s, dir, v, method, base, experts, n, err);
    if (st != MG_OK) {
        mg_dense_spec_free(s);
        return st;
    }
    *out = s;
    return MG_OK;
}

mg_status mg_dense_spec_load(mg_dense_spec **out, const char *path, mg_error *err) {
    mg_dense_spec *s = calloc(1, sizeof *s);
    if (!s) return mg_fail_nomem(err, sizeof *s);
    mg_arena_init(&s->arena, 64u << 20);
    char *text = NULL, dir[4096];
    mg_merge_yaml_dir(path, dir, sizeof dir);
    mg_status st = mg_file_slurp(path, 1u << 20, &text, &s->text_size, err);
    if (st == MG_OK) st = mg_yaml_parse(&s->doc, text, s->text_size, path, err);
    if (st == MG_OK && !(s->text = mg_arena_strndup(&s->arena, text, s->text_size)))
        st = mg_fail_nomem(err, s->text_size);
    if (st == MG_OK) st = read_root(s, dir, mg_yaml_root(s->doc), err);
    free(text);
    if (st != MG_OK) {
        mg_error_at(err, path, NULL);
        mg_dense_spec_free(s);
        return st;
    }
    *out = s;
    return MG_OK;
}

void mg_dense_spec_free(mg_dense_spec *s) {
    if (!s) return;
    mg_yaml_free(s->doc);
    mg_arena_release(&s->arena);
    free(s);
}
