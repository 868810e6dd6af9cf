/* tool_model.c - see tool_model.h. */
#include "verify/tool_model.h"

#include "convert/tool_recipe.h"

#include <stdio.h>
#include <stdlib.h>

#include "formats/base/file.h"
#include "quant/group_checkpoint.h"

#define TEXT_CAP (512u << 20)

/* The model that a recipe describes. */
static mg_status open_recipe(mg_tool_model *t, const char *path, mg_error *err) {
    const mg_tool_recipe_options opt = {.run = {.dir = path}}; /* names the output of a plan that is never executed */
    t->recipe = calloc(1, sizeof *t->recipe);
    if (!t->recipe) return mg_fail_nomem(err, sizeof *t->recipe);
    MG_TRY(mg_pool_new(&t->pool, 0, err));
    MG_TRY(mg_tool_recipe_open(t->recipe, path, t->pool, &opt, err));
    return mg_model_open(&t->m, t->recipe->ckpt, err);
}

static uint64_t bytes_of(const mg_checkpoint *c) {
    uint64_t n = 0;
    for (uint32_t i = 0; i < c->n_tensors; i++) n += c->tensors[i].n_bytes;
    return n;
}

/* The weights that a stored checkpoint stands for; what is stored is counted before. */
static mg_status open_stored(mg_tool_model *t, const char *path, mg_error *err) {
    mg_checkpoint *stored;
    MG_TRY(mg_checkpoint_open(&stored, path, err));
    t->stored = bytes_of(stored);
    mg_status st = mg_group_checkpoint_wrap(&t->ckpt, stored, err);
    if (st != MG_OK) mg_checkpoint_free(stored);
    return st == MG_OK ? mg_model_open(&t->m, t->ckpt, err) : st;
}

mg_status mg_tool_model_open(mg_tool_model *t, const char *path, mg_error *err) {
    *t = (mg_tool_model){0};
    mg_status st = MG_OK;
    if (mg_tool_is_recipe(path)) {
        st = open_recipe(t, path, err);
        if (st == MG_OK) t->ckpt = t->recipe->ckpt;
        if (st == MG_OK) t->stored = bytes_of(t->ckpt);
    } else {
        st = open_stored(t, path, err);
    }
    if (st == MG_OK) st = mg_forward_check(t->m, err);
    if (st != MG_OK) {
        mg_error_at(err, path, NULL);
        mg_tool_model_close(t);
    }
    return st;
}

void mg_tool_model_close(mg_tool_model *t) {
    mg_model_free(t->m);
    if (t->recipe)
        mg_tool_recipe_close(t->recipe);
    else
        mg_checkpoint_free(t->ckpt);
    mg_pool_free(t->pool);
    free(t->recipe);
    *t = (mg_tool_model){0};
}

void mg_tool_model_size(const mg_tool_model *t, uint64_t *bytes, uint64_t *n_weights) {
    *bytes = t->stored;
    *n_weights = 0;
    for (uint32_t i = 0; t->ckpt && i < t->ckpt->n_tensors; i++) *n_weights += t->ckpt->tensors[i].n_elements;
}

mg_status mg_tool_pass_new(mg_tool_pass *p, const mg_common *c, mg_error *err) {
    return mg_tool_pass_new_keeping(p, c, 0, err);
}

mg_status mg_tool_pass_new_keeping(mg_tool_pass *p, const mg_common *c, uint64_t keep_bytes, mg_error *err) {
    *p = (mg_tool_pass){0};
    mg_status st = mg_pool_new(&p->pool, c->n_threads, err);
    const mg_forward_options opt = {.experts_per_token = c->experts_per_token, .keep_bytes = keep_bytes};
    if (st == MG_OK) st = mg_forward_new(&p->f, p->pool, &opt, err);
    if (st != MG_OK) mg_tool_pass_free(p);
    return st;
}

void mg_tool_pass_free(mg_tool_pass *p) {
    mg_forward_free(p->f);
    mg_pool_free(p->pool);
    *p = (mg_tool_pass){0};
}

mg_status mg_tool_model_tokenizer(mg_tokenizer **out, const mg_tool_model *t, mg_error *err) {
    MG_TRY(mg_tokenizer_open_model(out, t->ckpt, err));
    if (*out) return MG_OK;
    mg_status st = mg_fail(err, MG_ERR_UNSUPPORTED, "the model has no tokenizer: give token ids instead of text");
    mg_error_at(err, t->ckpt->path, NULL);
    return st;
}

static mg_status add_text(mg_windows *w, const mg_tokenizer *tok, const char *path, uint64_t ctx, mg_error *err) {
    char *text;
    size_t n;
    mg_ids ids = {0};
    MG_TRY(mg_file_slurp(path, TEXT_CAP, &text, &n, err));
    mg_status st = mg_tokenizer_encode(tok, text, n, MG_ENCODE_BOS_EOS, &ids, err);
    const int64_t bos = mg_tokenizer_adds_bos(tok) ? mg_tokenizer_bos(tok) : -1;
    if (st == MG_OK) st = mg_windows_add_text(w, ids.ids, ids.n, ctx, bos, err);
    if (st != MG_OK) mg_error_at(err, path, NULL);
    mg_ids_release(&ids);
    free(text);
    return st;
}

mg_status mg_tool_model_windows(mg_windows *w, const mg_tool_model *t, const mg_common *c, mg_error *err) {
    mg_tokenizer *tok = NULL;
    mg_status st = c->text.n ? mg_tool_model_tokenizer(&tok, t, err) : MG_OK;
    for (size_t i = 0; st == MG_OK && i < c->text.n; i++) st = add_text(w, tok, c->text.items[i], c->ctx, err);
    for (size_t i = 0; st == MG_OK && i < c->tokens.n; i++) st = mg_windows_add_token_file(w, c->tokens.items[i], err);
    mg_tokenizer_free(tok);
    return st;
}

mg_status mg_tool_windows_check(const mg_windows *w, const mg_tool_info *tool, const mg_common *c, mg_error *err) {
    uint64_t n = 0;
    MG_TRY(mg_windows_check_scored(w, err));
    for (uint64_t i = 0; i < w->n; i++) n += mg_window_scored(&w->items[i]) == 0;
    if (n && !c->quiet)
        fprintf(stderr,
                "moegraft-%s: note: %llu of %llu sequences have one token, which nothing predicts: not scored\n",
                tool->name, (unsigned long long)n, (unsigned long long)w->n);
    return MG_OK;
}

mg_status mg_tool_print_json(const mg_json *json, mg_error *err) {
    char *text;
    MG_TRY(mg_json_print(&text, json, 0, err));
    puts(text);
    free(text);
    return MG_OK;
}
