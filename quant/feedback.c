/* feedback.c - see feedback.h. */
#include "quant/feedback.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quant/codec.h"
#include "quant/read_f32.h"
#include "quant/ref/ref_kparts.h"

/* ---- grids ---- */

/* What the fields of a block say of its elements: x = D (code - offset) - M, or D values[code]. */
typedef struct grid {
    mg_dtype type;
    uint32_t block, sub; /* elements of a block; elements that share D and M */
    int offset, top;     /* codes are 0..top */
    bool codebook;       /* of IQ4 */
    void (*scales)(const void *block, float *D, float *M);
    void (*pack)(const uint8_t *code, void *block);
} grid;

static void q2_k_scales(const void *block, float *D, float *M) {
    const mg_blk_q2_k *b = block;
    const float d = mg_get_f16(b->d), dmin = mg_get_f16(b->dmin);
    for (int j = 0; j < 16; j++) {
        D[j] = d * (float)(b->scales[j] & 15);
        M[j] = dmin * (float)(b->scales[j] >> 4);
    }
}

static void q3_k_scales(const void *block, float *D, float *M) {
    const mg_blk_q3_k *b = block;
    const float d = mg_get_f16(b->d);
    for (int j = 0; j < 16; j++) {
        D[j] = d * (float)mg_q3_k_scale(b->scales, j);
        M[j] = 0.0f;
    }
}

static void q4_k_scales(const void *block, float *D, float *M) {
    const mg_blk_q4_k *b = block;
    mg_ref_k45_unpack(mg_get_f16(b->d), mg_get_f16(b->dmin), b->scales, D, M);
}

static void q5_k_scales(const void *block, float *D, float *M) {
    const mg_blk_q5_k *b = block;
    mg_ref_k45_unpack(mg_get_f16(b->d), mg_get_f16(b->dmin), b->scales, D, M);
}

static void q6_k_scales(const void *block, float *D, float *M) {
    const mg_blk_q6_k *b = block;
    const float d = mg_get_f16(b->d);
    for (int j = 0; j < 16; j++) {
        D[j] = d * (float)b->scales[j];
        M[j] = 0.0f;
    }
}

static void iq4_xs_scales(const void *block, float *D, float *M) {
    const mg_blk_iq4_xs *b = block;
    const float d = mg_get_f16(b->d);
    for (int j = 0; j < 8; j++) {
        D[j] = d * (float)mg_iq4_xs_scale(b, j);
        M[j] = 0.0f;
    }
}

/* Q4_0, Q5_0, IQ4_NL: d comes first. */
static void d_scales(const void *block, float *D, float *M) {
    *D = mg_get_f16(block);
    *M = 0.0f;
}

/* Q4_1, Q5_1: the offset is added. */
static void dm_scales(const void *block, float *D, float *M) {
    *D = mg_get_f16(block);
    *M = -mg_get_f16((const uint8_t *)block + 2);
}

static void q2_k_pack(const uint8_t *code, void *block) {
    mg_ref_q2_k_pack(code, block);
}

static void q3_k_pack(const uint8_t *code, void *block) {
    mg_ref_q3_k_pack(code, block);
}

static void q4_k_pack(const uint8_t *code, void *block) {
    mg_ref_q4_k_pack(code, block);
}

static void q5_k_pack(const uint8_t *code, void *block) {
    mg_ref_q5_k_pack(code, block);
}

static void q6_k_pack(const uint8_t *code, void *block) {
    mg_ref_q6_k_pack(code, block);
}

static void pack_half(const uint8_t *code, uint8_t *qs) {
    for (int j = 0; j < 16; j++) qs[j] = (uint8_t)((code[j] & 15) | (code[j + 16] & 15) << 4);
}

static void iq4_xs_pack(const uint8_t *code, void *block) {
    mg_blk_iq4_xs *b = block;
    for (int j = 0; j < 8; j++) pack_half(code + 32 * j, b->qs + 16 * j);
}

static void q4_0_pack(const uint8_t *code, void *block) {
    pack_half(code, ((mg_blk_q4_0 *)block)->qs);
}

static void q4_1_pack(const uint8_t *code, void *block) {
    pack_half(code, ((mg_blk_q4_1 *)block)->qs);
}

static void iq4_nl_pack(const uint8_t *code, void *block) {
    pack_half(code, ((mg_blk_iq4_nl *)block)->qs);
}

static uint32_t fifth_bits(const uint8_t *code) {
    uint32_t high = 0;
    for (int j = 0; j < 32; j++) high |= (uint32_t)(code[j] >> 4) << j;
    return high;
}

static void q5_0_pack(const uint8_t *code, void *block) {
    mg_blk_q5_0 *b = block;
    pack_half(code, b->qs);
    mg_put32(b->qh, fifth_bits(code));
}

static void q5_1_pack(const uint8_t *code, void *block) {
    mg_blk_q5_1 *b = block;
    pack_half(code, b->qs);
    mg_put32(b->qh, fifth_bits(code));
}

static const grid grids[] = {
    {MG_Q2_K, 256, 16, 0, 3, false, q2_k_scales, q2_k_pack},
    {MG_Q3_K, 256, 16, 4, 7, false, q3_k_scales, q3_k_pack},
    {MG_Q4_K, 256, 32, 0, 15, false, q4_k_scales, q4_k_pack},
    {MG_Q5_K, 256, 32, 0, 31, false, q5_k_scales, q5_k_pack},
    {MG_Q6_K, 256, 16, 32, 63, false, q6_k_scales, q6_k_pack},
    {MG_IQ4_XS, 256, 32, 0, 15, true, iq4_xs_scales, iq4_xs_pack},
    {MG_IQ4_NL, 32, 32, 0, 15, true, d_scales, iq4_nl_pack},
    {MG_Q4_0, 32, 32, 8, 15, false, d_scales, q4_0_pack},
    {MG_Q4_1, 32, 32, 0, 15, false, dm_scales, q4_1_pack},
    {MG_Q5_0, 32, 32, 16, 31, false, d_scales, q5_0_pack},
    {MG_Q5_1, 32, 32, 0, 31, false, dm_scales, q5_1_pack},
};

static const grid *grid_of(mg_dtype t) {
    for (size_t i = 0; i < sizeof grids / sizeof *grids; i++)
        if (grids[i].type == t) return &grids[i];
    return NULL;
}

bool mg_feedback_supports(mg_dtype t) {
    return grid_of(t) != NULL;
}

/* The code nearest to want, D is not 0. */
static uint8_t nearest(const grid *g, float want, float D, float M) {
    if (g->codebook) return (uint8_t)mg_ref_iq4_nearest(want * (1.0f / D));
    const float x = (want + M) / D, low = (float)-g->offset, high = (float)(g->top - g->offset);
    if (!(x > low)) return 0;
    if (!(x < high)) return (uint8_t)g->top;
    return (uint8_t)(mg_ref_round(x) + g->offset);
}

static float value(const grid *g, uint8_t code, float D, float M) {
    if (g->codebook) return D * (float)mg_iq4_values[code];
    return D * (float)((int)code - g->offset) - M;
}

/* ---- rows ---- */

enum { ROUNDS = 3 }; /* of two tries each: scales that suit the weights; those that suit what the columns were to be */

typedef struct run {
    const mg_gptq *h;
    const grid *g;
    mg_model *m;
    const mg_bound *b;
    uint8_t *blocks;
    uint64_t rows, cols, subs, row_bytes, block_bytes;
    double *loss; /* [tickets] */
} run;

/* Rows of one ticket. */
typedef struct band {
    const run *r;
    uint64_t first, n;
    float *w;        /* [n][cols] */
    float *want;     /* [n][cols] what each column was to be, errors of others included */
    float *kept;     /* [n][cols] the same of the best try */
    float *D, *M;    /* [n][subs] */
    float *scratch;  /* of the sweep */
    uint8_t *codes;  /* [n][cols] */
    uint8_t *blocks; /* [n][row_bytes] */
    double loss[MG_GPTQ_ROWS], best[MG_GPTQ_ROWS];
    bool as_it_is[MG_GPTQ_ROWS]; /* scales that are not finite: the encoder's bytes stay */
} band;

static mg_status band_init(band *t, mg_error *err) {
    const run *r = t->r;
    const uint64_t values = MG_GPTQ_ROWS * r->cols, scales = MG_GPTQ_ROWS * r->subs;
    const uint64_t floats = 3 * values + 2 * scales + mg_gptq_scratch(r->cols);
    t->w = calloc((size_t)floats, sizeof *t->w);
    t->codes = calloc((size_t)(values + MG_GPTQ_ROWS * r->row_bytes), 1);
    if (!t->w || !t->codes) return mg_fail_nomem(err, floats * sizeof *t->w);
    t->want = t->w + values;
    t->kept = t->want + values;
    t->D = t->kept + values;
    t->M = t->D + scales;
    t->scratch = t->M + scales;
    t->blocks = t->codes + values;
    return MG_OK;
}

static void band_release(band *t) {
    free(t->w);
    free(t->codes);
}

/* Blocks of the rows x, with the encoder's own codes. */
static mg_status encode(const band *t, const float *x, const float *weights, uint8_t *blocks, mg_error *err) {
    const run *r = t->r;
    const mg_codec *c = mg_codec_get(r->g->type);
    for (uint64_t i = 0; i < t->n; i++)
        MG_TRY(c->encode(x + i * r->cols, weights, r->cols, blocks + i * r->row_bytes, err));
    return MG_OK;
}

static void read_scales(band *t) {
    const run *r = t->r;
    const uint64_t per_block = r->g->block / r->g->sub;
    for (uint64_t i = 0; i < t->n; i++) {
        float *D = t->D + i * r->subs, *M = t->M + i * r->subs;
        const uint8_t *at = t->blocks + i * r->row_bytes;
        for (uint64_t j = 0; j < r->subs; j += per_block, at += r->block_bytes) r->g->scales(at, D + j, M + j);
        t->as_it_is[i] = false;
        for (uint64_t j = 0; j < r->subs; j++)
            if (!isfinite(D[j]) || !isfinite(M[j])) t->as_it_is[i] = true;
        t->loss[i] = t->as_it_is[i] ? INFINITY : 0;
    }
}

static float round_column(void *ctx, uint64_t i, uint64_t column, float want) {
    band *t = ctx;
    const run *r = t->r;
    t->want[i * r->cols + column] = want;
    if (t->as_it_is[i]) return want;
    const uint64_t at = i * r->subs + column / r->g->sub;
    const float D = t->D[at], M = t->M[at];
    const uint8_t code = D == 0.0f ? 0 : nearest(r->g, want, D, M);
    const float got = value(r->g, code, D, M);
    t->codes[i * r->cols + column] = code;
    t->loss[i] += (double)(want - got) * (double)(want - got) * (double)r->h->pivot[column];
    return got;
}

/* Keep what the try made of a row. */
static void keep(band *t, uint64_t i) {
    const run *r = t->r;
    uint8_t *row = t->blocks + i * r->row_bytes;
    for (uint64_t k = 0; !t->as_it_is[i] && k < r->cols; k += r->g->block)
        r->g->pack(t->codes + i * r->cols + k, row + k / r->g->block * r->block_bytes);
    memcpy(r->blocks + (t->first + i) * r->row_bytes, row, (size_t)r->row_bytes);
    memcpy(t->kept + i * r->cols, t->want + i * r->cols, (size_t)r->cols * sizeof *t->kept);
    t->best[i] = t->loss[i];
}

/* Codes with the scales that suit x. */
static mg_status try_scales(band *t, const float *x, const float *weights, bool first, mg_error *err) {
    MG_TRY(encode(t, x, weights, t->blocks, err));
    read_scales(t);
    (void)mg_gptq_sweep(t->r->h, t->w, t->n, t->scratch, round_column, t);
    for (uint64_t i = 0; i < t->n; i++)
        if (first || t->loss[i] < t->best[i]) keep(t, i);
    return MG_OK;
}

static mg_status encode_band(band *t, double *loss, mg_error *err) {
    const run *r = t->r;
    MG_TRY(mg_read_f32(r->m, r->b, t->first, t->n, t->w, err));
    if (r->h->plain) return encode(t, t->w, NULL, r->blocks + t->first * r->row_bytes, err);
    for (int round = 0; round < ROUNDS; round++) {
        const float *x = round ? t->kept : t->w;
        MG_TRY(try_scales(t, x, NULL, round == 0, err));
        MG_TRY(try_scales(t, x, r->h->pivot, false, err));
    }
    *loss = 0;
    for (uint64_t i = 0; i < t->n; i++) *loss += isfinite(t->best[i]) ? t->best[i] : 0;
    return MG_OK;
}

static mg_status run_ticket(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    (void)worker;
    const run *r = ctx;
    const uint64_t first = ticket * MG_GPTQ_ROWS, left = r->rows - first;
    band t = {.r = r, .first = first, .n = left < MG_GPTQ_ROWS ? left : MG_GPTQ_ROWS};
    mg_status st = band_init(&t, err);
    if (st == MG_OK) st = encode_band(&t, &r->loss[ticket], err);
    band_release(&t);
    return st;
}

mg_status mg_feedback_encode(const mg_gptq *h, mg_dtype t, mg_model *m, const mg_bound *b, uint8_t *blocks,
                             mg_pool *pool, double *loss, mg_error *err) {
    run r = {.h = h, .g = grid_of(t), .m = m, .b = b, .blocks = blocks, .rows = mg_bound_rows(b), .cols = h->d};
    const uint64_t tickets = (r.rows + MG_GPTQ_ROWS - 1) / MG_GPTQ_ROWS;
    if (!r.g || b->shape[b->rank - 1] != h->d || !mg_dtype_row_bytes(t, r.cols, &r.row_bytes))
        return mg_fail(err, MG_ERR_INTERNAL, "no feedback into %s", mg_dtype_get(t)->name);
    r.subs = r.cols / r.g->sub;
    r.block_bytes = r.row_bytes / (r.cols / r.g->block);
    r.loss = calloc((size_t)tickets + 1, sizeof *r.loss);
    if (!r.loss) return mg_fail_nomem(err, tickets * sizeof *r.loss);
    mg_status st = mg_pool_run(pool, tickets, run_ticket, &r, err);
    *loss = 0;
    for (uint64_t i = 0; i < tickets; i++) *loss += r.loss[i];
    free(r.loss);
    if (st != MG_OK) mg_error_at(err, NULL, mg_model_tensor(m, b)->name);
    return st;
}
