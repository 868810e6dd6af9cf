/* gptq.c - see gptq.h. */
#include "quant/gptq.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/checked.h"
#include "quant/math/chol.h"
#include "quant/math/gemm.h"
#include "quant/read_f32.h"

enum { NR = MG_GEMM_NR };

/* ---- the Hessian ---- */

typedef struct diag {
    float value;
    uint32_t column;
} diag;

static int falling(const void *a, const void *b) {
    const diag *x = a, *y = b;
    if (x->value != y->value) return x->value > y->value ? -1 : 1;
    return x->column < y->column ? -1 : 1;
}

static mg_status order_columns(mg_gptq *h, const mg_gram *g, mg_error *err) {
    diag *d = malloc((size_t)h->d * sizeof *d);
    if (!d) return mg_fail_nomem(err, h->d * sizeof *d);
    for (uint64_t k = 0; k < h->d; k++) d[k] = (diag){mg_gram_at(g, k, k), (uint32_t)k};
    qsort(d, (size_t)h->d, sizeof *d, falling);
    for (uint64_t k = 0; k < h->d; k++) h->order[k] = d[k].column;
    free(d);
    return MG_OK;
}

/* H, its places in reverse, with `damping` times the mean diagonal added; inputs that are always 0 get 1. */
static void fill(const mg_gptq *h, const mg_gram *g, double damping, double *s) {
    const uint64_t d = h->d;
    double mean = 0;
    for (uint64_t k = 0; k < d; k++) mean += (double)mg_gram_at(g, k, k) / (double)d;
    for (uint64_t a = 0; a < d; a++) {
        const uint64_t row = h->order[d - 1 - a];
        for (uint64_t b = 0; b <= a; b++) s[a * d + b] = (double)mg_gram_at(g, h->order[d - 1 - b], row);
        if (s[a * d + a] == 0) s[a * d + a] = mean > 0 ? mean : 1;
        s[a * d + a] += damping * mean;
    }
}

static uint64_t panel_at(uint64_t p) {
    return NR * (NR / 2) * p * (p + 1);
}

/* U and D from the factor l of the reversed H: U[j][k] = l[r(j)][r(k)] / l[r(k)][r(k)], r(i) = d - 1 - i. */
static void unpack(mg_gptq *h, const double *l) {
    const uint64_t d = h->d;
    for (uint64_t p = 0; p * NR < d; p++) {
        float *panel = h->u + panel_at(p);
        for (uint64_t j = 0; j < (p + 1) * NR; j++)
            for (uint64_t c = 0; c < NR; c++) {
                const uint64_t k = p * NR + c;
                const bool inside = k < d && j < k;
                panel[j * NR + c] =
                    inside ? (float)(l[(d - 1 - j) * d + (d - 1 - k)] / l[(d - 1 - k) * (d + 1)]) : 0.0f;
            }
    }
    for (uint64_t k = 0; k < d; k++) {
        const double root = l[(d - 1 - k) * (d + 1)];
        h->pivot[h->order[k]] = (float)(root * root);
    }
}

static mg_status factor(mg_gptq *h, const mg_gram *g, double damping, mg_pool *pool, mg_error *err) {
    uint64_t all;
    if (!mg_mul_u64(h->d, h->d, &all) || all > SIZE_MAX / sizeof(double))
        return mg_fail(err, MG_ERR_LIMIT, "%" PRIu64 " columns are too many to factor", h->d);
    double *s = malloc((size_t)all * sizeof *s);
    if (!s) return mg_fail_nomem(err, all * sizeof *s);
    bool ok = false;
    mg_status st = order_columns(h, g, err);
    for (h->damping = damping; st == MG_OK && h->damping < 1; h->damping += 0.01) {
        fill(h, g, h->damping, s);
        st = mg_cholesky(s, h->d, pool, &ok, err);
        if (ok) break;
    }
    if (st == MG_OK && ok) unpack(h, s);
    h->plain = !ok;
    free(s);
    return st;
}

uint64_t mg_gptq_bytes(uint64_t d) {
    if (d > 1u << 28) return UINT64_MAX / 4;
    return mg_cholesky_bytes(d) + panel_at((d + NR - 1) / NR) * sizeof(float) + d * (sizeof(float) + sizeof(uint32_t));
}

mg_status mg_gptq_init(mg_gptq *h, const mg_gram *gram, uint64_t d, double damping, mg_pool *pool, mg_error *err) {
    *h = (mg_gptq){.d = d, .plain = !gram};
    if (d > UINT32_MAX) return mg_fail(err, MG_ERR_LIMIT, "%" PRIu64 " columns", d);
    const uint64_t panels = gram ? (d + NR - 1) / NR : 0;
    h->order = malloc((size_t)(d + 1) * sizeof *h->order);
    h->pivot = malloc((size_t)(d + 1) * sizeof *h->pivot);
    h->u = malloc((size_t)(panel_at(panels) + 1) * sizeof *h->u);
    mg_status st = h->order && h->pivot && h->u ? MG_OK : mg_fail_nomem(err, panel_at(panels) * sizeof *h->u);
    for (uint64_t k = 0; st == MG_OK && k < d; k++) {
        h->order[k] = (uint32_t)k;
        h->pivot[k] = 1.0f;
    }
    if (st == MG_OK && gram) st = factor(h, gram, damping, pool, err);
    for (uint64_t k = 0; st == MG_OK && h->plain && k < d; k++) h->pivot[k] = 1.0f;
    if (st != MG_OK) mg_gptq_release(h);
    return st;
}

void mg_gptq_release(mg_gptq *h) {
    free(h->order);
    free(h->pivot);
    free(h->u);
    *h = (mg_gptq){0};
}

/* ---- one sweep over the columns ---- */

typedef struct sweep {
    const mg_gptq *h;
    const float *w; /* [rows][d] in column order */
    float *errors;  /* slivers [d][mr] in the order of rounding: w - q so far */
    float *fed;     /* [ROWS][16] what earlier panels say */
    uint64_t rows, mr;
    mg_gptq_round_fn round;
    void *ctx;
} sweep;

uint64_t mg_gptq_scratch(uint64_t d) {
    return (MG_GPTQ_ROWS + MG_GEMM_MAX_MR) * (d + NR);
}

/* Round the column at place k of row i; fed: what earlier columns add. */
static double round_one(const sweep *s, uint64_t i, uint64_t k, float fed) {
    const uint64_t column = s->h->order[k], d = s->h->d;
    const float w = s->w[i * d + column], want = w + fed, got = s->round(s->ctx, i, column, want);
    s->errors[i / s->mr * s->mr * d + k * s->mr + i % s->mr] = w - got;
    const double e = (double)(want - got);
    return e * e * (double)s->h->pivot[column];
}

/* Sixteen places: what came before through a product, each other one by one. */
static double round_panel(const sweep *s, uint64_t p) {
    const mg_math *math = mg_math_get();
    const uint64_t d = s->h->d, first = p * NR, n = d - first < NR ? d - first : NR;
    const float *u = s->h->u + panel_at(p);
    double loss = 0;
    for (uint64_t i = 0; i < s->rows; i += s->mr)
        math->gemm((uint32_t)(s->rows - i < s->mr ? s->rows - i : s->mr), first, s->errors + i * d, u, 0, 1,
                   s->fed + i * NR, NR, NR, true);
    for (uint64_t i = 0; i < s->rows; i++) {
        const float *sliver = s->errors + i / s->mr * s->mr * d + first * s->mr + i % s->mr;
        for (uint64_t c = 0; c < n; c++) {
            float fed = s->fed[i * NR + c];
            for (uint64_t j = 0; j < c; j++) fed += sliver[j * s->mr] * u[(first + j) * NR + c];
            loss += round_one(s, i, first + c, fed);
        }
    }
    return loss;
}

double mg_gptq_sweep(const mg_gptq *h, const float *w, uint64_t rows, float *scratch, mg_gptq_round_fn round,
                     void *ctx) {
    const uint64_t mr = mg_math_get()->mr;
    sweep s = {.h = h, .w = w, .errors = scratch, .rows = rows, .mr = mr, .round = round, .ctx = ctx};
    s.fed = scratch + (MG_GPTQ_ROWS + MG_GEMM_MAX_MR) * h->d;
    double loss = 0;
    for (uint64_t p = 0; p * NR < h->d; p++) loss += round_panel(&s, p);
    return loss;
}

/* ---- rounding in groups ---- */

typedef struct round_run {
    const mg_gptq *h;
    mg_model *m;
    const mg_bound *b;
    mg_group_codes *q;
    double *loss; /* [tickets] */
    uint64_t size;
} round_run;

/* The parameters of one group: the whole range, or a smaller one that costs less. */
static mg_status choose(const round_run *r, const float *w, const float *pivot, uint64_t n, mg_group_params *best,
                        mg_error *err) {
    static const float shrink[] = {1, .97f, .94f, .91f, .88f, .85f, .82f, .79f, .76f, .73f, .7f, .66f};
    static const float move[][2] = {{.95f, 1}, {1, .95f}, {1.04f, 1}, {1, 1.04f}, {.985f, .985f}, {1.015f, 1.015f}};
    float lo, hi, at[2] = {1, 1}, from[2];
    double least = INFINITY;
    MG_TRY(mg_group_range(w, n, &lo, &hi, err));
    for (size_t t = 0; t < sizeof shrink / sizeof *shrink + sizeof move / sizeof *move; t++) {
        const size_t m = t - sizeof shrink / sizeof *shrink;
        const bool fine = t >= sizeof shrink / sizeof *shrink;
        if (!fine || m == 0) memcpy(from, at, sizeof from);
        const float a = fine ? from[0] * move[m][0] : shrink[t], b = fine ? from[1] * move[m][1] : shrink[t];
        mg_group_params p;
        MG_TRY(mg_group_choose(&r->q->scheme, lo * (a < 1 ? a : 1), hi * (b < 1 ? b : 1), &p, err));
        const mg_group_step step = mg_group_step_of(&r->q->scheme, &p);
        const double loss = mg_group_kernels_get()->cost(&step, w, pivot, n);
        if (!(loss < least) && t) continue;
        least = loss;
        at[0] = a;
        at[1] = b;
        *best = p;
    }
    return MG_OK;
}

static mg_status choose_all(const round_run *r, const float *w, uint64_t row, uint64_t rows, mg_error *err) {
    mg_group_codes *q = r->q;
    for (uint64_t i = 0; i < rows; i++)
        for (uint64_t g = 0; g < q->groups; g++) {
            const uint64_t at = g * r->size, n = q->cols - at < r->size ? q->cols - at : r->size;
            const uint64_t to = (row + i) * q->groups + g;
            mg_group_params p;
            MG_TRY(choose(r, w + i * q->cols + at, r->h->pivot + at, n, &p, err));
            q->scales[to] = p.scale;
            if (q->zeros) q->zeros[to] = p.zero;
            if (q->biases) q->biases[to] = p.bias;
        }
    return MG_OK;
}

/* Rows of a ticket as the sweep asks for them. */
typedef struct ticket_rows {
    const round_run *r;
    uint64_t row;
} ticket_rows;

static float round_column(void *ctx, uint64_t i, uint64_t column, float want) {
    const ticket_rows *t = ctx;
    mg_group_codes *q = t->r->q;
    const uint64_t g = (t->row + i) * q->groups + column / t->r->size;
    const mg_group_params p = {q->scales[g], q->biases ? q->biases[g] : 0.0f, q->zeros ? q->zeros[g] : 0};
    uint8_t *code = &q->codes[(t->row + i) * q->cols + column];
    float got;
    mg_group_round(&q->scheme, &p, &want, 1, code);
    mg_group_unround(&q->scheme, &p, code, 1, &got);
    return got;
}

static void round_plain(const round_run *r, const float *w, uint64_t row, uint64_t rows) {
    mg_group_codes *q = r->q;
    for (uint64_t i = 0; i < rows; i++)
        for (uint64_t g = 0; g < q->groups; g++) {
            const uint64_t at = g * r->size, n = q->cols - at < r->size ? q->cols - at : r->size;
            const uint64_t from = (row + i) * q->groups + g;
            const mg_group_params p = {q->scales[from], q->biases ? q->biases[from] : 0.0f,
                                       q->zeros ? q->zeros[from] : 0};
            mg_group_round(&q->scheme, &p, w + i * q->cols + at, n, q->codes + (row + i) * q->cols + at);
        }
}

static mg_status round_ticket(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    (void)worker;
    const round_run *r = ctx;
    ticket_rows t = {.r = r, .row = ticket * MG_GPTQ_ROWS};
    const uint64_t d = r->q->cols, left = r->q->rows - t.row, rows = left < MG_GPTQ_ROWS ? left : MG_GPTQ_ROWS;
    const uint64_t floats = MG_GPTQ_ROWS * d + mg_gptq_scratch(d);
    float *w = calloc((size_t)floats, sizeof *w);
    if (!w) return mg_fail_nomem(err, floats * sizeof *w);
    float *scratch = w + MG_GPTQ_ROWS * d;
    mg_status st = mg_read_f32(r->m, r->b, t.row, rows, w, err);
    if (st == MG_OK) st = choose_all(r, w, t.row, rows, err);
    if (st == MG_OK && r->h->plain) round_plain(r, w, t.row, rows);
    if (st == MG_OK && !r->h->plain) r->loss[ticket] = mg_gptq_sweep(r->h, w, rows, scratch, round_column, &t);
    free(w);
    return st;
}

mg_status mg_gptq_round(const mg_gptq *h, mg_model *m, const mg_bound *b, mg_group_codes *q, mg_pool *pool,
                        double *loss, mg_error *err) {
    const uint64_t tickets = (q->rows + MG_GPTQ_ROWS - 1) / MG_GPTQ_ROWS;
    round_run r = {.h = h, .m = m, .b = b, .q = q, .size = q->scheme.group_size};
    if (r.size == 0 || r.size > q->cols) r.size = q->cols;
    r.loss = calloc((size_t)tickets + 1, sizeof *r.loss);
    if (!r.loss) return mg_fail_nomem(err, tickets * sizeof *r.loss);
    mg_status st = mg_pool_run(pool, tickets, round_ticket, &r, err);
    *loss = 0;
    for (uint64_t t = 0; t < tickets; t++) *loss += r.loss[t];
    free(r.loss);
    if (st != MG_OK) mg_error_at(err, NULL, mg_model_tensor(m, b)->name);
    return st;
}
