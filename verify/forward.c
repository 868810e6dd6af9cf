/* forward.c - embedding, the order of a layer, final norm and head. Attention and feed-forward: layer_*.c. */
#include "verify/forward.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/arch/arch.h"
#include "verify/attention.h"
#include "verify/forward_impl.h"

mg_status mg_forward_new(mg_forward **out, mg_pool *pool, const mg_forward_options *opt, mg_error *err) {
    mg_forward *f = calloc(1, sizeof *f);
    if (!f) return mg_fail_nomem(err, sizeof *f);
    mg_cpu_fp_env(); /* the calling thread works too */
    f->pool = pool;
    if (opt) f->opt = *opt;
    mg_status st = mg_linear_init(&f->lin, pool, err);
    f->lin.panels.budget = f->opt.keep_bytes;
    if (st == MG_OK) {
        f->attn_scratch = calloc(f->lin.workers, sizeof *f->attn_scratch);
        if (!f->attn_scratch) st = mg_fail_nomem(err, f->lin.workers * sizeof *f->attn_scratch);
    }
    if (st != MG_OK) {
        mg_forward_free(f);
        return st;
    }
    *out = f;
    return MG_OK;
}

void mg_forward_free(mg_forward *f) {
    if (!f) return;
    for (unsigned i = 0; f->attn_scratch && i < f->lin.workers; i++) mg_fbuf_release(&f->attn_scratch[i]);
    free(f->attn_scratch);
    mg_linear_release(&f->lin);
    mg_rope_release(&f->rope[0]);
    mg_rope_release(&f->rope[1]);
    mg_fbuf *bufs[] = {&f->qk_norm, &f->norm_w, &f->normed, &f->packed, &f->q,        &f->k,      &f->v,    &f->attn,
                       &f->gate,    &f->out,    &f->kv,     &f->router, &f->gathered, &f->shared, &f->sinks};
    for (size_t i = 0; i < sizeof bufs / sizeof *bufs; i++) mg_fbuf_release(bufs[i]);
    free(f);
}

void mg_forward_forget(mg_forward *f) {
    mg_panels_clear(&f->lin.panels);
}

mg_pool *mg_forward_pool(const mg_forward *f) {
    return f->pool;
}
uint32_t mg_forward_experts(const mg_forward *f) {
    return f->opt.experts_per_token;
}

mg_status mg_need(const mg_bound **out, const mg_model *m, mg_role role, uint32_t layer, uint32_t expert,
                  mg_error *err) {
    *out = mg_model_find(m, role, layer, expert);
    if (*out) return MG_OK;
    return mg_fail(err, MG_ERR_FORMAT, "the model has no %s weights in layer %u", mg_role_name(role), layer);
}

mg_status mg_forward_check(const mg_model *m, mg_error *err) {
    if (!m->ckpt) return mg_fail(err, MG_ERR_UNSUPPORTED, "a configuration without weights cannot be run");
    const int64_t act = mg_hp_i(m, MG_K_ACT);
    if (act != MG_ACT_SILU && act != MG_ACT_GELU_TANH && act != MG_ACT_GELU_ERF)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "this activation is not built into the forward pass yet");
    const int64_t h = mg_hp_i(m, MG_K_HEADS), kv = mg_hp_i(m, MG_K_KV_HEADS), d = mg_hp_i(m, MG_K_HEAD_DIM);
    if (h <= 0 || kv <= 0 || h % kv || d <= 0 || mg_hp_i(m, MG_K_V_HEAD_DIM) <= 0)
        return mg_fail(err, MG_ERR_CONFLICT, "%lld query heads over %lld key heads of %lld", (long long)h,
                       (long long)kv, (long long)d);
    const int64_t rot = mg_hp_i(m, MG_K_ROPE_DIM);
    if (rot < 0 || rot > d || rot % 2)
        return mg_fail(err, MG_ERR_CONFLICT, "%lld rotated elements of a head of %lld", (long long)rot, (long long)d);
    return MG_OK;
}

/* --- embedding --- */

typedef struct embed_run {
    mg_model *m;
    const mg_bound *b;
    const int32_t *ids;
    uint64_t n, hidden;
    float *x;
    float scale; /* 0: none */
} embed_run;

enum { EMBED_PER_TICKET = 64 };

static mg_status embed_ticket(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    (void)worker;
    const embed_run *r = ctx;
    const uint64_t end = (ticket + 1) * EMBED_PER_TICKET < r->n ? (ticket + 1) * EMBED_PER_TICKET : r->n;
    for (uint64_t i = ticket * EMBED_PER_TICKET; i < end; i++) {
        float *x = r->x + i * r->hidden;
        MG_TRY(mg_read_f32(r->m, r->b, (uint64_t)r->ids[i], 1, x, err));
        for (uint64_t j = 0; r->scale != 0 && j < r->hidden; j++) x[j] = x[j] * r->scale;
    }
    return MG_OK;
}

mg_status mg_forward_embed(mg_forward *f, mg_model *m, const int32_t *ids, uint64_t n, float *x, mg_error *err) {
    embed_run r = {.m = m, .ids = ids, .n = n, .hidden = (uint64_t)mg_hp_i(m, MG_K_HIDDEN), .x = x};
    r.scale = (float)mg_hp_f(m, MG_K_EMBED_SCALE);
    MG_TRY(mg_need(&r.b, m, MG_R_TOKEN_EMBD, 0, 0, err));
    const uint64_t vocab = mg_bound_rows(r.b);
    for (uint64_t i = 0; i < n; i++)
        if (ids[i] < 0 || (uint64_t)ids[i] >= vocab)
            return mg_fail(err, MG_ERR_FORMAT, "token id %d at index %llu, the vocabulary has %llu", ids[i],
                           (unsigned long long)i, (unsigned long long)vocab);
    return mg_pool_run(f->pool, (n + EMBED_PER_TICKET - 1) / EMBED_PER_TICKET, embed_ticket, &r, err);
}

/* --- norm --- */

typedef struct norm_run {
    const mg_math *math;
    mg_norm kind;
    const float *x, *w, *bias; /* bias NULL: none */
    float *y;
    uint64_t n, hidden;
    float eps;
} norm_run;

enum { NORM_PER_TICKET = 32 };

/* y = ((x - mean) * r) * w + b with r = 1 / sqrt(T16((x - mean)^2) / n + eps). y may be x. */
static void layer_norm(const norm_run *r, float *y, const float *x) {
    const uint64_t n = r->hidden;
    const float mean = r->math->sum(x, n) / (float)n;
    for (uint64_t i = 0; i < n; i++) y[i] = x[i] - mean;
    const float scale = 1.0f / sqrtf(r->math->sum_sq(y, n) / (float)n + r->eps);
    for (uint64_t i = 0; i < n; i++) y[i] = (y[i] * scale) * r->w[i];
    for (uint64_t i = 0; r->bias && i < n; i++) y[i] = y[i] + r->bias[i];
}

static mg_status norm_ticket(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    (void)worker;
    (void)err;
    const norm_run *r = ctx;
    const uint64_t end = (ticket + 1) * NORM_PER_TICKET < r->n ? (ticket + 1) * NORM_PER_TICKET : r->n;
    for (uint64_t i = ticket * NORM_PER_TICKET; i < end; i++) {
        if (r->kind == MG_NORM_LAYER)
            layer_norm(r, r->y + i * r->hidden, r->x + i * r->hidden);
        else
            r->math->rmsnorm(r->y + i * r->hidden, r->x + i * r->hidden, r->w, r->hidden, r->eps);
    }
    return MG_OK;
}

mg_role mg_norm_bias(mg_role norm) {
    switch (norm) {
    case MG_R_ATTN_NORM:
        return MG_R_ATTN_NORM_BIAS;
    case MG_R_FFN_NORM:
        return MG_R_FFN_NORM_BIAS;
    case MG_R_OUTPUT_NORM:
        return MG_R_OUTPUT_NORM_BIAS;
    default:
        return MG_ROLE_COUNT;
    }
}

mg_status mg_forward_norm(mg_forward *f, mg_model *m, mg_role role, uint32_t layer, const float *x, uint64_t n,
                          float *y, mg_error *err) {
    const uint64_t hidden = (uint64_t)mg_hp_i(m, MG_K_HIDDEN);
    const mg_bound *b;
    MG_TRY(mg_need(&b, m, role, layer, 0, err));
    const mg_bound *bias = mg_model_find(m, mg_norm_bias(role), layer, 0);
    MG_TRY(mg_fbuf_need(&f->norm_w, hidden, 2, err));
    MG_TRY(mg_read_f32(m, b, 0, 1, f->norm_w.p, err));
    norm_run r = {.math = f->lin.math, .x = x, .w = f->norm_w.p, .y = y, .n = n, .hidden = hidden};
    r.kind = m->arch->block.norm;
    if (bias) {
        MG_TRY(mg_read_f32(m, bias, 0, 1, f->norm_w.p + hidden, err));
        r.bias = f->norm_w.p + hidden;
    }
    r.eps = (float)mg_hp_f(m, MG_K_NORM_EPS);
    return mg_pool_run(f->pool, (n + NORM_PER_TICKET - 1) / NORM_PER_TICKET, norm_ticket, &r, err);
}

mg_status mg_forward_final_norm(mg_forward *f, mg_model *m, const float *x, uint64_t n, float *y, mg_error *err) {
    return mg_forward_norm(f, m, MG_R_OUTPUT_NORM, 0, x, n, y, err);
}

/* --- layers --- */

mg_status mg_layer_tap(const mg_layer_run *r, mg_tap_point p, uint64_t rows, uint64_t cols, const float *data,
                       mg_error *err) {
    if (!r->tap) return MG_OK;
    mg_tap t = {.point = p, .layer = r->layer, .rows = rows, .cols = cols, .data = data};
    return r->tap(r->tap_ctx, &t, err);
}

mg_status mg_layer_norm(const mg_layer_run *r, mg_role role, mg_role post_norm, mg_error *err) {
    MG_TRY(mg_fbuf_need(&r->f->normed, r->n, r->hidden, err));
    if (!mg_model_find(r->m, role, r->layer, 0) && mg_model_find(r->m, post_norm, r->layer, 0)) {
        memcpy(r->f->normed.p, r->x, r->n * r->hidden * sizeof(float));
        return MG_OK;
    }
    return mg_forward_norm(r->f, r->m, role, r->layer, r->x, r->n, r->f->normed.p, err);
}

mg_status mg_forward_layer(mg_forward *f, mg_model *m, mg_kvcache *cache, uint32_t layer, unsigned parts,
                           const mg_batch *batch, float *x, mg_tap_fn tap, void *tap_ctx, mg_error *err) {
    if (layer >= (uint32_t)mg_hp_i(m, MG_K_LAYERS))
        return mg_fail(err, MG_ERR_INTERNAL, "layer %u of %lld", layer, (long long)mg_hp_i(m, MG_K_LAYERS));
    MG_TRY(mg_forward_check(m, err));
    mg_layer_run r = {.f = f,
                      .m = m,
                      .layer = layer,
                      .batch = batch,
                      .n = batch->n_tokens,
                      .hidden = (uint64_t)mg_hp_i(m, MG_K_HIDDEN),
                      .x = x,
                      .tap = tap,
                      .tap_ctx = tap_ctx};
    if (r.n == 0) return MG_OK;
    if (parts & MG_PART_ATTN_IN) MG_TRY(mg_layer_attention_in(&r, err));
    if (parts & MG_PART_ATTN) MG_TRY(mg_layer_attention(&r, cache, err));
    if (!(parts & (MG_PART_FFN | MG_PART_FFN_IN | MG_PART_EXPERT_IN | MG_PART_DOWN_IN))) return MG_OK;
    MG_TRY(mg_layer_norm(&r, MG_R_FFN_NORM, MG_R_FFN_POST_NORM, err));
    MG_TRY(mg_layer_tap(&r, MG_TAP_FFN_IN, r.n, r.hidden, f->normed.p, err));
    r.only_inputs = !(parts & (MG_PART_FFN | MG_PART_DOWN_IN));
    r.no_down = !(parts & MG_PART_FFN);
    if (r.only_inputs && !(m->layers[layer].moe && parts & MG_PART_EXPERT_IN)) return MG_OK;
    MG_TRY(m->layers[layer].moe ? mg_layer_moe(&r, err) : mg_layer_dense(&r, err));
    if (r.no_down) return MG_OK;
    MG_TRY(mg_layer_add(&r, MG_R_FFN_POST_NORM, err));
    return mg_layer_tap(&r, MG_TAP_LAYER_OUT, r.n, r.hidden, x, err);
}

/* --- logits --- */

typedef struct logits_run {
    const mg_math *math;
    float *x;
    uint64_t n;         /* values */
    float divisor, cap; /* 0: none */
} logits_run;

enum { LOGITS_PER_TICKET = 1 << 15 };

static mg_status logits_ticket(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    (void)worker;
    (void)err;
    const logits_run *r = ctx;
    const uint64_t from = ticket * LOGITS_PER_TICKET;
    const uint64_t n = r->n - from < LOGITS_PER_TICKET ? r->n - from : LOGITS_PER_TICKET;
    float *x = r->x + from;
    if (r->divisor != 0) r->math->div(x, x, r->divisor, n);
    if (r->cap != 0) mg_softcap(r->math, x, r->cap, n);
    return MG_OK;
}

static mg_status finish_logits(mg_forward *f, const mg_model *m, float *logits, uint64_t n, mg_error *err) {
    logits_run r = {.math = f->lin.math, .x = logits, .n = n};
    r.divisor = (float)mg_hp_f(m, MG_K_LOGIT_SCALE);
    r.cap = (float)mg_hp_f(m, MG_K_FINAL_SOFTCAP);
    if (r.divisor == 0 && r.cap == 0) return MG_OK;
    return mg_pool_run(f->pool, (n + LOGITS_PER_TICKET - 1) / LOGITS_PER_TICKET, logits_ticket, &r, err);
}

mg_status mg_forward_logits(mg_forward *f, mg_model *m, const float *x, uint64_t n, float *logits, mg_error *err) {
    const uint64_t hidden = (uint64_t)mg_hp_i(m, MG_K_HIDDEN);
    const mg_bound *w = mg_model_find(m, MG_R_OUTPUT, 0, 0);
    if (!w) MG_TRY(mg_need(&w, m, MG_R_TOKEN_EMBD, 0, 0, err));
    MG_TRY(mg_fbuf_need(&f->normed, n, hidden, err));
    MG_TRY(mg_forward_final_norm(f, m, x, n, f->normed.p, err));
    mg_linear_job job = {
        .w = w, .bias = mg_model_find(m, MG_R_OUTPUT_BIAS, 0, 0), .y = logits, .ldy = mg_bound_rows(w)};
    MG_TRY(mg_linear_pack_buf(&f->lin, &job.x, &f->packed, f->normed.p, hidden, n, hidden, err));
    MG_TRY(mg_linear_run(&f->lin, m, &job, 1, err));
    return finish_logits(f, m, logits, n * job.ldy, err);
}

uint64_t mg_forward_vocab(const mg_model *m) {
    const mg_bound *w = mg_model_find(m, MG_R_OUTPUT, 0, 0);
    if (!w) w = mg_model_find(m, MG_R_TOKEN_EMBD, 0, 0);
    return w ? mg_bound_rows(w) : (uint64_t)mg_hp_i(m, MG_K_VOCAB);
}

mg_status mg_forward_run(mg_forward *f, mg_model *m, mg_kvcache *cache, const mg_batch *batch, const int32_t *ids,
                         float *x, mg_tap_fn tap, void *tap_ctx, mg_error *err) {
    MG_TRY(mg_forward_embed(f, m, ids, batch->n_tokens, x, err));
    const uint32_t layers = (uint32_t)mg_hp_i(m, MG_K_LAYERS);
    for (uint32_t l = 0; l < layers; l++)
        MG_TRY(mg_forward_layer(f, m, cache, l, MG_PART_ALL, batch, x, tap, tap_ctx, err));
    for (uint32_t s = 0; cache && s < batch->n_seqs; s++) cache->past[s] += batch->len[s];
    return MG_OK;
}

uint64_t mg_forward_token_bytes(const mg_forward *f, const mg_model *m) {
    const uint64_t hidden = (uint64_t)mg_hp_i(m, MG_K_HIDDEN), heads = (uint64_t)mg_hp_i(m, MG_K_HEADS);
    const uint64_t kv = (uint64_t)mg_hp_i(m, MG_K_KV_HEADS);
    const uint64_t qk = (uint64_t)mg_hp_i(m, MG_K_HEAD_DIM), vd = (uint64_t)mg_hp_i(m, MG_K_V_HEAD_DIM);
    const uint64_t lora = (uint64_t)(mg_hp_i(m, MG_K_KV_LORA) + mg_hp_i(m, MG_K_Q_LORA));
    const uint64_t attn = heads * (qk + 2 * vd) + 2 * kv * (qk + vd) + (lora ? lora + heads * qk : 0) +
                          (mg_model_find(m, MG_R_ATTN_GATE, 0, 0) ? heads * vd : 0);
    uint64_t ffn = 3 * (uint64_t)mg_hp_i(m, MG_K_FFN), experts = (uint64_t)mg_hp_i(m, MG_K_EXPERTS);
    if (experts) {
        uint64_t k = (uint64_t)mg_hp_i(m, MG_K_EXPERTS_USED);
        if (f->opt.experts_per_token) k = f->opt.experts_per_token < experts ? f->opt.experts_per_token : experts;
        ffn += 3 * (uint64_t)mg_hp_i(m, MG_K_SHARED_FFN) + hidden;
        uint64_t moe = k * (3 * (uint64_t)mg_hp_i(m, MG_K_EXPERT_FFN) + 2 * hidden) + experts;
        if (mg_edge_count(&m->hp)) moe += (k + 1) * hidden;
        if (moe > ffn) ffn = moe;
    }
    return sizeof(float) * (4 * hidden + (attn > ffn ? attn : ffn));
}

/* --- the evaluator --- */

static mg_status eval_embed(void *self, mg_model *m, const int32_t *ids, uint64_t n, float *x, mg_error *err) {
    return mg_forward_embed(self, m, ids, n, x, err);
}

static mg_status eval_layer(void *self, mg_model *m, uint32_t layer, unsigned parts, const mg_batch *batch, float *x,
                            mg_tap_fn tap, void *tap_ctx, mg_error *err) {
    return mg_forward_layer(self, m, NULL, layer, parts, batch, x, tap, tap_ctx, err);
}

static mg_status eval_final_norm(void *self, mg_model *m, const float *x, uint64_t n, float *normed, mg_error *err) {
    return mg_forward_final_norm(self, m, x, n, normed, err);
}

static mg_status eval_logits(void *self, mg_model *m, const float *x, uint64_t n, float *logits, mg_error *err) {
    return mg_forward_logits(self, m, x, n, logits, err);
}

mg_evaluator mg_forward_evaluator(mg_forward *f) {
    return (mg_evaluator){
        .self = f, .embed = eval_embed, .run_layer = eval_layer, .final_norm = eval_final_norm, .logits = eval_logits};
}
