/* tokenizer_spm.c - a tokenizer from the vocabularies merged by score: SentencePiece's tokenizer.model, and the arrays
 * of a GGUF file whose tokenizer.ggml.model is "llama" (the same pieces, scores and types); and what that reader shares
 * with tokenizer_gpt2.c. */
#include <string.h>

#include "formats/spm_model.h"
#include "formats/tokenizer_impl.h"

mg_status mg_tokenizer_add_specials(mg_tokenizer *t, mg_error *err) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->n; i++)
        n += t->tokens[i].type >= MG_TOKEN_UNKNOWN && t->tokens[i].type <= MG_TOKEN_USER_DEFINED;
    mg_status s = MG_ARENA_NEW(&t->arena, &t->added, n + 1, err);
    for (uint32_t i = 0; i < t->n && !s; i++) {
        const mg_token *k = &t->tokens[i];
        if (k->type < MG_TOKEN_UNKNOWN || k->type > MG_TOKEN_USER_DEFINED || k->len == 0) continue;
        t->added[t->n_added++] = (mg_tok_added){.id = (int32_t)i, .special = k->type != MG_TOKEN_USER_DEFINED};
    }
    return s;
}

static mg_status set_text_rules(mg_tokenizer *t, bool prefix, mg_error *err) {
    mg_status s = MG_OK;
    if (prefix) s = mg_tokenizer_add_op(t->ops, &t->n_ops, MG_TOK_PREPEND, NULL, MG_SPACE_MARK, err);
    if (!s) s = mg_tokenizer_add_op(t->ops, &t->n_ops, MG_TOK_REPLACE, " ", MG_SPACE_MARK, err);
    t->marks_to_blanks = t->bytes_to_text = true;
    t->strip = prefix ? MG_TOK_STRIP_ONE : MG_TOK_STRIP_NONE;
    return s;
}

/* ---- tokenizer.model ---- */

static mg_status check_spm(const mg_spm_model *m, mg_error *err) {
    static const char *const kind[] = {"0", "unigram", "BPE", "word", "char"};
    if (m->model_type != 1 && m->model_type != 2)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "SentencePiece model of kind '%s'; unigram and BPE are supported",
                       m->model_type >= 1 && m->model_type <= 4 ? kind[m->model_type] : "unknown");
    if (!m->escape_whitespaces)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "SentencePiece model without escape_whitespaces");
    if (m->whitespace_as_suffix)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "SentencePiece model with treat_whitespace_as_suffix");
    for (uint32_t i = 0; i < m->n; i++)
        if (m->pieces[i].type == MG_TOKEN_UNUSED)
            return mg_fail(err, MG_ERR_UNSUPPORTED, "SentencePiece model with unused pieces (%u)", i);
    return MG_OK;
}

/* Scores as they are. */
static mg_status set_unigram(mg_tokenizer *t, const mg_spm_model *m, mg_error *err) {
    t->unigram = t->sentencepiece = true;
    t->byte_fallback = m->byte_fallback;
    t->n_pieces = t->n;
    MG_TRY(MG_ARENA_NEW(&t->arena, &t->scores, (size_t)t->n + 1, err));
    for (uint32_t i = 0; i < t->n; i++) t->scores[i] = (double)t->tokens[i].score;
    return MG_OK;
}

/* The steps that SentencePiece normalizes with, before the blank in front. */
static mg_status set_normalizer(mg_tokenizer *t, const mg_spm_model *m, mg_error *err) {
    if (m->charsmap_bytes) {
        MG_TRY(mg_tokenizer_add_op(t->ops, &t->n_ops, MG_TOK_CHARSMAP_LONGEST, NULL, NULL, err));
        MG_TRY(mg_charsmap_init(&t->ops[0].charsmap, m->charsmap, m->charsmap_bytes, err));
        t->ops[0].leaves = t;
    }
    if (!m->remove_extra_whitespaces) return MG_OK;
    return mg_tokenizer_add_op(t->ops, &t->n_ops, MG_TOK_SQUEEZE, NULL, NULL, err);
}

/* User-defined pieces are looked for in the normalized text, as they are written. */
static void find_normalized(mg_tokenizer *t) {
    for (uint32_t i = 0; i < t->n_added; i++) {
        mg_tok_added *a = &t->added[i];
        if (a->special) continue;
        a->normalized = true;
        a->match = t->tokens[a->id].text;
        a->len = t->tokens[a->id].len;
    }
}

static mg_status from_spm(mg_tokenizer *t, mg_spm_model *m, mg_error *err) {
    mg_status s = check_spm(m, err);
    if (s) return s;
    t->tokens = m->pieces;
    t->n = m->n;
    t->arena = m->arena; /* the pieces live on */
    m->arena = (mg_arena){0};
    t->unk = m->unk_id;
    t->bos = m->bos_id;
    t->eos = m->eos_id;
    t->add_bos = m->model_type == 2; /* what LlamaTokenizer does unless its config says otherwise */
    s = mg_tokenizer_add_specials(t, err);
    if (!s) find_normalized(t);
    if (!s && m->model_type == 1) s = set_unigram(t, m, err);
    if (!s) s = set_normalizer(t, m, err);
    return s ? s : set_text_rules(t, m->add_dummy_prefix, err);
}

mg_status mg_tokenizer_read_spm(mg_tokenizer *t, const char *path, mg_error *err) {
    mg_spm_model m;
    mg_status s = mg_spm_model_load(&m, path, err);
    if (s) return s;
    s = from_spm(t, &m, err);
    mg_spm_model_release(&m);
    return s;
}

/* ---- GGUF ---- */

mg_status mg_tokenizer_kv_array(const mg_kvs *kv, const char *key, mg_kv_type elem, uint64_t n, const mg_kv **out,
                                mg_error *err) {
    const mg_kv *v = mg_kvs_get(kv, key);
    if (!v) return mg_fail(err, MG_ERR_FORMAT, "key '%s' is missing", key);
    if (v->type != MG_KV_ARR || v->elem != elem)
        return mg_fail(err, MG_ERR_FORMAT, "key '%s': expected an array of type %d, found type %d%s", key, (int)elem,
                       (int)(v->type == MG_KV_ARR ? v->elem : v->type), v->type == MG_KV_ARR ? " in an array" : "");
    if (v->count == 0 || v->count > INT32_MAX || (n && v->count != n))
        return mg_fail(err, MG_ERR_FORMAT, "key '%s': %llu elements, the vocabulary has %llu", key,
                       (unsigned long long)v->count, (unsigned long long)n);
    *out = v;
    return MG_OK;
}

mg_status mg_tokenizer_kv_id(const mg_kvs *kv, const char *key, int32_t *out, mg_error *err) {
    const mg_kv *v = mg_kvs_get(kv, key);
    uint64_t id;
    if (!v) return MG_OK;
    if (!mg_kv_u64(v, &id)) return mg_fail(err, MG_ERR_FORMAT, "key '%s': expected a token id", key);
    if (id == UINT32_MAX) return MG_OK;              /* -1 written as u32: none */
    *out = id > INT32_MAX ? INT32_MAX : (int32_t)id; /* out of range is found when finishing */
    return MG_OK;
}

mg_status mg_tokenizer_kv_flag(const mg_kvs *kv, const char *key, bool *out, mg_error *err) {
    const mg_kv *v = mg_kvs_get(kv, key);
    if (v && !mg_kv_bool(v, out)) return mg_fail(err, MG_ERR_FORMAT, "key '%s': expected a boolean", key);
    return MG_OK;
}

mg_status mg_tokenizer_kv_tokens(mg_tokenizer *t, const mg_kv *text, const mg_kv *score, const mg_kv *type,
                                 mg_error *err) {
    t->n = (uint32_t)text->count;
    mg_status s = MG_ARENA_NEW(&t->arena, &t->tokens, t->n, err);
    for (uint32_t i = 0; i < t->n && !s; i++) {
        const mg_str *str = (const mg_str *)text->data + i;
        int32_t kind;
        float value = 0;
        memcpy(&kind, (const char *)type->data + 4 * (size_t)i, 4);
        if (score) memcpy(&value, (const char *)score->data + 4 * (size_t)i, 4);
        if (kind < MG_TOKEN_NORMAL || kind > MG_TOKEN_BYTE)
            return mg_fail(err, MG_ERR_FORMAT, "tokenizer.ggml.token_type[%u] = %d: expected 1 to 6", i, kind);
        if (str->size > UINT32_MAX) return mg_fail(err, MG_ERR_LIMIT, "token %u is longer than 4 GiB", i);
        char *copy = mg_arena_strndup(&t->arena, str->data, str->size);
        if (!copy) return mg_fail_nomem(err, str->size);
        t->tokens[i] = (mg_token){copy, (uint32_t)str->size, (mg_token_type)kind, value};
    }
    return s;
}

static mg_status from_kv(mg_tokenizer *t, const mg_kvs *kv, mg_error *err) {
    const mg_kv *text, *score, *type;
    bool prefix = true;
    t->add_bos = true; /* this and the ids: llama.cpp's defaults for this kind */
    t->unk = 0, t->bos = 1, t->eos = 2;
    mg_status s = mg_tokenizer_kv_array(kv, "tokenizer.ggml.tokens", MG_KV_STR, 0, &text, err);
    if (!s) s = mg_tokenizer_kv_array(kv, "tokenizer.ggml.scores", MG_KV_F32, text->count, &score, err);
    if (!s) s = mg_tokenizer_kv_array(kv, "tokenizer.ggml.token_type", MG_KV_I32, text->count, &type, err);
    if (!s) s = mg_tokenizer_kv_tokens(t, text, score, type, err);
    if (!s) s = mg_tokenizer_kv_id(kv, "tokenizer.ggml.bos_token_id", &t->bos, err);
    if (!s) s = mg_tokenizer_kv_id(kv, "tokenizer.ggml.eos_token_id", &t->eos, err);
    if (!s) s = mg_tokenizer_kv_id(kv, "tokenizer.ggml.unknown_token_id", &t->unk, err);
    if (!s) s = mg_tokenizer_kv_flag(kv, "tokenizer.ggml.add_bos_token", &t->add_bos, err);
    if (!s) s = mg_tokenizer_kv_flag(kv, "tokenizer.ggml.add_eos_token", &t->add_eos, err);
    if (!s) s = mg_tokenizer_kv_flag(kv, "tokenizer.ggml.add_space_prefix", &prefix, err);
    if (!s) s = mg_tokenizer_add_specials(t, err);
    return s ? s : set_text_rules(t, prefix, err);
}

mg_status mg_tokenizer_open_kv(mg_tokenizer **out, const mg_kvs *kv, const char *name, mg_error *err) {
    *out = NULL;
    const mg_kv *model = mg_kvs_get(kv, "tokenizer.ggml.model");
    mg_str kind;
    if (!model) return MG_OK;
    mg_tokenizer *t = NULL;
    mg_status s = MG_OK;
    if (!mg_kv_str(model, &kind)) s = mg_fail(err, MG_ERR_FORMAT, "key 'tokenizer.ggml.model': expected a string");
    bool bytes = !s && strcmp(kind.data, "gpt2") == 0;
    if (!s && !bytes && strcmp(kind.data, "llama") != 0)
        s = mg_fail(err, MG_ERR_UNSUPPORTED,
                    "tokenizer of model '%s'; 'llama' (SentencePiece) and 'gpt2' (byte-level BPE) are supported",
                    kind.data);
    if (!s) s = mg_tokenizer_new(&t, err);
    if (!s) s = bytes ? mg_tokenizer_read_gpt2(t, kv, err) : from_kv(t, kv, err);
    if (!s) s = mg_tokenizer_finish(t, err);
    if (s) {
        mg_error_at(err, name, NULL);
        mg_tokenizer_free(t);
        return s;
    }
    *out = t;
    return MG_OK;
}
