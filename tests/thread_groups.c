/* thread_groups.c - the dense view of quantized weights that do not fit its bands: every byte range, from several
 * threads at once, is what the definition of the layout says, and a damaged part fails in every thread that meets it.
 */
#include <pthread.h>
#include <stdio.h>

#include "memory_checkpoint.h"
#include "quant/group_checkpoint.h"

#define MATRICES 3
#define ROWS     2080u /* output rows; three bands of 4096 columns, the last one short */
#define COLS     4096u
#define GROUP    128u
#define THREADS  4

#define MUST(x)                                                                                                        \
    do {                                                                                                               \
        if (!(x)) {                                                                                                    \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #x);                                            \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static uint32_t *qweight[MATRICES], *qzeros[MATRICES];
static uint16_t *scales[MATRICES];
static mg_checkpoint *view;

static uint64_t mix(uint64_t *state) { /* splitmix64 */
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* W[row][col] from the definition of AWQ GEMM, one nibble at a time. */
static float expected(unsigned m, uint64_t row, uint64_t col) {
    static const unsigned place[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    const unsigned shift = 4 * place[row % 8];
    const uint32_t code = qweight[m][col * (ROWS / 8) + row / 8] >> shift & 15;
    const uint64_t g = col / GROUP;
    const uint32_t zero = qzeros[m][g * (ROWS / 8) + row / 8] >> shift & 15;
    return (float)((int)code - (int)zero) * mg_f16_to_f32(scales[m][g * ROWS + row]);
}

static void check_range(uint64_t *seed, uint8_t *buf, uint64_t size) {
    mg_error err = {0};
    const unsigned m = (unsigned)(mix(seed) % MATRICES);
    const uint64_t all = (uint64_t)ROWS * COLS * 4, from = mix(seed) % all;
    uint64_t n = mix(seed) % size + 1;
    if (n > all - from) n = all - from;
    MUST(mg_checkpoint_read(view, m, from, buf, n, &err) == MG_OK);
    /* Both ends, which the bands and the bytes cut anyhow, and places in between. */
    for (unsigned i = 0; i < 64; i++) {
        const uint64_t at = i == 0 ? 0 : i == 1 ? n - 1 : mix(seed) % n, e = (from + at) / 4;
        const float want = expected(m, e / COLS, e % COLS);
        uint8_t bytes[4];
        memcpy(bytes, &want, 4);
        MUST(buf[at] == bytes[(from + at) % 4]);
    }
}

static void *reader(void *arg) {
    uint64_t seed = (uint64_t)(uintptr_t)arg;
    const uint64_t size = 3u << 20;
    uint8_t *buf = malloc(size);
    MUST(buf);
    for (unsigned i = 0; i < 24; i++) check_range(&seed, buf, i % 3 ? 5000 : size);
    free(buf);
    return NULL;
}

static void *fill(memory_checkpoint *c, const char *name, mg_dtype type, uint64_t a, uint64_t b, uint64_t seed) {
    const uint64_t shape[2] = {a, b};
    const uint32_t t = memory_add(c, name, type, 2, shape);
    for (uint64_t i = 0; i < c->base.tensors[t].n_bytes; i += 2) {
        const uint16_t h = type == MG_F16 ? (uint16_t)(0x2000 + mix(&seed) % 0x0c00) : (uint16_t)mix(&seed);
        memcpy(c->data[t] + i, &h, 2);
    }
    return c->data[t];
}

static void open_view(void) {
    memory_checkpoint *c =
        memory_new("{\"quantization_config\":{\"quant_method\":\"awq\",\"bits\":4,\"group_size\":128}}");
    for (unsigned m = 0; m < MATRICES; m++) {
        char name[64];
        snprintf(name, sizeof name, "m%u.qweight", m);
        qweight[m] = fill(c, name, MG_I32, COLS, ROWS / 8, 10 * m + 1);
        snprintf(name, sizeof name, "m%u.qzeros", m);
        qzeros[m] = fill(c, name, MG_I32, COLS / GROUP, ROWS / 8, 10 * m + 2);
        snprintf(name, sizeof name, "m%u.scales", m);
        scales[m] = fill(c, name, MG_F16, COLS / GROUP, ROWS, 10 * m + 3);
    }
    mg_error err = {0};
    MUST(mg_group_checkpoint_wrap(&view, &c->base, &err) == MG_OK && view != &c->base);
    MUST(view->n_tensors == MATRICES && strcmp(view->tensors[1].name, "m1.weight") == 0);
    MUST(view->tensors[0].dtype == MG_F32 && view->tensors[0].shape[0] == ROWS && view->tensors[0].shape[1] == COLS);
    MUST(!mg_json_get(view->config, "quantization_config"));
}

static void *failing(void *arg) {
    float x;
    mg_error err = {0};
    (void)arg;
    for (unsigned i = 0; i < 50; i++) MUST(mg_checkpoint_read(view, 0, 4 * (i % 64), &x, 4, &err) == MG_ERR_FORMAT);
    return NULL;
}

static void run(void *(*body)(void *)) {
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++) MUST(pthread_create(&threads[i], NULL, body, (void *)(i + 1)) == 0);
    for (unsigned i = 0; i < THREADS; i++) MUST(pthread_join(threads[i], NULL) == 0);
}

/* g_idx is data: it is judged when it is read, by whoever reads. */
static void open_damaged(void) {
    memory_checkpoint *c =
        memory_new("{\"quantization_config\":{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":32}}");
    const uint64_t k = 64;
    (void)fill(c, "m.qweight", MG_I32, 8, 32, 1);
    (void)fill(c, "m.qzeros", MG_I32, 2, 4, 2);
    (void)fill(c, "m.scales", MG_F16, 2, 32, 3);
    const uint32_t order = memory_add(c, "m.g_idx", MG_I32, 1, &k);
    const int32_t far = 2;
    memcpy(c->data[order] + 63 * sizeof far, &far, sizeof far);
    mg_error err = {0};
    MUST(mg_group_checkpoint_wrap(&view, &c->base, &err) == MG_OK);
}

/* FP8 experts in one tensor: row blocks begin anew in each of them, and the edge blocks are cut. */
static void stacked_fp8(void) {
    memory_checkpoint *c =
        memory_new("{\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[16,16]}}");
    const uint64_t shape[3] = {2, 24, 40}, blocks[3] = {2, 2, 3};
    float scale[12], w[2 * 24 * 40];
    for (unsigned i = 0; i < 12; i++) scale[i] = (float)(i + 1);
    (void)memory_add(c, "other", MG_F32, 3, blocks);
    const uint32_t t = memory_add(c, "experts.gate_up_proj", MG_F8_E4M3, 3, shape);
    memset(c->data[t], 0x38, 2 * 24 * 40); /* 1.0 */
    memory_put(c, "experts.gate_up_proj_scale_inv", MG_F32, 3, blocks, scale);
    mg_error err = {0};
    MUST(mg_group_checkpoint_wrap(&view, &c->base, &err) == MG_OK && view->n_tensors == 2);
    MUST(view->tensors[1].rank == 3 && view->tensors[1].shape[1] == 24);
    MUST(mg_checkpoint_read(view, 1, 0, w, sizeof w, &err) == MG_OK);
    for (unsigned e = 0; e < 2; e++)
        for (unsigned n = 0; n < 24; n++)
            for (unsigned k = 0; k < 40; k++) MUST(w[(e * 24 + n) * 40 + k] == scale[(e * 2 + n / 16) * 3 + k / 16]);
    mg_checkpoint_free(view);
}

int main(void) {
    stacked_fp8();
    open_view();
    run(reader);
    mg_checkpoint_free(view);
    open_damaged();
    run(failing);
    mg_checkpoint_free(view);
    puts("ok");
    return 0;
}
