/* gates_tokens.c - see gates_tokens.h. */
#include "convert/gates_tokens.h"

#include <stdlib.h>
#include <string.h>

/* Room for n more tokens and one more sequence. */
static mg_status grow(mg_prompt_batch *b, size_t n, mg_error *err) {
    uint64_t need = b->batch.n_tokens + n;
    if (need > b->cap_tokens) {
        uint64_t cap = need + need / 2 + 256;
        int32_t *ids = realloc(b->ids, cap * sizeof *ids);
        if (!ids) return mg_fail_nomem(err, cap * sizeof *ids);
        b->ids = ids;
        b->cap_tokens = cap;
    }
    if (b->batch.n_seqs == b->cap_seqs) {
        uint32_t cap = b->cap_seqs * 2 + 64;
        uint32_t *lens = realloc(b->lens, cap * sizeof *lens),
                 *label = lens ? realloc(b->label, cap * sizeof *label) : NULL;
        bool *negative = label ? realloc(b->negative, cap * sizeof *negative) : NULL;
        if (lens) b->lens = lens;
        if (label) b->label = label;
        if (!negative) return mg_fail_nomem(err, cap * sizeof *lens);
        b->negative = negative;
        b->cap_seqs = cap;
    }
    b->batch.len = b->lens;
    return MG_OK;
}

static mg_status add_one(mg_prompt_batch *b, const char *text, uint32_t label, bool negative, const mg_model *m,
                         const mg_tokenizer *tok, mg_error *err) {
    mg_ids ids = {0};
    int32_t bos = mg_tokenizer_bos(tok);
    mg_status st = bos >= 0 ? mg_ids_push(&ids, bos, err) : MG_OK;
    if (st == MG_OK) st = mg_tokenizer_encode(tok, text, strlen(text), 0, &ids, err);
    int64_t context = mg_hp_i(m, MG_K_CONTEXT), vocab = mg_hp_i(m, MG_K_VOCAB);
    if (context > 0 && ids.n > (uint64_t)context) ids.n = (size_t)context;
    for (size_t i = 0; st == MG_OK && i < ids.n; i++)
        if (ids.ids[i] >= vocab)
            st = mg_fail(err, MG_ERR_CONFLICT, "the tokenizer gives token %d, the embedding has %lld rows", ids.ids[i],
                         (long long)vocab);
    if (st == MG_OK && ids.n) {
        st = grow(b, ids.n, err);
        if (st == MG_OK) {
            memcpy(b->ids + b->batch.n_tokens, ids.ids, ids.n * sizeof *ids.ids);
            b->batch.n_tokens += ids.n;
            b->lens[b->batch.n_seqs] = (uint32_t)ids.n;
            b->label[b->batch.n_seqs] = label;
            b->negative[b->batch.n_seqs++] = negative;
        }
    }
    mg_ids_release(&ids);
    return st;
}

mg_status mg_prompt_batch_add(mg_prompt_batch *b, const mg_prompts *prompts, uint32_t label, bool negative,
                              const mg_model *m, const mg_tokenizer *tok, mg_error *err) {
    for (uint32_t i = 0; i < prompts->n; i++) MG_TRY(add_one(b, prompts->text[i], label, negative, m, tok, err));
    return MG_OK;
}

void mg_prompt_batch_release(mg_prompt_batch *b) {
    free(b->ids);
    free(b->lens);
    free(b->label);
    free(b->negative);
    *b = (mg_prompt_batch){0};
}
