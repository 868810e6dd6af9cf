/* tokenizer_json.c - tokenizer.json (Hugging Face tokenizers). The vocabulary and the merges, which may be tens of
 * megabytes, are pulled through the lexer; the small sections become trees. Every step that would change ids and is not
 * understood is refused by its name. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/json_section.h"
#include "formats/base/jsonlex.h"
#include "formats/tokenizer_impl.h"

static mg_status unsupported(const char *part, const char *what, mg_error *err) {
    return mg_fail(err, MG_ERR_UNSUPPORTED, "tokenizer with %s '%s'", part, what);
}

/* ---- vocabulary ---- */

/* The current string or key of lx in the arena. */
static mg_status keep_string(mg_tokenizer *t, const mg_jsonlex *lx, char **out, size_t *len, mg_error *err) {
    *out = mg_arena_alloc(&t->arena, lx->raw_len + 1, 1);
    return *out ? mg_jsonlex_string(lx, *out, lx->raw_len + 1, len, err) : mg_fail_nomem(err, lx->raw_len + 1);
}

static mg_status place_token(mg_tokenizer *t, uint64_t id, const char *text, size_t len, mg_error *err) {
    if (id >= t->n)
        return mg_fail(err, MG_ERR_FORMAT, "tokenizer: '%s' has id %llu, but there are only %u tokens", text,
                       (unsigned long long)id, t->n);
    mg_token *k = &t->tokens[id];
    if (k->text)
        return mg_fail(err, MG_ERR_FORMAT, "tokenizer: '%s' and '%s' both have id %llu", k->text, text,
                       (unsigned long long)id);
    *k = (mg_token){text, (uint32_t)len, MG_TOKEN_NORMAL, 0};
    return MG_OK;
}

static mg_status read_vocab(mg_tokenizer *t, const mg_json_section *k, mg_error *err) {
    mg_jsonlex lx;
    mg_jtok tok;
    mg_jsonlex_init(&lx, k->text, 64);
    mg_status s = mg_jsonlex_next(&lx, &tok, err);
    if (!s && tok != MG_JTOK_OBJ_BEGIN) s = mg_fail(err, MG_ERR_FORMAT, "tokenizer: 'vocab' is no object");
    while (!s) {
        char *text;
        size_t len;
        uint64_t id;
        uint32_t before = MG_STRMAP_NONE;
        s = mg_jsonlex_next(&lx, &tok, err);
        if (s || tok != MG_JTOK_KEY) break;
        s = keep_string(t, &lx, &text, &len, err);
        if (!s) s = mg_jsonlex_next(&lx, &tok, err);
        if (!s && tok != MG_JTOK_NUMBER)
            s = mg_fail(err, MG_ERR_FORMAT, "tokenizer: the id of '%s' is no number", text);
        if (!s) s = mg_jsonlex_u64(&lx, &id, err);
        if (!s) s = place_token(t, id, text, len, err);
        if (!s) s = mg_strmap_put(&t->pieces, text, len, (uint32_t)id, &before, err);
        if (!s && before != MG_STRMAP_NONE)
            s = mg_fail(err, MG_ERR_FORMAT, "tokenizer: '%s' is in the vocabulary twice", text);
    }
    return mg_json_section_moved(s, err, k->at);
}

/* [["<pad>", 0.0], ["\u2581the", -3.1], ...], the bracket of an entry consumed: its text and score. */
static mg_status scored_piece(mg_tokenizer *t, mg_jsonlex *lx, uint32_t id, mg_error *err) {
    mg_jtok tok;
    char *text;
    size_t len;
    uint32_t before = MG_STRMAP_NONE;
    MG_TRY(mg_jsonlex_next(lx, &tok, err));
    if (tok != MG_JTOK_STRING) return mg_fail(err, MG_ERR_FORMAT, "tokenizer: piece %u has no text", id);
    MG_TRY(keep_string(t, lx, &text, &len, err));
    MG_TRY(mg_jsonlex_next(lx, &tok, err));
    if (tok != MG_JTOK_NUMBER) return mg_fail(err, MG_ERR_FORMAT, "tokenizer: piece %u has no score", id);
    MG_TRY(mg_jsonlex_f64(lx, &t->scores[id], err));
    MG_TRY(mg_jsonlex_next(lx, &tok, err));
    if (tok != MG_JTOK_ARR_END) return mg_fail(err, MG_ERR_FORMAT, "tokenizer: piece %u is no pair", id);
    MG_TRY(place_token(t, id, text, len, err));
    t->tokens[id].score = (float)t->scores[id];
    MG_TRY(mg_strmap_put(&t->pieces, text, len, id, &before, err));
    if (before == MG_STRMAP_NONE) return MG_OK;
    return mg_fail(err, MG_ERR_FORMAT, "tokenizer: '%s' is in the vocabulary twice", text);
}

static mg_status read_scored(mg_tokenizer *t, const mg_json_section *k, mg_error *err) {
    mg_jsonlex lx;
    mg_jtok tok;
    mg_jsonlex_init(&lx, k->text, 64);
    mg_status s = mg_jsonlex_next(&lx, &tok, err);
    if (!s && tok != MG_JTOK_ARR_BEGIN) s = mg_fail(err, MG_ERR_FORMAT, "tokenizer: 'vocab' is no list");
    while (!s) {
        s = mg_jsonlex_next(&lx, &tok, err);
        if (s || (tok == MG_JTOK_ARR_END && lx.depth == 0)) break;
        if (tok != MG_JTOK_ARR_BEGIN) s = mg_fail(err, MG_ERR_FORMAT, "tokenizer: piece %u is no pair", t->n_pieces);
        if (!s) s = scored_piece(t, &lx, t->n_pieces++, err);
    }
    return mg_json_section_moved(s, err, k->at);
}

/* ---- added tokens ---- */

static mg_status add_one(mg_tokenizer *t, const mg_json *v, mg_error *err) {
    uint64_t id;
    bool special = false, single = false, normalized = false, lstrip = false, rstrip = false;
    const char *content = mg_json_str(mg_json_get(v, "content"));
    if (!content || !*content || !mg_json_u64(mg_json_get(v, "id"), &id))
        return mg_fail(err, MG_ERR_FORMAT, "tokenizer: added token without id or content");
    mg_json_bool(mg_json_get(v, "special"), &special);
    mg_json_bool(mg_json_get(v, "single_word"), &single);
    mg_json_bool(mg_json_get(v, "normalized"), &normalized);
    mg_json_bool(mg_json_get(v, "lstrip"), &lstrip);
    mg_json_bool(mg_json_get(v, "rstrip"), &rstrip);
    uint32_t known = mg_strmap_get(&t->pieces, content, strlen(content));
    if (known != MG_STRMAP_NONE && known != id)
        return mg_fail(err, MG_ERR_FORMAT, "tokenizer: added token '%s' has id %llu, the vocabulary says %u", content,
                       (unsigned long long)id, known);
    if (known == MG_STRMAP_NONE) {
        char *copy = mg_arena_strdup(&t->arena, content);
        if (!copy) return mg_fail_nomem(err, strlen(content));
        mg_status s = place_token(t, id, copy, strlen(copy), err);
        if (s) return s;
    }
    t->tokens[id].type = special ? MG_TOKEN_CONTROL : MG_TOKEN_USER_DEFINED;
    t->added[t->n_added++] = (mg_tok_added){.id = (int32_t)id,
                                            .special = special,
                                            .normalized = normalized,
                                            .lstrip = lstrip,
                                            .rstrip = rstrip,
                                            .single_word = single};
    return MG_OK;
}

/* Vocabulary and added tokens together number the ids from 0 without gaps. */
static mg_status read_tokens(mg_tokenizer *t, const mg_json_section *vocab, const mg_json_section *added,
                             mg_error *err) {
    mg_json *list;
    size_t n = 0, n_added;
    mg_status s = mg_json_section_tree(&list, added, err);
    if (s) return s;
    n_added = mg_json_len(list);
    s = mg_json_section_count(vocab, &n, err);
    if (!s && n > (1 << 24)) s = mg_fail(err, MG_ERR_LIMIT, "tokenizer: %zu tokens", n);
    if (!s) s = MG_ARENA_NEW(&t->arena, &t->tokens, n + n_added + 1, err);
    if (!s) s = MG_ARENA_NEW(&t->arena, &t->added, n_added + 1, err);
    t->n = (uint32_t)(n + n_added);
    if (!s && t->unigram) s = MG_ARENA_NEW(&t->arena, &t->scores, n + 1, err);
    if (!s) s = t->unigram ? read_scored(t, vocab, err) : read_vocab(t, vocab, err);
    for (const mg_json *v = mg_json_first(list); v && !s; v = mg_json_next(v)) s = add_one(t, v, err);
    mg_json_free(list);
    if (s) return s;
    while (t->n > 0 && !t->tokens[t->n - 1].text) t->n--; /* added tokens that are in the vocabulary too */
    for (uint32_t i = 0; i < t->n; i++)
        if (!t->tokens[i].text) return mg_fail(err, MG_ERR_FORMAT, "tokenizer: no token has id %u", i);
    return MG_OK;
}

/* ---- merges ---- */

/* Room for n bytes and a NUL behind what buf holds. */
static mg_status reserve(mg_tok_text *buf, size_t n, mg_error *err) {
    static const char zeros[64];
    size_t at = buf->n;
    mg_status s = MG_OK;
    while (buf->n <= at + n && !s) s = mg_tok_put(buf, zeros, sizeof zeros, err);
    buf->n = at;
    return s;
}

/* ["a", "b"], the bracket consumed: both sides unescaped into buf, one after the other. */
static mg_status merge_pair(mg_jsonlex *lx, mg_tok_text *buf, size_t *left, mg_error *err) {
    mg_jtok tok;
    buf->n = 0;
    for (int side = 0; side < 2; side++) {
        size_t len;
        mg_status s = mg_jsonlex_next(lx, &tok, err);
        if (!s && tok != MG_JTOK_STRING) s = mg_fail(err, MG_ERR_FORMAT, "a merge is no pair of strings");
        if (!s) s = reserve(buf, lx->raw_len, err);
        if (!s) s = mg_jsonlex_string(lx, buf->data + buf->n, buf->cap - buf->n, &len, err);
        if (s) return s;
        buf->n += len;
        if (side == 0) *left = len;
    }
    mg_status s = mg_jsonlex_next(lx, &tok, err);
    return s ? s : tok == MG_JTOK_ARR_END ? MG_OK : mg_fail(err, MG_ERR_FORMAT, "a merge of more than two parts");
}

/* "a b": exactly one blank, taken out. */
static mg_status merge_line(mg_jsonlex *lx, mg_tok_text *buf, size_t *left, mg_error *err) {
    size_t len;
    buf->n = 0;
    mg_status s = reserve(buf, lx->raw_len, err);
    if (!s) s = mg_jsonlex_string(lx, buf->data, buf->cap, &len, err);
    if (s) return s;
    char *blank = memchr(buf->data, ' ', len);
    if (!blank || memchr(blank + 1, ' ', len - (size_t)(blank + 1 - buf->data)))
        return mg_fail(err, MG_ERR_FORMAT, "merge '%s' is no pair", buf->data);
    *left = (size_t)(blank - buf->data);
    memmove(blank, blank + 1, len - *left);
    buf->n = len - 1;
    return MG_OK;
}

mg_status mg_tokenizer_place_merge(mg_tokenizer *t, const char *text, size_t left, size_t n, mg_error *err) {
    uint32_t l = mg_strmap_get(&t->pieces, text, left), r = mg_strmap_get(&t->pieces, text + left, n - left);
    uint32_t both = mg_strmap_get(&t->pieces, text, n), before;
    if (left == 0 || left == n || l == MG_STRMAP_NONE || r == MG_STRMAP_NONE || both == MG_STRMAP_NONE)
        return mg_fail(err, MG_ERR_FORMAT, "merge %u ('%.*s' and '%.*s'): sides and result must be in the vocabulary",
                       t->n_merges, (int)(left > 200 ? 200 : left), text, (int)(n - left > 200 ? 200 : n - left),
                       text + left);
    mg_tok_merge *m = &t->merges[t->n_merges];
    *m = (mg_tok_merge){(int32_t)l, (int32_t)r};
    t->merged[t->n_merges] = (int32_t)both;
    mg_status s = mg_strmap_put(&t->pair, (const char *)m, sizeof *m, t->n_merges, &before, err);
    if (s) return s;
    if (before != MG_STRMAP_NONE)
        return mg_fail(err, MG_ERR_FORMAT, "merges %u and %u are the same", before, t->n_merges);
    t->n_merges++;
    return MG_OK;
}

static mg_status read_merges(mg_tokenizer *t, const mg_json_section *k, mg_error *err) {
    mg_jsonlex lx;
    mg_jtok tok;
    size_t n;
    mg_tok_text buf = {0};
    mg_status s = mg_json_section_count(k, &n, err);
    if (s) return s;
    if (n > (1 << 24)) return mg_fail(err, MG_ERR_LIMIT, "tokenizer: %zu merges", n);
    s = MG_ARENA_NEW(&t->arena, &t->merges, n + 1, err);
    if (!s) s = MG_ARENA_NEW(&t->arena, &t->merged, n + 1, err);
    mg_jsonlex_init(&lx, k->text, 64);
    if (!s) s = mg_jsonlex_next(&lx, &tok, err);
    if (!s && tok != MG_JTOK_ARR_BEGIN) s = mg_fail(err, MG_ERR_FORMAT, "tokenizer: 'merges' is no array");
    while (!s) {
        size_t left = 0;
        s = mg_jsonlex_next(&lx, &tok, err);
        if (s || (tok == MG_JTOK_ARR_END && lx.depth == 0)) break;
        if (tok == MG_JTOK_STRING) {
            s = merge_line(&lx, &buf, &left, err);
        } else if (tok == MG_JTOK_ARR_BEGIN) {
            s = merge_pair(&lx, &buf, &left, err);
        } else {
            s = mg_fail(err, MG_ERR_FORMAT, "a merge is no pair of strings");
        }
        if (!s) s = mg_tokenizer_place_merge(t, buf.data, left, buf.n, err);
    }
    free(buf.data);
    return mg_json_section_moved(s, err, k->at);
}

/* ---- the model section ---- */

/* The unknown token: -1, or an id of the vocabulary. */
static mg_status set_unknown(mg_tokenizer *t, const mg_json *v, mg_error *err) {
    uint64_t id;
    if (!v) return MG_OK;
    if (!mg_json_u64(v, &id) || id >= t->n_pieces)
        return mg_fail(err, MG_ERR_FORMAT, "tokenizer: unk_id is none of the %u ids of the vocabulary", t->n_pieces);
    t->unk = (int32_t)id;
    if (t->tokens[id].type != MG_TOKEN_USER_DEFINED) t->tokens[id].type = MG_TOKEN_UNKNOWN;
    return MG_OK;
}

static mg_status read_unigram(mg_tokenizer *t, const mg_json_section *model, const mg_json_section *added,
                              mg_error *err) {
    enum { UNK, BYTES, VOCAB, N };
    mg_json_section k[N] = {{"unk_id", {0}, 0}, {"byte_fallback", {0}, 0}, {"vocab", {0}, 0}};
    mg_json *unk = NULL, *bytes = NULL;
    mg_status s = mg_json_sections(model->text, model->at, k, N, err);
    if (!s && !k[VOCAB].text.data) s = mg_fail(err, MG_ERR_FORMAT, "tokenizer without vocab");
    if (!s) s = mg_json_section_tree(&unk, &k[UNK], err);
    if (!s) s = mg_json_section_tree(&bytes, &k[BYTES], err);
    t->unigram = true;
    mg_json_bool(bytes, &t->byte_fallback);
    if (!s) s = read_tokens(t, &k[VOCAB], added, err);
    if (!s) s = set_unknown(t, unk, err);
    mg_json_free(unk);
    mg_json_free(bytes);
    return s;
}

static mg_status read_model(mg_tokenizer *t, const mg_json_section *model, const mg_json_section *added,
                            mg_error *err) {
    enum { TYPE, DROPOUT, UNK, PREFIX, SUFFIX, FUSE, BYTES, IGNORE, VOCAB, MERGES, N };
    mg_json_section k[N] = {{"type", {0}, 0},
                            {"dropout", {0}, 0},
                            {"unk_token", {0}, 0},
                            {"continuing_subword_prefix", {0}, 0},
                            {"end_of_word_suffix", {0}, 0},
                            {"fuse_unk", {0}, 0},
                            {"byte_fallback", {0}, 0},
                            {"ignore_merges", {0}, 0},
                            {"vocab", {0}, 0},
                            {"merges", {0}, 0}};
    mg_json *small[IGNORE + 1] = {0};
    if (!model->text.data) return mg_fail(err, MG_ERR_FORMAT, "tokenizer without a model");
    mg_status s = mg_json_sections(model->text, model->at, k, N, err);
    for (int i = 0; i <= IGNORE && !s; i++) s = mg_json_section_tree(&small[i], &k[i], err);
    const char *type = mg_json_str(small[TYPE]), *unk = mg_json_str(small[UNK]);
    double dropout = 0;
    const bool unigram = type && strcmp(type, "Unigram") == 0;
    if (!s && unigram) s = read_unigram(t, model, added, err);
    if (s || unigram) {
        for (int i = 0; i <= IGNORE; i++) mg_json_free(small[i]);
        return s;
    }
    if (!s && type && strcmp(type, "BPE") != 0) s = unsupported("model", type, err);
    if (!s && (!k[VOCAB].text.data || !k[MERGES].text.data))
        s = mg_fail(err, MG_ERR_FORMAT, "tokenizer without vocab or merges");
    if (!s && mg_json_f64(small[DROPOUT], &dropout) && dropout != 0) s = unsupported("model option", "dropout", err);
    for (int i = PREFIX; i <= SUFFIX && !s; i++)
        if (mg_json_str(small[i]) && *mg_json_str(small[i])) s = unsupported("model option", k[i].name, err);
    t->by_rank = true;
    mg_json_bool(small[FUSE], &t->fuse_unk);
    mg_json_bool(small[BYTES], &t->byte_fallback);
    mg_json_bool(small[IGNORE], &t->ignore_merges);
    if (!s) s = read_tokens(t, &k[VOCAB], added, err);
    if (!s) s = read_merges(t, &k[MERGES], err);
    if (!s && unk) {
        uint32_t id = mg_strmap_get(&t->pieces, unk, strlen(unk));
        if (id == MG_STRMAP_NONE)
            s = mg_fail(err, MG_ERR_FORMAT, "tokenizer: unk_token '%s' is not in the vocabulary", unk);
        t->unk = s ? -1 : (int32_t)id;
        if (!s && t->tokens[id].type != MG_TOKEN_USER_DEFINED) t->tokens[id].type = MG_TOKEN_UNKNOWN;
    }
    for (int i = 0; i <= IGNORE; i++) mg_json_free(small[i]);
    return s;
}

/* "<0x0A>" in the vocabulary of a model with byte fallback. */
static void mark_bytes(mg_tokenizer *t) {
    for (unsigned b = 0; b < 256 && t->byte_fallback; b++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", b);
        uint32_t id = mg_strmap_get(&t->pieces, name, 6);
        if (id != MG_STRMAP_NONE) t->tokens[id].type = MG_TOKEN_BYTE;
    }
}

mg_status mg_tokenizer_read_json(mg_tokenizer *t, const char *text, size_t n, mg_error *err) {
    enum { ADDED, NORMALIZER, PRE, POST, DECODER, MODEL, N };
    mg_json_section k[N] = {{"added_tokens", {0}, 0},   {"normalizer", {0}, 0}, {"pre_tokenizer", {0}, 0},
                            {"post_processor", {0}, 0}, {"decoder", {0}, 0},    {"model", {0}, 0}};
    mg_json *tree[N] = {0};
    mg_status s = mg_json_sections((mg_span){(const uint8_t *)text, n}, 0, k, N, err);
    for (int i = NORMALIZER; i <= DECODER && !s; i++) s = mg_json_section_tree(&tree[i], &k[i], err);
    /* first what may be refused by name */
    if (!s) s = mg_tokenizer_read_normalizer(t, tree[NORMALIZER], err);
    if (!s) s = mg_tokenizer_read_pre_tokenizer(t, tree[PRE], err);
    if (!s) s = read_model(t, &k[MODEL], &k[ADDED], err);
    if (!s) mark_bytes(t);
    if (!s) s = mg_tokenizer_read_post_processor(t, tree[POST], err);
    if (!s) s = mg_tokenizer_read_decoder(t, tree[DECODER], err);
    for (int i = 0; i < N; i++) mg_json_free(tree[i]);
    return s;
}
