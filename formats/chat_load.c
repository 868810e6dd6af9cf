/* chat_load.c - conversations from JSON, and where a model keeps its chat template. */
#include "formats/chat.h"

#include <stdlib.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/base/text.h"
#include "formats/hf_cache.h"
#include "formats/hf_dir.h"

enum { MAX_CHAT = 64 << 20, MAX_TEMPLATE = 16 << 20 };

/* ---- messages ---- */

static mg_status read_role(const mg_json *v, size_t i, mg_chat_role *role, mg_error *err) {
    static const char *const names[] = {"system", "user", "assistant"};
    const char *s = mg_json_str(v);
    if (!s) return mg_fail(err, MG_ERR_FORMAT, "message %zu has no 'role'", i + 1);
    for (int r = 0; r < 3; r++)
        if (strcmp(s, names[r]) == 0) {
            *role = (mg_chat_role)r;
            return MG_OK;
        }
    return mg_fail(err, MG_ERR_UNSUPPORTED, "message %zu: role '%s', only system, user and assistant are rendered",
                   i + 1, s);
}

static mg_status read_message(const mg_json *v, size_t i, mg_chat_message *m, mg_error *err) {
    if (mg_json_type(v) != MG_JSON_OBJECT) return mg_fail(err, MG_ERR_FORMAT, "message %zu is no object", i + 1);
    MG_TRY(read_role(mg_json_get(v, "role"), i, &m->role, err));
    for (const mg_json *k = mg_json_first(v); k; k = mg_json_next(k))
        if (strcmp(mg_json_key(k), "role") != 0 && strcmp(mg_json_key(k), "content") != 0)
            return mg_fail(err, MG_ERR_UNSUPPORTED, "message %zu: '%s', only role and content are rendered", i + 1,
                           mg_json_key(k));
    const mg_json *content = mg_json_get(v, "content");
    if (!content) return mg_fail(err, MG_ERR_FORMAT, "message %zu has no 'content'", i + 1);
    m->content = mg_json_str(content);
    return m->content
               ? MG_OK
               : mg_fail(err, MG_ERR_UNSUPPORTED, "message %zu: a content that is no text is not rendered", i + 1);
}

static mg_status read_messages(mg_chat *c, mg_error *err) {
    const mg_json *list = mg_json_type(c->json) == MG_JSON_OBJECT ? mg_json_get(c->json, "messages") : c->json;
    if (!list || mg_json_type(list) != MG_JSON_ARRAY || mg_json_len(list) == 0)
        return mg_fail(err, MG_ERR_FORMAT, "expected a list of messages [{\"role\": ..., \"content\": ...}, ...]");
    c->messages = calloc(mg_json_len(list), sizeof *c->messages);
    if (!c->messages) return mg_fail_nomem(err, mg_json_len(list) * sizeof *c->messages);
    for (const mg_json *v = mg_json_first(list); v; v = mg_json_next(v), c->n++)
        MG_TRY(read_message(v, c->n, &c->messages[c->n], err));
    return MG_OK;
}

mg_status mg_chat_load(mg_chat *c, const char *path, mg_error *err) {
    *c = (mg_chat){0};
    mg_status st = mg_json_load(&c->json, path, MAX_CHAT, err);
    if (st == MG_OK) st = read_messages(c, err);
    if (st != MG_OK) mg_error_at(err, path, NULL);
    return st;
}

void mg_chat_release(mg_chat *c) {
    if (c->json) mg_json_free(c->json);
    free(c->messages);
    *c = (mg_chat){0};
}

/* ---- templates ---- */

static mg_status copy(char **text, const char *s, size_t n, mg_error *err) {
    *text = malloc(n + 1);
    if (!*text) return mg_fail_nomem(err, n);
    memcpy(*text, s, n);
    (*text)[n] = 0;
    return MG_OK;
}

/* "chat_template": TEXT, or [{"name": "default", "template": TEXT}, ...]. */
static const char *config_template(const mg_json *config) {
    const mg_json *v = mg_json_get(config, "chat_template");
    if (mg_json_str(v)) return mg_json_str(v);
    for (v = v && mg_json_type(v) == MG_JSON_ARRAY ? mg_json_first(v) : NULL; v; v = mg_json_next(v)) {
        const char *name = mg_json_str(mg_json_get(v, "name"));
        if (name && strcmp(name, "default") == 0) return mg_json_str(mg_json_get(v, "template"));
    }
    return NULL;
}

static mg_status template_dir(char **text, const char *dir, mg_error *err) {
    char path[4096];
    size_t n;
    MG_TRY(mg_hf_check_link(dir, "chat_template.jinja", err));
    MG_TRY(mg_path_join(path, sizeof path, dir, "chat_template.jinja", err));
    if (mg_path_exists(path)) return mg_file_slurp(path, MAX_TEMPLATE, text, &n, err);
    MG_TRY(mg_hf_check_link(dir, "tokenizer_config.json", err));
    MG_TRY(mg_path_join(path, sizeof path, dir, "tokenizer_config.json", err));
    if (!mg_path_exists(path)) return MG_OK;
    mg_json *config;
    MG_TRY(mg_json_load(&config, path, MAX_CHAT, err));
    const char *s = config_template(config);
    mg_status st = s ? copy(text, s, strlen(s), err) : MG_OK;
    mg_json_free(config);
    return st;
}

mg_status mg_chat_template_model(char **text, const mg_checkpoint *c, mg_error *err) {
    mg_str s;
    *text = NULL;
    if (c->kv)
        return mg_kv_str(mg_kvs_get(c->kv, "tokenizer.chat_template"), &s) ? copy(text, s.data, s.size, err) : MG_OK;
    return c->dir ? template_dir(text, c->dir, err) : MG_OK;
}

mg_status mg_chat_template_path(char **text, const char *path, mg_error *err) {
    char found[4096];
    bool cached;
    mg_checkpoint *c;
    *text = NULL;
    MG_TRY(mg_hf_resolve(found, sizeof found, path, &cached, err));
    if (mg_path_is_dir(found)) return template_dir(text, found, err);
    if (mg_ends_with(found, ".json") || mg_ends_with(found, ".model")) {
        char *slash = strrchr(found, '/');
        if (slash) *slash = 0;
        return template_dir(text, !slash ? "." : found[0] ? found : "/", err);
    }
    MG_TRY(mg_checkpoint_open(&c, path, err));
    mg_status st = mg_chat_template_model(text, c, err);
    mg_checkpoint_free(c);
    return st;
}
