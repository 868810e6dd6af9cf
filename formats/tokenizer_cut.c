/* tokenizer_cut.c - pre-tokenizers: a text becomes pieces, each step cuts or rewrites the pieces of the one before. The
 * rules are those of the tokenizers library (NormalizedString::split and the five behaviours): a step sees one piece at
 * a time, so look-around ends at its borders, and pieces without text vanish. */
#include <stdlib.h>
#include <string.h>

#include "formats/base/utf8.h"
#include "formats/tokenizer_impl.h"

void mg_tok_cut_release(mg_tok_cut *c) {
    free(c->text.data);
    free(c->other_text.data);
    free(c->pieces.list);
    free(c->other_pieces.list);
    mg_regex_run_free(c->run);
    *c = (mg_tok_cut){0};
}

static mg_status push(mg_tok_pieces *l, size_t begin, size_t end, mg_error *err) {
    if (begin > UINT32_MAX || end > UINT32_MAX)
        return mg_fail(err, MG_ERR_LIMIT, "text of more than 4 GiB while it is cut into words");
    if (l->n == l->cap) {
        size_t cap = l->cap * 2 + 64;
        mg_tok_piece *list = realloc(l->list, cap * sizeof *list);
        if (!list) return mg_fail_nomem(err, cap * sizeof *list);
        l->list = list;
        l->cap = cap;
    }
    l->list[l->n++] = (mg_tok_piece){(uint32_t)begin, (uint32_t)end};
    return MG_OK;
}

/* ---- splitting ---- */

/* One piece being split: what lies at and between the matches arrives in order, empty ones included. */
typedef struct splits {
    mg_tok_pieces *out;
    size_t from; /* out->list[from..) are of this piece */
    mg_tok_behavior behavior;
    bool invert;
    bool was_match; /* of the part before */
} splits;

/* Joined with the last part, or one of its own? */
static bool joins(const splits *s, bool match) {
    if (s->out->n == s->from) return false;
    switch (s->behavior) {
    case MG_TOK_CONTIGUOUS:
        return match == s->was_match;
    case MG_TOK_MERGED_PREVIOUS:
        return match && !s->was_match;
    case MG_TOK_MERGED_NEXT:
        return !match && s->was_match;
    default:
        return false;
    }
}

static mg_status part(splits *s, size_t begin, size_t end, bool match, mg_error *err) {
    mg_status st = MG_OK;
    match ^= s->invert;
    if (joins(s, match))
        s->out->list[s->out->n - 1].end = (uint32_t)end;
    else if (s->behavior != MG_TOK_REMOVED || !match)
        st = push(s->out, begin, end, err);
    s->was_match = match;
    return st;
}

static void drop_empty(splits *s) {
    size_t to = s->from;
    for (size_t i = s->from; i < s->out->n; i++)
        if (s->out->list[i].begin < s->out->list[i].end) s->out->list[to++] = s->out->list[i];
    s->out->n = to;
}

/* The next match at or after *at in text[0..n); as Oniguruma's iterator, an empty one is not taken right behind the one
 * before. */
static mg_status next_match(mg_tok_cut *c, const mg_tok_pre *step, const char *text, size_t n, size_t *at, size_t *last,
                            bool *found, size_t *begin, size_t *end, mg_error *err) {
    if (step->literal) {
        const char *hit = *at <= n ? memmem(text + *at, n - *at, step->literal, strlen(step->literal)) : NULL;
        *found = hit != NULL;
        if (hit) *end = (*begin = (size_t)(hit - text)) + strlen(step->literal);
        if (hit) *at = *end;
        return MG_OK;
    }
    for (*found = false; *at <= n;) {
        mg_status s = mg_regex_search(step->regex, c->run, *at, found, begin, end, err);
        if (s || !*found) return s;
        if (*begin != *end || *end != *last) {
            *at = *last = *end;
            return MG_OK;
        }
        *found = false;
        size_t len = mg_utf8_decode((const uint8_t *)text + *at, n - *at, NULL);
        *at += len ? len : 1;
    }
    return MG_OK;
}

static mg_status split_piece(mg_tok_cut *c, const mg_tok_pre *step, mg_tok_piece k, mg_error *err) {
    const char *text = c->text.data + k.begin;
    size_t n = k.end - k.begin, at = 0, last = SIZE_MAX, done = 0, begin = 0, end = 0;
    splits parts = {&c->other_pieces, c->other_pieces.n, step->behavior, step->invert, false};
    mg_status s = MG_OK;
    if (!step->literal && !c->run) s = mg_regex_run_new(&c->run, err);
    if (!s && !step->literal) s = mg_regex_run_text(c->run, text, n, err);
    while (!s) {
        bool found;
        s = next_match(c, step, text, n, &at, &last, &found, &begin, &end, err);
        if (s || !found) break;
        if (begin > done) s = part(&parts, k.begin + done, k.begin + begin, false, err);
        if (!s) s = part(&parts, k.begin + begin, k.begin + end, true, err);
        done = end;
    }
    if (!s && done < n) s = part(&parts, k.begin + done, k.end, false, err);
    drop_empty(&parts);
    return s;
}

static mg_status split(mg_tok_cut *c, const mg_tok_pre *step, mg_error *err) {
    mg_status s = MG_OK;
    c->other_pieces.n = 0;
    for (size_t i = 0; i < c->pieces.n && !s; i++) s = split_piece(c, step, c->pieces.list[i], err);
    mg_tok_pieces t = c->pieces;
    c->pieces = c->other_pieces;
    c->other_pieces = t;
    return s;
}

/* ---- rewriting ---- */

static mg_status put_alphabet(mg_tok_text *out, const char *bytes, size_t n, mg_error *err) {
    mg_status s = MG_OK;
    for (size_t i = 0; i < n && !s; i++) {
        char ch[4];
        s = mg_tok_put(out, ch, mg_tok_byte_char((uint8_t)bytes[i], ch), err);
    }
    return s;
}

static mg_status put_marks(mg_tok_text *out, const mg_tok_pre *step, const char *text, size_t n, bool first,
                           mg_error *err) {
    static const char mark[] = MG_SPACE_MARK;
    bool has = text[0] == ' ' || (n >= 3 && memcmp(text, mark, 3) == 0);
    bool wants = step->blank == MG_TOK_NOT_TWICE || (step->blank == MG_TOK_NOT_TWICE_FIRST && first);
    mg_status s = wants && !has ? mg_tok_put(out, mark, 3, err) : MG_OK;
    for (size_t i = 0; i < n && !s; i++)
        s = text[i] == ' ' ? mg_tok_put(out, mark, 3, err) : mg_tok_put(out, text + i, 1, err);
    return s;
}

static mg_status rewrite(mg_tok_cut *c, const mg_tok_pre *step, bool first, mg_error *err) {
    mg_status s = MG_OK;
    c->other_text.n = 0;
    for (size_t i = 0; i < c->pieces.n && !s; i++) {
        mg_tok_piece *k = &c->pieces.list[i];
        const char *text = c->text.data + k->begin;
        size_t n = k->end - k->begin, begin = c->other_text.n;
        if (step->kind == MG_TOK_PRE_BYTES) {
            s = put_alphabet(&c->other_text, text, n, err);
        } else if (step->kind == MG_TOK_PRE_METASPACE) {
            s = put_marks(&c->other_text, step, text, n, first && k->begin == 0, err);
        } else {
            if (text[0] != ' ') s = mg_tok_put(&c->other_text, " ", 1, err);
            if (!s) s = mg_tok_put(&c->other_text, text, n, err);
        }
        if (!s && c->other_text.n > UINT32_MAX)
            s = mg_fail(err, MG_ERR_LIMIT, "text of more than 4 GiB while it is cut into words");
        *k = (mg_tok_piece){(uint32_t)begin, (uint32_t)c->other_text.n};
    }
    mg_tok_text t = c->text;
    c->text = c->other_text;
    c->other_text = t;
    return s;
}

/* ---- all steps ---- */

static mg_status start(mg_tok_cut *c, mg_error *err) {
    c->text.n = c->pieces.n = 0;
    return mg_tok_put(&c->text, "", 0, err);
}

mg_status mg_tok_cut_text(mg_tok_cut *c, const mg_tokenizer *t, const char *text, size_t n, bool first, mg_error *err) {
    static const mg_tok_pre at_marks = {
        .kind = MG_TOK_PRE_SPLIT, .literal = MG_SPACE_MARK, .behavior = MG_TOK_MERGED_NEXT};
    mg_status s = start(c, err);
    if (!s) s = mg_tok_put(&c->text, text, n, err);
    if (!s && n) s = push(&c->pieces, 0, n, err);
    for (unsigned i = 0; i < t->n_pre && !s; i++) {
        const mg_tok_pre *step = &t->pre[i];
        s = step->kind == MG_TOK_PRE_SPLIT ? split(c, step, err) : rewrite(c, step, first, err);
        if (!s && step->kind == MG_TOK_PRE_METASPACE && step->split) s = split(c, &at_marks, err);
    }
    return s;
}

mg_status mg_tok_cut_bytes(mg_tok_cut *c, const mg_tokenizer *t, const char *bytes, size_t n, mg_error *err) {
    mg_status s = start(c, err);
    if (!s) s = t->byte_level ? put_alphabet(&c->text, bytes, n, err) : mg_tok_put(&c->text, bytes, n, err);
    return s || c->text.n == 0 ? s : push(&c->pieces, 0, c->text.n, err);
}
