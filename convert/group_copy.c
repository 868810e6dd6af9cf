/* group_copy.c - see group_copy.h. */
#include "convert/group_copy.h"

#include "convert/quantize_groups.h"
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

/* ---- another weight beside them ---- */

static uint32_t part_of(const mg_checkpoint *stored, const mg_group_matrix *m, const char *suffix) {
    char name[1024];
    const size_t n = strlen(m->name) - strlen(".weight");
    if (snprintf(name, sizeof name, "%.*s%s", (int)n, m->name, suffix) >= (int)sizeof name) return MG_STRMAP_NONE;
    return mg_checkpoint_find(stored, name);
}

static bool same_tensor(const mg_tensor *a, const mg_tensor *b) {
    bool same = a->dtype == b->dtype && a->rank == b->rank;
    for (uint32_t i = 0; same && i < a->rank; i++) same = a->shape[i] == b->shape[i];
    return same;
}

bool mg_group_same_layout(mg_checkpoint *a, uint32_t ta, mg_checkpoint *b, uint32_t tb) {
    const mg_group_matrix *ma = mg_group_checkpoint_matrix(a, ta), *mb = mg_group_checkpoint_matrix(b, tb);
    size_t n;
    mg_error quiet = {0};
    if (!ma || !mb || module_of(ma->name, &n, &quiet) != MG_OK || module_of(mb->name, &n, &quiet) != MG_OK)
        return false;
    if (mg_group_checkpoint_config(a)->method != mg_group_checkpoint_config(b)->method || ma->value != mb->value ||
        ma->codes.bits != mb->codes.bits || ma->codes.per_word != mb->codes.per_word ||
        ma->codes.awq_order != mb->codes.awq_order || ma->zero_fixed != mb->zero_fixed ||
        ma->zero_add != mb->zero_add || ma->group_size != mb->group_size || ma->row_block != mb->row_block)
        return false;
    mg_checkpoint *sa = mg_group_checkpoint_stored(a, ta, &ta), *sb = mg_group_checkpoint_stored(b, tb, &tb);
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        const uint32_t pa = part_of(sa, ma, suffixes[i]), pb = part_of(sb, mb, suffixes[i]);
        if ((pa == MG_STRMAP_NONE) != (pb == MG_STRMAP_NONE)) return false;
        if (pa != MG_STRMAP_NONE && !same_tensor(&sa->tensors[pa], &sb->tensors[pb])) return false;
    }
    return true;
}

/* The format that writes what config says and m is; FORMAT_COUNT: none. */
static mg_group_format format_of(const mg_group_config *c, const mg_group_matrix *m) {
    const bool blocks = m->value == MG_CODE_E4M3 && m->row_block == MG_FP8_BLOCK && m->group_size == MG_FP8_BLOCK;
    switch (c->method) {
    case MG_GROUPS_AWQ:
        return MG_FORMAT_AWQ;
    case MG_GROUPS_GPTQ:
        return c->zero_minus_one ? MG_FORMAT_GPTQ : MG_FORMAT_GPTQ_V2;
    case MG_GROUPS_MLX:
        return m->value == MG_CODE_INT ? MG_FORMAT_MLX : MG_FORMAT_COUNT;
    case MG_GROUPS_FP8:
        return blocks ? MG_FORMAT_FP8_BLOCK : MG_FORMAT_COUNT;
    case MG_GROUPS_CT:
        if (m->value == MG_CODE_INT) return m->codes.word_bytes == 4 ? MG_FORMAT_CT : MG_FORMAT_COUNT;
        if (m->value == MG_CODE_E2M1 && m->scale_dtype == MG_F8_E8M0) return MG_FORMAT_MXFP4A16;
        if (m->value != MG_CODE_E4M3) return MG_FORMAT_COUNT;
        return blocks                                ? MG_FORMAT_FP8_BLOCK
               : m->row_block == 1 && m->groups == 1 ? MG_FORMAT_FP8_DYNAMIC
                                                     : MG_FORMAT_COUNT;
    default:
        return MG_FORMAT_COUNT;
    }
}

/* DeepSeek's FP8 calls its scales otherwise. */
static const char *stored_suffix(const mg_checkpoint *stored, const mg_group_matrix *m, const char *suffix) {
    if (strcmp(suffix, ".weight_scale") == 0 && part_of(stored, m, suffix) == MG_STRMAP_NONE)
        return ".weight_scale_inv";
    return suffix;
}

static mg_status form_like(mg_group_form *f, const mg_group_config *c, const mg_group_matrix *m, mg_error *err) {
    const mg_group_format format = format_of(c, m);
    if (format == MG_FORMAT_COUNT)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "weights stored like '%s' are read, but not made", m->name);
    const bool symmetric = m->zeros.tensor == MG_STRMAP_NONE || c->symmetric;
    const mg_group_scheme s =
        mg_group_format_scheme(format, m->codes.bits, m->group_size == m->cols ? 0 : m->group_size,
                               symmetric && format != MG_FORMAT_MLX, m->scale_dtype);
    return mg_group_form_init(f, format, &s, m->rows, m->cols, err);
}

mg_status mg_group_round_like(mg_plan *p, uint32_t out, mg_checkpoint *view, uint32_t t, const char *name,
                              const mg_expr *w, mg_group_names *names, mg_error *err) {
    const mg_group_matrix *m = mg_group_checkpoint_matrix(view, t);
    const mg_expr *parts[MG_GROUP_MAX_PARTS + 1];
    const char *suffix[MG_GROUP_MAX_PARTS + 1], *companion;
    mg_checkpoint *stored = mg_group_checkpoint_stored(view, t, &t);
    mg_group_form f;
    size_t module = 0;
    MG_TRY(module_of(name, &module, err));
    MG_TRY(form_like(&f, mg_group_checkpoint_config(view), m, err));
    MG_TRY(mg_expr_group_encode(p, w, NULL, &f, parts, err));
    uint32_t n = f.n_parts, have = 0;
    for (uint32_t i = 0; i < n; i++) suffix[i] = stored_suffix(stored, m, f.parts[i].suffix);
    MG_TRY(mg_groups_companion(p, &f, &companion, &parts[n], err));
    if (companion && part_of(stored, m, companion) != MG_STRMAP_NONE) suffix[n++] = companion;
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++)
        have += part_of(stored, m, suffixes[i]) != MG_STRMAP_NONE;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t at = part_of(stored, m, suffix[i]);
        mg_tensor like = {.dtype = mg_expr_dtype(parts[i])};
        like.rank = mg_expr_shape(parts[i], like.shape);
        if (have != n || at == MG_STRMAP_NONE || !same_tensor(&like, &stored->tensors[at]))
            return mg_fail(err, MG_ERR_UNSUPPORTED, "'%s' is stored in parts that %s does not make ('%s')", m->name,
                           mg_group_format_name(f.format), suffix[i]);
        char full[1024];
        if (snprintf(full, sizeof full, "%.*s%s", (int)module, name, suffix[i]) >= (int)sizeof full)
            return mg_fail(err, MG_ERR_LIMIT, "a name is too long");
        MG_TRY(mg_plan_add_tensor(p, out, full, parts[i], err));
    }
    return names ? remember(names, name, module, err) : MG_OK;
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
        if (mg_json_first(e) && *mg_json_key(e)) MG_TRY(check_single(mg_json_key(e), single, err));
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
