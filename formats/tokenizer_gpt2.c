/* tokenizer_gpt2.c - a tokenizer from the arrays of a GGUF file whose tokenizer.ggml.model is "gpt2": byte-level BPE,
 * tokens in the byte alphabet, merges by rank, words cut as tokenizer.ggml.pre names it (gguf_pre.inc). GGUF has no
 * place for Unicode normalization or for the white space around added tokens: ids are those of llama.cpp, which does
 * without. */
#include <stdlib.h>
#include <string.h>

#include "formats/tokenizer_impl.h"

enum { MAX_EXPRESSIONS = 6 };
enum { BOS_ON_REQUEST, BOS_ADDED, BOS_NONE };

#define MG_PRE_SET(set, ...)    static const char *const set[MAX_EXPRESSIONS + 1] = {__VA_ARGS__};
#define MG_PRE_NAME(n, s, i, b) /* below */
#include "formats/gguf_pre.inc"
#undef MG_PRE_SET
#undef MG_PRE_NAME

static const struct {
    const char *name, *const *expressions;
    bool ignore_merges;
    int bos;
} kinds[] = {
#define MG_PRE_SET(set, ...)    /* above */
#define MG_PRE_NAME(n, s, i, b) {n, s, i, b},
#include "formats/gguf_pre.inc"
#undef MG_PRE_SET
#undef MG_PRE_NAME
};

#define N_KINDS (sizeof kinds / sizeof *kinds)

static size_t kind_named(const char *name) {
    size_t i = 0;
    while (i < N_KINDS && strcmp(kinds[i].name, name) != 0) i++;
    return i;
}

const char *const *mg_tokenizer_pre_expressions(const char *name, bool *ignore_merges) {
    const size_t i = kind_named(name);
    if (i == N_KINDS) return NULL;
    *ignore_merges = kinds[i].ignore_merges;
    return kinds[i].expressions;
}

static mg_status set_pre(mg_tokenizer *t, const char *name, mg_error *err) {
    const size_t i = kind_named(name);
    if (i == N_KINDS) return mg_fail(err, MG_ERR_UNSUPPORTED, "key 'tokenizer.ggml.pre': pre-tokenizer '%s'", name);
    mg_status s = MG_OK;
    for (unsigned k = 0; kinds[i].expressions[k] && !s; k++)
        s = mg_tokenizer_add_split(t, kinds[i].expressions[k], MG_TOK_ISOLATED, false, err);
    if (!s) s = mg_tokenizer_add_pre(t, (mg_tok_pre){.kind = MG_TOK_PRE_BYTES}, err);
    t->ignore_merges = kinds[i].ignore_merges;
    t->add_bos = kinds[i].bos == BOS_ADDED;
    if (kinds[i].bos == BOS_NONE) t->bos = -1;
    return s;
}

/* Pieces are the tokens that are text; one that is added and nothing else counts where no such token has its text. */
static mg_status index_pieces(mg_tokenizer *t, mg_error *err) {
    mg_status s = MG_OK;
    for (int added = 0; added < 2; added++)
        for (uint32_t i = 0; i < t->n && !s; i++) {
            const mg_token *k = &t->tokens[i];
            uint32_t before;
            if ((k->type != MG_TOKEN_NORMAL) != added || k->len == 0) continue;
            s = mg_strmap_put(&t->pieces, k->text, k->len, i, &before, err);
            if (!s && !added && before != MG_STRMAP_NONE)
                s = mg_fail(err, MG_ERR_FORMAT, "tokenizer: tokens %u and %u are both '%s'", before, i, k->text);
        }
    return s;
}

/* "a b": cut at the first blank behind the first byte. Blanks inside of a side are written as another character. */
static mg_status read_merges(mg_tokenizer *t, const mg_kv *merges, mg_error *err) {
    mg_tok_text both = {0};
    mg_status s = MG_ARENA_NEW(&t->arena, &t->merges, merges->count, err);
    if (!s) s = MG_ARENA_NEW(&t->arena, &t->merged, merges->count, err);
    for (uint64_t i = 0; i < merges->count && !s; i++) {
        const mg_str *m = (const mg_str *)merges->data + i;
        const char *blank = m->size > 1 ? memchr(m->data + 1, ' ', m->size - 1) : NULL;
        if (!blank) {
            s = mg_fail(err, MG_ERR_FORMAT, "tokenizer.ggml.merges[%llu] '%.200s' is no pair", (unsigned long long)i,
                        m->data);
            break;
        }
        size_t left = (size_t)(blank - m->data);
        both.n = 0;
        s = mg_tok_put(&both, m->data, left, err);
        if (!s) s = mg_tok_put(&both, blank + 1, m->size - left - 1, err);
        if (!s) s = mg_tokenizer_place_merge(t, both.data, left, both.n, err);
    }
    free(both.data);
    return s;
}

static mg_status read_ids(mg_tokenizer *t, const mg_kvs *kv, mg_error *err) {
    mg_status s = mg_tokenizer_kv_id(kv, "tokenizer.ggml.bos_token_id", &t->bos, err);
    if (!s) s = mg_tokenizer_kv_id(kv, "tokenizer.ggml.eos_token_id", &t->eos, err);
    if (!s) s = mg_tokenizer_kv_flag(kv, "tokenizer.ggml.add_bos_token", &t->add_bos, err);
    return s ? s : mg_tokenizer_kv_flag(kv, "tokenizer.ggml.add_eos_token", &t->add_eos, err);
}

mg_status mg_tokenizer_read_gpt2(mg_tokenizer *t, const mg_kvs *kv, mg_error *err) {
    const mg_kv *text, *type, *merges, *pre = mg_kvs_get(kv, "tokenizer.ggml.pre");
    mg_str name = {"default", 7};
    bool prefix = false;
    if (pre && !mg_kv_str(pre, &name))
        return mg_fail(err, MG_ERR_FORMAT, "key 'tokenizer.ggml.pre': expected a string");
    mg_status s = mg_tokenizer_kv_array(kv, "tokenizer.ggml.tokens", MG_KV_STR, 0, &text, err);
    if (!s) s = mg_tokenizer_kv_array(kv, "tokenizer.ggml.token_type", MG_KV_I32, text->count, &type, err);
    if (!s) s = mg_tokenizer_kv_array(kv, "tokenizer.ggml.merges", MG_KV_STR, 0, &merges, err);
    if (!s) s = mg_tokenizer_kv_flag(kv, "tokenizer.ggml.add_space_prefix", &prefix, err);
    if (!s && prefix) s = mg_fail(err, MG_ERR_UNSUPPORTED, "byte-level tokenizer with add_space_prefix");
    if (!s) s = mg_tokenizer_kv_tokens(t, text, NULL, type, err);
    if (s) return s;
    t->by_rank = t->raw_added_tokens = true;
    t->bos = t->eos = t->n > 11 ? 11 : -1; /* llama.cpp's defaults for this kind */
    s = set_pre(t, name.data, err);
    if (!s) s = index_pieces(t, err);
    if (!s) s = read_merges(t, merges, err);
    if (!s) s = mg_tokenizer_add_specials(t, err);
    return s ? s : read_ids(t, kv, err);
}
