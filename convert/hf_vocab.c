/* hf_vocab.c - see hf_vocab.h. Merges by score become merges by rank as transformers makes them of a SentencePiece
 * model: every cut of a piece into two pieces is a merge, pieces by falling score, cuts by the ids of their sides. */
#include "convert/hf_vocab.h"

#include "formats/base/json.h"
#include "formats/base/strmap.h"
#include "formats/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MARK "\xE2\x96\x81"

static void add_str(mg_json *o, const char *key, const char *v) {
    mg_json_add(o, key, mg_json_new_str(v));
}

static void add_bool(mg_json *o, const char *key, bool v) {
    mg_json_add(o, key, mg_json_new_bool(v));
}

static mg_json *typed(const char *type) {
    mg_json *o = mg_json_new_object();
    add_str(o, "type", type);
    return o;
}

static mg_json *sequence(const char *member, mg_json *list) {
    mg_json *o = typed("Sequence");
    mg_json_add(o, member, list);
    return o;
}

static mg_json *replace(const char *from, const char *to) {
    mg_json *o = typed("Replace"), *pattern = mg_json_new_object();
    add_str(pattern, "String", from);
    mg_json_add(o, "pattern", pattern);
    add_str(o, "content", to);
    return o;
}

/* ---- merges by score ---- */

typedef struct cut {
    float score;
    int32_t piece, left, right;
} cut;

typedef struct cuts {
    cut *items;
    size_t n, cap;
} cuts;

static int by_rank(const void *pa, const void *pb) {
    const cut *a = pa, *b = pb;
    if (a->score != b->score) return a->score > b->score ? -1 : 1;
    if (a->piece != b->piece) return a->piece < b->piece ? -1 : 1;
    if (a->left != b->left) return a->left < b->left ? -1 : 1;
    return (a->right > b->right) - (a->right < b->right);
}

static mg_status add_cut(cuts *c, cut x, mg_error *err) {
    if (c->n == c->cap) {
        const size_t cap = c->cap ? 2 * c->cap : 4096;
        cut *grown = realloc(c->items, cap * sizeof *grown);
        if (!grown) return mg_fail_nomem(err, cap * sizeof *grown);
        c->items = grown;
        c->cap = cap;
    }
    c->items[c->n++] = x;
    return MG_OK;
}

static mg_status cut_piece(cuts *c, const mg_strmap *pieces, const mg_token *k, int32_t id, mg_error *err) {
    for (uint32_t at = 1; at < k->len; at++) {
        if (((unsigned char)k->text[at] & 0xC0) == 0x80) continue; /* inside of a character */
        const uint32_t left = mg_strmap_get(pieces, k->text, at),
                       right = mg_strmap_get(pieces, k->text + at, k->len - at);
        if (left == MG_STRMAP_NONE || right == MG_STRMAP_NONE) continue;
        MG_TRY(add_cut(c, (cut){k->score, id, (int32_t)left, (int32_t)right}, err));
    }
    return MG_OK;
}

/* Is text one piece over and over (runs of blanks)? *unit: its first character. */
static bool is_run(const mg_token *k, const char **unit, uint32_t *len) {
    *unit = k->text;
    for (*len = 1; *len < k->len && ((unsigned char)k->text[*len] & 0xC0) == 0x80;) (*len)++;
    for (uint32_t at = 0; at < k->len; at += *len)
        if (k->len - at < *len || memcmp(k->text + at, *unit, *len) != 0) return false;
    return true;
}

/* SentencePiece merges pieces of one score from the left, which no order of merges says; runs of one character end up
 * the same either way. */
static bool may_tie(const mg_token *a, const mg_token *b) {
    const char *ua, *ub;
    uint32_t na, nb;
    return is_run(a, &ua, &na) && is_run(b, &ub, &nb) && na == nb && !memcmp(ua, ub, na);
}

static mg_status cut_all(cuts *c, const mg_strmap *pieces, const mg_tokenizer *t, mg_error *err) {
    for (int32_t i = 0; i < (int32_t)mg_tokenizer_size(t); i++) {
        const mg_token *k = mg_tokenizer_token(t, i);
        if (k->type == MG_TOKEN_NORMAL && mg_strmap_get(pieces, k->text, k->len) == (uint32_t)i)
            MG_TRY(cut_piece(c, pieces, k, i, err));
    }
    if (c->n) qsort(c->items, c->n, sizeof *c->items, by_rank);
    for (size_t i = 1; i < c->n; i++)
        if (c->items[i].piece != c->items[i - 1].piece && c->items[i].score == c->items[i - 1].score &&
            !may_tie(mg_tokenizer_token(t, c->items[i].piece), mg_tokenizer_token(t, c->items[i - 1].piece)))
            return mg_fail(err, MG_ERR_UNSUPPORTED,
                           "tokens %d and %d have the same score %g: no order of merges says which comes first",
                           c->items[i - 1].piece, c->items[i].piece, (double)c->items[i].score);
    return MG_OK;
}

/* Merges are of NORMAL pieces; of equal texts the first counts. */
static mg_status merges_by_score(cuts *c, const mg_tokenizer *t, mg_error *err) {
    mg_strmap pieces;
    mg_strmap_init(&pieces);
    mg_status st = MG_OK;
    for (uint32_t i = 0; st == MG_OK && i < mg_tokenizer_size(t); i++) {
        const mg_token *k = mg_tokenizer_token(t, (int32_t)i);
        if (k->type == MG_TOKEN_NORMAL && k->len && mg_strmap_get(&pieces, k->text, k->len) == MG_STRMAP_NONE)
            st = mg_strmap_put(&pieces, k->text, k->len, i, NULL, err);
    }
    if (st == MG_OK) st = cut_all(c, &pieces, t, err);
    mg_strmap_release(&pieces);
    return st;
}

static void push_merge(mg_json *merges, const mg_token *left, const mg_token *right) {
    mg_json *pair = mg_json_new_array();
    mg_json_push(pair, mg_json_new_str(left->text));
    mg_json_push(pair, mg_json_new_str(right->text));
    mg_json_push(merges, pair);
}

static mg_status add_merges(mg_json *model, const mg_tokenizer *t, mg_error *err) {
    mg_json *merges = mg_json_new_array();
    cuts c = {0};
    const bool bytes = mg_tokenizer_is_byte_level(t);
    mg_status st = bytes ? MG_OK : merges_by_score(&c, t, err);
    for (size_t i = 0; st == MG_OK && i < c.n; i++)
        push_merge(merges, mg_tokenizer_token(t, c.items[i].left), mg_tokenizer_token(t, c.items[i].right));
    for (uint32_t i = 0; bytes && i < mg_tokenizer_n_merges(t); i++) {
        const mg_token *left, *right;
        mg_tokenizer_merge(t, i, &left, &right);
        push_merge(merges, left, right);
    }
    free(c.items);
    mg_json_add(model, "merges", merges);
    return st;
}

/* ---- tokenizer.json ---- */

static int32_t unknown_of(const mg_tokenizer *t) {
    for (int32_t i = 0; i < (int32_t)mg_tokenizer_size(t); i++)
        if (mg_tokenizer_token(t, i)->type == MG_TOKEN_UNKNOWN) return i;
    return -1;
}

static mg_json *text_or_null(const mg_tokenizer *t, int32_t id) {
    return id < 0 ? mg_json_new_null() : mg_json_new_str(mg_tokenizer_token(t, id)->text);
}

static mg_status make_model(mg_json *root, const mg_tokenizer *t, bool ignore_merges, mg_error *err) {
    mg_json *model = typed("BPE"), *vocab = mg_json_new_object();
    const bool bytes = mg_tokenizer_is_byte_level(t);
    mg_json_add(root, "model", model);
    mg_json_add(model, "dropout", mg_json_new_null());
    mg_json_add(model, "unk_token", bytes ? mg_json_new_null() : text_or_null(t, unknown_of(t)));
    mg_json_add(model, "continuing_subword_prefix", mg_json_new_null());
    mg_json_add(model, "end_of_word_suffix", mg_json_new_null());
    add_bool(model, "fuse_unk", !bytes);
    add_bool(model, "byte_fallback", !bytes);
    add_bool(model, "ignore_merges", ignore_merges);
    for (int32_t i = 0; i < (int32_t)mg_tokenizer_size(t); i++) {
        const char *text = mg_tokenizer_token(t, i)->text;
        if (mg_tokenizer_find(t, text) != i) {
            mg_json_add(model, "vocab", vocab);
            return mg_fail(err, MG_ERR_UNSUPPORTED, "tokens %d and %d are both '%.60s'", mg_tokenizer_find(t, text), i,
                           text);
        }
        mg_json_add(vocab, text, mg_json_new_i64(i));
    }
    mg_json_add(model, "vocab", vocab);
    return add_merges(model, t, err);
}

static mg_json *added_tokens(const mg_tokenizer *t) {
    mg_json *list = mg_json_new_array();
    for (int32_t i = 0; i < (int32_t)mg_tokenizer_size(t); i++) {
        const mg_token *k = mg_tokenizer_token(t, i);
        if (k->type < MG_TOKEN_UNKNOWN || k->type > MG_TOKEN_USER_DEFINED || !k->len) continue;
        mg_json *a = mg_json_new_object();
        mg_json_add(a, "id", mg_json_new_i64(i));
        add_str(a, "content", k->text);
        add_bool(a, "single_word", false);
        add_bool(a, "lstrip", false);
        add_bool(a, "rstrip", false);
        add_bool(a, "normalized", false);
        add_bool(a, "special", k->type != MG_TOKEN_USER_DEFINED);
        mg_json_push(list, a);
    }
    return list;
}

static mg_json *template_piece(const char *kind, const char *id, int sequence_id) {
    mg_json *o = mg_json_new_object(), *in = mg_json_new_object();
    add_str(in, "id", id);
    mg_json_add(in, "type_id", mg_json_new_i64(sequence_id));
    mg_json_add(o, kind, in);
    return o;
}

/* BOS and EOS around each of `texts` sequences. */
static mg_json *template_of(const char *bos, const char *eos, int texts) {
    mg_json *list = mg_json_new_array();
    for (int i = 0; i < texts; i++) {
        if (bos) mg_json_push(list, template_piece("SpecialToken", bos, i));
        mg_json_push(list, template_piece("Sequence", i ? "B" : "A", i));
        if (eos) mg_json_push(list, template_piece("SpecialToken", eos, i));
    }
    return list;
}

static void declare(mg_json *specials, const char *text, int32_t id) {
    if (!text || mg_json_get(specials, text)) return;
    mg_json *o = mg_json_new_object(), *ids = mg_json_new_array(), *tokens = mg_json_new_array();
    add_str(o, "id", text);
    mg_json_push(ids, mg_json_new_i64(id));
    mg_json_push(tokens, mg_json_new_str(text));
    mg_json_add(o, "ids", ids);
    mg_json_add(o, "tokens", tokens);
    mg_json_add(specials, text, o);
}

static const char *text_of(const mg_tokenizer *t, int32_t id) {
    return id < 0 ? NULL : mg_tokenizer_token(t, id)->text;
}

static mg_json *post_processor(const mg_tokenizer *t) {
    const char *bos = mg_tokenizer_adds_bos(t) ? text_of(t, mg_tokenizer_bos(t)) : NULL;
    const char *eos = mg_tokenizer_adds_eos(t) ? text_of(t, mg_tokenizer_eos(t)) : NULL;
    if (!bos && !eos) return mg_json_new_null();
    mg_json *o = typed("TemplateProcessing"), *specials = mg_json_new_object();
    mg_json_add(o, "single", template_of(bos, eos, 1));
    mg_json_add(o, "pair", template_of(bos, eos, 2));
    declare(specials, bos, mg_tokenizer_bos(t));
    declare(specials, eos, mg_tokenizer_eos(t));
    mg_json_add(o, "special_tokens", specials);
    return o;
}

static mg_json *byte_level(bool trim) {
    mg_json *o = typed("ByteLevel");
    add_bool(o, "add_prefix_space", false);
    add_bool(o, "trim_offsets", trim);
    add_bool(o, "use_regex", false);
    return o;
}

static mg_json *byte_pre_tokenizer(const char *const *expressions) {
    mg_json *list = mg_json_new_array();
    for (; *expressions; expressions++) {
        mg_json *split = typed("Split"), *pattern = mg_json_new_object();
        add_str(pattern, "Regex", *expressions);
        mg_json_add(split, "pattern", pattern);
        add_str(split, "behavior", "Isolated");
        add_bool(split, "invert", false);
        mg_json_push(list, split);
    }
    mg_json_push(list, byte_level(false));
    return sequence("pretokenizers", list);
}

static mg_json *mark_normalizer(bool blank) {
    mg_json *list = mg_json_new_array(), *prepend = blank ? typed("Prepend") : NULL;
    if (prepend) {
        add_str(prepend, "prepend", MARK);
        mg_json_push(list, prepend);
    }
    mg_json_push(list, replace(" ", MARK));
    return sequence("normalizers", list);
}

static mg_json *mark_decoder(bool blank) {
    mg_json *list = mg_json_new_array();
    mg_json_push(list, replace(MARK, " "));
    mg_json_push(list, typed("ByteFallback"));
    mg_json_push(list, typed("Fuse"));
    if (blank) {
        mg_json *strip = typed("Strip");
        add_str(strip, "content", " ");
        mg_json_add(strip, "start", mg_json_new_i64(1));
        mg_json_add(strip, "stop", mg_json_new_i64(0));
        mg_json_push(list, strip);
    }
    return sequence("decoders", list);
}

static mg_status make_tokenizer(mg_json *root, const mg_tokenizer *t, const mg_kvs *kv, mg_error *err) {
    bool ignore_merges = false;
    const bool bytes = mg_tokenizer_is_byte_level(t), blank = mg_tokenizer_adds_blank(t);
    mg_str pre = {"default", 7};
    if (mg_kvs_get(kv, "tokenizer.ggml.pre") && !mg_kv_str(mg_kvs_get(kv, "tokenizer.ggml.pre"), &pre))
        return mg_fail(err, MG_ERR_FORMAT, "key 'tokenizer.ggml.pre': expected a string");
    const char *const *words = bytes ? mg_tokenizer_pre_expressions(pre.data, &ignore_merges) : NULL;
    add_str(root, "version", "1.0");
    mg_json_add(root, "truncation", mg_json_new_null());
    mg_json_add(root, "padding", mg_json_new_null());
    mg_json_add(root, "added_tokens", added_tokens(t));
    mg_json_add(root, "normalizer", bytes ? mg_json_new_null() : mark_normalizer(blank));
    mg_json_add(root, "pre_tokenizer", bytes ? byte_pre_tokenizer(words) : mg_json_new_null());
    mg_json_add(root, "post_processor", post_processor(t));
    mg_json_add(root, "decoder", bytes ? byte_level(true) : mark_decoder(blank));
    return make_model(root, t, ignore_merges, err);
}

/* ---- tokenizer_config.json ---- */

/* A string, or with named ones beside the default a list of name and template. */
static mg_json *chat_template(const mg_kvs *kv) {
    static const char prefix[] = "tokenizer.chat_template";
    const size_t len = sizeof prefix - 1;
    mg_json *list = mg_json_new_array(), *single = NULL;
    size_t named = 0;
    for (uint32_t i = 0; i < kv->n; i++) {
        const char *key = kv->items[i].key.data;
        mg_str text;
        if (strncmp(key, prefix, len) != 0 || (key[len] && key[len] != '.') || !mg_kv_str(&kv->items[i], &text))
            continue;
        mg_json *o = mg_json_new_object();
        add_str(o, "name", key[len] ? key + len + 1 : "default");
        add_str(o, "template", text.data);
        mg_json_push(list, o);
        named += key[len] != 0;
        if (!key[len]) {
            mg_json_free(single);
            single = mg_json_new_str(text.data);
        }
    }
    mg_json_free(named ? single : list);
    return named ? list : single;
}

static void name_token(mg_json *config, const char *name, const mg_tokenizer *t, int32_t id) {
    if (id >= 0) add_str(config, name, mg_tokenizer_token(t, id)->text);
}

static mg_json *make_config(const mg_tokenizer *t, const mg_kvs *kv) {
    mg_json *o = mg_json_new_object(), *chat = chat_template(kv);
    uint64_t pad;
    add_bool(o, "add_bos_token", mg_tokenizer_adds_bos(t));
    add_bool(o, "add_eos_token", mg_tokenizer_adds_eos(t));
    name_token(o, "bos_token", t, mg_tokenizer_bos(t));
    if (chat) mg_json_add(o, "chat_template", chat);
    add_bool(o, "clean_up_tokenization_spaces", false);
    name_token(o, "eos_token", t, mg_tokenizer_eos(t));
    const mg_kv *v = mg_kvs_get(kv, "tokenizer.ggml.padding_token_id");
    if (v && mg_kv_u64(v, &pad) && pad < mg_tokenizer_size(t)) name_token(o, "pad_token", t, (int32_t)pad);
    add_str(o, "tokenizer_class", "PreTrainedTokenizerFast");
    name_token(o, "unk_token", t, unknown_of(t));
    return o;
}

static mg_status add_json(mg_plan *p, uint32_t out, const char *name, const mg_json *v, mg_error *err) {
    char *text;
    MG_TRY(mg_json_print(&text, v, 2, err));
    mg_status st = mg_plan_add_side_file(p, out, name, text, strlen(text), err);
    free(text);
    return st;
}

mg_status mg_hf_vocab_make(mg_json **tokenizer, mg_json **config, const mg_kvs *kv, mg_error *err) {
    mg_tokenizer *t;
    *tokenizer = *config = NULL;
    MG_TRY(mg_tokenizer_open_kv(&t, kv, "GGUF", err));
    if (!t) return MG_OK;
    mg_json *root = mg_json_new_object(), *side = make_config(t, kv);
    mg_status st = make_tokenizer(root, t, kv, err);
    mg_tokenizer_free(t);
    if (st == MG_OK) {
        *tokenizer = root;
        *config = side;
        return MG_OK;
    }
    mg_json_free(root);
    mg_json_free(side);
    return st;
}

mg_status mg_hf_vocab_add(mg_plan *p, uint32_t out, const mg_kvs *kv, bool *had, mg_error *err) {
    mg_json *root, *config;
    *had = false;
    MG_TRY(mg_hf_vocab_make(&root, &config, kv, err));
    if (!root) return MG_OK;
    mg_status st = add_json(p, out, "tokenizer.json", root, err);
    if (st == MG_OK) st = add_json(p, out, "tokenizer_config.json", config, err);
    *had = st == MG_OK;
    mg_json_free(root);
    mg_json_free(config);
    return st;
}
