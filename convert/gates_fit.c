/* gates_fit.c - routers fitted at their true input: for every layer, in order, the prompts are run through the model
 * being built up to the input of that layer's router; a multinomial logistic regression finds the rows whose softmax
 * best says which expert's prompts each token came from; the rows become the router and the layer's experts run with
 * it. The beginning-of-sequence position, equal for all prompts, is left out. Classes weigh the same however many
 * tokens they have. The ridge is relative to the mean square of the inputs, so that scaling a model does not change it.
 */
#include "convert/logreg.h"
#include "convert/gates.h"
#include "convert/gates_tokens.h"

#include <stdlib.h>
#include <string.h>

#define RIDGE                                                                                                          \
    1e-3 /* times mean(x^2): from 1e-2 to 1e-4 the sample models' perplexity moves by 0.2 % (docs/merge.md)            \
          */
#define MAX_ITERATIONS 200u

typedef struct fit {
    const mg_merge_spec *spec;
    mg_model *moe;
    const mg_evaluator *eval;
    mg_pool *pool;
    mg_prompt_batch p;
    uint64_t hidden;
    float *x;        /* [tokens, hidden] residual stream */
    float *in;       /* [rows, hidden] router inputs without the first position of each prompt */
    uint32_t *label; /* [rows] */
    bool *negative;  /* [rows] */
    double *weight;  /* [rows] */
    uint64_t rows;
    bool any_negative;
} fit;

static mg_status add_prompts(fit *f, const mg_tokenizer *tok, mg_error *err) {
    for (uint32_t e = 0; e < f->spec->n_experts; e++) {
        MG_TRY(mg_prompt_batch_add(&f->p, &f->spec->experts[e].positive, e, false, f->moe, tok, err));
        MG_TRY(mg_prompt_batch_add(&f->p, &f->spec->experts[e].negative, e, true, f->moe, tok, err));
    }
    return MG_OK;
}

static mg_status alloc_rows(fit *f, mg_error *err) {
    uint64_t n = f->p.batch.n_tokens;
    f->x = malloc(n * f->hidden * sizeof *f->x);
    f->in = malloc(n * f->hidden * sizeof *f->in);
    f->label = malloc(n * sizeof *f->label);
    f->negative = malloc(n * sizeof *f->negative);
    f->weight = malloc(n * sizeof *f->weight);
    bool ok = f->x && f->in && f->label && f->negative && f->weight;
    return ok ? MG_OK : mg_fail_nomem(err, 2 * n * f->hidden * sizeof(float));
}

/* Labels and class-balanced weights of the rows: each expert's positive tokens weigh 1/experts together, its negative
 * tokens as much again. */
static mg_status label_rows(fit *f, mg_error *err) {
    uint32_t experts = f->spec->n_experts;
    uint64_t *count = calloc(2 * (size_t)experts, sizeof *count);
    if (!count) return mg_fail_nomem(err, 2 * (uint64_t)experts * sizeof *count);
    for (uint32_t q = 0; q < f->p.batch.n_seqs; q++)
        for (uint32_t t = 1; t < f->p.lens[q]; t++) {
            f->label[f->rows] = f->p.label[q];
            f->negative[f->rows++] = f->p.negative[q];
            count[f->p.label[q] + (f->p.negative[q] ? experts : 0)]++;
            f->any_negative = f->any_negative || f->p.negative[q];
        }
    mg_status st = MG_OK;
    for (uint32_t e = 0; st == MG_OK && e < experts; e++)
        if (!count[e])
            st = mg_fail(err, MG_ERR_CONFLICT, "the prompts of expert '%s' are empty", f->spec->experts[e].source);
    for (uint64_t i = 0; i < f->rows; i++)
        f->weight[i] = 1.0 / ((double)experts * (double)count[f->label[i] + (f->negative[i] ? experts : 0)]);
    free(count);
    return st;
}

/* The tap at the router's input: keep all rows but the first of each prompt. */
static mg_status keep_inputs(void *ctx, const mg_tap *tap, mg_error *err) {
    fit *f = ctx;
    if (tap->point != MG_TAP_FFN_IN) return MG_OK;
    if (tap->rows != f->p.batch.n_tokens) return mg_fail(err, MG_ERR_INTERNAL, "router input seen in pieces");
    float *to = f->in;
    const float *from = tap->data;
    for (uint32_t q = 0; q < f->p.batch.n_seqs; q++) {
        uint64_t n = (f->p.lens[q] - 1) * f->hidden;
        memcpy(to, from + f->hidden, n * sizeof *to);
        to += n;
        from += f->p.lens[q] * f->hidden;
    }
    return MG_OK;
}

static double mean_square(const float *x, uint64_t n) {
    double s = 0;
    for (uint64_t i = 0; i < n; i++) s += (double)x[i] * (double)x[i];
    return s / (double)n;
}

static double accuracy(const fit *f, const double *w) {
    uint64_t hit = 0, n = 0;
    for (uint64_t i = 0; i < f->rows; i++) {
        if (f->negative[i]) continue;
        uint32_t best = 0;
        double top = 0;
        for (uint32_t c = 0; c < f->spec->n_experts; c++) {
            double z = 0;
            for (uint64_t k = 0; k < f->hidden; k++) z += w[c * f->hidden + k] * (double)f->in[i * f->hidden + k];
            if (c == 0 || z > top) {
                top = z;
                best = c;
            }
        }
        hit += best == f->label[i];
        n++;
    }
    return (double)hit / (double)n;
}

static mg_status fit_rows(fit *f, double *w, float *rows, mg_fit_report *report, mg_error *err) {
    uint32_t experts = f->spec->n_experts;
    mg_logreg p = {.x = f->in,
                   .label = f->label,
                   .negative = f->any_negative ? f->negative : NULL,
                   .weight = f->weight,
                   .n = f->rows,
                   .dim = f->hidden,
                   .classes = experts,
                   .ridge = RIDGE * mean_square(f->in, f->rows * f->hidden),
                   .max_iterations = MAX_ITERATIONS};
    unsigned iterations;
    double loss;
    MG_TRY(mg_logreg_solve(&p, f->pool, w, &iterations, &loss, err));
    for (uint64_t i = 0; i < experts * f->hidden; i++) rows[i] = (float)w[i];
    if (report) *report = (mg_fit_report){iterations, loss, accuracy(f, w), f->rows};
    return MG_OK;
}

static mg_status fit_layers(fit *f, mg_gates_supply supply, void *ctx, mg_fit_report *reports, mg_error *err) {
    uint64_t n = (uint64_t)f->spec->n_experts * f->hidden;
    double *w = malloc(n * (sizeof(double) + sizeof(float)));
    if (!w) return mg_fail_nomem(err, n * sizeof *w);
    float *rows = (float *)(w + n);
    const mg_evaluator *ev = f->eval;
    mg_status st = ev->embed(ev->self, f->moe, f->p.ids, f->p.batch.n_tokens, f->x, err);
    for (uint32_t l = 0, layers = (uint32_t)mg_hp_i(f->moe, MG_K_LAYERS); st == MG_OK && l < layers; l++) {
        if (!f->moe->layers[l].moe) { /* stays dense */
            st = ev->run_layer(ev->self, f->moe, l, MG_PART_ALL, &f->p.batch, f->x, NULL, NULL, err);
            continue;
        }
        st = ev->run_layer(ev->self, f->moe, l, MG_PART_ATTN | MG_PART_FFN_IN, &f->p.batch, f->x, keep_inputs, f, err);
        if (st == MG_OK) st = fit_rows(f, w, rows, reports ? &reports[l] : NULL, err);
        if (st == MG_OK) st = supply(ctx, l, rows, err);
        if (st == MG_OK && l + 1 < layers)
            st = ev->run_layer(ev->self, f->moe, l, MG_PART_FFN, &f->p.batch, f->x, NULL, NULL, err);
    }
    free(w);
    return st;
}

mg_status mg_gates_fit(const mg_merge_spec *spec, mg_model *moe, const mg_tokenizer *tok, const mg_evaluator *eval,
                       mg_pool *pool, mg_gates_supply supply, void *ctx, mg_fit_report *reports, mg_error *err) {
    fit f = {.spec = spec, .moe = moe, .eval = eval, .pool = pool, .hidden = (uint64_t)mg_hp_i(moe, MG_K_HIDDEN)};
    mg_status st = add_prompts(&f, tok, err);
    if (st == MG_OK) st = alloc_rows(&f, err);
    if (st == MG_OK) st = label_rows(&f, err);
    if (st == MG_OK) st = fit_layers(&f, supply, ctx, reports, err);
    free(f.x);
    free(f.in);
    free(f.label);
    free(f.negative);
    free(f.weight);
    mg_prompt_batch_release(&f.p);
    return st;
}
