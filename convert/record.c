/* record.c - see record.h. */
#include "convert/record.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "convert/plan_private.h"
#include "formats/arch/arch_file.h"
#include "formats/base/file.h"

enum { MAX_PIECES = 3 };

typedef struct piece {
    mg_record_kind kind;
    const char *text;
} piece;

/* An option and its value, or a word. */
typedef struct line {
    struct line *next;
    const char *name; /* NULL: a word */
    piece pieces[MAX_PIECES];
    uint32_t n;
} line;

typedef struct name_list {
    struct name_list *next;
    const char *text;
    bool always;
} name_list;

struct mg_record {
    mg_arena arena;
    const char *tool;
    line *lines, **last;
    name_list *named, *stages;
};

mg_status mg_record_new(mg_record **out, const char *tool, mg_error *err) {
    mg_record *r = calloc(1, sizeof *r);
    if (!r) return mg_fail_nomem(err, sizeof *r);
    mg_arena_init(&r->arena, 0);
    r->tool = tool;
    r->last = &r->lines;
    *out = r;
    return MG_OK;
}

void mg_record_free(mg_record *r) {
    if (!r) return;
    mg_arena_release(&r->arena);
    free(r);
}

/* ---- noting ---- */

static mg_status add_line(mg_record *r, const char *name, const piece *pieces, uint32_t n, mg_error *err) {
    line *l;
    MG_TRY(MG_ARENA_NEW(&r->arena, &l, 1, err));
    *l = (line){.name = name, .n = n};
    if (n) memcpy(l->pieces, pieces, n * sizeof *pieces); /* a flag has none */
    *r->last = l;
    r->last = &l->next;
    return MG_OK;
}

mg_status mg_record_word(mg_record *r, mg_record_kind kind, const char *text, mg_error *err) {
    const piece p = {kind, text};
    return add_line(r, NULL, &p, 1, err);
}

static mg_status cut(mg_record *r, const char *text, size_t n, const char **out, mg_error *err) {
    *out = mg_arena_strndup(&r->arena, text, n);
    return *out ? MG_OK : mg_fail_nomem(err, n);
}

mg_status mg_record_output(mg_record *r, const char *path, const char *type, mg_error *err) {
    const piece p[] = {{MG_RECORD_OUTPUT, path}, {MG_RECORD_TEXT, "="}, {MG_RECORD_TEXT, type}};
    return add_line(r, "--output", p, 3, err);
}

static mg_status add_name(mg_record *r, name_list **to, const char *text, bool always, mg_error *err) {
    name_list *n;
    MG_TRY(MG_ARENA_NEW(&r->arena, &n, 1, err));
    *n = (name_list){.text = text, .always = always};
    while (*to) to = &(*to)->next;
    *to = n;
    return MG_OK;
}

mg_status mg_record_named(mg_record *r, const char *path, mg_error *err) {
    return add_name(r, &r->named, path, false, err);
}

mg_status mg_record_stage(mg_record *r, const char *name, bool always, mg_error *err) {
    return add_name(r, &r->stages, name, always, err);
}

/* Options that say how to work or what to print, not what to write; outputs are recorded by mg_record_output. */
static bool is_about_work(const char *name) {
    static const char *const names[] = {"--threads",  "--memory",       "--progress",    "--quiet",   "--verbose",
                                        "--json",     "--dry-run",      "--force",       "--restart", "--manifest",
                                        "--output",   "--reuse",        "--no-manifest", "--rank",    "--world",
                                        "--finalize", "--verify-inputs"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) return true;
    return false;
}

static bool ends_in(const char *text, const char *end) {
    const size_t n = strlen(text), k = strlen(end);
    return n > k && strcasecmp(text + n - k, end) == 0;
}

const char *mg_record_prompts_of(const char *word) {
    const char *colon = strrchr(word, ':');
    return colon && !mg_path_exists(word) && mg_path_exists(colon + 1) ? colon + 1 : NULL;
}

static mg_status add_value(mg_record *r, const char *name, const char *arg, const char *value, mg_error *err) {
    piece p[MAX_PIECES] = {{MG_RECORD_TEXT, value}};
    uint32_t n = 1;
    const char *eq = strchr(value, '='), *prompts = mg_record_prompts_of(value);
    if (strcmp(arg, "FILE") == 0 || strcmp(arg, "CONFIG") == 0 ||
        (strcmp(arg, "MODE") == 0 && ends_in(value, ".safetensors"))) {
        p[0].kind = MG_RECORD_FILE;
    } else if (strcmp(arg, "NAME=FILE") == 0 && eq) {
        MG_TRY(cut(r, value, (size_t)(eq - value) + 1, &p[0].text, err));
        p[n++] = (piece){MG_RECORD_FILE, eq + 1};
    } else if (strcmp(arg, "DONOR[:PROMPTS]") == 0) {
        p[0].kind = MG_RECORD_MODEL;
        if (prompts) {
            MG_TRY(cut(r, value, (size_t)(prompts - value) - 1, &p[0].text, err));
            p[n++] = (piece){MG_RECORD_TEXT, ":"};
            p[n++] = (piece){MG_RECORD_FILE, prompts};
        }
    }
    return add_line(r, name, p, n, err);
}

static mg_status add_row(mg_record *r, const mg_opt *o, const char *name, mg_error *err) {
    const char *text = NULL;
    const mg_opt_list *list = o->out;
    if (o->kind == MG_OPT_FLAG) return *(const bool *)o->out ? add_line(r, name, NULL, 0, err) : MG_OK;
    if (o->kind == MG_OPT_LIST) {
        for (size_t i = 0; i < list->n; i++) MG_TRY(add_value(r, name, o->arg, list->items[i], err));
        return MG_OK;
    }
    if (o->kind == MG_OPT_CALL) {
        for (uint32_t i = 0; (text = mg_arch_loaded(i)); i++) MG_TRY(add_value(r, name, o->arg, text, err));
        return MG_OK;
    }
    if (o->kind == MG_OPT_STR) text = *(const char *const *)o->out;
    if ((o->kind == MG_OPT_U64 || o->kind == MG_OPT_SIZE) && *(const uint64_t *)o->out &&
        *(const uint64_t *)o->out != UINT64_MAX)
        text = mg_arena_printf(&r->arena, "%" PRIu64, *(const uint64_t *)o->out);
    if (o->kind == MG_OPT_F64 && (*(const double *)o->out < 0 || *(const double *)o->out > 0))
        text = mg_arena_printf(&r->arena, "%.17g", *(const double *)o->out);
    return text ? add_value(r, name, o->arg, text, err) : MG_OK;
}

mg_status mg_record_options(mg_record *r, const mg_opt *opts, mg_error *err) {
    for (const mg_opt *o = opts; o->names || o->help; o++) {
        const char *name;
        if (!o->names) continue; /* a heading */
        MG_TRY(cut(r, o->names, strcspn(o->names, ","), &name, err));
        if (!is_about_work(name)) MG_TRY(add_row(r, o, name, err));
    }
    return MG_OK;
}

/* ---- writing ---- */

typedef struct writing {
    const mg_plan *p;
    mg_json *files;
    const char **paths; /* [files] so far */
    uint32_t n;
} writing;

static mg_json *name_of(const char *path) {
    size_t n = strlen(path), b;
    char text[512];
    while (n > 1 && path[n - 1] == '/') n--;
    for (b = n; b > 0 && path[b - 1] != '/';) b--;
    snprintf(text, sizeof text, "%.*s", (int)(n - b < sizeof text ? n - b : sizeof text - 1), path + b);
    return mg_json_new_str(text);
}

/* The number of a file among those recorded; each is read once. */
static mg_status file_number(writing *w, const char *path, const char *named_by, uint32_t *number, mg_error *err) {
    char hex[65];
    mg_file f;
    for (*number = 0; *number < w->n; ++*number)
        if (strcmp(w->paths[*number], path) == 0) return MG_OK;
    MG_TRY(mg_file_open(&f, path, err));
    const uint64_t size = f.size;
    mg_file_close(&f);
    MG_TRY(mg_sha256_file(path, hex, err));
    mg_json *v = mg_json_new_object();
    mg_json_set(v, "name", name_of(path));
    mg_json_set_u64(v, "size", size);
    mg_json_set_str(v, "sha256", hex);
    if (named_by) mg_json_set_str(v, "named_by", named_by);
    mg_json_push(w->files, v);
    w->paths[w->n++] = path;
    return MG_OK;
}

/* null: not among the inputs, because nothing of it is read. */
static mg_json *input_number(const mg_plan *p, const char *path) {
    for (uint32_t i = 0; i < p->n_inputs; i++)
        if (p->inputs[i]->path && strcmp(p->inputs[i]->path, path) == 0) return mg_json_new_u64(i);
    return mg_json_new_null();
}

static mg_status write_piece(writing *w, const piece *p, mg_json *to, mg_error *err) {
    uint32_t number;
    mg_json *v;
    if (p->kind == MG_RECORD_TEXT) {
        mg_json_push(to, mg_json_new_str(p->text));
        return MG_OK;
    }
    if (p->kind == MG_RECORD_FILE) MG_TRY(file_number(w, p->text, NULL, &number, err));
    v = mg_json_new_object();
    if (p->kind == MG_RECORD_FILE) mg_json_set_u64(v, "file", number);
    if (p->kind == MG_RECORD_MODEL) mg_json_set(v, "input", input_number(w->p, p->text));
    if (p->kind == MG_RECORD_OUTPUT) mg_json_set(v, "output", name_of(p->text));
    mg_json_push(to, v);
    return MG_OK;
}

static mg_status write_line(writing *w, const line *l, mg_json *list, mg_error *err) {
    mg_json *v = mg_json_new_array();
    mg_json_push(list, v);
    if (l->name) mg_json_push(v, mg_json_new_str(l->name));
    for (uint32_t i = 0; i < l->n; i++) MG_TRY(write_piece(w, &l->pieces[i], v, err));
    return MG_OK;
}

static mg_status write_record(writing *w, const mg_record *r, mg_json *to, mg_error *err) {
    mg_json *words = mg_json_new_array(), *options = mg_json_new_array(), *stages = mg_json_new_array();
    uint32_t number;
    mg_json_set_i64(to, "version", MG_RECORD_VERSION);
    mg_json_set_str(to, "tool", r->tool);
    mg_json_set(to, "words", words);
    mg_json_set(to, "options", options);
    mg_json_set(to, "files", w->files);
    mg_json_set(to, "stages", stages);
    for (const line *l = r->lines; l; l = l->next) MG_TRY(write_line(w, l, l->name ? options : words, err));
    for (const name_list *n = r->named; n; n = n->next) MG_TRY(file_number(w, n->text, r->tool, &number, err));
    for (const name_list *n = r->stages; n; n = n->next) {
        mg_json *v = mg_json_new_array();
        mg_json_push(v, mg_json_new_str(n->text));
        mg_json_push(v, mg_json_new_str(n->always ? "always" : "named"));
        mg_json_push(stages, v);
    }
    return MG_OK;
}

mg_status mg_plan_set_record(mg_plan *p, const mg_record *r, mg_error *err) {
    uint32_t most = 1;
    for (const line *l = r->lines; l; l = l->next) most += l->n;
    for (const name_list *n = r->named; n; n = n->next) most++;
    mg_json *made = mg_json_new_object();
    writing w = {.p = p, .files = mg_json_new_array(), .paths = calloc(most, sizeof *w.paths)};
    mg_status st = w.paths ? write_record(&w, r, made, err) : mg_fail_nomem(err, most * sizeof *w.paths);
    if (!w.paths) mg_json_free(w.files);
    free(w.paths);
    if (st == MG_OK) st = mg_json_print(&p->made, made, 0, err);
    mg_json_free(made);
    return st;
}
