/* common_vocab.h - the ids over which models are compared whose outputs differ in height.
 *
 * An embedding is often taller than its tokenizer's vocabulary, and copies of one model are padded to different heights
 * (32000 and 32064 rows). What lies beyond the tokenizer's last token is left out of all softmaxes then. Models of
 * equal height are compared over all of it, padding included, as llama-perplexity does. */
#ifndef MG_VERIFY_COMMON_VOCAB_H
#define MG_VERIFY_COMMON_VOCAB_H

#include "formats/tokenizer.h"

typedef struct mg_vocab_side {
    const char *path; /* for errors */
    uint64_t rows;    /* logits per position; 0: a recording that does not say */
    uint64_t known;   /* mg_vocab_known of its tokenizer; 0: it has none */
} mg_vocab_side;

/* Unused tokens, and those by which converters fill a vocabulary up to the rows of the embedding ("[PAD32000]"). NULL
 * is one. */
bool mg_token_is_filler(const mg_token *t);
/* Ids up to the last that is a token and no filler; t may be NULL: 0. */
uint64_t mg_vocab_known(const mg_tokenizer *t);

/* *ids: compare ids 0 .. *ids - 1. Outputs of equal height: all of it. Else what the tokenizers know, and no less than
 * the text uses (last: its largest id, -1 for none); without a tokenizer what the lowest output has. A side that does
 * not say how many it has is taken to be padded where another's tokenizer shows that all tokens fit; else *ids = 0:
 * what it has must fit. MG_ERR_CONFLICT: the lowest output lacks ids that a tokenizer or the text has. */
mg_status mg_common_vocab(uint64_t *ids, const mg_vocab_side *sides, uint32_t n, int64_t last,
                          mg_error *err) MG_MUST_CHECK;

#endif
