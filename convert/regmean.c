/* regmean.c - see regmean.h. The residual streams of all donors are held, a layer's Gram matrices are gathered from the
 * taps before each projection, and the layer's solutions are written before the next layer runs. */
#include "convert/regmean.h"

#include "convert/gates_tokens.h"
#include "convert/stage_id.h"
#include "formats/arch/arch.h"
#include "quant/math/chol.h"
#include "quant/read_f32.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RIDGE 1e-6

/* Where the inputs of a weight are seen. */
typedef enum input { IN_ATTN, IN_ATTN_O, IN_HEAD, N_INPUTS } input;
static const struct {
    mg_role role;
    input input;
} covered[] = {{MG_R_ATTN_Q, IN_ATTN},
               {MG_R_ATTN_K, IN_ATTN},
               {MG_R_ATTN_V, IN_ATTN},
               {MG_R_ATTN_O, IN_ATTN_O},
               {MG_R_OUTPUT, IN_HEAD}};
enum { N_COVERED = sizeof covered / sizeof covered[0], ROWS = 256 /* of a weight, solved for at a time */ };

static void tensor_name(char *buf, size_t size, mg_role role, uint32_t layer) {
    snprintf(buf, size, "%s.%u", mg_role_name(role), layer);
}

uint32_t mg_regmean_find(const mg_checkpoint *c, mg_role role, uint32_t layer) {
    char name[64];
    tensor_name(name, sizeof name, role, layer);
    return mg_checkpoint_find(c, name);
}

/* One input in one layer: each donor's Gram matrix and their sum. In double: with fewer tokens than dimensions the
 * ridge alone makes the sum definite, and it is smaller than the rounding of f32. */
typedef struct side {
    uint64_t dim;
    double **own; /* [n][dim, dim] */
    double *sum;  /* [dim, dim] */
    double ridge;
} side;

typedef struct work {
    const mg_regmean *r;
    mg_prompt_batch *batch; /* [n] */
    float **x;              /* [n] residual streams */
    side sides[N_INPUTS];
    double *product;            /* [ROWS, widest] */
    float *rows;                /* [ROWS, widest] of one donor's weight, or a solution on its way to the file */
    uint64_t n_rows[N_COVERED]; /* 0: the models have no such weight of their own */
    uint32_t donor, layers;
    mg_stage_layout layout; /* [layers * (N_COVERED - 1) + 1] */
    mg_outset *set;
} work;

static uint32_t tensor_number(const work *w, uint32_t layer, size_t i) {
    bool head = covered[i].input == IN_HEAD; /* in no layer: last of all */
    return (head ? w->layers : layer) * (N_COVERED - 1) + (head ? 0 : (uint32_t)i);
}

/* ---- gathering ---- */

/* Add the Gram matrix of the current donor's inputs x [n, dim]. */
static mg_status gather(work *w, side *s, const float *x, uint64_t n, mg_error *err) {
    uint64_t all = s->dim * s->dim;
    double *own = s->own[w->donor];
    double trace = 0;
    memset(own, 0, (size_t)all * sizeof *own);
    MG_TRY(mg_gram_add(own, x, n, s->dim, w->r->pool, err));
    mg_gram_mirror(own, s->dim);
    for (uint64_t i = 0; i < s->dim; i++) trace += own[i * s->dim + i] / (double)n;
    if (w->donor == 0) s->ridge = RIDGE * trace / (double)s->dim; /* the same for all: without data a plain mean */
    for (uint64_t i = 0; i < all; i++) own[i] /= (double)n;
    for (uint64_t i = 0; i < s->dim; i++) own[i * s->dim + i] += s->ridge;
    for (uint64_t i = 0; i < all; i++) s->sum[i] = w->donor == 0 ? own[i] : s->sum[i] + own[i];
    return MG_OK;
}

static mg_status on_tap(void *ctx, const mg_tap *tap, mg_error *err) {
    work *w = ctx;
    if (tap->point != MG_TAP_ATTN_IN && tap->point != MG_TAP_ATTN_O_IN) return MG_OK;
    side *s = &w->sides[tap->point == MG_TAP_ATTN_IN ? IN_ATTN : IN_ATTN_O];
    if (tap->cols != s->dim)
        return mg_fail(err, MG_ERR_INTERNAL, "an input of %llu columns", (unsigned long long)tap->cols);
    return gather(w, s, tap->data, tap->rows, err);
}

/* ---- solving ---- */

typedef struct product {
    const double *g;
    const float *w;
    double *out;
    uint64_t d;
} product;

/* One row of W G added to out, columns ascending in k. */
static mg_status product_row(void *ctx, uint64_t row, unsigned worker, mg_error *err) {
    const product *p = ctx;
    (void)worker;
    (void)err;
    double *out = p->out + row * p->d;
    for (uint64_t k = 0; k < p->d; k++) {
        double a = (double)p->w[row * p->d + k];
        const double *g = p->g + k * p->d;
        for (uint64_t j = 0; j < p->d; j++) out[j] += a * g[j];
    }
    return MG_OK;
}

/* n rows of weight i, from `row` on: their products with each donor's matrix, the solution, the file. */
static mg_status solve_rows(work *w, size_t i, uint32_t layer, uint64_t row, uint64_t n, mg_error *err) {
    const side *s = &w->sides[covered[i].input];
    memset(w->product, 0, (size_t)(n * s->dim) * sizeof *w->product);
    for (uint32_t d = 0; d < w->r->n; d++) {
        mg_model *m = w->r->donors[d].model;
        const mg_bound *b = mg_model_find(m, covered[i].role, layer, 0);
        if (!b)
            return mg_fail(err, MG_ERR_CONFLICT, "'%s' has no %s in layer %u", m->ckpt->path,
                           mg_role_name(covered[i].role), layer);
        MG_TRY(mg_read_f32(m, b, row, n, w->rows, err));
        product p = {s->own[d], w->rows, w->product, s->dim};
        MG_TRY(mg_pool_run(w->r->pool, n, product_row, &p, err));
    }
    MG_TRY(mg_cholesky_solve(s->sum, s->dim, w->product, n, w->r->pool, err));
    for (uint64_t k = 0; k < n * s->dim; k++) w->rows[k] = (float)w->product[k];
    uint64_t at = w->layout.offsets[tensor_number(w, layer, i)] + row * s->dim * sizeof(float);
    return mg_outset_write(w->set, 0, at, w->rows, n * s->dim * sizeof(float), err);
}

static mg_status solve_input(work *w, input in, uint32_t layer, mg_error *err) {
    bool ok;
    MG_TRY(mg_cholesky(w->sides[in].sum, w->sides[in].dim, w->r->pool, &ok, err));
    if (!ok)
        return mg_fail(err, MG_ERR_CONFLICT, "regmean: the inputs of layer %u span nothing that can be solved for",
                       layer);
    for (size_t i = 0; i < N_COVERED; i++)
        for (uint64_t row = 0; covered[i].input == in && row < w->n_rows[i]; row += ROWS)
            MG_TRY(solve_rows(w, i, layer, row, w->n_rows[i] - row < ROWS ? w->n_rows[i] - row : ROWS, err));
    return MG_OK;
}

static mg_status run_layer(work *w, uint32_t layer, mg_error *err) {
    const mg_evaluator *ev = w->r->eval;
    for (w->donor = 0; w->donor < w->r->n; w->donor++)
        MG_TRY(ev->run_layer(ev->self, w->r->donors[w->donor].model, layer, MG_PART_ALL, &w->batch[w->donor].batch,
                             w->x[w->donor], on_tap, w, err));
    MG_TRY(solve_input(w, IN_ATTN, layer, err));
    return solve_input(w, IN_ATTN_O, layer, err);
}

static mg_status run_head(work *w, mg_error *err) {
    const mg_evaluator *ev = w->r->eval;
    if (!w->n_rows[N_COVERED - 1]) return MG_OK;
    for (w->donor = 0; w->donor < w->r->n; w->donor++) {
        uint64_t n = w->batch[w->donor].batch.n_tokens;
        float *x = w->x[w->donor];
        MG_TRY(ev->final_norm(ev->self, w->r->donors[w->donor].model, x, n, x, err));
        MG_TRY(gather(w, &w->sides[IN_HEAD], x, n, err));
    }
    return solve_input(w, IN_HEAD, 0, err);
}

/* ---- setting up ---- */

static mg_status add_prompts(work *w, uint32_t i, mg_error *err) {
    const mg_donor *d = &w->r->donors[i];
    mg_tokenizer *tok = NULL;
    if (!w->r->text[i]->n) return mg_fail(err, MG_ERR_CONFLICT, "regmean needs prompts for '%s'", d->name);
    MG_TRY(mg_tokenizer_open_model(&tok, d->ckpt, err));
    if (!tok)
        return mg_fail(err, MG_ERR_CONFLICT, "'%s' has no tokenizer files, and regmean needs a tokenizer", d->name);
    mg_status st = mg_prompt_batch_add_joined(&w->batch[i], w->r->text[i], 0, false, d->model, tok, err);
    mg_tokenizer_free(tok);
    if (st != MG_OK) return st;
    uint64_t n = w->batch[i].batch.n_tokens, hidden = (uint64_t)mg_hp_i(d->model, MG_K_HIDDEN);
    if (!n) return mg_fail(err, MG_ERR_CONFLICT, "the prompts of '%s' are empty", d->name);
    if (!(w->x[i] = malloc((size_t)(n * hidden) * sizeof(float))))
        return mg_fail_nomem(err, n * hidden * sizeof(float));
    const mg_evaluator *ev = w->r->eval;
    return ev->embed(ev->self, d->model, w->batch[i].ids, n, w->x[i], err);
}

/* Rows of heads are added, so they must be for the same tokens. */
static bool same_tokens(const mg_regmean *r) {
    for (uint32_t i = 0; i < r->n; i++)
        if (r->donors[i].vocab.row) return false;
    return true;
}

static bool all_have(const mg_regmean *r, mg_role role) {
    for (uint32_t d = 0; d < r->n; d++)
        if (!mg_model_has(r->donors[d].model, role, 0, 0)) return false;
    return true;
}

static mg_status alloc_side(work *w, side *s, mg_error *err) {
    uint64_t all = s->dim * s->dim;
    s->sum = malloc((size_t)all * sizeof *s->sum);
    s->own = calloc(w->r->n, sizeof *s->own);
    if (!s->sum || !s->own) return mg_fail_nomem(err, all * sizeof *s->sum);
    for (uint32_t d = 0; d < w->r->n; d++)
        if (!(s->own[d] = malloc((size_t)all * sizeof *s->own[d]))) return mg_fail_nomem(err, all * sizeof *s->own[d]);
    return MG_OK;
}

static mg_status set_up(work *w, mg_error *err) {
    const mg_model *m = w->r->donors[0].model;
    uint64_t widest = 0;
    w->layers = (uint32_t)mg_hp_i(m, MG_K_LAYERS);
    for (size_t i = 0; i < N_COVERED; i++) {
        const mg_bound *b = mg_model_find(m, covered[i].role, 0, 0);
        if (!b && covered[i].input != IN_HEAD)
            return mg_fail(err, MG_ERR_UNSUPPORTED, "regmean: a %s model has no %s", m->arch->name,
                           mg_role_name(covered[i].role));
        /* a tied head is the embedding, which is averaged: it has no inputs of its own to regress on */
        if (!b || !all_have(w->r, covered[i].role) || (covered[i].input == IN_HEAD && !same_tokens(w->r))) continue;
        w->n_rows[i] = b->shape[0];
        w->sides[covered[i].input].dim = b->shape[1];
        if (b->shape[1] > widest) widest = b->shape[1];
    }
    for (int k = 0; k < IN_HEAD; k++) MG_TRY(alloc_side(w, &w->sides[k], err));
    w->sides[IN_HEAD].own = w->sides[IN_ATTN].own; /* the same width, and done with by then */
    w->sides[IN_HEAD].sum = w->sides[IN_ATTN].sum;
    w->product = malloc((size_t)(ROWS * widest) * sizeof *w->product);
    w->rows = malloc((size_t)(ROWS * widest) * sizeof *w->rows);
    w->batch = calloc(w->r->n, sizeof *w->batch);
    w->x = calloc(w->r->n, sizeof *w->x);
    if (!w->product || !w->rows || !w->batch || !w->x) return mg_fail_nomem(err, ROWS * widest * sizeof *w->product);
    for (uint32_t i = 0; i < w->r->n; i++) MG_TRY(add_prompts(w, i, err));
    return MG_OK;
}

static void tear_down(work *w) {
    for (uint32_t i = 0; i < w->r->n; i++) {
        if (w->batch) mg_prompt_batch_release(&w->batch[i]);
        if (w->x) free(w->x[i]);
        for (int k = 0; k < IN_HEAD; k++)
            if (w->sides[k].own) free(w->sides[k].own[i]);
    }
    for (int k = 0; k < IN_HEAD; k++) {
        free(w->sides[k].sum);
        free(w->sides[k].own);
    }
    free(w->product);
    free(w->rows);
    free(w->batch);
    free(w->x);
    mg_stage_layout_release(&w->layout);
    mg_outset_free(w->set);
}

/* ---- the file ---- */

static mg_status describe(work *w, uint32_t layer, size_t i, mg_error *err) {
    char name[64];
    const uint64_t shape[2] = {w->n_rows[i], w->sides[covered[i].input].dim};
    tensor_name(name, sizeof name, covered[i].role, layer);
    return mg_stage_layout_tensor(&w->layout, tensor_number(w, layer, i), name, MG_F32, 2, shape, err);
}

static mg_status lay_out(work *w, mg_xxh128 id, mg_error *err) {
    const bool head = w->n_rows[N_COVERED - 1] != 0;
    MG_TRY(mg_stage_layout_begin(&w->layout, w->layers * (N_COVERED - 1) + head, err));
    for (uint32_t l = 0; l < w->layers; l++)
        for (size_t i = 0; i + 1 < N_COVERED; i++) MG_TRY(describe(w, l, i, err));
    if (head) MG_TRY(describe(w, 0, N_COVERED - 1, err));
    return mg_stage_layout_end(&w->layout, id, NULL, err);
}

static mg_status run_all(work *w, const char *path, mg_xxh128 id, mg_error *err) {
    MG_TRY(set_up(w, err));
    MG_TRY(lay_out(w, id, err));
    MG_TRY(mg_stage_set_begin(&w->set, path, id, &w->layout, err));
    for (uint32_t l = 0; l < w->layers; l++) {
        char text[64];
        MG_TRY(run_layer(w, l, err));
        snprintf(text, sizeof text, "regmean: layer %u of %u", l + 1, w->layers);
        if (w->r->note) w->r->note(w->r->note_ctx, text);
    }
    MG_TRY(run_head(w, err));
    return mg_stage_set_end(w->set, &w->layout, err);
}

mg_status mg_regmean_run(const mg_regmean *r, const char *path, mg_xxh128 id, mg_error *err) {
    if (mg_stage_id_at(path, id)) return MG_OK;
    work w = {.r = r};
    mg_status st = run_all(&w, path, id, err);
    tear_down(&w);
    return st;
}
