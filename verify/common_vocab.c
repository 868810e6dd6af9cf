/* common_vocab.c - see common_vocab.h. */
#include "verify/common_vocab.h"

#include <string.h>

bool mg_token_is_filler(const mg_token *t) {
    return !t || t->type == MG_TOKEN_UNUSED || strncmp(t->text, "[PAD", 4) == 0;
}

uint64_t mg_vocab_known(const mg_tokenizer *t) {
    uint32_t n = t ? mg_tokenizer_size(t) : 0;
    while (n && mg_token_is_filler(mg_tokenizer_token(t, (int32_t)(n - 1)))) n--;
    return n;
}

mg_status mg_common_vocab(uint64_t *ids, const mg_vocab_side *sides, uint32_t n, int64_t last, mg_error *err) {
    const mg_vocab_side *low = NULL, *high = NULL, *knows = &sides[0];
    bool all_say = true;
    for (uint32_t i = 0; i < n; i++) {
        const mg_vocab_side *s = &sides[i];
        if (s->known > knows->known) knows = s;
        all_say = all_say && s->rows;
        if (!s->rows) continue;
        if (!low || s->rows < low->rows) low = s;
        if (!high || s->rows > high->rows) high = s;
    }
    *ids = 0;
    if (!low) return MG_OK;
    if (low->rows == high->rows) {
        if (all_say || (knows->known && knows->known <= low->rows)) *ids = low->rows;
        return MG_OK;
    }
    mg_status st = MG_OK;
    if (knows->known > low->rows)
        st = mg_fail(err, MG_ERR_CONFLICT,
                     "vocabularies differ: this output has %llu rows, the tokenizer of '%s' knows %llu ids",
                     (unsigned long long)low->rows, knows->path, (unsigned long long)knows->known);
    else if (last >= 0 && (uint64_t)last >= low->rows)
        st = mg_fail(err, MG_ERR_CONFLICT,
                     "vocabularies differ: this output has %llu rows, '%s' has %llu and the text id %lld",
                     (unsigned long long)low->rows, high->path, (unsigned long long)high->rows, (long long)last);
    if (st != MG_OK) {
        mg_error_at(err, low->path, NULL);
        return st;
    }
    const uint64_t used = (uint64_t)(last + 1);
    *ids = !knows->known ? low->rows : knows->known > used ? knows->known : used;
    return MG_OK;
}
