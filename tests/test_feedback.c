/* test_feedback.c - error feedback into block types: the loss it reports is that of the bytes it wrote, as a decoder
 * reads them, and lies below that of the encoder's own codes; rows that leave nothing to choose. */
#include <criterion/criterion.h>

#include <math.h>

#include "memory_checkpoint.h"
#include "quant/codec.h"
#include "quant/feedback.h"

enum { ROWS = 53, COLS = 512, SAMPLES = 900, HUGE_ROW = 3, ZERO_ROW = 4 };

static uint64_t state = 5;

static float uniform(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(state >> 11) * 0x1p-53 - 0.5);
}

/* Inputs whose columns are alike: what one column loses, others can make up for. */
static void gather(mg_gram *g) {
    static float x[SAMPLES * COLS];
    mg_error err = {0};
    for (int t = 0; t < SAMPLES; t++) {
        float common[8];
        for (int j = 0; j < 8; j++) common[j] = 4.0f * uniform();
        for (int k = 0; k < COLS; k++) x[t * COLS + k] = common[k % 8] + uniform() * (1.0f + (float)(k % 5));
    }
    cr_assert(mg_gram_init(g, COLS, &err) == MG_OK);
    cr_assert(mg_gram_rows(g, x, NULL, SAMPLES, NULL, &err) == MG_OK);
    cr_assert(mg_gram_finish(g, NULL, &err) == MG_OK);
}

static void fill(float *w) {
    for (int i = 0; i < ROWS * COLS; i++) w[i] = uniform() * (0.1f + (float)(i / COLS));
    for (int k = 0; k < COLS; k++) {
        w[HUGE_ROW * COLS + k] *= 1e9f; /* scales that no f16 holds */
        w[ZERO_ROW * COLS + k] = 0.0f;
    }
}

/* e (G + damping) e^T over the rows that have a choice. */
static double loss_of(mg_dtype t, const float *w, const uint8_t *blocks, uint64_t row_bytes, const mg_gram *g,
                      double damping) {
    static float got[COLS];
    double mean = 0, sum = 0;
    for (uint64_t k = 0; k < COLS; k++) mean += (double)mg_gram_at(g, k, k) / COLS;
    for (int i = 0; i < ROWS; i++) {
        if (i == HUGE_ROW) continue;
        mg_codec_get(t)->decode(blocks + (uint64_t)i * row_bytes, COLS, got);
        for (int k = 0; k < COLS; k++) got[k] = w[i * COLS + k] - got[k];
        for (uint64_t j = 0; j < COLS; j++)
            for (uint64_t k = 0; k < COLS; k++)
                sum +=
                    (double)got[j] * (double)got[k] * ((double)mg_gram_at(g, j, k) + (j == k ? damping * mean : 0.0));
    }
    return sum;
}

static void check_type(mg_dtype t, mg_model *m, const float *w, const mg_gptq *h, const mg_gram *g) {
    static uint8_t made[ROWS * 1024], own[ROWS * 1024];
    const mg_bound b = {.rank = 2, .shape = {ROWS, COLS}};
    const char *name = mg_dtype_get(t)->name;
    mg_error err = {0};
    uint64_t bytes;
    double said;
    cr_assert(mg_dtype_row_bytes(t, COLS, &bytes) && bytes <= 1024);
    cr_assert(mg_feedback_encode(h, t, m, &b, made, NULL, &said, &err) == MG_OK, "%s: %s", name, err.message);
    cr_assert(mg_codec_get(t)->encode(w, NULL, ROWS * COLS, own, &err) == MG_OK);
    const double is = loss_of(t, w, made, bytes, g, h->damping), before = loss_of(t, w, own, bytes, g, h->damping);
    /* f32 factors and errors, sums of 512 of them */
    cr_assert(fabs(is - said) <= 1e-3 * is, "%s: a loss of %g is said, the bytes have %g", name, said, is);
    cr_assert(is < 0.7 * before, "%s: loss %g, the encoder's own codes %g", name, is, before);
    cr_assert(memcmp(made + HUGE_ROW * bytes, own + HUGE_ROW * bytes, bytes) == 0, "%s: a row of infinite scales",
              name);
    static float zero[COLS];
    mg_codec_get(t)->decode(made + ZERO_ROW * bytes, COLS, zero);
    for (int k = 0; k < COLS; k++) cr_assert(zero[k] == 0.0f, "%s: a zero is %g", name, (double)zero[k]);
}

Test(feedback, loss_is_that_of_the_bytes_and_below_the_encoders) {
    static float w[ROWS * COLS];
    const uint64_t shape[] = {ROWS, COLS};
    mg_error err = {0};
    mg_gram g;
    mg_gptq h;
    uint32_t types = 0;
    gather(&g);
    fill(w);
    memory_checkpoint *c = memory_new(NULL);
    memory_put(c, "w", MG_F32, 2, shape, w);
    mg_model m = {.ckpt = &c->base};
    cr_assert(mg_gptq_init(&h, &g, COLS, 0.01, NULL, &err) == MG_OK && !h.plain);
    for (mg_dtype t = 0; t < MG_DTYPE_COUNT; t++) {
        if (!mg_feedback_supports(t)) continue;
        check_type(t, &m, w, &h, &g);
        types++;
    }
    cr_assert(types == 11, "%u types", types);
    mg_gptq_release(&h);
    mg_gram_release(&g);
    mg_checkpoint_free(&c->base);
}

Test(feedback, without_statistics_the_bytes_are_the_encoders) {
    static float w[ROWS * COLS];
    static uint8_t made[ROWS * 288], own[ROWS * 288];
    const uint64_t shape[] = {ROWS, COLS};
    const mg_bound b = {.rank = 2, .shape = {ROWS, COLS}};
    mg_error err = {0};
    mg_gptq h;
    double loss;
    fill(w);
    memory_checkpoint *c = memory_new(NULL);
    memory_put(c, "w", MG_F32, 2, shape, w);
    mg_model m = {.ckpt = &c->base};
    cr_assert(mg_gptq_init(&h, NULL, COLS, 0.01, NULL, &err) == MG_OK);
    cr_assert(mg_feedback_encode(&h, MG_Q4_K, &m, &b, made, NULL, &loss, &err) == MG_OK);
    cr_assert(mg_codec_get(MG_Q4_K)->encode(w, NULL, ROWS * COLS, own, &err) == MG_OK);
    cr_assert(memcmp(made, own, sizeof made) == 0);
    mg_gptq_release(&h);
    mg_checkpoint_free(&c->base);
}
