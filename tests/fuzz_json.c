/* fuzz_json.c - the strict lexer and the tree reader. A text that makes a tree prints, and what it prints makes a tree
 * again. */
#include <stdlib.h>
#include <string.h>

#include "formats/base/json.h"
#include "formats/base/jsonlex.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int ok) {
    if (!ok) abort();
}

/* Tokens to the end; the lexer must terminate and never report a token outside the text. */
static mg_status lex_all(mg_span text) {
    mg_jsonlex lx;
    mg_jtok tok = MG_JTOK_NULL;
    mg_jsonlex_init(&lx, text, 0);
    for (size_t n = 0; tok != MG_JTOK_END; n++) {
        mg_status st = mg_jsonlex_next(&lx, &tok, NULL);
        if (st != MG_OK) return st;
        require(n <= text.size && lx.at <= text.size && lx.token_at <= text.size && lx.depth <= 16);
    }
    return MG_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    mg_span text = {data, size};
    mg_json *v = NULL, *w = NULL;
    mg_error err = {0};
    char *out = NULL;
    mg_status lexed = lex_all(text), st = mg_json_parse(&v, text, "input", &err);
    if (st != MG_OK) {
        require(err.code == st && err.message[0]);
        return 0;
    }
    (void)lexed; /* the tree reader may allow more depth than the lexer's default, never fewer tokens */
    require(mg_json_print(&out, v, 0, NULL) == MG_OK);
    require(mg_json_parse(&w, (mg_span){(const uint8_t *)out, strlen(out)}, "printed", NULL) == MG_OK);
    mg_json_free(w);
    mg_json_free(v);
    free(out);
    return 0;
}
