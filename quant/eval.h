/* eval.h - the forward pass as other rooms see it: verify/ implements it, tools hand it to merging and calibration.
 * One layer is resident at a time; no second loop over layers exists anywhere. */
#ifndef MG_QUANT_EVAL_H
#define MG_QUANT_EVAL_H

#include "formats/arch/model.h"

/* Sequences laid end to end: token t of sequence s has position t (each sequence starts at 0, or at past[s]). */
typedef struct mg_batch {
    uint32_t n_seqs;
    const uint32_t *len; /* [n_seqs] tokens of each sequence */
    uint64_t n_tokens;   /* sum of len */
} mg_batch;

/* The sequences of b from number q on that have at most n tokens together; at least one. */
static inline mg_batch mg_batch_chunk(const mg_batch *b, uint32_t q, uint64_t n) {
    mg_batch c = {1, b->len + q, b->len[q]};
    while (q + c.n_seqs < b->n_seqs && c.n_tokens + b->len[q + c.n_seqs] <= n) c.n_tokens += b->len[q + c.n_seqs++];
    return c;
}

/* Points where activations can be observed. rows x cols floats, row-major; for EXPERT_* the rows are the tokens routed
 * to that expert and token[] says which. */
typedef enum mg_tap_point {
    MG_TAP_ATTN_IN,        /* normed input of q, k, v            [n_tokens, hidden] */
    MG_TAP_ATTN_O_IN,      /* input of the output projection     [n_tokens, heads*v_head_dim] */
    MG_TAP_FFN_IN,         /* normed input of router and experts or of gate/up  [n_tokens, hidden] */
    MG_TAP_FFN_DOWN_IN,    /* input of the dense down projection [n_tokens, ffn] */
    MG_TAP_ROUTER_LOGITS,  /* [n_tokens, experts] */
    MG_TAP_EXPERT_IN,      /* [rows, hidden] of one expert */
    MG_TAP_EXPERT_DOWN_IN, /* [rows, expert_ffn] of one expert */
    MG_TAP_EXPERT_OUT,     /* [rows, hidden] what one expert gives, before it is weighted */
    MG_TAP_SHARED_DOWN_IN, /* input of the shared expert's down projection [n_tokens, shared_ffn] */
    MG_TAP_LAYER_OUT,      /* residual stream after the layer    [n_tokens, hidden] */
} mg_tap_point;

typedef struct mg_tap {
    mg_tap_point point;
    uint32_t layer, expert;
    uint64_t rows, cols;
    const float *data;
    const uint32_t *token; /* EXPERT_*: token index of each row, else NULL */
    const float *weight;   /* EXPERT_*: router weight of each row, else NULL */
} mg_tap;

typedef mg_status (*mg_tap_fn)(void *ctx, const mg_tap *tap, mg_error *err);

/* Parts of a layer, so that a router can be fitted at its true input before the experts run, and inputs be looked at
 * without computing what follows. The _IN parts compute an input, fire its taps and leave x alone. */
enum {
    MG_PART_ATTN = 1,
    MG_PART_FFN_IN = 2,
    MG_PART_FFN = 4,
    MG_PART_ATTN_IN = 8,
    MG_PART_EXPERT_IN = 16, /* FFN_IN, the router and the taps of what each expert gets */
    MG_PART_DOWN_IN = 32,   /* FFN up to the taps of what the down projections get */
};
#define MG_PART_ALL (MG_PART_ATTN | MG_PART_FFN)

typedef struct mg_evaluator {
    void *self;
    /* x [n, hidden] = embeddings of ids [n]. */
    mg_status (*embed)(void *self, mg_model *m, const int32_t *ids, uint64_t n, float *x, mg_error *err);
    /* Run parts of a layer on x [n_tokens, hidden] in place. tap may be NULL. */
    mg_status (*run_layer)(void *self, mg_model *m, uint32_t layer, unsigned parts, const mg_batch *batch, float *x,
                           mg_tap_fn tap, void *tap_ctx, mg_error *err);
    /* Final norm alone: the output head's input, normed [n, hidden] of the rows x [n, hidden]. */
    mg_status (*final_norm)(void *self, mg_model *m, const float *x, uint64_t n, float *normed, mg_error *err);
    /* Final norm and output head: logits [n, vocab] of the rows x [n, hidden]. */
    mg_status (*logits)(void *self, mg_model *m, const float *x, uint64_t n, float *logits, mg_error *err);
} mg_evaluator;

#endif
