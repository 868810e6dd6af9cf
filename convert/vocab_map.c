/* vocab_map.c - see vocab_map.h. */
#include "convert/vocab_map.h"

#include "formats/base/strmap.h"
#include "formats/tokenizer.h"

#include <stdlib.h>

bool mg_role_is_vocab(mg_role role) {
    return role == MG_R_TOKEN_EMBD || role == MG_R_OUTPUT || role == MG_R_OUTPUT_BIAS;
}

static mg_status put_tokens(mg_strmap *ids, const mg_tokenizer *t, uint32_t rows, mg_error *err) {
    for (uint32_t i = 0; i < mg_tokenizer_size(t) && i < rows; i++) {
        const mg_token *x = mg_tokenizer_token(t, (int32_t)i);
        MG_TRY(mg_strmap_put(ids, x->text, x->len, i, NULL, err));
    }
    return MG_OK;
}

static void find_rows(mg_vocab_map *m, const mg_strmap *ids, const mg_tokenizer *base) {
    for (uint32_t i = 0; i < m->n; i++) {
        m->row[i] = UINT32_MAX;
        if (i >= mg_tokenizer_size(base)) continue;
        const mg_token *x = mg_tokenizer_token(base, (int32_t)i);
        m->row[i] = mg_strmap_get(ids, x->text, x->len);
        m->found += m->row[i] != MG_STRMAP_NONE;
    }
}

/* All tokens where they are in the base, and as many rows. */
static bool is_identity(const mg_vocab_map *m, uint32_t tokens, uint32_t rows) {
    bool same = rows == m->n;
    for (uint32_t i = 0; same && i < m->n && i < tokens; i++) same = m->row[i] == i;
    return same;
}

static mg_status map_tokens(mg_vocab_map *m, const mg_tokenizer *base, const mg_tokenizer *donor, uint32_t rows,
                            mg_error *err) {
    mg_strmap ids;
    mg_strmap_init(&ids);
    m->row = malloc(m->n * sizeof *m->row);
    mg_status st = m->row ? put_tokens(&ids, donor, rows, err) : mg_fail_nomem(err, m->n * sizeof *m->row);
    if (st == MG_OK) find_rows(m, &ids, base);
    mg_strmap_release(&ids);
    return st;
}

mg_status mg_vocab_map_make(mg_vocab_map *out, const mg_model *base, const mg_model *donor, mg_error *err) {
    mg_tokenizer *a = NULL, *b = NULL;
    const uint32_t rows = (uint32_t)mg_hp_i(donor, MG_K_VOCAB);
    *out = (mg_vocab_map){.n = (uint32_t)mg_hp_i(base, MG_K_VOCAB)};
    mg_status st = mg_tokenizer_open_model(&a, base->ckpt, err);
    if (st == MG_OK) st = mg_tokenizer_open_model(&b, donor->ckpt, err);
    if (st == MG_OK && (!a || !b) && rows != out->n)
        st = mg_fail(err, MG_ERR_CONFLICT, "'%s' has %u tokens and '%s' %u, and %s has no tokenizer to tell them apart",
                     base->ckpt->path, out->n, donor->ckpt->path, rows, a ? "the second" : "the first");
    if (st == MG_OK && a && b) {
        st = map_tokens(out, a, b, rows, err);
        if (st == MG_OK && is_identity(out, mg_tokenizer_size(a), rows)) mg_vocab_map_release(out);
    }
    mg_tokenizer_free(a);
    mg_tokenizer_free(b);
    if (st != MG_OK) mg_vocab_map_release(out);
    return st;
}

void mg_vocab_map_release(mg_vocab_map *m) {
    free(m->row);
    *m = (mg_vocab_map){0};
}

/* Where the run that begins at row i ends: rows that follow each other in the donor, or all the base's own. */
static uint32_t end_of_run(const mg_vocab_map *m, uint32_t i) {
    uint32_t end = i + 1;
    while (end < m->n && (m->row[i] == UINT32_MAX ? m->row[end] == UINT32_MAX
                                                  : m->row[end] != UINT32_MAX && m->row[end] == m->row[end - 1] + 1))
        end++;
    return end;
}

mg_status mg_vocab_map_rows(mg_plan *p, const mg_vocab_map *m, const mg_expr *base, const mg_expr *donor,
                            const mg_expr **out, mg_error *err) {
    const mg_expr **runs, *own;
    uint32_t n = 0;
    *out = donor;
    if (!m->row) return MG_OK;
    MG_TRY(mg_expr_cast(p, base, mg_expr_dtype(donor), NULL, 0, &own, err));
    if (!(runs = malloc(m->n * sizeof *runs))) return mg_fail_nomem(err, m->n * sizeof *runs);
    mg_status st = MG_OK;
    for (uint32_t i = 0, end; st == MG_OK && i < m->n; i = end) {
        end = end_of_run(m, i);
        const bool ours = m->row[i] == UINT32_MAX;
        mg_view rows = {.kind = MG_VIEW_ROWS, .a = ours ? i : m->row[i], .b = end - i};
        st = mg_expr_view(p, ours ? own : donor, &rows, &runs[n++], err);
    }
    if (st == MG_OK) st = mg_expr_concat(p, runs, n, out, err);
    free(runs);
    return st;
}
