/* gates_fit.c - routers fitted at their true input: for every layer, in order, the prompts (joined to windows) are run
 * through the model being built up to the input of that layer's router; a multinomial logistic regression finds the
 * rows whose softmax best says which expert's prompts each token came from; the rows become the router and the layer's
 * experts run with it. The beginning-of-sequence position, equal for all prompts, is left out. Classes weigh the same
 * however many tokens they have. The ridge is relative to the mean square of the inputs, so that scaling a model does
 * not change it.
 */
#include "convert/logreg.h"
#include "convert/gates.h"
#include "convert/gates_tokens.h"
#include "quant/math/f64.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define RIDGE                                                                                                          \
    1e-3 /* times mean(x^2): from 1e-2 to 1e-4 the sample models' perplexity moves by 0.2 % (docs/merge.md)            \
          */
#define MAX_ITERATIONS 200u
#define CHUNK          1024u /* tokens a layer is run on at a time: what it needs for them is bounded */
/* Root mean square of the logits that tell slices of one block apart: enough for an order, too little for weights that
 * are not nearly alike, as slices that are summed must be. */
#define SPREAD 0.1

typedef struct fit {
    const mg_merge_spec *spec;
    const mg_gate_map *map; /* NULL: row e is expert e */
    uint32_t classes;
    mg_model *moe;
    const mg_evaluator *eval;
    mg_pool *pool;
    mg_prompt_batch p;
    uint64_t hidden;
    float *x;           /* [tokens, hidden] residual stream */
    float *in;          /* [rows, hidden] router inputs without the first position of each prompt */
    uint32_t *expert;   /* [rows] of the recipe */
    uint32_t *token;    /* [rows] place in the batch */
    uint32_t *label;    /* [rows] row of the router, of this layer */
    uint32_t *class;    /* [rows] the same with slices of one block as one */
    uint32_t *class_of; /* [classes] of a router row */
    bool *negative;     /* [rows] */
    double *share;      /* [rows] weight of the token where its expert is */
    double *weight;     /* [rows] of this layer */
    uint64_t rows;
    bool any_negative;
    mg_batch chunk; /* sequences being run */
    uint64_t seen;  /* floats of in filled by this layer's chunks */
    uint32_t n_fixed;
    float *fixed;   /* [n_fixed, hidden] rows that stay, of this layer */
    double *offset; /* [rows] score of all of them together; NULL without */
} fit;

static mg_status add_prompts(fit *f, const mg_tokenizer *tok, mg_error *err) {
    for (uint32_t e = 0; e < f->spec->n_experts; e++) {
        MG_TRY(mg_prompt_batch_add_joined(&f->p, &f->spec->experts[e].positive, e, false, f->moe, tok, err));
        MG_TRY(mg_prompt_batch_add_joined(&f->p, &f->spec->experts[e].negative, e, true, f->moe, tok, err));
    }
    return MG_OK;
}

static mg_status alloc_rows(fit *f, mg_error *err) {
    uint64_t n = f->p.batch.n_tokens;
    f->x = malloc(n * f->hidden * sizeof *f->x);
    f->in = malloc(n * f->hidden * sizeof *f->in);
    f->expert = malloc(4 * n * sizeof *f->expert);
    f->negative = malloc(n * sizeof *f->negative);
    f->share = malloc(2 * n * sizeof *f->share);
    f->class_of = malloc(f->classes * sizeof *f->class_of);
    bool ok = f->x && f->in && f->expert && f->negative && f->share && f->class_of;
    if (ok) {
        f->token = f->expert + n;
        f->label = f->token + n;
        f->class = f->label + n;
        f->weight = f->share + n;
    }
    return ok ? MG_OK : mg_fail_nomem(err, 2 * n * f->hidden * sizeof(float));
}

static mg_status alloc_fixed(fit *f, mg_error *err) {
    if (!f->n_fixed) return MG_OK;
    f->fixed = malloc(f->n_fixed * f->hidden * sizeof *f->fixed);
    f->offset = malloc(f->p.batch.n_tokens * sizeof *f->offset);
    return f->fixed && f->offset ? MG_OK : mg_fail_nomem(err, f->n_fixed * f->hidden * sizeof *f->fixed);
}

/* Experts and class-balanced weights of the rows: each expert's positive tokens weigh 1/experts together, its negative
 * tokens as much again. */
static mg_status count_rows(fit *f, mg_error *err) {
    uint32_t experts = f->spec->n_experts;
    uint64_t *count = calloc(2 * (size_t)experts, sizeof *count);
    if (!count) return mg_fail_nomem(err, 2 * (uint64_t)experts * sizeof *count);
    uint32_t start = 0;
    for (uint32_t q = 0; q < f->p.batch.n_seqs; start += f->p.lens[q++])
        for (uint32_t t = 1; t < f->p.lens[q]; t++) {
            f->token[f->rows] = start + t;
            f->expert[f->rows] = f->p.label[q];
            f->negative[f->rows++] = f->p.negative[q];
            count[f->p.label[q] + (f->p.negative[q] ? experts : 0)]++;
            f->any_negative = f->any_negative || f->p.negative[q];
        }
    mg_status st = MG_OK;
    for (uint32_t e = 0; st == MG_OK && e < experts; e++)
        if (!count[e] && !count[experts + e])
            st = mg_fail(err, MG_ERR_CONFLICT, "the prompts of expert '%s' are empty", f->spec->experts[e].source);
    for (uint64_t i = 0; i < f->rows; i++)
        f->share[i] = 1.0 / ((double)experts * (double)count[f->expert[i] + (f->negative[i] ? experts : 0)]);
    free(count);
    return st;
}

/* ---- the rows of a layer ---- */

static uint32_t expert_of(const fit *f, uint32_t layer, uint32_t row) {
    return f->map && f->map->entry ? f->map->entry[(uint64_t)layer * f->classes + row] : row;
}

static bool is_sliced(const fit *f, uint32_t expert) {
    return f->map && f->map->sliced && f->map->sliced[expert];
}

/* The how manyth router row of an expert; UINT32_MAX: it has not so many in this layer. */
static uint32_t nth_row(const fit *f, uint32_t layer, uint32_t expert, uint32_t nth) {
    for (uint32_t r = 0; r < f->classes; r++)
        if (expert_of(f, layer, r) == expert && nth-- == 0) return r;
    return UINT32_MAX;
}

/* Rows of the router for the tokens first .. end - 1, all of one expert that has several. */
static mg_status choose_rows(fit *f, uint32_t layer, uint64_t first, uint64_t end, mg_error *err) {
    const uint32_t expert = f->expert[first];
    for (uint64_t i = first; i < end; i++)
        if (f->negative[i])
            return mg_fail(err, MG_ERR_UNSUPPORTED, "'%s' stands for several experts: it cannot have negative prompts",
                           f->spec->experts[expert].source);
    mg_gate_group g = {layer,       expert,          &f->p.batch, f->x, f->in + first * f->hidden, f->token + first,
                       end - first, f->label + first};
    MG_TRY(f->map->choose(f->map->ctx, &g, err));
    for (uint64_t i = first; i < end; i++) f->label[i] = nth_row(f, layer, expert, f->label[i]);
    return MG_OK;
}

/* Prompts stand in the order of the experts, so tokens of one are together. */
static mg_status label_rows(fit *f, uint32_t layer, mg_error *err) {
    uint32_t here = 0;
    for (uint32_t e = 0; e < f->spec->n_experts; e++) here += nth_row(f, layer, e, 0) != UINT32_MAX;
    const double scale = (double)f->spec->n_experts / here; /* the others' tokens weigh nothing */
    for (uint64_t i = 0, end; i < f->rows; i = end) {
        const uint32_t row = nth_row(f, layer, f->expert[i], 0);
        for (end = i; end < f->rows && f->expert[end] == f->expert[i]; end++) {
            f->label[end] = row == UINT32_MAX ? 0 : row;
            f->weight[end] = row == UINT32_MAX ? 0 : f->share[end] * scale;
        }
        if (row != UINT32_MAX && nth_row(f, layer, f->expert[i], 1) != UINT32_MAX)
            MG_TRY(choose_rows(f, layer, i, end, err));
    }
    return MG_OK;
}

/* The tap at the router's input: keep all rows but the first of each prompt. */
static mg_status keep_inputs(void *ctx, const mg_tap *tap, mg_error *err) {
    fit *f = ctx;
    if (tap->point != MG_TAP_FFN_IN) return MG_OK;
    if (tap->rows != f->chunk.n_tokens) return mg_fail(err, MG_ERR_INTERNAL, "router input seen in pieces");
    const float *from = tap->data;
    for (uint32_t q = 0; q < f->chunk.n_seqs; q++) {
        uint64_t n = (f->chunk.len[q] - 1) * f->hidden;
        memcpy(f->in + f->seen, from + f->hidden, n * sizeof *from);
        f->seen += n;
        from += f->chunk.len[q] * f->hidden;
    }
    return MG_OK;
}

/* Run parts of a layer on all sequences, a chunk at a time: the bits do not depend on how they are cut. */
static mg_status run_layer(fit *f, uint32_t layer, unsigned parts, mg_tap_fn tap, mg_error *err) {
    const mg_evaluator *ev = f->eval;
    float *x = f->x;
    f->seen = 0;
    for (uint32_t q = 0; q < f->p.batch.n_seqs; q += f->chunk.n_seqs, x += f->chunk.n_tokens * f->hidden) {
        f->chunk = mg_batch_chunk(&f->p.batch, q, CHUNK);
        MG_TRY(ev->run_layer(ev->self, f->moe, layer, parts, &f->chunk, x, tap, f, err));
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
        if (f->weight[i] == 0) continue;
        uint32_t best = 0;
        double top = 0;
        for (uint32_t c = 0; c < f->classes; c++) {
            double z = 0;
            for (uint64_t k = 0; k < f->hidden; k++) z += w[c * f->hidden + k] * (double)f->in[i * f->hidden + k];
            if (c == 0 && f->offset) z += f->offset[i];
            if (c == 0 || z > top) {
                top = z;
                best = c;
            }
        }
        hit += (best == f->label[i]) != f->negative[i];
        n++;
    }
    return n ? (double)hit / (double)n : 0;
}

/* Classes of the router's rows and of the tokens; how many. */
static uint32_t classify(fit *f, uint32_t layer) {
    uint32_t n = 0;
    for (uint32_t r = 0; r < f->classes; r++) {
        const uint32_t e = expert_of(f, layer, r), first = nth_row(f, layer, e, 0);
        f->class_of[r] = is_sliced(f, e) && first < r ? f->class_of[first] : n++;
    }
    for (uint64_t i = 0; i < f->rows; i++) f->class[i] = f->class_of[f->label[i]];
    return n;
}

static mg_status solve(const fit *f, mg_logreg *p, double *w, unsigned *iterations, double *loss, mg_error *err) {
    p->dim = f->hidden;
    p->ridge = RIDGE * mean_square(p->x, p->n * f->hidden);
    p->max_iterations = MAX_ITERATIONS;
    return mg_logreg_solve(p, f->pool, w, iterations, loss, err);
}

/* Root mean square of w x over the tokens first .. end - 1 and n rows w. */
static double spread_of(const fit *f, const double *w, uint32_t n, uint64_t first, uint64_t end) {
    double sum = 0;
    for (uint64_t i = first; i < end; i++)
        for (uint32_t c = 0; c < n; c++) {
            double z = 0;
            for (uint64_t k = 0; k < f->hidden; k++) z += w[c * f->hidden + k] * (double)f->in[i * f->hidden + k];
            sum += z * z;
        }
    return sqrt(sum / ((double)n * (double)(end - first)));
}

/* Rows of the slices of the block whose tokens are first .. end - 1: small differences, in w (of all rows), by which
 * the slice that contributes most comes first. */
static mg_status tell_apart(fit *f, uint32_t layer, uint64_t first, uint64_t end, double *w, double *own,
                            mg_error *err) {
    const uint32_t e = f->expert[first];
    uint32_t n = 0;
    for (uint32_t r = 0; r < f->classes; r++) n += expert_of(f, layer, r) == e;
    const uint32_t base = nth_row(f, layer, e, 0); /* an entry's rows stand together */
    for (uint64_t i = first; i < end; i++) {
        f->class[i] = f->label[i] - base;
        f->weight[i] = 1.0 / (double)(end - first);
    }
    mg_logreg p = {.x = f->in + first * f->hidden,
                   .label = f->class + first,
                   .weight = f->weight + first,
                   .n = end - first,
                   .classes = n};
    MG_TRY(solve(f, &p, own, NULL, NULL, err));
    const double spread = spread_of(f, own, n, first, end), scale = spread > 0 ? SPREAD / spread : 0;
    for (uint64_t k = 0; k < n * f->hidden; k++) w[base * f->hidden + k] += scale * own[k];
    return MG_OK;
}

/* The rows that stay, then what the new ones have over class 0, which has none of its own. */
static void add_to_fixed(const fit *f, const double *w, float *rows) {
    const uint64_t n = f->n_fixed * f->hidden;
    memcpy(rows, f->fixed, n * sizeof *rows);
    for (uint64_t i = 0; i < (f->classes - 1) * f->hidden; i++)
        rows[n + i] = (float)(w[f->hidden + i] - w[i % f->hidden]);
}

/* log sum exp of the fixed rows' scores of every token: what a new row competes with. */
static mg_status score_fixed(fit *f, uint32_t layer, mg_error *err) {
    const mg_gate_fixed *fixed = f->map ? f->map->fixed : NULL;
    if (!fixed) return MG_OK;
    MG_TRY(fixed->rows(fixed->ctx, layer, f->fixed, err));
    for (uint64_t i = 0; i < f->rows; i++) {
        double top = -INFINITY, sum = 0;
        f->offset[i] = 0;
        for (uint32_t r = 0; r < f->n_fixed && !fixed->alone; r++) {
            double z = 0;
            for (uint64_t k = 0; k < f->hidden; k++)
                z += (double)f->fixed[r * f->hidden + k] * (double)f->in[i * f->hidden + k];
            sum = z > top ? sum * mg_f64_exp(top - z) + 1 : sum + mg_f64_exp(z - top);
            top = z > top ? z : top;
        }
        if (!fixed->alone) f->offset[i] = top + mg_f64_log(sum);
    }
    return MG_OK;
}

/* w: 3 * [classes, hidden], the first of them the result in double. */
static mg_status fit_rows(fit *f, uint32_t layer, double *w, float *rows, mg_fit_report *report, mg_error *err) {
    const uint64_t all = (uint64_t)f->classes * f->hidden;
    mg_logreg p = {.x = f->in,
                   .label = f->class,
                   .negative = f->any_negative ? f->negative : NULL,
                   .weight = f->weight,
                   .offset = f->offset,
                   .n = f->rows,
                   .classes = classify(f, layer)};
    double *of_class = w + all, loss = 0;
    unsigned iterations = 0;
    memset(of_class, 0, all * sizeof *w);
    if (p.classes > 1) MG_TRY(solve(f, &p, of_class, &iterations, &loss, err));
    for (uint32_t r = 0; r < f->classes; r++)
        memcpy(w + r * f->hidden, of_class + f->class_of[r] * f->hidden, f->hidden * sizeof *w);
    for (uint64_t i = 0, end; i < f->rows; i = end) {
        for (end = i + 1; end < f->rows && f->expert[end] == f->expert[i];) end++;
        if (is_sliced(f, f->expert[i]) && f->weight[i] != 0) MG_TRY(tell_apart(f, layer, i, end, w, w + 2 * all, err));
    }
    if (f->n_fixed) {
        add_to_fixed(f, w, rows);
    } else {
        for (uint64_t i = 0; i < all; i++) rows[i] = (float)w[i];
    }
    if (report) *report = (mg_fit_report){iterations, loss, accuracy(f, w), f->rows};
    return MG_OK;
}

static mg_status fit_layers(fit *f, mg_gates_supply supply, void *ctx, mg_fit_report *reports, mg_error *err) {
    uint64_t n = (uint64_t)f->classes * f->hidden;
    double *w = malloc(n * (3 * sizeof(double) + sizeof(float)) + f->n_fixed * f->hidden * sizeof(float));
    if (!w) return mg_fail_nomem(err, 3 * n * sizeof *w);
    float *rows = (float *)(w + 3 * n);
    const mg_evaluator *ev = f->eval;
    mg_status st = ev->embed(ev->self, f->moe, f->p.ids, f->p.batch.n_tokens, f->x, err);
    for (uint32_t l = 0, layers = (uint32_t)mg_hp_i(f->moe, MG_K_LAYERS); st == MG_OK && l < layers; l++) {
        if (!f->moe->layers[l].moe) { /* stays dense */
            st = run_layer(f, l, MG_PART_ALL, NULL, err);
            continue;
        }
        st = run_layer(f, l, MG_PART_ATTN | MG_PART_FFN_IN, keep_inputs, err);
        if (st == MG_OK) st = label_rows(f, l, err);
        if (st == MG_OK) st = score_fixed(f, l, err);
        if (st == MG_OK) st = fit_rows(f, l, w, rows, reports ? &reports[l] : NULL, err);
        if (st == MG_OK) st = supply(ctx, l, rows, err);
        if (st == MG_OK && l + 1 < layers) st = run_layer(f, l, MG_PART_FFN, NULL, err);
    }
    free(w);
    return st;
}

mg_status mg_gates_fit(const mg_merge_spec *spec, const mg_gate_map *map, mg_model *moe, const mg_tokenizer *tok,
                       const mg_evaluator *eval, mg_pool *pool, mg_gates_supply supply, void *ctx,
                       mg_fit_report *reports, mg_error *err) {
    fit f = {.spec = spec,
             .map = map,
             .classes = map ? map->rows : spec->n_experts,
             .moe = moe,
             .eval = eval,
             .pool = pool,
             .hidden = (uint64_t)mg_hp_i(moe, MG_K_HIDDEN)};
    f.n_fixed = map && map->fixed ? map->fixed->n : 0;
    mg_status st = add_prompts(&f, tok, err);
    if (st == MG_OK) st = alloc_rows(&f, err);
    if (st == MG_OK) st = count_rows(&f, err);
    if (st == MG_OK) st = alloc_fixed(&f, err);
    if (st == MG_OK) st = fit_layers(&f, supply, ctx, reports, err);
    free(f.x);
    free(f.in);
    free(f.expert);
    free(f.class_of);
    free(f.negative);
    free(f.share);
    free(f.fixed);
    free(f.offset);
    mg_prompt_batch_release(&f.p);
    return st;
}
