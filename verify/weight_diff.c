/* weight_diff.c - see weight_diff.h. */
#include "verify/weight_diff.h"

#include "quant/read_f32.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK      32u /* the smallest run of weights that shares a scale in the common types */
#define TILE_BYTES (1u << 20)

double mg_weight_limit(mg_dtype t) {
    switch (t) {
    case MG_F64:
    case MG_F32:
        return 0;
    case MG_F16:
    case MG_BF16:
        return 0.02;
    case MG_Q8_0:
        return 0.1;
    case MG_Q6_K:
        return 0.2;
    case MG_Q5_0:
    case MG_Q5_1:
    case MG_Q5_K:
        return 0.35;
    case MG_Q4_0:
    case MG_Q4_1:
    case MG_Q4_K:
    case MG_IQ4_NL:
    case MG_IQ4_XS:
    case MG_MXFP4:
    case MG_NVFP4:
        return 0.5;
    default:
        return 0.95; /* 3 bits and less: only plain nonsense stands out */
    }
}

/* One pair of weights to compare. */
typedef struct pair {
    const mg_bound *a, *b;
    mg_weight_stat *stat;
} pair;

typedef struct work {
    mg_model *ref, *cand;
    pair *pairs;
    mg_progress *progress;
} work;

typedef struct sums {
    double diff_sq, ref_sq;
} sums;

/* First pass over a weight: totals. Second pass: blocks, which need the whole weight's rms. */
static void scan_totals(const float *x, const float *y, uint64_t n, sums *s, mg_weight_stat *stat) {
    for (uint64_t i = 0; i < n; i++) {
        double d = (double)y[i] - (double)x[i];
        s->diff_sq += d * d;
        s->ref_sq += (double)x[i] * (double)x[i];
        if (!(fabs(d) <= stat->max_abs)) stat->max_abs = isfinite(d) ? fabs(d) : INFINITY;
    }
}

static void scan_blocks(const float *x, const float *y, uint64_t row, uint64_t rows, uint64_t cols, double floor_rms,
                        mg_weight_stat *stat) {
    for (uint64_t r = 0; r < rows; r++)
        for (uint64_t c = 0; c < cols; c += BLOCK) {
            uint64_t n = cols - c < BLOCK ? cols - c : BLOCK;
            double dd = 0, xx = 0;
            for (uint64_t i = r * cols + c; i < r * cols + c + n; i++) {
                double d = (double)y[i] - (double)x[i];
                dd += d * d;
                xx += (double)x[i] * (double)x[i];
            }
            double scale = sqrt(xx / (double)n) > floor_rms ? sqrt(xx / (double)n) : floor_rms;
            double rel = dd == 0 ? 0 : scale > 0 ? sqrt(dd / (double)n) / scale : INFINITY;
            if (!(rel <= stat->worst_block)) {
                stat->worst_block = isnan(rel) ? INFINITY : rel;
                stat->worst_row = row + r;
                stat->worst_col = c;
            }
        }
}

static mg_status read_both(const work *w, const pair *p, uint64_t row, uint64_t n, uint64_t cols, float *buf,
                           mg_error *err) {
    MG_TRY(mg_read_f32(w->ref, p->a, row, n, buf, err));
    return mg_read_f32(w->cand, p->b, row, n, buf + n * cols, err);
}

static mg_status compare(const work *w, const pair *p, float *buf, uint64_t tile, mg_error *err) {
    uint64_t rows = mg_bound_rows(p->a), cols = p->a->shape[p->a->rank - 1];
    mg_weight_stat *stat = p->stat;
    sums s = {0};
    for (uint64_t r = 0; r < rows; r += tile) {
        uint64_t n = rows - r < tile ? rows - r : tile;
        MG_TRY(read_both(w, p, r, n, cols, buf, err));
        scan_totals(buf, buf + n * cols, n * cols, &s, stat);
    }
    stat->n = rows * cols;
    double floor_rms = 0.1 * sqrt(s.ref_sq / (double)(stat->n ? stat->n : 1));
    for (uint64_t r = 0; s.diff_sq != 0 && r < rows; r += tile) {
        uint64_t n = rows - r < tile ? rows - r : tile;
        MG_TRY(read_both(w, p, r, n, cols, buf, err));
        scan_blocks(buf, buf + n * cols, r, n, cols, floor_rms, stat);
    }
    stat->rmse = sqrt(s.diff_sq / (double)(stat->n ? stat->n : 1));
    stat->snr_db = s.diff_sq > 0 ? 10 * log10(s.ref_sq / s.diff_sq) : INFINITY;
    return MG_OK;
}

static mg_status one_pair(void *ctx, uint64_t i, unsigned worker, mg_error *err) {
    (void)worker;
    const work *w = ctx;
    const pair *p = &w->pairs[i];
    if (p->stat->missing) return MG_OK;
    uint64_t cols = p->a->shape[p->a->rank - 1], tile = TILE_BYTES / (cols * sizeof(float) + 1) + 1;
    float *buf = malloc(2 * tile * cols * sizeof *buf);
    if (!buf) return mg_fail_nomem(err, 2 * tile * cols * sizeof *buf);
    mg_status st = compare(w, p, buf, tile, err);
    free(buf);
    if (st != MG_OK) mg_error_at(err, NULL, p->stat->name);
    mg_progress_add(w->progress, 1, p->stat->name);
    return st;
}

/* ---- which weights there are ---- */

static bool same_shape(const mg_bound *a, const mg_bound *b) {
    return a->rank == b->rank && memcmp(a->shape, b->shape, a->rank * sizeof *a->shape) == 0;
}

static mg_status add_pair(mg_weight_diff *out, pair *p, mg_model *ref, mg_model *cand, mg_role role, uint32_t l,
                          uint32_t e, mg_error *err) {
    const mg_bound *a = mg_model_find(ref, role, l, e), *b = mg_model_find(cand, role, l, e);
    if (!a && role == MG_R_OUTPUT && b) a = mg_model_find(ref, MG_R_TOKEN_EMBD, 0, 0); /* tied on one side only */
    if (!b && role == MG_R_OUTPUT && a) b = mg_model_find(cand, MG_R_TOKEN_EMBD, 0, 0);
    if (role == MG_R_ROPE_FREQS || (!a && !b)) return MG_OK; /* rope factors are the config in another form */
    mg_weight_stat *s = &out->items[out->n];
    const mg_model *named = b ? cand : ref;
    const mg_tensor *t = mg_model_tensor(named, b ? b : a);
    bool stacked = mg_role_scope(role) == MG_SCOPE_EXPERT && t->rank == 3;
    s->name = stacked ? mg_arena_printf(&out->arena, "%s[%u]", t->name, e) : mg_arena_strdup(&out->arena, t->name);
    if (!s->name) return mg_fail_nomem(err, strlen(t->name));
    s->missing = !a || !b || !same_shape(a, b);
    s->reference = a ? mg_model_tensor(ref, a)->dtype : MG_DTYPE_COUNT;
    s->candidate = b ? t->dtype : MG_DTYPE_COUNT;
    if (b) s->bpw = 8.0 * mg_dtype_get(t->dtype)->block_bytes / mg_dtype_get(t->dtype)->block;
    if (a && b && s->reference != s->candidate) /* the same type holds the same values: no room at all */
        s->limit = fmax(mg_weight_limit(s->reference), mg_weight_limit(s->candidate));
    p[out->n++] = (pair){a, b, s};
    return MG_OK;
}

static mg_status list_pairs(mg_weight_diff *out, pair *p, mg_model *ref, mg_model *cand, uint32_t layers,
                            uint32_t experts, mg_error *err) {
    for (int role = 0; role < MG_ROLE_COUNT; role++) {
        mg_scope scope = mg_role_scope((mg_role)role);
        uint32_t nl = scope == MG_SCOPE_MODEL ? 1 : layers, ne = scope == MG_SCOPE_EXPERT ? experts : 1;
        for (uint32_t l = 0; l < nl; l++)
            for (uint32_t e = 0; e < ne; e++) MG_TRY(add_pair(out, p, ref, cand, (mg_role)role, l, e, err));
    }
    return MG_OK;
}

static double badness(const mg_weight_stat *s) {
    if (s->missing) return INFINITY;
    if (s->worst_block == 0) return 0;
    return s->limit > 0 ? s->worst_block / s->limit : 1e6 * (1 + s->worst_block);
}

static int by_badness(const void *x, const void *y) {
    const mg_weight_stat *a = x, *b = y;
    double p = badness(a), q = badness(b);
    if (p != q) return p < q ? 1 : -1;
    return strcmp(a->name, b->name);
}

static uint32_t larger(const mg_model *a, const mg_model *b, mg_key k) {
    int64_t x = mg_hp_i(a, k), y = mg_hp_i(b, k);
    return (uint32_t)(x > y ? x : y);
}

mg_status mg_weight_diff_run(mg_weight_diff *out, mg_model *ref, mg_model *cand, mg_pool *pool, mg_progress *progress,
                             mg_error *err) {
    memset(out, 0, sizeof *out);
    mg_arena_init(&out->arena, 0);
    uint32_t layers = larger(ref, cand, MG_K_LAYERS), experts = larger(ref, cand, MG_K_EXPERTS);
    size_t most = (size_t)MG_ROLE_COUNT * layers * (experts + 1u) + MG_ROLE_COUNT;
    pair *pairs = NULL;
    MG_TRY(MG_ARENA_NEW(&out->arena, &out->items, most, err));
    MG_TRY(MG_ARENA_NEW(&out->arena, &pairs, most, err));
    MG_TRY(list_pairs(out, pairs, ref, cand, layers, experts, err));
    work w = {ref, cand, pairs, progress};
    MG_TRY(mg_pool_run(pool, out->n, one_pair, &w, err));
    for (uint32_t i = 0; i < out->n; i++)
        out->n_bad += out->items[i].missing || out->items[i].worst_block > out->items[i].limit;
    qsort(out->items, out->n, sizeof *out->items, by_badness);
    return MG_OK;
}

void mg_weight_diff_release(mg_weight_diff *d) {
    mg_arena_release(&d->arena);
    memset(d, 0, sizeof *d);
}
