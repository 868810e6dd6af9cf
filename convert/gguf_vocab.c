/* gguf_vocab.c - see gguf_vocab.h: tokens, scores, types and merges. The rest is gguf_special.c. */
#include "convert/gguf_vocab.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/gguf_special.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/json.h"
#include "formats/spm_model.h"
#include "formats/tokenizer.h"

/* The three arrays in the making. Texts live in the arena. */
typedef struct vocab {
    mg_arena arena;
    mg_str *text;
    float *score;
    int32_t *type;
    uint64_t n;
    const char *pre; /* byte-level BPE: how text is cut; else NULL */
    mg_str *merges;
    uint32_t n_merges;
} vocab;

enum { MAX_SIDE = 64 << 20, MAX_VOCAB = 1 << 24 };

static bool has_file(const char *dir, const char *name) {
    char path[4096];
    mg_error ignored = {0};
    return mg_path_join(path, sizeof path, dir, name, &ignored) == MG_OK && mg_path_exists(path);
}

static mg_status load_side(mg_json **out, const char *dir, const char *name, mg_error *err) {
    char path[4096];
    *out = NULL;
    if (!has_file(dir, name)) return MG_OK;
    mg_status s = mg_path_join(path, sizeof path, dir, name, err);
    return s ? s : mg_json_load(out, path, MAX_SIDE, err);
}

static mg_status set_token(vocab *v, uint64_t id, const char *text, float score, mg_token_type type, mg_error *err) {
    char *copy = mg_arena_strdup(&v->arena, text);
    if (!copy) return mg_fail_nomem(err, strlen(text));
    v->text[id] = (mg_str){copy, strlen(copy)};
    v->score[id] = score;
    v->type[id] = (int32_t)type;
    return MG_OK;
}

/* n tokens, all of them padding so far. */
static mg_status start(vocab *v, uint64_t n, mg_error *err) {
    if (n > MAX_VOCAB) return mg_fail(err, MG_ERR_LIMIT, "vocabulary of %llu tokens", (unsigned long long)n);
    v->n = n;
    mg_status s = MG_ARENA_NEW(&v->arena, &v->text, n, err);
    if (!s) s = MG_ARENA_NEW(&v->arena, &v->score, n, err);
    if (!s) s = MG_ARENA_NEW(&v->arena, &v->type, n, err);
    for (uint64_t i = 0; i < n && !s; i++) {
        char pad[32];
        snprintf(pad, sizeof pad, "[PAD%llu]", (unsigned long long)i);
        s = set_token(v, i, pad, -10000.0f, MG_TOKEN_UNUSED, err);
    }
    return s;
}

/* ---- tokenizer.model ---- */

static mg_status take_pieces(vocab *v, const mg_spm_model *m, uint64_t rows, mg_error *err) {
    if (m->model_type != 2) return mg_fail(err, MG_ERR_UNSUPPORTED, "SentencePiece model of another kind than BPE");
    mg_status s = start(v, rows ? rows : m->n, err);
    for (uint64_t i = 0; i < m->n && i < v->n && !s; i++) {
        const mg_token *k = &m->pieces[i];
        /* the converter asks for unknown, control, unused and byte; what is left is normal, user-defined pieces too */
        mg_token_type type = k->type == MG_TOKEN_USER_DEFINED ? MG_TOKEN_NORMAL : k->type;
        s = set_token(v, i, k->text, k->score, type, err);
    }
    return s;
}

static mg_status bad_id(const char *file, const char *what, mg_error *err) {
    return mg_fail(err, MG_ERR_FORMAT, "%s: token id of '%s' is no number", file, what);
}

/* added_tokens.json: {"<pad>": 32000} */
static mg_status take_added_file(vocab *v, const char *dir, mg_error *err) {
    mg_json *root;
    mg_status s = load_side(&root, dir, "added_tokens.json", err);
    for (const mg_json *k = mg_json_first(root); k && !s; k = mg_json_next(k)) {
        uint64_t id;
        if (!mg_json_u64(k, &id))
            s = bad_id("added_tokens.json", mg_json_key(k), err);
        else if (id < v->n)
            s = set_token(v, id, mg_json_key(k), -1000.0f, MG_TOKEN_USER_DEFINED, err);
    }
    mg_json_free(root);
    return s;
}

static bool begins_and_ends(const char *s, const char *head, const char *tail) {
    size_t n = strlen(s), h = strlen(head), t = strlen(tail);
    return n >= h && n >= t && strncmp(s, head, h) == 0 && strcmp(s + n - t, tail) == 0;
}

/* Added tokens that are not marked special and are control tokens all the same; the converter's list. */
static bool looks_special(const char *s) {
    static const char *const names[] = {"<pad>", "<mask>", "<2mass>", "[@BOS@]"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(s, names[i]) == 0) return true;
    return begins_and_ends(s, "<|", "|>") || begins_and_ends(s, "<\xEF\xBD\x9C", "\xEF\xBD\x9C>") ||
           begins_and_ends(s, "<unused", ">");
}

/* text with U+2581 as blanks, in the arena. */
static char *with_blanks(vocab *v, const char *text) {
    char *copy = mg_arena_strdup(&v->arena, text), *out = copy;
    if (!copy) return NULL;
    for (const char *s = text; *s; out++) {
        bool mark = strncmp(s, "\xE2\x96\x81", 3) == 0;
        *out = mark ? ' ' : *s;
        s += mark ? 3 : 1;
    }
    *out = 0;
    return copy;
}

/* tokenizer_config.json: "added_tokens_decoder": {"0": {"content": "<unk>", "special": true}} */
static mg_status take_added_config(vocab *v, const mg_json *config, mg_error *err) {
    mg_status s = MG_OK;
    for (const mg_json *k = mg_json_first(mg_json_get(config, "added_tokens_decoder")); k && !s; k = mg_json_next(k)) {
        const char *content = mg_json_str(mg_json_get(k, "content")), *key = mg_json_key(k);
        char *end = NULL;
        unsigned long long id = *key >= '0' && *key <= '9' ? strtoull(key, &end, 10) : 0;
        bool special = false;
        if (!content || !end || *end) return bad_id("tokenizer_config.json", key, err);
        if (id >= v->n) continue;
        mg_json_bool(mg_json_get(k, "special"), &special);
        special = special || looks_special(content);
        if (!special) content = with_blanks(v, content);
        if (!content) return mg_fail_nomem(err, 1);
        s = set_token(v, id, content, -1000.0f, special ? MG_TOKEN_CONTROL : MG_TOKEN_USER_DEFINED, err);
    }
    return s;
}

static mg_status from_spm(vocab *v, const char *dir, const mg_json *config, uint64_t rows, mg_error *err) {
    char path[4096];
    mg_spm_model m;
    mg_status s = mg_path_join(path, sizeof path, dir, "tokenizer.model", err);
    if (!s) s = mg_spm_model_load(&m, path, err);
    if (s) return s;
    s = take_pieces(v, &m, rows, err);
    mg_error_at(s ? err : NULL, path, NULL);
    mg_spm_model_release(&m);
    if (!s) s = take_added_file(v, dir, err);
    return s ? s : take_added_config(v, config, err);
}

/* ---- tokenizer.json ---- */

static mg_status take_tokens(vocab *v, const mg_tokenizer *t, uint64_t rows, mg_error *err) {
    uint64_t own = mg_tokenizer_size(t);
    float *scores = malloc(own * sizeof *scores);
    if (!scores) return mg_fail_nomem(err, own * sizeof *scores);
    mg_status s = mg_tokenizer_scores(t, scores, err);
    if (!s) s = start(v, rows ? rows : own, err);
    for (uint64_t i = 0; i < own && i < v->n && !s; i++) {
        const mg_token *k = mg_tokenizer_token(t, (int32_t)i);
        bool user = k->type == MG_TOKEN_USER_DEFINED;
        bool control = user && looks_special(k->text);
        const char *text = user && !control ? with_blanks(v, k->text) : k->text;
        if (!text) s = mg_fail_nomem(err, k->len);
        if (!s) s = set_token(v, i, text, user ? -1000.0f : scores[i], control ? MG_TOKEN_CONTROL : k->type, err);
    }
    free(scores);
    return s;
}

/* ---- byte-level BPE ---- */

/* The name by which llama.cpp knows how the tokenizer cuts text. */
static mg_status find_pre(const mg_tokenizer *t, const char **out, mg_error *err) {
    static const char text[] =
#define MG_PRE_CHECK_TEXT
#include "convert/gguf_pre_hashes.inc"
#undef MG_PRE_CHECK_TEXT
        ;
    static const struct {
        const char *hash, *name;
    } known[] = {
#define MG_PRE_HASH(hash, name) {hash, name},
#include "convert/gguf_pre_hashes.inc"
#undef MG_PRE_HASH
    };
    mg_ids ids = {0};
    mg_sha256 h;
    uint8_t digest[32];
    char hex[65], number[16];
    mg_status s = mg_tokenizer_encode(t, text, sizeof text - 1, MG_ENCODE_DEFAULT, &ids, err);
    mg_sha256_init(&h);
    mg_sha256_update(&h, "[", 1);
    for (size_t i = 0; i < ids.n; i++)
        mg_sha256_update(&h, number, (size_t)snprintf(number, sizeof number, i ? ", %d" : "%d", ids.ids[i]));
    mg_sha256_update(&h, "]", 1);
    mg_sha256_final(&h, digest);
    mg_hex(digest, 32, hex);
    mg_ids_release(&ids);
    for (size_t i = 0; i < sizeof known / sizeof *known && !s; i++)
        if (strcmp(known[i].hash, hex) == 0) {
            *out = known[i].name;
            return MG_OK;
        }
    return s ? s
             : mg_fail(err, MG_ERR_UNSUPPORTED,
                       "byte-level tokenizer that no tokenizer.ggml.pre is known for (check hash %s)", hex);
}

/* An added token as readers of GGUF look for it: what encoding and decoding make of it, blanks for marks. */
static mg_status take_added(vocab *v, const mg_tokenizer *t, uint64_t i, bool special, bool normalized, mg_error *err) {
    const mg_token *k = mg_tokenizer_token(t, (int32_t)i);
    char *text = NULL;
    mg_ids ids = {0};
    mg_status s = MG_OK;
    if (!normalized) {
        s = mg_tokenizer_encode(t, k->text, k->len, MG_ENCODE_SPECIAL, &ids, err);
        if (!s) s = mg_tokenizer_decode(t, ids.ids, ids.n, 0, &text, NULL, err);
    }
    bool control = special || looks_special(text ? text : k->text);
    const char *found = text ? text : k->text;
    if (!s && !control) found = with_blanks(v, found);
    if (!s && !found) s = mg_fail_nomem(err, k->len);
    if (!s) s = set_token(v, i, found, 0, control ? MG_TOKEN_CONTROL : MG_TOKEN_USER_DEFINED, err);
    mg_ids_release(&ids);
    free(text);
    return s;
}

/* "left right" with blanks inside of a side written as U+0120. */
static mg_status take_merge(vocab *v, const mg_tokenizer *t, uint32_t i, mg_error *err) {
    const mg_token *side[2];
    mg_tokenizer_merge(t, i, &side[0], &side[1]);
    char *out = mg_arena_alloc(&v->arena, 2 * ((size_t)side[0]->len + side[1]->len) + 2, 1);
    size_t n = 0;
    if (!out) return mg_fail_nomem(err, side[0]->len);
    for (int k = 0; k < 2; k++) {
        for (uint32_t at = 0; at < side[k]->len; at++) {
            char c = side[k]->text[at];
            if (c == ' ') out[n++] = '\xC4';
            out[n++] = c == ' ' ? '\xA0' : c;
        }
        if (k == 0) out[n++] = ' ';
    }
    v->merges[i] = (mg_str){out, n};
    return MG_OK;
}

static mg_status take_byte_level(vocab *v, const mg_tokenizer *t, uint64_t rows, mg_error *err) {
    uint64_t own = mg_tokenizer_size(t);
    if (rows && own > rows)
        return mg_fail(err, MG_ERR_CONFLICT, "the tokenizer has %llu tokens, config.json's vocab_size is %llu",
                       (unsigned long long)own, (unsigned long long)rows);
    mg_status s = find_pre(t, &v->pre, err);
    if (!s) s = start(v, rows ? rows : own, err);
    for (uint64_t i = 0; i < own && !s; i++) {
        const mg_token *k = mg_tokenizer_token(t, (int32_t)i);
        bool special = false, normalized = false;
        if (k->type != MG_TOKEN_NORMAL && mg_tokenizer_is_added(t, (int32_t)i, &special, &normalized))
            s = take_added(v, t, i, special, normalized, err);
        else
            s = set_token(v, i, k->text, 0, MG_TOKEN_NORMAL, err);
    }
    v->n_merges = mg_tokenizer_n_merges(t);
    if (!s) s = MG_ARENA_NEW(&v->arena, &v->merges, v->n_merges + 1, err);
    for (uint32_t i = 0; i < v->n_merges && !s; i++) s = take_merge(v, t, i, err);
    return s;
}

static mg_status from_json(vocab *v, const char *dir, uint64_t rows, bool *adds_blank, mg_error *err) {
    char path[4096];
    mg_tokenizer *t = NULL;
    mg_status s = mg_path_join(path, sizeof path, dir, "tokenizer.json", err);
    if (!s) s = mg_tokenizer_open_json(&t, path, err);
    if (!s && mg_tokenizer_is_byte_level(t)) { /* with the side files: the check text may begin with BOS */
        mg_tokenizer_free(t);
        s = mg_tokenizer_open_dir(&t, dir, err);
        if (!s) s = take_byte_level(v, t, rows, err);
    } else if (!s) {
        s = take_tokens(v, t, rows, err);
    }
    if (!s) *adds_blank = mg_tokenizer_adds_blank(t);
    mg_error_at(s ? err : NULL, path, NULL);
    mg_tokenizer_free(t);
    return s;
}

/* ---- keys ---- */

/* add_space_prefix goes first: when tokenizer_config.json has a say, or a tokenizer.json puts no blank before the text
 * (which a reader would otherwise do). */
static mg_status put_space_prefix(mg_kvs *kv, const mg_json *config, bool adds_blank, mg_error *err) {
    const mg_json *say = mg_json_get(config, "add_prefix_space");
    bool value = adds_blank;
    if (mg_json_type(say) == MG_JSON_NULL)
        return adds_blank ? MG_OK : mg_kvs_set_bool(kv, "tokenizer.ggml.add_space_prefix", false, err);
    if (!mg_json_bool(say, &value))
        return mg_fail(err, MG_ERR_FORMAT, "tokenizer_config.json: add_prefix_space is no boolean");
    return mg_kvs_set_bool(kv, "tokenizer.ggml.add_space_prefix", value, err);
}

static mg_status put_byte_level(mg_kvs *kv, const vocab *v, mg_error *err) {
    mg_status s = mg_kvs_set_str(kv, "tokenizer.ggml.model", "gpt2", 4, err);
    if (!s) s = mg_kvs_set_str(kv, "tokenizer.ggml.pre", v->pre, strlen(v->pre), err);
    if (!s) s = mg_kvs_set_arr(kv, "tokenizer.ggml.tokens", MG_KV_STR, v->n, v->text, err);
    if (!s) s = mg_kvs_set_arr(kv, "tokenizer.ggml.token_type", MG_KV_I32, v->n, v->type, err);
    return s ? s : mg_kvs_set_arr(kv, "tokenizer.ggml.merges", MG_KV_STR, v->n_merges, v->merges, err);
}

static mg_status put_vocab(mg_kvs *kv, const vocab *v, mg_error *err) {
    if (v->pre) return put_byte_level(kv, v, err);
    mg_status s = mg_kvs_set_str(kv, "tokenizer.ggml.model", "llama", 5, err);
    if (!s) s = mg_kvs_set_str(kv, "tokenizer.ggml.pre", "default", 7, err);
    if (!s) s = mg_kvs_set_arr(kv, "tokenizer.ggml.tokens", MG_KV_STR, v->n, v->text, err);
    if (!s) s = mg_kvs_set_arr(kv, "tokenizer.ggml.scores", MG_KV_F32, v->n, v->score, err);
    return s ? s : mg_kvs_set_arr(kv, "tokenizer.ggml.token_type", MG_KV_I32, v->n, v->type, err);
}

static mg_status append(mg_kvs *kv, const char *dir, const mg_json *config, uint64_t rows, vocab *v, mg_error *err) {
    bool adds_blank = true;
    mg_status s = has_file(dir, "tokenizer.model") ? from_spm(v, dir, config, rows, err)
                                                   : from_json(v, dir, rows, &adds_blank, err);
    if (!s && !v->pre) s = put_space_prefix(kv, config, adds_blank, err);
    if (!s) s = put_vocab(kv, v, err);
    /* Told by the size of the vocabulary, as the converter does: granite's code models never begin with BOS, CodeLlama
     * has an end of infill. */
    if (!s) s = mg_gguf_special_append(kv, dir, config, v->n, rows == 49152, err);
    if (!s && rows == 32016 && !mg_kvs_get(kv, "tokenizer.ggml.eot_token_id"))
        s = mg_kvs_set_u32(kv, "tokenizer.ggml.eot_token_id", 32010, err);
    return s;
}

mg_status mg_gguf_vocab_append(mg_kvs *kv, const char *hf_dir, uint64_t vocab_rows, bool *had_tokenizer,
                               mg_error *err) {
    static const char *const others[] = {"tekken.json", "vocab.json", "vocab.txt"};
    mg_json *config;
    *had_tokenizer = has_file(hf_dir, "tokenizer.model") || has_file(hf_dir, "tokenizer.json");
    for (size_t i = 0; i < sizeof others / sizeof *others && !*had_tokenizer; i++)
        if (has_file(hf_dir, others[i]))
            return mg_fail(err, MG_ERR_UNSUPPORTED, "tokenizer files of the kind '%s'", others[i]);
    if (!*had_tokenizer) return MG_OK;
    vocab v = {0};
    mg_arena_init(&v.arena, UINT64_C(1) << 31);
    mg_status s = load_side(&config, hf_dir, "tokenizer_config.json", err);
    if (!s) s = append(kv, hf_dir, config, vocab_rows, &v, err);
    mg_json_free(config);
    mg_arena_release(&v.arena);
    return s;
}
