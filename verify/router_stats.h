/* router_stats.h - what the routers of a mixture do with sets of text, and how their rows lie to each other.
 *
 * A router's probabilities p are the softmax of its logits, whatever rule the family makes weights by; its choices and
 * weights are the family's. Sums run over tokens in their order, in double: the figures do not depend on threads. */
#ifndef MG_VERIFY_ROUTER_STATS_H
#define MG_VERIFY_ROUTER_STATS_H

#include "formats/base/progress.h"
#include "verify/forward.h"
#include "verify/windows.h"

#define MG_ROUTER_NOBODY UINT32_MAX
#define MG_CAPACITIES    3
extern const double mg_router_capacity[MG_CAPACITIES]; /* 1, 1.25, 2 */

/* Text that some expert is meant for, or that is meant for anyone but him. */
typedef struct mg_router_set {
    const char *name;
    uint32_t intended; /* MG_ROUTER_NOBODY: none */
    bool negative;
} mg_router_set;

/* Tokens of one set in one layer. All arrays [experts]. */
typedef struct mg_router_share {
    uint64_t tokens;
    double *load;   /* share of all choices; sums to 1 */
    double *first;  /* share of the tokens that give it their largest weight */
    double *weight; /* mean weight, 0 where it is not chosen: says something also when every expert is chosen */
    double *prob;   /* mean p */
    double entropy; /* mean of -sum p log p, divided by log(experts): 1 = the router says nothing */
    double chosen;  /* share of the tokens that chose the intended expert (negative: that did not); NaN without one */
    double best;    /* share that gave it their largest weight (negative: that did not) */
} mg_router_share;

typedef struct mg_router_layer {
    uint32_t layer;
    mg_router_share *sets; /* [n_sets + 1], the last: all of them */
    /* experts * sum over e of (choices of e / tokens) * mean p_e: load_balancing_loss_func of transformers on this
     * layer; k when all is even */
    double balance_loss;
    double z_loss; /* mean of log(sum exp(logits))^2, as Zoph et al. 2022 (ST-MoE) */
    /* share of the choices beyond floor(capacity * tokens * k / experts) of an expert (Fedus et al. 2021), all tokens
     * taken as one batch */
    double dropped[MG_CAPACITIES];
    double *cosine; /* [experts][experts] of the router's rows; 0 beside a row of zeros */
    /* largest over smallest singular value of the rows' differences from their mean, which is all that a softmax sees;
     * infinite when some of them are no more than a mixture of others */
    double condition;
} mg_router_layer;

typedef struct mg_router_stats {
    uint32_t experts, k, n_layers, n_sets;
    uint64_t tokens;     /* all, control tokens too: the losses and dropped count them, nothing else does */
    double balance_loss; /* of all layers together, as transformers computes it */
    mg_router_layer *layers;
} mg_router_stats;

/* set_of [w->n]: the set of each window; skip [w->n_ids]: control tokens. memory and progress as in routes.h. */
mg_status mg_router_stats_run(mg_router_stats *s, mg_forward *f, mg_model *m, const mg_windows *w,
                              const uint32_t *set_of, const mg_router_set *sets, uint32_t n_sets, const bool *skip,
                              uint64_t memory, mg_progress *progress, mg_error *err) MG_MUST_CHECK;
void mg_router_stats_release(mg_router_stats *s);

/* Cosines [n][n] of n >= 2 rows of `cols`, and the condition. Sums in double; singular values are the roots of the
 * eigenvalues of the rows' products (Jacobi rotations), so a condition above 10^7 is not resolved and infinite. */
mg_status mg_router_rows(const float *rows, uint32_t n, uint64_t cols, double *cosine, double *condition,
                         mg_error *err) MG_MUST_CHECK;

#endif
