/* same_tokenizer.c - do two models read text the same way? */
#include "convert/same_tokenizer.h"

#include "formats/tokenizer.h"

#include <string.h>

static mg_status compare_tokens(const mg_tokenizer *a, const mg_tokenizer *b, const char *pa, const char *pb,
                                mg_error *err) {
    if (!a || !b) return MG_OK;
    if (mg_tokenizer_size(a) != mg_tokenizer_size(b))
        return mg_fail(err, MG_ERR_CONFLICT, "tokenizers differ: '%s' has %u tokens, '%s' has %u", pa,
                       mg_tokenizer_size(a), pb, mg_tokenizer_size(b));
    for (uint32_t i = 0; i < mg_tokenizer_size(a); i++) {
        const mg_token *x = mg_tokenizer_token(a, (int32_t)i), *y = mg_tokenizer_token(b, (int32_t)i);
        if (x->len != y->len || memcmp(x->text, y->text, x->len) != 0)
            return mg_fail(err, MG_ERR_CONFLICT, "tokenizers differ: token %u is '%s' in '%s' and '%s' in '%s'", i,
                           x->text, pa, y->text, pb);
    }
    return MG_OK;
}

mg_status mg_same_tokenizer(const mg_checkpoint *a, const mg_checkpoint *b, mg_error *err) {
    mg_tokenizer *x = NULL, *y = NULL;
    mg_status st = mg_tokenizer_open_model(&x, a, err);
    if (st == MG_OK) st = mg_tokenizer_open_model(&y, b, err);
    if (st == MG_OK) st = compare_tokens(x, y, a->path, b->path, err);
    mg_tokenizer_free(x);
    mg_tokenizer_free(y);
    return st;
}
