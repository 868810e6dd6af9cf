/* merge_spec.c - reading mergekit-moe YAML. */
#include "convert/merge_spec.h"

#include "convert/merge_yaml.h"
#include "formats/arch/model.h"
#include "formats/base/file.h"
#include "formats/base/json.h"
#include "formats/base/options.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MAX_PROMPT_FILE (64u << 20)

static const char *const mode_names[MG_GATE_MODE_COUNT + 1] = {
    [MG_GATE_HIDDEN] = "hidden",
    [MG_GATE_HIDDEN_AVG] = "hidden_avg",
    [MG_GATE_CHEAP_EMBED] = "cheap_embed",
    [MG_GATE_RANDOM] = "random",
    [MG_GATE_UNIFORM_RANDOM] = "uniform_random",
    [MG_GATE_FIT] = "fit",
    [MG_GATE_ORTHOGONAL] = "orthogonal",
    [MG_GATE_KEEP] = "keep",
    [MG_GATE_SVD] = "svd",
    [MG_GATE_FILE] = "FILE.safetensors",
};

const char *mg_gate_mode_name(mg_gate_mode m) {
    return mode_names[m];
}

mg_status mg_gate_mode_parse(const char *text, mg_gate_mode *out, mg_error *err) {
    if (strcmp(text, "hidden_last") == 0) {
        *out = MG_GATE_HIDDEN;
        return MG_OK;
    }
    size_t n = strlen(text);
    if (n > 12 && strcmp(text + n - 12, ".safetensors") == 0) {
        *out = MG_GATE_FILE;
        return MG_OK;
    }
    for (int m = 0; m < MG_GATE_FILE; m++)
        if (strcmp(text, mode_names[m]) == 0) {
            *out = (mg_gate_mode)m;
            return MG_OK;
        }
    const char *near = mg_nearest(text, mode_names);
    return mg_fail(err, MG_ERR_USAGE, "unknown gate mode '%s'%s%s%s", text, near ? ", did you mean '" : "",
                   near ? near : "", near ? "'?" : "");
}

static mg_status get_prompts(mg_merge_spec *s, const mg_yaml *map, const char *key, mg_prompts *out, mg_error *err) {
    const mg_yaml *v = mg_yaml_get(map, key);
    if (!v || mg_yaml_is_null(v)) return MG_OK;
    if (v->type != MG_YAML_SEQ) return mg_merge_yaml_schema(err, v, key, "a list of texts");
    MG_TRY(MG_ARENA_NEW(&s->arena, &out->text, v->n_children, err));
    for (const mg_yaml *p = v->child; p; p = p->next) {
        if (p->type != MG_YAML_SCALAR) return mg_merge_yaml_schema(err, p, key, "a list of texts");
        char *copy = mg_arena_strdup(&s->arena, p->text);
        if (!copy) return mg_fail_nomem(err, strlen(p->text));
        out->text[out->n++] = copy;
    }
    return MG_OK;
}

/* A whole number, or a list of them, each below limit; nothing when v is absent. */
static mg_status get_numbers(mg_merge_spec *s, const mg_yaml *v, const char *key, uint32_t limit, uint32_t **out,
                             uint32_t *n, mg_error *err) {
    int64_t number;
    if (!v || mg_yaml_is_null(v)) return MG_OK;
    bool one = v->type == MG_YAML_SCALAR;
    if (v->type == MG_YAML_MAP || (!one && !v->n_children))
        return mg_merge_yaml_schema(err, v, key, "a number or a list of numbers");
    MG_TRY(MG_ARENA_NEW(&s->arena, out, one ? 1 : v->n_children, err));
    for (const mg_yaml *c = one ? v : v->child; c; c = one ? NULL : c->next) {
        if (!mg_yaml_i64(c, &number) || number < 0 || number >= limit)
            return mg_merge_yaml_schema(err, c, key, "a number or a list of numbers");
        for (uint32_t i = 0; i < *n; i++)
            if ((*out)[i] == number) return mg_merge_yaml_schema(err, c, key, "numbers that differ");
        (*out)[(*n)++] = (uint32_t)number;
    }
    return MG_OK;
}

static mg_status get_expert(mg_merge_spec *s, const char *dir, const mg_yaml *v, mg_merge_expert *e, mg_error *err) {
    static const char *const keys[] = {"source_model",
                                       "positive_prompts",
                                       "negative_prompts",
                                       "noise_scale",
                                       "residual_scale",
                                       "expert",
                                       "split",
                                       NULL};
    if (v->type != MG_YAML_MAP) return mg_merge_yaml_schema(err, v, "experts", "a list of mappings");
    MG_TRY(mg_merge_yaml_check_keys(v, keys, "an expert", err));
    MG_TRY(mg_merge_yaml_model(&s->arena, mg_yaml_get(v, "source_model"), "source_model", &e->source, err));
    e->path = e->source;
    if (!s->prompts_only) MG_TRY(mg_merge_yaml_resolve(&s->arena, dir, e->source, &e->path, err));
    MG_TRY(get_prompts(s, v, "positive_prompts", &e->positive, err));
    MG_TRY(get_prompts(s, v, "negative_prompts", &e->negative, err));
    MG_TRY(get_numbers(s, mg_yaml_get(v, "expert"), "expert", UINT16_MAX, &e->pick, &e->n_pick, err));
    const mg_yaml *split = mg_yaml_get(v, "split");
    int64_t parts = 1;
    if (split && !mg_yaml_is_null(split) && (!mg_yaml_i64(split, &parts) || parts < 1 || parts > MG_MERGE_MAX_EXPERTS))
        return mg_merge_yaml_schema(err, split, "split", "a number of experts");
    e->split = (uint32_t)parts;
    const mg_yaml *noise = mg_yaml_get(v, "noise_scale"), *scale = mg_yaml_get(v, "residual_scale");
    if (noise && !mg_yaml_is_null(noise) && (!mg_yaml_f64(noise, &e->noise_scale) || !isfinite(e->noise_scale)))
        return mg_merge_yaml_schema(err, noise, "noise_scale", "a number");
    e->residual_scale = 1;
    if (scale && !mg_yaml_is_null(scale) && !mg_yaml_f64(scale, &e->residual_scale))
        return mg_merge_yaml_schema(err, scale, "residual_scale", "a number");
    return MG_OK;
}

static mg_status set_gate(mg_merge_spec *s, const char *dir, const char *text, mg_error *err) {
    MG_TRY(mg_gate_mode_parse(text, &s->gate_mode, err));
    s->gate_mode_given = true;
    return s->gate_mode == MG_GATE_FILE ? mg_merge_yaml_resolve(&s->arena, dir, text, &s->gate_file, err) : MG_OK;
}

mg_status mg_merge_spec_set_gate(mg_merge_spec *s, const char *text, mg_error *err) {
    return set_gate(s, ".", text, err);
}

static mg_status get_scalars(mg_merge_spec *s, const char *dir, const mg_yaml *root, mg_error *err) {
    const mg_yaml *v = mg_yaml_get(root, "gate_mode");
    s->gate_mode = MG_GATE_FIT;
    if (v && !mg_yaml_is_null(v)) {
        if (v->type != MG_YAML_SCALAR) return mg_merge_yaml_schema(err, v, "gate_mode", "a name");
        MG_TRY(set_gate(s, dir, v->text, err));
    }
    s->dtype = MG_DTYPE_COUNT;
    MG_TRY(mg_merge_yaml_dtype(root, "dtype", &s->dtype, err));
    v = mg_yaml_get(root, "experts_per_token");
    int64_t k = 2;
    if (v && !mg_yaml_is_null(v) && !mg_yaml_i64(v, &k))
        return mg_merge_yaml_schema(err, v, "experts_per_token", "a whole number");
    if (k < 1 || k > MG_MERGE_MAX_EXPERTS)
        return mg_fail(err, MG_ERR_CONFLICT, "experts_per_token is %lld, expected 1 to the number of experts",
                       (long long)k);
    s->experts_per_token = (uint32_t)k;
    v = mg_yaml_get(root, "architecture");
    if (v && !mg_yaml_is_null(v)) {
        if (v->type != MG_YAML_SCALAR) return mg_merge_yaml_schema(err, v, "architecture", "a name");
        if (!(s->architecture = mg_arena_strdup(&s->arena, v->text))) return mg_fail_nomem(err, strlen(v->text));
    }
    return MG_OK;
}

/* shared_scale: exact, grid: [columns, rows], dense_layers: N (the first ones) or a list. */
static mg_status get_shape(mg_merge_spec *s, const mg_yaml *root, mg_error *err) {
    const mg_yaml *v = mg_yaml_get(root, "shared_scale");
    int64_t x, y;
    if (v && !mg_yaml_is_null(v)) {
        if (v->type != MG_YAML_SCALAR || strcmp(v->text, "exact") != 0)
            return mg_merge_yaml_schema(err, v, "shared_scale", "exact (or use a shared expert's residual_scale)");
        if (!s->n_shared) return mg_fail(err, MG_ERR_CONFLICT, "shared_scale without shared_experts");
        s->shared_exact = true;
    }
    v = mg_yaml_get(root, "grid");
    if (v && !mg_yaml_is_null(v)) {
        if (v->type != MG_YAML_SEQ || v->n_children != 2 || !mg_yaml_i64(v->child, &x) ||
            !mg_yaml_i64(v->child->next, &y) || x < 1 || y < 1 || x > MG_MERGE_MAX_EXPERTS || y > MG_MERGE_MAX_EXPERTS)
            return mg_merge_yaml_schema(err, v, "grid", "[columns, rows]");
        s->grid_x = (uint32_t)x;
        s->grid_y = (uint32_t)y;
    }
    v = mg_yaml_get(root, "exchange");
    if (v && !mg_yaml_is_null(v)) {
        if (v->type != MG_YAML_SCALAR || (strcmp(v->text, "fit") != 0 && strcmp(v->text, "zero") != 0))
            return mg_merge_yaml_schema(err, v, "exchange", "zero or fit");
        s->exchange_fit = strcmp(v->text, "fit") == 0;
    }
    v = mg_yaml_get(root, "dense_layers");
    if (!v || mg_yaml_is_null(v)) return MG_OK;
    bool count = v->type == MG_YAML_SCALAR;
    if (count && (!mg_yaml_i64(v, &x) || x < 0 || x > MG_MAX_LAYERS))
        return mg_merge_yaml_schema(err, v, "dense_layers", "a number of layers or a list of layers");
    if (v->type == MG_YAML_MAP)
        return mg_merge_yaml_schema(err, v, "dense_layers", "a number of layers or a list of layers");
    MG_TRY(MG_ARENA_NEW(&s->arena, &s->dense, (count ? (size_t)x : v->n_children) + 1, err));
    for (int64_t l = 0; count && l < x; l++) s->dense[s->n_dense++] = (uint32_t)l;
    for (const mg_yaml *c = count ? NULL : v->child; c; c = c->next) {
        if (!mg_yaml_i64(c, &x) || x < 0 || x > MG_MAX_LAYERS || (s->n_dense && x <= s->dense[s->n_dense - 1]))
            return mg_merge_yaml_schema(err, c, "dense_layers", "a list of ascending layers");
        s->dense[s->n_dense++] = (uint32_t)x;
    }
    return MG_OK;
}

/* layer_experts: [{layer_range: [0, 2], experts: [0, 1]}, ...] */
static mg_status get_lists(mg_merge_spec *s, const mg_yaml *v, mg_error *err) {
    static const char *const keys[] = {"layer_range", "experts", NULL};
    if (!v || mg_yaml_is_null(v)) return MG_OK;
    if (v->type != MG_YAML_SEQ) return mg_merge_yaml_schema(err, v, "layer_experts", "a list of mappings");
    MG_TRY(MG_ARENA_NEW(&s->arena, &s->lists, v->n_children + 1, err));
    for (const mg_yaml *c = v->child; c; c = c->next) {
        mg_merge_layers *list = &s->lists[s->n_lists];
        uint32_t *range = NULL, n = 0;
        if (c->type != MG_YAML_MAP) return mg_merge_yaml_schema(err, c, "layer_experts", "a list of mappings");
        MG_TRY(mg_merge_yaml_check_keys(c, keys, "layer_experts", err));
        MG_TRY(get_numbers(s, mg_yaml_get(c, "layer_range"), "layer_range", MG_MAX_LAYERS, &range, &n, err));
        if (n != 2 || range[0] >= range[1]) return mg_merge_yaml_schema(err, c, "layer_range", "[first, end]");
        *list = (mg_merge_layers){.first = range[0], .end = range[1]};
        MG_TRY(get_numbers(s, mg_yaml_get(c, "experts"), "experts", s->n_experts, &list->entry, &list->n, err));
        if (!list->n) return mg_merge_yaml_schema(err, c, "experts", "a list of the recipe's experts, counted from 0");
        for (uint32_t i = 0; i < s->n_lists; i++)
            if (range[0] < s->lists[i].end && s->lists[i].first < range[1])
                return mg_merge_yaml_schema(err, c, "layer_range", "layers that no other list speaks of");
        s->n_lists++;
    }
    return MG_OK;
}

static bool has_weight(const mg_yaml *v) {
    const mg_yaml *parameters = v->type == MG_YAML_MAP ? mg_yaml_get(v, "parameters") : NULL;
    return parameters && parameters->type == MG_YAML_MAP && mg_yaml_get(parameters, "weight");
}

/* The regression takes every model alike, so a weight would reach only the tensors beside it, which are averaged. */
static mg_status refuse_weights(const mg_yaml *trunk, mg_error *err) {
    const mg_yaml *models = trunk->type == MG_YAML_MAP ? mg_yaml_get(trunk, "models") : NULL;
    bool any = has_weight(trunk);
    for (const mg_yaml *m = models && models->type == MG_YAML_SEQ ? models->child : NULL; m; m = m->next)
        any = any || has_weight(m);
    return any ? mg_fail(err, MG_ERR_UNSUPPORTED,
                         "trunk: regmean knows no weights: its regression takes all models alike")
               : MG_OK;
}

/* trunk: a name, or {merge_method, models, parameters, strength}. */
static mg_status get_trunk(mg_merge_spec *s, const char *dir, const mg_yaml *v, mg_error *err) {
    static const char *const keys[] = {"merge_method", "models", "parameters", "strength", NULL};
    const mg_yaml *name = v, *strength;
    if (v->type == MG_YAML_MAP) {
        MG_TRY(mg_merge_yaml_check_keys(v, keys, "the trunk", err));
        name = mg_yaml_get(v, "merge_method");
        if ((strength = mg_yaml_get(v, "strength")) && !mg_yaml_f64(strength, &s->trunk_strength))
            return mg_merge_yaml_schema(err, strength, "strength", "a number");
    }
    if (!name || name->type != MG_YAML_SCALAR) return mg_merge_yaml_schema(err, v, "trunk", "a merge method");
    if (strcmp(name->text, "base") == 0) return MG_OK;
    s->trunk_regmean = strcmp(name->text, "regmean") == 0;
    if (s->trunk_regmean) MG_TRY(refuse_weights(v, err));
    bool mean = s->trunk_regmean || strcmp(name->text, "average") == 0;
    const char **experts;
    MG_TRY(MG_ARENA_NEW(&s->arena, &experts, s->n_experts, err));
    for (uint32_t e = 0; e < s->n_experts; e++) experts[e] = s->experts[e].path;
    return mg_dense_spec_trunk(&s->trunk, dir, v, mean ? "linear" : name->text, s->base_path, experts, s->n_experts,
                               err);
}

static mg_status read_root(mg_merge_spec *s, const char *dir, const mg_yaml *root, mg_error *err) {
    static const char *const keys[] = {"base_model",        "experts",        "gate_mode",    "dtype",
                                       "experts_per_token", "shared_experts", "architecture", "shared_scale",
                                       "dense_layers",      "grid",           "trunk",        "layer_experts",
                                       "tokenizer_source",  "tokenizer",      "exchange",     NULL};
    if (!root || root->type != MG_YAML_MAP) return mg_fail(err, MG_ERR_FORMAT, "a merge recipe must be a mapping");
    MG_TRY(mg_merge_yaml_check_keys(root, keys, "the recipe", err));
    MG_TRY(mg_merge_yaml_model(&s->arena, mg_yaml_get(root, "base_model"), "base_model", &s->base, err));
    s->base_path = s->base;
    if (!s->prompts_only) MG_TRY(mg_merge_yaml_resolve(&s->arena, dir, s->base, &s->base_path, err));
    const mg_yaml *experts = mg_yaml_get(root, "experts");
    if (!experts || experts->type != MG_YAML_SEQ || experts->n_children == 0)
        return mg_fail(err, MG_ERR_FORMAT, "'experts' must be a list of at least one expert");
    if (experts->n_children > MG_MERGE_MAX_EXPERTS)
        return mg_fail(err, MG_ERR_LIMIT, "%zu experts, at most %u are possible", experts->n_children,
                       MG_MERGE_MAX_EXPERTS);
    const mg_yaml *shared = mg_yaml_get(root, "shared_experts");
    bool any_shared = shared && !mg_yaml_is_null(shared);
    if (any_shared && shared->type != MG_YAML_SEQ)
        return mg_merge_yaml_schema(err, shared, "shared_experts", "a list of experts");
    size_t n_shared = any_shared ? shared->n_children : 0;
    if (n_shared > MG_MERGE_MAX_EXPERTS) return mg_fail(err, MG_ERR_LIMIT, "%zu shared experts", n_shared);
    MG_TRY(MG_ARENA_NEW(&s->arena, &s->experts, experts->n_children + n_shared, err));
    for (const mg_yaml *v = experts->child; v; v = v->next)
        MG_TRY(get_expert(s, dir, v, &s->experts[s->n_experts++], err));
    for (const mg_yaml *v = n_shared ? shared->child : NULL; v; v = v->next)
        MG_TRY(get_expert(s, dir, v, &s->experts[s->n_experts + s->n_shared++], err));
    MG_TRY(get_shape(s, root, err));
    MG_TRY(get_lists(s, mg_yaml_get(root, "layer_experts"), err));
    if (!s->prompts_only) MG_TRY(mg_vocab_spec_read(&s->vocab, &s->arena, dir, root, err));
    s->trunk_strength = 1;
    const mg_yaml *trunk = mg_yaml_get(root, "trunk");
    if (trunk && !mg_yaml_is_null(trunk) && !s->prompts_only) MG_TRY(get_trunk(s, dir, trunk, err));
    return get_scalars(s, dir, root, err);
}

static mg_status load(mg_merge_spec **out, const char *path, bool prompts_only, mg_error *err) {
    mg_merge_spec *s = calloc(1, sizeof *s);
    if (!s) return mg_fail_nomem(err, sizeof *s);
    s->prompts_only = prompts_only;
    mg_arena_init(&s->arena, 256u << 20);
    char *text = NULL;
    size_t n = 0;
    char dir[4096];
    mg_merge_yaml_dir(path, dir, sizeof dir);
    mg_status st = mg_file_slurp(path, 1u << 20, &text, &n, err);
    if (st == MG_OK) st = mg_yaml_parse(&s->doc, text, n, path, err);
    if (st == MG_OK && !(s->text = mg_arena_strndup(&s->arena, text, n))) st = mg_fail_nomem(err, n);
    s->text_size = n;
    if (st == MG_OK) st = read_root(s, dir, mg_yaml_root(s->doc), err);
    free(text);
    if (st != MG_OK) {
        mg_error_at(err, path, NULL);
        mg_merge_spec_free(s);
        return st;
    }
    *out = s;
    return MG_OK;
}

mg_status mg_merge_spec_load(mg_merge_spec **out, const char *path, mg_error *err) {
    return load(out, path, false, err);
}

mg_status mg_merge_spec_load_prompts(mg_merge_spec **out, const char *path, mg_error *err) {
    return load(out, path, true, err);
}

void mg_merge_spec_free(mg_merge_spec *s) {
    if (!s) return;
    mg_dense_spec_free(s->trunk);
    mg_yaml_free(s->doc);
    mg_arena_release(&s->arena);
    free(s);
}

static bool is_called(const mg_merge_expert *e, uint32_t index, const char *name) {
    char number[16];
    snprintf(number, sizeof number, "%u", index);
    size_t n = strlen(e->source);
    while (n && e->source[n - 1] == '/') n--;
    size_t start = n;
    while (start && e->source[start - 1] != '/') start--;
    return strcmp(number, name) == 0 || (strlen(name) == n - start && memcmp(name, e->source + start, n - start) == 0);
}

/* ---- texts from files ---- */

static mg_status reserve(mg_prompts *p, mg_arena *a, size_t more, mg_error *err) {
    const char **all;
    MG_TRY(MG_ARENA_NEW(a, &all, p->n + more + 1, err));
    if (p->n) memcpy(all, p->text, p->n * sizeof *all);
    p->text = all;
    return MG_OK;
}

mg_status mg_prompts_add_lines(mg_prompts *p, mg_arena *a, const char *text, size_t n, mg_error *err) {
    size_t lines = 0;
    char *copy = mg_arena_strndup(a, text, n);
    if (!copy) return mg_fail_nomem(err, n);
    for (size_t i = 0; i < n; i++) lines += text[i] == '\n';
    MG_TRY(reserve(p, a, lines + 1, err));
    for (char *line = copy; line;) {
        char *end = strchr(line, '\n');
        if (end) *end++ = 0;
        size_t k = strlen(line);
        if (k && line[k - 1] == '\r') line[k - 1] = 0; /* written on another system */
        if (*line) p->text[p->n++] = line;
        line = end;
    }
    return MG_OK;
}

static mg_status add_list(mg_prompts *p, mg_arena *a, const char *text, size_t n, const char *file, mg_error *err) {
    mg_json *list;
    MG_TRY(mg_json_parse(&list, (mg_span){(const uint8_t *)text, n}, file, err));
    mg_status st = reserve(p, a, mg_json_len(list), err);
    for (const mg_json *c = mg_json_first(list); st == MG_OK && c; c = mg_json_next(c)) {
        const char *one = mg_json_str(c);
        if (!one)
            st = mg_fail(err, MG_ERR_FORMAT, "a list of prompts has an entry that is no text");
        else if (!(p->text[p->n] = mg_arena_strdup(a, one)))
            st = mg_fail_nomem(err, strlen(one));
        else
            p->n++;
    }
    mg_json_free(list);
    return st;
}

mg_status mg_prompts_load(mg_prompts *p, mg_arena *a, const char *file, mg_error *err) {
    char *text;
    size_t n;
    MG_TRY(mg_file_slurp(file, MAX_PROMPT_FILE, &text, &n, err));
    size_t k = strlen(file);
    bool list = k > 5 && strcmp(file + k - 5, ".json") == 0;
    mg_status st = memchr(text, 0, n) ? mg_fail(err, MG_ERR_FORMAT, "a NUL byte: this is no text")
                   : list             ? add_list(p, a, text, n, file, err)
                                      : mg_prompts_add_lines(p, a, text, n, err);
    if (st != MG_OK) mg_error_at(err, file, NULL);
    free(text);
    return st;
}

mg_status mg_merge_spec_add_text(mg_merge_spec *s, const char *name, const char *file, mg_error *err) {
    mg_merge_expert *e = NULL;
    for (uint32_t i = 0; i < s->n_experts; i++) {
        if (!is_called(&s->experts[i], i, name)) continue;
        if (e)
            return mg_fail(err, MG_ERR_USAGE, "--text %s=...: more than one expert is called so, use its index", name);
        e = &s->experts[i];
    }
    if (!e) return mg_fail(err, MG_ERR_USAGE, "--text %s=...: no expert is called so", name);
    return mg_prompts_load(&e->positive, &s->arena, file, err);
}

static bool same_prompts(const mg_prompts *a, const mg_prompts *b) {
    if (a->n != b->n) return false;
    for (uint32_t i = 0; i < a->n; i++)
        if (strcmp(a->text[i], b->text[i]) != 0) return false;
    return true;
}

static bool same_picks(const mg_merge_expert *a, const mg_merge_expert *b) {
    return a->n_pick == b->n_pick && (!a->n_pick || memcmp(a->pick, b->pick, a->n_pick * sizeof *a->pick) == 0);
}

mg_status mg_merge_spec_check(const mg_merge_spec *s, bool same_models_ok, mg_error *err) {
    bool random = s->gate_mode == MG_GATE_RANDOM || s->gate_mode == MG_GATE_UNIFORM_RANDOM ||
                  s->gate_mode == MG_GATE_ORTHOGONAL || s->gate_mode == MG_GATE_FILE || s->gate_mode == MG_GATE_KEEP ||
                  s->gate_mode == MG_GATE_SVD; /* no prompts needed */
    bool same_all = s->n_experts > 1, same_sources = s->n_experts > 1;
    for (uint32_t i = 0; i < s->n_experts; i++) {
        const mg_merge_expert *e = &s->experts[i], *first = &s->experts[0];
        const bool excluded = e->negative.n > 0; /* fit: anyone's tokens but this expert's say enough */
        if (!random && e->positive.n == 0 && !(excluded && s->gate_mode == MG_GATE_FIT))
            return mg_fail(err, MG_ERR_CONFLICT,
                           "expert %u ('%s') has no positive prompts, which gate mode '%s' needs%s", i, e->source,
                           mg_gate_mode_name(s->gate_mode),
                           excluded ? " ([\"\"] stands for the beginning of sequence alone)" : "");
        same_all =
            same_all && same_prompts(&e->positive, &first->positive) && same_prompts(&e->negative, &first->negative);
        same_sources = same_sources && strcmp(e->path, first->path) == 0 && same_picks(e, first);
    }
    if (!random && same_all)
        return mg_fail(err, MG_ERR_CONFLICT,
                       "all experts have the same prompts: every gate '%s' makes would be the same",
                       mg_gate_mode_name(s->gate_mode));
    if (same_sources && !random && !same_models_ok)
        return mg_fail(err, MG_ERR_CONFLICT,
                       "all experts are the same model, which is of no use without training "
                       "(--i-understand-this-is-not-useful-without-training)");
    return MG_OK;
}
