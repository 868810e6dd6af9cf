/* layer_attention.c - norm, projections, rotation, attention, output projection, residual. */
#include <stdlib.h>
#include <math.h>

#include "formats/arch/arch.h"
#include "quant/math/fma.h"
#include "verify/attention.h"
#include "verify/forward_impl.h"

/* --- rotation, and storing of keys and values --- */

typedef struct store_run {
    const mg_layer_run *r;
    const mg_attn_seq *seqs;
    const uint32_t *seq_of; /* [tokens] */
    mg_kv_dims kv;
    uint64_t heads;
    const mg_rope *rope;
    uint64_t rope_at; /* first rotated element of a head */ /* NULL: no rotation */
    bool interleaved, norm_last;
    const float *q_norm, *k_norm; /* NULL: none */
    uint64_t q_span, k_span;      /* values under one norm: a head, or the whole projection */
    float eps;
} store_run;

/* Pairs (2i, 2i+1) instead of (i, i+half): the same two fused operations. */
static void rotate_interleaved(float *x, const float *cs, const float *sn, uint64_t half) {
    for (uint64_t i = 0; i < half; i++) {
        float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = mg_fma32(a, cs[i], -(b * sn[i]));
        x[2 * i + 1] = mg_fma32(a, sn[i], b * cs[i]);
    }
}

static void rotate(const store_run *s, float *x, uint64_t heads, uint64_t pos) {
    const mg_forward *f = s->r->f;
    if (!s->rope) return;
    const uint64_t half = s->rope->half;
    const float *cs = s->rope->cs.p + pos * half, *sn = s->rope->sn.p + pos * half;
    for (uint64_t h = 0; h < heads; h++) {
        if (s->interleaved)
            rotate_interleaved(x + h * s->kv.dim + s->rope_at, cs, sn, half);
        else
            f->lin.math->rope_half(x + h * s->kv.dim + s->rope_at, cs, sn, half);
    }
}

static void norm_spans(const store_run *s, float *x, const float *w, uint64_t span, uint64_t width) {
    for (uint64_t i = 0; w && i < width; i += span) s->r->f->lin.math->rmsnorm(x + i, x + i, w, span, s->eps);
}

static void norm_qk(const store_run *s, float *q, float *k) {
    norm_spans(s, q, s->q_norm, s->q_span, s->heads * s->kv.dim);
    norm_spans(s, k, s->k_norm, s->k_span, s->kv.heads * s->kv.dim);
}

enum { TOKENS_PER_TICKET = 16 };

static mg_status store_ticket(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    (void)worker;
    (void)err;
    const store_run *s = ctx;
    const mg_forward *f = s->r->f;
    const uint64_t end = (ticket + 1) * TOKENS_PER_TICKET < s->r->n ? (ticket + 1) * TOKENS_PER_TICKET : s->r->n;
    for (uint64_t t = ticket * TOKENS_PER_TICKET; t < end; t++) {
        const mg_attn_seq *q = &s->seqs[s->seq_of[t]];
        const uint64_t pos = q->past + (t - q->row);
        float *x = f->q.p + t * s->heads * s->kv.dim, *k = f->k.p + t * s->kv.heads * s->kv.dim;
        if (!s->norm_last) norm_qk(s, x, k);
        rotate(s, x, s->heads, pos);
        rotate(s, k, s->kv.heads, pos);
        if (s->norm_last) norm_qk(s, x, k);
        mg_kv_store(&s->kv, &q->kv, pos, k, f->v.p + t * s->kv.heads * s->kv.v_dim);
    }
    return MG_OK;
}

/* --- the batch as sequences with slabs --- */

static uint64_t slots(uint64_t n) {
    return (n + MG_GEMM_NR - 1) / MG_GEMM_NR * MG_GEMM_NR;
}

static mg_status place(mg_attn_seq *seqs, uint32_t *seq_of, const mg_layer_run *r, const mg_kvcache *cache,
                       const mg_kv_dims *kv, uint64_t *positions, mg_error *err) {
    uint64_t row = 0, floats = 0, one;
    for (uint32_t s = 0; s < r->batch->n_seqs; s++) {
        const uint64_t len = r->batch->len[s];
        if (len > r->n - row) return mg_fail(err, MG_ERR_INTERNAL, "sequence lengths exceed the batch");
        seqs[s] = (mg_attn_seq){.past = cache ? cache->past[s] : 0, .n = len, .row = row};
        if (cache && len > cache->cap - seqs[s].past)
            return mg_fail(err, MG_ERR_LIMIT, "%llu positions, the cache holds %llu",
                           (unsigned long long)(seqs[s].past + len), (unsigned long long)cache->cap);
        for (uint64_t i = 0; i < len; i++) seq_of[row + i] = s;
        if (seqs[s].past + len > *positions) *positions = seqs[s].past + len;
        row += len;
        if (!mg_kv_floats(kv, slots(len), &one) || __builtin_add_overflow(floats, one, &floats))
            return mg_fail(err, MG_ERR_LIMIT, "too many tokens for one batch");
    }
    if (row != r->n) return mg_fail(err, MG_ERR_INTERNAL, "sequence lengths do not add up to the batch");
    if (!cache) MG_TRY(mg_fbuf_need(&r->f->kv, floats, 1, err));
    uint64_t off = 0;
    for (uint32_t s = 0; s < r->batch->n_seqs; s++) {
        const uint64_t cap = slots(seqs[s].n);
        seqs[s].kv = cache ? mg_kvcache_slab(cache, r->layer, s) : mg_kv_slab_at(kv, cap, r->f->kv.p + off);
        if (mg_kv_floats(kv, cap, &one)) off += one;
    }
    return MG_OK;
}

static mg_status project(const mg_layer_run *r, const mg_kv_dims *kv, uint64_t heads, mg_error *err) {
    mg_forward *f = r->f;
    const mg_role w[3] = {MG_R_ATTN_Q, MG_R_ATTN_K, MG_R_ATTN_V};
    const mg_role b[3] = {MG_R_ATTN_Q_BIAS, MG_R_ATTN_K_BIAS, MG_R_ATTN_V_BIAS};
    const uint64_t width[3] = {heads * kv->dim, kv->heads * kv->dim, kv->heads * kv->v_dim};
    mg_fbuf *y[3] = {&f->q, &f->k, &f->v};
    mg_xpack x;
    MG_TRY(mg_linear_pack_buf(&f->lin, &x, &f->packed, f->normed.p, r->hidden, r->n, r->hidden, err));
    mg_linear_job jobs[3];
    for (int i = 0; i < 3; i++) {
        MG_TRY(mg_fbuf_need(y[i], r->n, width[i], err));
        jobs[i] =
            (mg_linear_job){.bias = mg_model_find(r->m, b[i], r->layer, 0), .x = x, .y = y[i]->p, .ldy = width[i]};
        MG_TRY(mg_need(&jobs[i].w, r->m, w[i], r->layer, 0, err));
        if (mg_bound_rows(jobs[i].w) != width[i])
            return mg_fail(err, MG_ERR_FORMAT, "%s has %llu rows, expected %llu", mg_role_name(w[i]),
                           (unsigned long long)mg_bound_rows(jobs[i].w), (unsigned long long)width[i]);
    }
    return mg_linear_run(&f->lin, r->m, jobs, 3, err);
}

/* Weights of one norm into dst; *w stays NULL when the model has none. width: of the projection it is for. */
static mg_status load_norm(const mg_layer_run *r, mg_role role, uint64_t width, float *dst, const float **w,
                           uint64_t *span, mg_error *err) {
    const mg_bound *b = mg_model_find(r->m, role, r->layer, 0);
    if (!b) return MG_OK;
    *span = b->shape[0];
    if (b->rank != 1 || *span == 0 || width % *span)
        return mg_fail(err, MG_ERR_FORMAT, "%s of layer %u does not divide %llu values", mg_role_name(role), r->layer,
                       (unsigned long long)width);
    *w = dst;
    return mg_read_f32(r->m, b, 0, 1, dst, err);
}

static mg_status load_norms(const mg_layer_run *r, store_run *s, mg_error *err) {
    const uint64_t q = s->heads * s->kv.dim, k = s->kv.heads * s->kv.dim;
    s->eps = (float)mg_hp_f(r->m, MG_K_NORM_EPS);
    s->norm_last = r->m->arch->block.qk_norm == MG_QK_NORM_AFTER_ROPE;
    MG_TRY(mg_fbuf_need(&r->f->qk_norm, q + k, 1, err));
    MG_TRY(load_norm(r, MG_R_ATTN_Q_NORM, q, r->f->qk_norm.p, &s->q_norm, &s->q_span, err));
    return load_norm(r, MG_R_ATTN_K_NORM, k, r->f->qk_norm.p + q, &s->k_norm, &s->k_span, err);
}

/* One score per query head that takes part in the softmax and has no value; *sinks NULL: none. */
static mg_status load_sinks(const mg_layer_run *r, uint64_t heads, const float **sinks, mg_error *err) {
    const mg_bound *b = mg_model_find(r->m, MG_R_ATTN_SINKS, r->layer, 0);
    if (!b) return MG_OK;
    if (b->rank != 1 || b->shape[0] != heads)
        return mg_fail(err, MG_ERR_FORMAT, "%s of layer %u: expected %llu values", mg_role_name(MG_R_ATTN_SINKS),
                       r->layer, (unsigned long long)heads);
    MG_TRY(mg_fbuf_need(&r->f->sinks, heads, 1, err));
    *sinks = r->f->sinks.p;
    return mg_read_f32(r->m, b, 0, 1, r->f->sinks.p, err);
}

static float score_scale(const mg_model *m, uint64_t dim) {
    const double given = mg_hp_f(m, MG_K_ATTN_SCALE);
    const int64_t other = mg_hp_i(m, MG_K_ATTN_SCALE_DIM);
    const double stretch = mg_rope_stretch(m);
    if (given != 0) return (float)given;
    if (stretch != 1) return (float)(stretch / sqrt((double)dim));
    return 1.0f / sqrtf((float)(other > 0 ? (uint64_t)other : dim));
}

/* f->attn times the sigmoid of a projection of the layer's input, where the family has such gates. */
static mg_status gate_output(const mg_layer_run *r, uint64_t width, mg_error *err) {
    mg_forward *f = r->f;
    mg_linear_job job = {.w = mg_model_find(r->m, MG_R_ATTN_GATE, r->layer, 0), .ldy = width};
    if (!job.w) return MG_OK;
    if (mg_bound_rows(job.w) != width)
        return mg_fail(err, MG_ERR_FORMAT, "%s of layer %u has %llu rows, expected %llu", mg_role_name(MG_R_ATTN_GATE),
                       r->layer, (unsigned long long)mg_bound_rows(job.w), (unsigned long long)width);
    MG_TRY(mg_fbuf_need(&f->gate, r->n, width, err));
    job.y = f->gate.p;
    MG_TRY(mg_linear_pack_buf(&f->lin, &job.x, &f->packed, f->normed.p, r->hidden, r->n, r->hidden, err));
    MG_TRY(mg_linear_run(&f->lin, r->m, &job, 1, err));
    f->lin.math->sigmoid(f->gate.p, f->gate.p, r->n * width);
    f->lin.math->mul(f->attn.p, f->gate.p, r->n * width);
    return MG_OK;
}

static mg_status attend(const mg_layer_run *r, mg_attn_seq *seqs, uint32_t *seq_of, mg_kvcache *cache, mg_error *err) {
    mg_forward *f = r->f;
    const mg_kv_dims kv = mg_kv_dims_of(r->m);
    const uint64_t heads = (uint64_t)mg_hp_i(r->m, MG_K_HEADS);
    uint64_t positions = 1;
    MG_TRY(place(seqs, seq_of, r, cache, &kv, &positions, err));
    const mg_layer *layer = &r->m->layers[r->layer];
    mg_rope *rope = layer->rope ? &f->rope[layer->rope_plain] : NULL;
    if (rope) MG_TRY(mg_rope_prepare(rope, r->m, r->layer, positions, err));
    const bool latent = mg_hp_i(r->m, MG_K_KV_LORA) > 0;
    MG_TRY(latent ? mg_layer_latent(r, &kv, err) : project(r, &kv, heads, err));
    store_run s = {.r = r, .seqs = seqs, .seq_of = seq_of, .kv = kv, .heads = heads, .rope = rope};
    s.rope_at = latent ? (uint64_t)mg_hp_i(r->m, MG_K_NOPE_DIM) : 0;
    MG_TRY(load_norms(r, &s, err));
    s.interleaved = r->m->arch->block.rope == MG_ROPE_INTERLEAVED;
    MG_TRY(mg_pool_run(f->pool, (r->n + TOKENS_PER_TICKET - 1) / TOKENS_PER_TICKET, store_ticket, &s, err));
    MG_TRY(mg_fbuf_need(&f->attn, r->n, heads * kv.v_dim, err));
    const float *sinks = NULL;
    MG_TRY(load_sinks(r, heads, &sinks, err));
    const mg_attention a = {.math = f->lin.math,
                            .pool = f->pool,
                            .kv = kv,
                            .heads = heads,
                            .window = r->m->layers[r->layer].window,
                            .scale = score_scale(r->m, kv.dim),
                            .softcap = (float)mg_hp_f(r->m, MG_K_ATTN_SOFTCAP),
                            .sinks = sinks,
                            .q = f->q.p,
                            .out = f->attn.p,
                            .seqs = seqs,
                            .n_seqs = r->batch->n_seqs,
                            .scratch = f->attn_scratch};
    MG_TRY(mg_attention_run(&a, err));
    MG_TRY(gate_output(r, heads * kv.v_dim, err));
    MG_TRY(mg_layer_tap(r, MG_TAP_ATTN_O_IN, r->n, heads * kv.v_dim, f->attn.p, err));
    mg_linear_job job = {.bias = mg_model_find(r->m, MG_R_ATTN_O_BIAS, r->layer, 0), .ldy = r->hidden};
    MG_TRY(mg_need(&job.w, r->m, MG_R_ATTN_O, r->layer, 0, err));
    MG_TRY(mg_fbuf_need(&f->out, r->n, r->hidden, err));
    job.y = f->out.p;
    MG_TRY(mg_linear_pack_buf(&f->lin, &job.x, &f->packed, f->attn.p, heads * kv.v_dim, r->n, heads * kv.v_dim, err));
    MG_TRY(mg_linear_run(&f->lin, r->m, &job, 1, err));
    return mg_layer_add(r, MG_R_ATTN_POST_NORM, err);
}

mg_status mg_layer_attention_in(const mg_layer_run *r, mg_error *err) {
    MG_TRY(mg_layer_norm(r, MG_R_ATTN_NORM, MG_R_ATTN_POST_NORM, err));
    return mg_layer_tap(r, MG_TAP_ATTN_IN, r->n, r->hidden, r->f->normed.p, err);
}

mg_status mg_layer_attention(const mg_layer_run *r, mg_kvcache *cache, mg_error *err) {
    if (cache && cache->n_seqs < r->batch->n_seqs)
        return mg_fail(err, MG_ERR_INTERNAL, "%u sequences, the cache has %u", r->batch->n_seqs, cache->n_seqs);
    MG_TRY(mg_layer_attention_in(r, err));
    mg_attn_seq *seqs = calloc(r->batch->n_seqs, sizeof *seqs);
    uint32_t *seq_of = calloc(r->n, sizeof *seq_of);
    mg_status st = seqs && seq_of ? MG_OK : mg_fail_nomem(err, r->n * sizeof *seq_of);
    if (st == MG_OK) st = attend(r, seqs, seq_of, cache, err);
    free(seqs);
    free(seq_of);
    return st;
}
