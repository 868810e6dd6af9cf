/* tool_route.c - moegraft-route: which expert took which token, to be read or as JSON. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "formats/arch/arch_file.h"
#include "formats/base/file.h"
#include "formats/base/json.h"
#include "formats/base/outfile.h"
#include "verify/route_html.h"
#include "verify/tool_model.h"
#include "verify/tool_route_report.h"

static const mg_tool_info tool = {
    .name = "route",
    .summary = "which expert took which token",
    .synopsis = "PATH --prompt S | --text F [--layer L] | PATH... --report [--sets RECIPE] [--set E=FILE]...",
    .examples = "  moegraft-route moe4/ --prompt 'And he said, 12 + 30 = 42'\n"
                "  moegraft-route moe4-Q4_K_M.gguf --text notes.txt --layer 2 --json\n"
                "  moegraft-route recipe.yml --text notes.txt --html routes.html      the model it describes, nothing "
                "written\n"
                "  moegraft-route moe4/ moe4-Q2_K.gguf --report --sets moe4.yml --html routers.html\n",
    .next = "moegraft route --help",
};

#define MAX_TEXT (256u << 20)

typedef struct args {
    mg_common c;
    mg_opt_list pos, sets;
    const char *prompt, *layer_text, *html, *recipe;
    uint32_t layer;
    bool report, done;
} args;

/* Options that go together. */
static mg_status check(const args *a, mg_error *err) {
    if (a->html && !a->c.force && mg_path_exists(a->html))
        return mg_fail(err, MG_ERR_USAGE, "'%s' exists (--force replaces it)", a->html);
    if (a->c.ctx < 2) return mg_fail(err, MG_ERR_USAGE, "--ctx needs at least 2 tokens");
    if (a->report) {
        if (a->prompt || a->layer_text)
            return mg_fail(err, MG_ERR_USAGE, "%s has no meaning in a report", a->prompt ? "--prompt" : "--layer");
        return a->pos.n ? MG_OK : mg_fail(err, MG_ERR_USAGE, "a model is needed");
    }
    if (a->recipe || a->sets.n) return mg_fail(err, MG_ERR_USAGE, "%s is for --report", a->recipe ? "--sets" : "--set");
    if (a->pos.n != 1) return mg_fail(err, MG_ERR_USAGE, "one model expected, %zu given", a->pos.n);
    if ((a->prompt != NULL) + (a->c.text.n > 0) + (a->c.tokens.n > 0) == 1) return MG_OK;
    return mg_fail(err, MG_ERR_USAGE, "one of --prompt, --text and --tokens is needed");
}

static mg_status parse(args *a, int argc, char **argv, mg_error *err) {
    const mg_opt opts[] = {
        {"--prompt,-p", MG_OPT_STR, &a->prompt, "S", "the text itself"},
        {"--layer", MG_OPT_STR, &a->layer_text, "L",
         "only this layer, counted from 0 (default: all that have a router)"},
        {"--html", MG_OPT_STR, &a->html, "FILE", "write a self-contained page"},
        {"--force", MG_OPT_FLAG, &a->c.force, NULL, "replace an existing page (it is refused otherwise)"},
        {NULL, MG_OPT_GROUP, NULL, NULL, "Report"},
        {"--report", MG_OPT_FLAG, &a->report, NULL,
         "figures about the routers instead: load, mean weights, entropy, losses, agreement, rows; several models"},
        {"--sets", MG_OPT_STR, &a->recipe, "RECIPE", "its prompts, each set meant for its expert"},
        {"--set", MG_OPT_LIST, &a->sets, "[E=]FILE", "a prompt on each line, meant for expert E"},
        MG_COMMON_TEXT_OPTS(a->c),
        MG_COMMON_MODEL_OPTS(a->c),
        MG_COMMON_EXEC_OPTS(a->c),
        MG_ARCH_OPT,
        MG_COMMON_JSON_OPT(a->c),
        {0}};
    uint64_t layer = 0;
    a->layer = MG_ROUTES_ALL;
    MG_TRY(mg_options_parse(&tool, opts, argc, argv, &a->pos, &a->done, err));
    if (a->done) return MG_OK;
    MG_TRY(mg_common_finish(&a->c, err));
    MG_TRY(check(a, err));
    if (!a->layer_text) return MG_OK;
    MG_TRY(mg_parse_u64(a->layer_text, &layer, err));
    if (layer >= UINT32_MAX) return mg_fail(err, MG_ERR_USAGE, "--layer %s", a->layer_text);
    a->layer = (uint32_t)layer;
    return MG_OK;
}

typedef struct run {
    mg_tool_model t;
    mg_tool_pass pass;
    mg_tokenizer *tok; /* NULL: none */
    mg_windows w;
    bool *special; /* [w.n_ids] control tokens: listed, but neither shown nor counted */
    mg_routes routes;
} run;

/* ---- tokens ---- */

/* Every token of a text is wanted, so unlike the windows of a perplexity nothing is dropped: sequences of at most ctx
 * tokens, each beginning with BOS where the tokenizer adds one. */
static mg_status add_text(run *r, const args *a, const char *text, size_t n, mg_error *err) {
    mg_ids ids = {0};
    int32_t *row = malloc(a->c.ctx < SIZE_MAX / sizeof *row ? a->c.ctx * sizeof *row : 0);
    mg_status st = row ? mg_tokenizer_encode(r->tok, text, n, MG_ENCODE_DEFAULT, &ids, err)
                       : mg_fail(err, MG_ERR_LIMIT, "--ctx %llu", (unsigned long long)a->c.ctx);
    const bool bos = st == MG_OK && mg_tokenizer_adds_bos(r->tok);
    for (size_t at = 0; st == MG_OK && at < ids.n;) {
        uint64_t k = 0;
        if (at > 0 && bos) row[k++] = mg_tokenizer_bos(r->tok);
        while (k < a->c.ctx && at < ids.n) row[k++] = ids.ids[at++];
        st = mg_windows_add_row(&r->w, row, k, err);
    }
    mg_ids_release(&ids);
    free(row);
    return st;
}

static mg_status add_file(run *r, const args *a, const char *path, mg_error *err) {
    char *text;
    size_t n;
    MG_TRY(mg_file_slurp(path, MAX_TEXT, &text, &n, err));
    mg_status st = add_text(r, a, text, n, err);
    if (st != MG_OK) mg_error_at(err, path, NULL);
    free(text);
    return st;
}

static mg_status make_windows(run *r, const args *a, mg_error *err) {
    if (a->c.tokens.n) { /* a tokenizer only helps to show them */
        MG_TRY(mg_tool_model_windows(&r->w, &r->t, &a->c, err));
        MG_TRY(mg_tokenizer_open_model(&r->tok, r->t.ckpt, err));
    } else {
        MG_TRY(mg_tool_model_tokenizer(&r->tok, &r->t, err));
        if (a->prompt) MG_TRY(add_text(r, a, a->prompt, strlen(a->prompt), err));
        for (size_t i = 0; i < a->c.text.n; i++) MG_TRY(add_file(r, a, a->c.text.items[i], err));
    }
    r->special = calloc(r->w.n_ids + 1, sizeof *r->special);
    if (!r->special) return mg_fail_nomem(err, r->w.n_ids);
    for (uint64_t i = 0; r->tok && i < r->w.n_ids; i++) {
        const mg_token *t = mg_tokenizer_token(r->tok, r->w.ids[i]);
        r->special[i] = t && t->type == MG_TOKEN_CONTROL;
    }
    return MG_OK;
}

/* ---- results ---- */

static mg_json *shares_json(const double *share, uint32_t n) {
    mg_json *list = mg_json_new_array();
    for (uint32_t e = 0; e < n; e++) mg_json_push(list, mg_json_new_f64(share[e]));
    return list;
}

static mg_json *tokens_json(const run *r) {
    mg_json *list = mg_json_new_array();
    for (uint64_t i = 0; i < r->w.n_ids; i++) {
        mg_json *o = mg_json_new_object();
        const mg_token *t = r->tok ? mg_tokenizer_token(r->tok, r->w.ids[i]) : NULL;
        mg_json_add(o, "id", mg_json_new_i64(r->w.ids[i]));
        mg_json_add(o, "piece", t ? mg_json_new_str(t->text) : mg_json_new_null());
        mg_json_add(o, "special", mg_json_new_bool(r->special[i]));
        mg_json_push(list, o);
    }
    return list;
}

static mg_json *layer_json(const mg_routes *r, const mg_route_layer *l) {
    mg_json *o = mg_json_new_object(), *experts = mg_json_new_array(), *weights = mg_json_new_array();
    for (uint64_t t = 0; t < r->n; t++) {
        mg_json *e = mg_json_new_array(), *w = mg_json_new_array();
        for (uint32_t j = 0; j < r->k; j++) {
            mg_json_push(e, mg_json_new_i64(l->expert[t * r->k + j]));
            mg_json_push(w, mg_json_new_f64((double)l->weight[t * r->k + j]));
        }
        mg_json_push(experts, e);
        mg_json_push(weights, w);
    }
    mg_json_set_i64(o, "layer", l->layer);
    mg_json_set(o, "experts", experts);
    mg_json_set(o, "weights", weights);
    mg_json_set(o, "load", shares_json(l->load, r->experts));
    mg_json_set(o, "best", shares_json(l->best, r->experts));
    return o;
}

static mg_status print_json(const run *r, const args *a, mg_error *err) {
    const mg_routes *o = &r->routes;
    mg_json *root = mg_json_new_object(), *layers = mg_json_new_array(), *majority = mg_json_new_array();
    char *text;
    mg_json_set_i64(root, "schema", 1);
    mg_json_set_str(root, "path", a->pos.items[0]);
    mg_json_set_i64(root, "experts", o->experts);
    mg_json_set_i64(root, "experts_per_token", o->k);
    mg_json_set_u64(root, "counted", o->counted);
    mg_json_set(root, "tokens", tokens_json(r));
    for (uint32_t i = 0; i < o->n_layers; i++) mg_json_push(layers, layer_json(o, &o->layers[i]));
    mg_json_set(root, "layers", layers);
    for (uint64_t t = 0; t < o->n; t++) mg_json_push(majority, mg_json_new_i64(o->majority[t]));
    mg_json_set(root, "majority", majority);
    mg_json_set(root, "majority_share", shares_json(o->majority_share, o->experts));
    mg_status st = mg_json_print(&text, root, 0, err);
    mg_json_free(root);
    if (st != MG_OK) return st;
    puts(text);
    free(text);
    return MG_OK;
}

static mg_route_view view_of(const run *r) {
    return (mg_route_view){.routes = &r->routes, .windows = &r->w, .tok = r->tok, .hide = r->special};
}

static mg_status write_page(const run *r, const args *a, mg_error *err) {
    const mg_route_view v = view_of(r);
    char *page = NULL;
    size_t n = 0;
    MG_TRY(mg_route_html(&page, &n, &v, a->pos.items[0], err));
    mg_status st = mg_outfile_write_all(a->html, page, n, a->c.force, err);
    free(page);
    return st;
}

static void print_view(const run *r) {
    struct winsize size = {0};
    const char *no_colour = getenv("NO_COLOR");
    const bool terminal = isatty(STDOUT_FILENO);
    mg_route_view v = view_of(r);
    v.colour = terminal && !(no_colour && *no_colour);
    if (terminal && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 40) v.width = size.ws_col;
    mg_route_view_tokens(&v, stdout);
    mg_route_view_loads(&v, stdout);
}

static mg_status work(run *r, const args *a, mg_error *err) {
    MG_TRY(mg_tool_model_open(&r->t, a->pos.items[0], err));
    MG_TRY(mg_tool_pass_new(&r->pass, &a->c, err));
    MG_TRY(make_windows(r, a, err));
    mg_progress *progress;
    MG_TRY(mg_progress_new(&progress, a->c.progress, "route", r->w.n_ids, err));
    mg_progress_unit(progress, "tokens");
    mg_status st =
        mg_routes_run(&r->routes, r->pass.f, r->t.m, &r->w, a->layer, r->special, a->c.memory, progress, err);
    mg_progress_free(progress);
    if (st != MG_OK) {
        mg_error_at(err, a->pos.items[0], NULL);
        return st;
    }
    if (a->html) MG_TRY(write_page(r, a, err));
    if (a->c.json) return print_json(r, a, err);
    print_view(r);
    return MG_OK;
}

int main(int argc, char **argv) {
    args a = {0};
    run r = {0};
    mg_error err = {0};
    mg_interrupt_install();
    mg_common_init(&a.c);
    mg_windows_init(&r.w);
    mg_status st = parse(&a, argc, argv, &err);
    if (st == MG_OK && a.report && !a.done) {
        const mg_route_report report = {
            .c = &a.c, .paths = &a.pos, .recipe = a.recipe, .sets = &a.sets, .html = a.html};
        st = mg_tool_route_report(&report, &err);
    } else if (st == MG_OK && !a.done) {
        st = work(&r, &a, &err);
    }
    mg_routes_release(&r.routes);
    free(r.special);
    mg_windows_release(&r.w);
    mg_tokenizer_free(r.tok);
    mg_tool_pass_free(&r.pass);
    mg_tool_model_close(&r.t);
    mg_opt_list_release(&a.pos);
    mg_opt_list_release(&a.sets);
    mg_common_release(&a.c);
    return st == MG_OK ? 0 : mg_tool_fail(&tool, &err);
}
