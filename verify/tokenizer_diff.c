/* tokenizer_diff.c - see tokenizer_diff.h. */
#include "verify/tokenizer_diff.h"

#include <string.h>

#include "verify/common_vocab.h"

static mg_status ids_agree(bool *same, const mg_tokenizer *a, const mg_tokenizer *b, const char *sample, size_t n,
                           mg_error *err) {
    mg_ids x = {0}, y = {0};
    mg_status st = mg_tokenizer_encode(a, sample, n, MG_ENCODE_BOS_EOS, &x, err);
    if (st == MG_OK) st = mg_tokenizer_encode(b, sample, n, MG_ENCODE_BOS_EOS, &y, err);
    *same = st == MG_OK && x.n == y.n && (x.n == 0 || memcmp(x.ids, y.ids, x.n * sizeof *x.ids) == 0);
    mg_ids_release(&x);
    mg_ids_release(&y);
    return st;
}

mg_status mg_tokenizer_compare(mg_tokenizer_diff *out, const mg_tokenizer *a, const mg_tokenizer *b, const char *sample,
                               size_t n, mg_error *err) {
    *out = (mg_tokenizer_diff){.first = -1, .compared = a && b, .same_ids = true};
    if (!out->compared) return MG_OK;
    const uint32_t na = mg_tokenizer_size(a), nb = mg_tokenizer_size(b), both = na < nb ? na : nb;
    for (uint32_t i = 0; i < both; i++) {
        const mg_token *x = mg_tokenizer_token(a, (int32_t)i), *y = mg_tokenizer_token(b, (int32_t)i);
        if (mg_token_is_filler(x) || mg_token_is_filler(y) ||
            (x->len == y->len && memcmp(x->text, y->text, x->len) == 0))
            continue;
        if (out->tokens++ == 0) out->first = i;
    }
    return ids_agree(&out->same_ids, a, b, sample, n, err);
}
