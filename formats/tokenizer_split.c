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

/* White space as Rust's char::is_whitespace has it. */
static size_t spaces_after(const char *text, size_t n, size_t at) {
    uint32_t c;
    size_t len;
    while (at < n && (len = mg_utf8_decode((const uint8_t *)text + at, n - at, &c)) > 0 && mg_unicode_is_space(c))
        at += len;
    return at;
}

static size_t spaces_before(const char *text, size_t begin, size_t at) {
    while (at > begin) {
        size_t from = at - 1;
        while (from > begin && at - from < 4 && ((uint8_t)text[from] & 0xC0) == 0x80) from--;
        uint32_t c;
        if (mg_utf8_decode((const uint8_t *)text + from, at - from, &c) != at - from || !mg_unicode_is_space(c)) break;
        at = from;
    }
    return at;
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
    default:
        return false;
    }
}

static mg_status replace_matches(const mg_tok_text *in, const mg_tok_op *op, mg_tok_text *out, mg_error *err) {
    mg_regex_run *run;
    size_t at = 0, begin, end;
    bool found = true;
    mg_status s = mg_regex_run_new(&run, err);
    if (s) return s;
    s = mg_regex_run_text(run, in->data, in->n, err);
    while (!s && found) {
        s = mg_regex_search(op->regex, run, at, &found, &begin, &end, err);
        if (s || !found) break;
        if (begin == end) {
            s = mg_fail(err, MG_ERR_UNSUPPORTED, "tokenizer: a replacement of empty matches");
            break;
        }
        s = mg_tok_put(out, in->data + at, begin - at, err);
        if (!s) s = mg_tok_put(out, op->to, strlen(op->to), err);
        at = end;
    }
    mg_regex_run_free(run);
    return s ? s : mg_tok_put(out, in->data + at, in->n - at, err);
}

static mg_status normalize(const mg_tok_text *in, const mg_tok_op *op, mg_tok_text *out, mg_error *err) {
    char *made;
    size_t n;
    mg_status s = mg_unicode_normalize(op->form, in->data, in->n, &made, &n, err);
    if (!s) s = mg_tok_put(out, made, n, err);
    free(made);
    return s;
}

static mg_status lowercase(const mg_tok_text *in, mg_tok_text *out, mg_error *err) {
    mg_status s = MG_OK;
    for (size_t at = 0; at < in->n && !s;) {
        uint32_t c = 0, lower[2];
        size_t len = mg_utf8_decode((const uint8_t *)in->data + at, in->n - at, &c);
        if (len == 0) return mg_fail(err, MG_ERR_FORMAT, "lower case: text is not UTF-8 at byte %zu", at);
        size_t n = mg_unicode_lower(c, lower);
        for (size_t i = 0; i < n && !s; i++) {
            char bytes[4];
            s = mg_tok_put(out, bytes, mg_utf8_encode(lower[i], bytes), err);
        }
        at += len;
    }
    return s;
}

/* The library looks a grapheme cluster of less than six bytes up as a whole, but takes the shortest match for all of
 * it; else every character by itself. */
static mg_status map_chars(const mg_tok_text *in, const mg_tok_op *op, mg_tok_text *out, mg_error *err) {
    const mg_charsmap *m = &op->charsmap;
    mg_status s = MG_OK;
    for (size_t at = 0, end; at < in->n && !s; at = end) {
        const char *to;
        end = at + mg_unicode_cluster(in->data + at, in->n - at);
        if (end - at < 6 && mg_charsmap_shortest(m, in->data + at, end - at, &to)) {
            s = mg_tok_put(out, to, strlen(to), err);
            continue;
        }
        for (size_t len; at < end && !s; at += len) {
            len = mg_utf8_decode((const uint8_t *)in->data + at, end - at, NULL);
            if (mg_charsmap_shortest(m, in->data + at, len, &to))
                s = mg_tok_put(out, to, strlen(to), err);
            else
                s = mg_tok_put(out, in->data + at, len, err);
        }
    }
    return s;
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

static mg_status map_longest(const mg_tok_text *in, const mg_tok_op *op, mg_tok_text *out, mg_error *err) {
    mg_status s = MG_OK;
    for (size_t at = 0, len; at < in->n && !s; at += len) {
        const char *to;
        const mg_tok_added *a = op->leaves ? match_at(op->leaves, in->data, in->n, at, false, true) : NULL;
        len = a ? a->len : mg_charsmap_longest(&op->charsmap, in->data + at, in->n - at, &to);
        if (len && !a) {
            s = mg_tok_put(out, to, strlen(to), err);
            continue;
        }
        if (!a) len = mg_utf8_decode((const uint8_t *)in->data + at, in->n - at, NULL);
        s = mg_tok_put(out, in->data + at, len, err);
    }
    return s;
}

/* At the end marks count as blanks, as they do where they come from. */
static mg_status squeeze(const mg_tok_text *in, mg_tok_text *out, mg_error *err) {
    size_t end = in->n;
    mg_status s = MG_OK;
    for (;;) {
        if (end >= 1 && in->data[end - 1] == ' ')
            end -= 1;
        else if (end >= 3 && memcmp(in->data + end - 3, MG_SPACE_MARK, 3) == 0)
            end -= 3;
        else
            break;
    }
    for (size_t at = 0, begin; at < end && !s;) {
        for (begin = at; at < end && in->data[at] == ' ';) at++;
        if (at > begin && out->n > 0) s = mg_tok_put(out, " ", 1, err);
        for (begin = at; at < end && in->data[at] != ' ';) at++;
        if (!s) s = mg_tok_put(out, in->data + begin, at - begin, err);
    }
    return s;
}

static mg_status apply_one(const mg_tok_text *in, const mg_tok_op *op, bool first, mg_tok_text *out, mg_error *err) {
    mg_status s;
    size_t from = 0, to = in->n;
    switch (op->kind) {
    case MG_TOK_REPLACE:
        return replace(in, op, out, err);
    case MG_TOK_REPLACE_MATCHES:
        return replace_matches(in, op, out, err);
    case MG_TOK_NORMALIZE:
        return normalize(in, op, out, err);
    case MG_TOK_LOWERCASE:
        return lowercase(in, out, err);
    case MG_TOK_CHARSMAP:
        return map_chars(in, op, out, err);
    case MG_TOK_CHARSMAP_LONGEST:
        return map_longest(in, op, out, err);
    case MG_TOK_SQUEEZE:
        return squeeze(in, out, err);
    case MG_TOK_TRIM:
        if (op->left) from = spaces_after(in->data, to, 0);
        if (op->right) to = spaces_before(in->data, from, to);
        return mg_tok_put(out, in->data + from, to - from, err);
    default:
        s = prepends(op, in, first) ? mg_tok_put(out, op->to, strlen(op->to), err) : MG_OK;
        return s ? s : mg_tok_put(out, in->data, in->n, err);
    }
}

mg_status mg_tokenizer_apply(const mg_tok_op *ops, unsigned n_ops, const char *text, size_t n, bool first,
                             mg_tok_text *out, mg_error *err) {
    mg_tok_text other = {0};
    out->n = 0;
    mg_status s = mg_tok_put(out, text, n, err);
    for (unsigned i = 0; i < n_ops && !s; i++) {
        other.n = 0;
        s = apply_one(out, &ops[i], first, &other, err);
        if (!s) s = mg_tok_put(&other, "", 0, err);
        mg_tok_text t = *out;
        *out = other;
        other = t;
    }
    free(other.data);
    return s;
}

/* ---- cutting ---- */

typedef struct splitter {
    const mg_tokenizer *t;
    mg_bpe bpe;
    mg_tok_text normal, pre;
    mg_tok_cut cut;
    mg_regex_run *run; /* for single_word */
    bool special;
    mg_ids *out;
} splitter;

/* Is the character at text[from..to) part of a word? */
static mg_status is_word(splitter *p, const char *text, size_t from, size_t to, bool *yes, mg_error *err) {
    size_t begin, end;
    *yes = false;
    if (from == to || mg_utf8_decode((const uint8_t *)text + from, to - from, NULL) == 0) return MG_OK;
    mg_status s = p->run ? MG_OK : mg_regex_run_new(&p->run, err);
    if (!s) s = mg_regex_run_text(p->run, text + from, to - from, err);
    return s ? s : mg_regex_search(p->t->word, p->run, 0, yes, &begin, &end, err);
}

/* Does text[at..end) stand between word characters? */
static mg_status in_word(splitter *p, const char *text, size_t n, size_t at, size_t end, bool *yes, mg_error *err) {
    size_t before = at, len = mg_utf8_decode((const uint8_t *)text + end, n - end, NULL);
    if (before > 0) before--;
    while (before > 0 && at - before < 4 && ((uint8_t)text[before] & 0xC0) == 0x80) before--;
    if (mg_utf8_decode((const uint8_t *)text + before, at - before, NULL) != at - before) before = at;
    mg_status s = is_word(p, text, before, at, yes, err);
    return s || *yes ? s : is_word(p, text, end, end + len, yes, err);
}

typedef struct hit {
    const mg_tok_added *token; /* NULL: none */
    size_t begin, end;         /* white space taken along included */
} hit;

/* The next added token at or after `at`. */
static mg_status next_added(splitter *p, const char *text, size_t n, size_t at, bool normalized, hit *h,
                            mg_error *err) {
    *h = (hit){NULL, n, n};
    if (normalized && p->t->sentencepiece) return MG_OK; /* those are pieces like others, which the best path chooses */
    for (size_t i = at; i < n; i++) {
        const mg_tok_added *a = match_at(p->t, text, n, i, p->special, normalized);
        if (!a) continue;
        if (a->single_word) {
            bool inside;
            mg_status s = in_word(p, text, n, i, i + a->len, &inside, err);
            if (s) return s;
            if (inside) {
                i += a->len - 1;
                continue;
            }
        }
        h->token = a;
        h->begin = a->lstrip ? spaces_before(text, at, i) : i;
        h->end = a->rstrip ? spaces_after(text, n, i + a->len) : i + a->len;
        break;
    }
    return MG_OK;
}

static mg_status pieces(splitter *p, mg_error *err) {
    mg_status s = MG_OK;
    for (size_t i = 0; i < p->cut.pieces.n && !s; i++) {
        mg_tok_piece k = p->cut.pieces.list[i];
        s = mg_bpe_text(&p->bpe, p->t, p->cut.text.data + k.begin, k.end - k.begin, p->out, err);
    }
    return s;
}

static mg_status plain(splitter *p, const char *text, size_t n, bool first, mg_error *err) {
    const mg_tokenizer *t = p->t;
    mg_status s;
    if (t->n_pre > 0) {
        s = mg_tok_cut_text(&p->cut, t, text, n, first, err);
        return s ? s : pieces(p, err);
    }
    if (t->n_pre_ops == 0) return mg_bpe_text(&p->bpe, t, text, n, p->out, err);
    s = mg_tokenizer_apply(t->pre_ops, t->n_pre_ops, text, n, first, &p->pre, err);
    return s ? s : mg_bpe_text(&p->bpe, t, p->pre.data, p->pre.n, p->out, err);
}

static mg_status cut(splitter *p, const char *text, size_t n, bool first, bool normalized, mg_error *err);

static mg_status normal(splitter *p, const char *text, size_t n, bool first, mg_error *err) {
    mg_status s = mg_tokenizer_apply(p->t->ops, p->t->n_ops, text, n, first, &p->normal, err);
    return s ? s : cut(p, p->normal.data, p->normal.n, first, true, err);
}

/* Raw text between added tokens. Where steps need UTF-8, a run of bytes that is none is a word of its own that goes
 * past all of them. */
static mg_status raw(splitter *p, const char *text, size_t n, bool first, mg_error *err) {
    if (!p->t->utf8_only) return normal(p, text, n, first, err);
    mg_status s = MG_OK;
    for (size_t at = 0; at < n && !s;) {
        size_t good = mg_utf8_valid_prefix((const uint8_t *)text + at, n - at), bad = at + good;
        if (good) s = normal(p, text + at, good, first && at == 0, err);
        while (bad < n && mg_utf8_decode((const uint8_t *)text + bad, n - bad, NULL) == 0) bad++;
        if (!s && bad > at + good) {
            s = mg_tok_cut_bytes(&p->cut, p->t, text + at + good, bad - at - good, err);
            if (!s) s = pieces(p, err);
        }
        at = bad;
    }
    return s;
}

/* A piece of text between added tokens: raw first, then once more after normalizing. */
static mg_status cut(splitter *p, const char *text, size_t n, bool first, bool normalized, mg_error *err) {
    mg_status s = MG_OK;
    for (size_t at = 0; at < n && !s;) {
        hit h;
        s = next_added(p, text, n, at, normalized, &h, err);
        if (!s && h.begin > at) {
            bool is_first = first && at == 0;
            s = normalized ? plain(p, text + at, h.begin - at, is_first, err)
                           : raw(p, text + at, h.begin - at, is_first, err);
        }
        if (!s && h.token) s = mg_ids_push(p->out, h.token->id, err);
        at = h.end;
    }
    return s;
}

mg_status mg_tokenizer_split(const mg_tokenizer *t, const char *text, size_t n, bool special, mg_ids *out,
                             mg_error *err) {
    splitter p = {.t = t, .special = special, .out = out};
    mg_status s = cut(&p, text, n, true, false, err);
    mg_bpe_release(&p.bpe);
    mg_tok_cut_release(&p.cut);
    mg_regex_run_free(p.run);
    free(p.normal.data);
    free(p.pre.data);
    return s;
}
