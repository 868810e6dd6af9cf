/* forward64.c - see forward64.h. In reading order: rounding, linear, norm, attention, feed-forward, layer. */
#include "verify/router.h"
#include "verify/forward64.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/arch/arch.h"
#include "quant/math/topk.h"
#include "quant/read_f32.h"
#include "verify/forward_impl.h"

struct mg_forward64 {
    mg_pool *pool;
    uint32_t experts_per_token;
    mg_precision precision;
    double *buf[16]; /* see B_* */
    uint64_t cap[16];
};

enum { B_NORM, B_Q, B_K, B_V, B_ATTN, B_OUT, B_ROUTER, B_LATENT, B_KEY, B_COUNT };

static mg_status need(mg_forward64 *f, int which, uint64_t a, uint64_t b, double **out, mg_error *err) {
    uint64_t n;
    if (__builtin_mul_overflow(a, b, &n) || n > SIZE_MAX / sizeof(double))
        return mg_fail(err, MG_ERR_LIMIT, "too many tokens for one batch");
    if (n > f->cap[which] || !f->buf[which]) {
        free(f->buf[which]);
        f->cap[which] = 0;
        f->buf[which] = malloc((n ? n : 1) * sizeof(double));
        if (!f->buf[which]) return mg_fail_nomem(err, n * sizeof(double));
        f->cap[which] = n;
    }
    *out = f->buf[which];
    return MG_OK;
}

mg_status mg_forward64_new(mg_forward64 **out, mg_pool *pool, mg_precision precision, uint32_t experts_per_token,
                           mg_error *err) {
    mg_forward64 *f = calloc(1, sizeof *f);
    if (!f) return mg_fail_nomem(err, sizeof *f);
    mg_cpu_fp_env();
    f->pool = pool;
    f->precision = precision;
    f->experts_per_token = experts_per_token;
    *out = f;
    return MG_OK;
}

void mg_forward64_free(mg_forward64 *f) {
    if (!f) return;
    for (int i = 0; i < B_COUNT; i++) free(f->buf[i]);
    free(f);
}

/* --- precision --- */

static const char *const precisions[] = {
    [MG_PRECISION_F32] = "f32", [MG_PRECISION_F64] = "f64", [MG_PRECISION_BF16] = "bf16", [MG_PRECISION_F16] = "f16"};

mg_status mg_precision_parse(const char *word, mg_precision *out, mg_error *err) {
    *out = MG_PRECISION_F32;
    if (!word) return MG_OK;
    for (size_t i = 0; i < sizeof precisions / sizeof *precisions; i++) {
        *out = (mg_precision)i;
        if (!strcmp(word, precisions[i])) return MG_OK;
    }
    return mg_fail(err, MG_ERR_USAGE, "precision '%s': f32, f64, bf16 or f16", word);
}

const char *mg_precision_name(mg_precision p) {
    return precisions[p];
}

/* --- rounding: what an engine of 16 bits stores between two operations --- */

/* Through f32, because that is what such engines add up in. */
static double rounded(const mg_forward64 *f, double x) {
    switch (f->precision) {
    case MG_PRECISION_BF16:
        return (double)mg_bf16_to_f32(mg_f32_to_bf16((float)x));
    case MG_PRECISION_F16:
        return (double)mg_f16_to_f32(mg_f32_to_f16((float)x));
    default:
        return x;
    }
}

/* n rows of a weight, in the engine's type. */
static mg_status read_weight(const mg_forward64 *f, mg_model *m, const mg_bound *b, uint64_t row, uint64_t n, float *to,
                             mg_error *err) {
    MG_TRY(mg_read_f32(m, b, row, n, to, err));
    if (f->precision == MG_PRECISION_F64) return MG_OK;
    for (uint64_t i = 0; i < n * b->shape[b->rank - 1]; i++) to[i] = (float)rounded(f, (double)to[i]);
    return MG_OK;
}

/* --- linear: y[rows[i]] = W x[rows[i]] + b, rows NULL = all n --- */

typedef struct lin_run {
    const mg_forward64 *f;
    mg_model *m;
    const mg_bound *w;
    const float *bias;
    const double *x;
    const uint32_t *rows; /* rows of x; y is dense */
    double *y;
    uint64_t n, in, out;
} lin_run;

enum { ROWS_PER_TICKET = 16 };

static double dot(const float *w, const double *x, uint64_t n) {
    double s[8] = {0};
    uint64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; j++) s[j] += (double)w[i + (uint64_t)j] * x[i + (uint64_t)j];
    for (; i < n; i++) s[0] += (double)w[i] * x[i];
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

static mg_status lin_ticket(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    (void)worker;
    const lin_run *r = ctx;
    const uint64_t from = ticket * ROWS_PER_TICKET;
    const uint64_t take = r->out - from < ROWS_PER_TICKET ? r->out - from : ROWS_PER_TICKET;
    float *w = malloc(take * r->in * sizeof *w);
    if (!w) return mg_fail_nomem(err, take * r->in * sizeof *w);
    mg_status st = read_weight(r->f, r->m, r->w, from, take, w, err);
    for (uint64_t t = 0; st == MG_OK && t < r->n; t++) {
        const double *x = r->x + (r->rows ? r->rows[t] : t) * r->in;
        for (uint64_t j = 0; j < take; j++)
            r->y[t * r->out + from + j] =
                rounded(r->f, dot(w + j * r->in, x, r->in) + (r->bias ? (double)r->bias[from + j] : 0.0));
    }
    free(w);
    return st;
}

static mg_status linear(mg_forward64 *f, mg_model *m, mg_role role, mg_role bias, uint32_t layer, uint32_t expert,
                        const double *x, const uint32_t *rows, uint64_t n, uint64_t in, double *y, uint64_t out,
                        mg_error *err) {
    lin_run r = {.f = f, .m = m, .x = x, .rows = rows, .y = y, .n = n, .in = in, .out = out};
    r.w = role == MG_R_OUTPUT ? mg_model_find(m, role, 0, 0) : NULL;
    if (role == MG_R_OUTPUT && !r.w) role = MG_R_TOKEN_EMBD;
    if (!r.w) MG_TRY(mg_need(&r.w, m, role, layer, expert, err));
    if (mg_bound_rows(r.w) != out || r.w->shape[r.w->rank - 1] != in)
        return mg_fail(err, MG_ERR_FORMAT, "%s of layer %u is not [%llu, %llu]", mg_role_name(role), layer,
                       (unsigned long long)out, (unsigned long long)in);
    const mg_bound *b = bias == MG_ROLE_COUNT ? NULL : mg_model_find(m, bias, layer, expert);
    float *bv = NULL;
    mg_status st = MG_OK;
    if (b) {
        bv = malloc(out * sizeof *bv);
        st = bv ? read_weight(f, m, b, 0, 1, bv, err) : mg_fail_nomem(err, out * sizeof *bv);
    }
    r.bias = bv;
    if (st == MG_OK) st = mg_pool_run(f->pool, (out + ROWS_PER_TICKET - 1) / ROWS_PER_TICKET, lin_ticket, &r, err);
    free(bv);
    return st;
}

/* --- embedding and norm --- */

mg_status mg_forward64_embed(mg_forward64 *f, mg_model *m, const int32_t *ids, uint64_t n, double *x, mg_error *err) {
    const uint64_t hidden = (uint64_t)mg_hp_i(m, MG_K_HIDDEN);
    const double given = mg_hp_f(m, MG_K_EMBED_SCALE), scale = given != 0 ? given : 1.0;
    const mg_bound *b;
    MG_TRY(mg_need(&b, m, MG_R_TOKEN_EMBD, 0, 0, err));
    float *row = malloc(hidden * sizeof *row);
    mg_status st = row ? MG_OK : mg_fail_nomem(err, hidden * sizeof *row);
    for (uint64_t i = 0; st == MG_OK && i < n; i++) {
        if (ids[i] < 0 || (uint64_t)ids[i] >= mg_bound_rows(b))
            st = mg_fail(err, MG_ERR_FORMAT, "token id %d, the vocabulary has %llu", ids[i],
                         (unsigned long long)mg_bound_rows(b));
        else
            st = read_weight(f, m, b, (uint64_t)ids[i], 1, row, err);
        for (uint64_t j = 0; st == MG_OK && j < hidden; j++) x[i * hidden + j] = rounded(f, (double)row[j] * scale);
    }
    free(row);
    return st;
}

static void norm_row(const mg_forward64 *f, const double *x, const float *w, const float *bias, uint64_t n,
                     mg_norm kind, double eps, double *y) {
    double mean = 0, ss = 0;
    for (uint64_t j = 0; kind == MG_NORM_LAYER && j < n; j++) mean += x[j] / (double)n;
    for (uint64_t j = 0; j < n; j++) ss += (x[j] - mean) * (x[j] - mean);
    const double r = 1.0 / sqrt(ss / (double)n + eps);
    for (uint64_t j = 0; j < n; j++)
        y[j] = rounded(f, (x[j] - mean) * r * (double)w[j] + (bias ? (double)bias[j] : 0.0));
}

static mg_status norm(const mg_forward64 *f, mg_model *m, mg_role role, uint32_t layer, const double *x, uint64_t n,
                      double *y, mg_error *err) {
    const uint64_t hidden = (uint64_t)mg_hp_i(m, MG_K_HIDDEN);
    const mg_bound *b;
    MG_TRY(mg_need(&b, m, role, layer, 0, err));
    const mg_bound *bias = mg_model_find(m, mg_norm_bias(role), layer, 0);
    float *w = calloc(2 * hidden, sizeof *w);
    if (!w) return mg_fail_nomem(err, 2 * hidden * sizeof *w);
    mg_status st = read_weight(f, m, b, 0, 1, w, err);
    if (st == MG_OK && bias) st = read_weight(f, m, bias, 0, 1, w + hidden, err);
    for (uint64_t i = 0; st == MG_OK && i < n; i++)
        norm_row(f, x + i * hidden, w, w + hidden, hidden, m->arch->block.norm, mg_hp_f(m, MG_K_NORM_EPS),
                 y + i * hidden);
    free(w);
    return st;
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
    mg_status st = read_weight(f, m, b, 0, 1, w, err);
    for (uint64_t i = 0; st == MG_OK && i < n * width; i += span)
        norm_row(f, x + i, w, NULL, span, MG_NORM_RMS, mg_hp_f(m, MG_K_NORM_EPS), x + i);
    free(w);
    return st;
}

/* What a block gives, under its own norm and scale, onto the residual stream. */
static mg_status add_block(const mg_forward64 *f, mg_model *m, mg_role post_norm, uint32_t layer, double *y, uint64_t n,
                           double *x, mg_error *err) {
    const double given = mg_hp_f(m, MG_K_RESIDUAL_SCALE), scale = given != 0 ? given : 1.0;
    if (mg_model_find(m, post_norm, layer, 0)) MG_TRY(norm(f, m, post_norm, layer, y, n, y, err));
    for (uint64_t i = 0; i < n * (uint64_t)mg_hp_i(m, MG_K_HIDDEN); i++) x[i] = rounded(f, x[i] + scale * y[i]);
    return MG_OK;
}

/* The norm of x, or x where the family norms only what blocks give. */
static mg_status norm_input(const mg_forward64 *f, mg_model *m, mg_role role, mg_role post_norm, uint32_t layer,
                            const double *x, uint64_t n, double *y, mg_error *err) {
    if (mg_model_find(m, role, layer, 0) || !mg_model_find(m, post_norm, layer, 0))
        return norm(f, m, role, layer, x, n, y, err);
    memcpy(y, x, n * (uint64_t)mg_hp_i(m, MG_K_HIDDEN) * sizeof *y);
    return MG_OK;
}

mg_status mg_forward64_final_norm(mg_forward64 *f, mg_model *m, const double *x, uint64_t n, double *y, mg_error *err) {
    return norm(f, m, MG_R_OUTPUT_NORM, 0, x, n, y, err);
}

mg_status mg_forward64_logits(mg_forward64 *f, mg_model *m, const double *x, uint64_t n, double *logits,
                              mg_error *err) {
    const uint64_t hidden = (uint64_t)mg_hp_i(m, MG_K_HIDDEN);
    double *y = NULL;
    MG_TRY(need(f, B_NORM, n, hidden, &y, err));
    MG_TRY(mg_forward64_final_norm(f, m, x, n, y, err));
    const mg_bound *w = mg_model_find(m, MG_R_OUTPUT, 0, 0);
    if (!w) MG_TRY(mg_need(&w, m, MG_R_TOKEN_EMBD, 0, 0, err));
    const uint64_t vocab = mg_bound_rows(w);
    MG_TRY(linear(f, m, MG_R_OUTPUT, MG_R_OUTPUT_BIAS, 0, 0, y, NULL, n, hidden, logits, vocab, err));
    const double divisor = mg_hp_f(m, MG_K_LOGIT_SCALE), cap = mg_hp_f(m, MG_K_FINAL_SOFTCAP);
    for (uint64_t i = 0; i < n * vocab; i++) {
        if (divisor != 0) logits[i] = rounded(f, logits[i] / divisor);
        if (cap != 0) logits[i] = rounded(f, cap * tanh(logits[i] / cap));
    }
    return MG_OK;
}

/* --- attention --- */

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
        const double c = rounded(r->f, cos(angle) * r->factor), s = rounded(r->f, sin(angle) * r->factor);
        const uint64_t ia = r->interleaved ? 2 * i : i, ib = r->interleaved ? 2 * i + 1 : i + r->half;
        for (uint64_t h = 0; h < heads; h++) {
            double *p = x + h * r->dim + r->rope_at, a = p[ia], b = p[ib];
            p[ia] = rounded(r->f, a * c - b * s);
            p[ib] = rounded(r->f, a * s + b * c);
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
            const double p = rounded(r->f, e[j] / sum);
            for (uint64_t d = 0; d < r->v_dim; d++) o[d] += p * v[d];
        }
        for (uint64_t d = 0; d < r->v_dim; d++) o[d] = rounded(r->f, o[d]);
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
    mg_status st = b->rank == 1 && b->shape[0] == n ? read_weight(f, m, b, 0, 1, w, err)
                                                    : mg_fail(err, MG_ERR_FORMAT, "a latent's norm has another size");
    for (uint64_t t = 0; st == MG_OK && t < rows; t++) {
        double ss = 0;
        for (uint64_t j = 0; j < n; j++) ss += x[t * ld + j] * x[t * ld + j];
        const double k = 1.0 / sqrt(ss / (double)n + m->arch->block.latent_eps);
        for (uint64_t j = 0; j < n; j++) x[t * ld + j] = rounded(f, x[t * ld + j] * k * (double)w[j]);
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
    MG_TRY(need(f, B_LATENT, n, ld > q_lora ? ld : q_lora, &c, err));
    MG_TRY(need(f, B_KEY, n, r->heads * plain + lora, &k, err));
    if (q_lora) {
        MG_TRY(linear(f, m, MG_R_ATTN_Q_A, MG_ROLE_COUNT, layer, 0, x, NULL, n, hidden, c, q_lora, err));
        MG_TRY(norm_latent(f, m, MG_R_ATTN_Q_A_NORM, layer, c, n, q_lora, q_lora, err));
        MG_TRY(linear(f, m, MG_R_ATTN_Q_B, MG_ROLE_COUNT, layer, 0, c, NULL, n, q_lora, r->q, qw, err));
    } else {
        MG_TRY(linear(f, m, MG_R_ATTN_Q, MG_ROLE_COUNT, layer, 0, x, NULL, n, hidden, r->q, qw, err));
    }
    MG_TRY(linear(f, m, MG_R_ATTN_KV_A, MG_ROLE_COUNT, layer, 0, x, NULL, n, hidden, c, ld, err));
    MG_TRY(norm_latent(f, m, MG_R_ATTN_KV_A_NORM, layer, c, n, ld, lora, err));
    double *l = k + n * r->heads * plain; /* latents without the rotated key */
    for (uint64_t t = 0; t < n; t++) memcpy(l + t * lora, c + t * ld, lora * sizeof *l);
    MG_TRY(linear(f, m, MG_R_ATTN_V_B, MG_ROLE_COUNT, layer, 0, l, NULL, n, lora, r->v, r->heads * r->v_dim, err));
    MG_TRY(linear(f, m, MG_R_ATTN_K_B, MG_ROLE_COUNT, layer, 0, l, NULL, n, lora, k, r->heads * plain, err));
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
    MG_TRY(linear(f, m, MG_R_ATTN_Q, MG_R_ATTN_Q_BIAS, layer, 0, x, NULL, n, hidden, r->q, qw, err));
    MG_TRY(linear(f, m, MG_R_ATTN_K, MG_R_ATTN_K_BIAS, layer, 0, x, NULL, n, hidden, r->k, kw, err));
    return linear(f, m, MG_R_ATTN_V, MG_R_ATTN_V_BIAS, layer, 0, x, NULL, n, hidden, r->v, vw, err);
}

/* The softmax of every query, with the sinks of its head where there are some. */
static mg_status attend(mg_forward64 *f, attn_run *r, mg_model *m, uint32_t layer, mg_error *err) {
    const mg_bound *b = mg_model_find(m, MG_R_ATTN_SINKS, layer, 0);
    float *sinks = b && b->shape[0] == r->heads ? malloc(r->heads * sizeof *sinks) : NULL;
    mg_status st = MG_OK;
    if (b) st = sinks ? read_weight(f, m, b, 0, 1, sinks, err) : mg_fail_nomem(err, r->heads * sizeof *sinks);
    r->sinks = sinks;
    if (st == MG_OK) st = mg_pool_run(f->pool, r->heads * r->batch->n_seqs, attn_ticket, r, err);
    free(sinks);
    return st;
}

static mg_status attention(mg_forward64 *f, mg_model *m, uint32_t layer, const mg_batch *b, const double *x, double *y,
                           mg_error *err) {
    const uint64_t n = b->n_tokens, hidden = (uint64_t)mg_hp_i(m, MG_K_HIDDEN);
    attn_run r = {.f = f, .batch = b, .window = m->layers[layer].window};
    r.heads = (uint64_t)mg_hp_i(m, MG_K_HEADS);
    r.kv_heads = (uint64_t)mg_hp_i(m, MG_K_KV_HEADS);
    r.dim = (uint64_t)mg_hp_i(m, MG_K_HEAD_DIM);
    r.v_dim = (uint64_t)mg_hp_i(m, MG_K_V_HEAD_DIM);
    r.interleaved = m->arch->block.rope == MG_ROPE_INTERLEAVED;
    const uint64_t qw = r.heads * r.dim, kw = r.kv_heads * r.dim, vw = r.kv_heads * r.v_dim, ow = r.heads * r.v_dim;
    MG_TRY(need(f, B_Q, n, qw, &r.q, err));
    MG_TRY(need(f, B_K, n, kw, &r.k, err));
    MG_TRY(need(f, B_V, n, vw, &r.v, err));
    MG_TRY(need(f, B_ATTN, n, ow, &r.out, err));
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
    return linear(f, m, MG_R_ATTN_O, MG_R_ATTN_O_BIAS, layer, 0, r.out, NULL, n, ow, y, hidden, err);
}

/* --- feed-forward --- */

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
    if (m->arch->block.gating == MG_GATING_ACT) return rounded(f, act((mg_act)mg_hp_i(m, MG_K_ACT), gate)) * up;
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
    MG_TRY(need(f, B_Q, n, ffn, &gate, err));
    MG_TRY(need(f, B_K, n, ffn, &up, err));
    MG_TRY(linear(f, m, w->gate, w->gate_bias, layer, expert, x, rows, n, hidden, gate, ffn, err));
    MG_TRY(linear(f, m, w->up, w->up_bias, layer, expert, x, rows, n, hidden, up, ffn, err));
    for (uint64_t i = 0; i < n * ffn; i++) gate[i] = rounded(f, gate_value(f, m, gate[i], up[i]));
    return linear(f, m, w->down, w->down_bias, layer, expert, gate, NULL, n, ffn, y, hidden, err);
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
        MG_TRY(need(f, B_V, have, hidden, &o, err));
        MG_TRY(gated(f, m, &expert_roles, layer, src, x, rows, have, o, err));
        MG_TRY(need(f, B_Q, have, hidden, &message, err));
        MG_TRY(linear(f, m, MG_R_EXCHANGE, MG_ROLE_COUNT, layer, e, o, NULL, have, hidden, message, hidden, err));
        for (uint64_t i = 0; i < have; i++)
            for (uint64_t j = 0; j < hidden; j++)
                y[rows[i] * hidden + j] += rounded(f, weight[rows[i] * experts + dst] *
                                                          mg_hp_f(m, MG_K_EXCHANGE_SCALE) * message[i * hidden + j]);
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
        MG_TRY(need(f, B_V, have, hidden, &o, err));
        MG_TRY(gated(f, m, &expert_roles, layer, e, x, rows, have, o, err));
        for (uint64_t i = 0; i < have; i++)
            for (uint64_t j = 0; j < hidden; j++)
                y[rows[i] * hidden + j] += rounded(f, weight[rows[i] * experts + e] * o[i * hidden + j]);
    }
    return exchange(f, m, layer, x, n, weight, rows, y, err);
}

/* y += the shared expert, weighted by the sigmoid of its own router when there is one. */
static mg_status shared_expert(mg_forward64 *f, mg_model *m, uint32_t layer, const double *x, uint64_t n, double *y,
                               mg_error *err) {
    const uint64_t hidden = (uint64_t)mg_hp_i(m, MG_K_HIDDEN);
    double *o = NULL, *gate = NULL;
    if (!mg_model_find(m, MG_R_SHARED_GATE, layer, 0)) return MG_OK;
    MG_TRY(need(f, B_V, n, hidden, &o, err));
    MG_TRY(gated(f, m, &shared_roles, layer, 0, x, NULL, n, o, err));
    const bool weighted = mg_model_find(m, MG_R_SHARED_ROUTER, layer, 0) != NULL;
    if (weighted) {
        MG_TRY(need(f, B_K, n, 1, &gate, err));
        MG_TRY(linear(f, m, MG_R_SHARED_ROUTER, MG_ROLE_COUNT, layer, 0, x, NULL, n, hidden, gate, 1, err));
    }
    for (uint64_t t = 0; t < n; t++) {
        const double g = weighted ? 1.0 / (1.0 + exp(-gate[t])) : 1.0;
        for (uint64_t j = 0; j < hidden; j++) y[t * hidden + j] += rounded(f, g * o[t * hidden + j]);
    }
    return MG_OK;
}

static mg_status moe(mg_forward64 *f, mg_model *m, uint32_t layer, const double *x, uint64_t n, double *y,
                     const double **router, mg_error *err) {
    const uint64_t hidden = (uint64_t)mg_hp_i(m, MG_K_HIDDEN), experts = (uint64_t)mg_hp_i(m, MG_K_EXPERTS);
    double *logits = NULL;
    MG_TRY(need(f, B_ROUTER, n, experts, &logits, err));
    MG_TRY(linear(f, m, MG_R_ROUTER, MG_R_ROUTER_BIAS, layer, 0, x, NULL, n, hidden, logits, experts, err));
    if (router) *router = logits;
    double *weight = malloc(n * experts * sizeof *weight);
    uint32_t *rows = malloc(n * sizeof *rows);
    mg_status st = weight && rows ? MG_OK : mg_fail_nomem(err, n * experts * sizeof *weight);
    if (st == MG_OK) st = experts_of(f, m, layer, x, n, weight, rows, logits, y, err);
    free(weight);
    free(rows);
    return st == MG_OK ? shared_expert(f, m, layer, x, n, y, err) : st;
}

/* --- layer --- */

mg_status mg_forward64_layer(mg_forward64 *f, mg_model *m, uint32_t layer, const mg_batch *batch, double *x,
                             const double **router, mg_error *err) {
    const uint64_t n = batch->n_tokens, hidden = (uint64_t)mg_hp_i(m, MG_K_HIDDEN);
    if (router) *router = NULL;
    MG_TRY(mg_forward_check(m, err));
    if (n == 0) return MG_OK;
    double *normed = NULL, *y = NULL;
    MG_TRY(need(f, B_NORM, n, hidden, &normed, err));
    MG_TRY(need(f, B_OUT, n, hidden, &y, err));
    MG_TRY(norm_input(f, m, MG_R_ATTN_NORM, MG_R_ATTN_POST_NORM, layer, x, n, normed, err));
    MG_TRY(attention(f, m, layer, batch, normed, y, err));
    MG_TRY(add_block(f, m, MG_R_ATTN_POST_NORM, layer, y, n, x, err));
    MG_TRY(norm_input(f, m, MG_R_FFN_NORM, MG_R_FFN_POST_NORM, layer, x, n, normed, err));
    MG_TRY(m->layers[layer].moe ? moe(f, m, layer, normed, n, y, router, err)
                                : gated(f, m, &dense_roles, layer, 0, normed, NULL, n, y, err));
    return add_block(f, m, MG_R_FFN_POST_NORM, layer, y, n, x, err);
}

/* One tap of doubles, as f32. */
static mg_status fire(mg_tap_fn tap, void *ctx, mg_tap_point point, uint32_t layer, uint64_t rows, uint64_t cols,
                      const double *x, mg_error *err) {
    if (!tap || !x) return MG_OK;
    float *narrow = malloc((rows * cols + 1) * sizeof *narrow);
    if (!narrow) return mg_fail_nomem(err, rows * cols * sizeof *narrow);
    for (uint64_t i = 0; i < rows * cols; i++) narrow[i] = (float)x[i];
    const mg_tap t = {.point = point, .layer = layer, .rows = rows, .cols = cols, .data = narrow};
    mg_status st = tap(ctx, &t, err);
    free(narrow);
    return st;
}

mg_status mg_forward64_run(mg_forward64 *f, mg_model *m, const mg_batch *batch, const int32_t *ids, double *x,
                           mg_tap_fn tap, void *tap_ctx, mg_error *err) {
    const uint64_t n = batch->n_tokens, hidden = (uint64_t)mg_hp_i(m, MG_K_HIDDEN);
    MG_TRY(mg_forward64_embed(f, m, ids, n, x, err));
    for (uint32_t l = 0; l < (uint32_t)mg_hp_i(m, MG_K_LAYERS); l++) {
        const double *router;
        MG_TRY(mg_forward64_layer(f, m, l, batch, x, &router, err));
        MG_TRY(fire(tap, tap_ctx, MG_TAP_ROUTER_LOGITS, l, n, (uint64_t)mg_hp_i(m, MG_K_EXPERTS), router, err));
        MG_TRY(fire(tap, tap_ctx, MG_TAP_LAYER_OUT, l, n, hidden, x, err));
    }
    return MG_OK;
}
