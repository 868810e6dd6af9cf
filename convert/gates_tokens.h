/* gates_tokens.h - prompts as one batch of token sequences, with the expert each belongs to. */
#ifndef MG_CONVERT_GATES_TOKENS_H
#define MG_CONVERT_GATES_TOKENS_H

#include "convert/merge_spec.h"
#include "formats/tokenizer.h"
#include "quant/eval.h"

typedef struct mg_prompt_batch {
    mg_batch batch;  /* len points into lens */
    int32_t *ids;    /* [n_tokens] */
    uint32_t *lens;  /* [n_seqs] */
    uint32_t *label; /* [n_seqs] expert */
    bool *negative;  /* [n_seqs] */
    uint64_t cap_tokens;
    uint32_t cap_seqs;
} mg_prompt_batch;

/* Append prompts, each tokenized alone: the model's beginning-of-sequence token (where it has one), then the text
 * without special tokens, as mergekit-moe feeds them. Prompts longer than the model's context are cut there. Token ids
 * outside the embedding: MG_ERR_CONFLICT. Start from a zeroed batch. */
mg_status mg_prompt_batch_add(mg_prompt_batch *b, const mg_prompts *prompts, const mg_model *m, const mg_tokenizer *tok,
                              mg_error *err) MG_MUST_CHECK;

/* Long enough for attention to be at work as in real use: what is fitted on single short prompts fits those only
 * (docs/merge.md has the figures). */
#define MG_PROMPT_WINDOW 256u

/* The prompts of one expert as one text, a line each, tokenized as a whole, in sequences of at most MG_PROMPT_WINDOW
 * tokens (or the model's context) that all begin with the beginning-of-sequence token. */
mg_status mg_prompt_batch_add_joined(mg_prompt_batch *b, const mg_prompts *prompts, uint32_t label, bool negative,
                                     const mg_model *m, const mg_tokenizer *tok, mg_error *err) MG_MUST_CHECK;
void mg_prompt_batch_release(mg_prompt_batch *b);

#endif
