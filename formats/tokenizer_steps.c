/* tokenizer_steps.c - the steps of a tokenizer.json around its model: normalizer, pre-tokenizer, post-processor,
 * decoder. Every step that would change ids and is not understood is refused by its name. */
#include <string.h>

#include "formats/base/json.h"
#include "formats/tokenizer_impl.h"

static const char *member_str(const mg_json *v, const char *key) {
    const char *s = mg_json_str(mg_json_get(v, key));
    return s ? s : "";
}

static bool member_bool(const mg_json *v, const char *key, bool otherwise) {
    mg_json_bool(mg_json_get(v, key), &otherwise);
    return otherwise;
}

static mg_status unsupported(const char *part, const char *what, mg_error *err) {
    return mg_fail(err, MG_ERR_UNSUPPORTED, "tokenizer with %s '%s'", part, what);
}

typedef mg_status step_fn(mg_tokenizer *t, const mg_json *v, mg_error *err);

/* v itself, or the elements of a Sequence (of sequences, as deep as a JSON text may nest). */
static mg_status each_step(mg_tokenizer *t, const mg_json *v, const char *list, step_fn *step, mg_error *err) {
    if (!v) return MG_OK;
    if (strcmp(member_str(v, "type"), "Sequence") != 0) return step(t, v, err);
    mg_status s = MG_OK;
    for (const mg_json *e = mg_json_first(mg_json_get(v, list)); e && !s; e = mg_json_next(e))
        s = each_step(t, e, list, step, err);
    return s;
}

static mg_status keep(mg_tokenizer *t, const char *text, const char **out, mg_error *err) {
    *out = mg_arena_strdup(&t->arena, text);
    return *out ? MG_OK : mg_fail_nomem(err, strlen(text));
}

/* ---- normalizers ---- */

static mg_status replacement(mg_tokenizer *t, const mg_json *v, mg_error *err) {
    const char *string = mg_json_str(mg_json_path(v, "pattern.String")), *to = NULL, *from = NULL;
    const char *pattern = mg_json_str(mg_json_path(v, "pattern.Regex"));
    mg_status s = keep(t, member_str(v, "content"), &to, err);
    if (s) return s;
    if (string) {
        s = keep(t, string, &from, err);
        return s ? s : mg_tokenizer_add_op(t->ops, &t->n_ops, MG_TOK_REPLACE, from, to, err);
    }
    if (!pattern) return mg_fail(err, MG_ERR_FORMAT, "tokenizer: Replace without a pattern");
    s = mg_tokenizer_add_op(t->ops, &t->n_ops, MG_TOK_REPLACE_MATCHES, NULL, to, err);
    return s ? s : mg_tokenizer_regex(t, pattern, &t->ops[t->n_ops - 1].regex, err);
}

static int base64_digit(char c) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *p = c ? strchr(digits, c) : NULL;
    return p ? (int)(p - digits) : -1;
}

/* Base64 with its padding, whole groups of four. */
static mg_status base64(mg_tokenizer *t, const char *text, uint8_t **out, size_t *n, mg_error *err) {
    const size_t len = strlen(text);
    size_t pad = 0;
    uint32_t acc = 0;
    MG_TRY(mg_arena_get(&t->arena, (void **)out, len / 4 * 3 + 1, 1, err));
    while (pad < 2 && pad < len && text[len - 1 - pad] == '=') pad++;
    *n = 0;
    for (size_t i = 0; i < len; i++) {
        const int digit = i < len - pad ? base64_digit(text[i]) : 0;
        if (digit < 0 || len % 4) return mg_fail(err, MG_ERR_FORMAT, "tokenizer: the normalization table is no base64");
        acc = acc << 6 | (uint32_t)digit;
        if (i % 4 != 3) continue;
        for (int k = 2; k >= 0; k--) (*out)[(*n)++] = (uint8_t)(acc >> (8 * k));
    }
    *n -= pad;
    return MG_OK;
}

/* SentencePiece's table. An empty one changes nothing. */
static mg_status precompiled(mg_tokenizer *t, const char *text, mg_error *err) {
    uint8_t *bytes;
    size_t n;
    mg_charsmap m;
    if (!*text) return MG_OK;
    MG_TRY(base64(t, text, &bytes, &n, err));
    MG_TRY(mg_charsmap_init(&m, bytes, n, err));
    MG_TRY(mg_tokenizer_add_op(t->ops, &t->n_ops, MG_TOK_CHARSMAP, NULL, NULL, err));
    t->ops[t->n_ops - 1].charsmap = m;
    return MG_OK;
}

/* What the library's Nmt leaves out, and what it makes a blank: found by asking it for every character. */
#define NMT_DROPPED "[\\x{1}-\\x{8}\\x{b}\\x{e}-\\x{1f}\\x{7f}\\x{8f}\\x{9f}]"
#define NMT_BLANKS  "[\\x{9}\\x{a}\\x{c}\\x{d}\\x{1680}\\x{200b}-\\x{200f}\\x{2028}\\x{2029}\\x{2581}\\x{feff}\\x{fffd}]"

static mg_status replace_all(mg_tokenizer *t, const char *pattern, const char *to, mg_error *err) {
    MG_TRY(mg_tokenizer_add_op(t->ops, &t->n_ops, MG_TOK_REPLACE_MATCHES, NULL, to, err));
    return mg_tokenizer_regex(t, pattern, &t->ops[t->n_ops - 1].regex, err);
}

static mg_status normalizer(mg_tokenizer *t, const mg_json *v, mg_error *err) {
    static const char *const forms[] = {
        [MG_UNICODE_NFC] = "NFC", [MG_UNICODE_NFD] = "NFD", [MG_UNICODE_NFKC] = "NFKC", [MG_UNICODE_NFKD] = "NFKD"};
    const char *type = member_str(v, "type"), *to = NULL;
    mg_status s = MG_OK;
    for (unsigned i = 0; i < sizeof forms / sizeof *forms; i++)
        if (strcmp(type, forms[i]) == 0) {
            s = mg_tokenizer_add_op(t->ops, &t->n_ops, MG_TOK_NORMALIZE, NULL, NULL, err);
            if (!s) t->ops[t->n_ops - 1].form = (mg_unicode_form)i;
            return s;
        }
    if (strcmp(type, "Lowercase") == 0)
        return mg_tokenizer_add_op(t->ops, &t->n_ops, MG_TOK_LOWERCASE, NULL, NULL, err);
    if (strcmp(type, "Strip") == 0) {
        s = mg_tokenizer_add_op(t->ops, &t->n_ops, MG_TOK_TRIM, NULL, NULL, err);
        if (!s) t->ops[t->n_ops - 1].left = member_bool(v, "strip_left", true);
        if (!s) t->ops[t->n_ops - 1].right = member_bool(v, "strip_right", true);
        return s;
    }
    if (strcmp(type, "Precompiled") == 0) return precompiled(t, member_str(v, "precompiled_charsmap"), err);
    if (strcmp(type, "Nmt") == 0) {
        s = replace_all(t, NMT_DROPPED, "", err);
        return s ? s : replace_all(t, NMT_BLANKS, " ", err);
    }
    if (strcmp(type, "Prepend") == 0) {
        s = keep(t, member_str(v, "prepend"), &to, err);
        return s ? s : mg_tokenizer_add_op(t->ops, &t->n_ops, MG_TOK_PREPEND, NULL, to, err);
    }
    return strcmp(type, "Replace") == 0 ? replacement(t, v, err) : unsupported("normalizer", type, err);
}

mg_status mg_tokenizer_read_normalizer(mg_tokenizer *t, const mg_json *v, mg_error *err) {
    return each_step(t, v, "normalizers", normalizer, err);
}

/* ---- pre-tokenizers ---- */

/* Metaspace in its two spellings: prepend_scheme (always, first, never), before that add_prefix_space. */
static const char *prepend_scheme(const mg_json *v) {
    const char *scheme = mg_json_str(mg_json_get(v, "prepend_scheme"));
    return scheme ? scheme : member_bool(v, "add_prefix_space", true) ? "always" : "never";
}

static mg_status metaspace(mg_tokenizer *t, const mg_json *v, mg_error *err) {
    const char *scheme = prepend_scheme(v);
    if (strcmp(member_str(v, "replacement"), MG_SPACE_MARK) != 0)
        return unsupported("pre-tokenizer", "Metaspace with another mark", err);
    mg_tok_pre step = {.kind = MG_TOK_PRE_METASPACE, .split = member_bool(v, "split", true)};
    if (strcmp(scheme, "never") == 0)
        step.blank = MG_TOK_REPLACE;
    else if (strcmp(scheme, "first") == 0)
        step.blank = MG_TOK_NOT_TWICE_FIRST;
    else if (strcmp(scheme, "always") == 0)
        step.blank = MG_TOK_NOT_TWICE;
    else
        return mg_fail(err, MG_ERR_FORMAT, "tokenizer: prepend_scheme '%s'", scheme);
    return mg_tokenizer_add_pre(t, step, err);
}

static mg_status behavior(const char *name, mg_tok_behavior *out, mg_error *err) {
    static const char *const names[] = {[MG_TOK_ISOLATED] = "Isolated",
                                        [MG_TOK_REMOVED] = "Removed",
                                        [MG_TOK_CONTIGUOUS] = "Contiguous",
                                        [MG_TOK_MERGED_PREVIOUS] = "MergedWithPrevious",
                                        [MG_TOK_MERGED_NEXT] = "MergedWithNext"};
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) {
            *out = (mg_tok_behavior)i;
            return MG_OK;
        }
    return unsupported("split behavior", name, err);
}

static mg_status split(mg_tokenizer *t, const mg_json *v, mg_error *err) {
    const char *literal = mg_json_str(mg_json_path(v, "pattern.String"));
    const char *pattern = mg_json_str(mg_json_path(v, "pattern.Regex"));
    mg_tok_behavior b = MG_TOK_ISOLATED;
    bool invert = member_bool(v, "invert", false);
    mg_status s = behavior(member_str(v, "behavior"), &b, err);
    if (s) return s;
    if (pattern) return mg_tokenizer_add_split(t, pattern, b, invert, err);
    if (!literal || !*literal) return mg_fail(err, MG_ERR_FORMAT, "tokenizer: Split without a pattern");
    mg_tok_pre step = {.kind = MG_TOK_PRE_SPLIT, .behavior = b, .invert = invert};
    s = keep(t, literal, &step.literal, err);
    return s ? s : mg_tokenizer_add_pre(t, step, err);
}

static mg_status byte_level(mg_tokenizer *t, const mg_json *v, mg_error *err) {
    mg_status s = MG_OK;
    if (member_bool(v, "add_prefix_space", true))
        s = mg_tokenizer_add_pre(t, (mg_tok_pre){.kind = MG_TOK_PRE_BLANK}, err);
    if (!s && member_bool(v, "use_regex", true))
        s = mg_tokenizer_add_split(t, mg_tok_gpt2_pattern, MG_TOK_ISOLATED, false, err);
    return s ? s : mg_tokenizer_add_pre(t, (mg_tok_pre){.kind = MG_TOK_PRE_BYTES}, err);
}

/* Rust's char::is_numeric: general category N; two rows of digits are newer than Unicode 16. */
#define NUMERIC "[\\p{N}\\x{11DE0}-\\x{11DE9}\\x{16FF4}-\\x{16FF6}]"

/* What the library's Punctuation means: ASCII punctuation, and general category P of Unicode 8.0. */
static const char punctuation_pattern[] = "["
#include "formats/punctuation.inc"
                                          "]";

static mg_status pre_tokenizer(mg_tokenizer *t, const mg_json *v, mg_error *err) {
    const char *type = member_str(v, "type");
    mg_tok_behavior b = MG_TOK_ISOLATED;
    if (strcmp(type, "Metaspace") == 0) return metaspace(t, v, err);
    if (strcmp(type, "ByteLevel") == 0) return byte_level(t, v, err);
    if (strcmp(type, "Split") == 0) return split(t, v, err);
    if (strcmp(type, "Digits") == 0)
        return mg_tokenizer_add_split(
            t, NUMERIC, member_bool(v, "individual_digits", false) ? MG_TOK_ISOLATED : MG_TOK_CONTIGUOUS, false, err);
    if (strcmp(type, "Punctuation") == 0) {
        mg_status s = mg_json_get(v, "behavior") ? behavior(member_str(v, "behavior"), &b, err) : MG_OK;
        return s ? s : mg_tokenizer_add_split(t, punctuation_pattern, b, false, err);
    }
    if (strcmp(type, "Whitespace") == 0)
        return mg_tokenizer_add_split(t, "\\p{_word}+|[^\\p{_word}\\s]+", MG_TOK_REMOVED, true, err);
    if (strcmp(type, "WhitespaceSplit") == 0) return mg_tokenizer_add_split(t, "\\s", MG_TOK_REMOVED, false, err);
    return unsupported("pre-tokenizer", type, err);
}

/* A Metaspace alone needs no cutting: its blanks are replaced like a normalizer's, and merging knows the marks. */
static mg_status only_metaspace(mg_tokenizer *t, mg_error *err) {
    mg_tok_pre step = t->pre[0];
    t->n_pre = 0;
    t->split_marks = step.split;
    mg_status s = mg_tokenizer_add_op(t->pre_ops, &t->n_pre_ops, MG_TOK_REPLACE, " ", MG_SPACE_MARK, err);
    if (s || step.blank == MG_TOK_REPLACE) return s;
    return mg_tokenizer_add_op(t->pre_ops, &t->n_pre_ops, step.blank, NULL, MG_SPACE_MARK, err);
}

mg_status mg_tokenizer_read_pre_tokenizer(mg_tokenizer *t, const mg_json *v, mg_error *err) {
    mg_status s = each_step(t, v, "pretokenizers", pre_tokenizer, err);
    unsigned bytes = 0;
    for (unsigned i = 0; i < t->n_pre; i++) bytes += t->pre[i].kind == MG_TOK_PRE_BYTES;
    if (!s && bytes > 1) return unsupported("pre-tokenizer", "ByteLevel twice", err);
    return !s && t->n_pre == 1 && t->pre[0].kind == MG_TOK_PRE_METASPACE ? only_metaspace(t, err) : s;
}

/* ---- decoders ---- */

static mg_status decoder(mg_tokenizer *t, const mg_json *v, mg_error *err) {
    const char *type = member_str(v, "type"), *pattern = mg_json_str(mg_json_path(v, "pattern.String"));
    uint64_t start = 0, stop = 1;
    if (strcmp(type, "Fuse") == 0) return MG_OK;
    if (t->byte_level) return strcmp(type, "ByteLevel") == 0 ? MG_OK : unsupported("decoder", type, err);
    if (strcmp(type, "ByteFallback") == 0) {
        t->bytes_to_text = true;
        return MG_OK;
    }
    if (strcmp(type, "Metaspace") == 0 && strcmp(member_str(v, "replacement"), MG_SPACE_MARK) == 0) {
        t->marks_to_blanks = true;
        if (strcmp(prepend_scheme(v), "never") != 0) t->strip = MG_TOK_STRIP_MARKS;
        return MG_OK;
    }
    if (strcmp(type, "Replace") == 0 && strcmp(member_str(v, "content"), " ") == 0 && pattern &&
        strcmp(pattern, MG_SPACE_MARK) == 0) {
        t->marks_to_blanks = true;
        return MG_OK;
    }
    if (strcmp(type, "Strip") == 0 && strcmp(member_str(v, "content"), " ") == 0 &&
        mg_json_u64(mg_json_get(v, "start"), &start) && mg_json_u64(mg_json_get(v, "stop"), &stop) && start == 1 &&
        stop == 0) {
        t->strip = MG_TOK_STRIP_ONE;
        return MG_OK;
    }
    return unsupported("decoder", type, err);
}

mg_status mg_tokenizer_read_decoder(mg_tokenizer *t, const mg_json *v, mg_error *err) {
    return v ? each_step(t, v, "decoders", decoder, err) : unsupported("decoder", "none", err);
}

/* ---- post-processors ---- */

static mg_status template_id(const mg_tokenizer *t, const mg_json *v, const mg_json *item, int32_t *id, mg_error *err) {
    const mg_json *special = mg_json_get(item, "SpecialToken");
    const mg_json *ids = mg_json_get(mg_json_get(mg_json_get(v, "special_tokens"), member_str(special, "id")), "ids");
    uint64_t value;
    if (!special || !mg_json_u64(mg_json_first(ids), &value))
        return mg_fail(err, MG_ERR_FORMAT, "tokenizer: malformed post-processor template");
    if (mg_json_len(ids) != 1 || *id >= 0)
        return unsupported("post-processor", "template of several special tokens", err);
    if (value >= t->n)
        return mg_fail(err, MG_ERR_FORMAT, "tokenizer: post-processor names id %llu of %u", (unsigned long long)value,
                       t->n);
    *id = (int32_t)value;
    return MG_OK;
}

/* ["</s>", 2] */
static mg_status pair_id(const mg_tokenizer *t, const mg_json *v, int32_t *id, mg_error *err) {
    const mg_json *second = mg_json_first(v) ? mg_json_next(mg_json_first(v)) : NULL;
    uint64_t value;
    if (!mg_json_u64(second, &value) || value >= t->n)
        return mg_fail(err, MG_ERR_FORMAT, "tokenizer: post-processor without a token and its id");
    *id = (int32_t)value;
    return MG_OK;
}

/* Bert's and Roberta's: cls before the text, sep behind it. */
static mg_status cls_and_sep(mg_tokenizer *t, const mg_json *v, mg_error *err) {
    MG_TRY(pair_id(t, mg_json_get(v, "cls"), &t->bos, err));
    MG_TRY(pair_id(t, mg_json_get(v, "sep"), &t->eos, err));
    t->add_bos = t->add_eos = true;
    return MG_OK;
}

/* What stands before and behind the text: at most one token each, taken as BOS and EOS. */
static mg_status post_processor(mg_tokenizer *t, const mg_json *v, mg_error *err) {
    const char *type = member_str(v, "type");
    if (strcmp(type, "ByteLevel") == 0) return MG_OK; /* offsets only */
    const bool pair = strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0;
    if (!pair && strcmp(type, "TemplateProcessing") != 0) return unsupported("post-processor", type, err);
    if (t->add_bos || t->add_eos) return unsupported("post-processor", "several templates", err);
    if (pair) return cls_and_sep(t, v, err);
    int32_t side[2] = {-1, -1};
    int behind = 0;
    mg_status s = MG_OK;
    for (const mg_json *e = mg_json_first(mg_json_get(v, "single")); e && !s; e = mg_json_next(e)) {
        if (mg_json_get(e, "Sequence"))
            behind = 1;
        else
            s = template_id(t, v, e, &side[behind], err);
    }
    if (side[0] >= 0) t->bos = side[0];
    if (side[1] >= 0) t->eos = side[1];
    t->add_bos = side[0] >= 0;
    t->add_eos = side[1] >= 0;
    return s;
}

mg_status mg_tokenizer_read_post_processor(mg_tokenizer *t, const mg_json *v, mg_error *err) {
    return each_step(t, v, "processors", post_processor, err);
}
