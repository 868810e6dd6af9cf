/* tokenizer_diff.h - do two models read text the same way? Sizes can agree where every token means something else. */
#ifndef MG_VERIFY_TOKENIZER_DIFF_H
#define MG_VERIFY_TOKENIZER_DIFF_H

#include "formats/tokenizer.h"

typedef struct mg_tokenizer_diff {
    bool compared;   /* false: one of the models has no tokenizer */
    uint64_t tokens; /* ids that both have and whose text differs */
    int64_t first;   /* the lowest of them, -1 for none */
    bool same_ids;   /* a sample text gets the same ids */
} mg_tokenizer_diff;

/* Either may be NULL. Unused tokens and the fillers of a converter are passed over. */
mg_status mg_tokenizer_compare(mg_tokenizer_diff *out, const mg_tokenizer *a, const mg_tokenizer *b, const char *sample,
                               size_t n, mg_error *err) MG_MUST_CHECK;
static inline bool mg_tokenizer_differs(const mg_tokenizer_diff *d) {
    return d->compared && (d->tokens || !d->same_ids);
}

#endif
