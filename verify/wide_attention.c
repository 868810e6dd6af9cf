/* wide_attention.c - attention of the double pass (forward64.h), plain and latent. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "verify/wide_impl.h"

typedef struct attn_run {
    const mg_forward64 *f;
    const mg_batch *batch;
    const float *inv;          /* [half] */
    double factor, scale, cap; /* of the rotation; of the scores; of their size, 0 for none */
    uint64_t half, heads, kv_heads, dim, v_dim, window;
    bool interleaved;
    uint64_t rope_at;   /* first rotated element of a head */
    const float *sinks; /* [heads] or NULL */
    double *q, *k, *v, *out;
} attn_run;

static void rotate(const attn_run *r, double *x, uint64_t heads, uint64_t pos) {
    for (uint64_t i = 0; i < r->half; i++) {
        const double angle = (double)pos * (double)r->inv[i];
        const double c = mg_wide_rounded(r->f, cos(angle) * r->factor),
                     s = mg_wide_rounded(r->f, sin(angle) * r->factor);
        const uint64_t ia = r->interleaved ? 2 * i : i, ib = r->interleaved ? 2 * i + 1 : i + r->half;
        for (uint64_t h = 0; h < heads; h++) {
            double *p = x + h * r->dim + r->rope_at, a = p[ia], b = p[ib];
            p[ia] = mg_wide_rounded(r->f, a * c - b * s);
            p[ib] = mg_wide_rounded(r->f, a * s + b * c);
        }
    }
}

/* One query head of one sequence. */
static mg_status attn_ticket(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    (void)worker;
    const attn_run *r = ctx;
    const uint64_t h = ticket % r->heads, seq = ticket / r->heads, g = h / (r->heads / r->kv_heads);
    uint64_t base = 0;
    for (uint64_t s = 0; s < seq; s++) base += r->batch->len[s];
    const uint64_t n = r->batch->len[seq];
    double *e = malloc((n ? n : 1) * sizeof *e);
    if (!e) return mg_fail_nomem(err, n * sizeof *e);
    for (uint64_t i = 0; i < n; i++) {
        const double *q = r->q + ((base + i) * r->heads + h) * r->dim;
        const uint64_t from = r->window && i + 1 > r->window ? i + 1 - r->window : 0;
        double max = -INFINITY, sum = 0;
        for (uint64_t j = from; j <= i; j++) {
            const double *k = r->k + ((base + j) * r->kv_heads + g) * r->dim;
            double s = 0;
            for (uint64_t d = 0; d < r->dim; d++) s += q[d] * k[d];
            e[j] = s * r->scale;
            if (r->cap != 0) e[j] = r->cap * tanh(e[j] / r->cap);
            if (e[j] > max) max = e[j];
        }
        if (r->sinks && (double)r->sinks[h] > max) max = (double)r->sinks[h];
        if (r->sinks) sum = exp((double)r->sinks[h] - max);
        for (uint64_t j = from; j <= i; j++) sum += e[j] = exp(e[j] - max);
        double *o = r->out + ((base + i) * r->heads + h) * r->v_dim;
        for (uint64_t d = 0; d < r->v_dim; d++) o[d] = 0;
        for (uint64_t j = from; j <= i; j++) {
            const double *v = r->v + ((base + j) * r->kv_heads + g) * r->v_dim;
            const double p = mg_wide_rounded(r->f, e[j] / sum);
            for (uint64_t d = 0; d < r->v_dim; d++) o[d] += p * v[d];
        }
        for (uint64_t d = 0; d < r->v_dim; d++) o[d] = mg_wide_rounded(r->f, o[d]);
    }
    free(e);
    return MG_OK;
}

static mg_status rotate_all(attn_run *r, mg_model *m, uint32_t layer, mg_error *err) {
    if (!m->layers[layer].rope) return MG_OK;
    uint64_t longest = 0;
    for (uint32_t s = 0; s < r->batch->n_seqs; s++)
        if (r->batch->len[s] > longest) longest = r->batch->len[s];
    r->half = (uint64_t)mg_hp_i(m, MG_K_ROPE_DIM) / 2;
    float *inv = malloc((r->half ? r->half : 1) * sizeof *inv), factor = 1.0f;
    if (!inv) return mg_fail_nomem(err, r->half * sizeof *inv);
    mg_status st = mg_rope_frequencies(m, layer, r->half, longest, inv, &factor, err);
    r->inv = inv;
    r->factor = (double)factor;
    uint64_t row = 0;
    for (uint32_t s = 0; st == MG_OK && s < r->batch->n_seqs; s++)
        for (uint64_t i = 0; i < r->batch->len[s]; i++, row++) {
            rotate(r, r->q + row * r->heads * r->dim, r->heads, i);
            rotate(r, r->k + row * r->kv_heads * r->dim, r->kv_heads, i);
        }
    free(inv);
    r->inv = NULL;
    return st;
}

static double score_scale(const mg_model *m, uint64_t dim) {
    const double given = mg_hp_f(m, MG_K_ATTN_SCALE);
    const int64_t other = mg_hp_i(m, MG_K_ATTN_SCALE_DIM);
    return given != 0 ? given : mg_rope_stretch(m) / sqrt(other > 0 ? (double)other : (double)dim);
}

/* The rows of a query or key under its norm, in place; nothing when the model has none. */
static mg_status norm_projection(const mg_forward64 *f, mg_model *m, mg_role role, uint32_t layer, double *x,
                                 uint64_t n, uint64_t width, mg_error *err) {
    const mg_bound *b = mg_model_find(m, role, layer, 0);
    if (!b) return MG_OK;
    const uint64_t span = b->shape[0];
    if (span == 0 || width % span)
        return mg_fail(err, MG_ERR_FORMAT, "%s of layer %u has %llu values", mg_role_name(role), layer,
                       (unsigned long long)span);
    float *w = malloc(span * sizeof *w);
    if (!w) return mg_fail_nomem(err, span * sizeof *w);
    mg_status st = mg_wide_read(f, m, b, 0, 1, w, err);
    for (uint64_t i = 0; st == MG_OK && i < n * width; i += span)
        mg_wide_norm_row(f, x + i, w, NULL, span, MG_NORM_RMS, mg_hp_f(m, MG_K_NORM_EPS), x + i);
    free(w);
    return st;
}

static mg_status norm_qk(const attn_run *r, mg_model *m, uint32_t layer, uint64_t n, mg_error *err) {
    MG_TRY(norm_projection(r->f, m, MG_R_ATTN_Q_NORM, layer, r->q, n, r->heads * r->dim, err));
    return norm_projection(r->f, m, MG_R_ATTN_K_NORM, layer, r->k, n, r->kv_heads * r->dim, err);
}

/* The first n values of every row, in place. */
static mg_status norm_latent(const mg_forward64 *f, mg_model *m, mg_role role, uint32_t layer, double *x, uint64_t rows,
                             uint64_t ld, uint64_t n, mg_error *err) {
    const mg_bound *b;
    MG_TRY(mg_need(&b, m, role, layer, 0, err));
    float *w = malloc(n * sizeof *w);
    if (!w) return mg_fail_nomem(err, n * sizeof *w);
    mg_status st = b->rank == 1 && b->shape[0] == n ? mg_wide_read(f, m, b, 0, 1, w, err)
                                                    : mg_fail(err, MG_ERR_FORMAT, "a latent's norm has another size");
    for (uint64_t t = 0; st == MG_OK && t < rows; t++) {
        double ss = 0;
        for (uint64_t j = 0; j < n; j++) ss += x[t * ld + j] * x[t * ld + j];
        const double k = 1.0 / sqrt(ss / (double)n + m->arch->block.latent_eps);
        for (uint64_t j = 0; j < n; j++) x[t * ld + j] = mg_wide_rounded(f, x[t * ld + j] * k * (double)w[j]);
    }
    free(w);
    return st;
}

/* q, k and v of latent attention, heads expanded. */
static mg_status latent(mg_forward64 *f, attn_run *r, mg_model *m, uint32_t layer, uint64_t n, const double *x,
                        mg_error *err) {
    const uint64_t hidden = (uint64_t)mg_hp_i(m, MG_K_HIDDEN), q_lora = (uint64_t)mg_hp_i(m, MG_K_Q_LORA);
    const uint64_t lora = (uint64_t)mg_hp_i(m, MG_K_KV_LORA), plain = r->rope_at, turned = r->dim - plain;
    const uint64_t ld = lora + turned, qw = r->heads * r->dim;
    double *c = NULL, *k = NULL;
    MG_TRY(mg_wide_need(f, MG_WIDE_LATENT, n, ld > q_lora ? ld : q_lora, &c, err));
    MG_TRY(mg_wide_need(f, MG_WIDE_KEY, n, r->heads * plain + lora, &k, err));
    if (q_lora) {
        MG_TRY(mg_wide_linear(f, m, MG_R_ATTN_Q_A, MG_ROLE_COUNT, layer, 0, x, NULL, n, hidden, c, q_lora, err));
        MG_TRY(norm_latent(f, m, MG_R_ATTN_Q_A_NORM, layer, c, n, q_lora, q_lora, err));
        MG_TRY(mg_wide_linear(f, m, MG_R_ATTN_Q_B, MG_ROLE_COUNT, layer, 0, c, NULL, n, q_lora, r->q, qw, err));
    } else {
        MG_TRY(mg_wide_linear(f, m, MG_R_ATTN_Q, MG_ROLE_COUNT, layer, 0, x, NULL, n, hidden, r->q, qw, err));
    }
    MG_TRY(mg_wide_linear(f, m, MG_R_ATTN_KV_A, MG_ROLE_COUNT, layer, 0, x, NULL, n, hidden, c, ld, err));
    MG_TRY(norm_latent(f, m, MG_R_ATTN_KV_A_NORM, layer, c, n, ld, lora, err));
    double *l = k + n * r->heads * plain; /* latents without the rotated key */
    for (uint64_t t = 0; t < n; t++) memcpy(l + t * lora, c + t * ld, lora * sizeof *l);
    MG_TRY(
        mg_wide_linear(f, m, MG_R_ATTN_V_B, MG_ROLE_COUNT, layer, 0, l, NULL, n, lora, r->v, r->heads * r->v_dim, err));
    MG_TRY(mg_wide_linear(f, m, MG_R_ATTN_K_B, MG_ROLE_COUNT, layer, 0, l, NULL, n, lora, k, r->heads * plain, err));
    for (uint64_t t = 0; t < n; t++)
        for (uint64_t h = 0; h < r->heads; h++) {
            double *to = r->k + (t * r->heads + h) * r->dim;
            memcpy(to, k + (t * r->heads + h) * plain, plain * sizeof *to);
            memcpy(to + plain, c + t * ld + lora, turned * sizeof *to);
        }
    return MG_OK;
}

static mg_status plain_qkv(mg_forward64 *f, attn_run *r, mg_model *m, uint32_t layer, uint64_t n, const double *x,
                           mg_error *err) {
    const uint64_t hidden = (uint64_t)mg_hp_i(m, MG_K_HIDDEN);
    const uint64_t qw = r->heads * r->dim, kw = r->kv_heads * r->dim, vw = r->kv_heads * r->v_dim;
    MG_TRY(mg_wide_linear(f, m, MG_R_ATTN_Q, MG_R_ATTN_Q_BIAS, layer, 0, x, NULL, n, hidden, r->q, qw, err));
    MG_TRY(mg_wide_linear(f, m, MG_R_ATTN_K, MG_R_ATTN_K_BIAS, layer, 0, x, NULL, n, hidden, r->k, kw, err));
    return mg_wide_linear(f, m, MG_R_ATTN_V, MG_R_ATTN_V_BIAS, layer, 0, x, NULL, n, hidden, r->v, vw, err);
}

/* The softmax of every query, with the sinks of its head where there are some. */
static mg_status attend(mg_forward64 *f, attn_run *r, mg_model *m, uint32_t layer, mg_error *err) {
    const mg_bound *b = mg_model_find(m, MG_R_ATTN_SINKS, layer, 0);
    float *sinks = b && b->shape[0] == r->heads ? malloc(r->heads * sizeof *sinks) : NULL;
    mg_status st = MG_OK;
    if (b) st = sinks ? mg_wide_read(f, m, b, 0, 1, sinks, err) : mg_fail_nomem(err, r->heads * sizeof *sinks);
    r->sinks = sinks;
    if (st == MG_OK) st = mg_pool_run(f->pool, r->heads * r->batch->n_seqs, attn_ticket, r, err);
    free(sinks);
    return st;
}

mg_status mg_wide_attention(mg_forward64 *f, mg_model *m, uint32_t layer, const mg_batch *b, const double *x, double *y,
                            mg_error *err) {
    const uint64_t n = b->n_tokens, hidden = (uint64_t)mg_hp_i(m, MG_K_HIDDEN);
    attn_run r = {.f = f, .batch = b, .window = m->layers[layer].window};
    r.heads = (uint64_t)mg_hp_i(m, MG_K_HEADS);
    r.kv_heads = (uint64_t)mg_hp_i(m, MG_K_KV_HEADS);
    r.dim = (uint64_t)mg_hp_i(m, MG_K_HEAD_DIM);
    r.v_dim = (uint64_t)mg_hp_i(m, MG_K_V_HEAD_DIM);
    r.interleaved = m->arch->block.rope == MG_ROPE_INTERLEAVED;
    const uint64_t qw = r.heads * r.dim, kw = r.kv_heads * r.dim, vw = r.kv_heads * r.v_dim, ow = r.heads * r.v_dim;
    MG_TRY(mg_wide_need(f, MG_WIDE_Q, n, qw, &r.q, err));
    MG_TRY(mg_wide_need(f, MG_WIDE_K, n, kw, &r.k, err));
    MG_TRY(mg_wide_need(f, MG_WIDE_V, n, vw, &r.v, err));
    MG_TRY(mg_wide_need(f, MG_WIDE_ATTN, n, ow, &r.out, err));
    const bool is_latent = mg_hp_i(m, MG_K_KV_LORA) > 0;
    r.rope_at = is_latent ? (uint64_t)mg_hp_i(m, MG_K_NOPE_DIM) : 0;
    MG_TRY(is_latent ? latent(f, &r, m, layer, n, x, err) : plain_qkv(f, &r, m, layer, n, x, err));
    const bool norm_last = m->arch->block.qk_norm == MG_QK_NORM_AFTER_ROPE;
    if (!norm_last) MG_TRY(norm_qk(&r, m, layer, n, err));
    MG_TRY(rotate_all(&r, m, layer, err));
    if (norm_last) MG_TRY(norm_qk(&r, m, layer, n, err));
    r.scale = score_scale(m, r.dim);
    r.cap = mg_hp_f(m, MG_K_ATTN_SOFTCAP);
    MG_TRY(attend(f, &r, m, layer, err));
    if (mg_model_find(m, MG_R_ATTN_GATE, layer, 0)) { /* the queries are done with */
        MG_TRY(mg_wide_need(f, MG_WIDE_Q, n, ow, &r.q, err));
        MG_TRY(mg_wide_linear(f, m, MG_R_ATTN_GATE, MG_ROLE_COUNT, layer, 0, x, NULL, n, hidden, r.q, ow, err));
        for (uint64_t i = 0; i < n * ow; i++)
            r.out[i] = mg_wide_rounded(f, r.out[i] * mg_wide_rounded(f, 1 / (1 + exp(-r.q[i]))));
    }
    return mg_wide_linear(f, m, MG_R_ATTN_O, MG_R_ATTN_O_BIAS, layer, 0, r.out, NULL, n, ow, y, hidden, err);
}
