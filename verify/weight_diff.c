/* weight_diff.c - see weight_diff.h. */
#include "verify/weight_diff.h"
#include "verify/weight_fold.h"
#include "verify/weight_nearest.h"

#include "formats/base/checked.h"
#include "quant/read_f32.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TILE_BYTES (1u << 20)

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

void mg_worst_block_scan(mg_worst_block *w, const float *x, const float *y, uint64_t row, uint64_t rows, uint64_t cols,
                         double floor_rms) {
    for (uint64_t r = 0; r < rows; r++)
        for (uint64_t c = 0; c < cols; c += MG_WEIGHT_BLOCK) {
            uint64_t n = cols - c < MG_WEIGHT_BLOCK ? cols - c : MG_WEIGHT_BLOCK;
            double dd = 0, xx = 0;
            for (uint64_t i = r * cols + c; i < r * cols + c + n; i++) {
                double d = (double)y[i] - (double)x[i];
                dd += d * d;
                xx += (double)x[i] * (double)x[i];
            }
            double scale = fmax(sqrt(xx / (double)n), floor_rms);
            double rel = dd == 0 ? 0 : scale > 0 ? sqrt(dd / (double)n) / scale : (double)INFINITY;
            if (rel <= w->error) continue; /* a NaN is worse than everything */
            *w = (mg_worst_block){isnan(rel) ? (double)INFINITY : rel, row + r, c};
        }
}

/* Of a padded vector, one row, both sides hold more than cols: the reference's tail is overwritten by the candidate's.
 */
mg_status mg_weight_pair_read(const mg_weight_work *w, const mg_weight_pair *p, uint64_t row, uint64_t n, uint64_t cols,
                              float *buf, mg_error *err) {
    MG_TRY(mg_read_f32(w->ref, p->a, row, n, buf, err));
    MG_TRY(mg_read_f32(w->cand, p->b, row, n, buf + n * cols, err));
    float *y = buf + n * cols;
    for (uint64_t i = 0; p->undo && i < n * cols; i++) y[i] *= p->undo[i % cols];
    for (uint64_t i = 0; p->undo_rows && i < n * cols; i++) y[i] *= p->undo_rows[row + i / cols];
    return MG_OK;
}

/* Whether the very values can be asked for. An added offset rounds once more, undone factors round anew. */
static bool is_exact(const mg_weight_pair *p) {
    const mg_weight_stat *s = p->stat;
    const mg_weight_stored *c = &s->candidate;
    if (mg_weight_stored_same(&s->reference, c) || c->bits || !mg_weight_exact_has(c->dtype)) return false;
    if (p->undo || p->undo_rows || p->a->shape[p->a->rank - 1] % mg_dtype_get(c->dtype)->block) return false;
    for (unsigned i = 0; i < MG_MAX_VIEWS; i++)
        if (p->a->views[i].kind == MG_VIEW_ADD || p->b->views[i].kind == MG_VIEW_ADD) return false;
    return true;
}

static mg_status compare(const mg_weight_work *w, const mg_weight_pair *p, float *buf, uint64_t tile, mg_error *err) {
    const uint64_t rows = p->rows, cols = p->cols;
    mg_weight_stat *stat = p->stat;
    sums s = {0};
    for (uint64_t r = 0; r < rows; r += tile) {
        uint64_t n = rows - r < tile ? rows - r : tile;
        MG_TRY(mg_weight_pair_read(w, p, r, n, cols, buf, err));
        scan_totals(buf, buf + n * cols, n * cols, &s, stat);
    }
    stat->n = rows * cols;
    double floor_rms = MG_WEIGHT_FLOOR * sqrt(s.ref_sq / (double)(stat->n ? stat->n : 1));
    mg_worst_block worst = {0};
    const bool exact = is_exact(p);
    stat->exact = (mg_weight_exact){0};
    for (uint64_t r = 0; s.diff_sq != 0 && r < rows; r += tile) {
        uint64_t n = rows - r < tile ? rows - r : tile;
        MG_TRY(mg_weight_pair_read(w, p, r, n, cols, buf, err));
        mg_worst_block_scan(&worst, buf, buf + n * cols, r, n, cols, floor_rms);
        if (exact)
            MG_TRY(mg_weight_exact_scan(&stat->exact, stat->candidate.dtype, buf, buf + n * cols, r, n, cols, err));
    }
    stat->worst_block = worst.error;
    stat->worst_row = worst.row;
    stat->worst_col = worst.col;
    stat->error = s.diff_sq == 0 ? 0 : s.ref_sq > 0 ? sqrt(s.diff_sq / s.ref_sq) : (double)INFINITY;
    if (isnan(stat->error)) stat->error = (double)INFINITY;
    stat->rmse = sqrt(s.diff_sq / (double)(stat->n ? stat->n : 1));
    stat->snr_db = s.diff_sq > 0 ? 10 * log10(s.ref_sq / s.diff_sq) : INFINITY;
    return MG_OK;
}

static uint64_t larger_of(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

mg_status mg_weight_pair_compare(const mg_weight_work *w, const mg_weight_pair *p, mg_error *err) {
    if (!mg_weight_pair_both(p)) return MG_OK;
    const uint64_t cols = p->cols, rows = p->rows;
    const uint64_t widest = larger_of(p->a->shape[p->a->rank - 1], p->b->shape[p->b->rank - 1]);
    uint64_t bytes;
    uint64_t tile = cols < TILE_BYTES / sizeof(float) ? TILE_BYTES / sizeof(float) / (cols ? cols : 1) : 1;
    if (tile > rows) tile = rows;
    float *buf = NULL;
    mg_status st = MG_OK;
    if (!mg_mul_u64(tile, widest, &bytes) || !mg_mul_u64(bytes, 2 * sizeof *buf, &bytes))
        st = mg_fail(err, MG_ERR_LIMIT, "rows of %llu weights are too long", (unsigned long long)cols);
    else if (!(buf = malloc(bytes + 1)))
        st = mg_fail_nomem(err, bytes);
    if (st == MG_OK) st = compare(w, p, buf, tile, err);
    free(buf);
    if (st != MG_OK) mg_error_at(err, NULL, p->stat->name);
    mg_progress_add(w->progress, (uint64_t)((double)p->stat->n * p->stat->candidate.bpw / 8), p->stat->name);
    return st;
}

static mg_status one_pair(void *ctx, uint64_t i, unsigned worker, mg_error *err) {
    (void)worker;
    const mg_weight_work *w = ctx;
    return mg_weight_pair_compare(w, &w->pairs[i], err);
}

/* ---- which weights there are ---- */

/* A dimension is the vocabulary's, and both have the ids that count. */
static bool padded(const mg_bound *a, const mg_bound *b, mg_role role, uint64_t ids) {
    if (role != MG_R_TOKEN_EMBD && role != MG_R_OUTPUT && role != MG_R_OUTPUT_BIAS) return false;
    return ids && a->rank == b->rank && a->shape[0] >= ids && b->shape[0] >= ids &&
           memcmp(a->shape + 1, b->shape + 1, (a->rank - 1) * sizeof *a->shape) == 0;
}

/* A weight of a feed-forward block (the last roles of roles.inc) that is dense on one side and a mixture on the other.
 */
static bool dense_and_mixture(const mg_model *ref, const mg_model *cand, mg_role role, uint32_t l) {
    if (role < MG_R_FFN_GATE || (int64_t)l >= mg_hp_i(ref, MG_K_LAYERS) || (int64_t)l >= mg_hp_i(cand, MG_K_LAYERS))
        return false;
    return ref->layers[l].moe != cand->layers[l].moe;
}

mg_status mg_weight_pair_begin(const mg_weight_work *w, mg_weight_pair *p, bool of_expert, uint64_t ids,
                               mg_arena *names, mg_error *err) {
    const mg_bound *a = p->a, *b = p->b;
    const mg_tensor *t = b ? mg_model_tensor(w->cand, b) : mg_model_tensor(w->ref, a);
    const bool same = a && b && mg_bound_same_shape(a, b), part = a && b && !same && padded(a, b, p->role, ids);
    const bool apart = (!a || !b) && dense_and_mixture(w->ref, w->cand, p->role, p->layer);
    mg_weight_stat *s = p->stat;
    *s = (mg_weight_stat){.expert = p->expert, .apart = apart, .missing = !same && !part && !apart};
    s->name = of_expert && t->rank == 3 ? mg_arena_printf(names, "%s[%u]", t->name, p->expert)
                                        : mg_arena_strdup(names, t->name);
    if (!s->name) return mg_fail_nomem(err, strlen(t->name));
    s->reference = mg_weight_stored_of(w->ref, a);
    s->candidate = mg_weight_stored_of(w->cand, b);
    if (!mg_weight_stored_same(&s->reference, &s->candidate))
        s->limits = mg_weight_limits_join(s->reference.limits, s->candidate.limits);
    if (!same && !part) return MG_OK;
    p->rows = mg_bound_rows(a);
    p->cols = a->shape[a->rank - 1];
    if (same) return MG_OK;
    *(a->rank == 1 ? &p->cols : &p->rows) = s->ids = ids;
    s->padding_reference = a->shape[0] - ids;
    s->padding_candidate = b->shape[0] - ids;
    return MG_OK;
}

static mg_status add_pair(mg_weight_diff *out, const mg_weight_work *w, mg_role role, uint32_t l, uint32_t e,
                          uint64_t ids, mg_error *err) {
    mg_model *ref = w->ref, *cand = w->cand;
    const mg_bound *a = mg_model_find(ref, role, l, e), *b = mg_model_find(cand, role, l, e);
    if (!a && role == MG_R_OUTPUT && b) a = mg_model_find(ref, MG_R_TOKEN_EMBD, 0, 0); /* tied on one side only */
    if (!b && role == MG_R_OUTPUT && a) b = mg_model_find(cand, MG_R_TOKEN_EMBD, 0, 0);
    const bool factors = role == MG_R_ROPE_FREQS || role == MG_R_ROPE_FACTORS_LONG || role == MG_R_ROPE_FACTORS_SHORT;
    if (factors || (!a && !b)) return MG_OK; /* rope factors are the config in another form */
    mg_weight_pair *p = &w->pairs[out->n];
    *p = (mg_weight_pair){.a = a, .b = b, .stat = &out->items[out->n], .role = role, .layer = l, .expert = e};
    out->n++;
    MG_TRY(mg_weight_pair_begin(w, p, mg_role_scope(role) == MG_SCOPE_EXPERT, ids, &out->arena, err));
    out->n_apart += p->stat->apart;
    return MG_OK;
}

static mg_status list_pairs(mg_weight_diff *out, const mg_weight_work *w, uint32_t layers, uint64_t ids,
                            mg_error *err) {
    for (int role = 0; role < MG_ROLE_COUNT; role++) {
        mg_scope scope = mg_role_scope((mg_role)role);
        uint32_t nl = scope == MG_SCOPE_MODEL ? 1 : layers, ne;
        const uint32_t a = mg_scope_count(scope, &w->ref->hp), b = mg_scope_count(scope, &w->cand->hp);
        ne = a > b ? a : b;
        for (uint32_t l = 0; l < nl; l++)
            for (uint32_t e = 0; e < ne; e++) MG_TRY(add_pair(out, w, (mg_role)role, l, e, ids, err));
    }
    return MG_OK;
}

/* How far over its limit, most over first; behind what is missing come experts in the wrong place, then what may not
 * differ at all and does. */
static double badness(const mg_weight_stat *s) {
    if (s->missing) return (double)INFINITY;
    if (s->exchanged) return 1e12 * (1 + s->error / (s->error + s->nearest_error));
    if (s->apart) return -1;
    if (s->worst_block == 0 || s->refolded) return 0;
    if (s->limits.block == 0) return 1e6 * (1 + s->worst_block);
    return fmax(s->worst_block / s->limits.block, s->error / s->limits.total) + mg_weight_exact_broken(&s->exact);
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

mg_status mg_weight_diff_run(mg_weight_diff *out, mg_model *ref, mg_model *cand, uint64_t ids, mg_pool *pool,
                             mg_progress *progress, mg_error *err) {
    *out = (mg_weight_diff){.expert = -1};
    mg_arena_init(&out->arena, 0);
    uint32_t layers = larger(ref, cand, MG_K_LAYERS);
    size_t most = ref->n_bounds + cand->n_bounds; /* each weight has a place in at least one of the two */
    mg_weight_pair *pairs = NULL;
    MG_TRY(MG_ARENA_NEW(&out->arena, &out->items, most, err));
    MG_TRY(MG_ARENA_NEW(&out->arena, &pairs, most, err));
    mg_weight_work w = {ref, cand, pairs, progress};
    MG_TRY(list_pairs(out, &w, layers, ids, err));
    MG_TRY(mg_pool_run(pool, out->n, one_pair, &w, err));
    w.progress = NULL; /* every weight has been counted */
    MG_TRY(mg_weight_expert_find(&w, out, err));
    MG_TRY(mg_weight_folds_undo(&w, out, err));
    MG_TRY(mg_weight_nearest_find(&w, out, pool, err));
    uint32_t n = 0; /* what is told elsewhere goes; pairs no longer point to their items */
    for (uint32_t i = 0; i < out->n; i++)
        if (!pairs[i].dropped) out->items[n++] = out->items[i];
    out->n = n;
    for (uint32_t i = 0; i < out->n; i++) out->n_bad += mg_weight_damaged(&out->items[i]);
    qsort(out->items, out->n, sizeof *out->items, by_badness);
    return MG_OK;
}

void mg_weight_diff_release(mg_weight_diff *d) {
    mg_arena_release(&d->arena);
    memset(d, 0, sizeof *d);
}
