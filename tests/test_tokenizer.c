/* Tests of the tokenizer: ids against the libraries models are used with (tests/data/tokenizer/base.json says which),
 * real vocabularies of the shared data, steps that no sample has, and vocabularies that must be refused. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "formats/base/json.h"
#include "formats/tokenizer.h"

#define MARK "\xE2\x96\x81"

static void must(mg_status st, const mg_error *err) {
    char text[2048];
    cr_assert_eq(st, MG_OK, "%s", mg_error_text(err, text, sizeof text));
}

static void expect_ids(const mg_tokenizer *t, const char *text, size_t n, unsigned flags, const mg_json *want) {
    mg_ids got = {0};
    mg_error err = {0};
    must(mg_tokenizer_encode(t, text, n, flags, &got, &err), &err);
    size_t i = 0;
    for (const mg_json *v = mg_json_first(want); v; v = mg_json_next(v), i++) {
        int64_t id = -1;
        cr_assert(mg_json_i64(v, &id));
        if (i >= got.n || got.ids[i] != id) break;
    }
    cr_expect(i == mg_json_len(want) && i == got.n, "'%s' (flags %u) differs at %zu of %zu, %zu expected", text, flags,
              i, got.n, mg_json_len(want));
    mg_ids_release(&got);
}

/* The three forms of one tokenizer: tokenizer.json merges by rank, the others by score. */
static void run_cases(mg_tokenizer *t) {
    mg_json *root;
    mg_error err = {0};
    must(mg_json_load(&root, MG_TEST_DATA "/tokenizer/base.json", 1 << 20, &err), &err);
    size_t n = 0;
    for (const mg_json *c = mg_json_first(mg_json_get(root, "cases")); c; c = mg_json_next(c), n++) {
        const char *text = mg_json_str(mg_json_get(c, "text"));
        expect_ids(t, text, strlen(text), MG_ENCODE_DEFAULT, mg_json_get(c, "ids"));
        expect_ids(t, text, strlen(text), 0, mg_json_get(c, "plain"));
        mg_ids ids = {0};
        char *back;
        must(mg_tokenizer_encode(t, text, strlen(text), MG_ENCODE_DEFAULT, &ids, &err), &err);
        must(mg_tokenizer_decode(t, ids.ids, ids.n, MG_DECODE_SKIP_SPECIAL, &back, NULL, &err), &err);
        cr_expect_str_eq(back, mg_json_str(mg_json_get(c, "decoded")));
        free(back);
        mg_ids_release(&ids);
    }
    cr_expect_gt(n, 80);
    mg_json_free(root);
    mg_tokenizer_free(t);
}

Test(tokenizer, from_json) {
    mg_tokenizer *t;
    mg_error err = {0};
    must(mg_tokenizer_open_dir(&t, MG_SAMPLES "/donors/base", &err), &err);
    cr_expect(mg_tokenizer_size(t) == 1024 && mg_tokenizer_bos(t) == 1 && mg_tokenizer_eos(t) == 2);
    cr_expect(mg_tokenizer_adds_bos(t) && !mg_tokenizer_adds_eos(t));
    cr_expect_eq(mg_tokenizer_find(t, "<0x0A>"), 13);
    cr_expect_eq(mg_tokenizer_find(t, "no such token"), -1);
    cr_expect_eq(mg_tokenizer_token(t, 13)->type, MG_TOKEN_BYTE);
    cr_expect_eq(mg_tokenizer_token(t, 0)->type, MG_TOKEN_UNKNOWN);
    cr_expect_eq(mg_tokenizer_token(t, 2)->type, MG_TOKEN_CONTROL);
    cr_expect_null(mg_tokenizer_token(t, 1024));
    cr_expect_null(mg_tokenizer_token(t, -1));
    run_cases(t);
}

Test(tokenizer, from_sentencepiece_model) {
    mg_tokenizer *t;
    mg_error err = {0};
    must(mg_tokenizer_open_spm(&t, MG_SAMPLES "/donors/base/tokenizer.model", &err), &err);
    cr_expect(mg_tokenizer_bos(t) == 1 && mg_tokenizer_adds_bos(t));
    run_cases(t);
}

/* The arrays of a GGUF file, made from the pieces of tokenizer.model. */
static void fill_kv(mg_kvs *kv, uint32_t n_scores, mg_kv_type score_type, int32_t first_type) {
    mg_tokenizer *t;
    mg_error err = {0};
    must(mg_tokenizer_open_spm(&t, MG_SAMPLES "/donors/base/tokenizer.model", &err), &err);
    uint32_t n = mg_tokenizer_size(t);
    mg_str *text = calloc(n, sizeof *text);
    float *score = calloc(n, sizeof *score);
    int32_t *type = calloc(n, sizeof *type);
    for (uint32_t i = 0; i < n; i++) {
        const mg_token *k = mg_tokenizer_token(t, (int32_t)i);
        text[i] = (mg_str){k->text, k->len};
        score[i] = k->score;
        type[i] = (int32_t)k->type;
    }
    type[0] = first_type;
    must(mg_kvs_set_str(kv, "tokenizer.ggml.model", "llama", 5, &err), &err);
    must(mg_kvs_set_arr(kv, "tokenizer.ggml.tokens", MG_KV_STR, n, text, &err), &err);
    must(mg_kvs_set_arr(kv, "tokenizer.ggml.scores", score_type, n_scores, score, &err), &err);
    must(mg_kvs_set_arr(kv, "tokenizer.ggml.token_type", MG_KV_I32, n, type, &err), &err);
    free(text);
    free(score);
    free(type);
    mg_tokenizer_free(t);
}

Test(tokenizer, from_gguf_keys) {
    mg_kvs kv;
    mg_tokenizer *t;
    mg_error err = {0};
    mg_kvs_init(&kv);
    must(mg_tokenizer_open_kv(&t, &kv, "x.gguf", &err), &err);
    cr_expect_null(t);
    fill_kv(&kv, 1024, MG_KV_F32, MG_TOKEN_UNKNOWN);
    must(mg_tokenizer_open_kv(&t, &kv, "x.gguf", &err), &err);
    mg_kvs_release(&kv);
    run_cases(t);
}

Test(tokenizer, refuses_bad_gguf_keys) {
    static const struct {
        const char *says, *key;
        uint32_t n_scores, id;
        int32_t first_type;
        mg_kv_type score_type;
        mg_status code;
    } bad[] = {
        {"1023 elements, the vocabulary has 1024", NULL, 1023, 0, 2, MG_KV_F32, MG_ERR_FORMAT},
        {"expected an array", NULL, 1024, 0, 2, MG_KV_I32, MG_ERR_FORMAT},
        {"token_type[0] = 7", NULL, 1024, 0, 7, MG_KV_F32, MG_ERR_FORMAT},
        {"token_type[0] = 0", NULL, 1024, 0, 0, MG_KV_F32, MG_ERR_FORMAT},
        {"not '<0xNN>'", NULL, 1024, 0, MG_TOKEN_BYTE, MG_KV_F32, MG_ERR_FORMAT},
        {"special token id 1024", "tokenizer.ggml.bos_token_id", 1024, 1024, 2, MG_KV_F32, MG_ERR_FORMAT},
        {"special token id", "tokenizer.ggml.eos_token_id", 1024, 0xFFFFFFF0u, 2, MG_KV_F32, MG_ERR_FORMAT},
        {"expected a string", "tokenizer.ggml.model", 1024, 3, 2, MG_KV_F32, MG_ERR_FORMAT},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        mg_kvs kv;
        mg_tokenizer *t;
        mg_error err = {0};
        mg_kvs_init(&kv);
        fill_kv(&kv, bad[i].n_scores, bad[i].score_type, bad[i].first_type);
        if (bad[i].key) must(mg_kvs_set_u32(&kv, bad[i].key, bad[i].id, &err), &err);
        cr_expect_eq(mg_tokenizer_open_kv(&t, &kv, "x.gguf", &err), bad[i].code, "%s", bad[i].says);
        cr_expect(strstr(err.message, bad[i].says), "%s: %s", bad[i].says, err.message);
        cr_expect_null(t);
        mg_kvs_release(&kv);
    }
}

/* ---- small tokenizer.json texts ---- */

static mg_status open_text(mg_tokenizer **t, const char *text, mg_error *err) {
    char path[] = "/tmp/moegraft-test-XXXXXX";
    int fd = mkstemp(path);
    cr_assert(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
    memset(err, 0, sizeof *err);
    mg_status s = mg_tokenizer_open_json(t, path, err);
    unlink(path);
    return s;
}

#define HEAD                          "{\"added_tokens\":[{\"id\":0,\"content\":\"<u>\",\"special\":true}],\"decoder\":{\"type\":\"Fuse\"},"
#define VOCAB                         "\"vocab\":{\"<u>\":0,\"a\":1,\"b\":2,\"ab\":3,\"aba\":4,\"" MARK "\":5,\"" MARK "a\":6}"
#define MODEL(options, vocab, merges) "\"model\":{\"type\":\"BPE\"," options vocab ",\"merges\":" merges "}}"
#define SPLIT(pattern, behavior)                                                                                       \
    "\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{" pattern "},\"behavior\":\"" behavior "\"},"
#define MERGES "[[\"a\",\"b\"],[\"ab\",\"a\"],[\"" MARK "\",\"a\"]]"

Test(tokenizer, refuses_bad_json) {
    static const struct {
        const char *text, *says;
        mg_status code;
    } bad[] = {
        {"[]", "object was expected", MG_ERR_FORMAT},
        {"{}", "without a model", MG_ERR_FORMAT},
        {"{\"model\":{\"type\":\"WordLevel\"}}", "model 'WordLevel'", MG_ERR_UNSUPPORTED},
        {"{\"model\":{\"type\":\"WordPiece\"}}", "model 'WordPiece'", MG_ERR_UNSUPPORTED},
        {HEAD "\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"}," MODEL("", VOCAB, MERGES), "'BertPreTokenizer'",
         MG_ERR_UNSUPPORTED},
        {HEAD "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"UnicodeScripts\"}]}," MODEL(
             "", VOCAB, MERGES),
         "pre-tokenizer 'UnicodeScripts'", MG_ERR_UNSUPPORTED},
        {HEAD SPLIT("\"String\":\"x\"", "Swallowed") MODEL("", VOCAB, MERGES), "behavior 'Swallowed'",
         MG_ERR_UNSUPPORTED},
        {HEAD SPLIT("\"String\":\"\"", "Removed") MODEL("", VOCAB, MERGES), "without a pattern", MG_ERR_FORMAT},
        {HEAD SPLIT("\"Regex\":\"[[:alpha:]]\"", "Removed") MODEL("", VOCAB, MERGES), "POSIX bracket",
         MG_ERR_UNSUPPORTED},
        {HEAD SPLIT("\"Regex\":\"\\\\p{Script=Greek}\"", "Removed") MODEL("", VOCAB, MERGES), "'Script=Greek'",
         MG_ERR_UNSUPPORTED},
        {HEAD "\"normalizer\":{\"type\":\"BertNormalizer\"}," MODEL("", VOCAB, MERGES), "normalizer 'BertNormalizer'",
         MG_ERR_UNSUPPORTED},
        {HEAD "\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"(?i)a\"},\"content\":\"x\"}," MODEL(
             "", VOCAB, MERGES),
         "group of the kind", MG_ERR_UNSUPPORTED},
        {HEAD "\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":\"x\"}," MODEL("", VOCAB,
                                                                                                             MERGES),
         "empty string", MG_ERR_FORMAT},
        {HEAD "\"post_processor\":{\"type\":\"Others\"}," MODEL("", VOCAB, MERGES), "post-processor 'Others'",
         MG_ERR_UNSUPPORTED},
        {HEAD MODEL("\"dropout\":0.1,", VOCAB, MERGES), "dropout", MG_ERR_UNSUPPORTED},
        {HEAD MODEL("\"end_of_word_suffix\":\"</w>\",", VOCAB, MERGES), "end_of_word_suffix", MG_ERR_UNSUPPORTED},
        {HEAD MODEL("\"unk_token\":\"<x>\",", VOCAB, MERGES), "unk_token '<x>'", MG_ERR_FORMAT},
        {HEAD MODEL("", "\"vocab\":{\"<u>\":0,\"a\":1,\"b\":1}", "[]"), "both have id 1", MG_ERR_FORMAT},
        {HEAD MODEL("", "\"vocab\":{\"<u>\":0,\"a\":1,\"\\u0061\":2}", "[]"), "twice", MG_ERR_FORMAT},
        {HEAD MODEL("", "\"vocab\":{\"<u>\":0,\"a\":2}", "[]"), "no token has id 1", MG_ERR_FORMAT},
        {HEAD MODEL("", "\"vocab\":{\"<u>\":0,\"a\":99}", "[]"), "id 99", MG_ERR_FORMAT},
        {HEAD MODEL("", "\"vocab\":{\"<u>\":0,\"a\":18446744073709551615}", "[]"), "id 18446744073709551615",
         MG_ERR_FORMAT},
        {HEAD MODEL("", "\"vocab\":{\"<u>\":0,\"a\":-1}", "[]"), "non-negative", MG_ERR_FORMAT},
        {HEAD MODEL("", "\"vocab\":{\"<u>\":0,\"a\":\"1\"}", "[]"), "no number", MG_ERR_FORMAT},
        {HEAD MODEL("", "\"vocab\":[\"a\"]", "[]"), "no object", MG_ERR_FORMAT},
        {HEAD MODEL("", "\"vocab\":{\"a\":0,\"<u>\":1}", "[]"), "the vocabulary says 1", MG_ERR_FORMAT},
        {HEAD MODEL("", VOCAB, "[[\"a\",\"x\"]]"), "must be in the vocabulary", MG_ERR_FORMAT},
        {HEAD MODEL("", VOCAB, "[[\"b\",\"a\"]]"), "must be in the vocabulary", MG_ERR_FORMAT},
        {HEAD MODEL("", VOCAB, "[\"ab\"]"), "no pair", MG_ERR_FORMAT},
        {HEAD MODEL("", VOCAB, "[\"a b c\"]"), "no pair", MG_ERR_FORMAT},
        {HEAD MODEL("", VOCAB, "[[\"a\",\"b\",\"a\"]]"), "more than two", MG_ERR_FORMAT},
        {HEAD MODEL("", VOCAB, "[[\"a\"]]"), "no pair", MG_ERR_FORMAT},
        {HEAD MODEL("", VOCAB, "[\"a b\",[\"a\",\"b\"]]"), "the same", MG_ERR_FORMAT},
        {HEAD MODEL("", VOCAB, "{}"), "no array", MG_ERR_FORMAT},
        {HEAD "\"model\":null," MODEL("", VOCAB, MERGES), "given twice", MG_ERR_FORMAT},
        {"{" MODEL("", VOCAB, MERGES), "decoder 'none'", MG_ERR_UNSUPPORTED},
        {"{\"added_tokens\":[{\"id\":9,\"content\":\"<z>\"}]," MODEL("", VOCAB, MERGES), "id 9", MG_ERR_FORMAT},
        {"{\"added_tokens\":[{\"id\":0}]," MODEL("", VOCAB, MERGES), "without id or content", MG_ERR_FORMAT},
        {"\xEF\xBB\xBF{}", "JSON", MG_ERR_FORMAT},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        mg_tokenizer *t;
        mg_error err;
        cr_expect_eq(open_text(&t, bad[i].text, &err), bad[i].code, "%s: %s", bad[i].says, err.message);
        cr_expect(strstr(err.message, bad[i].says), "%s: %s", bad[i].says, err.message);
        cr_expect_null(t);
    }
}

/* "text" -> "ids separated by blanks". */
static void expect_text(const mg_tokenizer *t, const char *text, const char *want) {
    mg_ids ids = {0};
    mg_error err = {0};
    char got[256] = "";
    must(mg_tokenizer_encode(t, text, strlen(text), MG_ENCODE_DEFAULT, &ids, &err), &err);
    for (size_t i = 0; i < ids.n; i++) sprintf(got + strlen(got), i ? " %d" : "%d", ids.ids[i]);
    cr_expect_str_eq(got, want);
    mg_ids_release(&ids);
}

Test(tokenizer, ranks_ties_and_unknown_characters) {
    mg_tokenizer *t;
    mg_error err;
    must(open_text(&t, HEAD MODEL("\"unk_token\":\"<u>\",\"fuse_unk\":true,", VOCAB, MERGES), &err), &err);
    expect_text(t, "ababa", "3 4"); /* both 'ab' first, then the leftmost 'ab'+'a' is none: "ab" "aba" */
    expect_text(t, "aab", "1 3");
    expect_text(t, "xyza", "0 1"); /* one unknown for a run */
    expect_text(t, "<u>b", "0 2");
    mg_tokenizer_free(t);
    must(open_text(&t, HEAD MODEL("\"unk_token\":\"<u>\",\"fuse_unk\":false,", VOCAB, "[\"a b\"]"), &err), &err);
    expect_text(t, "xyaba", "0 0 3 1"); /* one for each, and the other spelling of merges */
    mg_tokenizer_free(t);
    must(open_text(&t, HEAD MODEL("\"ignore_merges\":true,", VOCAB, "[]"), &err), &err);
    expect_text(t, "aba", "4");
    expect_text(t, "abab", "1 2 1 2");
    mg_tokenizer_free(t);
}

Test(tokenizer, metaspace_and_added_tokens) {
    mg_tokenizer *t;
    mg_error err;
#define ADDED                                                                                                          \
    "{\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"" MARK                                                     \
    "\"},\"added_tokens\":[{\"id\":0,\"content\":\"<u>\",\"special\":true},"                                           \
    "{\"id\":7,\"content\":\"<l>\",\"lstrip\":true},{\"id\":8,\"content\":\"<r>\",\"rstrip\":true},{\"id\":9,"         \
    "\"content\":\"<l><r>\"}],"
#define META(rest) "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"" MARK "\"," rest "},"
    must(open_text(&t, ADDED META("\"prepend_scheme\":\"first\",\"split\":false") MODEL("", VOCAB, MERGES), &err),
         &err);
    expect_text(t, "a a", "6 6");
    expect_text(t, " a", "6");        /* not twice */
    expect_text(t, "a<u>a", "6 0 1"); /* first only */
    expect_text(t, "a  <l> b", "6 7 5 2");
    expect_text(t, "a <r>  b", "6 5 8 2");
    expect_text(t, "<l><r>", "9"); /* the longest */
    mg_tokenizer_free(t);
    must(open_text(&t, ADDED META("\"add_prefix_space\":true") MODEL("", VOCAB, MERGES), &err), &err);
    expect_text(t, "a<u>a", "6 0 6");
    char *text;
    must(mg_tokenizer_decode(t, (int32_t[]){6, 6}, 2, 0, &text, NULL, &err), &err);
    cr_expect_str_eq(text, "a a");
    free(text);
    cr_expect_eq(mg_tokenizer_decode(t, (int32_t[]){10}, 1, 0, &text, NULL, &err), MG_ERR_USAGE);
    mg_tokenizer_free(t);
}

/* Bytes that are no UTF-8, and NUL, come back as they were. */
Test(tokenizer, any_bytes_round_trip) {
    mg_tokenizer *t;
    mg_error err = {0};
    must(mg_tokenizer_open_dir(&t, MG_SAMPLES "/donors/base", &err), &err);
    char all[512], *back;
    size_t len;
    for (int i = 0; i < 512; i++) all[i] = (char)(i * 167 >> 1);
    mg_ids ids = {0};
    must(mg_tokenizer_encode(t, all, sizeof all, 0, &ids, &err), &err);
    must(mg_tokenizer_decode(t, ids.ids, ids.n, 0, &back, &len, &err), &err);
    cr_assert_eq(len, sizeof all);
    cr_expect_arr_eq(back, all, sizeof all);
    free(back);
    mg_ids_release(&ids);
    mg_tokenizer_free(t);
}

/* A text without word boundaries must not cost the square of its length. 4 MB take half a second; the square of it,
 * hours. */
Test(tokenizer, long_words_are_not_quadratic, .timeout = 60) {
    mg_tokenizer *t;
    mg_error err = {0};
    size_t n = 4 << 20;
    char *text = malloc(n);
    memset(text, 'a', n);
    must(mg_tokenizer_open_spm(&t, MG_SAMPLES "/donors/base/tokenizer.model", &err), &err);
    mg_ids ids = {0};
    must(mg_tokenizer_encode(t, text, n, 0, &ids, &err), &err);
    cr_expect_gt(ids.n, 1000);
    mg_ids_release(&ids);
    mg_tokenizer_free(t);
    free(text);
}
