/* Tests of Unigram tokenizers: ids of the tokenizers library for two constructions and of the sentencepiece library for
 * its own models (tests/data/tokenizer/NAME_spm, trained on the sample texts; one is BPE), long texts, and files that are
 * wrong. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/json.h"
#include "formats/tokenizer.h"
#include "formats/tokenizer_impl.h"
#include "tests/tokenizer_cases.h"

static void run_cases(const char *name) {
    mg_tokenizer *t;
    open_data(&t, name);
    run_with(t, name, MG_ENCODE_DEFAULT);
}

Test(unigram, sentencepiece_model) {
    mg_tokenizer *t;
    mg_error err = {0};
    must(mg_tokenizer_open_spm(&t, MG_TEST_DATA "/tokenizer/unigram_spm.model", &err), &err);
    run_with(t, "unigram_spm", 0);
}

/* User-defined pieces, which the table leaves alone and the best path prefers. */
Test(unigram, user_defined) {
    mg_tokenizer *t;
    mg_error err = {0};
    must(mg_tokenizer_open_spm(&t, MG_TEST_DATA "/tokenizer/unigram_user_spm.model", &err), &err);
    run_with(t, "unigram_user_spm", 0);
}

/* The same settings in a model that is merged by score. */
Test(unigram, bpe_with_table) {
    mg_tokenizer *t;
    mg_error err = {0};
    must(mg_tokenizer_open_spm(&t, MG_TEST_DATA "/tokenizer/bpe_spm.model", &err), &err);
    run_with(t, "bpe_spm", 0);
}

/* Sums beyond a hundred thousand are taken down, which a text of a million letters does often. */
Test(unigram, sentencepiece_long_text) {
    mg_tokenizer *t;
    mg_error err = {0};
    mg_ids ids = {0};
    const size_t n = 1 << 20;
    char *text = malloc(n);
    must(mg_tokenizer_open_spm(&t, MG_TEST_DATA "/tokenizer/unigram_spm.model", &err), &err);
    memset(text, 'e', n);
    must(mg_tokenizer_encode(t, text, n, 0, &ids, &err), &err);
    for (size_t i = 2; i < ids.n; i++) cr_assert_eq(ids.ids[i], ids.ids[1], "at %zu", i);
    mg_ids_release(&ids);
    free(text);
    mg_tokenizer_free(t);
}

Test(unigram, t5_style) {
    run_cases("unigram_t5");
}
Test(unigram, byte_fallback) {
    run_cases("unigram_bytes");
}

/* Bytes that are no UTF-8 become byte tokens and come back. */
Test(unigram, any_bytes) {
    static const char text[] = "ab \xFF\xFE cd\xE2\x82";
    mg_tokenizer *t;
    mg_error err = {0};
    mg_ids ids = {0};
    char *back;
    size_t len;
    open_data(&t, "unigram_bytes");
    must(mg_tokenizer_encode(t, text, sizeof text - 1, 0, &ids, &err), &err);
    must(mg_tokenizer_decode(t, ids.ids, ids.n, 0, &back, &len, &err), &err);
    cr_expect(len >= sizeof text - 1 && memcmp(back + len - 2, "\xE2\x82", 2) == 0 && memchr(back, 0xFF, len));
    free(back);
    mg_ids_release(&ids);
    mg_tokenizer_free(t);
}

/* A megabyte that is one word. */
Test(unigram, long_words_are_not_quadratic, .timeout = 60) {
    mg_tokenizer *t;
    mg_error err = {0};
    mg_ids ids = {0};
    const size_t n = 1 << 20;
    char *text = malloc(n);
    open_data(&t, "unigram_bytes");
    memset(text, 'a', n);
    must(mg_tokenizer_encode(t, text, n, 0, &ids, &err), &err);
    cr_expect_gt(ids.n, 1000);
    mg_ids_release(&ids);
    free(text);
    mg_tokenizer_free(t);
}

static mg_status open_text(mg_tokenizer **t, const char *text, mg_error *err) {
    *err = (mg_error){0};
    mg_status s = mg_tokenizer_new(t, err);
    if (!s) s = mg_tokenizer_read_json(*t, text, strlen(text), err);
    return s ? s : mg_tokenizer_finish(*t, err);
}

#define DECODER           "{\"decoder\":{\"type\":\"Fuse\"},"
#define MODEL(unk, vocab) "\"model\":{\"type\":\"Unigram\",\"unk_id\":" unk ",\"vocab\":" vocab "}}"
#define VOCAB             "[[\"<u>\",0],[\"a\",-1.5],[\"ab\",-2]]"
#define CHARSMAP(table)                                                                                                \
    DECODER "\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"" table "\"}," MODEL("0", VOCAB)

Test(unigram, refuses_bad_files) {
    static const struct {
        const char *text, *says;
    } bad[] = {
        {DECODER "\"model\":{\"type\":\"Unigram\"}}", "without vocab"},
        {DECODER MODEL("0", "{}"), "no list"},
        {DECODER MODEL("0", "[\"a\"]"), "no pair"},
        {DECODER MODEL("0", "[[\"a\"]]"), "no score"},
        {DECODER MODEL("0", "[[1,2]]"), "no text"},
        {DECODER MODEL("0", "[[\"a\",\"b\"]]"), "no score"},
        {DECODER MODEL("0", "[[\"a\",1,2]]"), "no pair"},
        {DECODER MODEL("0", "[[\"a\",1e999]]"), ""},
        {DECODER MODEL("0", "[[\"a\",1],[\"a\",2]]"), "twice"},
        {DECODER MODEL("3", VOCAB), "unk_id"},
        {DECODER MODEL("-1", VOCAB), "unk_id"},
        {DECODER MODEL("\"<u>\"", VOCAB), "unk_id"},
        {CHARSMAP("AAA"), "base64"},
        {CHARSMAP("A*AA"), "base64"},
        {CHARSMAP("AAAA"), "table of 3 bytes"},
        {CHARSMAP("////fwAAAAA="), "trie"},
        {CHARSMAP("BAAAAAAAAABh"), "does not end"},
        {CHARSMAP("BAAAAAAAAAD/AA=="), "UTF-8"},
        {DECODER
         "\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"<s>\",9],\"sep\":[\"</s>\",0]}," MODEL("0", VOCAB),
         "its id"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        mg_tokenizer *t;
        mg_error err;
        cr_expect_eq(open_text(&t, bad[i].text, &err), MG_ERR_FORMAT, "%zu %s: %s", i, bad[i].says, err.message);
        cr_expect(strstr(err.message, bad[i].says), "%s: %s", bad[i].says, err.message);
        mg_tokenizer_free(t);
    }
}

/* A trie that leads out of its table, or to a replacement that is not there, matches nothing. */
Test(unigram, tables_that_lead_nowhere) {
    static const char *const tables[] = {"BAAAAP////8A", "CAAAAAAEAABhAQAAAA==", "CAAAAAAAAABh/f//AA=="};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        char text[1024];
        mg_tokenizer *t;
        mg_error err = {0};
        mg_ids ids = {0};
        snprintf(text, sizeof text, CHARSMAP("%s"), tables[i]);
        must(open_text(&t, text, &err), &err);
        must(mg_tokenizer_encode(t, "aab", 3, 0, &ids, &err), &err);
        cr_expect_eq(ids.n, 2);
        mg_ids_release(&ids);
        mg_tokenizer_free(t);
    }
}

Test(unigram, no_unknown_token) {
    mg_tokenizer *t;
    mg_error err = {0};
    mg_ids ids = {0};
    must(open_text(&t, DECODER MODEL("null", VOCAB), &err), &err);
    must(mg_tokenizer_encode(t, "aa", 2, 0, &ids, &err), &err);
    cr_expect_eq(ids.n, 2);
    cr_expect_eq(mg_tokenizer_encode(t, "xyz", 3, 0, &ids, &err), MG_ERR_UNSUPPORTED);
    cr_expect(strstr(err.message, "'x'"), "%s", err.message);
    mg_ids_release(&ids);
    mg_tokenizer_free(t);
}
