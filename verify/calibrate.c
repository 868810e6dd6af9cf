/* calibrate.c - see calibrate.h. */
#include "verify/calibrate.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "formats/arch/arch.h"
#include "verify/fbuf.h"

#define DEFAULT_MEMORY (1ull << 30)

/* Where weights take their inputs. */
typedef enum point {
    P_ATTN_IN,
    P_ATTN_O_IN,
    P_FFN_IN,
    P_FFN_DOWN_IN,
    P_EXPERT_IN,
    P_EXPERT_DOWN_IN,
    P_SHARED_DOWN_IN,
    POINTS
} point;

typedef struct sums {
    uint64_t cols, n_mat; /* cols 0: nothing seen yet */
    double *sums;
    int64_t *counts;
} sums;

struct mg_calibration {
    mg_forward *f;
    mg_model *m;
    uint32_t layers, experts;
    sums (*at)[POINTS]; /* [layers] */
    sums head;          /* input of the output head */
    bool output;
    /* of the batch under way */
    mg_progress *progress;
};

mg_status mg_calibration_new(mg_calibration **out, mg_forward *f, mg_model *m, bool output, mg_error *err) {
    mg_calibration *c = calloc(1, sizeof *c);
    if (!c) return mg_fail_nomem(err, sizeof *c);
    c->f = f;
    c->m = m;
    c->layers = (uint32_t)mg_hp_i(m, MG_K_LAYERS);
    c->experts = (uint32_t)mg_hp_i(m, MG_K_EXPERTS);
    c->output = output;
    c->at = calloc(c->layers, sizeof *c->at);
    if (!c->at) {
        const uint64_t bytes = c->layers * sizeof *c->at;
        mg_calibration_free(c);
        return mg_fail_nomem(err, bytes);
    }
    *out = c;
    return MG_OK;
}

static void release(sums *s) {
    free(s->sums);
    free(s->counts);
}

void mg_calibration_free(mg_calibration *c) {
    if (!c) return;
    for (uint32_t l = 0; c->at && l < c->layers; l++)
        for (int p = 0; p < POINTS; p++) release(&c->at[l][p]);
    release(&c->head);
    free(c->at);
    free(c);
}

/* ---- adding ---- */

typedef struct add_run {
    double *sums;
    const float *x;
    uint64_t rows, cols;
} add_run;

enum { COLS_PER_TICKET = 64 }; /* a few cache lines of a row; every channel belongs to one ticket */

static mg_status add_ticket(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    (void)worker;
    const add_run *r = ctx;
    const uint64_t from = ticket * COLS_PER_TICKET;
    const uint64_t n = r->cols - from < COLS_PER_TICKET ? r->cols - from : COLS_PER_TICKET;
    double s[COLS_PER_TICKET];
    for (uint64_t i = 0; i < n; i++) s[i] = r->sums[from + i];
    for (uint64_t t = 0; t < r->rows; t++) {
        const float *x = r->x + t * r->cols + from;
        for (uint64_t i = 0; i < n; i++) s[i] += (double)x[i] * (double)x[i];
    }
    for (uint64_t i = 0; i < n; i++) {
        if (!isfinite(s[i]))
            return mg_fail(err, MG_ERR_FORMAT, "the model computes values that are not finite (channel %llu)",
                           (unsigned long long)(from + i));
        r->sums[from + i] = s[i];
    }
    return MG_OK;
}

static mg_status prepare(sums *s, uint64_t cols, uint64_t n_mat, mg_error *err) {
    if (s->cols == cols && s->n_mat == n_mat) return MG_OK;
    if (s->cols) return mg_fail(err, MG_ERR_INTERNAL, "activations of another width than before");
    s->sums = calloc(n_mat * cols, sizeof *s->sums);
    s->counts = calloc(n_mat, sizeof *s->counts);
    if (!s->sums || !s->counts) return mg_fail_nomem(err, n_mat * cols * sizeof *s->sums);
    s->cols = cols;
    s->n_mat = n_mat;
    return MG_OK;
}

static mg_status add(const mg_calibration *c, sums *s, uint64_t n_mat, uint32_t mat, const mg_tap *t, mg_error *err) {
    MG_TRY(prepare(s, t->cols, n_mat, err));
    add_run r = {.sums = s->sums + mat * t->cols, .x = t->data, .rows = t->rows, .cols = t->cols};
    s->counts[mat] += (int64_t)t->rows;
    return mg_pool_run(mg_forward_pool(c->f), (t->cols + COLS_PER_TICKET - 1) / COLS_PER_TICKET, add_ticket, &r, err);
}

static point point_of_tap(mg_tap_point p) {
    switch (p) {
    case MG_TAP_ATTN_IN:
        return P_ATTN_IN;
    case MG_TAP_ATTN_O_IN:
        return P_ATTN_O_IN;
    case MG_TAP_FFN_IN:
        return P_FFN_IN;
    case MG_TAP_FFN_DOWN_IN:
        return P_FFN_DOWN_IN;
    case MG_TAP_EXPERT_IN:
        return P_EXPERT_IN;
    case MG_TAP_EXPERT_DOWN_IN:
        return P_EXPERT_DOWN_IN;
    case MG_TAP_SHARED_DOWN_IN:
        return P_SHARED_DOWN_IN;
    case MG_TAP_ROUTER_LOGITS:
    case MG_TAP_EXPERT_OUT:
    case MG_TAP_LAYER_OUT:
        break;
    }
    return POINTS;
}

static mg_status on_tap(void *ctx, const mg_tap *t, mg_error *err) {
    mg_calibration *c = ctx;
    const point p = point_of_tap(t->point);
    const uint64_t layer = t->layer, layers = c->layers;
    if (t->point == MG_TAP_LAYER_OUT) /* a layer's share of the batch's tokens */
        mg_progress_add(c->progress, t->rows * (layer + 1) / layers - t->rows * layer / layers, NULL);
    if (p == POINTS) return MG_OK;
    const bool expert = p == P_EXPERT_IN || p == P_EXPERT_DOWN_IN;
    mg_status st = add(c, &c->at[layer][p], expert ? c->experts : 1, expert ? t->expert : 0, t, err);
    if (st != MG_OK) {
        char where[64];
        snprintf(where, sizeof where, "layer %u", t->layer);
        mg_error_at(err, NULL, where);
    }
    return st;
}

/* ---- running ---- */

static mg_status run_batch(mg_calibration *c, const mg_windows *w, uint64_t from, uint64_t to, mg_fbuf *x,
                           mg_error *err) {
    const uint64_t hidden = (uint64_t)mg_hp_i(c->m, MG_K_HIDDEN), n = to - from;
    uint64_t tokens = 0;
    if (n > UINT32_MAX) return mg_fail(err, MG_ERR_LIMIT, "too many sequences");
    uint32_t *len = malloc(n * sizeof *len);
    if (!len) return mg_fail_nomem(err, n * sizeof *len);
    for (uint64_t i = 0; i < n; i++) tokens += len[i] = w->items[from + i].len;
    const mg_batch batch = {.n_seqs = (uint32_t)n, .len = len, .n_tokens = tokens};
    mg_status st = mg_fbuf_need(x, tokens, hidden, err);
    if (st == MG_OK) st = mg_forward_run(c->f, c->m, NULL, &batch, w->ids + w->items[from].at, x->p, on_tap, c, err);
    if (st == MG_OK && c->output) {
        const mg_tap t = {.rows = tokens, .cols = hidden, .data = x->p};
        st = mg_forward_final_norm(c->f, c->m, x->p, tokens, x->p, err);
        if (st == MG_OK) st = add(c, &c->head, 1, 0, &t, err);
    }
    free(len);
    return st;
}

mg_status mg_calibration_run(mg_calibration *c, const mg_windows *w, uint64_t n, uint64_t memory, mg_progress *progress,
                             mg_error *err) {
    const uint64_t hidden = (uint64_t)mg_hp_i(c->m, MG_K_HIDDEN);
    const uint64_t room = (memory ? memory : DEFAULT_MEMORY) / (mg_forward_token_bytes(c->f, c->m) + 4 * hidden);
    mg_fbuf x = {0};
    mg_status st = MG_OK;
    c->progress = progress;
    if (n > w->n) n = w->n;
    for (uint64_t from = 0, to = 0; st == MG_OK && from < n; from = to) {
        uint64_t tokens = 0;
        while (to < n && (to == from || tokens + w->items[to].len <= room)) tokens += w->items[to++].len;
        if (tokens) st = run_batch(c, w, from, to, &x, err);
    }
    mg_fbuf_release(&x);
    return st;
}

/* ---- results ---- */

static point point_of_role(mg_role r) {
    switch (r) {
    case MG_R_ATTN_Q:
    case MG_R_ATTN_K:
    case MG_R_ATTN_V:
    case MG_R_ATTN_GATE:
        return P_ATTN_IN;
    case MG_R_ATTN_O:
        return P_ATTN_O_IN;
    case MG_R_FFN_GATE:
    case MG_R_FFN_UP:
    case MG_R_ROUTER:
    case MG_R_SHARED_ROUTER:
    case MG_R_SHARED_GATE:
    case MG_R_SHARED_UP:
        return P_FFN_IN;
    case MG_R_FFN_DOWN:
        return P_FFN_DOWN_IN;
    case MG_R_EXPERT_GATE:
    case MG_R_EXPERT_UP:
        return P_EXPERT_IN;
    case MG_R_EXPERT_DOWN:
        return P_EXPERT_DOWN_IN;
    case MG_R_SHARED_DOWN:
        return P_SHARED_DOWN_IN;
    default:
        return POINTS;
    }
}

static const sums *sums_of(const mg_calibration *c, const mg_part *part) {
    const mg_role head = mg_model_find(c->m, MG_R_OUTPUT, 0, 0) ? MG_R_OUTPUT : MG_R_TOKEN_EMBD;
    if (c->output && part->role == head) return &c->head;
    const point p = point_of_role(part->role);
    return p == POINTS ? NULL : &c->at[part->layer][p];
}

mg_status mg_calibration_entries(const mg_calibration *c, mg_imatrix_set *s, mg_error *err) {
    mg_targets t;
    mg_status st = mg_arch_targets(&t, c->m->arch, &c->m->hp, c->m->layers, MG_LAYOUT_GGUF, mg_model_has, c->m, err);
    for (size_t i = 0; st == MG_OK && i < t.n; i++) {
        const mg_target *x = &t.items[i];
        const sums *from = x->n_parts ? sums_of(c, &x->parts[0]) : NULL;
        if (!from || from->cols == 0) continue;
        const mg_imatrix_sums e = {
            .name = x->name, .cols = from->cols, .n_mat = from->n_mat, .sums = from->sums, .counts = from->counts};
        if (x->shape[x->rank - 1] != e.cols)
            st = mg_fail(err, MG_ERR_INTERNAL, "%s has rows of %llu values, its inputs %llu", x->name,
                         (unsigned long long)x->shape[x->rank - 1], (unsigned long long)e.cols);
        if (st == MG_OK) st = mg_imatrix_set_put(s, &e, err);
    }
    mg_targets_release(&t);
    return st;
}

const int64_t *mg_calibration_load(const mg_calibration *c, uint32_t layer, uint32_t *n) {
    const sums *s = layer < c->layers ? &c->at[layer][P_EXPERT_IN] : NULL;
    *n = s && s->cols ? (uint32_t)s->n_mat : 0;
    return *n ? s->counts : NULL;
}
