/* tokenizer.c - what all kinds of tokenizer share: life, checks, the frame of encoding, decoding. */
#include "formats/tokenizer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/utf8.h"
#include "formats/tokenizer_impl.h"

/* ---- id lists ---- */

void mg_ids_release(mg_ids *l) {
    free(l->ids);
    *l = (mg_ids){0};
}

mg_status mg_ids_push(mg_ids *l, int32_t id, mg_error *err) {
    if (l->n == l->cap) {
        size_t cap = l->cap * 2 + 64;
        int32_t *ids = realloc(l->ids, cap * sizeof *ids);
        if (!ids) return mg_fail_nomem(err, cap * sizeof *ids);
        l->ids = ids;
        l->cap = cap;
    }
    l->ids[l->n++] = id;
    return MG_OK;
}

/* ---- life ---- */

mg_status mg_tokenizer_new(mg_tokenizer **out, mg_error *err) {
    mg_tokenizer *t = calloc(1, sizeof *t);
    *out = t;
    if (!t) return mg_fail_nomem(err, sizeof *t);
    mg_arena_init(&t->arena, UINT64_C(1) << 30);
    mg_strmap_init(&t->by_text);
    mg_strmap_init(&t->pieces);
    mg_strmap_init(&t->pair);
    t->unk = t->bos = t->eos = -1;
    for (int i = 0; i < 256; i++) t->byte_id[i] = -1;
    return MG_OK;
}

void mg_tokenizer_free(mg_tokenizer *t) {
    if (!t) return;
    mg_strmap_release(&t->by_text);
    mg_strmap_release(&t->pieces);
    mg_strmap_release(&t->pair);
    for (unsigned i = 0; i < t->n_regexes; i++) mg_regex_free(t->regexes[i]);
    mg_arena_release(&t->arena);
    free(t);
}

mg_status mg_tokenizer_add_op(mg_tok_op *ops, unsigned *n, mg_tok_opkind kind, const char *from, const char *to,
                              mg_error *err) {
    if (*n == MG_TOK_MAX_OPS)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "tokenizer with more than %d steps", MG_TOK_MAX_OPS);
    if (kind == MG_TOK_REPLACE && !*from)
        return mg_fail(err, MG_ERR_FORMAT, "tokenizer: replacement of an empty string");
    ops[(*n)++] = (mg_tok_op){.kind = kind, .from = from, .to = to};
    return MG_OK;
}

mg_status mg_tokenizer_regex(mg_tokenizer *t, const char *pattern, const mg_regex **out, mg_error *err) {
    if (t->n_regexes == MG_TOK_MAX_REGEX)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "tokenizer with more than %d regular expressions", MG_TOK_MAX_REGEX);
    mg_status s = mg_regex_new(&t->regexes[t->n_regexes], pattern, err);
    if (!s) *out = t->regexes[t->n_regexes++];
    return s;
}

mg_status mg_tokenizer_add_pre(mg_tokenizer *t, mg_tok_pre step, mg_error *err) {
    if (t->n_pre == MG_TOK_MAX_PRE)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "tokenizer with more than %d pre-tokenizers", MG_TOK_MAX_PRE);
    t->byte_level |= step.kind == MG_TOK_PRE_BYTES;
    t->pre[t->n_pre++] = step;
    return MG_OK;
}

mg_status mg_tokenizer_add_split(mg_tokenizer *t, const char *pattern, mg_tok_behavior behavior, bool invert,
                                 mg_error *err) {
    const mg_regex *regex = NULL;
    mg_status s = mg_tokenizer_regex(t, pattern, &regex, err);
    mg_tok_pre step = {.kind = MG_TOK_PRE_SPLIT, .regex = regex, .behavior = behavior, .invert = invert};
    return s ? s : mg_tokenizer_add_pre(t, step, err);
}

/* ---- finishing ---- */

/* "<0x0A>" -> 10, anything else -> -1. */
static int byte_of(const mg_token *k) {
    unsigned v;
    int used = 0;
    if (k->len != 6 || strspn(k->text + 3, "0123456789ABCDEFabcdef") != 2) return -1;
    return sscanf(k->text, "<0x%2x>%n", &v, &used) == 1 && used == 6 ? (int)v : -1;
}

static mg_status index_bytes(mg_tokenizer *t, mg_error *err) {
    unsigned found = 0;
    for (uint32_t i = 0; i < t->n; i++) {
        const mg_token *k = &t->tokens[i];
        if (k->type != MG_TOKEN_BYTE) continue;
        int v = byte_of(k);
        if (v < 0) return mg_fail(err, MG_ERR_FORMAT, "tokenizer: byte token %u is '%s', not '<0xNN>'", i, k->text);
        if (t->byte_id[v] >= 0)
            return mg_fail(err, MG_ERR_FORMAT, "tokenizer: byte token '%s' twice (ids %d and %u)", k->text,
                           t->byte_id[v], i);
        t->byte_id[v] = (int32_t)i;
        found++;
    }
    if (found != 0 && found != 256 && !t->by_rank && !t->unigram)
        return mg_fail(err, MG_ERR_FORMAT, "tokenizer: %u byte tokens, expected 256 or none", found);
    t->byte_pieces = t->byte_fallback;
    t->byte_fallback = found == 256 && (t->byte_fallback || !(t->by_rank || t->unigram));
    return MG_OK;
}

/* By score, only NORMAL pieces are made of text (as in SentencePiece, whose control, unknown and byte pieces are names,
 * not text); by rank, the reader has filled the map with the model's own vocabulary. */
static mg_status index_text(mg_tokenizer *t, mg_error *err) {
    for (uint32_t i = 0; i < t->n; i++) {
        const mg_token *k = &t->tokens[i];
        mg_status s = mg_strmap_put(&t->by_text, k->text, k->len, i, NULL, err);
        if (s) return s;
        const bool chosen = t->sentencepiece && k->type == MG_TOKEN_USER_DEFINED; /* by the best path */
        if (t->by_rank || (t->unigram && !t->sentencepiece) || (k->type != MG_TOKEN_NORMAL && !chosen)) continue;
        uint32_t before;
        if (!isfinite(k->score)) return mg_fail(err, MG_ERR_FORMAT, "tokenizer: score of token %u is not finite", i);
        if (k->len == 0) return mg_fail(err, MG_ERR_FORMAT, "tokenizer: token %u is empty", i);
        s = mg_strmap_put(&t->pieces, k->text, k->len, i, &before, err);
        if (s) return s;
        if (before != MG_STRMAP_NONE)
            return mg_fail(err, MG_ERR_FORMAT, "tokenizer: tokens %u and %u are both '%s'", before, i, k->text);
    }
    return MG_OK;
}

/* Does any token that text can become have a mark behind another character? */
static bool crosses_words(const mg_token *k) {
    bool other = false;
    for (size_t at = 0; at < k->len;) {
        bool mark = k->len - at >= 3 && memcmp(k->text + at, MG_SPACE_MARK, 3) == 0;
        if (mark && other) return true;
        other |= !mark;
        at += mark ? 3 : 1;
    }
    return false;
}

static bool finds_words(const mg_tokenizer *t) {
    if (t->ignore_merges || t->unigram) return false;
    if (t->by_rank) {
        for (uint32_t i = 0; i < t->n_merges; i++)
            if (crosses_words(&t->tokens[t->merged[i]])) return false;
        return true;
    }
    for (uint32_t i = 0; i < t->n; i++)
        if (t->tokens[i].type == MG_TOKEN_NORMAL && crosses_words(&t->tokens[i])) return false;
    return true;
}

static int by_first_byte(const void *a, const void *b) {
    const mg_tok_added *x = a, *y = b;
    if (x->match[0] != y->match[0]) return (uint8_t)x->match[0] < (uint8_t)y->match[0] ? -1 : 1;
    if (x->len != y->len) return x->len > y->len ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

static mg_status index_added(mg_tokenizer *t, mg_error *err) {
    for (uint32_t i = 0; i < t->n_added; i++) {
        mg_tok_added *a = &t->added[i];
        const mg_token *k = &t->tokens[a->id];
        mg_tok_text text = {0};
        if (a->match) continue;
        mg_status s = mg_tokenizer_apply(t->ops, a->normalized ? t->n_ops : 0, k->text, k->len, true, &text, err);
        if (!s) {
            a->match = mg_arena_strndup(&t->arena, text.data, text.n);
            a->len = text.n;
            if (!a->match) s = mg_fail_nomem(err, text.n);
        }
        free(text.data);
        if (!s && a->len == 0) s = mg_fail(err, MG_ERR_FORMAT, "tokenizer: added token %d is empty", a->id);
        if (s) return s;
    }
    for (uint32_t i = 0; i < t->n_added && !t->word; i++)
        if (t->added[i].single_word) MG_TRY(mg_tokenizer_regex(t, "\\p{_word}", &t->word, err));
    if (t->n_added) qsort(t->added, t->n_added, sizeof *t->added, by_first_byte);
    for (uint32_t b = 0, i = 0; b <= 256; b++) {
        while (i < t->n_added && (uint8_t)t->added[i].match[0] < b) i++;
        t->added_from[b] = i;
    }
    return MG_OK;
}

mg_status mg_tokenizer_finish(mg_tokenizer *t, mg_error *err) {
    if (t->n == 0) return mg_fail(err, MG_ERR_FORMAT, "tokenizer: empty vocabulary");
    const int32_t named[] = {t->unk, t->bos, t->eos};
    for (size_t i = 0; i < 3; i++)
        if (named[i] < -1 || (named[i] >= 0 && (uint32_t)named[i] >= t->n))
            return mg_fail(err, MG_ERR_FORMAT, "tokenizer: special token id %d, the vocabulary has %u tokens", named[i],
                           t->n);
    mg_status s = index_bytes(t, err);
    if (!s) s = index_text(t, err);
    if (!s) s = index_added(t, err);
    if (s) return s;
    if (t->unigram) s = mg_unigram_finish(t, err);
    if (s) return s;
    t->words = finds_words(t);
    t->utf8_only |= t->n_pre > 0 || t->unigram;
    for (unsigned i = 0; i < t->n_ops; i++) t->utf8_only |= t->ops[i].kind >= MG_TOK_REPLACE_MATCHES;
    t->add_bos = t->add_bos && t->bos >= 0;
    t->add_eos = t->add_eos && t->eos >= 0;
    return MG_OK;
}

/* ---- looking ---- */

uint32_t mg_tokenizer_size(const mg_tokenizer *t) {
    return t->n;
}

const mg_token *mg_tokenizer_token(const mg_tokenizer *t, int32_t id) {
    return id >= 0 && (uint32_t)id < t->n ? &t->tokens[id] : NULL;
}

int32_t mg_tokenizer_find(const mg_tokenizer *t, const char *text) {
    uint32_t id = mg_strmap_get(&t->by_text, text, strlen(text));
    return id == MG_STRMAP_NONE ? -1 : (int32_t)id;
}

int32_t mg_tokenizer_bos(const mg_tokenizer *t) {
    return t->bos;
}
int32_t mg_tokenizer_eos(const mg_tokenizer *t) {
    return t->eos;
}
bool mg_tokenizer_adds_bos(const mg_tokenizer *t) {
    return t->add_bos;
}
bool mg_tokenizer_adds_eos(const mg_tokenizer *t) {
    return t->add_eos;
}

bool mg_tokenizer_is_byte_level(const mg_tokenizer *t) {
    return t->byte_level;
}
uint32_t mg_tokenizer_n_merges(const mg_tokenizer *t) {
    return t->n_merges;
}

void mg_tokenizer_merge(const mg_tokenizer *t, uint32_t i, const mg_token **left, const mg_token **right) {
    *left = &t->tokens[t->merges[i].left];
    *right = &t->tokens[t->merges[i].right];
}

bool mg_tokenizer_is_added(const mg_tokenizer *t, int32_t id, bool *special, bool *normalized) {
    for (uint32_t i = 0; i < t->n_added; i++)
        if (t->added[i].id == id) {
            *special = t->added[i].special;
            *normalized = t->added[i].normalized;
            return true;
        }
    return false;
}

/* ---- text to ids and back ---- */

mg_status mg_tokenizer_encode(const mg_tokenizer *t, const char *text, size_t n, unsigned flags, mg_ids *out,
                              mg_error *err) {
    if (n >= (size_t)1 << 29)
        return mg_fail(err, MG_ERR_LIMIT, "text of %zu bytes: at most 512 MiB are tokenized at once", n);
    mg_status s = MG_OK;
    if ((flags & MG_ENCODE_BOS_EOS) && t->add_bos) s = mg_ids_push(out, t->bos, err);
    if (!s) s = mg_tokenizer_split(t, text, n, (flags & MG_ENCODE_SPECIAL) != 0, out, err);
    if (!s && (flags & MG_ENCODE_BOS_EOS) && t->add_eos) s = mg_ids_push(out, t->eos, err);
    return s;
}

/* A token written in the byte alphabet. As in Hugging Face's decoder, one with any other character is plain text. */
static mg_status put_bytes(const mg_token *k, mg_tok_text *out, mg_error *err) {
    size_t start = out->n;
    mg_status s = MG_OK;
    for (size_t at = 0; at < k->len && !s;) {
        uint32_t c;
        size_t len = mg_utf8_decode((const uint8_t *)k->text + at, k->len - at, &c);
        int byte = len ? mg_tok_char_byte(c) : -1;
        if (byte < 0) {
            out->n = start;
            return mg_tok_put(out, k->text, k->len, err);
        }
        s = mg_tok_put(out, &(char){(char)byte}, 1, err);
        at += len;
    }
    return s;
}

/* The text of one token. first: nothing has been written before it. */
static mg_status put_token(const mg_tokenizer *t, int32_t id, bool first, mg_tok_text *out, mg_error *err) {
    const mg_token *k = &t->tokens[id];
    if (t->byte_level && t->raw_added_tokens && k->type != MG_TOKEN_NORMAL)
        return mg_tok_put(out, k->text, k->len, err);
    if (t->byte_level) return put_bytes(k, out, err);
    int byte = t->bytes_to_text ? byte_of(k) : -1;
    if (byte >= 0) return mg_tok_put(out, &(char){(char)byte}, 1, err);
    mg_status s = MG_OK;
    for (size_t at = 0; at < k->len && !s;) {
        bool mark = t->marks_to_blanks && k->len - at >= 3 && memcmp(k->text + at, MG_SPACE_MARK, 3) == 0;
        if (!mark)
            s = mg_tok_put(out, k->text + at, 1, err);
        else if (!first || t->strip != MG_TOK_STRIP_MARKS)
            s = mg_tok_put(out, " ", 1, err);
        at += mark ? 3 : 1;
    }
    return s;
}

mg_status mg_tokenizer_decode(const mg_tokenizer *t, const int32_t *ids, size_t n, unsigned flags, char **out,
                              size_t *len, mg_error *err) {
    mg_tok_text text = {0};
    mg_status s = mg_tok_put(&text, "", 0, err);
    bool first = true;
    for (size_t i = 0; i < n && !s; i++) {
        const mg_token *k = mg_tokenizer_token(t, ids[i]);
        if (!k) {
            s = mg_fail(err, MG_ERR_USAGE, "token id %d: the vocabulary has %u tokens", ids[i], t->n);
            break;
        }
        if ((flags & MG_DECODE_SKIP_SPECIAL) && (k->type == MG_TOKEN_CONTROL || k->type == MG_TOKEN_UNKNOWN)) continue;
        s = put_token(t, ids[i], first, &text, err);
        first = false;
    }
    if (s) {
        free(text.data);
        return s;
    }
    if (t->strip == MG_TOK_STRIP_ONE && text.n > 0 && text.data[0] == ' ') memmove(text.data, text.data + 1, text.n--);
    *out = text.data;
    if (len) *len = text.n;
    return MG_OK;
}
