/* vocab_files.c - the tokenizer files of a vocabulary that was made (vocab_union.h): those of one model with tokens
 * appended to tokenizer.json and tokenizer_config.json, in a folder of their own until the result is written. */
#include "convert/vocab_union_impl.h"

#include "convert/convert.h"
#include "convert/gguf_vocab.h"
#include "convert/hf_vocab.h"
#include "formats/base/file.h"
#include "formats/base/outfile.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_SIDE = 256 << 20 };

/* What may be beside a model; the first three are edited when tokens were added. */
static const char *const sides[] = {"tokenizer.json",     "tokenizer_config.json",   "added_tokens.json",
                                    "tokenizer.model",    "special_tokens_map.json", "chat_template.jinja",
                                    "chat_template.json", "generation_config.json",  "README.md"};
enum { N_SIDES = sizeof sides / sizeof *sides, N_EDITED = 3 };

static mg_status write_json(const mg_vocab_union *u, const char *name, const mg_json *v, mg_error *err) {
    char path[4096], *text;
    MG_TRY(mg_path_join(path, sizeof path, u->dir.path, name, err));
    MG_TRY(mg_json_print(&text, v, 2, err));
    const mg_status st = mg_outfile_write_all(path, text, strlen(text), true, err);
    free(text);
    return st;
}

/* The file of the basis under its own name. */
static mg_status link_side(const mg_vocab_union *u, const char *dir, const char *name, mg_error *err) {
    char from[4096], to[4096], real[PATH_MAX];
    MG_TRY(mg_path_join(from, sizeof from, dir, name, err));
    if (!mg_path_exists(from)) return MG_OK;
    MG_TRY(mg_path_join(to, sizeof to, u->dir.path, name, err));
    if (realpath(from, real) && symlink(real, to) == 0) return MG_OK;
    return mg_fail(err, MG_ERR_IO, "cannot link '%s' to '%s'", to, from);
}

/* ---- what is edited ---- */

/* How the model that brought a token finds it in text; what its files do not say is false. */
static void copy_flags(mg_json *o, const mg_json *theirs) {
    static const char *const flags[] = {"single_word", "lstrip", "rstrip"};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        bool v = false;
        if (!mg_json_bool(mg_json_get(theirs, flags[i]), &v)) v = false;
        mg_json_add(o, flags[i], mg_json_new_bool(v));
    }
}

static const mg_json *content_of(const mg_json *added, const char *text) {
    const mg_json *e = mg_json_first(added);
    while (e && (!mg_json_str(mg_json_get(e, "content")) || strcmp(mg_json_str(mg_json_get(e, "content")), text) != 0))
        e = mg_json_next(e);
    return e;
}

/* Entry of an added token: of a word of another vocabulary as mergekit's add_tokens(text) makes it. */
static mg_json *entry(const mg_vocab_token *t, const mg_json *theirs, int64_t id) {
    mg_json *o = mg_json_new_object();
    bool normalized = t->added != MG_ADDED_SPECIAL;
    if (t->added != MG_ADDED_WORD && theirs && !mg_json_bool(mg_json_get(theirs, "normalized"), &normalized))
        normalized = t->added != MG_ADDED_SPECIAL;
    if (id >= 0) mg_json_add(o, "id", mg_json_new_i64(id));
    mg_json_add(o, "content", mg_json_new_str(t->text));
    copy_flags(o, t->added == MG_ADDED_WORD ? NULL : theirs);
    mg_json_add(o, "normalized", mg_json_new_bool(normalized));
    mg_json_add(o, "special", mg_json_new_bool(t->added == MG_ADDED_SPECIAL));
    return o;
}

/* tokenizer.json of a model; NULL when it has none. */
static mg_status load(mg_json **out, const char *dir, const char *name, mg_error *err) {
    char path[4096];
    *out = NULL;
    if (!dir) return MG_OK;
    MG_TRY(mg_path_join(path, sizeof path, dir, name, err));
    return mg_path_exists(path) ? mg_json_load(out, path, MAX_SIDE, err) : MG_OK;
}

/* What the first model that has the token says of it, among those whose tokenizer.json was loaded. */
static const mg_json *theirs_of(const mg_vocab_union *u, mg_json *const *theirs, const mg_vocab_token *t) {
    for (uint32_t k = 0; k < u->n_models; k++) {
        const mg_json *e = theirs[k] ? content_of(mg_json_get(theirs[k], "added_tokens"), t->text) : NULL;
        if (e) return e;
    }
    return NULL;
}

static mg_status append(mg_vocab_union *u, mg_json *tokenizer, mg_json *config, mg_json *map, mg_json *const *theirs,
                        mg_error *err) {
    mg_json *added = (mg_json *)(uintptr_t)mg_json_get(tokenizer, "added_tokens");
    if (!added) {
        added = mg_json_new_array();
        mg_json_set(tokenizer, "added_tokens", added);
    }
    mg_json *decoder = mg_json_new_object();
    for (const mg_json *e = mg_json_first(added); e; e = mg_json_next(e)) { /* as save_pretrained lists all of them */
        char key[24];
        int64_t id;
        mg_json *copy;
        if (!mg_json_i64(mg_json_get(e, "id"), &id)) continue;
        MG_TRY(mg_json_dup(&copy, e, err));
        mg_json_remove(copy, "id");
        snprintf(key, sizeof key, "%lld", (long long)id);
        mg_json_add(decoder, key, copy);
    }
    for (uint32_t i = u->n_basis; i < u->n; i++) {
        const mg_vocab_token *t = &u->tokens[i];
        const mg_json *flags = theirs_of(u, theirs, t);
        char key[24];
        snprintf(key, sizeof key, "%u", i);
        mg_json_push(added, entry(t, flags, i));
        mg_json_add(decoder, key, entry(t, flags, -1));
        if (map) mg_json_set_u64(map, t->text, i);
    }
    mg_json_set(config, "added_tokens_decoder", decoder);
    return MG_OK;
}

/* tokenizer.json and tokenizer_config.json of the basis: its own, or made of its other files or of a GGUF's keys. */
static mg_status load_basis(const mg_vocab_union *u, mg_json **tokenizer, mg_json **config, mg_error *err) {
    const mg_donor *d = u->models[u->basis].donor;
    mg_kvs kv;
    bool had = true;
    mg_json *made = NULL;
    if (d->ckpt->kv) return mg_hf_vocab_make(tokenizer, config, d->ckpt->kv, err);
    MG_TRY(load(tokenizer, d->ckpt->dir, "tokenizer.json", err));
    mg_status st = load(config, d->ckpt->dir, "tokenizer_config.json", err);
    if (st == MG_OK && !*tokenizer) {
        mg_kvs_init(&kv);
        st = mg_gguf_vocab_append(&kv, d->ckpt->dir, 0, &had, err);
        if (st == MG_OK) st = mg_hf_vocab_make(tokenizer, &made, &kv, err);
        mg_kvs_release(&kv);
        if (*config)
            mg_json_free(made);
        else
            *config = made;
    }
    if (st == MG_OK && !*config) *config = mg_json_new_object();
    if (st == MG_OK && !*tokenizer) st = mg_fail(err, MG_ERR_INTERNAL, "'%s' has lost its tokenizer", d->name);
    return st;
}

static mg_status write_edited(mg_vocab_union *u, mg_error *err) {
    const char *dir = u->models[u->basis].donor->ckpt->dir;
    mg_json *tokenizer = NULL, *config = NULL, *map = NULL;
    mg_json **theirs = calloc(u->n_models, sizeof *theirs);
    mg_status st = theirs ? load_basis(u, &tokenizer, &config, err) : mg_fail_nomem(err, u->n_models * sizeof *theirs);
    if (st == MG_OK && !u->models[u->basis].donor->ckpt->kv) st = load(&map, dir, "added_tokens.json", err);
    for (uint32_t k = 0; st == MG_OK && k < u->n_models; k++)
        if (!u->models[k].donor->ckpt->kv) st = load(&theirs[k], u->models[k].donor->ckpt->dir, "tokenizer.json", err);
    if (st == MG_OK) st = append(u, tokenizer, config, map, theirs, err);
    if (st == MG_OK) st = write_json(u, sides[0], tokenizer, err);
    if (st == MG_OK) st = write_json(u, sides[1], config, err);
    if (st == MG_OK && map) st = write_json(u, sides[2], map, err);
    for (uint32_t k = 0; theirs && k < u->n_models; k++) mg_json_free(theirs[k]);
    free(theirs);
    mg_json_free(tokenizer);
    mg_json_free(config);
    mg_json_free(map);
    return st;
}

mg_status mg_vocab_union_dir(mg_vocab_union *u, const char **dir, mg_error *err) {
    const mg_donor *d = u->models[u->basis].donor;
    const bool own = !d->ckpt->kv && u->n == u->n_basis; /* nothing new: the files as they are */
    *dir = u->dir.path;
    if (u->dir.path[0]) return MG_OK;
    MG_TRY(mg_tempdir_new(&u->dir, err));
    if (!own) MG_TRY(write_edited(u, err));
    for (size_t i = own ? 0 : N_EDITED; !d->ckpt->kv && i < N_SIDES; i++)
        MG_TRY(link_side(u, d->ckpt->dir, sides[i], err));
    return MG_OK;
}

mg_status mg_vocab_union_add_files(mg_plan *p, uint32_t out, mg_vocab_union *u, mg_error *err) {
    const char *dir;
    MG_TRY(mg_vocab_union_dir(u, &dir, err));
    return mg_convert_copy_sides(p, out, dir, NULL, err);
}
