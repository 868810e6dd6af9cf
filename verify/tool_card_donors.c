/* tool_card_donors.c - licences, and the models that a recipe names (tool_card_sources.h). */
#include "verify/tool_card_sources.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/merge_yaml.h"
#include "convert/tool_recipe.h"
#include "formats/base/file.h"
#include "formats/hf_cache.h"

#define MAX_RECIPE (1u << 20)

static void copy(char *dst, size_t size, const char *s) {
    snprintf(dst, size, "%s", s ? s : "");
}

/* ---- licences ---- */

/* Of a donor, which is a path or a name in the cache. */
static mg_status licence_of_path(mg_licence *l, const char *path, mg_error *err) {
    char real[4096];
    bool cached;
    mg_checkpoint *c;
    MG_TRY(mg_hf_resolve(real, sizeof real, path, &cached, err));
    if (mg_path_is_dir(real)) return mg_licence_of_dir(l, real, err);
    MG_TRY(mg_checkpoint_open(&c, real, err));
    mg_status st = mg_licence_of(l, c, err);
    mg_checkpoint_free(c);
    return st;
}

/* ---- donors ---- */

typedef struct walk {
    mg_card *c;
    mg_arena arena;
    char dir[4096]; /* of the recipe */
} walk;

static mg_status add_donor(walk *w, const char *name, const char *role, mg_error *err) {
    mg_card *c = w->c;
    const char *path;
    mg_hf_name hub;
    for (size_t i = 0; i < c->n_donors; i++)
        if (!strcmp(c->donors[i].name, name)) return MG_OK;
    if (strlen(name) >= sizeof c->donors->name)
        return mg_fail(err, MG_ERR_LIMIT, "'%.64s...' is too long a name", name);
    mg_card_donor *all = realloc(c->donors, (c->n_donors + 1) * sizeof *all);
    if (!all) return mg_fail_nomem(err, (c->n_donors + 1) * sizeof *all);
    c->donors = all;
    mg_card_donor *d = &all[c->n_donors++];
    *d = (mg_card_donor){.role = role};
    copy(d->name, sizeof d->name, name);
    mg_error quiet = {0}; /* donors may be elsewhere by now: then nothing is known of them, not even whether "a/b" is a
                             folder or a name of the hub */
    d->found = mg_merge_yaml_resolve(&w->arena, w->dir, name, &path, &quiet) == MG_OK;
    if (!d->found) return MG_OK;
    if (!mg_path_exists(path) && mg_hf_parse_name(&hub, name) && strchr(hub.repo, '/'))
        copy(d->hub, sizeof d->hub, hub.repo);
    return licence_of_path(&d->licence, path, err);
}

/* A model and what adapts it are two donors. */
static mg_status add_model(walk *w, const char *name, const char *role, mg_error *err) {
    const char *plus = strchr(name, '+');
    if (!plus || mg_path_exists(name)) return add_donor(w, name, role, err);
    const char *model = mg_arena_printf(&w->arena, "%.*s", (int)(plus - name), name);
    if (!model) return mg_fail_nomem(err, strlen(name));
    MG_TRY(add_donor(w, model, role, err));
    return add_donor(w, plus + 1, "adapter", err);
}

/* Every model that a recipe names, whatever kind of merge it is. list: the key of the list v is in. */
static mg_status walk_recipe(walk *w, const mg_yaml *v, const char *list, mg_error *err) {
    static const struct {
        const char *key, *list, *role;
    } keys[] = {{"base_model", NULL, "base"},
                {"source_model", "shared_experts", "shared expert"},
                {"source_model", NULL, "expert"},
                {"model", NULL, "model"}};
    const char *inside = v->key ? v->key : list;
    for (size_t i = 0; v->key && i < sizeof keys / sizeof *keys; i++) {
        if (strcmp(v->key, keys[i].key) || (keys[i].list && (!list || strcmp(list, keys[i].list)))) continue;
        const char *name;
        MG_TRY(mg_merge_yaml_model(&w->arena, v, v->key, &name, err));
        return add_model(w, name, keys[i].role, err);
    }
    for (const mg_yaml *k = v->child; k; k = k->next) MG_TRY(walk_recipe(w, k, inside, err));
    return MG_OK;
}

static mg_status read_recipe(mg_card *c, const char *path, mg_error *err) {
    size_t n;
    mg_yaml_doc *doc = NULL;
    walk w = {.c = c};
    mg_arena_init(&w.arena, 0);
    mg_merge_yaml_dir(path, w.dir, sizeof w.dir);
    MG_TRY(mg_file_slurp(path, MAX_RECIPE, &c->recipe, &n, err));
    mg_status st = mg_yaml_parse(&doc, c->recipe, n, path, err);
    if (st == MG_OK) st = walk_recipe(&w, mg_yaml_root(doc), NULL, err);
    if (st == MG_OK && !c->n_donors) st = mg_fail(err, MG_ERR_FORMAT, "names no model");
    if (st != MG_OK) mg_error_at(err, path, NULL);
    mg_yaml_free(doc);
    mg_arena_release(&w.arena);
    return st;
}

/* The one given, a recipe that is PATH itself, or the copy that merge leaves in its result. */
mg_status mg_tool_card_recipe(mg_card *c, const mg_tool_card_args *a, const char *dir, mg_error *err) {
    static const char *const copies[] = {"mergekit_moe_config.yml", "mergekit_config.yml"};
    char path[4096];
    if (a->recipe) return read_recipe(c, a->recipe, err);
    if (mg_tool_is_recipe(a->pos.items[0])) return read_recipe(c, a->pos.items[0], err);
    for (size_t i = 0; dir && i < sizeof copies / sizeof *copies; i++) {
        MG_TRY(mg_path_join(path, sizeof path, dir, copies[i], err));
        if (mg_path_exists(path)) return read_recipe(c, path, err);
    }
    return MG_OK;
}
