/* gram.c - see gram.h. The products are those of the forward pass (mathops.h): blocks of rows are packed once as
 * slivers and once as panels, a few blocks at a time, and tickets take strips of the result up to the diagonal. The
 * matrix itself lies in panels too, so that products with it read it where it is. */
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
    if (g->g && g->pending) return MG_OK;
    mg_gram_release(g);
    return mg_fail_nomem(err, mg_gram_bytes(d));
}

void mg_gram_release(mg_gram *g) {
    free(g->g);
    free(g->pending);
    *g = (mg_gram){0};
}

/* ---- blocks ---- */

typedef struct block_run {
    mg_gram *g;
    const mg_math *math;
    const float *x, *weight;
    uint64_t n;    /* rows: whole blocks, or one that is short */
    float *packed; /* of each block packed_floats: panels, then slivers */
} block_run;

static uint64_t rows_of(const block_run *r, uint64_t block) {
    return r->n - block * BLOCK < BLOCK ? r->n - block * BLOCK : BLOCK;
}

static float *packed_of(const block_run *r, uint64_t block) {
    return r->packed + block * packed_floats(r->g->d);
}

/* Columns from .. from + width of the block, [n][width]; columns beyond d are +0. */
static inline __attribute__((always_inline)) void copy_columns(const block_run *r, uint64_t block, uint64_t from,
                                                               const uint64_t width, uint64_t have,
                                                               float *restrict dst) {
    const uint64_t d = r->g->d, n = rows_of(r, block);
    const float *restrict x = r->x + block * BLOCK * d + from;
    const float *restrict weight = r->weight ? r->weight + block * BLOCK : NULL;
    for (uint64_t t = 0; t < n; t++, x += d, dst += width) {
        const float w = weight ? weight[t] : 1.0f; /* times 1 changes no number */
        for (uint64_t j = 0; j < have; j++) dst[j] = x[j] * w;
        for (uint64_t j = have; j < width; j++) dst[j] = 0.0f;
    }
}

static void pack_columns(const block_run *r, uint64_t block, uint64_t from, uint64_t width, float *dst) {
    const uint64_t left = r->g->d - from;
    if (width == MG_GEMM_NR && left >= width)
        copy_columns(r, block, from, MG_GEMM_NR, MG_GEMM_NR, dst);
    else if (width == 6 && left >= width) /* mr of the twins there are */
        copy_columns(r, block, from, 6, 6, dst);
    else if (width == 12 && left >= width)
        copy_columns(r, block, from, 12, 12, dst);
    else
        copy_columns(r, block, from, width, left < width ? left : width, dst);
}

enum { PANELS_PER_TICKET = 16 };

static uint64_t pack_tickets(uint64_t d) {
    return (panels_of(d) + PANELS_PER_TICKET - 1) / PANELS_PER_TICKET;
}

/* Some columns of one block. */
static mg_status pack_ticket(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    (void)worker;
    (void)err;
    const block_run *r = ctx;
    const uint64_t mr = r->math->mr, d = r->g->d, block = ticket / pack_tickets(d), n = rows_of(r, block);
    const uint64_t first = ticket % pack_tickets(d) * PANELS_PER_TICKET * MG_GEMM_NR;
    const uint64_t end = first + PANELS_PER_TICKET * MG_GEMM_NR;
    float *panels = packed_of(r, block), *slivers = panels + panel_floats(d);
    for (uint64_t c = first; c < end && c < d; c += MG_GEMM_NR) pack_columns(r, block, c, MG_GEMM_NR, panels + c * n);
    for (uint64_t s = (first + mr - 1) / mr; s * mr < end && s * mr < d; s++)
        pack_columns(r, block, s * mr, mr, slivers + s * mr * n);
    return MG_OK;
}

enum { SLIVERS_PER_TICKET = 8 };

/* A strip of the result: blocks one after the other. */
static mg_status product_ticket(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    (void)worker;
    (void)err;
    const block_run *r = ctx;
    mg_gram *g = r->g;
    const uint64_t mr = r->math->mr, d = g->d;
    for (uint64_t block = 0; block * BLOCK < r->n; block++) {
        const uint64_t n = rows_of(r, block);
        const float *panels = packed_of(r, block), *slivers = panels + panel_floats(d);
        for (uint64_t s = ticket * SLIVERS_PER_TICKET; s < (ticket + 1) * SLIVERS_PER_TICKET && s * mr < d; s++) {
            const uint64_t row = s * mr, rows = d - row < mr ? d - row : mr;
            r->math->gemm((uint32_t)rows, n, slivers + row * n, panels, MG_GEMM_NR * n,
                          panels_of(row + rows), /* up to the diagonal */
                          g->g + row * MG_GEMM_NR, MG_GEMM_NR, d * MG_GEMM_NR, false);
        }
    }
    return MG_OK;
}

/* Threads are woken once for so many blocks: where columns are few, one would be little work. */
static uint64_t blocks_at_once(uint64_t d) {
    enum { PACKED = 4 << 20 };
    const uint64_t n = PACKED / (packed_floats(d) * sizeof(float) + 1);
    return n ? n : 1;
}

/* Whole blocks, or one that is short. */
static mg_status add_blocks(mg_gram *g, const float *x, const float *weight, uint64_t n, mg_pool *pool, mg_error *err) {
    const uint64_t blocks = (n + BLOCK - 1) / BLOCK, most = blocks_at_once(g->d), room = blocks < most ? blocks : most;
    block_run r = {.g = g, .math = mg_math_get(), .packed = malloc((size_t)(room * packed_floats(g->d)) * sizeof *x)};
    const uint64_t tall = SLIVERS_PER_TICKET * (uint64_t)r.math->mr;
    mg_status st = r.packed ? MG_OK : mg_fail_nomem(err, room * packed_floats(g->d) * sizeof *x);
    for (uint64_t at = 0; st == MG_OK && at < n; at += r.n) {
        r.n = n - at < room * BLOCK ? n - at : room * BLOCK;
        r.x = x + at * g->d;
        r.weight = weight ? weight + at : NULL;
        st = mg_pool_run(pool, (r.n + BLOCK - 1) / BLOCK * pack_tickets(g->d), pack_ticket, &r, err);
        if (st == MG_OK) st = mg_pool_run(pool, (g->d + tall - 1) / tall, product_ticket, &r, err);
    }
    free(r.packed);
    return st;
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
        uint64_t take = n / BLOCK * BLOCK;
        if (g->waiting || take == 0) {
            take = n < BLOCK - g->waiting ? n : BLOCK - g->waiting;
            keep(g, x, weight, take);
            if (g->waiting == BLOCK) {
                MG_TRY(add_blocks(g, g->pending, NULL, BLOCK, pool, err));
                g->waiting = 0;
            }
        } else {
            MG_TRY(add_blocks(g, x, weight, take, pool, err));
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
    if (g->waiting) MG_TRY(add_blocks(g, g->pending, NULL, g->waiting, pool, err));
    free(g->pending);
    g->pending = NULL;
    for (uint64_t i = 0; i < g->d; i++)
        if (!isfinite(mg_gram_at(g, i, i)))
            return mg_fail(err, MG_ERR_FORMAT, "the model computes values that are not finite (channel %llu)",
                           (unsigned long long)i);
    return mg_pool_run(pool, panels_of(g->d), mirror_ticket, g, err);
}

void mg_gram_times(const mg_gram *g, const float *x, uint64_t m, uint64_t from, uint64_t to, uint64_t first,
                   uint64_t panels, float *y, uint64_t ldy) {
    const mg_math *math = mg_math_get();
    const uint64_t mr = math->mr, d = g->d;
    for (uint64_t k = from, kc; k < to; k += kc) { /* a stretch of the panels stays in the cache for all rows */
        kc = to - k < MG_GEMM_KC ? to - k : MG_GEMM_KC;
        for (uint64_t r = 0; r < m; r += mr)
            math->gemm((uint32_t)(m - r < mr ? m - r : mr), kc, x + r * d + k * mr, g->g + (first * d + k) * MG_GEMM_NR,
                       d * MG_GEMM_NR, panels, y + r * ldy, ldy, MG_GEMM_NR, k == from);
    }
}
