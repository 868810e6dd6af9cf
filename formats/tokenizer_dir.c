/* tokenizer_dir.c - which tokenizer a Hugging Face directory has, and what its side files say about special tokens. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/base/json.h"
#include "formats/base/text.h"
#include "formats/hf_cache.h"
#include "formats/tokenizer_impl.h"

enum { MAX_TOKENIZER = 256 << 20, MAX_SIDE = 64 << 20 };

static bool has_file(const char *dir, const char *name) {
    char path[4096];
    mg_error ignored = {0};
    return mg_path_join(path, sizeof path, dir, name, &ignored) == MG_OK && mg_path_exists(path);
}

/* NULL when the file is not there. */
static mg_status load_side(mg_json **out, const char *dir, const char *name, mg_error *err) {
    char path[4096];
    *out = NULL;
    if (!has_file(dir, name)) return MG_OK;
    mg_status s = mg_path_join(path, sizeof path, dir, name, err);
    return s ? s : mg_json_load(out, path, MAX_SIDE, err);
}

/* "bos_token": "<s>" or {"content": "<s>", ...}; NULL when absent or null. */
static const char *token_name(const mg_json *v, const char *key) {
    const mg_json *k = mg_json_get(v, key);
    return mg_json_str(k) ? mg_json_str(k) : mg_json_str(mg_json_get(k, "content"));
}

/* The side files name a special token by its text; a name that is no token changes nothing (templates of base models
 * often carry one). */
static void name_special(const mg_tokenizer *t, const mg_json *config, const mg_json *map, const char *key,
                         int32_t *id) {
    const char *name = token_name(config, key);
    if (!name) name = token_name(map, key);
    int32_t found = name ? mg_tokenizer_find(t, name) : -1;
    if (found >= 0) *id = found;
}

static void apply_config(mg_tokenizer *t, const mg_json *config, const mg_json *map) {
    name_special(t, config, map, "bos_token", &t->bos);
    name_special(t, config, map, "eos_token", &t->eos);
    mg_json_bool(mg_json_get(config, "add_bos_token"), &t->add_bos);
    mg_json_bool(mg_json_get(config, "add_eos_token"), &t->add_eos);
    t->add_bos = t->add_bos && t->bos >= 0;
    t->add_eos = t->add_eos && t->eos >= 0;
}

/* Tokens beyond tokenizer.model's own, in order of id: tokenizer_config's added_tokens_decoder {"32000": {"content":
 * ...}}. */
static mg_status append_added(mg_tokenizer *t, const mg_json *config, mg_error *err) {
    const mg_json *list = mg_json_get(config, "added_tokens_decoder");
    size_t n_list = mg_json_len(list);
    mg_token *tokens;
    mg_tok_added *added;
    if (n_list == 0) return MG_OK;
    mg_status s = MG_ARENA_NEW(&t->arena, &tokens, (size_t)t->n + n_list, err);
    if (!s) s = MG_ARENA_NEW(&t->arena, &added, (size_t)t->n_added + n_list, err);
    if (s) return s;
    memcpy(tokens, t->tokens, t->n * sizeof *tokens);
    memcpy(added, t->added, t->n_added * sizeof *added);
    t->tokens = tokens;
    t->added = added;
    for (bool grew = true; grew;) {
        char key[16];
        bool special = false;
        snprintf(key, sizeof key, "%u", t->n);
        const mg_json *v = mg_json_get(list, key);
        const char *content = mg_json_str(mg_json_get(v, "content"));
        grew = content && *content;
        if (!grew) break;
        mg_json_bool(mg_json_get(v, "special"), &special);
        char *copy = mg_arena_strdup(&t->arena, content);
        if (!copy) return mg_fail_nomem(err, strlen(content));
        added[t->n_added] = (mg_tok_added){.id = (int32_t)t->n, .special = special};
        mg_json_bool(mg_json_get(v, "lstrip"), &added[t->n_added].lstrip);
        mg_json_bool(mg_json_get(v, "rstrip"), &added[t->n_added].rstrip);
        t->n_added++;
        tokens[t->n++] =
            (mg_token){copy, (uint32_t)strlen(copy), special ? MG_TOKEN_CONTROL : MG_TOKEN_USER_DEFINED, 0};
    }
    for (const mg_json *v = mg_json_first(list); v; v = mg_json_next(v))
        if (strtoull(mg_json_key(v), NULL, 10) >= t->n)
            return mg_fail(err, MG_ERR_FORMAT, "tokenizer_config.json: added token %s, but no token has id %u",
                           mg_json_key(v), t->n);
    return MG_OK;
}

/* LlamaTokenizer with legacy=false puts the blank before the whole text only, not after every special token. */
static void apply_legacy(mg_tokenizer *t, const mg_json *config) {
    bool legacy = true;
    mg_json_bool(mg_json_get(config, "legacy"), &legacy);
    for (unsigned i = 0; i < t->n_ops && !legacy; i++)
        if (t->ops[i].kind == MG_TOK_PREPEND) t->ops[i].kind = MG_TOK_PREPEND_FIRST;
}

static mg_status read_file(mg_tokenizer *t, const char *path, bool json, const mg_json *config, mg_error *err) {
    if (!json) {
        mg_status s = mg_tokenizer_read_spm(t, path, err);
        if (!s) s = append_added(t, config, err);
        if (!s) apply_legacy(t, config);
        return s;
    }
    char *text;
    size_t n;
    mg_status s = mg_file_slurp(path, MAX_TOKENIZER, &text, &n, err);
    if (s) return s;
    s = mg_tokenizer_read_json(t, text, n, err);
    free(text);
    return s;
}

static mg_status open_file(mg_tokenizer **out, const char *path, bool json, const mg_json *config, mg_error *err) {
    mg_tokenizer *t;
    *out = NULL;
    mg_status s = mg_tokenizer_new(&t, err);
    if (!s) s = read_file(t, path, json, config, err);
    if (!s) s = mg_tokenizer_finish(t, err);
    if (s) {
        mg_error_at(err, path, NULL);
        mg_tokenizer_free(t);
        return s;
    }
    *out = t;
    return MG_OK;
}

mg_status mg_tokenizer_open_json(mg_tokenizer **out, const char *path, mg_error *err) {
    return open_file(out, path, true, NULL, err);
}
mg_status mg_tokenizer_open_spm(mg_tokenizer **out, const char *path, mg_error *err) {
    return open_file(out, path, false, NULL, err);
}

mg_status mg_tokenizer_open_dir(mg_tokenizer **out, const char *dir, mg_error *err) {
    static const char *const others[] = {"tekken.json", "vocab.json", "vocab.txt", "merges.txt"};
    char path[4096];
    mg_json *config = NULL, *map = NULL;
    *out = NULL;
    bool json = has_file(dir, "tokenizer.json");
    if (!json && !has_file(dir, "tokenizer.model")) {
        for (size_t i = 0; i < sizeof others / sizeof *others; i++)
            if (has_file(dir, others[i]))
                return mg_fail(err, MG_ERR_UNSUPPORTED, "tokenizer files of the kind '%s'", others[i]);
        return MG_OK;
    }
    mg_status s = load_side(&config, dir, "tokenizer_config.json", err);
    if (!s) s = load_side(&map, dir, "special_tokens_map.json", err);
    if (!s) s = mg_path_join(path, sizeof path, dir, json ? "tokenizer.json" : "tokenizer.model", err);
    if (!s) s = open_file(out, path, json, config, err);
    if (!s) apply_config(*out, config, map);
    mg_json_free(config);
    mg_json_free(map);
    return s;
}

mg_status mg_tokenizer_open_model(mg_tokenizer **out, const mg_checkpoint *c, mg_error *err) {
    *out = NULL;
    if (c->kv) return mg_tokenizer_open_kv(out, c->kv, c->path, err);
    if (c->vocab) return mg_tokenizer_open_kv(out, c->vocab, c->path, err);
    return c->dir ? mg_tokenizer_open_dir(out, c->dir, err) : MG_OK;
}

mg_status mg_tokenizer_open_path(mg_tokenizer **out, const char *path, mg_error *err) {
    char found[4096];
    bool cached;
    *out = NULL;
    mg_status s = mg_hf_resolve(found, sizeof found, path, &cached, err);
    if (s) {
        mg_error_at(err, path, NULL);
        return s;
    }
    path = found;
    if (mg_path_is_dir(path)) {
        s = mg_tokenizer_open_dir(out, path, err);
    } else if (mg_ends_with(path, ".json")) {
        s = mg_tokenizer_open_json(out, path, err);
    } else if (mg_ends_with(path, ".model")) {
        s = mg_tokenizer_open_spm(out, path, err);
    } else {
        mg_checkpoint *c;
        s = mg_checkpoint_open(&c, path, err);
        if (s) return s;
        s = mg_tokenizer_open_model(out, c, err);
        mg_checkpoint_free(c);
    }
    if (s || *out) return s;
    s = mg_fail(err, MG_ERR_UNSUPPORTED, "no tokenizer there (tokenizer.json, tokenizer.model or tokenizer.ggml keys)");
    mg_error_at(err, path, NULL);
    return s;
}
