/* gram.c - see gram.h. The products are those of the forward pass (mathops.h): a block of rows is packed once as
 * slivers and once as panels, and tickets take strips of the result up to the diagonal. The matrix itself lies in
 * panels too, so that products with it read it where it is. */
#include "quant/math/gram.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/checked.h"
#include "quant/math/gemm.h"

#define BLOCK ((uint64_t)MG_GEMM_BLOCK)

static uint64_t panels_of(uint64_t d) {
    return (d + MG_GEMM_NR - 1) / MG_GEMM_NR;
}

/* Floats of one packed block: panels of 16 columns, then slivers of mr. */
static uint64_t panel_floats(uint64_t d) {
    return panels_of(d) * MG_GEMM_NR * BLOCK;
}

static uint64_t packed_floats(uint64_t d) {
    return panel_floats(d) + (d + MG_GEMM_MAX_MR - 1) / MG_GEMM_MAX_MR * MG_GEMM_MAX_MR * BLOCK +
           MG_GEMM_MAX_MR * BLOCK;
}

uint64_t mg_gram_bytes(uint64_t d) {
    return (d * panels_of(d) * MG_GEMM_NR + BLOCK * d + packed_floats(d)) * sizeof(float);
}

mg_status mg_gram_init(mg_gram *g, uint64_t d, mg_error *err) {
    *g = (mg_gram){.d = d};
    uint64_t all;
    if (d > UINT32_MAX || !mg_mul_u64(d, panels_of(d) * MG_GEMM_NR, &all) || all > SIZE_MAX / sizeof(float))
        return mg_fail(err, MG_ERR_LIMIT, "a Gram matrix of %llu columns", (unsigned long long)d);
    g->g = calloc((size_t)all + 1, sizeof(float));
    g->pending = malloc((size_t)(BLOCK * d + 1) * sizeof(float));
    g->packed = malloc((size_t)packed_floats(d) * sizeof(float));
    if (g->g && g->pending && g->packed) return MG_OK;
    mg_gram_release(g);
    return mg_fail_nomem(err, mg_gram_bytes(d));
}

void mg_gram_release(mg_gram *g) {
    free(g->g);
    free(g->pending);
    free(g->packed);
    *g = (mg_gram){0};
}

/* ---- one block ---- */

typedef struct block_run {
    mg_gram *g;
    const mg_math *math;
    const float *x, *weight;
    uint64_t n; /* rows, at most BLOCK */
} block_run;

/* Columns from .. from + width of the block, [n][width]; columns beyond d are +0. */
static inline __attribute__((always_inline)) void copy_columns(const block_run *r, uint64_t from, const uint64_t width,
                                                               uint64_t have, float *restrict dst) {
    const uint64_t d = r->g->d, n = r->n;
    const float *restrict x = r->x + from, *restrict weight = r->weight;
    for (uint64_t t = 0; t < n; t++, x += d, dst += width) {
        const float w = weight ? weight[t] : 1.0f; /* times 1 changes no number */
        for (uint64_t j = 0; j < have; j++) dst[j] = x[j] * w;
        for (uint64_t j = have; j < width; j++) dst[j] = 0.0f;
    }
}

static void pack_columns(const block_run *r, uint64_t from, uint64_t width, float *dst) {
    const uint64_t left = r->g->d - from;
    if (width == MG_GEMM_NR && left >= width)
        copy_columns(r, from, MG_GEMM_NR, MG_GEMM_NR, dst);
    else if (width == 6 && left >= width) /* mr of the twins there are */
        copy_columns(r, from, 6, 6, dst);
    else if (width == 12 && left >= width)
        copy_columns(r, from, 12, 12, dst);
    else
        copy_columns(r, from, width, left < width ? left : width, dst);
}

enum { PANELS_PER_TICKET = 4 };

static mg_status pack_ticket(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    (void)worker;
    (void)err;
    const block_run *r = ctx;
    const uint64_t mr = r->math->mr, d = r->g->d, first = ticket * PANELS_PER_TICKET * MG_GEMM_NR;
    const uint64_t end = first + PANELS_PER_TICKET * MG_GEMM_NR;
    float *slivers = r->g->packed + panel_floats(d);
    for (uint64_t c = first; c < end && c < d; c += MG_GEMM_NR) pack_columns(r, c, MG_GEMM_NR, r->g->packed + c * r->n);
    for (uint64_t s = (first + mr - 1) / mr; s * mr < end && s * mr < d; s++)
        pack_columns(r, s * mr, mr, slivers + s * mr * r->n);
    return MG_OK;
}

enum { SLIVERS_PER_TICKET = 8 };

static mg_status product_ticket(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    (void)worker;
    (void)err;
    const block_run *r = ctx;
    mg_gram *g = r->g;
    const uint64_t mr = r->math->mr, d = g->d;
    const float *slivers = g->packed + panel_floats(d);
    for (uint64_t s = ticket * SLIVERS_PER_TICKET; s < (ticket + 1) * SLIVERS_PER_TICKET && s * mr < d; s++) {
        const uint64_t row = s * mr, rows = d - row < mr ? d - row : mr;
        r->math->gemm((uint32_t)rows, r->n, slivers + row * r->n, g->packed, MG_GEMM_NR * r->n,
                      panels_of(row + rows), /* up to the diagonal */
                      g->g + row * MG_GEMM_NR, MG_GEMM_NR, d * MG_GEMM_NR, false);
    }
    return MG_OK;
}

static mg_status add_block(mg_gram *g, const float *x, const float *weight, uint64_t n, mg_pool *pool, mg_error *err) {
    block_run r = {.g = g, .math = mg_math_get(), .x = x, .weight = weight, .n = n};
    const uint64_t wide = PANELS_PER_TICKET * MG_GEMM_NR, tall = SLIVERS_PER_TICKET * (uint64_t)r.math->mr;
    MG_TRY(mg_pool_run(pool, (g->d + wide - 1) / wide, pack_ticket, &r, err));
    return mg_pool_run(pool, (g->d + tall - 1) / tall, product_ticket, &r, err);
}

static void keep(mg_gram *g, const float *x, const float *weight, uint64_t n) {
    float *to = g->pending + g->waiting * g->d;
    memcpy(to, x, (size_t)(n * g->d) * sizeof *to);
    for (uint64_t t = 0; weight && t < n; t++)
        for (uint64_t j = 0; j < g->d; j++) to[t * g->d + j] *= weight[t];
    g->waiting += n;
}

mg_status mg_gram_rows(mg_gram *g, const float *x, const float *weight, uint64_t n, mg_pool *pool, mg_error *err) {
    g->rows += n;
    while (n) {
        uint64_t take = n < BLOCK ? n : BLOCK;
        if (g->waiting || take < BLOCK) {
            if (take > BLOCK - g->waiting) take = BLOCK - g->waiting;
            keep(g, x, weight, take);
            if (g->waiting == BLOCK) {
                MG_TRY(add_block(g, g->pending, NULL, BLOCK, pool, err));
                g->waiting = 0;
            }
        } else {
            MG_TRY(add_block(g, x, weight, BLOCK, pool, err));
        }
        x += take * g->d;
        if (weight) weight += take;
        n -= take;
    }
    return MG_OK;
}

/* Columns 16 p on of the rows above the diagonal, from what lies below it. */
static mg_status mirror_ticket(void *ctx, uint64_t p, unsigned worker, mg_error *err) {
    (void)worker;
    (void)err;
    const mg_gram *g = ctx;
    for (uint64_t j = 0; j < g->d && j < (p + 1) * MG_GEMM_NR; j++)
        for (uint64_t i = p * MG_GEMM_NR; i < g->d && i < (p + 1) * MG_GEMM_NR; i++)
            if (j < i) g->g[(p * g->d + j) * MG_GEMM_NR + i % MG_GEMM_NR] = mg_gram_at(g, i, j);
    return MG_OK;
}

mg_status mg_gram_finish(mg_gram *g, mg_pool *pool, mg_error *err) {
    if (g->waiting) MG_TRY(add_block(g, g->pending, NULL, g->waiting, pool, err));
    free(g->pending);
    free(g->packed);
    g->pending = g->packed = NULL;
    for (uint64_t i = 0; i < g->d; i++)
        if (!isfinite(mg_gram_at(g, i, i)))
            return mg_fail(err, MG_ERR_FORMAT, "the model computes values that are not finite (channel %llu)",
                           (unsigned long long)i);
    return mg_pool_run(pool, panels_of(g->d), mirror_ticket, g, err);
}

void mg_gram_times(const mg_gram *g, const float *x, uint64_t m, uint64_t first, uint64_t panels, float *y,
                   uint64_t ldy) {
    const mg_math *math = mg_math_get();
    const uint64_t mr = math->mr, d = g->d;
    for (uint64_t k = 0, kc; k < d; k += kc) { /* a stretch of the panels stays in the cache for all rows */
        kc = d - k < MG_GEMM_KC ? d - k : MG_GEMM_KC;
        for (uint64_t r = 0; r < m; r += mr)
            math->gemm((uint32_t)(m - r < mr ? m - r : mr), kc, x + r * d + k * mr, g->g + (first * d + k) * MG_GEMM_NR,
                       d * MG_GEMM_NR, panels, y + r * ldy, ldy, MG_GEMM_NR, k == 0);
    }
}
