/* layer_ffn.c - the dense gated block and the mixture of experts.
 *
 * Experts: tokens are grouped by expert, every (token, slot) output goes to a row of its own, and a token's rows are
 * summed in ascending expert index, c = +0; c = c + (g * o). So grouping, batch and threads cannot change bits. */
#include <stdlib.h>
#include <string.h>

#include "formats/arch/arch.h"
#include "verify/forward_impl.h"
#include "verify/router.h"

/* --- elementwise work over rows --- */

typedef struct rows_run {
    const mg_math *math;
    void (*act)(float *, const float *, uint64_t);
    bool clamped; /* (x + 1) * y * sigmoid(alpha * y), y and x within limit */
    float alpha, limit;
    float *y;
    const float *x;
    uint64_t n;  /* values */
    float scale; /* of x when it is added; 0: none */
} rows_run;

enum { VALUES_PER_TICKET = 1 << 16, L1 = 2048 };

static float least(float a, float b) {
    return a < b ? a : b;
}

/* gate = (up + 1) * (gate * sigmoid(alpha * gate)); n <= L1. */
static void swiglu_clamped(const rows_run *r, float *gate, const float *up, uint64_t n) {
    float s[L1];
    for (uint64_t i = 0; i < n; i++) {
        gate[i] = least(gate[i], r->limit);
        s[i] = gate[i] * r->alpha;
    }
    r->math->sigmoid(s, s, n);
    for (uint64_t i = 0; i < n; i++) {
        const float u = -least(-least(up[i], r->limit), r->limit);
        gate[i] = (u + 1.0f) * (gate[i] * s[i]);
    }
}

static mg_status gate_ticket(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    (void)worker;
    (void)err;
    const rows_run *r = ctx;
    const uint64_t from = ticket * VALUES_PER_TICKET;
    const uint64_t n = r->n - from < VALUES_PER_TICKET ? r->n - from : VALUES_PER_TICKET;
    for (uint64_t i = 0; i < n; i += L1) {
        const uint64_t take = n - i < L1 ? n - i : L1;
        float *y = r->y + from + i;
        if (r->clamped) {
            swiglu_clamped(r, y, r->x + from + i, take);
        } else if (r->act) {
            r->act(y, y, take);
            r->math->mul(y, r->x + from + i, take);
        } else if (r->scale != 0) {
            r->math->add_scaled(y, r->x + from + i, r->scale, take);
        } else {
            r->math->add(y, r->x + from + i, take);
        }
    }
    return MG_OK;
}

static mg_status rows_over(const mg_layer_run *r, rows_run *w, mg_error *err) {
    w->math = r->f->lin.math;
    return mg_pool_run(r->f->pool, (w->n + VALUES_PER_TICKET - 1) / VALUES_PER_TICKET, gate_ticket, w, err);
}

mg_status mg_layer_add(const mg_layer_run *r, mg_role post_norm, mg_error *err) {
    float *out = r->f->out.p;
    rows_run w = {.y = r->x, .x = out, .n = r->n * r->hidden, .scale = (float)mg_hp_f(r->m, MG_K_RESIDUAL_SCALE)};
    if (mg_model_find(r->m, post_norm, r->layer, 0))
        MG_TRY(mg_forward_norm(r->f, r->m, post_norm, r->layer, out, r->n, out, err));
    return rows_over(r, &w, err);
}

mg_status mg_layer_gate(const mg_layer_run *r, float *gate, const float *up, uint64_t rows, uint64_t cols,
                        mg_error *err) {
    const mg_math *t = r->f->lin.math;
    rows_run w = {.y = gate, .x = up, .n = rows * cols};
    w.clamped = r->m->arch->block.gating == MG_GATING_SWIGLU_CLAMPED;
    w.alpha = (float)mg_hp_f(r->m, MG_K_ACT_ALPHA);
    w.limit = (float)mg_hp_f(r->m, MG_K_ACT_LIMIT);
    switch ((mg_act)mg_hp_i(r->m, MG_K_ACT)) {
    case MG_ACT_SILU:
        w.act = t->silu;
        break;
    case MG_ACT_GELU_TANH:
        w.act = t->gelu_tanh;
        break;
    case MG_ACT_GELU_ERF:
        w.act = t->gelu_erf;
        break;
    }
    return rows_over(r, &w, err);
}

/* --- gated blocks --- */

typedef struct gated_roles {
    mg_role gate, up, down, gate_bias, up_bias, down_bias;
    mg_tap_point tap; /* of the input of down */
} gated_roles;
static const gated_roles dense_roles = {MG_R_FFN_GATE,    MG_R_FFN_UP,        MG_R_FFN_DOWN,     MG_R_FFN_GATE_BIAS,
                                        MG_R_FFN_UP_BIAS, MG_R_FFN_DOWN_BIAS, MG_TAP_FFN_DOWN_IN};
static const gated_roles shared_roles = {MG_R_SHARED_GATE, MG_R_SHARED_UP, MG_R_SHARED_DOWN,     MG_ROLE_COUNT,
                                         MG_ROLE_COUNT,    MG_ROLE_COUNT,  MG_TAP_SHARED_DOWN_IN};

/* y [tokens][hidden] = down(act(gate x) * up x), x the normed input. */
static mg_status gated_block(const mg_layer_run *r, const gated_roles *w, mg_fbuf *y, mg_error *err) {
    mg_forward *f = r->f;
    const mg_bound *gate, *up, *down;
    MG_TRY(mg_need(&gate, r->m, w->gate, r->layer, 0, err));
    MG_TRY(mg_need(&up, r->m, w->up, r->layer, 0, err));
    MG_TRY(mg_need(&down, r->m, w->down, r->layer, 0, err));
    const uint64_t ffn = mg_bound_rows(gate);
    if (mg_bound_rows(up) != ffn || mg_bound_rows(down) != r->hidden)
        return mg_fail(err, MG_ERR_FORMAT, "feed-forward weights of layer %u disagree in shape", r->layer);
    MG_TRY(mg_fbuf_need(&f->q, r->n, ffn, err));
    MG_TRY(mg_fbuf_need(&f->k, r->n, ffn, err));
    MG_TRY(mg_fbuf_need(y, r->n, r->hidden, err));
    mg_xpack x;
    MG_TRY(mg_linear_pack_buf(&f->lin, &x, &f->packed, f->normed.p, r->hidden, r->n, r->hidden, err));
    const mg_linear_job in[2] = {
        {.w = gate, .bias = mg_model_find(r->m, w->gate_bias, r->layer, 0), .x = x, .y = f->q.p, .ldy = ffn},
        {.w = up, .bias = mg_model_find(r->m, w->up_bias, r->layer, 0), .x = x, .y = f->k.p, .ldy = ffn}};
    MG_TRY(mg_linear_run(&f->lin, r->m, in, 2, err));
    MG_TRY(mg_layer_gate(r, f->q.p, f->k.p, r->n, ffn, err));
    MG_TRY(mg_layer_tap(r, w->tap, r->n, ffn, f->q.p, err));
    if (r->no_down) return MG_OK;
    mg_linear_job job = {
        .w = down, .bias = mg_model_find(r->m, w->down_bias, r->layer, 0), .y = y->p, .ldy = r->hidden};
    MG_TRY(mg_linear_pack_buf(&f->lin, &job.x, &f->packed, f->q.p, ffn, r->n, ffn, err));
    return mg_linear_run(&f->lin, r->m, &job, 1, err);
}

mg_status mg_layer_dense(const mg_layer_run *r, mg_error *err) {
    return gated_block(r, &dense_roles, &r->f->out, err);
}

/* --- mixture of experts --- */

/* One layer's experts in flight. */
typedef struct moe {
    const mg_layer_run *r;
    mg_routing route;
    uint64_t ffn, pairs;
    const float *rows;   /* [pairs][hidden] what is summed */
    uint64_t *pack_at;   /* [experts] floats into the packed buffer */
    mg_linear_job *jobs; /* [2 * experts] */
} moe;

static mg_status route_tokens(moe *e, mg_error *err) {
    const mg_layer_run *r = e->r;
    mg_forward *f = r->f;
    const uint32_t experts = (uint32_t)mg_hp_i(r->m, MG_K_EXPERTS);
    mg_linear_job job = {.bias = mg_model_find(r->m, MG_R_ROUTER_BIAS, r->layer, 0), .ldy = experts};
    MG_TRY(mg_need(&job.w, r->m, MG_R_ROUTER, r->layer, 0, err));
    if (mg_bound_rows(job.w) != experts)
        return mg_fail(err, MG_ERR_FORMAT, "router of layer %u has %llu rows for %u experts", r->layer,
                       (unsigned long long)mg_bound_rows(job.w), experts);
    MG_TRY(mg_fbuf_need(&f->router, r->n, experts, err));
    job.y = f->router.p;
    MG_TRY(mg_linear_pack_buf(&f->lin, &job.x, &f->packed, f->normed.p, r->hidden, r->n, r->hidden, err));
    MG_TRY(mg_linear_run(&f->lin, r->m, &job, 1, err));
    MG_TRY(mg_layer_tap(r, MG_TAP_ROUTER_LOGITS, r->n, experts, f->router.p, err));
    return mg_routing_of(&e->route, f->lin.math, r->m, r->layer, f->opt.experts_per_token, f->router.p, r->n, err);
}

/* Fire the tap of one expert over rows that lie side by side, or that are gathered from src by token. */
static mg_status expert_tap(const moe *e, mg_tap_point p, uint32_t x, const float *rows, uint64_t cols, mg_error *err) {
    const mg_layer_run *r = e->r;
    const uint64_t from = e->route.first[x], n = e->route.first[x + 1] - from;
    if (!r->tap || n == 0) return MG_OK;
    mg_tap t = {.point = p,
                .layer = r->layer,
                .expert = x,
                .rows = n,
                .cols = cols,
                .data = rows,
                .token = e->route.token + from,
                .weight = e->route.pair_weight + from};
    return r->tap(r->tap_ctx, &t, err);
}

typedef struct gather_run {
    const mg_layer_run *r;
    const uint32_t *token;
    uint64_t n;
} gather_run;

enum { GATHER_PER_TICKET = 256 };

static mg_status gather_ticket(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    (void)worker;
    (void)err;
    const gather_run *g = ctx;
    const uint64_t hidden = g->r->hidden, end = (ticket + 1) * GATHER_PER_TICKET;
    for (uint64_t i = ticket * GATHER_PER_TICKET; i < end && i < g->n; i++)
        memcpy(g->r->f->gathered.p + i * hidden, g->r->f->normed.p + g->token[i] * hidden, hidden * sizeof(float));
    return MG_OK;
}

static mg_status gather_tap(const moe *e, uint32_t x, mg_error *err) {
    const mg_layer_run *r = e->r;
    const uint64_t from = e->route.first[x], n = e->route.first[x + 1] - from;
    if (!r->tap || n == 0) return MG_OK;
    MG_TRY(mg_fbuf_need(&r->f->gathered, n, r->hidden, err));
    gather_run g = {r, e->route.token + from, n};
    MG_TRY(mg_pool_run(r->f->pool, (n + GATHER_PER_TICKET - 1) / GATHER_PER_TICKET, gather_ticket, &g, err));
    return expert_tap(e, MG_TAP_EXPERT_IN, x, r->f->gathered.p, r->hidden, err);
}

/* Room for every expert's packed rows of k values, and where each starts. */
static mg_status pack_room(moe *e, uint64_t k, mg_error *err) {
    uint64_t total = 0, one;
    for (uint32_t x = 0; x < e->route.experts; x++) {
        e->pack_at[x] = total;
        if (!mg_linear_pack_floats(&e->r->f->lin, e->route.first[x + 1] - e->route.first[x], k, &one) ||
            __builtin_add_overflow(total, one, &total))
            return mg_fail(err, MG_ERR_LIMIT, "too many tokens for one batch");
    }
    return mg_fbuf_need(&e->r->f->packed, total, 1, err);
}

static mg_status expert_shape(const moe *e, const mg_bound *b, uint64_t rows, mg_error *err) {
    if (mg_bound_rows(b) == rows) return MG_OK;
    return mg_fail(err, MG_ERR_FORMAT, "an expert weight of layer %u has %llu rows, expected %llu", e->r->layer,
                   (unsigned long long)mg_bound_rows(b), (unsigned long long)rows);
}

/* Gate and up of all experts as one list of products: q and k [pairs][ffn]. */
static mg_status experts_in(moe *e, mg_error *err) {
    const mg_layer_run *r = e->r;
    mg_forward *f = r->f;
    MG_TRY(mg_fbuf_need(&f->q, e->pairs, e->ffn, err));
    MG_TRY(mg_fbuf_need(&f->k, e->pairs, e->ffn, err));
    MG_TRY(pack_room(e, r->hidden, err));
    size_t n = 0;
    for (uint32_t x = 0; x < e->route.experts; x++) {
        const uint64_t from = e->route.first[x], m = e->route.first[x + 1] - from;
        if (m == 0) continue;
        MG_TRY(gather_tap(e, x, err));
        mg_linear_job *g = &e->jobs[n++], *u = &e->jobs[n++];
        *g = (mg_linear_job){.y = f->q.p + from * e->ffn, .ldy = e->ffn};
        *u = (mg_linear_job){.y = f->k.p + from * e->ffn, .ldy = e->ffn};
        g->bias = mg_model_find(r->m, MG_R_EXPERT_GATE_BIAS, r->layer, x);
        u->bias = mg_model_find(r->m, MG_R_EXPERT_UP_BIAS, r->layer, x);
        MG_TRY(mg_need(&g->w, r->m, MG_R_EXPERT_GATE, r->layer, x, err));
        MG_TRY(mg_need(&u->w, r->m, MG_R_EXPERT_UP, r->layer, x, err));
        MG_TRY(expert_shape(e, g->w, e->ffn, err));
        MG_TRY(expert_shape(e, u->w, e->ffn, err));
        MG_TRY(mg_linear_pack(&f->lin, &g->x, f->packed.p + e->pack_at[x], f->normed.p, r->hidden,
                              e->route.token + from, m, r->hidden, err));
        u->x = g->x;
    }
    MG_TRY(mg_linear_run(&f->lin, r->m, e->jobs, n, err));
    return mg_layer_gate(r, f->q.p, f->k.p, e->pairs, e->ffn, err);
}

/* Down of all experts: k [pairs][hidden]. */
static mg_status experts_out(moe *e, mg_error *err) {
    const mg_layer_run *r = e->r;
    mg_forward *f = r->f;
    for (uint32_t x = 0; x < e->route.experts; x++)
        MG_TRY(expert_tap(e, MG_TAP_EXPERT_DOWN_IN, x, f->q.p + e->route.first[x] * e->ffn, e->ffn, err));
    if (r->no_down) return MG_OK;
    MG_TRY(mg_fbuf_need(&f->k, e->pairs, r->hidden, err));
    MG_TRY(pack_room(e, e->ffn, err));
    size_t n = 0;
    for (uint32_t x = 0; x < e->route.experts; x++) {
        const uint64_t from = e->route.first[x], m = e->route.first[x + 1] - from;
        if (m == 0) continue;
        const float *rows = f->q.p + from * e->ffn;
        mg_linear_job *d = &e->jobs[n++];
        *d = (mg_linear_job){.y = f->k.p + from * r->hidden, .ldy = r->hidden};
        d->bias = mg_model_find(r->m, MG_R_EXPERT_DOWN_BIAS, r->layer, x);
        MG_TRY(mg_need(&d->w, r->m, MG_R_EXPERT_DOWN, r->layer, x, err));
        MG_TRY(expert_shape(e, d->w, r->hidden, err));
        MG_TRY(mg_linear_pack(&f->lin, &d->x, f->packed.p + e->pack_at[x], rows, e->ffn, NULL, m, e->ffn, err));
    }
    MG_TRY(mg_linear_run(&f->lin, r->m, e->jobs, n, err));
    for (uint32_t x = 0; x < e->route.experts; x++)
        MG_TRY(expert_tap(e, MG_TAP_EXPERT_OUT, x, f->k.p + e->route.first[x] * r->hidden, r->hidden, err));
    return MG_OK;
}

enum { TOKENS_PER_TICKET = 16 };

static mg_status combine_ticket(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    (void)worker;
    (void)err;
    const moe *e = ctx;
    const mg_layer_run *r = e->r;
    const uint64_t end = (ticket + 1) * TOKENS_PER_TICKET < r->n ? (ticket + 1) * TOKENS_PER_TICKET : r->n;
    for (uint64_t t = ticket * TOKENS_PER_TICKET; t < end; t++) {
        float *y = r->f->out.p + t * r->hidden;
        for (uint64_t i = 0; i < r->hidden; i++) y[i] = 0.0f;
        for (uint32_t s = 0; s < e->route.k; s++) {
            const uint64_t i = t * e->route.k + s;
            r->f->lin.math->add_scaled(y, e->rows + e->route.pair[i] * r->hidden, e->route.weight[i], r->hidden);
        }
    }
    return MG_OK;
}

/* f->out += the shared expert, weighted by the sigmoid of its own router when there is one. */
static mg_status shared_expert(const mg_layer_run *r, mg_error *err) {
    mg_forward *f = r->f;
    if (!mg_model_find(r->m, MG_R_SHARED_GATE, r->layer, 0)) return MG_OK;
    MG_TRY(gated_block(r, &shared_roles, &f->shared, err));
    if (r->no_down) return MG_OK;
    mg_linear_job job = {.w = mg_model_find(r->m, MG_R_SHARED_ROUTER, r->layer, 0), .ldy = 1};
    if (job.w) {
        MG_TRY(mg_fbuf_need(&f->router, r->n, 1, err));
        job.y = f->router.p;
        MG_TRY(mg_linear_pack_buf(&f->lin, &job.x, &f->packed, f->normed.p, r->hidden, r->n, r->hidden, err));
        MG_TRY(mg_linear_run(&f->lin, r->m, &job, 1, err));
        f->lin.math->sigmoid(job.y, job.y, r->n);
    }
    for (uint64_t t = 0; t < r->n; t++)
        f->lin.math->add_scaled(f->out.p + t * r->hidden, f->shared.p + t * r->hidden, job.w ? job.y[t] : 1.0f,
                                r->hidden);
    return MG_OK;
}

static mg_status moe_run(moe *e, mg_error *err) {
    const mg_layer_run *r = e->r;
    MG_TRY(route_tokens(e, err));
    e->pairs = r->n * e->route.k;
    for (uint32_t x = 0; r->only_inputs && x < e->route.experts; x++)
        if (e->route.first[x + 1] > e->route.first[x]) MG_TRY(gather_tap(e, x, err));
    if (r->only_inputs) return MG_OK;
    const mg_bound *g;
    MG_TRY(mg_need(&g, r->m, MG_R_EXPERT_GATE, r->layer, 0, err));
    e->ffn = mg_bound_rows(g);
    MG_TRY(experts_in(e, err));
    MG_TRY(experts_out(e, err));
    if (r->no_down) return shared_expert(r, err);
    e->rows = r->f->k.p;
    if (mg_edge_count(&r->m->hp)) {
        MG_TRY(mg_fbuf_need(&r->f->q, e->pairs, r->hidden, err));
        MG_TRY(mg_layer_exchange(r, &e->route, r->f->k.p, r->f->q.p, err));
        e->rows = r->f->q.p;
    }
    MG_TRY(mg_fbuf_need(&r->f->out, r->n, r->hidden, err));
    MG_TRY(mg_pool_run(r->f->pool, (r->n + TOKENS_PER_TICKET - 1) / TOKENS_PER_TICKET, combine_ticket, e, err));
    return shared_expert(r, err);
}

mg_status mg_layer_moe(const mg_layer_run *r, mg_error *err) {
    const uint64_t experts = (uint64_t)mg_hp_i(r->m, MG_K_EXPERTS);
    moe e = {.r = r, .pack_at = calloc(experts, sizeof *e.pack_at), .jobs = calloc(2 * experts, sizeof *e.jobs)};
    mg_status st = e.pack_at && e.jobs ? moe_run(&e, err) : mg_fail_nomem(err, experts * sizeof *e.jobs);
    mg_routing_release(&e.route);
    free(e.pack_at);
    free(e.jobs);
    return st;
}
