/* gates.c - gate rows from prompts or from a seed. Formulas are mergekit-moe's where the mode is mergekit's (hidden,
 * hidden_avg, cheap_embed); arithmetic is f32 and f64 where mergekit computes in bfloat16, so rows agree to its
 * rounding. */
#include "convert/gates.h"

#include "convert/gates_tokens.h"
#include "formats/base/mix64.h"
#include "quant/codec.h"
#include "quant/math/f64.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- seeded rows ---- */

/* In (0, 1): 53 bits, never 0. */
static double next_unit(uint64_t *state) {
    return mg_open_unit_from(mg_mix64_next(state));
}

static double next_normal(uint64_t *state) {
    double u = next_unit(state);
    return mg_f64_normal(u, next_unit(state));
}

/* Gram-Schmidt over the rows of one layer, twice for rounding's sake; rows beyond `hidden` of them cannot be
 * orthogonal to all others and are only made of length 1. */
static void orthonormalise(double *rows, uint32_t n, uint64_t hidden) {
    for (uint32_t e = 0; e < n; e++) {
        double *v = rows + e * hidden, norm = 0;
        for (unsigned pass = 0; pass < 2; pass++)
            for (uint32_t o = 0; o < e && e < hidden; o++) {
                double dot = 0;
                for (uint64_t k = 0; k < hidden; k++) dot += v[k] * rows[o * hidden + k];
                for (uint64_t k = 0; k < hidden; k++) v[k] -= dot * rows[o * hidden + k];
            }
        for (uint64_t k = 0; k < hidden; k++) norm += v[k] * v[k];
        norm = norm > 0 ? sqrt(norm) : 1;
        for (uint64_t k = 0; k < hidden; k++) v[k] /= norm;
    }
}

static mg_status orthogonal_rows(uint64_t *state, uint32_t layers, uint32_t experts, uint64_t hidden, float *rows,
                                 mg_error *err) {
    uint64_t n = experts * hidden;
    double *layer = malloc(n * sizeof *layer);
    if (!layer) return mg_fail_nomem(err, n * sizeof *layer);
    for (uint32_t l = 0; l < layers; l++) {
        for (uint64_t i = 0; i < n; i++) layer[i] = next_normal(state);
        orthonormalise(layer, experts, hidden);
        for (uint64_t i = 0; i < n; i++) rows[l * n + i] = (float)layer[i];
    }
    free(layer);
    return MG_OK;
}

mg_status mg_gates_random(mg_gate_mode mode, uint64_t seed, uint32_t layers, uint32_t experts, uint64_t hidden,
                          float *rows, mg_error *err) {
    uint64_t state = seed, n = (uint64_t)layers * experts * hidden;
    double bound = 1 / sqrt((double)hidden);
    if (mode == MG_GATE_ORTHOGONAL) return orthogonal_rows(&state, layers, experts, hidden, rows, err);
    if (mode != MG_GATE_RANDOM && mode != MG_GATE_UNIFORM_RANDOM)
        return mg_fail(err, MG_ERR_INTERNAL, "gate mode '%s' is not seeded", mg_gate_mode_name(mode));
    for (uint64_t i = 0; i < n; i++)
        rows[i] = (float)(mode == MG_GATE_RANDOM ? next_normal(&state) : (2 * next_unit(&state) - 1) * bound);
    return MG_OK;
}

/* ---- rows from a file ---- */

static mg_status read_router(mg_checkpoint *c, const mg_tensor *want, float *rows, mg_error *err) {
    uint32_t t = mg_checkpoint_find(c, want->name);
    mg_error_at(err, c->path, want->name);
    if (t == MG_STRMAP_NONE) return mg_fail(err, MG_ERR_FORMAT, "the gate file has no such tensor");
    const mg_tensor *found = &c->tensors[t];
    if (!mg_dtype_is_float(found->dtype))
        return mg_fail(err, MG_ERR_FORMAT, "gates of type %s", mg_dtype_get(found->dtype)->name);
    MG_TRY(mg_tensor_expect_shape(found, want->rank, want->shape, err));
    void *raw = malloc(found->n_bytes + 1);
    if (!raw) return mg_fail_nomem(err, found->n_bytes);
    mg_status st = mg_checkpoint_read(c, t, 0, raw, found->n_bytes, err);
    if (st == MG_OK) mg_codec_get(found->dtype)->decode(raw, found->n_elements, rows);
    free(raw);
    return st;
}

mg_status mg_gates_from_file(const char *path, mg_model *target, mg_role role, uint32_t rows_per_layer, float *rows,
                             mg_error *err) {
    mg_checkpoint *c;
    MG_TRY(mg_checkpoint_open(&c, path, err));
    mg_status st = MG_OK;
    for (uint32_t l = 0; st == MG_OK && l < (uint32_t)mg_hp_i(target, MG_K_LAYERS); l++) {
        const mg_bound *b = mg_model_find(target, role, l, 0);
        if (!b) continue;
        const mg_tensor *want = mg_model_tensor(target, b);
        mg_error place = {0};
        st = read_router(c, want, rows + l * (rows_per_layer * b->shape[1]), &place);
        if (st != MG_OK && err) *err = place;
    }
    mg_checkpoint_free(c);
    return st;
}

/* ---- rows from prompts ---- */

/* One vector per layer, accumulated in double over the prompts of one expert. */
typedef struct prompt_sum {
    double *v; /* [layers][hidden] */
    uint32_t layers;
    uint64_t hidden;
} prompt_sum;

/* row / max(|row|, 1e-8) for every layer, mergekit's normalisation. */
static void normalise(prompt_sum *s) {
    for (uint32_t l = 0; l < s->layers; l++) {
        double *v = s->v + l * s->hidden, norm = 0;
        for (uint64_t k = 0; k < s->hidden; k++) norm += v[k] * v[k];
        norm = sqrt(norm) > 1e-8 ? sqrt(norm) : 1e-8;
        for (uint64_t k = 0; k < s->hidden; k++) v[k] /= norm;
    }
}

/* Add what the residual stream x [tokens, hidden] entering layer l says about each prompt of the batch. */
static void add_layer(prompt_sum *s, mg_gate_mode mode, uint32_t l, const mg_batch *b, const float *x) {
    const float *seq = x;
    double *v = s->v + l * s->hidden;
    for (uint32_t q = 0; q < b->n_seqs; q++) {
        uint32_t n = b->len[q], first = mode == MG_GATE_HIDDEN ? n - 1 : 0;
        double scale = 1.0 / ((double)(n - first) * b->n_seqs);
        for (uint32_t t = first; t < n; t++)
            for (uint64_t k = 0; k < s->hidden; k++) v[k] += (double)seq[t * s->hidden + k] * scale;
        seq += n * s->hidden;
    }
}

/* hidden, hidden_avg: mean over prompts of the last (or of all) positions of the stream entering each layer. The last
 * layer's output is not used, so the last layer is not run. */
static mg_status sum_hidden(prompt_sum *s, mg_gate_mode mode, const mg_prompt_batch *p, mg_model *base,
                            const mg_evaluator *ev, float *x, mg_error *err) {
    MG_TRY(ev->embed(ev->self, base, p->ids, p->batch.n_tokens, x, err));
    for (uint32_t l = 0; l < s->layers; l++) {
        add_layer(s, mode, l, &p->batch, x);
        if (l + 1 < s->layers) MG_TRY(ev->run_layer(ev->self, base, l, MG_PART_ALL, &p->batch, x, NULL, NULL, err));
    }
    return MG_OK;
}

/* cheap_embed: sum of the embeddings of all prompt tokens, normalised; the same for every layer. */
static mg_status sum_embeddings(prompt_sum *s, const mg_prompt_batch *p, mg_model *base, const mg_evaluator *ev,
                                float *x, mg_error *err) {
    MG_TRY(ev->embed(ev->self, base, p->ids, p->batch.n_tokens, x, err));
    for (uint64_t t = 0; t < p->batch.n_tokens; t++)
        for (uint64_t k = 0; k < s->hidden; k++) s->v[k] += (double)x[t * s->hidden + k];
    for (uint32_t l = 1; l < s->layers; l++) memcpy(s->v + l * s->hidden, s->v, s->hidden * sizeof *s->v);
    normalise(s);
    return MG_OK;
}

/* The vector of one list of prompts into s (which holds zeros). */
static mg_status sum_prompts(prompt_sum *s, mg_gate_mode mode, const mg_prompts *prompts, mg_model *base,
                             const mg_tokenizer *tok, const mg_evaluator *ev, mg_error *err) {
    mg_prompt_batch p = {0};
    mg_status st = mg_prompt_batch_add(&p, prompts, base, tok, err);
    if (st == MG_OK && p.batch.n_tokens == 0) st = mg_fail(err, MG_ERR_CONFLICT, "the prompts of an expert are empty");
    uint64_t bytes = p.batch.n_tokens * s->hidden * sizeof(float);
    float *x = st == MG_OK ? malloc(bytes) : NULL;
    if (st == MG_OK && !x) st = mg_fail_nomem(err, bytes);
    if (st == MG_OK)
        st = mode == MG_GATE_CHEAP_EMBED ? sum_embeddings(s, &p, base, ev, x, err)
                                         : sum_hidden(s, mode, &p, base, ev, x, err);
    free(x);
    mg_prompt_batch_release(&p);
    return st;
}

static mg_status expert_rows(const mg_merge_spec *spec, uint32_t e, mg_model *base, const mg_tokenizer *tok,
                             const mg_evaluator *ev, prompt_sum *pos, prompt_sum *neg, mg_error *err) {
    size_t n = pos->layers * pos->hidden;
    const mg_merge_expert *x = &spec->experts[e];
    memset(pos->v, 0, n * sizeof *pos->v);
    memset(neg->v, 0, n * sizeof *neg->v);
    MG_TRY(sum_prompts(pos, spec->gate_mode, &x->positive, base, tok, ev, err));
    if (x->negative.n) MG_TRY(sum_prompts(neg, spec->gate_mode, &x->negative, base, tok, ev, err));
    for (size_t i = 0; i < n; i++) pos->v[i] -= neg->v[i];
    normalise(pos);
    return MG_OK;
}

mg_status mg_gates_from_prompts(const mg_merge_spec *spec, uint32_t n_rows, mg_model *base, const mg_tokenizer *tok,
                                const mg_evaluator *eval, float *rows, mg_error *err) {
    uint32_t layers = (uint32_t)mg_hp_i(base, MG_K_LAYERS);
    uint64_t hidden = (uint64_t)mg_hp_i(base, MG_K_HIDDEN);
    size_t n = layers * hidden;
    double *both = calloc(2 * n, sizeof *both);
    if (!both) return mg_fail_nomem(err, 2 * n * sizeof *both);
    prompt_sum pos = {both, layers, hidden}, neg = {both + n, layers, hidden};
    mg_status st = MG_OK;
    for (uint32_t e = 0; st == MG_OK && e < n_rows; e++) {
        st = expert_rows(spec, e, base, tok, eval, &pos, &neg, err);
        for (uint32_t l = 0; st == MG_OK && l < layers; l++)
            for (uint64_t k = 0; k < hidden; k++)
                rows[((uint64_t)l * n_rows + e) * hidden + k] = (float)pos.v[l * hidden + k];
    }
    free(both);
    return st;
}
