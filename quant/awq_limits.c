/* awq_limits.c - mg_awq_limits: for each row and group of a weight the range that costs least on its inputs.
 *
 * Two rounds of six ranges: both ends of the group's range times the same factor, then, from the best of these, one end
 * or both a little further in or out. Six, because products over a block take six rows at a time (quant/math). */
#include <stdlib.h>
#include <string.h>

#include "quant/awq.h"
#include "quant/math/mathops.h"
#include "quant/read_f32.h"
#include "quant/round_error.h"

enum { TRIES = 6, ROWS = 32 };

typedef struct limits_run {
    const mg_awq_use *use;
    const float *col;
    const mg_group_scheme *scheme;
    uint64_t rows, cols, size, groups;
    float *limits;
    double *plain, *loss; /* [tickets] */
} limits_run;

/* Scratch of one ticket. */
typedef struct bench {
    float *w;      /* [ROWS][cols] */
    float *panels; /* [ceil(size / 16)][size][16]: the block of the Gram matrix */
    float *e;      /* [TRIES][size] errors */
    float *packed; /* slivers of them */
    float *y;      /* [TRIES][width] */
} bench;

/* The group's block of G over the scaled inputs. */
static void load_block(const limits_run *r, uint64_t at, uint64_t n, float *panels) {
    const mg_gram *g = r->use->gram;
    for (uint64_t p = 0; p < n; p += MG_GEMM_NR)
        for (uint64_t i = 0; i < n; i++)
            for (uint64_t j = p; j < p + MG_GEMM_NR; j++) {
                float v = 0.0f;
                if (j < n) v = g->g[(at + i) * g->ld + at + j];
                if (j < n && r->col) v /= r->col[at + i] * r->col[at + j];
                panels[p * n + i * MG_GEMM_NR + (j - p)] = v;
            }
}

/* loss[t] = e[t] G e[t]^T. */
static void quadratic(const bench *b, uint64_t n, double *loss) {
    const mg_math *math = mg_math_get();
    const uint64_t mr = math->mr, width = (n + MG_GEMM_NR - 1) / MG_GEMM_NR * MG_GEMM_NR;
    for (uint64_t t = 0; t < TRIES; t += mr) {
        const uint64_t m = TRIES - t < mr ? TRIES - t : mr;
        for (uint64_t i = 0; i < n; i++)
            for (uint64_t c = 0; c < mr; c++) b->packed[i * mr + c] = c < m ? b->e[(t + c) * n + i] : 0.0f;
        math->gemm((uint32_t)m, n, b->packed, b->panels, MG_GEMM_NR * n, width / MG_GEMM_NR, b->y + t * width, width,
                   true);
    }
    for (uint64_t t = 0; t < TRIES; t++) {
        float lane[MG_GEMM_NR] = {0};
        uint64_t i = 0;
        for (; i + MG_GEMM_NR <= n; i += MG_GEMM_NR)
            for (uint64_t j = 0; j < MG_GEMM_NR; j++) lane[j] += b->y[t * width + i + j] * b->e[t * n + i + j];
        for (uint64_t j = 0; i < n; i++, j++) lane[j] += b->y[t * width + i] * b->e[t * n + i];
        loss[t] = 0;
        for (uint64_t j = 0; j < MG_GEMM_NR; j++) loss[t] += (double)lane[j];
    }
}

/* The best of TRIES ranges (factors of lo and hi) that beats *best; it becomes at[0], at[1]. */
static mg_status try_ranges(const limits_run *r, const bench *b, const float *w, uint64_t n, const float range[2],
                            const float factor[TRIES][2], float at[2], double *best, double *first, mg_error *err) {
    double loss[TRIES];
    for (int t = 0; t < TRIES; t++) {
        mg_group_params p;
        MG_TRY(mg_group_choose(r->scheme, range[0] * factor[t][0], range[1] * factor[t][1], &p, err));
        mg_round_error(r->scheme, &p, w, n, b->e + (uint64_t)t * n);
    }
    quadratic(b, n, loss);
    if (first) *first = *best = loss[0];
    for (int t = 0; t < TRIES; t++) {
        if (!(loss[t] < *best) && !(first && t == 0)) continue;
        *best = loss[t];
        at[0] = factor[t][0];
        at[1] = factor[t][1];
    }
    return MG_OK;
}

static mg_status one_group(const limits_run *r, const bench *b, const float *w, uint64_t n, float out[2], double *plain,
                           double *loss, mg_error *err) {
    static const float coarse[TRIES][2] = {{1, 1}, {.95f, .95f}, {.9f, .9f}, {.84f, .84f}, {.77f, .77f}, {.68f, .68f}};
    float range[2], at[2] = {1, 1}, fine[TRIES][2];
    double first, best;
    MG_TRY(mg_group_range(w, n, &range[0], &range[1], err));
    MG_TRY(try_ranges(r, b, w, n, range, coarse, at, &best, &first, err));
    static const float move[TRIES][2] = {{.93f, 1}, {1, .93f}, {1.06f, 1}, {1, 1.06f}, {.97f, .97f}, {1.03f, 1.03f}};
    for (int t = 0; t < TRIES; t++)
        for (int i = 0; i < 2; i++) fine[t][i] = at[i] * move[t][i] < 1.0f ? at[i] * move[t][i] : 1.0f;
    MG_TRY(try_ranges(r, b, w, n, range, fine, at, &best, NULL, err));
    out[0] = range[0] < 0 ? range[0] * at[0] : range[0]; /* an end on the far side of 0 is not moved */
    out[1] = range[1] > 0 ? range[1] * at[1] : range[1];
    *plain += first;
    *loss += best;
    return MG_OK;
}

static mg_status ticket_rows(const limits_run *r, const bench *b, uint64_t row, uint64_t rows, uint64_t ticket,
                             mg_error *err) {
    MG_TRY(mg_read_f32(r->use->model, r->use->bound, row, rows, b->w, err));
    for (uint64_t i = 0; r->col && i < rows; i++)
        for (uint64_t k = 0; k < r->cols; k++) b->w[i * r->cols + k] *= r->col[k];
    for (uint64_t g = 0; g < r->groups; g++) {
        const uint64_t at = g * r->size, n = r->cols - at < r->size ? r->cols - at : r->size;
        load_block(r, at, n, b->panels);
        for (uint64_t i = 0; i < rows; i++)
            MG_TRY(one_group(r, b, b->w + i * r->cols + at, n, r->limits + ((row + i) * r->groups + g) * 2,
                             &r->plain[ticket], &r->loss[ticket], err));
    }
    return MG_OK;
}

static mg_status limits_ticket(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    (void)worker;
    const limits_run *r = ctx;
    const uint64_t row = ticket * ROWS, rows = r->rows - row < ROWS ? r->rows - row : ROWS;
    const uint64_t width = (r->size + MG_GEMM_NR - 1) / MG_GEMM_NR * MG_GEMM_NR;
    const uint64_t floats[] = {rows * r->cols, width * r->size, TRIES * r->size, MG_GEMM_MAX_MR * r->size,
                               TRIES * width};
    uint64_t total = 0;
    for (int i = 0; i < 5; i++) total += floats[i];
    float *p = malloc((size_t)total * sizeof *p);
    if (!p) return mg_fail_nomem(err, total * sizeof *p);
    bench b = {.w = p};
    b.panels = b.w + floats[0];
    b.e = b.panels + floats[1];
    b.packed = b.e + floats[2];
    b.y = b.packed + floats[3];
    mg_status st = ticket_rows(r, &b, row, rows, ticket, err);
    free(p);
    return st;
}

mg_status mg_awq_limits(const mg_awq_use *use, const float *col, const mg_group_scheme *scheme, mg_pool *pool,
                        float *limits, double *plain, double *loss, mg_error *err) {
    limits_run r = {.use = use, .col = col, .scheme = scheme, .limits = limits};
    r.rows = mg_bound_rows(use->bound);
    r.cols = use->gram->d;
    r.size = scheme->group_size && scheme->group_size < r.cols ? scheme->group_size : r.cols;
    r.groups = mg_group_count(scheme, r.cols);
    const uint64_t tickets = (r.rows + ROWS - 1) / ROWS;
    r.plain = calloc((size_t)(2 * tickets) + 1, sizeof *r.plain);
    if (!r.plain) return mg_fail_nomem(err, 2 * tickets * sizeof *r.plain);
    r.loss = r.plain + tickets;
    mg_status st = mg_pool_run(pool, tickets, limits_ticket, &r, err);
    *plain = *loss = 0;
    for (uint64_t t = 0; t < tickets; t++) {
        *plain += r.plain[t];
        *loss += r.loss[t];
    }
    free(r.plain);
    if (st != MG_OK) mg_error_at(err, NULL, mg_model_tensor(use->model, use->bound)->name);
    return st;
}
