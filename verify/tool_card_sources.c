/* tool_card_sources.c - see tool_card_sources.h. */
#include "verify/tool_card_sources.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "convert/tool_recipe.h"
#include "formats/base/file.h"
#include "formats/chat.h"
#include "quant/group_checkpoint.h"
#include "quant/preset.h"
#include "verify/tool_model.h"

#define MAX_JSON (256u << 20)

static void copy(char *dst, size_t size, const char *s) {
    snprintf(dst, size, "%s", s ? s : "");
}

static bool ends_with(const char *s, const char *tail) {
    const size_t n = strlen(s), k = strlen(tail);
    return n > k && !strcmp(s + n - k, tail);
}

/* ---- files ---- */

static bool is_float(mg_dtype t) {
    return t == MG_F32 || t == MG_F16 || t == MG_BF16 || t == MG_F64;
}

/* "Q4_K_M" as llama-quantize names it, "AWQ, 4 bits", or the type of most bytes. *quantized: not one of the float
 * types. */
static void type_of(char *out, size_t size, bool *quantized, const mg_checkpoint *c) {
    uint64_t bytes[MG_DTYPE_COUNT] = {0}, file_type;
    mg_dtype most = MG_F32;
    for (uint32_t i = 0; i < c->n_tensors; i++) bytes[c->tensors[i].dtype] += c->tensors[i].n_bytes;
    for (unsigned t = 0; t < MG_DTYPE_COUNT; t++)
        if (bytes[t] > bytes[most]) most = (mg_dtype)t;
    copy(out, size, mg_dtype_get(most)->name);
    *quantized = !is_float(most);
    const char *method = mg_json_str(mg_json_path(c->config, "quantization_config.quant_method"));
    uint64_t bits = 0;
    if (method) {
        *quantized = true;
        if (mg_json_u64(mg_json_path(c->config, "quantization_config.bits"), &bits))
            snprintf(out, size, "%.32s, %llu bits", method, (unsigned long long)bits);
        else
            copy(out, size, method);
    }
    if (!c->kv || !mg_kv_u64(mg_kvs_get(c->kv, "general.file_type"), &file_type)) return;
    for (unsigned i = 0; i < MG_PRESET_COUNT; i++)
        if (mg_preset_get((mg_preset_id)i)->file_type == file_type) {
            copy(out, size, mg_preset_get((mg_preset_id)i)->name);
            return;
        }
}

static const mg_json *manifest_entry(const mg_card *c, const char *name) {
    for (size_t m = 0; m < c->n_manifests; m++)
        for (const mg_json *x = mg_json_first(mg_json_get(c->manifests[m], "files")); x; x = mg_json_next(x))
            if (!strcmp(mg_json_str(mg_json_get(x, "name")), name)) return x;
    return NULL;
}

static mg_status add_file(mg_card *c, const mg_checkpoint *k, const char *name, const char *type, double bpw,
                          mg_error *err) {
    char path[4096];
    struct stat sb;
    uint64_t noted;
    mg_card_file *all = realloc(c->files, (c->n_files + 1) * sizeof *all);
    if (!all) return mg_fail_nomem(err, (c->n_files + 1) * sizeof *all);
    c->files = all;
    mg_card_file *o = &all[c->n_files++];
    *o = (mg_card_file){.bpw = bpw};
    copy(o->name, sizeof o->name, name);
    copy(o->type, sizeof o->type, type);
    MG_TRY(mg_path_join(path, sizeof path, k->dir ? k->dir : ".", name, err));
    if (stat(path, &sb) != 0) return mg_fail_errno(err, "cannot look at '%s'", path);
    o->bytes = (uint64_t)sb.st_size;
    const mg_json *x = manifest_entry(c, name);
    if (!x) return MG_OK;
    if (mg_json_u64(mg_json_get(x, "size"), &noted) && noted != o->bytes)
        return mg_fail(err, MG_ERR_INTEGRITY, "'%s' has %llu bytes, its manifest says %llu", name,
                       (unsigned long long)o->bytes, (unsigned long long)noted);
    copy(o->sha256, sizeof o->sha256, mg_json_str(mg_json_get(x, "sha256")));
    return MG_OK;
}

typedef mg_status (*check_fn)(const mg_json *, mg_error *);

static mg_status load_json(mg_json **out, const char *path, check_fn check, mg_error *err) {
    MG_TRY(mg_json_load(out, path, MAX_JSON, err));
    mg_status st = check(*out, err);
    if (st == MG_OK) return MG_OK;
    mg_error_at(err, path, NULL);
    mg_json_free(*out);
    *out = NULL;
    return st;
}

static mg_status add_json(mg_json ***list, size_t *n, const char *path, check_fn check, mg_error *err) {
    mg_json *v, **all;
    MG_TRY(load_json(&v, path, check, err));
    all = realloc(*list, (*n + 1) * sizeof(mg_json *));
    if (!all) {
        mg_json_free(v);
        return mg_fail_nomem(err, (*n + 1) * sizeof(mg_json *));
    }
    *list = all;
    all[(*n)++] = v;
    return MG_OK;
}

/* Beside a file NAME.manifest.json, of a set named after all parts; in a directory model.manifest.json. */
static mg_status find_manifest(mg_card *c, const mg_checkpoint *k, mg_error *err) {
    char name[1024] = "model", path[4096];
    if (k->container == MG_CONTAINER_GGUF && k->n_files) {
        copy(name, sizeof name, k->files[0]);
        char *part = strstr(name, "-00001-of-");
        if (part && ends_with(name, ".gguf")) strcpy(part, ".gguf");
    }
    if (!k->dir || strlen(name) + sizeof ".manifest.json" > sizeof name) return MG_OK;
    strcat(name, ".manifest.json");
    MG_TRY(mg_path_join(path, sizeof path, k->dir, name, err));
    return mg_path_exists(path) ? add_json(&c->manifests, &c->n_manifests, path, mg_card_check_manifest, err) : MG_OK;
}

/* ---- the result ---- */

static void describe(mg_card *c, const mg_model *m) {
    const mg_counts counts = mg_model_counts(m, 0);
    copy(c->family, sizeof c->family, m->arch->name);
    c->total = counts.total;
    c->active = counts.active;
    c->experts = (uint64_t)mg_hp_i(m, MG_K_EXPERTS);
    c->experts_per_token = (uint64_t)mg_hp_i(m, MG_K_EXPERTS_USED);
}

/* What a question looks like in the model's chat format; nothing when that is not known. */
static void find_prompt(mg_card *c, const mg_checkpoint *k) {
    mg_error quiet = {0};
    char *template = NULL;
    const mg_chat_format *f = NULL;
    mg_tokenizer *tok = NULL;
    mg_chat_message question = {MG_CHAT_USER, "{prompt}"};
    const mg_chat chat = {.messages = &question, .n = 1};
    if (mg_chat_template_model(&template, k, &quiet) == MG_OK && template) {
        c->has_template = true;
        if (mg_chat_choose(&f, template, NULL, &quiet) == MG_OK && mg_tokenizer_open_model(&tok, k, &quiet) == MG_OK &&
            mg_chat_render(&c->prompt, f, &chat, tok, true, &quiet) != MG_OK)
            c->prompt = NULL;
    }
    mg_tokenizer_free(tok);
    free(template);
}

/* Its size, type, hashes and files; of the first one also what it is. */
static mg_status add_result(mg_card *c, const mg_checkpoint *stored, const mg_checkpoint *dense, const mg_model *m,
                            bool first, mg_error *err) {
    uint64_t bytes = 0, weights = 0;
    char type[64];
    bool quantized;
    for (uint32_t i = 0; i < stored->n_tensors; i++) bytes += stored->tensors[i].n_bytes;
    for (uint32_t i = 0; i < dense->n_tensors; i++) weights += dense->tensors[i].n_elements;
    type_of(type, sizeof type, &quantized, stored);
    MG_TRY(find_manifest(c, stored, err));
    if (first) {
        if (m) describe(c, m);
        c->gguf = stored->container == MG_CONTAINER_GGUF;
        c->relation = c->recipe ? "merge" : quantized ? "quantized" : NULL;
        find_prompt(c, stored);
        MG_TRY(mg_licence_of(&c->licence, stored, err));
    }
    for (uint32_t i = 0; stored->container != MG_CONTAINER_PLAN && i < stored->n_files; i++)
        MG_TRY(add_file(c, stored, stored->files[i], type, weights ? 8 * (double)bytes / (double)weights : 0, err));
    return MG_OK;
}

static mg_status open_stored(mg_card *c, const mg_tool_card_args *a, size_t at, mg_error *err) {
    mg_checkpoint *stored, *dense = NULL;
    mg_model *m = NULL;
    mg_error why = {0};
    const char *path = a->pos.items[at];
    MG_TRY(mg_checkpoint_open(&stored, path, err));
    mg_status st =
        at == 0 ? mg_tool_card_recipe(c, a, stored->container == MG_CONTAINER_GGUF ? NULL : stored->dir, err) : MG_OK;
    const bool wrapped = mg_group_checkpoint_wrap(&dense, stored, &why) == MG_OK;
    if (!wrapped) dense = stored;
    if (st == MG_OK && mg_model_open(&m, dense, &why) != MG_OK) m = NULL; /* another family: no counts */
    if (st == MG_OK) st = add_result(c, stored, dense, m, at == 0, err);
    if (st != MG_OK) mg_error_at(err, path, NULL);
    mg_model_free(m);
    mg_checkpoint_free(dense);
    return st;
}

static mg_status open_recipe(mg_card *c, const mg_tool_card_args *a, size_t at, mg_error *err) {
    mg_tool_model t;
    if (at == 0) MG_TRY(mg_tool_card_recipe(c, a, NULL, err));
    MG_TRY(mg_tool_model_open(&t, a->pos.items[at], err));
    mg_status st = add_result(c, t.ckpt, t.ckpt, t.m, at == 0, err);
    mg_tool_model_close(&t);
    return st;
}

/* The name without folders and ending. */
static void name_result(mg_card *c, const mg_tool_card_args *a) {
    const char *path = a->pos.items[0], *end = path + strlen(path);
    while (end > path + 1 && end[-1] == '/') end--;
    const char *begin = end;
    while (begin > path && begin[-1] != '/') begin--;
    snprintf(c->name, sizeof c->name, "%.*s", (int)(end - begin < 500 ? end - begin : 500), begin);
    static const char *const endings[] = {".gguf", ".safetensors", ".yml", ".yaml"};
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        if (ends_with(c->name, endings[i])) c->name[strlen(c->name) - strlen(endings[i])] = 0;
    if (a->name) copy(c->name, sizeof c->name, a->name);
}

/* What the result states counts like a donor: when it was made, somebody said so. */
static mg_status settle(mg_card *c, const mg_tool_card_args *a, mg_error *err) {
    if (a->licence) {
        c->licence = (mg_licence){0};
        copy(c->licence.id, sizeof c->licence.id, a->licence);
        copy(c->licence.name, sizeof c->licence.name, a->licence_name);
        copy(c->licence.link, sizeof c->licence.link, a->licence_link);
        return MG_OK;
    }
    const size_t n = c->n_donors + (c->licence.id[0] != 0);
    mg_card_donor *all = calloc(n + 1, sizeof *all);
    size_t open;
    if (!all) return mg_fail_nomem(err, (n + 1) * sizeof *all);
    if (c->n_donors) memcpy(all, c->donors, c->n_donors * sizeof *all);
    if (n > c->n_donors) {
        copy(all[n - 1].name, sizeof all->name, c->name);
        all[n - 1].licence = c->licence;
    }
    mg_status st = mg_card_settle_licence(&c->licence, &open, all, n, err);
    free(all);
    if (st == MG_OK && open)
        fprintf(stderr,
                "moegraft-card: warning: %zu of %zu models state no licence; --license says what the result has\n",
                open, n);
    return st;
}

mg_status mg_tool_card_gather(mg_card *c, const mg_tool_card_args *a, mg_error *err) {
    name_result(c, a);
    for (size_t i = 0; i < a->manifests.n; i++)
        MG_TRY(add_json(&c->manifests, &c->n_manifests, a->manifests.items[i], mg_card_check_manifest, err));
    for (size_t i = 0; i < a->pos.n; i++)
        MG_TRY(mg_tool_is_recipe(a->pos.items[i]) ? open_recipe(c, a, i, err) : open_stored(c, a, i, err));
    c->bases = a->bases.items;
    c->n_bases = a->bases.n;
    for (size_t i = 0; i < a->verify.n; i++)
        MG_TRY(add_json(&c->drift, &c->n_drift, a->verify.items[i], mg_card_check_drift, err));
    if (a->routing) MG_TRY(load_json(&c->routing, a->routing, mg_card_check_routing, err));
    return settle(c, a, err);
}

void mg_tool_card_release(mg_card *c) {
    for (size_t i = 0; i < c->n_manifests; i++) mg_json_free(c->manifests[i]);
    for (size_t i = 0; i < c->n_drift; i++) mg_json_free(c->drift[i]);
    mg_json_free(c->routing);
    free(c->manifests);
    free(c->drift);
    free(c->donors);
    free(c->files);
    free(c->recipe);
    free(c->prompt);
}
