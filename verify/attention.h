/* attention.h - causal attention of new tokens over a sequence's keys and values.
 *
 * Scores by rule G over the head, softmax over keys 0..i at once (never online, which would depend on the tile size),
 * output by rule G over keys with blocks at absolute positions, then one true division. Masked keys have weight +0.
 * So a query's result is the same for prefill, chunked prefill and one token at a time (docs/numerics.md). */
#ifndef MG_VERIFY_ATTENTION_H
#define MG_VERIFY_ATTENTION_H

#include "formats/base/pool.h"
#include "quant/math/mathops.h"
#include "verify/kvcache.h"

/* New tokens of one sequence: n of them from position past on; their queries start at row `row` of q. */
typedef struct mg_attn_seq {
    mg_kv_slab kv; /* holds positions 0..past+n-1 */
    uint64_t past, n, row;
} mg_attn_seq;

typedef struct mg_attention {
    const mg_math *math;
    mg_pool *pool;
    mg_kv_dims kv;
    uint64_t heads;     /* query heads, a multiple of kv.heads */
    uint64_t window;    /* 0 = all earlier positions */
    float scale;        /* of the scores */
    float softcap;      /* scores become softcap * tanh(score / softcap) after scaling; 0 = none */
    const float *sinks; /* [heads] a score per head that takes weight and gives no value; NULL = none */
    const float *q;     /* [rows][heads * kv.dim] */
    float *out;         /* [rows][heads * kv.v_dim] */
    const mg_attn_seq *seqs;
    uint32_t n_seqs;
    mg_fbuf *scratch; /* one per worker */
} mg_attention;

/* x = cap * tanh(x / cap): true division, tanh, product. */
void mg_softcap(const mg_math *math, float *x, float cap, uint64_t n);

mg_status mg_attention_run(const mg_attention *a, mg_error *err) MG_MUST_CHECK;

#endif
