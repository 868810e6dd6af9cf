/* group_copy.c - see group_copy.h. */
#include "convert/group_copy.h"

#include "formats/base/file.h"
#include "formats/group_layouts.h"
#include "quant/group_checkpoint.h"

#include <ctype.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- parts ---- */

/* What the layouts of formats/group_layouts call the parts of a weight, and what writers put beside them. */
static const char *const suffixes[] = {".qweight",
                                       ".qzeros",
                                       ".scales",
                                       ".g_idx",
                                       ".weight",
                                       ".biases",
                                       ".weight_scale",
                                       ".weight_scale_inv",
                                       ".weight_packed",
                                       ".weight_shape",
                                       ".weight_g_idx",
                                       ".weight_zero_point",
                                       ".input_scale",
                                       ".output_scale",
                                       ".weight_scale_2",
                                       ".weight_global_scale",
                                       ".input_zero_point",
                                       ".output_zero_point",
                                       ".input_global_scale"};

static mg_status module_of(const char *name, size_t *n, mg_error *err) {
    const size_t len = strlen(name), end = strlen(".weight");
    if (len <= end || strcmp(name + len - end, ".weight") != 0)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "'%s': only matrices of their own can be copied as they are stored",
                       name);
    *n = len - end;
    return MG_OK;
}

void mg_group_names_init(mg_group_names *n) {
    *n = (mg_group_names){0};
    mg_arena_init(&n->arena, 256u << 20);
}

void mg_group_names_release(mg_group_names *n) {
    free(n->quantized);
    mg_arena_release(&n->arena);
    *n = (mg_group_names){0};
}

static mg_status remember(mg_group_names *names, const char *name, size_t n, mg_error *err) {
    if (names->n == names->cap) {
        const size_t cap = names->cap ? 2 * names->cap : 256;
        const char **grown = realloc(names->quantized, cap * sizeof *grown);
        if (!grown) return mg_fail_nomem(err, cap * sizeof *grown);
        names->quantized = grown;
        names->cap = cap;
    }
    char *own = mg_arena_strndup(&names->arena, name, n);
    if (!own) return mg_fail_nomem(err, n);
    names->quantized[names->n++] = own;
    return MG_OK;
}

static mg_status add_part(mg_plan *p, uint32_t out, mg_checkpoint *stored, uint32_t at, const char *name, size_t module,
                          const char *suffix, mg_error *err) {
    char full[1024];
    const mg_expr *e;
    if (snprintf(full, sizeof full, "%.*s%s", (int)module, name, suffix) >= (int)sizeof full)
        return mg_fail(err, MG_ERR_LIMIT, "a name is too long");
    MG_TRY(mg_expr_source(p, stored, at, &e, err));
    return mg_plan_add_tensor(p, out, full, e, err);
}

mg_status mg_group_copy_plain(mg_plan *p, mg_checkpoint *view, uint32_t t, const mg_expr **out, mg_error *err) {
    uint32_t at;
    mg_checkpoint *stored = mg_group_checkpoint_stored(view, t, &at);
    return mg_expr_source(p, stored, at, out, err);
}

mg_status mg_group_copy(mg_plan *p, uint32_t out, mg_checkpoint *view, uint32_t t, const char *name,
                        mg_group_names *names, mg_error *err) {
    const mg_group_matrix *m = mg_group_checkpoint_matrix(view, t);
    uint32_t codes;
    mg_checkpoint *stored = mg_group_checkpoint_stored(view, t, &codes);
    if (!m) {
        const mg_expr *e;
        MG_TRY(mg_expr_source(p, stored, codes, &e, err));
        return mg_plan_add_tensor(p, out, name, e, err);
    }
    size_t from = 0, to = 0;
    char part[1024];
    bool found = false;
    MG_TRY(module_of(m->name, &from, err));
    MG_TRY(module_of(name, &to, err));
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        if (snprintf(part, sizeof part, "%.*s%s", (int)from, m->name, suffixes[i]) >= (int)sizeof part)
            return mg_fail(err, MG_ERR_LIMIT, "a name is too long");
        const uint32_t at = mg_checkpoint_find(stored, part);
        if (at == MG_STRMAP_NONE) continue;
        found = found || at == codes;
        MG_TRY(add_part(p, out, stored, at, name, to, suffixes[i], err));
    }
    if (!found) return mg_fail(err, MG_ERR_INTERNAL, "the codes of '%s' have an unknown suffix", m->name);
    return names ? remember(names, name, to, err) : MG_OK;
}

/* ---- what config.json says ---- */

/* "...experts.3..." */
static bool names_an_expert(const char *entry) {
    for (const char *p = strstr(entry, "experts"); p; p = strstr(p, "experts")) {
        p += strlen("experts");
        const size_t dots = strspn(p, ".\\");
        if (dots && isdigit((unsigned char)p[dots])) return true;
    }
    return false;
}

/* Loaders take entries as substrings, as suffixes or as expressions: one that any of them would find in the name. */
static bool hits(const char *entry, const mg_group_names *names) {
    const bool marked = strncmp(entry, "re:", 3) == 0 || strncmp(entry, "-:", 2) == 0 || strncmp(entry, "+:", 2) == 0;
    const char *text = entry + (strncmp(entry, "re:", 3) == 0 ? 3 : marked ? 2 : 0);
    regex_t re;
    bool found = false;
    const bool usable = marked && regcomp(&re, text, REG_EXTENDED | REG_NOSUB) == 0;
    for (size_t i = 0; i < names->n && !found; i++)
        found = usable ? regexec(&re, names->quantized[i], 0, NULL, 0) == 0 : strstr(names->quantized[i], text) != NULL;
    if (usable) regfree(&re);
    return found;
}

static mg_status check_single(const char *entry, bool single, mg_error *err) {
    if (!single || !names_an_expert(entry)) return MG_OK;
    return mg_fail(err, MG_ERR_UNSUPPORTED,
                   "the quantization of single experts is stated by their numbers ('%.100s'), which would change",
                   entry);
}

/* A list without the entries that would hit; NULL when it is none. */
static mg_status prune_list(mg_json *block, const char *key, const mg_group_names *names, bool single, mg_error *err) {
    const mg_json *list = mg_json_get(block, key);
    if (!list || !mg_json_first(list)) return MG_OK;
    mg_json *left = mg_json_new_array();
    mg_status st = MG_OK;
    for (const mg_json *e = mg_json_first(list); st == MG_OK && e; e = mg_json_next(e)) {
        const char *entry = mg_json_str(e);
        if (!entry) continue;
        st = check_single(entry, single, err);
        if (st == MG_OK && !hits(entry, names)) mg_json_push(left, mg_json_new_str(entry));
    }
    if (st == MG_OK)
        mg_json_set(block, key, left);
    else
        mg_json_free(left);
    return st;
}

/* GPTQModel's rules: "-:EXPRESSION" leaves modules alone. */
static mg_status prune_rules(mg_json *block, const mg_group_names *names, bool single, mg_error *err) {
    const mg_json *rules = mg_json_get(block, "dynamic");
    if (!rules || !mg_json_first(rules)) return MG_OK;
    mg_json *left = mg_json_new_object();
    mg_status st = MG_OK;
    for (const mg_json *r = mg_json_first(rules); st == MG_OK && r; r = mg_json_next(r)) {
        const char *key = mg_json_key(r);
        mg_json *copy;
        st = check_single(key, single, err);
        if (st != MG_OK || (strncmp(key, "-:", 2) == 0 && hits(key, names))) continue;
        st = mg_json_dup(&copy, r, err);
        if (st == MG_OK) mg_json_set(left, key, copy);
    }
    if (st == MG_OK)
        mg_json_set(block, "dynamic", left);
    else
        mg_json_free(left);
    return st;
}

static mg_status prune(mg_json *block, const mg_group_names *names, bool single, mg_error *err) {
    static const char *const lists[] = {"modules_to_not_convert", "ignore", "ignored_layers", "exclude_modules"};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) MG_TRY(prune_list(block, lists[i], names, single, err));
    MG_TRY(prune_rules(block, names, single, err));
    /* MLX: what differs is stated under the module's name */
    for (const mg_json *e = mg_json_first(block); e; e = mg_json_next(e))
        if (mg_json_first(e) && mg_json_key(e)) MG_TRY(check_single(mg_json_key(e), single, err));
    return MG_OK;
}

static mg_status copy_block(mg_json *config, const mg_json *from, const char *key, const mg_group_names *names,
                            bool single, mg_error *err) {
    mg_json *block;
    if (!mg_json_get(from, key)) return MG_OK;
    MG_TRY(mg_json_dup(&block, mg_json_get(from, key), err));
    mg_status st = prune(block, names, single, err);
    if (st == MG_OK)
        mg_json_set(config, key, block);
    else
        mg_json_free(block);
    return st;
}

static mg_status copy_side(mg_plan *p, uint32_t out, const char *dir, const char *name, const mg_group_names *names,
                           bool single, mg_error *err) {
    char path[4096], *text = NULL;
    mg_json *block;
    MG_TRY(mg_path_join(path, sizeof path, dir, name, err));
    if (!mg_path_exists(path)) return MG_OK;
    MG_TRY(mg_json_load(&block, path, 64u << 20, err));
    mg_status st = prune(block, names, single, err);
    if (st == MG_OK) st = mg_json_print(&text, block, 2, err);
    mg_json_free(block);
    MG_TRY(st);
    st = mg_plan_add_side_file(p, out, name, text, strlen(text), err);
    free(text);
    return st;
}

mg_status mg_group_copy_config(mg_plan *p, uint32_t out, const mg_checkpoint *view, mg_json *config,
                               const mg_group_names *names, bool single, mg_error *err) {
    uint32_t at;
    const mg_checkpoint *stored = mg_group_checkpoint_stored((mg_checkpoint *)(uintptr_t)view, 0, &at);
    static const char *const blocks[] = {"quantization_config", "quantization"};
    static const char *const sides[] = {"quant_config.json", "quantize_config.json"};
    for (size_t i = 0; i < 2; i++) MG_TRY(copy_block(config, stored->config, blocks[i], names, single, err));
    for (size_t i = 0; stored->dir && i < 2; i++) MG_TRY(copy_side(p, out, stored->dir, sides[i], names, single, err));
    return MG_OK;
}
