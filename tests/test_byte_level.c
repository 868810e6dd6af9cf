/* Tests of byte-level BPE: ids of the tokenizers library for five constructions (tests/data/tokenizer/bytes_*, trained
 * on the sample texts), bytes that are no text, the translation of regular expressions, normalization, and the keys of
 * a GGUF file. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/json.h"
#include "formats/base/regex.h"
#include "formats/base/unicode.h"
#include "formats/tokenizer.h"
#include "tests/tokenizer_cases.h"

static void run_cases(const char *name) {
    mg_tokenizer *t;
    open_data(&t, name);
    cr_expect(mg_tokenizer_is_byte_level(t));
    run_with(t, name, MG_ENCODE_DEFAULT);
}

Test(byte_level, llama3_style) {
    run_cases("bytes_llama3");
}
Test(byte_level, qwen2_style) {
    run_cases("bytes_qwen2");
}
Test(byte_level, deepseek_style) {
    run_cases("bytes_deepseek");
}
Test(byte_level, gpt2_style_with_prefix) {
    run_cases("bytes_gpt2_prefix");
}
Test(byte_level, normalizing) {
    run_cases("bytes_nfkc_lower");
}

/* Bytes that are no UTF-8, and NUL, come back as they were; a run of them is a word of its own. */
Test(byte_level, any_bytes_round_trip) {
    mg_tokenizer *t;
    mg_error err = {0};
    mg_ids ids = {0};
    char all[1024], *back;
    size_t len;
    open_data(&t, "bytes_llama3");
    for (int i = 0; i < 1024; i++) all[i] = (char)(i * 167 >> 1);
    must(mg_tokenizer_encode(t, all, sizeof all, 0, &ids, &err), &err);
    must(mg_tokenizer_decode(t, ids.ids, ids.n, 0, &back, &len, &err), &err);
    cr_assert_eq(len, sizeof all);
    cr_expect_arr_eq(back, all, sizeof all);
    free(back);
    mg_ids_release(&ids);
    mg_tokenizer_free(t);
}

/* A megabyte without a border between words: one word for every pattern. The square of it would take hours. */
Test(byte_level, long_words_are_not_quadratic, .timeout = 60) {
    static const char fill[] = "aA1 !\n";
    mg_tokenizer *t;
    mg_error err = {0};
    size_t n = 1 << 20;
    char *text = malloc(n);
    open_data(&t, "bytes_deepseek");
    for (const char *c = fill; *c; c++) {
        mg_ids ids = {0};
        memset(text, *c, n);
        must(mg_tokenizer_encode(t, text, n, 0, &ids, &err), &err);
        cr_expect_gt(ids.n, 1000);
        mg_ids_release(&ids);
    }
    free(text);
    mg_tokenizer_free(t);
}

/* ---- regular expressions ---- */

/* Begin and end of the first match, or -1. */
static void expect_match(const char *pattern, const char *text, int begin, int end) {
    mg_regex *r;
    mg_regex_run *run;
    mg_error err = {0};
    bool found;
    size_t b = 0, e = 0;
    must(mg_regex_new(&r, pattern, &err), &err);
    must(mg_regex_run_new(&run, &err), &err);
    must(mg_regex_run_text(run, text, strlen(text), &err), &err);
    must(mg_regex_search(r, run, 0, &found, &b, &e, &err), &err);
    cr_expect_eq(found, begin >= 0, "%s on %s", pattern, text);
    if (found) cr_expect(b == (size_t)begin && e == (size_t)end, "%s on %s: %zu to %zu", pattern, text, b, e);
    mg_regex_run_free(run);
    mg_regex_free(r);
}

Test(byte_level, patterns_mean_what_oniguruma_means) {
    expect_match("[a-z&&[^aeiou]]+", "aebcda", 2, 5); /* an intersection, not the characters a-z and & */
    expect_match("[a-z&&[^aeiou]]+", "&&", -1, -1);
    expect_match("[^a-z&&[^aeiou]]+", "bcae", 2, 4);
    expect_match("[\\p{L}&&[^\\p{Han}]]+", "\xE4\xB8\x80xy", 3, 5);
    expect_match("\\s", "\xE1\xA0\x8E", -1, -1); /* U+180E is no white space */
    expect_match("\\w", "\xCC\x81", 0, 2);       /* a combining mark */
    expect_match("\\w", "\xC2\xB2", 0, 2);       /* superscript two */
    expect_match("\\bx\\b", "\xC3\xA9x x", 4, 5);
    expect_match("\\p{L}", "\xF0\xB2\x8E\xAF", 0, 4); /* U+323AF, of Unicode 15 */
    expect_match("[^\\p{L}]", "\xF0\xB2\x8E\xAF", -1, -1);
    expect_match("\\p{Han}", "\xE3\x80\x81", -1, -1); /* a comma that many scripts share */
    expect_match("(?i:'s)", "'\xC5\xBF", 0, 3);       /* long s */
    expect_match("a$", "a\nb", 0, 1);                 /* ends of lines */
    expect_match("[\\S\\d]+", " \xC3\xA9 ", 1, 3);
    expect_match("a{,2}b", "aaab", 1, 4);
    expect_match("x*+x", "xxx", -1, -1);
}

Test(byte_level, patterns_that_are_refused) {
    static const char *const bad[] = {"[[:alpha:]]", "\\p{Script=Greek}",
                                      "\\p{Greek}",  "\\R",
                                      "\\1",         "(?i)a",
                                      "(?<n>a)",     "a{2}+",
                                      "a{2}?",       "a**",
                                      "*a",          "(a",
                                      "a)",          "[a",
                                      "[]a]",        "(?i:\\p{L})",
                                      "(?i:st)",     "(?=a)*",
                                      "[z-a]",       "\\x{110000}",
                                      "[\\d-z]",     "\\K",
                                      "\\p{Cn}",     "a{99999}",
                                      "(?i:[^a])",   "\\"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        mg_regex *r;
        mg_error err = {0};
        cr_expect_eq(mg_regex_new(&r, bad[i], &err), MG_ERR_UNSUPPORTED, "%s: %s", bad[i], err.message);
        cr_expect_null(r);
    }
}

/* Exponential backtracking ends at the match limit. */
Test(byte_level, catastrophic_pattern_is_limited, .timeout = 60) {
    mg_regex *r;
    mg_regex_run *run;
    mg_error err = {0};
    bool found;
    size_t b, e;
    must(mg_regex_new(&r, "(?:a+)+b", &err), &err);
    must(mg_regex_run_new(&run, &err), &err);
    must(mg_regex_run_text(run, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac", 41, &err), &err);
    mg_status s = mg_regex_search(r, run, 0, &found, &b, &e, &err);
    cr_expect(s == MG_ERR_LIMIT || (s == MG_OK && !found), "%d %s", (int)s, err.message);
    cr_expect_eq(mg_regex_run_text(run, "\xFF", 1, &err), MG_ERR_FORMAT);
    mg_regex_run_free(run);
    mg_regex_free(r);
}

static void expect_form(mg_unicode_form form, const char *text, const char *want) {
    char *out;
    size_t n;
    mg_error err = {0};
    must(mg_unicode_normalize(form, text, strlen(text), &out, &n, &err), &err);
    cr_expect(n == strlen(want) && strcmp(out, want) == 0, "%s: %s", text, out);
    free(out);
}

Test(byte_level, normalization) {
    expect_form(MG_UNICODE_NFC, "e\xCC\x81", "\xC3\xA9");
    expect_form(MG_UNICODE_NFD, "\xC3\xA9", "e\xCC\x81");
    expect_form(MG_UNICODE_NFKC, "\xEF\xAC\x81", "fi");
    expect_form(MG_UNICODE_NFC, "\xE1\x84\x81\xE1\x85\xB3\xE1\x86\xA7", "\xEB\x81\x84\xE1\x86\xA7"); /* U+11A7 stays */
    expect_form(MG_UNICODE_NFKC, "\xE3\x8B\xBF", "\xE3\x8B\xBF"); /* U+32FF is of Unicode 12.1 */
    uint32_t c[2];
    cr_expect(mg_unicode_lower(0x130, c) == 2 && c[0] == 'i' && c[1] == 0x307);
    cr_expect(mg_unicode_lower(0x1C89, c) == 1 && c[0] == 0x1C8A);
}

/* ---- GGUF ---- */

static mg_status open_keys(mg_tokenizer **t, const char *pre, const char *merge, mg_error *err) {
    static const char *const texts[] = {"a",
                                        "b",
                                        "\xC4\xA0",
                                        "ab",
                                        "<|end|>",
                                        "\xC4\xA0"
                                        "ab"};
    int32_t types[] = {1, 1, 1, 1, 3, 1};
    mg_str tokens[6], merges[2] = {{merge, strlen(merge)}, {"\xC4\xA0 ab", 5}};
    mg_kvs kv;
    for (int i = 0; i < 6; i++) tokens[i] = (mg_str){texts[i], strlen(texts[i])};
    mg_kvs_init(&kv);
    must(mg_kvs_set_str(&kv, "tokenizer.ggml.model", "gpt2", 4, err), err);
    must(mg_kvs_set_str(&kv, "tokenizer.ggml.pre", pre, strlen(pre), err), err);
    must(mg_kvs_set_arr(&kv, "tokenizer.ggml.tokens", MG_KV_STR, 6, tokens, err), err);
    must(mg_kvs_set_arr(&kv, "tokenizer.ggml.token_type", MG_KV_I32, 6, types, err), err);
    must(mg_kvs_set_arr(&kv, "tokenizer.ggml.merges", MG_KV_STR, 2, merges, err), err);
    mg_status s = mg_tokenizer_open_kv(t, &kv, "x.gguf", err);
    mg_kvs_release(&kv);
    return s;
}

Test(byte_level, gguf_keys) {
    mg_tokenizer *t;
    mg_error err = {0};
    mg_ids ids = {0};
    char *text;
    must(open_keys(&t, "gpt-2", "a b", &err), &err);
    must(mg_tokenizer_encode(t, "ab ab<|end|>a", 13, MG_ENCODE_DEFAULT, &ids, &err), &err);
    cr_assert_eq(ids.n, 4);
    cr_expect_arr_eq(ids.ids, ((int32_t[]){3, 5, 4, 0}), 4 * sizeof(int32_t));
    must(mg_tokenizer_decode(t, ids.ids, ids.n, 0, &text, NULL, &err), &err);
    cr_expect_str_eq(text, "ab ab<|end|>a");
    free(text);
    mg_ids_release(&ids);
    mg_tokenizer_free(t);
    cr_expect_eq(open_keys(&t, "no-such", "a b", &err), MG_ERR_UNSUPPORTED);
    err = (mg_error){0};
    cr_expect_eq(open_keys(&t, "gpt-2", "ab", &err), MG_ERR_FORMAT);
    err = (mg_error){0};
    cr_expect_eq(open_keys(&t, "gpt-2", "b a", &err), MG_ERR_FORMAT);
}

/* Every name of the table has expressions that compile. */
Test(byte_level, every_pre_name_opens) {
    static const char *const names[] = {
#define MG_PRE_SET(...)
#define MG_PRE_NAME(name, set, ignore, bos) name,
#include "formats/gguf_pre.inc"
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        mg_tokenizer *t;
        mg_error err = {0};
        must(open_keys(&t, names[i], "a b", &err), &err);
        mg_tokenizer_free(t);
    }
}
