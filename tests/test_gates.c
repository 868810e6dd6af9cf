/* test_gates.c - router rows from prompts with a made-up network whose activations are known, seeded rows, and stages
 * kept on disk. */
#include <criterion/criterion.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "convert/gate_stage.h"
#include "convert/gates.h"
#include "formats/checkpoint.h"

enum { LAYERS = 4, HIDDEN = 256, EXPERTS = 2 };

/* ---- a network: embedding e(id, k), every layer doubles the stream and adds its number ---- */

static unsigned layers_run;

static float embedding(int32_t id, uint64_t k) {
    return (float)((id * 37 + (int)k * 11) % 101 - 50) / 64.0f;
}

static mg_status embed(void *self, mg_model *m, const int32_t *ids, uint64_t n, float *x, mg_error *err) {
    (void)self, (void)m, (void)err;
    for (uint64_t t = 0; t < n; t++)
        for (uint64_t k = 0; k < HIDDEN; k++) x[t * HIDDEN + k] = embedding(ids[t], k);
    return MG_OK;
}

static mg_status run_layer(void *self, mg_model *m, uint32_t layer, unsigned parts, const mg_batch *batch, float *x,
                           mg_tap_fn tap, void *tap_ctx, mg_error *err) {
    (void)self, (void)m;
    mg_tap t = {.point = MG_TAP_FFN_IN, .layer = layer, .rows = batch->n_tokens, .cols = HIDDEN, .data = x};
    if (tap && (parts & MG_PART_FFN_IN)) MG_TRY(tap(tap_ctx, &t, err));
    if (!(parts & MG_PART_FFN)) return MG_OK;
    layers_run++;
    for (uint64_t i = 0; i < batch->n_tokens * HIDDEN; i++) x[i] = 2 * x[i] + (float)layer + 1;
    return MG_OK;
}

static const mg_evaluator network = {.embed = embed, .run_layer = run_layer};

/* What enters layer l at a token. */
static double entering(int32_t id, uint64_t k, uint32_t l) {
    double v = (double)embedding(id, k);
    for (uint32_t i = 0; i < l; i++) v = 2 * v + i + 1;
    return v;
}

/* ---- a recipe ---- */

static mg_checkpoint *ckpt;
static mg_model *model;
static mg_tokenizer *tok;

static void setup(void) {
    mg_error err = {0};
    cr_assert(mg_checkpoint_open(&ckpt, MG_SAMPLES "/donors/base", &err) == MG_OK, "%s", err.message);
    cr_assert(mg_model_open(&model, ckpt, &err) == MG_OK, "%s", err.message);
    cr_assert(mg_tokenizer_open_model(&tok, ckpt, &err) == MG_OK, "%s", err.message);
    cr_assert(mg_hp_i(model, MG_K_LAYERS) == LAYERS && mg_hp_i(model, MG_K_HIDDEN) == HIDDEN);
    layers_run = 0;
}

static void teardown(void) {
    mg_tokenizer_free(tok);
    mg_model_free(model);
    mg_checkpoint_free(ckpt);
}

TestSuite(gates, .init = setup, .fini = teardown);

static const char *first[] = {"The sea was calm.", "A lamp"}, *second[] = {"def f(x): return x"},
                  *against[] = {"12 + 5"};
static mg_merge_expert experts[EXPERTS] = {
    {.source = "first", .positive = {first, 2}, .residual_scale = 1},
    {.source = "second", .positive = {second, 1}, .negative = {against, 1}, .residual_scale = 1}};

static mg_merge_spec spec_of(mg_gate_mode mode) {
    return (mg_merge_spec){.experts = experts, .n_experts = EXPERTS, .experts_per_token = 1, .gate_mode = mode};
}

static mg_ids ids_of(const char *text) {
    mg_ids ids = {0};
    mg_error err = {0};
    cr_assert(mg_ids_push(&ids, mg_tokenizer_bos(tok), &err) == MG_OK);
    cr_assert(mg_tokenizer_encode(tok, text, strlen(text), 0, &ids, &err) == MG_OK);
    return ids;
}

/* The vector of one list of prompts in layer l, from the definition. */
static void vector(double *v, mg_gate_mode mode, const mg_prompts *p, uint32_t l) {
    memset(v, 0, HIDDEN * sizeof *v);
    for (uint32_t i = 0; i < p->n; i++) {
        mg_ids ids = ids_of(p->text[i]);
        size_t from = mode == MG_GATE_HIDDEN ? ids.n - 1 : 0;
        for (uint64_t k = 0; k < HIDDEN; k++)
            for (size_t t = from; t < ids.n; t++)
                v[k] += mode == MG_GATE_CHEAP_EMBED ? entering(ids.ids[t], k, 0)
                                                    : entering(ids.ids[t], k, l) / (double)(ids.n - from) / p->n;
        mg_ids_release(&ids);
    }
}

static double norm(const double *v) {
    double s = 0;
    for (int k = 0; k < HIDDEN; k++) s += v[k] * v[k];
    return sqrt(s);
}

static void check_mode(mg_gate_mode mode) {
    static float rows[LAYERS * EXPERTS * HIDDEN];
    mg_merge_spec spec = spec_of(mode);
    mg_error err = {0};
    cr_assert(mg_gates_from_prompts(&spec, spec.n_experts, model, tok, &network, rows, &err) == MG_OK, "%s",
              err.message);
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint32_t e = 0; e < EXPERTS; e++) {
            double pos[HIDDEN], neg[HIDDEN] = {0};
            vector(pos, mode, &experts[e].positive, l);
            if (experts[e].negative.n) vector(neg, mode, &experts[e].negative, l);
            double a = norm(pos), b = experts[e].negative.n ? norm(neg) : 1;
            bool each = mode == MG_GATE_CHEAP_EMBED; /* normalised before the difference as well */
            for (int k = 0; k < HIDDEN; k++) pos[k] = each ? pos[k] / a - neg[k] / b : pos[k] - neg[k];
            a = norm(pos);
            for (int k = 0; k < HIDDEN; k++)
                cr_assert_float_eq((double)rows[(l * EXPERTS + e) * HIDDEN + (uint32_t)k], pos[k] / a, 1e-6,
                                   "layer %u, expert %u, %d", l, e, k);
        }
}

Test(gates, hidden) {
    check_mode(MG_GATE_HIDDEN);
    cr_expect_eq(layers_run, 3 * (LAYERS - 1)); /* three lists of prompts; the last layer's output is not needed */
}

Test(gates, hidden_avg) {
    check_mode(MG_GATE_HIDDEN_AVG);
}

Test(gates, cheap_embed) {
    check_mode(MG_GATE_CHEAP_EMBED);
    cr_expect_eq(layers_run, 0);
}

static float fitted[LAYERS][EXPERTS * HIDDEN];
static uint32_t supplied;
static mg_status supply(void *ctx, uint32_t layer, const float *rows, mg_error *err) {
    (void)ctx, (void)err;
    cr_assert_eq(layer, supplied);
    memcpy(fitted[supplied++], rows, sizeof fitted[0]);
    return MG_OK;
}

/* Every token but the first of each prompt finds its expert: 256 inputs separate a handful of tokens. */
Test(gates, fit) {
    mg_merge_spec spec = spec_of(MG_GATE_FIT);
    mg_fit_report reports[LAYERS];
    mg_error err = {0};
    for (int l = 0; l < LAYERS; l++) model->layers[l].moe = true; /* a dense model stands in for the mixture */
    cr_assert(mg_gates_fit(&spec, NULL, model, tok, &network, NULL, supply, NULL, reports, &err) == MG_OK, "%s",
              err.message);
    cr_expect_eq(supplied, LAYERS);
    cr_expect_eq(layers_run, LAYERS - 1);
    for (uint32_t l = 0; l < LAYERS; l++) {
        cr_expect(reports[l].iterations > 1 && isfinite(reports[l].loss), "layer %u", l);
        for (uint32_t e = 0, own = 0; e < EXPERTS; e++, own = 0) {
            size_t n = 0;
            for (uint32_t i = 0; i < experts[e].positive.n; i++) {
                mg_ids ids = ids_of(experts[e].positive.text[i]);
                for (size_t t = 1; t < ids.n; t++, n++) {
                    double z[EXPERTS] = {0};
                    for (uint64_t k = 0; k < HIDDEN; k++)
                        for (uint32_t c = 0; c < EXPERTS; c++)
                            z[c] += (double)fitted[l][c * HIDDEN + k] * entering(ids.ids[t], k, l);
                    own += z[e] > z[1 - e];
                }
                mg_ids_release(&ids);
            }
            cr_expect(n > 3 && own + 1 >= n, "layer %u, expert %u: %u of %zu", l, e, own, n);
        }
    }
}

Test(gates, empty_prompts_are_refused) {
    static const char *nothing[] = {""};
    mg_merge_expert keep = experts[1];
    static float rows[LAYERS * EXPERTS * HIDDEN];
    mg_error err = {0};
    experts[1].positive = (mg_prompts){nothing, 1}; /* only its beginning-of-sequence token: nothing to fit */
    mg_merge_spec spec = spec_of(MG_GATE_FIT);
    supplied = 0;
    for (int l = 0; l < LAYERS; l++) model->layers[l].moe = true;
    cr_assert(keep.negative.n > 0 &&
                  mg_gates_fit(&spec, NULL, model, tok, &network, NULL, supply, NULL, NULL, &err) == MG_OK,
              "what it must not get is enough: %s", err.message);
    experts[1].negative.n = 0;
    cr_expect_eq(mg_gates_fit(&spec, NULL, model, tok, &network, NULL, supply, NULL, NULL, &err), MG_ERR_CONFLICT);
    cr_expect(strstr(err.message, "'second'"), "%s", err.message);
    experts[1].positive.n = 0;
    spec = spec_of(MG_GATE_HIDDEN);
    cr_expect_eq(mg_gates_from_prompts(&spec, spec.n_experts, model, tok, &network, rows, NULL), MG_ERR_CONFLICT);
    experts[1] = keep;
}

/* ---- seeded rows ---- */

Test(gates_seeded, moments_and_seeds) {
    enum { N = 2 * 8 * 512 };
    static float a[N], b[N];
    mg_error err = {0};
    double sum = 0, sq = 0, most = 0;
    cr_assert(mg_gates_random(MG_GATE_RANDOM, 5, 2, 8, 512, a, &err) == MG_OK);
    cr_assert(mg_gates_random(MG_GATE_RANDOM, 5, 2, 8, 512, b, &err) == MG_OK);
    cr_expect_arr_eq(a, b, sizeof a);
    for (int i = 0; i < N; i++) {
        sum += (double)a[i];
        sq += (double)a[i] * (double)a[i];
    }
    cr_expect_lt(fabs(sum / N), 0.05); /* four standard errors of 1 / sqrt(8192) */
    cr_expect_lt(fabs(sq / N - 1), 0.07);
    cr_assert(mg_gates_random(MG_GATE_RANDOM, 6, 2, 8, 512, b, &err) == MG_OK);
    cr_expect(memcmp(a, b, sizeof a) != 0);
    cr_assert(mg_gates_random(MG_GATE_UNIFORM_RANDOM, 5, 2, 8, 512, a, &err) == MG_OK);
    for (int i = 0; i < N; i++) most = fmax(most, fabs((double)a[i]));
    cr_expect(most <= 1 / sqrt(512) && most > 0.99 / sqrt(512));
    cr_expect_eq(mg_gates_random(MG_GATE_FIT, 5, 1, 1, 1, a, NULL), MG_ERR_INTERNAL);
}

/* ---- stages ---- */

Test(gate_stage, keeps_rows_of_its_own_id_and_shape) {
    char path[] = "/tmp/mg_stage_XXXXXX";
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    close(fd);
    char file[64];
    snprintf(file, sizeof file, "%s.safetensors", path);
    float rows[2 * 3 * 4], found[2 * 3 * 4];
    for (int i = 0; i < 24; i++) rows[i] = (float)i / 3;
    mg_gate_shape shape = {2, 3, 4};
    mg_xxh128 id = {{1, 2, 3}}, other = {{1, 2, 4}};
    mg_error err = {0};
    cr_expect(!mg_gate_stage_load(file, id, shape, found));
    cr_assert(mg_gate_stage_save(file, id, shape, rows, &err) == MG_OK, "%s", err.message);
    cr_assert(mg_gate_stage_load(file, id, shape, found));
    cr_expect_arr_eq(found, rows, sizeof rows);
    cr_expect(!mg_gate_stage_load(file, other, shape, found));
    cr_expect(!mg_gate_stage_load(file, id, (mg_gate_shape){3, 3, 4}, found));
    cr_expect(!mg_gate_stage_load(file, id, (mg_gate_shape){2, 3, 5}, found));
    cr_assert(truncate(file, 100) == 0);
    cr_expect(!mg_gate_stage_load(file, id, shape, found));
    unlink(file);
    unlink(path);
}
