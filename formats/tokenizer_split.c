/* tokenizer_split.c - from raw text to pieces the merge loop may see: added tokens are cut out (leftmost, then
 * longest), what lies between them is normalized, tokens that are looked for in normalized text are cut out of that,
 * and the pre-tokenizer is applied to the rest. The order is that of Hugging Face's
 * AddedVocabulary::extract_and_normalize. */
#include <stdlib.h>
#include <string.h>

#include "formats/base/utf8.h"
#include "formats/tokenizer_impl.h"

mg_status mg_tok_put(mg_tok_text *b, const char *s, size_t n, mg_error *err) {
    if (n >= b->cap - b->n) {
        size_t cap = (b->cap + n) * 2 + 64;
        char *data = realloc(b->data, cap);
        if (!data) return mg_fail_nomem(err, cap);
        b->data = data;
        b->cap = cap;
    }
    if (n) memcpy(b->data + b->n, s, n);
    b->n += n;
    b->data[b->n] = 0;
    return MG_OK;
}

/* ---- normalizing ---- */

static bool begins_with(const mg_tok_text *b, const char *s) {
    size_t n = strlen(s);
    return b->n >= n && memcmp(b->data, s, n) == 0;
}

static mg_status replace(const mg_tok_text *in, const mg_tok_op *op, mg_tok_text *out, mg_error *err) {
    size_t from = strlen(op->from), to = strlen(op->to), at = 0;
    mg_status s = MG_OK;
    while (at < in->n && !s) {
        const char *hit = memmem(in->data + at, in->n - at, op->from, from);
        size_t keep = hit ? (size_t)(hit - in->data) - at : in->n - at;
        s = mg_tok_put(out, in->data + at, keep, err);
        if (!s && hit) s = mg_tok_put(out, op->to, to, err);
        at += keep + (hit ? from : 0);
    }
    return s;
}

static bool prepends(const mg_tok_op *op, const mg_tok_text *in, bool first) {
    switch (op->kind) {
    case MG_TOK_PREPEND:
        return in->n > 0;
    case MG_TOK_PREPEND_FIRST:
        return in->n > 0 && first;
    case MG_TOK_NOT_TWICE:
        return !begins_with(in, op->to);
    case MG_TOK_NOT_TWICE_FIRST:
        return first && !begins_with(in, op->to);
    case MG_TOK_REPLACE:
        break;
    }
    return false;
}

mg_status mg_tokenizer_apply(const mg_tok_op *ops, unsigned n_ops, const char *text, size_t n, bool first,
                             mg_tok_text *out, mg_error *err) {
    mg_tok_text other = {0};
    out->n = 0;
    mg_status s = mg_tok_put(out, text, n, err);
    for (unsigned i = 0; i < n_ops && !s; i++) {
        const mg_tok_op *op = &ops[i];
        if (op->kind != MG_TOK_REPLACE && !prepends(op, out, first)) continue;
        other.n = 0;
        if (op->kind == MG_TOK_REPLACE) {
            s = replace(out, op, &other, err);
        } else {
            s = mg_tok_put(&other, op->to, strlen(op->to), err);
            if (!s) s = mg_tok_put(&other, out->data, out->n, err);
        }
        mg_tok_text t = *out;
        *out = other;
        other = t;
    }
    free(other.data);
    return s;
}

/* ---- cutting ---- */

/* Unicode's White_Space, as Rust's char::is_whitespace has it. */
static bool is_space(uint32_t c) {
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
           c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

static size_t spaces_after(const char *text, size_t n, size_t at) {
    uint32_t c;
    size_t len;
    while (at < n && (len = mg_utf8_decode((const uint8_t *)text + at, n - at, &c)) > 0 && is_space(c)) at += len;
    return at;
}

static size_t spaces_before(const char *text, size_t begin, size_t at) {
    while (at > begin) {
        size_t from = at - 1;
        while (from > begin && at - from < 4 && ((uint8_t)text[from] & 0xC0) == 0x80) from--;
        uint32_t c;
        if (mg_utf8_decode((const uint8_t *)text + from, at - from, &c) != at - from || !is_space(c)) break;
        at = from;
    }
    return at;
}

static const mg_tok_added *match_at(const mg_tokenizer *t, const char *text, size_t n, size_t at, bool special,
                                    bool normalized) {
    uint8_t b = (uint8_t)text[at];
    for (uint32_t i = t->added_from[b]; i < t->added_from[b + 1]; i++) {
        const mg_tok_added *a = &t->added[i];
        if (a->normalized != normalized || (a->special && !special)) continue;
        if (a->len <= n - at && memcmp(text + at, a->match, a->len) == 0) return a;
    }
    return NULL;
}

/* The next added token at or after `at`: its extent, white space taken along included. NULL: none. */
static const mg_tok_added *next_added(const mg_tokenizer *t, const char *text, size_t n, size_t at, bool special,
                                      bool normalized, size_t *begin, size_t *end) {
    for (size_t i = at; i < n; i++) {
        const mg_tok_added *a = match_at(t, text, n, i, special, normalized);
        if (!a) continue;
        *begin = a->lstrip ? spaces_before(text, at, i) : i;
        *end = a->rstrip ? spaces_after(text, n, i + a->len) : i + a->len;
        return a;
    }
    return NULL;
}

typedef struct splitter {
    const mg_tokenizer *t;
    mg_bpe bpe;
    mg_tok_text normal, pre;
    bool special;
    mg_ids *out;
} splitter;

static mg_status plain(splitter *p, const char *text, size_t n, bool first, mg_error *err) {
    const mg_tokenizer *t = p->t;
    if (t->n_pre_ops == 0) return mg_bpe_text(&p->bpe, t, text, n, p->out, err);
    mg_status s = mg_tokenizer_apply(t->pre_ops, t->n_pre_ops, text, n, first, &p->pre, err);
    return s ? s : mg_bpe_text(&p->bpe, t, p->pre.data, p->pre.n, p->out, err);
}

/* A piece of text between added tokens: raw first, then once more after normalizing. */
static mg_status cut(splitter *p, const char *text, size_t n, bool first, bool normalized, mg_error *err) {
    const mg_tokenizer *t = p->t;
    mg_status s = MG_OK;
    for (size_t at = 0; at < n && !s;) {
        size_t begin = n, end = n;
        const mg_tok_added *a = next_added(t, text, n, at, p->special, normalized, &begin, &end);
        if (begin > at) {
            bool is_first = first && at == 0;
            if (normalized) {
                s = plain(p, text + at, begin - at, is_first, err);
            } else {
                s = mg_tokenizer_apply(t->ops, t->n_ops, text + at, begin - at, is_first, &p->normal, err);
                if (!s) s = cut(p, p->normal.data, p->normal.n, is_first, true, err);
            }
        }
        if (!s && a) s = mg_ids_push(p->out, a->id, err);
        at = end;
    }
    return s;
}

mg_status mg_tokenizer_split(const mg_tokenizer *t, const char *text, size_t n, bool special, mg_ids *out,
                             mg_error *err) {
    splitter p = {.t = t, .special = special, .out = out};
    mg_status s = cut(&p, text, n, true, false, err);
    mg_bpe_release(&p.bpe);
    free(p.normal.data);
    free(p.pre.data);
    return s;
}
