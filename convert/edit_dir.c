/* edit_dir.c - see edit_dir.h. */
#include "convert/edit_dir.h"

#include "formats/base/file.h"
#include "formats/base/outfile.h"
#include "formats/base/utf8.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define JSON_CAP (64u << 20)
#define KEY_CAP  512
#define INDENT   2
#define TEMPLATE "chat_template"
#define JINJA    "chat_template.jinja"

static const struct {
    const char *prefix, *file;
} files[MG_EDIT_JSONS] = {
    [MG_EDIT_CONFIG] = {"config.", "config.json"},
    [MG_EDIT_GENERATION] = {"generation_config.", "generation_config.json"},
    [MG_EDIT_TOKENIZER] = {"tokenizer_config.", "tokenizer_config.json"},
};

const char *mg_dir_edit_file(int which) {
    return files[which].file;
}

static mg_status has_file(const mg_dir_edit *e, const char *name, bool *has, mg_error *err) {
    char path[4096];
    MG_TRY(mg_path_join(path, sizeof path, e->dir, name, err));
    *has = mg_path_exists(path);
    return MG_OK;
}

/* The tree of a file, read when first asked for. */
static mg_status open_file(mg_dir_edit *e, int which, mg_json **root, mg_error *err) {
    char path[4096];
    *root = e->files[which].now;
    if (*root) return MG_OK;
    MG_TRY(mg_path_join(path, sizeof path, e->dir, files[which].file, err));
    MG_TRY(mg_json_load(root, path, JSON_CAP, err));
    e->files[which].now = *root;
    if (mg_json_type(*root) != MG_JSON_OBJECT) {
        mg_status st = mg_fail(err, MG_ERR_FORMAT, "is no JSON object");
        mg_error_at(err, path, NULL);
        return st;
    }
    return mg_json_print(&e->files[which].before, *root, INDENT, err);
}

/* Which file a key belongs to, and the key in it. */
static mg_status resolve(const char *key, int *which, const char **member, mg_error *err) {
    *which = MG_EDIT_CONFIG;
    *member = key;
    for (int i = 0; i < MG_EDIT_JSONS; i++) {
        const size_t n = strlen(files[i].prefix);
        if (strncmp(key, files[i].prefix, n) != 0) continue;
        *which = i;
        *member = key + n;
    }
    if (strcmp(key, TEMPLATE) == 0) *which = MG_EDIT_TOKENIZER;
    const size_t n = strlen(*member);
    if (n == 0 || n >= KEY_CAP) return mg_fail(err, MG_ERR_USAGE, "a key of %zu bytes", n);
    return MG_OK;
}

/* The object that holds a dotted member, and the member's last name (into name). */
static mg_status descend(mg_json *root, const char *member, mg_json **holder, char name[KEY_CAP], mg_error *err) {
    const mg_json *at = root;
    snprintf(name, KEY_CAP, "%s", member);
    for (char *dot; !mg_json_get(at, name) && (dot = strchr(name, '.'));) {
        *dot = 0;
        at = mg_json_get(at, name);
        if (!at || mg_json_type(at) != MG_JSON_OBJECT)
            return mg_fail(err, MG_ERR_USAGE, "key '%s': '%s' is no object in the file", member, name);
        memmove(name, dot + 1, strlen(dot + 1) + 1);
    }
    *holder = (mg_json *)(uintptr_t)at; /* part of root, which is ours */
    return MG_OK;
}

static mg_status new_string(const mg_kv_edit *s, mg_json **out, mg_error *err) {
    if (mg_utf8_valid_prefix((const uint8_t *)s->text, s->n) != s->n || strlen(s->text) != s->n)
        return mg_fail(err, MG_ERR_USAGE, "key '%s': the text is not UTF-8, or has NUL bytes", s->key);
    *out = mg_json_new_str(s->text);
    return MG_OK;
}

static bool is_number(mg_jtype t) {
    return t == MG_JSON_INT || t == MG_JSON_REAL;
}

static const char *type_word(mg_jtype t) {
    static const char *const words[] = {"null",  "bool (true or false)", "number", "number", "string", "array",
                                        "object"};
    return words[t];
}

/* A value for member `old`, which may be NULL. */
static mg_status new_value(const mg_kv_edit *s, const mg_json *old, mg_json **out, mg_error *err) {
    const bool open = !old || mg_json_type(old) == MG_JSON_NULL;
    mg_error why = {0};
    double d;
    if (open ? s->from_file : mg_json_type(old) == MG_JSON_STRING) return new_string(s, out, err);
    const bool valid = mg_json_parse(out, (mg_span){(const uint8_t *)s->text, s->n}, s->key, &why) == MG_OK;
    if (open) return valid ? MG_OK : new_string(s, out, err);
    const mg_jtype was = mg_json_type(old), is = valid ? mg_json_type(*out) : MG_JSON_NULL;
    if (valid && was == MG_JSON_REAL && is == MG_JSON_INT && mg_json_f64(*out, &d)) { /* 10000.0 stays a real */
        mg_json_free(*out);
        *out = mg_json_new_f64(d);
    } else if (!valid || (was != is && !(is_number(was) && is_number(is)))) {
        if (valid) mg_json_free(*out);
        return mg_fail(err, MG_ERR_USAGE, "key '%s': '%.100s' is no %s", s->key, s->text, type_word(was));
    }
    return MG_OK;
}

static mg_status set_one(mg_dir_edit *e, const mg_kv_edit *s, mg_error *err) {
    int which;
    const char *member;
    char name[KEY_CAP];
    mg_json *root, *holder, *value;
    bool jinja = false;
    MG_TRY(resolve(s->key, &which, &member, err));
    if (strcmp(s->key, TEMPLATE) == 0) MG_TRY(has_file(e, JINJA, &jinja, err));
    if (jinja) {
        e->template_file = s;
        e->remove_template = false;
        return MG_OK;
    }
    MG_TRY(open_file(e, which, &root, err));
    MG_TRY(descend(root, member, &holder, name, err));
    if (strcmp(s->key, TEMPLATE) == 0)
        MG_TRY(new_string(s, &value, err)); /* a template is text even when it looks like JSON */
    else
        MG_TRY(new_value(s, mg_json_get(holder, name), &value, err));
    mg_json_set(holder, name, value);
    return MG_OK;
}

static mg_status remove_one(mg_dir_edit *e, const char *key, mg_error *err) {
    int which;
    const char *member;
    char name[KEY_CAP];
    mg_json *root, *holder;
    bool jinja = false;
    MG_TRY(resolve(key, &which, &member, err));
    if (strcmp(key, TEMPLATE) == 0) MG_TRY(has_file(e, JINJA, &jinja, err));
    if (jinja) {
        e->remove_template = true;
        return MG_OK;
    }
    MG_TRY(open_file(e, which, &root, err));
    MG_TRY(descend(root, member, &holder, name, err));
    if (!mg_json_get(holder, name))
        return mg_fail(err, MG_ERR_USAGE, "no key '%s' to remove in '%s'", member, files[which].file);
    mg_json_remove(holder, name);
    return MG_OK;
}

mg_status mg_dir_edit_prepare(mg_dir_edit *e, const char *dir, const mg_kv_edit *sets, size_t n_sets,
                              const char *const *removes, size_t n_removes, mg_error *err) {
    bool model;
    *e = (mg_dir_edit){.dir = dir};
    MG_TRY(has_file(e, files[MG_EDIT_CONFIG].file, &model, err));
    if (!model) return mg_fail(err, MG_ERR_USAGE, "'%s' has no config.json: no model directory", dir);
    for (size_t i = 0; i < n_sets; i++)
        for (size_t k = 0; k < i; k++)
            if (strcmp(sets[i].key, sets[k].key) == 0)
                return mg_fail(err, MG_ERR_USAGE, "key '%s': set twice", sets[i].key);
    for (size_t i = 0; i < n_removes; i++) MG_TRY(remove_one(e, removes[i], err));
    for (size_t i = 0; i < n_sets; i++) MG_TRY(set_one(e, &sets[i], err));
    return MG_OK;
}

mg_status mg_dir_edit_changed(const mg_dir_edit *e, int which, bool *changed, mg_error *err) {
    char *text;
    *changed = false;
    if (!e->files[which].now) return MG_OK;
    MG_TRY(mg_json_print(&text, e->files[which].now, INDENT, err));
    *changed = strcmp(text, e->files[which].before) != 0;
    free(text);
    return MG_OK;
}

static mg_status write_json(const mg_dir_edit *e, int which, mg_error *err) {
    char path[4096], *text;
    bool changed;
    MG_TRY(mg_dir_edit_changed(e, which, &changed, err));
    if (!changed) return MG_OK;
    MG_TRY(mg_path_join(path, sizeof path, e->dir, files[which].file, err));
    MG_TRY(mg_json_print(&text, e->files[which].now, INDENT, err));
    const size_t n = strlen(text);
    text[n] = '\n'; /* in place of the NUL: the file has no use for it */
    mg_status st = mg_outfile_write_all(path, text, n + 1, true, err);
    free(text);
    return st;
}

static mg_status write_template(const mg_dir_edit *e, mg_error *err) {
    char path[4096];
    if (!e->template_file && !e->remove_template) return MG_OK;
    MG_TRY(mg_path_join(path, sizeof path, e->dir, JINJA, err));
    if (e->template_file) return mg_outfile_write_all(path, e->template_file->text, e->template_file->n, true, err);
    if (unlink(path) != 0 && errno != ENOENT) return mg_fail_errno(err, "cannot remove '%s'", path);
    return MG_OK;
}

mg_status mg_dir_edit_write(const mg_dir_edit *e, mg_error *err) {
    MG_TRY(write_template(e, err));
    for (int i = MG_EDIT_JSONS - 1; i >= 0; i--) MG_TRY(write_json(e, i, err));
    return MG_OK;
}

void mg_dir_edit_release(mg_dir_edit *e) {
    for (int i = 0; i < MG_EDIT_JSONS; i++) {
        mg_json_free(e->files[i].now);
        free(e->files[i].before);
    }
    *e = (mg_dir_edit){0};
}
