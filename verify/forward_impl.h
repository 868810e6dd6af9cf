/* forward_impl.h - private: the parts of the forward pass that its files share. */
#ifndef MG_VERIFY_FORWARD_IMPL_H
#define MG_VERIFY_FORWARD_IMPL_H

#include "verify/forward.h"
#include "verify/linear.h"
#include "verify/rope.h"
#include "verify/router.h"

struct mg_forward {
    mg_forward_options opt;
    mg_pool *pool;
    mg_linear lin;
    mg_rope rope[2]; /* [1]: layers whose frequencies are not scaled (mg_layer.rope_plain) */
    mg_fbuf qk_norm;
    mg_fbuf *attn_scratch; /* [workers] */
    mg_fbuf norm_w;
    mg_fbuf normed;   /* [tokens][hidden] */
    mg_fbuf packed;   /* packed input of a product */
    mg_fbuf q, k, v;  /* [tokens][heads * dim]; gate and up of a feed-forward block live in q and k too */
    mg_fbuf attn;     /* [tokens][heads * v_dim] */
    mg_fbuf gate;     /* [tokens][heads * v_dim] gates of the attention's output */
    mg_fbuf out;      /* [tokens][hidden] output of a block before it is added */
    mg_fbuf kv;       /* slabs of a batch without a cache */
    mg_fbuf router;   /* [tokens][experts] */
    mg_fbuf shared;   /* [tokens][hidden] output of the shared expert */
    mg_fbuf sinks;    /* [heads] */
    mg_fbuf gathered; /* rows of one expert for its tap */
};

/* What one layer call carries. */
typedef struct mg_layer_run {
    mg_forward *f;
    mg_model *m;
    uint32_t layer;
    const mg_batch *batch;
    uint64_t n; /* tokens */
    uint64_t hidden;
    float *x;
    mg_tap_fn tap;
    void *tap_ctx;
    bool only_inputs; /* of a mixture: route, fire the taps of the experts' inputs, and no more */
    bool no_down;     /* of a feed-forward: fire the taps of what the down projections get, and no more */
} mg_layer_run;

/* Fire a tap when there is one. */
mg_status mg_layer_tap(const mg_layer_run *r, mg_tap_point p, uint64_t rows, uint64_t cols, const float *data,
                       mg_error *err) MG_MUST_CHECK;
/* f->normed = norm of x by role; x itself in models that norm what a block gives (post_norm) and not what it gets. */
mg_status mg_layer_norm(const mg_layer_run *r, mg_role role, mg_role post_norm, mg_error *err) MG_MUST_CHECK;
/* x += f->out, over the pool: after the norm that role names, when the model has one, and times RESIDUAL_SCALE. */
mg_status mg_layer_add(const mg_layer_run *r, mg_role post_norm, mg_error *err) MG_MUST_CHECK;
/* gate = act(gate) * up, [rows][cols]. */
mg_status mg_layer_gate(const mg_layer_run *r, float *gate, const float *up, uint64_t rows, uint64_t cols,
                        mg_error *err) MG_MUST_CHECK;

mg_status mg_layer_attention(const mg_layer_run *r, mg_kvcache *cache, mg_error *err) MG_MUST_CHECK;
/* Its normed input alone, with its tap. */
mg_status mg_layer_attention_in(const mg_layer_run *r, mg_error *err) MG_MUST_CHECK;
/* f->q, f->k and f->v of latent attention, heads expanded, before rotation. */
mg_status mg_layer_latent(const mg_layer_run *r, const mg_kv_dims *kv, mg_error *err) MG_MUST_CHECK;
mg_status mg_layer_dense(const mg_layer_run *r, mg_error *err) MG_MUST_CHECK;
/* z = y plus, for every edge of the grid between two experts of one token, scale * map(y of the source), all reading
 * the old y. Both [pairs][hidden] in expert order; uses f->v and f->packed. */
mg_status mg_layer_exchange(const mg_layer_run *r, const mg_routing *route, const float *y, float *z,
                            mg_error *err) MG_MUST_CHECK;
mg_status mg_layer_moe(const mg_layer_run *r, mg_error *err) MG_MUST_CHECK;

/* y [n][hidden] = norm of x with the weights of role. */
mg_status mg_forward_norm(mg_forward *f, mg_model *m, mg_role role, uint32_t layer, const float *x, uint64_t n,
                          float *y, mg_error *err) MG_MUST_CHECK;

/* The bias that goes with a norm's weight, MG_ROLE_COUNT when none does. */
mg_role mg_norm_bias(mg_role norm);

/* A required weight: MG_ERR_FORMAT naming role and layer when the model lacks it. */
mg_status mg_need(const mg_bound **out, const mg_model *m, mg_role role, uint32_t layer, uint32_t expert,
                  mg_error *err) MG_MUST_CHECK;

#endif
