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

static mg_status check_ids(const mg_ids *ids, const mg_model *m, mg_error *err) {
    int64_t vocab = mg_hp_i(m, MG_K_VOCAB);
    for (size_t i = 0; i < ids->n; i++)
        if (ids->ids[i] >= vocab)
            return mg_fail(err, MG_ERR_CONFLICT, "the tokenizer gives token %d, the embedding has %lld rows",
                           ids->ids[i], (long long)vocab);
    return MG_OK;
}

static mg_status add_sequence(mg_prompt_batch *b, const int32_t *ids, size_t n, uint32_t label, bool negative,
                              mg_error *err) {
    MG_TRY(grow(b, n, err));
    memcpy(b->ids + b->batch.n_tokens, ids, n * sizeof *ids);
    b->batch.n_tokens += n;
    b->lens[b->batch.n_seqs] = (uint32_t)n;
    b->label[b->batch.n_seqs] = label;
    b->negative[b->batch.n_seqs++] = negative;
    return MG_OK;
}

static mg_status add_one(mg_prompt_batch *b, const char *text, const mg_model *m, const mg_tokenizer *tok,
                         mg_error *err) {
    mg_ids ids = {0};
    int32_t bos = mg_tokenizer_bos(tok);
    mg_status st = bos >= 0 ? mg_ids_push(&ids, bos, err) : MG_OK;
    if (st == MG_OK) st = mg_tokenizer_encode(tok, text, strlen(text), 0, &ids, err);
    int64_t context = mg_hp_i(m, MG_K_CONTEXT);
    if (context > 0 && ids.n > (uint64_t)context) ids.n = (size_t)context;
    if (st == MG_OK) st = check_ids(&ids, m, err);
    if (st == MG_OK && ids.n) st = add_sequence(b, ids.ids, ids.n, 0, false, err);
    mg_ids_release(&ids);
    return st;
}

mg_status mg_prompt_batch_add(mg_prompt_batch *b, const mg_prompts *prompts, const mg_model *m, const mg_tokenizer *tok,
                              mg_error *err) {
    for (uint32_t i = 0; i < prompts->n; i++) MG_TRY(add_one(b, prompts->text[i], m, tok, err));
    return MG_OK;
}

/* ---- joined ---- */

static char *join_lines(const mg_prompts *prompts, size_t *n) {
    size_t total = 1;
    for (uint32_t i = 0; i < prompts->n; i++) total += strlen(prompts->text[i]) + 1;
    char *text = malloc(total), *end = text;
    for (uint32_t i = 0; text && i < prompts->n; i++) {
        size_t k = strlen(prompts->text[i]);
        if (i) *end++ = '\n';
        memcpy(end, prompts->text[i], k);
        end += k;
    }
    *n = text ? (size_t)(end - text) : total;
    return text;
}

static mg_status add_windows(mg_prompt_batch *b, const mg_ids *ids, uint32_t window, int32_t bos, uint32_t label,
                             bool negative, mg_error *err) {
    mg_ids part = {0};
    mg_status st = MG_OK;
    for (size_t i = 0; st == MG_OK && i < ids->n;) {
        part.n = 0;
        if (bos >= 0) st = mg_ids_push(&part, bos, err);
        while (st == MG_OK && part.n < window && i < ids->n) st = mg_ids_push(&part, ids->ids[i++], err);
        if (st == MG_OK) st = add_sequence(b, part.ids, part.n, label, negative, err);
    }
    mg_ids_release(&part);
    return st;
}

mg_status mg_prompt_batch_add_joined(mg_prompt_batch *b, const mg_prompts *prompts, uint32_t label, bool negative,
                                     const mg_model *m, const mg_tokenizer *tok, mg_error *err) {
    size_t n;
    mg_ids ids = {0};
    char *text = join_lines(prompts, &n);
    if (!text) return mg_fail_nomem(err, n);
    mg_status st = n ? mg_tokenizer_encode(tok, text, n, 0, &ids, err) : MG_OK;
    free(text);
    int64_t context = mg_hp_i(m, MG_K_CONTEXT);
    uint32_t window = context > 1 && context < MG_PROMPT_WINDOW ? (uint32_t)context : MG_PROMPT_WINDOW;
    if (st == MG_OK) st = check_ids(&ids, m, err);
    if (st == MG_OK) st = add_windows(b, &ids, window, mg_tokenizer_bos(tok), label, negative, err);
    mg_ids_release(&ids);
    return st;
}

void mg_prompt_batch_release(mg_prompt_batch *b) {
    free(b->ids);
    free(b->lens);
    free(b->label);
    free(b->negative);
    *b = (mg_prompt_batch){0};
}
