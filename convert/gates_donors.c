/* gates_donors.c - see gates_donors.h. */
#include "convert/gates_donors.h"

#include "formats/arch/arch.h"
#include "formats/base/mix64.h"
#include "quant/math/gram.h"
#include "quant/read_f32.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TILE_ROWS      256u
#define MAX_ITERATIONS 2000u
#define SETTLED        1e-12 /* 1 - |cosine| between two iterates */
#define CHUNK          1024u /* tokens a layer is run on at a time */

static uint64_t hidden_of(const mg_merge *m) {
    return (uint64_t)mg_hp_i(m->result, MG_K_HIDDEN);
}

static mg_donor *donor_of(const mg_merge *m, uint32_t entry) {
    return &m->donors[entry + 1];
}

/* ---- rows of the donors' routers ---- */

static mg_status own_row(const mg_merge *m, const mg_merge_unit *u, uint32_t layer, float *row, mg_error *err) {
    mg_donor *d = donor_of(m, u->entry);
    const mg_bound *b = mg_model_find(d->model, MG_R_ROUTER, layer, 0);
    if (!b)
        return mg_fail(err, MG_ERR_CONFLICT, "'%s' has no router in layer %u whose rows could be kept", d->name, layer);
    return mg_read_f32(d->model, b, u->expert, 1, row, err);
}

mg_status mg_gates_keep(const mg_merge *m, uint32_t stride, float *rows, mg_error *err) {
    for (uint32_t l = 0; l < (uint32_t)mg_hp_i(m->result, MG_K_LAYERS); l++)
        for (uint32_t e = 0; m->routers[l] && e < m->units.per_layer; e++)
            MG_TRY(own_row(m, mg_merge_unit_at(&m->units, l, e), l, rows + ((uint64_t)l * stride + e) * hidden_of(m),
                           err));
    return MG_OK;
}

/* ---- svd ---- */

typedef struct svd {
    const mg_merge *m;
    mg_pool *pool;
    mg_gram gram;
    double *sum, *v, *next; /* [hidden] sum of the rows; iterates */
    float *tile;            /* [2][TILE_ROWS][hidden] */
} svd;

/* The rows of D that belong to a unit, into the Gram matrix and their sum. */
static mg_status add_difference(svd *s, const mg_merge_unit *u, uint32_t layer, mg_error *err) {
    mg_donor *d = donor_of(s->m, u->entry), *base = &s->m->donors[0];
    bool mixture = mg_hp_i(d->model, MG_K_EXPERTS) > 0;
    const mg_bound *b = mg_model_find(d->model, mixture ? MG_R_EXPERT_GATE : MG_R_FFN_GATE, layer, u->expert);
    const mg_bound *c = mg_model_find(base->model, MG_R_FFN_GATE, layer, 0);
    if (!b || !c)
        return mg_fail(err, MG_ERR_CONFLICT, "'%s' has no dense block in layer %u for svd to compare with",
                       c ? d->name : base->name, layer);
    uint64_t hidden = hidden_of(s->m), n = s->m->units.ffn, first = u->slice * n;
    if (mg_bound_rows(c) < first + n)
        return mg_fail(err, MG_ERR_CONFLICT, "'%s' has another inner size than the base", d->name);
    for (uint64_t r = 0; r < n; r += TILE_ROWS) {
        uint64_t k = n - r < TILE_ROWS ? n - r : TILE_ROWS;
        float *x = s->tile, *y = s->tile + TILE_ROWS * hidden;
        MG_TRY(mg_read_f32(d->model, b, first + r, k, x, err));
        MG_TRY(mg_read_f32(base->model, c, first + r, k, y, err));
        for (uint64_t i = 0; i < k * hidden; i++) x[i] -= y[i];
        for (uint64_t i = 0; i < k * hidden; i++) s->sum[i % hidden] += (double)x[i];
        MG_TRY(mg_gram_rows(&s->gram, x, NULL, k, s->pool, err));
    }
    return mg_gram_finish(&s->gram, s->pool, err);
}

static double dot(const double *a, const double *b, uint64_t n) {
    double s = 0;
    for (uint64_t i = 0; i < n; i++) s += a[i] * b[i];
    return s;
}

static bool make_unit(double *v, uint64_t n) {
    double length = sqrt(dot(v, v, n));
    for (uint64_t i = 0; i < n; i++) v[i] /= length;
    return length > 0;
}

/* v [hidden] becomes the eigenvector of the Gram matrix's largest eigenvalue; false when the matrix is zero. */
static bool iterate(svd *s) {
    uint64_t n = hidden_of(s->m), state = 0;
    for (uint64_t i = 0; i < n; i++) s->v[i] = 2 * mg_unit_from(mg_mix64_next(&state)) - 1;
    make_unit(s->v, n);
    for (unsigned k = 0; k < MAX_ITERATIONS; k++) {
        for (uint64_t i = 0; i < n; i++) {
            double y = 0;
            for (uint64_t j = 0; j < n; j++) y += (double)mg_gram_at(&s->gram, j, i) * s->v[j];
            s->next[i] = y;
        }
        if (!make_unit(s->next, n)) return false;
        double c = dot(s->v, s->next, n);
        memcpy(s->v, s->next, n * sizeof *s->v);
        if (1 - fabs(c) < SETTLED) break;
    }
    if (dot(s->v, s->sum, n) < 0)
        for (uint64_t i = 0; i < n; i++) s->v[i] = -s->v[i];
    return true;
}

static mg_status svd_row(svd *s, uint32_t layer, uint32_t e, float *row, mg_error *err) {
    uint64_t n = hidden_of(s->m);
    const mg_merge_unit *u = mg_merge_unit_at(&s->m->units, layer, e);
    MG_TRY(mg_gram_init(&s->gram, n, err));
    memset(s->sum, 0, n * sizeof *s->sum);
    mg_status st = add_difference(s, u, layer, err);
    if (st == MG_OK && !iterate(s))
        st = mg_fail(err, MG_ERR_CONFLICT, "'%s' does not differ from the base in layer %u: svd has nothing to go by",
                     donor_of(s->m, u->entry)->name, layer);
    for (uint64_t i = 0; st == MG_OK && i < n; i++) row[i] = (float)s->v[i];
    mg_gram_release(&s->gram);
    return st;
}

mg_status mg_gates_svd(const mg_merge *m, mg_pool *pool, uint32_t stride, float *rows, mg_error *err) {
    uint64_t n = hidden_of(m);
    svd s = {
        .m = m, .pool = pool, .sum = malloc(3 * n * sizeof *s.sum), .tile = malloc(2 * TILE_ROWS * n * sizeof *s.tile)};
    mg_status st = s.sum && s.tile ? MG_OK : mg_fail_nomem(err, 2 * TILE_ROWS * n * sizeof *s.tile);
    if (st == MG_OK) {
        s.v = s.sum + n;
        s.next = s.v + n;
    }
    for (uint32_t l = 0; st == MG_OK && l < (uint32_t)mg_hp_i(m->result, MG_K_LAYERS); l++)
        for (uint32_t e = 0; st == MG_OK && m->routers[l] && e < m->units.per_layer; e++)
            st = svd_row(&s, l, e, rows + ((uint64_t)l * stride + e) * n, err);
    free(s.sum);
    free(s.tile);
    return st;
}

/* ---- one of several ---- */

/* The how manyth unit of an entry in a layer; NULL: there are not so many. */
static const mg_merge_unit *nth_unit(const mg_merge *m, uint32_t layer, uint32_t entry, uint32_t nth) {
    for (uint32_t e = 0; e < m->units.per_layer; e++) {
        const mg_merge_unit *u = mg_merge_unit_at(&m->units, layer, e);
        if (u->entry == entry && nth-- == 0) return u;
    }
    return NULL;
}

static uint32_t best_of(const double *score, uint32_t n) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (score[i] > score[best]) best = i;
    return best;
}

/* score [n units] of each token by the donor's own router. */
static mg_status choose_by_router(const mg_merge *m, const mg_gate_group *g, uint32_t n, double *score, mg_error *err) {
    uint64_t hidden = hidden_of(m);
    float *rows = malloc(n * hidden * sizeof *rows);
    if (!rows) return mg_fail_nomem(err, n * hidden * sizeof *rows);
    mg_status st = MG_OK;
    for (uint32_t k = 0; st == MG_OK && k < n; k++)
        st = own_row(m, nth_unit(m, g->layer, g->entry, k), g->layer, rows + k * hidden, err);
    for (uint64_t t = 0; st == MG_OK && t < g->n; t++) {
        for (uint32_t k = 0; k < n; k++) {
            score[k] = 0;
            for (uint64_t i = 0; i < hidden; i++)
                score[k] += (double)g->in[t * hidden + i] * (double)rows[k * hidden + i];
        }
        g->place[t] = best_of(score, n);
    }
    free(rows);
    return st;
}

/* What a slice adds to a token's residual stream, taking inner units as independent. */
typedef struct shares {
    const mg_gate_group *g;
    double *weight; /* [ffn] |down_j|^2 */
    double *score;  /* [n] */
    uint32_t n;     /* slices */
    uint64_t first; /* token of the batch that the chunk being run begins with */
    uint64_t next;  /* token in question that comes next */
} shares;

static mg_status column_squares(mg_model *d, uint32_t layer, double *weight, mg_error *err) {
    const mg_bound *b = mg_model_find(d, MG_R_FFN_DOWN, layer, 0);
    if (!b) return mg_fail(err, MG_ERR_FORMAT, "'%s' has no dense block in layer %u", d->ckpt->path, layer);
    uint64_t rows = mg_bound_rows(b), cols = b->shape[1];
    float *x = malloc(cols * sizeof *x);
    mg_status st = x ? MG_OK : mg_fail_nomem(err, cols * sizeof *x);
    memset(weight, 0, cols * sizeof *weight);
    for (uint64_t r = 0; st == MG_OK && r < rows; r++) {
        st = mg_read_f32(d, b, r, 1, x, err);
        for (uint64_t j = 0; st == MG_OK && j < cols; j++) weight[j] += (double)x[j] * (double)x[j];
    }
    free(x);
    return st;
}

static mg_status on_inner(void *ctx, const mg_tap *tap, mg_error *err) {
    shares *s = ctx;
    const mg_gate_group *g = s->g;
    if (tap->point != MG_TAP_FFN_DOWN_IN) return MG_OK;
    (void)err;
    const uint64_t size = tap->cols / s->n;
    for (; s->next < g->n && g->token[s->next] < s->first + tap->rows; s->next++) {
        const float *h = tap->data + (g->token[s->next] - s->first) * tap->cols;
        for (uint32_t k = 0; k < s->n; k++) {
            s->score[k] = 0;
            for (uint64_t j = k * size; j < (k + 1) * size; j++)
                s->score[k] += (double)h[j] * (double)h[j] * s->weight[j];
        }
        g->place[s->next] = best_of(s->score, s->n);
    }
    return MG_OK;
}

static mg_status choose_slice(const mg_gates_donors *c, const mg_gate_group *g, uint32_t n, double *score,
                              mg_error *err) {
    mg_model *d = donor_of(c->merge, g->entry)->model;
    const uint64_t hidden = hidden_of(c->merge), ffn = (uint64_t)mg_hp_i(d, MG_K_FFN);
    uint64_t longest = CHUNK;
    for (uint32_t q = 0; q < g->batch->n_seqs; q++)
        if (g->batch->len[q] > longest) longest = g->batch->len[q];
    shares s = {.g = g, .weight = malloc(ffn * sizeof *s.weight), .score = score, .n = n};
    float *x = malloc(longest * hidden * sizeof *x); /* the donor's block adds to it */
    mg_status st = s.weight && x ? column_squares(d, g->layer, s.weight, err)
                                 : mg_fail_nomem(err, longest * hidden * sizeof *x + ffn * sizeof *s.weight);
    for (uint32_t q = 0; st == MG_OK && q < g->batch->n_seqs;) {
        mg_batch b = mg_batch_chunk(g->batch, q, CHUNK);
        memcpy(x, g->x + s.first * hidden, b.n_tokens * hidden * sizeof *x);
        st = c->eval->run_layer(c->eval->self, d, g->layer, MG_PART_FFN, &b, x, on_inner, &s, err);
        s.first += b.n_tokens;
        q += b.n_seqs;
    }
    free(s.weight);
    free(x);
    return st;
}

mg_status mg_gates_choose(void *ctx, const mg_gate_group *g, mg_error *err) {
    const mg_gates_donors *c = ctx;
    uint32_t n = 0;
    while (nth_unit(c->merge, g->layer, g->entry, n)) n++;
    double *score = malloc(n * sizeof *score);
    if (!score) return mg_fail_nomem(err, n * sizeof *score);
    mg_status st = nth_unit(c->merge, g->layer, g->entry, 0)->slices > 1 ? choose_slice(c, g, n, score, err)
                                                                         : choose_by_router(c->merge, g, n, score, err);
    free(score);
    return st;
}
