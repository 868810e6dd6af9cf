/* Tests of gguf_vocab: the tokenizer.* keys of golden/gguf/convert.json (key order, types, values, array hashes) from
 * tokenizer.model and from tokenizer.json alone, and the side files. The expected values of the small cases were
 * checked against convert_hf_to_gguf.py. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "convert/gguf_vocab.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/json.h"
#include "formats/base/number.h"
#include "formats/tokenizer.h"

static void must(mg_status st, const mg_error *err) {
    char text[2048];
    cr_assert_eq(st, MG_OK, "%s", mg_error_text(err, text, sizeof text));
}

/* ---- a model directory in the making ---- */

static char folder[] = "/tmp/moegraft-test-XXXXXX";
static char made[8][4096];
static unsigned n_made;

static void put(const char *name, const char *data, size_t n) {
    snprintf(made[n_made], sizeof *made, "%s/%s", folder, name);
    FILE *f = fopen(made[n_made++], "wb");
    cr_assert_not_null(f);
    cr_assert_eq(fwrite(data, 1, n, f), n);
    fclose(f);
}

static void copy(const char *name) {
    char path[4096], *data;
    size_t n;
    mg_error err = {0};
    snprintf(path, sizeof path, MG_TEST_DATA "/models/donors/prose/%s", name);
    must(mg_file_slurp(path, 1 << 24, &data, &n, &err), &err);
    put(name, data, n);
    free(data);
}

static void open_folder(void) {
    strcpy(folder + sizeof folder - 7, "XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    n_made = 0;
}

static void close_folder(void) {
    while (n_made) unlink(made[--n_made]);
    rmdir(folder);
}

static void append(mg_kvs *kv, const char *dir, uint64_t rows) {
    bool had = false;
    mg_error err = {0};
    mg_kvs_init(kv);
    must(mg_gguf_vocab_append(kv, dir, rows, &had, &err), &err);
    cr_assert(had);
}

/* ---- the golden file ---- */

/* json.dumps(list, ensure_ascii=False) of an array, hashed: how convert.json states arrays. */
static void hash_array(const mg_kv *v, char hex[65]) {
    mg_sha256 h;
    uint8_t digest[32];
    mg_sha256_init(&h);
    mg_sha256_update(&h, "[", 1);
    for (uint64_t i = 0; i < v->count; i++) {
        char text[64];
        if (i) mg_sha256_update(&h, ", ", 2);
        if (v->elem == MG_KV_F32) {
            mg_number_print(((const float *)v->data)[i], text);
            mg_sha256_update(&h, text, strlen(text));
        } else if (v->elem == MG_KV_I32) {
            snprintf(text, sizeof text, "%d", ((const int32_t *)v->data)[i]);
            mg_sha256_update(&h, text, strlen(text));
        } else {
            const mg_str *s = (const mg_str *)v->data + i;
            mg_sha256_update(&h, "\"", 1);
            for (uint64_t k = 0; k < s->size; k++) {
                if (s->data[k] == '"' || s->data[k] == '\\') mg_sha256_update(&h, "\\", 1);
                mg_sha256_update(&h, s->data + k, 1);
            }
            mg_sha256_update(&h, "\"", 1);
        }
    }
    mg_sha256_update(&h, "]", 1);
    mg_sha256_final(&h, digest);
    mg_hex(digest, 32, hex);
}

static void expect_value(const mg_kv *v, const char *type, const mg_json *want) {
    mg_str s;
    uint64_t a, b;
    bool x, y;
    char hex[65];
    if (strcmp(type, "STRING") == 0) {
        cr_expect(mg_kv_str(v, &s) && strcmp(s.data, mg_json_str(want)) == 0, "%s", v->key.data);
    } else if (strcmp(type, "BOOL") == 0) {
        cr_expect(v->type == MG_KV_BOOL && mg_kv_bool(v, &x) && mg_json_bool(want, &y) && x == y, "%s", v->key.data);
    } else if (strcmp(type, "UINT32") == 0) {
        cr_expect(v->type == MG_KV_U32 && mg_kv_u64(v, &a) && mg_json_u64(want, &b) && a == b, "%s", v->key.data);
    } else {
        static const char *const names[] = {
            [MG_KV_STR] = "ARRAY/STRING", [MG_KV_F32] = "ARRAY/FLOAT32", [MG_KV_I32] = "ARRAY/INT32"};
        cr_assert(v->type == MG_KV_ARR && strcmp(names[v->elem], type) == 0, "%s", v->key.data);
        cr_expect(mg_json_u64(mg_json_get(want, "length"), &b) && v->count == b, "%s", v->key.data);
        hash_array(v, hex);
        cr_expect_str_eq(hex, mg_json_str(mg_json_get(want, "sha256")), "%s", v->key.data);
    }
}

static void expect_golden(const mg_kvs *kv, const char *entry) {
    mg_json *root;
    mg_error err = {0};
    must(mg_json_load(&root, MG_TEST_DATA "/golden/gguf/convert.json", 1 << 24, &err), &err);
    uint32_t n = 0;
    for (const mg_json *row = mg_json_first(mg_json_get(mg_json_get(root, entry), "kv")); row;
         row = mg_json_next(row)) {
        const mg_json *key = mg_json_first(row), *type = mg_json_next(key);
        if (strncmp(mg_json_str(key), "tokenizer.", 10) != 0) continue;
        cr_assert_lt(n, kv->n);
        cr_assert_str_eq(kv->items[n].key.data, mg_json_str(key));
        expect_value(&kv->items[n++], mg_json_str(type), mg_json_next(type));
    }
    cr_expect_eq(n, 11);
    cr_expect_eq(n, kv->n);
    mg_json_free(root);
}

Test(gguf_vocab, golden_keys_of_both_models) {
    mg_kvs kv;
    append(&kv, MG_TEST_DATA "/models/donors/prose", 1024);
    expect_golden(&kv, "prose-bf16");
    expect_golden(&kv, "moe4-bf16"); /* the mixture carries the donors' tokenizer */
    mg_kvs_release(&kv);
}

/* The scores that tokenizer.json does not have come out as SentencePiece stored them. */
Test(gguf_vocab, golden_keys_without_tokenizer_model, .init = open_folder, .fini = close_folder) {
    mg_kvs kv;
    copy("tokenizer.json");
    copy("tokenizer_config.json");
    copy("config.json");
    append(&kv, folder, 1024);
    expect_golden(&kv, "prose-bf16");
    mg_kvs_release(&kv);
}

/* ---- side files ---- */

static void put_text(const char *name, const char *text) {
    put(name, text, strlen(text));
}

static const char *str_of(const mg_kvs *kv, const char *key) {
    mg_str s;
    return mg_kv_str(mg_kvs_get(kv, key), &s) ? s.data : "(none)";
}

static void expect_token(const mg_kvs *kv, uint32_t id, const char *text, float score, int32_t type) {
    cr_expect_str_eq(((const mg_str *)mg_kvs_get(kv, "tokenizer.ggml.tokens")->data)[id].data, text);
    cr_expect_eq(((const float *)mg_kvs_get(kv, "tokenizer.ggml.scores")->data)[id], score, "%u", id);
    cr_expect_eq(((const int32_t *)mg_kvs_get(kv, "tokenizer.ggml.token_type")->data)[id], type, "%u", id);
}

Test(gguf_vocab, added_tokens_and_padding, .init = open_folder, .fini = close_folder) {
    mg_kvs kv;
    bool b;
    copy("tokenizer.model");
    put_text("added_tokens.json", "{\"<a>\": 1024, \"<far>\": 5000}");
    put_text(
        "tokenizer_config.json",
        "{\"add_prefix_space\": false, \"added_tokens_decoder\": {\"2\": {\"content\": \"</s>\", \"special\": true},"
        "\"1025\": {\"content\": \"<|im|>\", \"special\": false}, \"1026\": {\"content\": \"\\u2581x\\u2581y\"},"
        "\"9999\": {\"content\": \"far\"}}}");
    append(&kv, folder, 1030);
    cr_expect_str_eq(kv.items[0].key.data, "tokenizer.ggml.add_space_prefix");
    cr_expect(mg_kv_bool(&kv.items[0], &b) && !b);
    expect_token(&kv, 0, "<unk>", 0, 2);
    expect_token(&kv, 2, "</s>", -1000, 3);
    expect_token(&kv, 13, "<0x0A>", 0, 6);
    expect_token(&kv, 1024, "<a>", -1000, 4);
    expect_token(&kv, 1025, "<|im|>", -1000, 3);
    expect_token(&kv, 1026, " x y", -1000, 4);
    expect_token(&kv, 1029, "[PAD1029]", -10000, 5);
    mg_kvs_release(&kv);
}

Test(gguf_vocab, chat_templates, .init = open_folder, .fini = close_folder) {
    mg_kvs kv;
    copy("tokenizer.model");
    put_text("chat_template.jinja", "{{ a }}\r\nb\n");
    append(&kv, folder, 0);
    cr_expect_null(mg_kvs_get(&kv, "tokenizer.chat_template")); /* no tokenizer_config.json */
    mg_kvs_release(&kv);
    put_text("tokenizer_config.json", "{\"x\": 1}");
    append(&kv, folder, 0);
    cr_expect_str_eq(str_of(&kv, "tokenizer.chat_template"), "{{ a }}\nb\n");
    mg_kvs_release(&kv);
    n_made--;
    put_text("tokenizer_config.json", "{\"chat_template\": [{\"name\": \"default\", \"template\": \"d\"}, {\"name\": "
                                      "\"to-ol\", \"template\": \"t\"}]}");
    append(&kv, folder, 0);
    cr_expect_str_eq(str_of(&kv, "tokenizer.chat_template"), "d");
    cr_expect_str_eq(str_of(&kv, "tokenizer.chat_template.to_ol"), "t");
    const mg_kv *names = mg_kvs_get(&kv, "tokenizer.chat_templates");
    cr_assert(names && names->count == 1);
    cr_expect_str_eq(((const mg_str *)names->data)->data, "to_ol");
    mg_kvs_release(&kv);
}

/* A post-processor that ends texts with another token than EOS: that one is EOS, the old one end of turn. */
Test(gguf_vocab, renamed_eos, .init = open_folder, .fini = close_folder) {
    mg_kvs kv;
    uint64_t id;
    copy("tokenizer.model");
    put_text("tokenizer.json", "{\"added_tokens\": [{\"id\": 1, \"content\": \"<s>\"}, {\"id\": 2, \"content\": "
                               "\"</s>\"}, {\"id\": 7, \"content\": \"<e>\"}],"
                               "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"Sequence\": "
                               "{\"id\": \"A\"}}, {\"SpecialToken\": {\"id\": \"<e>\"}}]}}");
    put_text("tokenizer_config.json",
             "{\"bos_token\": {\"content\": \"<s>\"}, \"eos_token\": \"</s>\", \"add_bos_token\": true}");
    append(&kv, folder, 0);
    cr_expect(mg_kv_u64(mg_kvs_get(&kv, "tokenizer.ggml.eos_token_id"), &id) && id == 7);
    cr_expect(mg_kv_u64(mg_kvs_get(&kv, "tokenizer.ggml.eot_token_id"), &id) && id == 2);
    cr_expect(mg_kv_u64(mg_kvs_get(&kv, "tokenizer.ggml.bos_token_id"), &id) && id == 1);
    bool b;
    cr_expect(mg_kv_bool(mg_kvs_get(&kv, "tokenizer.ggml.add_eos_token"), &b) && b);
    cr_expect(mg_kv_bool(mg_kvs_get(&kv, "tokenizer.ggml.add_bos_token"), &b) && b);
    mg_kvs_release(&kv);
}

Test(gguf_vocab, none_and_unsupported, .init = open_folder, .fini = close_folder) {
    mg_kvs kv;
    bool had = true;
    mg_error err = {0};
    mg_kvs_init(&kv);
    must(mg_gguf_vocab_append(&kv, folder, 10, &had, &err), &err);
    cr_expect(!had && kv.n == 0);
    put_text("vocab.json", "{}");
    cr_expect_eq(mg_gguf_vocab_append(&kv, folder, 10, &had, &err), MG_ERR_UNSUPPORTED);
    err = (mg_error){0};
    /* "ab" and "c" are pieces, so a reader that knows scores only would merge them to "abc"; this list does not */
    char *text = malloc(16384);
    int n = sprintf(
        text,
        "{\"decoder\": {\"type\": \"Fuse\"}, \"model\": {\"type\": \"BPE\", \"byte_fallback\": true, \"vocab\": {");
    for (int i = 0; i < 256; i++) n += sprintf(text + n, "\"<0x%02X>\": %d, ", i, i);
    sprintf(text + n, "\"a\": 256, \"b\": 257, \"c\": 258, \"ab\": 259, \"bc\": 260, \"abc\": 261}, "
                      "\"merges\": [\"a b\", \"b c\", \"a bc\"]}}");
    put_text("tokenizer.json", text);
    free(text);
    cr_expect_eq(mg_gguf_vocab_append(&kv, folder, 0, &had, &err), MG_ERR_UNSUPPORTED);
    cr_expect(strstr(err.message, "'abc' has a split that is not listed"), "%s", err.message);
    cr_expect(strstr(err.file, "tokenizer.json"), "%s", err.file);
    mg_kvs_release(&kv);
}
