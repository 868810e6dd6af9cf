/* tokenizer_scores.c - merges listed by rank as scores of pieces, for formats that know scores only (GGUF's "llama").
 *
 * tokenizer.json lists pairs; SentencePiece knows pieces, and merges any two neighbours that form one. The two agree
 * when (1) the pairs that make a piece stand together in the list, so that their order is an order of pieces, and (2)
 * every split of a piece into two pieces is listed. Lists derived from a SentencePiece model are so; others are
 * refused. */
#include <stdlib.h>

#include "formats/tokenizer_impl.h"

/* Every way to cut token `id` into two pieces must be a listed pair that makes it. */
static mg_status check_splits(const mg_tokenizer *t, int32_t id, mg_error *err) {
    const mg_token *k = &t->tokens[id];
    for (uint32_t at = 1; at < k->len; at++) {
        uint32_t l = mg_strmap_get(&t->pieces, k->text, at), r = mg_strmap_get(&t->pieces, k->text + at, k->len - at);
        if (l == MG_STRMAP_NONE || r == MG_STRMAP_NONE) continue;
        if (t->tokens[l].type != MG_TOKEN_NORMAL || t->tokens[r].type != MG_TOKEN_NORMAL) continue;
        mg_tok_merge pair = {(int32_t)l, (int32_t)r};
        if (mg_strmap_get(&t->pair, (const char *)&pair, sizeof pair) == MG_STRMAP_NONE)
            return mg_fail(err, MG_ERR_UNSUPPORTED,
                           "tokenizer: merges that scores cannot express ('%s' has a split that is not listed)",
                           k->text);
    }
    return MG_OK;
}

static mg_status rank_scores(const mg_tokenizer *t, float *scores, bool *seen, mg_error *err) {
    uint32_t order = 0;
    mg_status s = MG_OK;
    for (uint32_t i = 0; i < t->n_merges && !s; i++) {
        int32_t id = t->merged[i];
        if (i > 0 && t->merged[i - 1] == id) continue;
        if (seen[id])
            return mg_fail(err, MG_ERR_UNSUPPORTED,
                           "tokenizer: merges that scores cannot express (those of '%s' do not stand together)",
                           t->tokens[id].text);
        seen[id] = true;
        scores[id] = -(float)order++;
        s = check_splits(t, id, err);
    }
    for (uint32_t i = 0; i < t->n; i++)
        if (!seen[i]) scores[i] = t->tokens[i].type == MG_TOKEN_NORMAL ? -(float)order++ : 0.0f;
    return s;
}

mg_status mg_tokenizer_scores(const mg_tokenizer *t, float *scores, mg_error *err) {
    if (t->unigram)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "a Unigram tokenizer, which no GGUF of this kind of model has");
    if (!t->by_rank) {
        for (uint32_t i = 0; i < t->n; i++) scores[i] = t->tokens[i].score;
        return MG_OK;
    }
    if (!t->byte_fallback)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "tokenizer without byte fallback: scores cannot express it");
    if (t->ignore_merges || t->split_marks)
        return mg_fail(err, MG_ERR_UNSUPPORTED,
                       "tokenizer with ignore_merges or split words: scores cannot express it");
    if (t->utf8_only)
        return mg_fail(err, MG_ERR_UNSUPPORTED,
                       "tokenizer with regular expressions or Unicode normalization: scores cannot express it");
    bool *seen = calloc(t->n, sizeof *seen);
    if (!seen) return mg_fail_nomem(err, t->n);
    mg_status s = rank_scores(t, scores, seen, err);
    free(seen);
    return s;
}

bool mg_tokenizer_adds_blank(const mg_tokenizer *t) {
    bool adds = false;
    for (unsigned i = 0; i < t->n_ops; i++)
        adds |= t->ops[i].kind != MG_TOK_REPLACE && t->ops[i].kind < MG_TOK_REPLACE_MATCHES;
    for (unsigned i = 0; i < t->n_pre_ops; i++) adds |= t->pre_ops[i].kind != MG_TOK_REPLACE;
    for (unsigned i = 0; i < t->n_pre; i++)
        adds |= t->pre[i].kind == MG_TOK_PRE_BLANK ||
                (t->pre[i].kind == MG_TOK_PRE_METASPACE && t->pre[i].blank != MG_TOK_REPLACE);
    return adds;
}
