/* wide_ffn.c - the gated blocks of the double pass (forward64.h): dense, experts with their router, the shared expert,
 * what neighbours send each other. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "verify/wide_impl.h"

static double act(mg_act a, double x) {
    switch (a) {
    case MG_ACT_SILU:
        return x / (1.0 + exp(-x));
    case MG_ACT_GELU_TANH:
        return 0.5 * x * (1.0 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
    case MG_ACT_GELU_ERF:
        return 0.5 * x * (1.0 + erf(x * 0.7071067811865476));
    }
    return (double)NAN;
}

static double gate_value(const mg_forward64 *f, const mg_model *m, double gate, double up) {
    if (m->arch->block.gating == MG_GATING_ACT) return mg_wide_rounded(f, act((mg_act)mg_hp_i(m, MG_K_ACT), gate)) * up;
    const double limit = mg_hp_f(m, MG_K_ACT_LIMIT);
    gate = fmin(gate, limit);
    up = fmax(fmin(up, limit), -limit);
    return (up + 1.0) * gate / (1.0 + exp(-mg_hp_f(m, MG_K_ACT_ALPHA) * gate));
}

typedef struct ffn_roles {
    mg_role gate, up, down, gate_bias, up_bias, down_bias;
} ffn_roles;
static const ffn_roles dense_roles = {MG_R_FFN_GATE,      MG_R_FFN_UP,      MG_R_FFN_DOWN,
                                      MG_R_FFN_GATE_BIAS, MG_R_FFN_UP_BIAS, MG_R_FFN_DOWN_BIAS};
static const ffn_roles shared_roles = {MG_R_SHARED_GATE, MG_R_SHARED_UP, MG_R_SHARED_DOWN,
                                       MG_ROLE_COUNT,    MG_ROLE_COUNT,  MG_ROLE_COUNT};
static const ffn_roles expert_roles = {MG_R_EXPERT_GATE,      MG_R_EXPERT_UP,      MG_R_EXPERT_DOWN,
                                       MG_R_EXPERT_GATE_BIAS, MG_R_EXPERT_UP_BIAS, MG_R_EXPERT_DOWN_BIAS};

/* y [n][hidden] = gated block of the rows named (NULL: all) of x. */
static mg_status gated(mg_forward64 *f, mg_model *m, const ffn_roles *w, uint32_t layer, uint32_t expert,
                       const double *x, const uint32_t *rows, uint64_t n, double *y, mg_error *err) {
    const uint64_t hidden = (uint64_t)mg_hp_i(m, MG_K_HIDDEN);
    const mg_bound *g;
    MG_TRY(mg_need(&g, m, w->gate, layer, expert, err));
    const uint64_t ffn = mg_bound_rows(g);
    double *gate = NULL, *up = NULL;
    MG_TRY(mg_wide_need(f, MG_WIDE_Q, n, ffn, &gate, err));
    MG_TRY(mg_wide_need(f, MG_WIDE_K, n, ffn, &up, err));
    MG_TRY(mg_wide_linear(f, m, w->gate, w->gate_bias, layer, expert, x, rows, n, hidden, gate, ffn, err));
    MG_TRY(mg_wide_linear(f, m, w->up, w->up_bias, layer, expert, x, rows, n, hidden, up, ffn, err));
    for (uint64_t i = 0; i < n * ffn; i++) gate[i] = mg_wide_rounded(f, gate_value(f, m, gate[i], up[i]));
    return mg_wide_linear(f, m, w->down, w->down_bias, layer, expert, gate, NULL, n, ffn, y, hidden, err);
}

/* y += what the chosen neighbours of the chosen experts send, each weighted as the expert it arrives at. */
static mg_status exchange(mg_forward64 *f, mg_model *m, uint32_t layer, const double *x, uint64_t n,
                          const double *weight, uint32_t *rows, double *y, mg_error *err) {
    const uint64_t hidden = (uint64_t)mg_hp_i(m, MG_K_HIDDEN), experts = (uint64_t)mg_hp_i(m, MG_K_EXPERTS);
    for (uint32_t e = 0, edges = mg_edge_count(&m->hp), src, dst; e < edges; e++) {
        uint64_t have = 0;
        mg_edge_at(&m->hp, e, &src, &dst);
        for (uint64_t t = 0; t < n; t++)
            if (weight[t * experts + src] > 0 && weight[t * experts + dst] > 0) rows[have++] = (uint32_t)t;
        if (have == 0) continue;
        double *o = NULL, *message = NULL;
        MG_TRY(mg_wide_need(f, MG_WIDE_V, have, hidden, &o, err));
        MG_TRY(gated(f, m, &expert_roles, layer, src, x, rows, have, o, err));
        MG_TRY(mg_wide_need(f, MG_WIDE_Q, have, hidden, &message, err));
        MG_TRY(
            mg_wide_linear(f, m, MG_R_EXCHANGE, MG_ROLE_COUNT, layer, e, o, NULL, have, hidden, message, hidden, err));
        for (uint64_t i = 0; i < have; i++)
            for (uint64_t j = 0; j < hidden; j++)
                y[rows[i] * hidden + j] += mg_wide_rounded(
                    f, weight[rows[i] * experts + dst] * mg_hp_f(m, MG_K_EXCHANGE_SCALE) * message[i * hidden + j]);
    }
    return MG_OK;
}

static mg_status experts_of(mg_forward64 *f, mg_model *m, uint32_t layer, const double *x, uint64_t n, double *weight,
                            uint32_t *rows, const double *logits, double *y, mg_error *err) {
    const uint64_t hidden = (uint64_t)mg_hp_i(m, MG_K_HIDDEN);
    const uint32_t experts = (uint32_t)mg_hp_i(m, MG_K_EXPERTS);
    mg_router router;
    mg_status st = mg_router_open(&router, m, layer, f->experts_per_token, err);
    for (uint64_t t = 0; st == MG_OK && t < n; t++)
        st = mg_route64(&router, logits + t * experts, weight + t * experts, err);
    mg_router_release(&router);
    if (st != MG_OK) return st;
    memset(y, 0, n * hidden * sizeof *y);
    for (uint32_t e = 0; e < experts; e++) {
        uint64_t have = 0;
        for (uint64_t t = 0; t < n; t++)
            if (weight[t * experts + e] > 0) rows[have++] = (uint32_t)t;
        if (have == 0) continue;
        double *o = NULL;
        MG_TRY(mg_wide_need(f, MG_WIDE_V, have, hidden, &o, err));
        MG_TRY(gated(f, m, &expert_roles, layer, e, x, rows, have, o, err));
        for (uint64_t i = 0; i < have; i++)
            for (uint64_t j = 0; j < hidden; j++)
                y[rows[i] * hidden + j] += mg_wide_rounded(f, weight[rows[i] * experts + e] * o[i * hidden + j]);
    }
    return exchange(f, m, layer, x, n, weight, rows, y, err);
}

/* y += the shared expert, weighted by the sigmoid of its own router when there is one. */
static mg_status shared_expert(mg_forward64 *f, mg_model *m, uint32_t layer, const double *x, uint64_t n, double *y,
                               mg_error *err) {
    const uint64_t hidden = (uint64_t)mg_hp_i(m, MG_K_HIDDEN);
    double *o = NULL, *gate = NULL;
    if (!mg_model_find(m, MG_R_SHARED_GATE, layer, 0)) return MG_OK;
    MG_TRY(mg_wide_need(f, MG_WIDE_V, n, hidden, &o, err));
    MG_TRY(gated(f, m, &shared_roles, layer, 0, x, NULL, n, o, err));
    const bool weighted = mg_model_find(m, MG_R_SHARED_ROUTER, layer, 0) != NULL;
    if (weighted) {
        MG_TRY(mg_wide_need(f, MG_WIDE_K, n, 1, &gate, err));
        MG_TRY(mg_wide_linear(f, m, MG_R_SHARED_ROUTER, MG_ROLE_COUNT, layer, 0, x, NULL, n, hidden, gate, 1, err));
    }
    for (uint64_t t = 0; t < n; t++) {
        const double g = weighted ? 1.0 / (1.0 + exp(-gate[t])) : 1.0;
        for (uint64_t j = 0; j < hidden; j++) y[t * hidden + j] += mg_wide_rounded(f, g * o[t * hidden + j]);
    }
    return MG_OK;
}

mg_status mg_wide_moe(mg_forward64 *f, mg_model *m, uint32_t layer, const double *x, uint64_t n, double *y,
                      const double **router, mg_error *err) {
    const uint64_t hidden = (uint64_t)mg_hp_i(m, MG_K_HIDDEN), experts = (uint64_t)mg_hp_i(m, MG_K_EXPERTS);
    double *logits = NULL;
    MG_TRY(mg_wide_need(f, MG_WIDE_ROUTER, n, experts, &logits, err));
    MG_TRY(mg_wide_linear(f, m, MG_R_ROUTER, MG_R_ROUTER_BIAS, layer, 0, x, NULL, n, hidden, logits, experts, err));
    if (router) *router = logits;
    double *weight = malloc(n * experts * sizeof *weight);
    uint32_t *rows = malloc(n * sizeof *rows);
    mg_status st = weight && rows ? MG_OK : mg_fail_nomem(err, n * experts * sizeof *weight);
    if (st == MG_OK) st = experts_of(f, m, layer, x, n, weight, rows, logits, y, err);
    free(weight);
    free(rows);
    return st == MG_OK ? shared_expert(f, m, layer, x, n, y, err) : st;
}

mg_status mg_wide_dense(mg_forward64 *f, mg_model *m, uint32_t layer, const double *x, uint64_t n, double *y,
                        mg_error *err) {
    return gated(f, m, &dense_roles, layer, 0, x, NULL, n, y, err);
}
