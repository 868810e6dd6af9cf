/* weight_fold.c - see weight_fold.h. */
#include "verify/weight_fold.h"

#include "quant/read_f32.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- a norm and what reads it ---- */

static bool reads_norm(mg_role norm, mg_role r) {
    switch (r) {
    case MG_R_ATTN_Q:
    case MG_R_ATTN_K:
    case MG_R_ATTN_V:
    case MG_R_ATTN_GATE:
    case MG_R_ATTN_Q_A:
    case MG_R_ATTN_KV_A:
        return norm == MG_R_ATTN_NORM;
    case MG_R_FFN_GATE:
    case MG_R_FFN_UP:
    case MG_R_ROUTER:
    case MG_R_SHARED_ROUTER:
    case MG_R_SHARED_GATE:
    case MG_R_SHARED_UP:
    case MG_R_EXPERT_GATE:
    case MG_R_EXPERT_UP:
        return norm == MG_R_FFN_NORM;
    default:
        return false;
    }
}

/* factor[i] = candidate / reference of a norm; false when a quotient says nothing. */
static mg_status norm_factors(const mg_weight_work *w, const mg_weight_pair *norm, float *factor, uint64_t cols,
                              bool *usable, mg_error *err) {
    float *ref = malloc(cols * sizeof *ref);
    if (!ref) return mg_fail_nomem(err, cols * sizeof *ref);
    mg_status st = mg_read_f32(w->ref, norm->a, 0, 1, ref, err);
    if (st == MG_OK) st = mg_read_f32(w->cand, norm->b, 0, 1, factor, err);
    *usable = st == MG_OK;
    for (uint64_t i = 0; *usable && i < cols; i++) {
        factor[i] /= ref[i];
        *usable = isfinite(factor[i]) && factor[i] != 0;
    }
    free(ref);
    return st;
}

/* What reads the rows of a weight as its columns, with nothing but products between them. */
static mg_role reader_of(mg_role r) {
    switch (r) {
    case MG_R_ATTN_V:
        return MG_R_ATTN_O;
    case MG_R_FFN_UP:
        return MG_R_FFN_DOWN;
    case MG_R_EXPERT_UP:
        return MG_R_EXPERT_DOWN;
    case MG_R_SHARED_UP:
        return MG_R_SHARED_DOWN;
    default:
        return MG_ROLE_COUNT;
    }
}

#define ESTIMATED 0.95 /* of an error: what makes estimated factors credible; by chance they change it by far less */

/* Compare a weight again under new factors; *balance counts those whose error has become less than `share` of what it
 * was, less the others. */
static mg_status again(mg_weight_work *w, mg_weight_pair *p, double share, int *balance, mg_error *err) {
    mg_weight_stat *s = p->stat;
    const double was = s->error;
    s->max_abs = 0;
    s->limits = mg_weight_limits_join(s->reference.limits, s->candidate.limits); /* rounded anew */
    MG_TRY(mg_weight_pair_compare(w, p, err));
    *balance += s->error < share * was ? 1 : -1;
    return MG_OK;
}

/* The readers of one norm compared again with its factors undone; kept when more of them are nearer that way. */
static mg_status try_fold(mg_weight_work *w, mg_weight_diff *d, mg_weight_pair *norm, mg_error *err) {
    const uint64_t cols = norm->a->shape[norm->a->rank - 1];
    int plain = 0, scaled = 0; /* votes of readers; v and up, whose rows may be scaled besides, count when alone */
    bool usable = false;
    float *factor = NULL;
    mg_weight_stat *was = malloc(d->n * sizeof *was);
    if (!was) return mg_fail_nomem(err, d->n * sizeof *was);
    memcpy(was, d->items, d->n * sizeof *was);
    mg_status st = MG_ARENA_NEW(&d->arena, &factor, cols, err);
    if (st == MG_OK) st = norm_factors(w, norm, factor, cols, &usable, err);
    for (uint32_t i = 0; st == MG_OK && usable && i < d->n; i++) {
        mg_weight_pair *p = &w->pairs[i];
        if (p->layer != norm->layer || !reads_norm(norm->role, p->role) || !mg_weight_pair_both(p)) continue;
        if (p->a->shape[p->a->rank - 1] != cols) continue;
        p->undo = factor;
        st = again(w, p, 1, reader_of(p->role) == MG_ROLE_COUNT ? &plain : &scaled, err);
    }
    norm->stat->refolded = st == MG_OK && (plain ? plain : scaled) > 0;
    if (!norm->stat->refolded) {
        memcpy(d->items, was, d->n * sizeof *was);
        for (uint32_t i = 0; i < d->n; i++)
            if (w->pairs[i].undo == factor) w->pairs[i].undo = NULL;
    }
    free(was);
    return st;
}

/* ---- rows of a weight and columns of its reader ---- */

/* inverse[r]: what row r of the candidate is to be multiplied by to be nearest to the reference's row, by least squares
 * of what it was multiplied by; false when a quotient says nothing. */
static mg_status row_factors(const mg_weight_work *w, const mg_weight_pair *p, float *inverse, bool *usable,
                             mg_error *err) {
    const uint64_t rows = mg_bound_rows(p->a), cols = p->a->shape[p->a->rank - 1];
    float *buf = malloc(2 * cols * sizeof *buf + 1);
    mg_status st = buf ? MG_OK : mg_fail_nomem(err, 2 * cols * sizeof *buf);
    *usable = true;
    for (uint64_t r = 0; st == MG_OK && *usable && r < rows; r++) {
        double xx = 0, xy = 0;
        st = mg_weight_pair_read(w, p, r, 1, cols, buf, err);
        for (uint64_t i = 0; st == MG_OK && i < cols; i++) {
            xx += (double)buf[i] * (double)buf[i];
            xy += (double)buf[i] * (double)buf[cols + i];
        }
        inverse[r] = (float)(xx / xy);
        *usable = isfinite(inverse[r]) && inverse[r] > 0;
    }
    free(buf);
    return st;
}

/* A weight and its reader compared again with the rows of the one and the columns of the other rescaled; kept when both
 * are nearer that way: the reader has no part in the estimate. Heads of v that several heads of the output read count
 * for each of them. */
static mg_status try_rows(mg_weight_work *w, mg_weight_diff *d, mg_weight_pair *from, mg_weight_pair *to,
                          mg_error *err) {
    const uint64_t rows = mg_bound_rows(from->a), cols = to->a->shape[to->a->rank - 1];
    const uint64_t head = from->role == MG_R_ATTN_V ? (uint64_t)mg_hp_i(w->ref, MG_K_V_HEAD_DIM) : rows;
    if (!head || !rows || rows % head || cols % rows) return MG_OK;
    float *inverse = NULL, *columns = NULL;
    bool usable = false;
    MG_TRY(MG_ARENA_NEW(&d->arena, &inverse, rows, err));
    MG_TRY(MG_ARENA_NEW(&d->arena, &columns, cols, err));
    MG_TRY(row_factors(w, from, inverse, &usable, err));
    if (!usable) return MG_OK;
    const uint64_t shared = cols / rows; /* heads of the output that read one of v */
    for (uint64_t c = 0; c < cols; c++) columns[c] = 1 / inverse[c / head / shared * head + c % head];
    const mg_weight_stat was[2] = {*from->stat, *to->stat};
    int balance = 0;
    from->undo_rows = inverse;
    to->undo = columns;
    MG_TRY(again(w, from, ESTIMATED, &balance, err));
    MG_TRY(again(w, to, ESTIMATED, &balance, err));
    if (balance == 2) return MG_OK;
    from->undo_rows = to->undo = NULL;
    *from->stat = was[0];
    *to->stat = was[1];
    return MG_OK;
}

static mg_status try_readers(mg_weight_work *w, mg_weight_diff *d, mg_error *err) {
    for (uint32_t i = 0; i < d->n; i++) {
        mg_weight_pair *p = &w->pairs[i];
        const mg_role reader = reader_of(p->role);
        if (reader == MG_ROLE_COUNT || !mg_weight_pair_both(p) || p->stat->error == 0) continue;
        if (!mg_weight_damaged(p->stat) && !p->stat->candidate.bits && !p->stat->reference.bits) continue;
        for (uint32_t k = 0; k < d->n; k++) {
            mg_weight_pair *q = &w->pairs[k];
            if (q->role == reader && q->layer == p->layer && q->expert == p->expert && mg_weight_pair_both(q) &&
                !q->undo)
                MG_TRY(try_rows(w, d, p, q, err));
        }
    }
    return MG_OK;
}

static mg_status try_folds(mg_weight_work *w, mg_weight_diff *d, mg_error *err) {
    for (uint32_t i = 0; i < d->n; i++) {
        mg_weight_pair *p = &w->pairs[i];
        const bool norm = p->role == MG_R_ATTN_NORM || p->role == MG_R_FFN_NORM;
        if (norm && mg_weight_pair_both(p) && mg_weight_damaged(p->stat)) MG_TRY(try_fold(w, d, p, err));
    }
    return MG_OK;
}

mg_status mg_weight_folds_undo(mg_weight_work *w, mg_weight_diff *d, mg_error *err) {
    MG_TRY(try_folds(w, d, err));
    return try_readers(w, d, err);
}
