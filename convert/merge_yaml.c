/* merge_yaml.c - reading what all merge recipes share. */
#include "convert/merge_yaml.h"

#include "convert/lora.h"
#include "formats/base/file.h"
#include "formats/base/options.h"
#include "formats/hf_cache.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

mg_status mg_merge_yaml_schema(mg_error *err, const mg_yaml *at, const char *key, const char *expected) {
    return mg_fail(err, MG_ERR_FORMAT, "line %u: '%s' must be %s", at->line, key, expected);
}

mg_status mg_merge_yaml_check_keys(const mg_yaml *map, const char *const *known, const char *where, mg_error *err) {
    for (const mg_yaml *v = map->child; v; v = v->next) {
        bool found = false;
        for (const char *const *k = known; *k; k++) found = found || strcmp(*k, v->key) == 0;
        if (found) continue;
        const char *near = mg_nearest(v->key, known);
        return mg_fail(err, MG_ERR_FORMAT, "line %u: unknown key '%s' in %s%s%s%s", v->line, v->key, where,
                       near ? ", did you mean '" : "", near ? near : "", near ? "'?" : "");
    }
    return MG_OK;
}

/* A path, or {path, revision}, as "path" or "path@revision". */
static mg_status reference(mg_arena *a, const mg_yaml *v, const char *key, const char **out, mg_error *err) {
    static const char *const keys[] = {"path", "revision", NULL};
    const mg_yaml *revision = NULL, *path = v;
    if (v && v->type == MG_YAML_MAP) {
        MG_TRY(mg_merge_yaml_check_keys(v, keys, key, err));
        revision = mg_yaml_get(v, "revision");
        if (revision && mg_yaml_is_null(revision)) revision = NULL;
        path = mg_yaml_get(v, "path");
    }
    if (!path) return mg_fail(err, MG_ERR_FORMAT, "'%s' is missing", key);
    if (path->type != MG_YAML_SCALAR || !path->text[0] || mg_yaml_is_null(path) ||
        (revision && revision->type != MG_YAML_SCALAR))
        return mg_merge_yaml_schema(err, path, key, "the path of a model");
    *out = revision ? mg_arena_printf(a, "%s@%s", path->text, revision->text) : mg_arena_strdup(a, path->text);
    return *out ? MG_OK : mg_fail_nomem(err, strlen(path->text));
}

mg_status mg_merge_yaml_model(mg_arena *a, const mg_yaml *v, const char *key, const char **out, mg_error *err) {
    static const char *const keys[] = {"model", "lora", "override_architecture", NULL};
    const char *adapter;
    if (!v || v->type != MG_YAML_MAP) return reference(a, v, key, out, err);
    MG_TRY(mg_merge_yaml_check_keys(v, keys, key, err));
    const mg_yaml *lora = mg_yaml_get(v, "lora"), *other = mg_yaml_get(v, "override_architecture");
    if (other && !mg_yaml_is_null(other))
        return mg_fail(err, MG_ERR_UNSUPPORTED, "line %u: 'override_architecture' is not built", other->line);
    MG_TRY(reference(a, mg_yaml_get(v, "model"), key, out, err));
    if (!lora || mg_yaml_is_null(lora)) return MG_OK;
    MG_TRY(reference(a, lora, "lora", &adapter, err));
    *out = mg_arena_printf(a, "%s+%s", *out, adapter);
    return *out ? MG_OK : mg_fail_nomem(err, strlen(adapter));
}

static bool is_forced(const char *name) {
    return strncmp(name, "hf:", 3) == 0;
}

/* name is no path: is it a model in the Hugging Face cache? */
static mg_status check_cached(const char *name, mg_error *err) {
    char found[4096];
    bool cached;
    mg_error why = {0};
    mg_status st = mg_hf_resolve(found, sizeof found, name, &cached, &why);
    if (st == MG_OK) return MG_OK;
    if (is_forced(name)) return mg_fail(err, st, "donor '%s': %s", name, why.message);
    return mg_fail(err, st, "donor '%s' is neither beside the recipe nor in the working directory; as a name: %s", name,
                   why.message);
}

static const char *const *known_names, *const *known_paths;
static size_t n_known;

void mg_merge_yaml_known(const char *const *names, const char *const *paths, size_t n) {
    known_names = names;
    known_paths = paths;
    n_known = n;
}

static const char *known(const char *name) {
    size_t n = strlen(name);
    while (n > 1 && name[n - 1] == '/') n--;
    for (size_t i = 0; i < n_known; i++) {
        const size_t k = strlen(known_names[i]);
        if (n >= k && memcmp(name + n - k, known_names[i], k) == 0 && (n == k || name[n - k - 1] == '/'))
            return known_paths[i];
    }
    return NULL;
}

static mg_status resolve_one(const char *dir, const char *name, char *out, size_t size, mg_error *err) {
    char beside[4096];
    mg_hf_name hub;
    const bool is_known = known(name) != NULL;
    if (is_known) name = known(name);
    if (!is_known && name[0] != '/' && !is_forced(name)) {
        MG_TRY(mg_path_join(beside, sizeof beside, dir, name, err));
        if (mg_path_exists(beside)) name = beside;
    }
    if (is_forced(name) || !mg_path_exists(name)) {
        if (!is_forced(name) && !mg_hf_parse_name(&hub, name))
            return mg_fail(err, MG_ERR_IO, "donor '%s' is neither beside the recipe nor in the working directory",
                           name);
        MG_TRY(check_cached(name, err));
    }
    int used = snprintf(out, size, "%s", name);
    return used >= 0 && (size_t)used < size ? MG_OK : mg_fail(err, MG_ERR_LIMIT, "'%s' is too long a name", name);
}

/* A '+' splits a model from its adapter unless a path has it in its name. */
static bool split_here(const char *dir, const char *name) {
    char beside[4096];
    mg_error quiet = {0};
    if (!strchr(name, '+') || mg_path_exists(name)) return false;
    return mg_path_join(beside, sizeof beside, dir, name, &quiet) != MG_OK || !mg_path_exists(beside);
}

mg_status mg_merge_yaml_resolve(mg_arena *a, const char *dir, const char *name, const char **out, mg_error *err) {
    char model[4096], adapter[4096], found[4096], lora[4096];
    if (!split_here(dir, name)) {
        MG_TRY(resolve_one(dir, name, found, sizeof found, err));
        *out = mg_arena_strdup(a, found);
        return *out ? MG_OK : mg_fail_nomem(err, strlen(found));
    }
    MG_TRY(mg_lora_split(name, model, adapter, sizeof model, err));
    MG_TRY(resolve_one(dir, model, found, sizeof found, err));
    MG_TRY(resolve_one(dir, adapter, lora, sizeof lora, err));
    *out = mg_arena_printf(a, "%s+%s", found, lora);
    return *out ? MG_OK : mg_fail_nomem(err, strlen(found) + strlen(lora));
}

mg_status mg_merge_yaml_dtype(const mg_yaml *map, const char *key, mg_dtype *out, mg_error *err) {
    static const struct {
        const char *name;
        mg_dtype dtype;
    } names[] = {{"bfloat16", MG_BF16}, {"float16", MG_F16}, {"float32", MG_F32}, {"bf16", MG_BF16},
                 {"fp16", MG_F16},      {"f16", MG_F16},     {"fp32", MG_F32},    {"f32", MG_F32}};
    const mg_yaml *v = mg_yaml_get(map, key);
    if (!v || mg_yaml_is_null(v)) return MG_OK;
    for (size_t i = 0; v->type == MG_YAML_SCALAR && i < sizeof names / sizeof *names; i++)
        if (strcasecmp(v->text, names[i].name) == 0) {
            *out = names[i].dtype;
            return MG_OK;
        }
    return mg_merge_yaml_schema(err, v, key, "bfloat16, float16 or float32");
}

void mg_merge_yaml_dir(const char *path, char *buf, size_t size) {
    const char *slash = strrchr(path, '/');
    if (!slash)
        snprintf(buf, size, ".");
    else
        snprintf(buf, size, "%.*s", slash == path ? 1 : (int)(slash - path), path);
}
