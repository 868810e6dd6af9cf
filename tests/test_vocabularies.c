/* Real vocabularies of the shared data (MOEGRAFT_SHARED): those of llama-2, phi-3 (SentencePiece), gpt-2,
 * llama-3, qwen2 and deepseek-llm (byte-level BPE) as GGUF, 47 texts each, the ids llama.cpp gives. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "formats/base/file.h"
#include "formats/base/zfile.h"
#include "formats/tokenizer.h"

static void must(mg_status st, const mg_error *err) {
    char text[2048];
    cr_assert_eq(st, MG_OK, "%s", mg_error_text(err, text, sizeof text));
}

static void run_golden(const char *shared, const char *name) {
    char path[4096], zst[4096];
    uint8_t *data;
    char *in, *out;
    size_t n, n_in, n_out;
    mg_error err = {0};
    snprintf(zst, sizeof zst, "%s/golden/tokenizer/%s.gguf.zst", shared, name);
    must(mg_zfile_read(zst, 1 << 30, &data, &n, &err), &err);
    char tmp[] = "/tmp/moegraft-test-XXXXXX.gguf";
    int fd = mkstemps(tmp, 5);
    cr_assert(fd >= 0 && write(fd, data, n) == (ssize_t)n);
    close(fd);
    free(data);
    mg_tokenizer *t;
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
