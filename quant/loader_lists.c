/* loader_lists.c - see loader_lists.h. */
#include "quant/loader_lists.h"

#include <stdio.h>
#include <string.h>

#include "formats/arch/inputs.h"
#include "formats/base/regex.h"
#include "formats/base/text.h"

static bool is_quantized(const mg_list_view *v, const char *name) {
    for (uint32_t i = 0; i < v->layout->n_matrices; i++)
        if (strcmp(v->layout->matrices[i].name, name) == 0) return true;
    return false;
}

/* Is dense weight t one that a loader would make a quantized layer of, if it is not told otherwise? Routers are for
 * those that take every Linear; the others make none of them. */
static bool is_layer(const mg_list_view *v, uint32_t t, mg_list_match how) {
    mg_role role;
    const mg_tensor *x = &v->dense->tensors[t];
    if (x->rank != 2 || !mg_ends_with(x->name, ".weight") || !mg_model_role_of(v->model, t, &role, NULL, NULL))
        return false;
    if (how == MG_LIST_RULES) return mg_role_is_linear(role) || is_quantized(v, x->name);
    return role != MG_R_TOKEN_EMBD && role != MG_R_OUTPUT;
}

/* ---- entries ---- */

static bool selects(const char *entry, const char *module, mg_list_match how) {
    const size_t n = strlen(module), m = strlen(entry);
    if (how == MG_LIST_SUBSTRING) return strstr(module, entry) != NULL;
    if (how == MG_LIST_RULES) return strcmp(module, entry) == 0;
    return strncmp(module, entry, m) == 0 || (mg_ends_with(module, entry) && (n == m || module[n - m - 1] == '.'));
}

/* The expression matches from the beginning of the name, as Python's re.match. */
static mg_status matches(const char *expression, const char *module, mg_regex_run *run, bool *yes, mg_error *err) {
    mg_regex *r;
    size_t begin = 0, end;
    MG_TRY(mg_regex_new(&r, expression, err));
    mg_status st = mg_regex_run_text(run, module, strlen(module), err);
    if (st == MG_OK) st = mg_regex_search(r, run, 0, yes, &begin, &end, err);
    *yes = *yes && begin == 0;
    mg_regex_free(r);
    return st;
}

typedef struct lists {
    const mg_json *names;   /* array of strings, or NULL */
    const mg_json *dynamic; /* object whose keys are rules, or NULL */
    const char *key;
    mg_list_match how;
    mg_regex_run *run;
} lists;

static mg_status is_listed(const lists *l, const char *module, bool *yes, mg_error *err) {
    *yes = false;
    for (const mg_json *e = mg_json_first(l->names); e && !*yes; e = mg_json_next(e)) {
        const char *s = mg_json_str(e);
        if (!s || !*s) continue;
        if (l->how == MG_LIST_RULES && strncmp(s, "re:", 3) == 0)
            MG_TRY(matches(s + 3, module, l->run, yes, err));
        else
            *yes = selects(s, module, l->how);
    }
    for (const mg_json *e = mg_json_first(l->dynamic); e; e = mg_json_next(e)) {
        const char *rule = mg_json_key(e);
        const bool off = strncmp(rule, "-:", 2) == 0;
        bool hit = false;
        MG_TRY(matches(off || strncmp(rule, "+:", 2) == 0 ? rule + 2 : rule, module, l->run, &hit, err));
        if (!hit) continue;
        *yes = off; /* the first that matches decides */
        return MG_OK;
    }
    return MG_OK;
}

/* The list of this kind; false: the model has none. */
static bool list_of(const mg_list_view *v, mg_list_match how, lists *l) {
    const mg_group_method method = v->layout->config.method;
    *l = (lists){.how = how};
    if (how != MG_LIST_RULES) {
        l->key = "modules_to_not_convert";
        l->names = mg_json_get(v->quant, l->key);
        return method == MG_GROUPS_AWQ;
    }
    if (method == MG_GROUPS_CT) l->names = mg_json_get(v->quant, l->key = "ignore");
    if (method == MG_GROUPS_GPTQ) l->dynamic = mg_json_get(v->quant, l->key = "dynamic");
    return l->key != NULL;
}

/* Does the loader find out about weight t by itself? */
static bool is_seen(const mg_list_view *v, const lists *l, uint32_t t) {
    mg_role role;
    if (!v->or_files || v->layout->config.method == MG_GROUPS_CT || mg_json_first(l->names)) return false;
    return mg_model_role_of(v->model, t, &role, NULL, NULL) && role != MG_R_EXPERT_GATE && role != MG_R_EXPERT_UP &&
           role != MG_R_EXPERT_DOWN;
}

static mg_status find_wrong(const mg_list_view *v, const lists *l, const char **tensor, bool *quantized,
                            mg_error *err) {
    for (uint32_t t = 0; t < v->dense->n_tensors; t++) {
        const char *name = v->dense->tensors[t].name;
        char module[1024];
        bool listed;
        if (!is_layer(v, t, l->how)) continue;
        snprintf(module, sizeof module, "%.*s", (int)(strlen(name) - 7), name);
        MG_TRY(is_listed(l, module, &listed, err));
        *quantized = is_quantized(v, name);
        if (*quantized != listed || (!*quantized && is_seen(v, l, t))) continue;
        *tensor = name;
        return MG_OK;
    }
    return MG_OK;
}

bool mg_loader_list_wrong(const mg_list_view *v, mg_list_match how, const char **tensor, bool *quantized, char *text,
                          size_t size) {
    lists l;
    mg_error quiet = {0};
    *tensor = NULL;
    if (!list_of(v, how, &l) || mg_regex_run_new(&l.run, &quiet) != MG_OK) return false;
    const mg_status st = find_wrong(v, &l, tensor, quantized, &quiet);
    mg_regex_run_free(l.run);
    if (st != MG_OK || !*tensor) return false;
    snprintf(text, size, "is %s, and %s %s it", *quantized ? "quantized" : "not quantized", l.key,
             *quantized ? "selects" : "does not select");
    return true;
}
