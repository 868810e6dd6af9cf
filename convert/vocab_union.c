/* vocab_union.c - see vocab_union.h: which tokens there are, and where the rows of each come from. The files are
 * vocab_files.c's. */
#include "convert/vocab_union_impl.h"

#include "convert/expr.h"
#include "formats/arch/arch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- models ---- */

static mg_status open_models(mg_vocab_union *u, mg_donor *d, uint32_t n, mg_error *err) {
    MG_TRY(MG_ARENA_NEW(&u->arena, &u->models, n, err));
    for (uint32_t i = 0; i < n; i++) {
        bool known = false;
        for (uint32_t k = 0; k < u->n_models; k++) known = known || u->models[k].donor->ckpt == d[i].ckpt;
        if (known) continue;
        mg_vocab_model *m = &u->models[u->n_models++];
        *m = (mg_vocab_model){.donor = &d[i], .rows = (uint32_t)mg_hp_i(d[i].model, MG_K_VOCAB)};
        mg_strmap_init(&m->ids);
        MG_TRY(mg_tokenizer_open_model(&m->tok, d[i].ckpt, err));
        if (!m->tok && (u->n_models == 1 || m->rows != u->models[0].rows))
            return mg_fail(err, MG_ERR_CONFLICT, "'%s' has no tokenizer that says which tokens its %u rows are",
                           d[i].name, m->rows);
    }
    for (uint32_t k = 0; k < u->n_models; k++) { /* without a tokenizer: the base's */
        mg_vocab_model *m = &u->models[k];
        const mg_tokenizer *t = m->tok ? m->tok : u->models[0].tok;
        for (uint32_t i = 0; i < mg_tokenizer_size(t) && i < m->rows; i++) {
            const mg_token *x = mg_tokenizer_token(t, (int32_t)i);
            if (x->len && mg_strmap_get(&m->ids, x->text, x->len) == MG_STRMAP_NONE)
                MG_TRY(mg_strmap_put(&m->ids, x->text, x->len, i, NULL, err));
        }
    }
    return MG_OK;
}

static uint32_t model_at(const mg_vocab_union *u, const char *path) {
    uint32_t k = 0;
    while (k < u->n_models && strcmp(u->models[k].donor->path, path) != 0) k++;
    return k;
}

/* ---- tokens ---- */

static mg_status add_token(mg_vocab_union *u, const char *text, uint32_t len, mg_vocab_added kind, mg_error *err) {
    if (mg_strmap_get(&u->ids, text, len) != MG_STRMAP_NONE) return MG_OK;
    if (u->n == u->cap) {
        const uint32_t cap = u->cap ? 2 * u->cap : 65536;
        mg_vocab_token *grown = realloc(u->tokens, cap * sizeof *grown);
        if (!grown) return mg_fail_nomem(err, cap * sizeof *grown);
        u->tokens = grown;
        u->cap = cap;
    }
    char *own = mg_arena_strndup(&u->arena, text, len);
    if (!own) return mg_fail_nomem(err, len);
    u->tokens[u->n] = (mg_vocab_token){.text = own, .len = len, .added = kind, .source = UINT32_MAX};
    return mg_strmap_put(&u->ids, own, len, u->n++, NULL, err);
}

/* The tokenizer that the result's is made of; a number that stands for nothing keeps its place. */
static mg_status take_basis(mg_vocab_union *u, mg_error *err) {
    const mg_vocab_model *m = &u->models[u->basis];
    const uint32_t size = mg_tokenizer_size(m->tok);
    if (size > m->rows)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "the tokenizer of '%s' has %u tokens, the model %u rows",
                       m->donor->name, size, m->rows);
    for (uint32_t i = 0; i < size; i++) {
        const mg_token *x = mg_tokenizer_token(m->tok, (int32_t)i);
        char hole[48];
        const bool twice = !x->len || mg_strmap_get(&u->ids, x->text, x->len) != MG_STRMAP_NONE;
        const int n = snprintf(hole, sizeof hole, "%c%u", 1, i); /* no text of a token */
        MG_TRY(add_token(u, twice ? hole : x->text, twice ? (uint32_t)n : x->len, MG_ADDED_NOT, err));
    }
    u->n_basis = u->n;
    return MG_OK;
}

/* Special and user-defined tokens are not made of merges. */
static bool is_added(const mg_tokenizer *t, uint32_t id, bool *special) {
    bool normalized;
    const mg_token_type type = mg_tokenizer_token(t, (int32_t)id)->type;
    *special = type == MG_TOKEN_CONTROL || type == MG_TOKEN_UNKNOWN;
    return mg_tokenizer_is_added(t, (int32_t)id, special, &normalized) || *special || type == MG_TOKEN_USER_DEFINED;
}

/* mergekit's order: what models have in their vocabularies, model by model, then what was added to them; by number
 * within a model, where mergekit leaves it to a hash table. */
static mg_status unite(mg_vocab_union *u, bool added, mg_error *err) {
    for (uint32_t k = 0; k < u->n_models; k++) {
        const mg_vocab_model *m = &u->models[k];
        for (uint32_t i = 0; m->tok && i < mg_tokenizer_size(m->tok) && i < m->rows; i++) {
            const mg_token *x = mg_tokenizer_token(m->tok, (int32_t)i);
            bool special;
            if (!x->len || is_added(m->tok, i, &special) != added) continue;
            MG_TRY(add_token(u, x->text, x->len,
                             !added    ? MG_ADDED_WORD
                             : special ? MG_ADDED_SPECIAL
                                       : MG_ADDED_USER,
                             err));
        }
    }
    return MG_OK;
}

/* ---- rows ---- */

static uint32_t row_of(const mg_vocab_union *u, uint32_t model, const mg_vocab_token *t) {
    return mg_strmap_get(&u->models[model].ids, t->text, t->len);
}

/* What stands for a token where a model lacks it, when no rule says so. */
static void find_default(mg_vocab_union *u, mg_vocab_token *t) {
    uint32_t have = 0, last = 0;
    for (uint32_t k = 0; k < u->n_models; k++)
        if (row_of(u, k, t) != MG_STRMAP_NONE) {
            have++;
            last = k;
        }
    const uint32_t base = row_of(u, 0, t);
    t->kind = have == 0 ? MG_ROW_ZERO : have == 1 || base != MG_STRMAP_NONE ? MG_ROW_OF : MG_ROW_MEAN;
    t->source = have == 1 ? last : 0;
    t->row = t->kind == MG_ROW_OF ? row_of(u, t->source, t) : 0;
}

static mg_status apply_rule(mg_vocab_union *u, const mg_vocab_rule *r, mg_error *err) {
    mg_vocab_token *t = &u->tokens[mg_strmap_get(&u->ids, r->token, strlen(r->token))];
    t->force = r->force;
    t->kind = r->model ? MG_ROW_OF : MG_ROW_ZERO;
    if (!r->model) return MG_OK;
    t->source = model_at(u, r->model);
    if (t->source == u->n_models)
        return mg_fail(err, MG_ERR_CONFLICT, "line %u: '%s' is none of the models that are merged", r->line, r->model);
    const mg_vocab_model *m = &u->models[t->source];
    const char *of = r->of_token ? r->of_token : r->token;
    t->row = r->of_id >= 0 ? (uint32_t)r->of_id : mg_strmap_get(&m->ids, of, strlen(of));
    if (r->of_id >= (int64_t)m->rows || t->row == MG_STRMAP_NONE)
        return mg_fail(err, MG_ERR_CONFLICT, "line %u: '%s' has no token '%s'", r->line, m->donor->name,
                       r->of_id >= 0 ? "of that number" : of);
    return MG_OK;
}

static mg_status make(mg_vocab_union *u, const mg_vocab_spec *s, mg_donor *d, uint32_t n, mg_error *err) {
    MG_TRY(open_models(u, d, n, err));
    u->basis = s->source ? model_at(u, s->source) : 0;
    if (u->basis == u->n_models || !u->models[u->basis].tok)
        return mg_fail(err, MG_ERR_CONFLICT,
                       "the tokenizer is to be that of '%s', which is none of the models that are merged", s->source);
    MG_TRY(take_basis(u, err));
    if (s->unite) MG_TRY(unite(u, false, err));
    if (s->unite) MG_TRY(unite(u, true, err));
    for (uint32_t i = 0; i < s->n_rules; i++)
        MG_TRY(add_token(u, s->rules[i].token, (uint32_t)strlen(s->rules[i].token), MG_ADDED_WORD, err));
    for (uint32_t i = 0; i < u->n; i++) find_default(u, &u->tokens[i]);
    for (uint32_t i = 0; i < s->n_rules; i++) MG_TRY(apply_rule(u, &s->rules[i], err));
    const uint64_t multiple = s->multiple ? s->multiple : 1;
    u->rows = (u->n + multiple - 1) / multiple * multiple;
    return MG_OK;
}

mg_status mg_vocab_union_make(mg_vocab_union **out, const mg_vocab_spec *s, mg_donor *d, uint32_t n, mg_error *err) {
    mg_vocab_union *u = calloc(1, sizeof *u);
    *out = NULL;
    if (!u) return mg_fail_nomem(err, sizeof *u);
    mg_arena_init(&u->arena, (uint64_t)1 << 30);
    mg_strmap_init(&u->ids);
    mg_status st = make(u, s, d, n, err);
    if (st != MG_OK)
        mg_vocab_union_free(u);
    else
        *out = u;
    return st;
}

void mg_vocab_union_free(mg_vocab_union *u) {
    if (!u) return;
    mg_tempdir_remove(&u->dir);
    for (uint32_t k = 0; k < u->n_models; k++) {
        mg_tokenizer_free(u->models[k].tok);
        mg_strmap_release(&u->models[k].ids);
    }
    mg_strmap_release(&u->ids);
    free(u->tokens);
    mg_arena_release(&u->arena);
    free(u);
}

void mg_vocab_union_text(const mg_vocab_union *u, char *buf, size_t size) {
    uint32_t words = 0;
    for (uint32_t i = u->n_basis; i < u->n; i++) words += u->tokens[i].added == MG_ADDED_WORD;
    snprintf(buf, size,
             "%u tokens of '%s', %u more (%u are words of other vocabularies, found as whole strings only), %llu rows",
             u->n_basis, u->models[u->basis].donor->name, u->n - u->n_basis, words, (unsigned long long)u->rows);
}

void mg_vocab_union_config(const mg_vocab_union *u, mg_json *config, const mg_arch *arch) {
    static const mg_key special[] = {MG_K_BOS, MG_K_EOS, MG_K_PAD};
    const mg_hparams *hp = &u->models[u->basis].donor->model->hp;
    mg_config_set_number(config, arch, MG_K_VOCAB, (int64_t)u->rows);
    for (size_t i = 0; u->basis && i < sizeof special / sizeof *special; i++)
        if (hp->present[special[i]]) mg_config_set_number(config, arch, special[i], hp->i[special[i]]);
}

/* ---- expressions ---- */

/* Where a row of a model's matrix comes from. */
typedef struct place {
    mg_vocab_kind kind;
    uint32_t model, row;
} place;

static place place_of(const mg_vocab_union *u, uint32_t model, uint32_t i) {
    const mg_vocab_token *t = &u->tokens[i];
    const uint32_t own = row_of(u, model, t);
    if (own != MG_STRMAP_NONE && !t->force) return (place){MG_ROW_OF, model, own};
    return (place){t->kind, t->source, t->row};
}

static bool follows(place a, place b) {
    if (a.kind != b.kind || a.kind == MG_ROW_MEAN) return false;
    return a.kind == MG_ROW_ZERO || (a.model == b.model && b.row == a.row + 1);
}

/* Matrices of all models in one type: theirs, where it is the same and no mean is among the rows, else F32. */
static mg_status matrices(mg_plan *p, const mg_vocab_union *u, mg_vocab_rows_fn rows, void *ctx, const mg_expr **all,
                          mg_error *err) {
    bool same = u->rows == u->n;
    for (uint32_t i = 0; i < u->n; i++) same = same && u->tokens[i].kind != MG_ROW_MEAN;
    for (uint32_t k = 0; k < u->n_models; k++) {
        MG_TRY(rows(ctx, u->models[k].donor, &all[k], err));
        same = same && mg_expr_dtype(all[k]) == mg_expr_dtype(all[0]);
    }
    same = same && mg_dtype_is_float(mg_expr_dtype(all[0]));
    for (uint32_t k = 0; !same && k < u->n_models; k++) MG_TRY(mg_expr_cast(p, all[k], MG_F32, NULL, 0, &all[k], err));
    return MG_OK;
}

static mg_status mean_expr(mg_plan *p, const mg_vocab_union *u, uint32_t token, const mg_expr *const *all,
                           const mg_expr **out, mg_error *err) {
    const mg_expr *one[64];
    double factors[64];
    uint32_t n = 0;
    for (uint32_t k = 0; k < u->n_models && n < 64; k++) {
        const uint32_t row = row_of(u, k, &u->tokens[token]);
        mg_view v = {.kind = MG_VIEW_ROWS, .a = row, .b = 1};
        if (row != MG_STRMAP_NONE) MG_TRY(mg_expr_view(p, all[k], &v, &one[n++], err));
    }
    for (uint32_t i = 0; i < n; i++) factors[i] = 1.0 / n;
    return mg_expr_linear(p, one, factors, n, out, err);
}

static mg_status run_expr(mg_plan *p, const mg_vocab_union *u, place at, uint32_t token, uint32_t n,
                          const mg_expr *const *all, const mg_expr **out, mg_error *err) {
    uint64_t shape[MG_MAX_RANK];
    const uint32_t rank = mg_expr_shape(all[0], shape);
    mg_view v = {.kind = MG_VIEW_ROWS, .a = at.row, .b = n};
    if (at.kind == MG_ROW_OF) return mg_expr_view(p, all[at.model], &v, out, err);
    if (at.kind == MG_ROW_MEAN) return mean_expr(p, u, token, all, out, err);
    shape[0] = n;
    return mg_expr_zeros(p, mg_expr_dtype(all[0]), rank, shape, out, err);
}

/* The mean of all rows, in double. */
static mg_status mean_row(const mg_expr *e, float *out, mg_error *err) {
    enum { STEP = 64 };
    const uint64_t cols = e->t.shape[1];
    double *sum = calloc(cols, sizeof *sum);
    float *x = malloc(STEP * cols * sizeof *x);
    mg_eval ev;
    mg_eval_init(&ev);
    mg_status st = sum && x ? MG_OK : mg_fail_nomem(err, cols * STEP * sizeof *x);
    for (uint64_t r = 0, n; st == MG_OK && r < e->rows; r += n) {
        n = e->rows - r < STEP ? e->rows - r : STEP;
        st = mg_expr_eval_f32(e, &ev, r, n, x, err);
        for (uint64_t i = 0; st == MG_OK && i < n * cols; i++) sum[i % cols] += (double)x[i];
    }
    for (uint64_t k = 0; st == MG_OK && k < cols; k++) out[k] = (float)(sum[k] / (double)e->rows);
    mg_eval_release(&ev);
    free(sum);
    free(x);
    return st;
}

static mg_status padded(mg_plan *p, const mg_vocab_union *u, const mg_expr **e, mg_error *err) {
    const uint64_t n = u->rows - u->n, cols = (*e)->t.shape[1], shape[2] = {n, cols};
    const mg_expr *both[2] = {*e, NULL};
    if (n == 0) return MG_OK;
    float *rows = malloc(n * cols * sizeof *rows);
    if (!rows) return mg_fail_nomem(err, n * cols * sizeof *rows);
    mg_status st = mean_row(*e, rows, err);
    for (uint64_t i = 1; st == MG_OK && i < n; i++) memcpy(rows + i * cols, rows, cols * sizeof *rows);
    if (st == MG_OK) st = mg_expr_const(p, MG_F32, 2, shape, rows, &both[1], err);
    if (st == MG_OK) st = mg_expr_cast(p, both[1], mg_expr_dtype(*e), NULL, 0, &both[1], err);
    if (st == MG_OK) st = mg_expr_concat(p, both, 2, e, err);
    free(rows);
    return st;
}

mg_status mg_vocab_union_rows(mg_plan *p, mg_vocab_union *u, const mg_donor *d, mg_vocab_rows_fn rows, void *ctx,
                              const mg_expr **out, mg_error *err) {
    uint32_t model = 0, n = 0;
    while (model < u->n_models && u->models[model].donor->ckpt != d->ckpt) model++;
    if (model == u->n_models) return mg_fail(err, MG_ERR_INTERNAL, "'%s' has no vocabulary", d->name);
    const mg_expr **all = calloc(u->n_models, sizeof *all), **runs = calloc((size_t)u->n + 1, sizeof *runs);
    mg_status st = all && runs ? matrices(p, u, rows, ctx, all, err) : mg_fail_nomem(err, u->n * sizeof *runs);
    if (st == MG_OK && all[model]->t.rank != 2) st = mg_fail(err, MG_ERR_UNSUPPORTED, "an output head with a bias");
    for (uint32_t i = 0, end; st == MG_OK && i < u->n; i = end) {
        const place at = place_of(u, model, i);
        for (end = i + 1; end < u->n && follows(place_of(u, model, end - 1), place_of(u, model, end));) end++;
        st = run_expr(p, u, at, i, end - i, all, &runs[n++], err);
    }
    if (st == MG_OK && n == 1 && runs[0]->rows == all[model]->rows && runs[0]->op == MG_EX_VIEW && runs[0]->view.a == 0)
        *out = all[model]; /* all rows where they were */
    else if (st == MG_OK)
        st = mg_expr_concat(p, runs, n, out, err);
    if (st == MG_OK) st = padded(p, u, out, err);
    free(all);
    free(runs);
    return st;
}
