/* awq.h - activation-aware scales and limits for weights that are rounded in groups (AWQ, arXiv 2306.00978), from the
 * Gram matrices of their inputs.
 *
 * Multiplying column k of every weight that reads an input by s[k], and dividing the input by it where it is made,
 * changes nothing but the rounding. With G = X^T X the error of rounding W is known without the inputs:
 *     loss(s) = sum over weights of tr(dW G dW^T),   dW = round(W s) / s - W
 * Candidates are s = x^r and s = x^r / w^(1-r) for r = 0 .. 1 in steps of a tenth, and s = 1, which is plain rounding
 * and wins ties: the result is never worse than it. x: root mean square of the channel; w: mean over rows of |W| over
 * the largest of its group. s is divided by sqrt(max s * min s). All candidates are judged by the diagonal of G, the
 * best few by all of it, and where the caller can tell what a candidate does to more than the weights' own outputs, by
 * that the best two and 1.
 *
 * Before GPTQ the loss is sum of D_k dW_k^2 instead (quant/gptq.h): scales turn D_k into D_k / s_k^2 and nothing else,
 * so this is the loss GPTQ will be left with, but for the luck of rounding.
 *
 * Limits: for each row and group the range that weights are clamped to before rounding, which trades a few large errors
 * for many smaller ones; judged beside the errors of the row's other groups, by all of G.
 *
 * Fixed order of operations: the same bits for every number of threads and instruction set. */
#ifndef MG_QUANT_AWQ_H
#define MG_QUANT_AWQ_H

#include "formats/arch/model.h"
#include "quant/group_encode.h"
#include "quant/math/gram.h"

/* A weight that will be rounded, and its inputs. */
typedef struct mg_awq_use {
    mg_model *model;
    const mg_bound *bound;
    const mg_gram *gram;
    const float *pivot; /* [cols] when the weight will be rounded by GPTQ (mg_gptq.pivot of gram): what its errors cost
                           then, instead of gram. NULL: it will be rounded to nearest */
} mg_awq_use;

/* What rounding under scales s [cols] costs further on. */
typedef mg_status (*mg_awq_exact_fn)(void *ctx, const float *s, double *loss, mg_error *err);

/* Weights whose inputs are scaled together. */
typedef struct mg_awq_group {
    const mg_awq_use *uses;
    uint32_t n_uses;
    uint64_t cols;
    const uint32_t *tie;   /* [cols]: columns of one number, below cols, share a scale; NULL: each has its own */
    const float *absorbs;  /* [cols] norm weights that are divided by s: s is chosen so that the quotient is a BF16 (and
                              an F16), and folding exact; NULL: anything */
    mg_awq_exact_fn exact; /* for the last candidates, unless pivots are given; NULL: G is all there is to know */
    void *exact_ctx;
} mg_awq_group;

typedef struct mg_awq_scales {
    float *s;       /* [cols], the caller's array */
    bool identity;  /* s is 1: nothing beats plain rounding */
    bool by_weight; /* s = x^ratio / w^(1-ratio), else x^ratio */
    double ratio;
    double plain, loss; /* of plain rounding, and with s */
    uint32_t n_exact;   /* candidates that were judged exactly, plain rounding among them; 0: none were close */
    double exact_plain, exact_loss;
} mg_awq_scales;

mg_status mg_awq_search(const mg_awq_group *g, const mg_group_scheme *scheme, mg_pool *pool, mg_awq_scales *out,
                        mg_error *err) MG_MUST_CHECK;

/* limits [rows][groups][2] of W col (col NULL: 1). Rows that are multiplied by something later on have their limits
 * multiplied. *plain, *loss: without and with limits. */
mg_status mg_awq_limits(const mg_awq_use *use, const float *col, const mg_group_scheme *scheme, mg_pool *pool,
                        float *limits, double *plain, double *loss, mg_error *err) MG_MUST_CHECK;

#endif
