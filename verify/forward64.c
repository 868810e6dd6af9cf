/* forward64.c - see forward64.h: linear, norm, logits, and the order of a layer. Attention: wide_attention.c, blocks
 * and experts: wide_ffn.c. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "verify/wide_impl.h"

mg_status mg_wide_need(mg_forward64 *f, int which, uint64_t a, uint64_t b, double **out, mg_error *err) {
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
    for (int i = 0; i < MG_WIDE_BUFFERS; i++) free(f->buf[i]);
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

mg_status mg_wide_read(const mg_forward64 *f, mg_model *m, const mg_bound *b, uint64_t row, uint64_t n, float *to,
                       mg_error *err) {
    MG_TRY(mg_read_f32(m, b, row, n, to, err));
    if (f->precision == MG_PRECISION_F64) return MG_OK;
    for (uint64_t i = 0; i < n * b->shape[b->rank - 1]; i++) to[i] = (float)mg_wide_rounded(f, (double)to[i]);
    return MG_OK;
}

/* --- linear --- */

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
    mg_status st = mg_wide_read(r->f, r->m, r->w, from, take, w, err);
    for (uint64_t t = 0; st == MG_OK && t < r->n; t++) {
        const double *x = r->x + (r->rows ? r->rows[t] : t) * r->in;
        for (uint64_t j = 0; j < take; j++)
            r->y[t * r->out + from + j] =
                mg_wide_rounded(r->f, dot(w + j * r->in, x, r->in) + (r->bias ? (double)r->bias[from + j] : 0.0));
    }
    free(w);
    return st;
}

mg_status mg_wide_linear(mg_forward64 *f, mg_model *m, mg_role role, mg_role bias, uint32_t layer, uint32_t expert,
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
        st = bv ? mg_wide_read(f, m, b, 0, 1, bv, err) : mg_fail_nomem(err, out * sizeof *bv);
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
            st = mg_wide_read(f, m, b, (uint64_t)ids[i], 1, row, err);
        for (uint64_t j = 0; st == MG_OK && j < hidden; j++)
            x[i * hidden + j] = mg_wide_rounded(f, (double)row[j] * scale);
    }
    free(row);
    return st;
}

void mg_wide_norm_row(const mg_forward64 *f, const double *x, const float *w, const float *bias, uint64_t n,
                      mg_norm kind, double eps, double *y) {
    double mean = 0, ss = 0;
    for (uint64_t j = 0; kind == MG_NORM_LAYER && j < n; j++) mean += x[j] / (double)n;
    for (uint64_t j = 0; j < n; j++) ss += (x[j] - mean) * (x[j] - mean);
    const double r = 1.0 / sqrt(ss / (double)n + eps);
    for (uint64_t j = 0; j < n; j++)
        y[j] = mg_wide_rounded(f, (x[j] - mean) * r * (double)w[j] + (bias ? (double)bias[j] : 0.0));
}

static mg_status norm(const mg_forward64 *f, mg_model *m, mg_role role, uint32_t layer, const double *x, uint64_t n,
                      double *y, mg_error *err) {
    const uint64_t hidden = (uint64_t)mg_hp_i(m, MG_K_HIDDEN);
    const mg_bound *b;
    MG_TRY(mg_need(&b, m, role, layer, 0, err));
    const mg_bound *bias = mg_model_find(m, mg_norm_bias(role), layer, 0);
    float *w = calloc(2 * hidden, sizeof *w);
    if (!w) return mg_fail_nomem(err, 2 * hidden * sizeof *w);
    mg_status st = mg_wide_read(f, m, b, 0, 1, w, err);
    if (st == MG_OK && bias) st = mg_wide_read(f, m, bias, 0, 1, w + hidden, err);
    for (uint64_t i = 0; st == MG_OK && i < n; i++)
        mg_wide_norm_row(f, x + i * hidden, w, w + hidden, hidden, m->arch->block.norm, mg_hp_f(m, MG_K_NORM_EPS),
                         y + i * hidden);
    free(w);
    return st;
}

/* What a block gives, under its own norm and scale, onto the residual stream. */
static mg_status add_block(const mg_forward64 *f, mg_model *m, mg_role post_norm, uint32_t layer, double *y, uint64_t n,
                           double *x, mg_error *err) {
    const double given = mg_hp_f(m, MG_K_RESIDUAL_SCALE), scale = given != 0 ? given : 1.0;
    if (mg_model_find(m, post_norm, layer, 0)) MG_TRY(norm(f, m, post_norm, layer, y, n, y, err));
    for (uint64_t i = 0; i < n * (uint64_t)mg_hp_i(m, MG_K_HIDDEN); i++) x[i] = mg_wide_rounded(f, x[i] + scale * y[i]);
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
    MG_TRY(mg_wide_need(f, MG_WIDE_NORM, n, hidden, &y, err));
    MG_TRY(mg_forward64_final_norm(f, m, x, n, y, err));
    const mg_bound *w = mg_model_find(m, MG_R_OUTPUT, 0, 0);
    if (!w) MG_TRY(mg_need(&w, m, MG_R_TOKEN_EMBD, 0, 0, err));
    const uint64_t vocab = mg_bound_rows(w);
    MG_TRY(mg_wide_linear(f, m, MG_R_OUTPUT, MG_R_OUTPUT_BIAS, 0, 0, y, NULL, n, hidden, logits, vocab, err));
    const double divisor = mg_hp_f(m, MG_K_LOGIT_SCALE), cap = mg_hp_f(m, MG_K_FINAL_SOFTCAP);
    for (uint64_t i = 0; i < n * vocab; i++) {
        if (divisor != 0) logits[i] = mg_wide_rounded(f, logits[i] / divisor);
        if (cap != 0) logits[i] = mg_wide_rounded(f, cap * tanh(logits[i] / cap));
    }
    return MG_OK;
}

/* --- layer --- */

mg_status mg_forward64_layer(mg_forward64 *f, mg_model *m, uint32_t layer, const mg_batch *batch, double *x,
                             const double **router, mg_error *err) {
    const uint64_t n = batch->n_tokens, hidden = (uint64_t)mg_hp_i(m, MG_K_HIDDEN);
    if (router) *router = NULL;
    MG_TRY(mg_forward_check(m, err));
    if (n == 0) return MG_OK;
    double *normed = NULL, *y = NULL;
    MG_TRY(mg_wide_need(f, MG_WIDE_NORM, n, hidden, &normed, err));
    MG_TRY(mg_wide_need(f, MG_WIDE_OUT, n, hidden, &y, err));
    MG_TRY(norm_input(f, m, MG_R_ATTN_NORM, MG_R_ATTN_POST_NORM, layer, x, n, normed, err));
    MG_TRY(mg_wide_attention(f, m, layer, batch, normed, y, err));
    MG_TRY(add_block(f, m, MG_R_ATTN_POST_NORM, layer, y, n, x, err));
    MG_TRY(norm_input(f, m, MG_R_FFN_NORM, MG_R_FFN_POST_NORM, layer, x, n, normed, err));
    MG_TRY(m->layers[layer].moe ? mg_wide_moe(f, m, layer, normed, n, y, router, err)
                                : mg_wide_dense(f, m, layer, normed, n, y, err));
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
