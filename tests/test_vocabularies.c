/* Real vocabularies of the shared data (MOEGRAFT_SHARED): those of llama-2, phi-3 (SentencePiece), gpt-2,
 * llama-3, qwen2 and deepseek-llm (byte-level BPE) as GGUF, 47 texts each, the ids llama.cpp gives. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "convert/gguf_vocab.h"
#include "formats/base/file.h"
#include "formats/base/json.h"
#include "formats/base/zfile.h"
#include "formats/tokenizer.h"

static void must(mg_status st, const mg_error *err) {
    char text[2048];
    cr_assert_eq(st, MG_OK, "%s", mg_error_text(err, text, sizeof text));
}

/* The vocabulary unpacked into a file of its own. */
static void unpack(const char *shared, const char *name, char tmp[40]) {
    char zst[4096];
    uint8_t *data;
    size_t n;
    mg_error err = {0};
    snprintf(zst, sizeof zst, "%s/golden/tokenizer/%s.gguf.zst", shared, name);
    must(mg_zfile_read(zst, 1 << 30, &data, &n, &err), &err);
    strcpy(tmp, "/tmp/moegraft-test-XXXXXX.gguf");
    int fd = mkstemps(tmp, 5);
    cr_assert(fd >= 0 && write(fd, data, n) == (ssize_t)n);
    close(fd);
    free(data);
}

static void run_golden(const char *shared, const char *name) {
    char path[4096], tmp[40], *in, *out;
    size_t n_in, n_out;
    mg_error err = {0};
    mg_tokenizer *t;
    unpack(shared, name, tmp);
    mg_status s = mg_tokenizer_open_path(&t, tmp, &err);
    unlink(tmp);
    must(s, &err);
    snprintf(path, sizeof path, "%s/golden/tokenizer/%s.inp", shared, name);
    must(mg_file_slurp(path, 1 << 20, &in, &n_in, &err), &err);
    snprintf(path, sizeof path, "%s/golden/tokenizer/%s.out", shared, name);
    must(mg_file_slurp(path, 1 << 20, &out, &n_out, &err), &err);
    static const char mark[] = "\n__ggml_vocab_test__\n";
    size_t cases = 0;
    char *line = out;
    for (char *text = in; text; cases++) {
        char *end = strstr(text, mark), *line_end = strchr(line, '\n');
        size_t len = end ? (size_t)(end - text) : strlen(text);
        mg_ids ids = {0};
        must(mg_tokenizer_encode(t, text, len, 0, &ids, &err), &err);
        size_t i = 0;
        char *p = line, *next;
        for (; p < line_end && i <= ids.n; i++, p = next) {
            long id = strtol(p, &next, 10);
            if (next == p || next > line_end) break;
            if (i < ids.n) cr_expect_eq(ids.ids[i], id, "%s case %zu, token %zu", name, cases, i);
        }
        cr_expect_eq(i, ids.n, "%s case %zu: %zu ids", name, cases, ids.n);
        mg_ids_release(&ids);
        line = line_end ? line_end + 1 : line + strlen(line);
        text = end ? end + sizeof mark - 1 : NULL;
    }
    cr_expect_eq(cases, 47, "%s", name);
    free(in);
    free(out);
    mg_tokenizer_free(t);
}

Test(vocabularies, golden) {
    const char *shared = getenv("MOEGRAFT_SHARED");
    if (!shared) {
        fputs("vocabularies: MOEGRAFT_SHARED is not set, the 282 cases of six vocabularies are not run\n", stderr);
        cr_skip_test("MOEGRAFT_SHARED is not set");
    }
    run_golden(shared, "llama-spm");
    run_golden(shared, "phi-3");
    run_golden(shared, "gpt-2");
    run_golden(shared, "llama-bpe");
    run_golden(shared, "qwen2");
    run_golden(shared, "deepseek-llm");
}

/* ---- the way back: tokenizer.json as the model has it, to the keys the converter wrote ---- */

static mg_json *member_of(mg_json *o, const char *type) {
    mg_json_set_str(o, "type", type);
    return o;
}

static mg_json *split_by(const char *pattern) {
    mg_json *o = member_of(mg_json_new_object(), "Split"), *p = mg_json_new_object();
    mg_json_set_str(p, "Regex", pattern);
    mg_json_set(o, "pattern", p);
    mg_json_set_str(o, "behavior", "Isolated");
    return o;
}

static void write_json(const mg_kvs *kv, const char *path, const char *pattern, int32_t bos) {
    const mg_kv *text = mg_kvs_get(kv, "tokenizer.ggml.tokens"), *type = mg_kvs_get(kv, "tokenizer.ggml.token_type");
    const mg_kv *merges = mg_kvs_get(kv, "tokenizer.ggml.merges");
    mg_json *root = mg_json_new_object(), *model = member_of(mg_json_new_object(), "BPE"),
            *vocab = mg_json_new_object();
    mg_json *added = mg_json_new_array(), *list = mg_json_new_array(),
            *bytes = member_of(mg_json_new_object(), "ByteLevel");
    for (uint64_t i = 0; i < text->count; i++) {
        const mg_str *k = (const mg_str *)text->data + i;
        int32_t kind = ((const int32_t *)type->data)[i];
        if (kind == MG_TOKEN_NORMAL) {
            mg_json_add(vocab, k->data, mg_json_new_u64(i));
        } else if (kind != MG_TOKEN_UNUSED) { /* padding of the embedding is no token of the tokenizer */
            mg_json *a = mg_json_new_object();
            mg_json_set(a, "id", mg_json_new_u64(i));
            mg_json_set_str(a, "content", k->data);
            mg_json_set(a, "special", mg_json_new_bool(kind == MG_TOKEN_CONTROL));
            mg_json_push(added, a);
        }
    }
    for (uint64_t i = 0; i < merges->count; i++)
        mg_json_push(list, mg_json_new_str(((const mg_str *)merges->data)[i].data));
    mg_json_set(model, "vocab", vocab);
    mg_json_set(model, "merges", list);
    mg_json_set(model, "ignore_merges", mg_json_new_bool(bos >= 0));
    mg_json_set(bytes, "add_prefix_space", mg_json_new_bool(false));
    mg_json_set(bytes, "use_regex", mg_json_new_bool(!pattern));
    mg_json *pre = member_of(mg_json_new_object(), "Sequence"), *steps = mg_json_new_array();
    if (pattern) mg_json_push(steps, split_by(pattern));
    mg_json_push(steps, bytes);
    mg_json_set(pre, "pretokenizers", steps);
    mg_json_set(root, "added_tokens", added);
    mg_json_set(root, "pre_tokenizer", pre);
    mg_json_set(root, "decoder", member_of(mg_json_new_object(), "ByteLevel"));
    mg_json_set(root, "model", model);
    if (bos >= 0) {
        char post[512];
        mg_json *p;
        mg_error err = {0};
        int n = snprintf(post, sizeof post,
                         "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"B\"}},{\"Sequence\":"
                         "{\"id\":\"A\"}}],\"special_tokens\":{\"B\":{\"ids\":[%d]}}}",
                         bos);
        must(mg_json_parse(&p, (mg_span){(const uint8_t *)post, (size_t)n}, "post", &err), &err);
        mg_json_set(root, "post_processor", p);
    }
    char *out;
    mg_error err = {0};
    must(mg_json_print(&out, root, 0, &err), &err);
    FILE *f = fopen(path, "wb");
    cr_assert(f && fputs(out, f) >= 0 && fclose(f) == 0);
    free(out);
    mg_json_free(root);
}

static void expect_same(const mg_kvs *a, const mg_kvs *b, const char *key) {
    const mg_kv *x = mg_kvs_get(a, key), *y = mg_kvs_get(b, key);
    cr_assert(x && y && x->type == y->type, "%s", key);
    if (x->type == MG_KV_STR) {
        mg_str p, q;
        cr_expect(mg_kv_str(x, &p) && mg_kv_str(y, &q) && strcmp(p.data, q.data) == 0, "%s: %s", key, q.data);
        return;
    }
    cr_assert_eq(x->count, y->count, "%s", key);
    for (uint64_t i = 0; i < x->count; i++) {
        if (x->elem == MG_KV_STR)
            cr_assert_str_eq(((const mg_str *)x->data)[i].data, ((const mg_str *)y->data)[i].data, "%s %zu", key,
                             (size_t)i);
        else
            cr_assert_eq(((const int32_t *)x->data)[i], ((const int32_t *)y->data)[i], "%s %zu", key, (size_t)i);
    }
}

#define CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define REST        "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define WORDS       "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"

static void convert_back(const char *shared, const char *name, const char *pattern, int32_t bos) {
    static const char *const keys[] = {"tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.tokens",
                                       "tokenizer.ggml.token_type", "tokenizer.ggml.merges"};
    char tmp[40], dir[] = "/tmp/moegraft-test-XXXXXX", path[64];
    mg_checkpoint *c;
    mg_kvs kv;
    mg_error err = {0};
    bool had;
    unpack(shared, name, tmp);
    mg_status s = mg_checkpoint_open(&c, tmp, &err);
    unlink(tmp);
    must(s, &err);
    cr_assert_not_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    write_json(c->kv, path, pattern, bos);
    mg_kvs_init(&kv);
    s = mg_gguf_vocab_append(&kv, dir, mg_kvs_get(c->kv, "tokenizer.ggml.tokens")->count, &had, &err);
    unlink(path);
    rmdir(dir);
    must(s, &err);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        expect_same(c->kv, &kv, keys[i]);
        cr_expect_str_eq(kv.items[i].key.data, keys[i]); /* and in this order */
    }
    mg_kvs_release(&kv);
    mg_checkpoint_free(c);
}

Test(vocabularies, byte_level_converts_back) {
    const char *shared = getenv("MOEGRAFT_SHARED");
    if (!shared) cr_skip_test("MOEGRAFT_SHARED is not set");
    convert_back(shared, "gpt-2", NULL, -1);
    convert_back(shared, "qwen2", CONTRACTION WORDS "\\p{N}" REST, -1);
    convert_back(shared, "llama-bpe", CONTRACTION WORDS "\\p{N}{1,3}" REST, 128000);
}
