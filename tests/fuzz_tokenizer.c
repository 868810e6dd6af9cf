/* fuzz_tokenizer.c - a tokenizer.json, then (behind the first NUL) a text for it. What is read either fails with a
 * message or gives ids of its vocabulary, which decode. */
#include <stdlib.h>
#include <string.h>

#include "formats/tokenizer_impl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int ok) {
    if (!ok) abort();
}

static void use(const mg_tokenizer *t, const char *text, size_t n) {
    mg_ids ids = {0};
    mg_error err = {0};
    char *back;
    size_t len;
    mg_status s = mg_tokenizer_encode(t, text, n, MG_ENCODE_DEFAULT, &ids, &err);
    require(s == err.code);
    for (size_t i = 0; i < ids.n; i++) require(mg_tokenizer_token(t, ids.ids[i]) != NULL);
    if (!s) {
        require(mg_tokenizer_decode(t, ids.ids, ids.n, 0, &back, &len, &err) == MG_OK);
        free(back);
    }
    mg_ids_release(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char otherwise[] = "I've  12345 caf\xC3\xA9s\r\n\t\xE4\xB8\x80\xFF <|bos|>foo \xF0\x9F\x98\x80!";
    const uint8_t *nul = memchr(data, 0, size);
    size_t n = nul ? (size_t)(nul - data) : size;
    mg_tokenizer *t = NULL;
    mg_error err = {0};
    mg_status s = mg_tokenizer_new(&t, &err);
    if (!s) s = mg_tokenizer_read_json(t, (const char *)data, n, &err);
    if (!s) s = mg_tokenizer_finish(t, &err);
    require(s == err.code && (!s || err.message[0]));
    if (!s) use(t, otherwise, sizeof otherwise - 1);
    if (!s && nul) use(t, (const char *)nul + 1, size - n - 1);
    mg_tokenizer_free(t);
    return 0;
}
