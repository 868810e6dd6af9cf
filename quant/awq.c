/* awq.c - the search for scales; limits are in awq_limits.c. Tickets are a few rows of one weight: they are read once
 * and tried under every candidate, each ticket leaves its losses, and these are added in order. */
#include "quant/awq.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quant/math/f64.h"
#include "quant/math/gemm.h"
#include "quant/read_f32.h"

enum {
    STEPS = 10,                     /* of the ratio, from 0 to 1 */
    CANDIDATES = 1 + 2 * STEPS + 1, /* identity; x^r but r = 0, which is it; x^r / w^(1-r) */
    FINAL = 4,                      /* judged by the whole Gram matrix */
    ROWS = 48,                      /* of a ticket */
};
#define CLOSE 1.1 /* a second candidate whose loss is within this of the best is judged exactly as well */

typedef struct search {
    const mg_awq_group *g;
    const mg_group_scheme *scheme;
    uint64_t *first; /* [n_uses + 1] ticket of each weight's first rows */
    double *x, *w;   /* [cols] of the channels */
    float *scale;    /* [CANDIDATES][cols] */
    uint32_t tried[CANDIDATES], n_tried;
    double *loss;   /* [tickets][n_tried] */
    double *w_part; /* [tickets][cols] */
} search;

/* Rows of the ticket, in *w (the caller's to free). */
static mg_status tile_of(const search *s, uint64_t ticket, uint32_t *use, uint64_t *rows, float **w, mg_error *err) {
    uint32_t u = 0;
    while (s->first[u + 1] <= ticket) u++;
    const mg_awq_use *x = &s->g->uses[u];
    const uint64_t row = (ticket - s->first[u]) * ROWS, left = mg_bound_rows(x->bound) - row;
    *use = u;
    *rows = left < ROWS ? left : ROWS;
    *w = malloc((size_t)(*rows * s->g->cols) * sizeof **w);
    if (!*w) return mg_fail_nomem(err, *rows * s->g->cols * sizeof **w);
    return mg_read_f32(x->model, x->bound, row, *rows, *w, err);
}

static uint64_t group_of(const mg_group_scheme *s, uint64_t cols) {
    return s->group_size && s->group_size < cols ? s->group_size : cols;
}

/* What an error in column k costs, others aside. */
static float cost_of(const mg_awq_use *u, uint64_t k) {
    return u->pivot ? u->pivot[k] : mg_gram_at(u->gram, k, k);
}

/* ---- how large weights are in their groups ---- */

static mg_status weight_ticket(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    (void)worker;
    search *s = ctx;
    const uint64_t cols = s->g->cols, size = group_of(s->scheme, cols);
    uint32_t use;
    uint64_t rows;
    float *w = NULL;
    mg_status st = tile_of(s, ticket, &use, &rows, &w, err);
    double *sum = s->w_part + ticket * cols;
    for (uint64_t k = 0; k < cols; k++) sum[k] = 0;
    for (uint64_t r = 0; st == MG_OK && r < rows; r++)
        for (uint64_t at = 0; at < cols; at += size) {
            const uint64_t n = cols - at < size ? cols - at : size;
            const float *x = w + r * cols + at;
            float lo, hi;
            st = mg_group_range(x, n, &lo, &hi, err);
            if (st != MG_OK) break;
            const float most = (-lo > hi ? -lo : hi) + 1e-6f;
            for (uint64_t k = 0; k < n; k++) sum[at + k] += (double)(fabsf(x[k]) / most);
        }
    free(w);
    if (st != MG_OK) mg_error_at(err, NULL, mg_model_tensor(s->g->uses[use].model, s->g->uses[use].bound)->name);
    return st;
}

/* x and w of the columns; tied columns get one value. */
static mg_status statistics(search *s, mg_pool *pool, mg_error *err) {
    const uint64_t cols = s->g->cols, tickets = s->first[s->g->n_uses];
    s->w_part = malloc((size_t)(tickets * cols) * sizeof *s->w_part);
    if (!s->w_part) return mg_fail_nomem(err, tickets * cols * sizeof *s->w_part);
    MG_TRY(mg_pool_run(pool, tickets, weight_ticket, s, err));
    double floor = 0;
    for (uint64_t k = 0; k < cols; k++) {
        const uint64_t to = s->g->tie ? s->g->tie[k] : k;
        for (uint64_t t = 0; t < tickets; t++) s->w[to] += s->w_part[t * cols + k];
        for (uint32_t u = 0; u < s->g->n_uses; u++) {
            s->x[to] += (double)cost_of(&s->g->uses[u], k);
        }
    }
    for (uint64_t k = 0; k < cols; k++) {
        s->x[k] = sqrt(s->x[k]);
        floor += s->x[k] / (double)cols;
    }
    floor = floor > 0 ? 1e-4 * floor : 1; /* channels that are silent in this text still get a scale */
    for (uint64_t k = 0; k < cols; k++) s->x[k] = s->x[k] > floor ? s->x[k] : floor;
    double most = 0; /* only the ratios matter */
    for (uint64_t k = 0; k < cols; k++) most = s->w[k] > most ? s->w[k] : most;
    for (uint64_t k = 0; k < cols; k++) s->w[k] = most > 0 ? s->w[k] / most + 1e-4 : 1;
    return MG_OK;
}

/* ---- candidates ---- */

/* s such that absorbed / s is a BF16: 8 bits, which an F16 holds as well. */
static float snap(float s, float absorbed) {
    const float q = mg_bf16_to_f32(mg_f32_to_bf16(absorbed / s));
    const float exact = absorbed / q;
    return q != 0.0f && isfinite(exact) && exact > 0.0f ? exact : 1.0f;
}

static void candidate(const search *s, double ratio, bool by_weight, float *out) {
    const uint64_t cols = s->g->cols;
    double lo = INFINITY, hi = 0;
    for (uint64_t k = 0; k < cols; k++) {
        const uint64_t from = s->g->tie ? s->g->tie[k] : k;
        double v = mg_f64_pow(s->x[from], ratio);
        if (by_weight) v /= mg_f64_pow(s->w[from], 1 - ratio);
        lo = v < lo ? v : lo;
        hi = v > hi ? v : hi;
        out[k] = (float)v;
    }
    const float middle = (float)sqrt(lo * hi);
    for (uint64_t k = 0; k < cols; k++) {
        float v = out[k] / middle;
        v = v > 1e-4f && v < 1e4f ? v : 1.0f;
        out[k] = s->g->absorbs ? snap(v, s->g->absorbs[k]) : v;
    }
}

/* Number of a candidate to its formula. */
static bool formula(uint32_t c, double *ratio) {
    *ratio = (double)(c <= STEPS ? c : c - STEPS - 1) / STEPS;
    return c > STEPS;
}

static mg_status candidate_ticket(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    (void)worker;
    (void)err;
    const search *s = ctx;
    double ratio;
    const bool by_weight = formula((uint32_t)ticket + 1, &ratio);
    candidate(s, ratio, by_weight, s->scale + (ticket + 1) * s->g->cols);
    return MG_OK;
}

/* ---- losses ---- */

/* Calls fn for each row and group of rows [rows][cols] of w times scale, which are in x: n of them, at column `at`. */
typedef void (*group_fn)(void *ctx, uint64_t at, uint64_t n, float *x, const mg_group_step *step);
static mg_status each_group(const search *s, const float *w, uint64_t rows, const float *scale, float *x, group_fn fn,
                            void *ctx, mg_error *err) {
    const uint64_t cols = s->g->cols, size = group_of(s->scheme, cols);
    memcpy(x, w, (size_t)(rows * cols) * sizeof *x);
    for (uint64_t r = 0; r < rows; r++) {
        mg_math_get()->mul(x + r * cols, scale, cols);
        for (uint64_t at = 0; at < cols; at += size) {
            const uint64_t n = cols - at < size ? cols - at : size;
            float *part = x + r * cols + at, lo, hi;
            mg_group_params p;
            MG_TRY(mg_group_range(part, n, &lo, &hi, err));
            MG_TRY(mg_group_choose(s->scheme, lo, hi, &p, err));
            const mg_group_step step = mg_group_step_of(s->scheme, &p);
            fn(ctx, at, n, part, &step);
        }
    }
    return MG_OK;
}

/* each_group for candidate number c of those tried. One that makes scales too large for their type cannot win (*fits
 * false); number 0, plain rounding, has to fit. */
static mg_status try_groups(const search *s, uint32_t c, const float *w, uint64_t rows, float *x, group_fn fn,
                            void *ctx, bool *fits, mg_error *err) {
    mg_error why = {0};
    const mg_status st = each_group(s, w, rows, s->scale + s->tried[c] * s->g->cols, x, fn, ctx, &why);
    *fits = st != MG_ERR_UNSUPPORTED || c == 0;
    if (st != MG_OK && *fits && err) *err = why;
    return *fits ? st : MG_OK;
}

typedef struct diagonal {
    const float *weight; /* [cols] what an error of the scaled weight costs */
    double loss;
} diagonal;

static void add_cost(void *ctx, uint64_t at, uint64_t n, float *x, const mg_group_step *step) {
    diagonal *d = ctx;
    d->loss += mg_group_kernels_get()->cost(step, x, d->weight + at, n);
}

static mg_status diagonal_losses(const search *s, const mg_awq_use *u, const float *w, uint64_t rows, double *loss,
                                 mg_error *err) {
    const uint64_t cols = s->g->cols;
    float *x = malloc((size_t)((rows + 1) * cols) * sizeof *x);
    if (!x) return mg_fail_nomem(err, (rows + 1) * cols * sizeof *x);
    float *weight = x + rows * cols;
    mg_status st = MG_OK;
    for (uint32_t c = 0; st == MG_OK && c < s->n_tried; c++) {
        const float *scale = s->scale + s->tried[c] * cols;
        for (uint64_t k = 0; k < cols; k++) weight[k] = cost_of(u, k) / (scale[k] * scale[k]);
        diagonal d = {.weight = weight};
        bool fits;
        st = try_groups(s, c, w, rows, x, add_cost, &d, &fits, err);
        loss[c] = fits ? d.loss : INFINITY;
    }
    free(x);
    return st;
}

enum { LANES = 16, STRIP = 4 /* panels of G at a time */ };

/* sum over i of a[i] b[i], in 16 lanes by index. */
static double dot(const float *a, const float *b, uint64_t n) {
    float lane[LANES] = {0};
    uint64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) lane[j] += a[i + (uint64_t)j] * b[i + (uint64_t)j];
    for (int j = 0; i < n; i++, j++) lane[j] += a[i] * b[i];
    double sum = 0;
    for (int j = 0; j < LANES; j++) sum += (double)lane[j];
    return sum;
}

/* tr(E G E^T) of rows: E G by the products of the forward pass, a strip of columns at a time. G is symmetric: what lies
 * above a strip's own block counts twice, what lies below not at all. */
static double trace(const mg_gram *g, const float *e, uint64_t rows, float *packed, float *y) {
    const mg_math *math = mg_math_get();
    const uint64_t cols = g->d, width = STRIP * MG_GEMM_NR;
    double above = 0, own = 0;
    for (uint64_t t = 0; t * math->mr < rows; t++) mg_gemm_pack_x(math, packed, t, e, cols, NULL, rows, cols);
    for (uint64_t at = 0; at < cols; at += width) {
        const uint64_t n = cols - at < width ? cols - at : width, panels = (n + MG_GEMM_NR - 1) / MG_GEMM_NR;
        for (int block = at ? 0 : 1; block < 2; block++) {
            mg_gram_times(g, packed, rows, block ? at : 0, block ? at + n : at, at / MG_GEMM_NR, panels, y, width);
            for (uint64_t r = 0; r < rows; r++) *(block ? &own : &above) += dot(y + r * width, e + r * cols + at, n);
        }
    }
    return 2 * above + own;
}

static void take_error(void *ctx, uint64_t at, uint64_t n, float *x, const mg_group_step *step) {
    (void)ctx, (void)at;
    mg_group_kernels_get()->error(step, x, n, x);
}

static mg_status whole_losses(const search *s, const mg_awq_use *u, const float *w, uint64_t rows, double *loss,
                              mg_error *err) {
    const uint64_t cols = s->g->cols;
    const uint64_t floats = (rows + 1) * cols + (ROWS + MG_GEMM_MAX_MR) * cols + ROWS * STRIP * MG_GEMM_NR;
    float *e = malloc((size_t)floats * sizeof *e);
    if (!e) return mg_fail_nomem(err, floats * sizeof *e);
    float *back = e + rows * cols, *packed = back + cols, *y = packed + (ROWS + MG_GEMM_MAX_MR) * cols;
    mg_status st = MG_OK;
    for (uint32_t c = 0; st == MG_OK && c < s->n_tried; c++) {
        const float *scale = s->scale + s->tried[c] * cols;
        bool fits;
        st = try_groups(s, c, w, rows, e, take_error, NULL, &fits, err);
        loss[c] = INFINITY;
        if (st != MG_OK || !fits) continue;
        for (uint64_t k = 0; k < cols; k++) back[k] = 1.0f / scale[k];
        for (uint64_t r = 0; r < rows; r++) mg_math_get()->mul(e + r * cols, back, cols);
        loss[c] = trace(u->gram, e, rows, packed, y);
    }
    free(e);
    return st;
}

static mg_status loss_ticket(const search *s, uint64_t ticket, bool whole, mg_error *err) {
    uint32_t use;
    uint64_t rows;
    float *w = NULL;
    mg_status st = tile_of(s, ticket, &use, &rows, &w, err);
    double *loss = s->loss + ticket * s->n_tried;
    if (st == MG_OK) st = (whole ? whole_losses : diagonal_losses)(s, &s->g->uses[use], w, rows, loss, err);
    free(w);
    if (st != MG_OK) mg_error_at(err, NULL, mg_model_tensor(s->g->uses[use].model, s->g->uses[use].bound)->name);
    return st;
}

static mg_status diagonal_ticket(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    (void)worker;
    return loss_ticket(ctx, ticket, false, err);
}

static mg_status whole_ticket(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    (void)worker;
    return loss_ticket(ctx, ticket, true, err);
}

/* Losses of the candidates in s->tried, summed over all tickets. */
static mg_status judge(search *s, mg_pool *pool, mg_pool_fn fn, double *loss, mg_error *err) {
    const uint64_t tickets = s->first[s->g->n_uses];
    MG_TRY(mg_pool_run(pool, tickets, fn, s, err));
    for (uint32_t c = 0; c < s->n_tried; c++) {
        loss[c] = 0;
        for (uint64_t t = 0; t < tickets; t++) loss[c] += s->loss[t * s->n_tried + c];
    }
    return MG_OK;
}

/* Keep identity and the best of the others for the last round. */
static void shortlist(search *s, const double *loss) {
    uint32_t best[FINAL] = {0}, n = 1;
    bool taken[CANDIDATES] = {true};
    while (n < FINAL) {
        uint32_t b = 0;
        for (uint32_t c = 1; c < CANDIDATES; c++)
            if (!taken[c] && isfinite(loss[c]) && (b == 0 || loss[c] < loss[b])) b = c;
        if (b == 0) break;
        taken[b] = true;
        best[n++] = b;
    }
    memcpy(s->tried, best, n * sizeof *best);
    s->n_tried = n;
}

/* The better of the last candidates, s->tried[0] (plain rounding) and the two with the least loss, by what they do
 * further on. None is taken that is worse than plain rounding by either loss. */
static mg_status judge_exactly(const search *s, const double *loss, uint32_t *best, mg_awq_scales *out, mg_error *err) {
    const mg_awq_group *g = s->g;
    uint32_t last[3] = {0, *best, 0}, n = 2;
    double least = 0;
    for (uint32_t c = 1; c < s->n_tried; c++)
        if (c != *best && loss[c] < loss[0] && (last[2] == 0 || loss[c] < loss[last[2]])) last[2] = c;
    n += last[2] != 0 && loss[last[2]] <= CLOSE * loss[*best];
    for (uint32_t i = 0; i < n; i++) {
        double exact;
        MG_TRY(g->exact(g->exact_ctx, s->scale + s->tried[last[i]] * g->cols, &exact, err));
        if (i == 0) out->exact_plain = exact;
        if (i && !(exact < least)) continue;
        least = exact;
        *best = last[i];
    }
    out->n_exact = n;
    out->exact_loss = least;
    return MG_OK;
}

static mg_status choose(search *s, mg_pool *pool, mg_awq_scales *out, mg_error *err) {
    const mg_awq_group *g = s->g;
    double loss[CANDIDATES] = {0};
    const uint64_t cols = g->cols;
    MG_TRY(statistics(s, pool, err));
    for (uint64_t k = 0; k < cols; k++) s->scale[k] = 1.0f;
    MG_TRY(mg_pool_run(pool, CANDIDATES - 1, candidate_ticket, s, err));
    for (uint32_t c = 0; c < CANDIDATES; c++) s->tried[c] = c;
    s->n_tried = CANDIDATES;
    MG_TRY(judge(s, pool, diagonal_ticket, loss, err));
    if (!g->uses[0].pivot) {
        shortlist(s, loss);
        MG_TRY(judge(s, pool, whole_ticket, loss, err));
    }
    uint32_t best = 0;
    for (uint32_t c = 1; c < s->n_tried; c++)
        if (loss[c] < loss[best]) best = c;
    *out = (mg_awq_scales){.s = out->s};
    if (best && g->exact && !g->uses[0].pivot) MG_TRY(judge_exactly(s, loss, &best, out, err));
    out->identity = best == 0;
    out->plain = loss[0];
    out->loss = loss[best];
    out->by_weight = formula(s->tried[best], &out->ratio);
    memcpy(out->s, s->scale + s->tried[best] * cols, (size_t)cols * sizeof *out->s);
    return MG_OK;
}

mg_status mg_awq_search(const mg_awq_group *g, const mg_group_scheme *scheme, mg_pool *pool, mg_awq_scales *out,
                        mg_error *err) {
    search s = {.g = g, .scheme = scheme, .first = calloc((size_t)g->n_uses + 1, sizeof *s.first)};
    if (!s.first) return mg_fail_nomem(err, g->n_uses * sizeof *s.first);
    for (uint32_t u = 0; u < g->n_uses; u++)
        s.first[u + 1] = s.first[u] + (mg_bound_rows(g->uses[u].bound) + ROWS - 1) / ROWS;
    s.x = calloc(g->cols, sizeof *s.x);
    s.w = calloc(g->cols, sizeof *s.w);
    s.scale = malloc((size_t)(CANDIDATES * g->cols) * sizeof *s.scale);
    s.loss = malloc((size_t)(s.first[g->n_uses] * CANDIDATES + 1) * sizeof *s.loss);
    mg_status st = s.x && s.w && s.scale && s.loss ? choose(&s, pool, out, err) : mg_fail_nomem(err, g->cols * 128);
    free(s.first);
    free(s.x);
    free(s.w);
    free(s.scale);
    free(s.loss);
    free(s.w_part);
    return st;
}
