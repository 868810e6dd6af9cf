/* stage_awq.c - AWQ on one layer: scales of every input that something can absorb, then limits. */
#include <stdlib.h>
#include <string.h>

#include "convert/stage_layer.h"
#include "formats/arch/arch.h"
#include "quant/awq.h"
#include "quant/gptq.h"
#include "quant/read_f32.h"

/* ---- pieces ---- */

static mg_status add_vector(mg_stage_work *w, mg_role role, uint32_t expert, mg_stage_what what, const float *v,
                            uint64_t n, mg_error *err) {
    float *copy = malloc((size_t)(n + 1) * sizeof *copy);
    if (!copy) return mg_fail_nomem(err, n * sizeof *copy);
    memcpy(copy, v, (size_t)n * sizeof *copy);
    const mg_stage_piece p = {.role = role, .expert = expert, .what = what, .rank = 1, .shape = {n}, .data = copy};
    return mg_stage_layer_add(&w->out, &p, err);
}

/* A norm or bias, which must be a vector of n values, divided by s: *out is the caller's, NULL when there is none. A
 * norm's quotients are BF16, as s was chosen for. */
static mg_status divided(mg_stage_work *w, mg_role role, uint32_t expert, const float *s, uint64_t n, float **out,
                         mg_error *err) {
    *out = NULL;
    const mg_bound *b = role == MG_ROLE_COUNT ? NULL : mg_model_find(w->model, role, w->layer, expert);
    if (!b) return MG_OK;
    if (b->shape[b->rank - 1] != n || mg_bound_rows(b) != 1)
        return mg_fail(err, MG_ERR_FORMAT, "%s of layer %u has not %llu values", mg_role_name(role), w->layer,
                       (unsigned long long)n);
    float *v = malloc((size_t)n * sizeof *v);
    if (!v) return mg_fail_nomem(err, n * sizeof *v);
    mg_status st = mg_read_f32(w->model, b, 0, 1, v, err);
    const bool norm = role == MG_R_ATTN_NORM || role == MG_R_FFN_NORM;
    for (uint64_t k = 0; k < n; k++) {
        if (s[k] == 1.0f) continue;
        v[k] = v[k] / s[k];
        if (norm) v[k] = mg_bf16_to_f32(mg_f32_to_bf16(v[k]));
    }
    if (st == MG_OK)
        *out = v;
    else
        free(v);
    return st;
}

static mg_status divide_vector(mg_stage_work *w, mg_role role, uint32_t expert, const float *s, uint64_t n,
                               mg_error *err) {
    float *v;
    MG_TRY(divided(w, role, expert, s, n, &v, err));
    mg_status st = v ? add_vector(w, role, expert, MG_STAGE_VALUES, v, n, err) : MG_OK;
    free(v);
    return st;
}

/* Rows of a producer divided by s [n], and their limits with them. */
static mg_status divide_rows(mg_stage_work *w, mg_role role, mg_role bias, uint32_t expert, const float *s, uint64_t n,
                             mg_error *err) {
    float *row = malloc((size_t)(n + 1) * sizeof *row);
    if (!row) return mg_fail_nomem(err, n * sizeof *row);
    for (uint64_t i = 0; i < n; i++) row[i] = 1.0f / s[i];
    const mg_stage_piece *limits = mg_stage_layer_find(&w->out, role, expert, MG_STAGE_LIMITS);
    for (uint64_t i = 0; limits && i < n; i++)
        for (uint64_t g = 0; g < 2 * limits->shape[1]; g++)
            ((float *)limits->data)[i * 2 * limits->shape[1] + g] *= row[i];
    mg_status st = add_vector(w, role, expert, MG_STAGE_ROW, row, n, err);
    free(row);
    return st == MG_OK ? divide_vector(w, bias, expert, s, n, err) : st;
}

/* ---- one scaled input ---- */

typedef struct job {
    mg_layer_input input;
    const mg_input_row *in;
    uint32_t expert; /* of the reader, for inputs inside experts */
    uint64_t cols;
    mg_awq_use *uses;
    uint32_t n_uses;
    float **pivots; /* [n_uses]: owned, NULL where a use shares another's */
    uint32_t *tie;
    float *absorbs, *s, *by_producer;
    uint64_t producer_rows;
    mg_variant *tried; /* a candidate under exact judgement, and its scales */
    const float *trying;
} job;

static uint32_t count_of(const mg_stage_work *w, mg_role role) {
    return mg_role_scope(role) == MG_SCOPE_EXPERT ? w->in.experts : 1;
}

/* Calls fn for each weight of the layer that reads the input. */
typedef mg_status (*reader_fn)(mg_stage_work *w, job *j, mg_role role, uint32_t expert, const mg_bound *b,
                               mg_error *err);
static mg_status readers_of(mg_stage_work *w, job *j, const mg_input_row *in, reader_fn fn, mg_error *err) {
    const bool inside = j->input == MG_IN_EXPERT_DOWN;
    for (const mg_role *r = in->readers; *r != MG_R_TOKEN_EMBD; r++)
        for (uint32_t e = inside ? j->expert : 0; e < (inside ? j->expert + 1 : count_of(w, *r)); e++) {
            const mg_bound *b = mg_model_find(w->model, *r, w->layer, e);
            if (b) MG_TRY(fn(w, j, *r, e, b, err));
        }
    return MG_OK;
}

static mg_status each_reader(mg_stage_work *w, job *j, reader_fn fn, mg_error *err) {
    MG_TRY(readers_of(w, j, j->in, fn, err));
    return j->in->part != MG_IN_COUNT ? readers_of(w, j, mg_input_row_of(j->in->part), fn, err) : MG_OK;
}

/* What errors of the last use will cost when GPTQ rounds it. */
static mg_status add_pivot(const mg_stage_work *w, job *j, mg_error *err) {
    mg_awq_use *u = &j->uses[j->n_uses - 1];
    for (uint32_t i = 0; i + 1 < j->n_uses; i++)
        if (j->uses[i].gram == u->gram) u->pivot = j->uses[i].pivot;
    if (u->pivot) return MG_OK;
    mg_gptq h;
    MG_TRY(mg_gptq_init(&h, u->gram, j->cols, w->opt->damping, w->opt->pool, err));
    u->pivot = j->pivots[j->n_uses - 1] = h.pivot;
    h.pivot = NULL;
    mg_gptq_release(&h);
    return MG_OK;
}

static mg_status add_use(mg_stage_work *w, job *j, mg_role role, uint32_t expert, const mg_bound *b, mg_error *err) {
    const mg_gram *g = mg_stage_rounds(role) ? mg_stage_gram(w, role, expert) : NULL;
    j->cols = b->shape[b->rank - 1];
    if (!g) return MG_OK;
    mg_awq_use *more = realloc(j->uses, ((size_t)j->n_uses + 1) * sizeof *more);
    if (!more) return mg_fail_nomem(err, sizeof *more);
    j->uses = more;
    float **pivots = realloc(j->pivots, ((size_t)j->n_uses + 1) * sizeof *pivots);
    if (!pivots) return mg_fail_nomem(err, sizeof *pivots);
    j->pivots = pivots;
    j->pivots[j->n_uses] = NULL;
    j->uses[j->n_uses++] = (mg_awq_use){.model = w->model, .bound = b, .gram = g};
    return w->opt->gptq ? add_pivot(w, j, err) : MG_OK;
}

static mg_status add_col(mg_stage_work *w, job *j, mg_role role, uint32_t expert, const mg_bound *b, mg_error *err) {
    (void)b;
    return add_vector(w, role, expert, MG_STAGE_COL, j->s, j->cols, err);
}

static mg_status add_limits(mg_stage_work *w, job *j, mg_role role, uint32_t expert, const mg_bound *b, mg_error *err) {
    const mg_gram *g = mg_stage_rounds(role) ? mg_stage_gram(w, role, expert) : NULL;
    if (!g) return MG_OK;
    const mg_awq_use use = {.model = w->model, .bound = b, .gram = g};
    const mg_stage_piece *col = mg_stage_layer_find(&w->out, role, expert, MG_STAGE_COL);
    const uint64_t rows = mg_bound_rows(b), groups = mg_group_count(&w->opt->scheme, j->cols);
    float *limits = malloc((size_t)(2 * rows * groups + 1) * sizeof *limits);
    double plain, loss;
    if (!limits) return mg_fail_nomem(err, 2 * rows * groups * sizeof *limits);
    mg_status st =
        mg_awq_limits(&use, col ? col->data : NULL, &w->opt->scheme, w->opt->pool, limits, &plain, &loss, err);
    if (st != MG_OK) {
        free(limits);
        return st;
    }
    const mg_stage_piece *row = mg_stage_layer_find(&w->out, role, expert, MG_STAGE_ROW);
    for (uint64_t i = 0; row && i < 2 * rows * groups; i++) limits[i] *= ((const float *)row->data)[i / (2 * groups)];
    const mg_stage_piece p = {
        .role = role, .expert = expert, .what = MG_STAGE_LIMITS, .rank = 3, .shape = {rows, groups, 2}, .data = limits};
    MG_TRY(mg_stage_layer_add(&w->out, &p, err));
    mg_json *note = mg_json_new_object();
    mg_json_set_str(note, "weight", mg_role_name(role));
    mg_json_set_i64(note, "expert", expert);
    mg_json_set_f64(note, "plain", plain);
    mg_json_set_f64(note, "loss", loss);
    mg_json_push((mg_json *)mg_json_get(w->note, "limits"), note);
    return MG_OK;
}

/* ---- candidates judged by the block's output ---- */

static mg_status try_reader(mg_stage_work *w, job *j, mg_role role, uint32_t expert, const mg_bound *b, mg_error *err) {
    (void)b;
    mg_patch p = MG_PATCH_INIT(role, w->layer, expert);
    p.col = j->trying;
    p.round = mg_stage_rounds(role) ? &w->opt->scheme : NULL;
    return mg_variant_set(j->tried, &p, err);
}

static mg_status try_vector(mg_stage_work *w, const job *j, mg_role role, const float *values, mg_error *err) {
    mg_patch p = MG_PATCH_INIT(role, w->layer, 0);
    p.values = values;
    return values ? mg_variant_set(j->tried, &p, err) : MG_OK;
}

/* The block with the norm divided by s, and its readers multiplied and rounded: mg_awq_exact_fn. */
typedef struct exact_job {
    mg_stage_work *w;
    job *j;
} exact_job;

static mg_status exact_loss(void *ctx, const float *s, double *loss, mg_error *err) {
    const exact_job *x = ctx;
    mg_stage_work *w = x->w;
    job *j = x->j;
    float *norm = NULL, *bias = NULL;
    j->tried = w->exact.variant;
    j->trying = s;
    mg_status st = divided(w, j->in->norm, 0, s, j->cols, &norm, err);
    if (st == MG_OK) st = divided(w, j->in->bias, 0, s, j->cols, &bias, err);
    if (st == MG_OK) st = try_vector(w, j, j->in->norm, norm, err);
    if (st == MG_OK) st = try_vector(w, j, j->in->bias, bias, err);
    if (st == MG_OK) st = each_reader(w, j, try_reader, err);
    if (st == MG_OK)
        st = mg_stage_exact_loss(&w->exact, j->input == MG_IN_ATTN ? MG_PART_ATTN : MG_PART_FFN, loss, err);
    mg_variant_clear(w->exact.variant);
    free(norm);
    free(bias);
    return st;
}

/* Who absorbs: false when nothing can. */
static mg_status absorber(mg_stage_work *w, job *j, bool *can, mg_error *err) {
    const mg_role role = j->in->norm != MG_ROLE_COUNT ? j->in->norm : j->in->rows;
    const mg_bound *b = mg_model_find(w->model, role, w->layer, j->expert);
    *can = b != NULL && mg_input_absorbed(w->model->arch, j->input);
    if (!*can) return MG_OK;
    if (j->in->norm != MG_ROLE_COUNT) {
        if (b->shape[b->rank - 1] != j->cols) *can = false;
        j->absorbs = *can ? malloc((size_t)j->cols * sizeof *j->absorbs) : NULL;
        if (*can && !j->absorbs) return mg_fail_nomem(err, j->cols * sizeof *j->absorbs);
        return *can ? mg_read_f32(w->model, b, 0, 1, j->absorbs, err) : MG_OK;
    }
    j->producer_rows = mg_bound_rows(b);
    if (j->input != MG_IN_ATTN_O) {
        *can = j->producer_rows == j->cols;
        return MG_OK;
    }
    const uint64_t heads = (uint64_t)mg_hp_i(w->model, MG_K_HEADS), kv = (uint64_t)mg_hp_i(w->model, MG_K_KV_HEADS);
    const uint64_t dim = (uint64_t)mg_hp_i(w->model, MG_K_V_HEAD_DIM);
    *can = j->cols == heads * dim && j->producer_rows == kv * dim;
    j->tie = *can ? malloc((size_t)j->cols * sizeof *j->tie) : NULL;
    if (*can && !j->tie) return mg_fail_nomem(err, j->cols * sizeof *j->tie);
    for (uint64_t k = 0; *can && k < j->cols; k++) j->tie[k] = (uint32_t)(k / dim / (heads / kv) * dim + k % dim);
    return MG_OK;
}

/* Rows of the producer grow where s is below 1. *fit: do the scales of its groups still fit their type? */
static mg_status rows_fit(const mg_stage_work *w, job *j, const mg_bound *b, float *row, bool *fit, mg_error *err) {
    const mg_group_scheme *s = &w->opt->scheme;
    const uint64_t cols = b->shape[b->rank - 1], size = s->group_size ? s->group_size : cols;
    const mg_stage_piece *col = mg_stage_layer_find(&w->out, j->in->rows, j->expert, MG_STAGE_COL);
    for (uint64_t i = 0; i < j->producer_rows && *fit; i++) {
        MG_TRY(mg_read_f32(w->model, b, i, 1, row, err));
        for (uint64_t k = 0; k < cols; k++)
            row[k] = row[k] * (col ? ((const float *)col->data)[k] : 1.0f) / j->by_producer[i];
        for (uint64_t at = 0; at < cols && *fit; at += size) {
            mg_group_params p;
            float lo, hi;
            MG_TRY(mg_group_range(row + at, cols - at < size ? cols - at : size, &lo, &hi, err));
            *fit = mg_group_choose(s, lo, hi, &p, NULL) == MG_OK;
        }
    }
    return MG_OK;
}

static mg_status producer_fits(mg_stage_work *w, job *j, bool *fit, mg_error *err) {
    *fit = true;
    if (j->in->norm != MG_ROLE_COUNT) return MG_OK;
    const mg_bound *b = mg_model_find(w->model, j->in->rows, w->layer, j->expert);
    j->by_producer = malloc((size_t)(j->producer_rows + 1) * sizeof *j->by_producer);
    if (!j->by_producer) return mg_fail_nomem(err, j->producer_rows * sizeof *j->by_producer);
    for (uint64_t k = 0; k < j->cols; k++) j->by_producer[j->tie ? j->tie[k] : k] = j->s[k];
    if (w->opt->scheme.scale_dtype != MG_F16) return MG_OK;
    float *row = malloc((size_t)(b->shape[b->rank - 1] + 1) * sizeof *row);
    if (!row) return mg_fail_nomem(err, b->shape[b->rank - 1] * sizeof *row);
    mg_status st = rows_fit(w, j, b, row, fit, err);
    free(row);
    return st;
}

static mg_status fold(mg_stage_work *w, job *j, mg_error *err) {
    MG_TRY(each_reader(w, j, add_col, err));
    if (j->in->norm != MG_ROLE_COUNT) {
        MG_TRY(divide_vector(w, j->in->norm, 0, j->s, j->cols, err));
        return divide_vector(w, j->in->bias, 0, j->s, j->cols, err);
    }
    return divide_rows(w, j->in->rows, j->in->bias, j->expert, j->by_producer, j->producer_rows, err);
}

static mg_status scale(mg_stage_work *w, job *j, mg_error *err) {
    bool can = false;
    MG_TRY(each_reader(w, j, add_use, err));
    if (j->n_uses) MG_TRY(absorber(w, j, &can, err));
    if (!can) return MG_OK;
    j->s = malloc((size_t)j->cols * sizeof *j->s);
    if (!j->s) return mg_fail_nomem(err, j->cols * sizeof *j->s);
    exact_job x = {w, j};
    const mg_awq_group g = {.uses = j->uses,
                            .n_uses = j->n_uses,
                            .cols = j->cols,
                            .tie = j->tie,
                            .absorbs = j->absorbs,
                            .exact = j->in->norm != MG_ROLE_COUNT ? exact_loss : NULL,
                            .exact_ctx = &x};
    mg_awq_scales found = {.s = j->s};
    MG_TRY(mg_awq_search(&g, &w->opt->scheme, w->opt->pool, &found, err));
    bool fit = true;
    if (!found.identity) MG_TRY(producer_fits(w, j, &fit, err));
    if (!fit) found = (mg_awq_scales){.s = j->s, .identity = true, .plain = found.plain, .loss = found.plain};
    for (uint64_t k = 0; !fit && k < j->cols; k++) j->s[k] = 1.0f;
    mg_json *note = mg_json_new_object();
    mg_json_set_str(note, "input", j->in->name);
    if (mg_role_scope(j->in->readers[0]) == MG_SCOPE_EXPERT) mg_json_set_i64(note, "expert", j->expert);
    mg_json_set_str(note, "scales", found.identity ? "none" : found.by_weight ? "x^r/w^(1-r)" : "x^r");
    mg_json_set_f64(note, "ratio", found.ratio);
    mg_json_set_f64(note, "plain", found.plain);
    mg_json_set_f64(note, "loss", found.loss);
    if (found.n_exact) {
        mg_json_set_i64(note, "candidates", found.n_exact);
        mg_json_set_f64(note, "block_plain", found.exact_plain);
        mg_json_set_f64(note, "block_loss", found.exact_loss);
    }
    mg_json_push((mg_json *)mg_json_get(w->note, "awq"), note);
    return found.identity ? MG_OK : fold(w, j, err);
}

static mg_status one_input(mg_stage_work *w, mg_layer_input input, uint32_t expert, mg_error *err) {
    job j = {.input = input, .in = mg_input_row_of(input), .expert = expert};
    mg_status st = scale(w, &j, err);
    if (st == MG_OK && !w->opt->fold_only && !w->opt->gptq) st = each_reader(w, &j, add_limits, err);
    for (uint32_t i = 0; j.pivots && i < j.n_uses; i++) free(j.pivots[i]);
    free(j.pivots);
    free(j.uses);
    free(j.tie);
    free(j.absorbs);
    free(j.s);
    free(j.by_producer);
    return st;
}

/* ---- the layer ---- */

/* MG_IN_EXPERT is part of MG_IN_FFN. */
static mg_status gathered(mg_stage_work *w, mg_error *err) {
    for (mg_layer_input i = 0; i < MG_IN_EXPERT; i++)
        for (uint32_t x = 0; x < w->in.n; x++) {
            const mg_stage_input *in = &w->in.items[x];
            if (in->point == mg_stage_tap_of(i) && in->wanted)
                MG_TRY(one_input(w, i, i == MG_IN_EXPERT_DOWN ? in->expert : 0, err));
        }
    return MG_OK;
}

mg_status mg_stage_awq(mg_stage_work *w, mg_error *err) {
    enum { ALL = 0x7fff };
    bool *done = calloc((size_t)w->in.n + 1, sizeof *done);
    if (!done) return mg_fail_nomem(err, w->in.n);
    mg_status st = w->opt->gptq ? MG_OK : mg_stage_exact_init(&w->exact, w->stream, w->model, w->layer, err);
    while (st == MG_OK && mg_stage_want(w, ALL, done)) {
        bool last = true;
        for (uint32_t i = 0; i < w->in.n; i++) last = last && done[i];
        const bool keep = last && !w->last;
        st = mg_stage_inputs_gather(&w->in, w->stream, w->model, w->layer,
                                    keep ? MG_PART_ALL : MG_PART_ATTN | MG_PART_DOWN_IN, keep, err);
        if (st == MG_OK) st = gathered(w, err);
        mg_stage_inputs_clear(&w->in);
    }
    mg_stage_exact_release(&w->exact);
    free(done);
    return st;
}
