/* tool_route_report.c - see tool_route_report.h. Sets of text are found once; every model cuts them with its own
 * tokenizer. */
#include "verify/tool_route_report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/gates_tokens.h"
#include "convert/tool_recipe.h"
#include "formats/base/file.h"
#include "formats/base/outfile.h"
#include "verify/router_report.h"
#include "verify/tool_model.h"

#define MAX_PROMPT_FILE (64u << 20)

typedef struct text_set {
    mg_prompts prompts; /* empty for --text and --tokens, whose windows come first */
} text_set;

typedef struct run {
    const mg_route_report *r;
    mg_merge_spec *spec; /* owner of the recipe's prompts */
    mg_arena arena;
    mg_router_set *sets;
    text_set *texts; /* [n] beside sets */
    uint32_t n, cap;
} run;

/* ---- sets ---- */

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

static mg_status add_set(run *u, const char *name, uint32_t intended, bool negative, const mg_prompts *prompts,
                         mg_error *err) {
    if (u->n == u->cap) {
        const uint32_t cap = u->cap ? 2 * u->cap : 16;
        mg_router_set *sets = realloc(u->sets, cap * sizeof *sets);
        if (sets) u->sets = sets;
        text_set *texts = sets ? realloc(u->texts, cap * sizeof *texts) : NULL;
        if (!texts) return mg_fail_nomem(err, cap * (sizeof *sets + sizeof *texts));
        u->texts = texts;
        u->cap = cap;
    }
    const char *copy = mg_arena_printf(&u->arena, "%s%s", negative ? "not " : "", base_name(name));
    if (!copy) return mg_fail_nomem(err, strlen(name));
    u->sets[u->n] = (mg_router_set){.name = copy, .intended = intended, .negative = negative};
    u->texts[u->n++].prompts = prompts ? *prompts : (mg_prompts){0};
    return MG_OK;
}

static mg_status add_recipe(run *u, const char *path, mg_error *err) {
    MG_TRY(mg_merge_spec_load_prompts(&u->spec, path, err));
    for (uint32_t e = 0; e < u->spec->n_experts; e++) {
        const mg_merge_expert *x = &u->spec->experts[e];
        if (x->positive.n) MG_TRY(add_set(u, x->source, e, false, &x->positive, err));
        if (x->negative.n) MG_TRY(add_set(u, x->source, e, true, &x->negative, err));
    }
    return MG_OK;
}

/* The lines of a file that are not empty, each a prompt. */
static mg_status read_lines(run *u, const char *path, mg_prompts *p, mg_error *err) {
    char *text;
    size_t n;
    MG_TRY(mg_file_slurp(path, MAX_PROMPT_FILE, &text, &n, err));
    const bool binary = memchr(text, 0, n) != NULL;
    char *copy = binary ? NULL : mg_arena_strndup(&u->arena, text, n);
    free(text);
    if (binary) {
        mg_error_at(err, path, NULL);
        return mg_fail(err, MG_ERR_FORMAT, "a NUL byte: this is no text");
    }
    size_t lines = 1;
    for (size_t i = 0; copy && i < n; i++) lines += copy[i] == '\n';
    p->text = mg_arena_alloc(&u->arena, lines, sizeof *p->text);
    if (!copy || !p->text) return mg_fail_nomem(err, n);
    for (char *save = NULL, *line = strtok_r(copy, "\r\n", &save); line; line = strtok_r(NULL, "\r\n", &save))
        p->text[p->n++] = line;
    return p->n ? MG_OK : mg_fail(err, MG_ERR_USAGE, "'%s' holds no text", path);
}

static mg_status add_prompts(run *u, const char *text, mg_error *err) {
    const char *equals = strchr(text, '=');
    const size_t digits = strspn(text, "0123456789");
    uint64_t expert = MG_ROUTER_NOBODY;
    mg_prompts p = {0};
    const bool meant = equals && digits && text + digits == equals;
    if (meant) {
        const char *number = mg_arena_strndup(&u->arena, text, digits);
        if (!number) return mg_fail_nomem(err, digits);
        MG_TRY(mg_parse_u64(number, &expert, err));
        if (expert >= MG_ROUTER_NOBODY) return mg_fail(err, MG_ERR_USAGE, "--set %s: there is no such expert", text);
    }
    const char *path = meant ? equals + 1 : text;
    MG_TRY(read_lines(u, path, &p, err));
    return add_set(u, path, (uint32_t)expert, false, &p, err);
}

static mg_status find_sets(run *u, mg_error *err) {
    const mg_route_report *r = u->r;
    for (size_t i = 0; i < r->c->text.n; i++)
        MG_TRY(add_set(u, r->c->text.items[i], MG_ROUTER_NOBODY, false, NULL, err));
    for (size_t i = 0; i < r->c->tokens.n; i++)
        MG_TRY(add_set(u, r->c->tokens.items[i], MG_ROUTER_NOBODY, false, NULL, err));
    const char *recipe = r->recipe;
    if (!recipe && u->n == 0 && r->sets->n == 0 && mg_tool_is_recipe(r->paths->items[0])) recipe = r->paths->items[0];
    if (recipe) MG_TRY(add_recipe(u, recipe, err));
    for (size_t i = 0; i < r->sets->n; i++) MG_TRY(add_prompts(u, r->sets->items[i], err));
    if (u->n) return MG_OK;
    return mg_fail(err, MG_ERR_USAGE, "no text: give --sets RECIPE, --set EXPERT=FILE, --text or --tokens");
}

/* ---- one model ---- */

typedef struct subject {
    mg_tool_model t;
    mg_tool_pass pass;
    mg_tokenizer *tok;
    mg_windows w;
    uint32_t *set_of;
    bool *special;
    mg_router_stats stats;
} subject;

/* Joined as `gate: fit` joins them, so that routers are judged on what they are fitted to. */
static mg_status add_set_windows(const run *u, subject *s, uint32_t set, mg_error *err) {
    mg_prompt_batch b = {0};
    mg_status st = mg_prompt_batch_add_joined(&b, &u->texts[set].prompts, 0, false, s->t.m, s->tok, err);
    uint64_t at = 0;
    for (uint32_t i = 0; st == MG_OK && i < b.batch.n_seqs; at += b.lens[i++])
        st = mg_windows_add_row(&s->w, b.ids + at, b.lens[i], err);
    mg_prompt_batch_release(&b);
    return st;
}

static mg_status make_windows(const run *u, subject *s, mg_error *err) {
    const mg_common *c = u->r->c;
    const uint64_t files = c->text.n + c->tokens.n;
    uint64_t *end = calloc((size_t)u->n + 1, sizeof *end); /* windows up to the end of each set */
    if (!end) return mg_fail_nomem(err, u->n * sizeof *end);
    mg_status st = MG_OK;
    if (c->tokens.n && files == u->n) /* tokens alone: a tokenizer only tells control tokens */
        st = mg_tokenizer_open_model(&s->tok, s->t.ckpt, err);
    else
        st = mg_tool_model_tokenizer(&s->tok, &s->t, err);
    if (st == MG_OK && files) st = mg_tool_model_windows(&s->w, &s->t, c, err);
    for (uint64_t i = 0; st == MG_OK && i < s->w.n; i++) end[s->w.items[i].source] = i + 1;
    for (uint32_t i = (uint32_t)files; st == MG_OK && i < u->n; i++) {
        st = add_set_windows(u, s, i, err);
        end[i] = s->w.n;
    }
    s->set_of = malloc((s->w.n + 1) * sizeof *s->set_of);
    s->special = calloc(s->w.n_ids + 1, sizeof *s->special);
    if (st == MG_OK && (!s->set_of || !s->special)) st = mg_fail_nomem(err, s->w.n_ids);
    for (uint32_t set = 0, i = 0; st == MG_OK && set < u->n; set++)
        for (; i < end[set]; i++) s->set_of[i] = set;
    for (uint64_t i = 0; st == MG_OK && s->tok && i < s->w.n_ids; i++) {
        const mg_token *t = mg_tokenizer_token(s->tok, s->w.ids[i]);
        s->special[i] = t && t->type == MG_TOKEN_CONTROL;
    }
    free(end);
    return st;
}

static mg_status one_model(const run *u, subject *s, const char *path, mg_json *models, mg_error *err) {
    mg_windows_init(&s->w);
    MG_TRY(mg_tool_model_open(&s->t, path, err));
    MG_TRY(mg_tool_pass_new(&s->pass, u->r->c, err));
    MG_TRY(make_windows(u, s, err));
    mg_progress *progress;
    MG_TRY(mg_progress_new(&progress, u->r->c->progress, "route", s->w.n_ids, err));
    mg_progress_unit(progress, "tokens");
    mg_status st = mg_router_stats_run(&s->stats, s->pass.f, s->t.m, &s->w, s->set_of, u->sets, u->n, s->special,
                                       u->r->c->memory, progress, err);
    mg_progress_free(progress);
    MG_TRY(st);
    mg_json_push(models, mg_router_report_model(path, &s->stats, u->sets));
    return MG_OK;
}

static void subject_release(subject *s) {
    mg_router_stats_release(&s->stats);
    free(s->special);
    free(s->set_of);
    mg_windows_release(&s->w);
    mg_tokenizer_free(s->tok);
    mg_tool_pass_free(&s->pass);
    mg_tool_model_close(&s->t);
}

/* ---- the whole ---- */

static mg_status put_out(const mg_route_report *r, const mg_json *root, mg_error *err) {
    if (r->html) {
        char *page;
        size_t n;
        MG_TRY(mg_router_report_html(&page, &n, root, err));
        mg_status st = mg_outfile_write_all(r->html, page, n, r->c->force, err);
        free(page);
        MG_TRY(st);
    }
    if (r->c->json) return mg_tool_print_json(root, err);
    mg_router_report_text(stdout, root);
    return MG_OK;
}

mg_status mg_tool_route_report(const mg_route_report *r, mg_error *err) {
    run u = {.r = r};
    mg_json *root = mg_json_new_object(), *models = mg_json_new_array();
    mg_arena_init(&u.arena, 0);
    mg_json_set_i64(root, "schema", 1);
    mg_json_set(root, "models", models);
    mg_status st = find_sets(&u, err);
    for (size_t i = 0; st == MG_OK && i < r->paths->n; i++) {
        subject s = {0};
        st = one_model(&u, &s, r->paths->items[i], models, err);
        if (st != MG_OK) mg_error_at(err, r->paths->items[i], NULL);
        subject_release(&s);
    }
    if (st == MG_OK) st = put_out(r, root, err);
    mg_json_free(root);
    mg_merge_spec_free(u.spec);
    mg_arena_release(&u.arena);
    free(u.sets);
    free(u.texts);
    return st;
}
