/* test_gram.c - Gram matrices: against double precision, and equal bits however the rows arrive, for every number of
 * threads. */
#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quant/math/gemm.h"
#include "quant/math/gram.h"

enum { N = 700, D = 70 };

static float *rows(float *weight) {
    uint64_t state = 11;
    float *x = malloc(N * D * sizeof *x);
    cr_assert(x);
    for (int i = 0; i < N * D + N; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        const float v = (float)((double)(state >> 11) * 0x1p-53 - 0.5);
        if (i < N * D)
            x[i] = v;
        else
            weight[i - N * D] = v + 1.0f;
    }
    return x;
}

/* chunk: rows handed over at once. */
static void gather(mg_gram *g, const float *x, const float *weight, uint64_t chunk, mg_pool *pool) {
    mg_error err = {0};
    cr_assert(mg_gram_init(g, D, &err) == MG_OK);
    for (uint64_t t = 0; t < N; t += chunk)
        cr_assert(mg_gram_rows(g, x + t * D, weight ? weight + t : NULL, N - t < chunk ? N - t : chunk, pool, &err) ==
                  MG_OK);
    cr_assert(mg_gram_finish(g, pool, &err) == MG_OK);
    cr_assert(g->rows == N);
}

Test(gram, is_the_sum_of_weighted_outer_products) {
    float weight[N], *x = rows(weight);
    mg_gram g;
    gather(&g, x, weight, N, NULL);
    for (int i = 0; i < D; i++)
        for (int j = 0; j < D; j++) {
            double want = 0, size = 0;
            for (int t = 0; t < N; t++) {
                const double v = (double)x[t * D + i] * (double)x[t * D + j] * (double)weight[t] * (double)weight[t];
                want += v;
                size += fabs(v);
            }
            /* A chain of 256 roundings of half an ulp each, of partial sums below size. */
            cr_expect(fabs((double)mg_gram_at(&g, (uint64_t)i, (uint64_t)j) - want) < size * 256 * 0x1p-25, "%d %d", i, j);
        }
    mg_gram_release(&g);
    free(x);
}

Test(gram, bits_do_not_depend_on_batches_or_threads) {
    float weight[N], *x = rows(weight);
    mg_gram first;
    gather(&first, x, weight, N, NULL);
    const uint64_t chunks[] = {1, 256, 300, 511};
    for (unsigned threads = 1; threads <= 3; threads++) {
        mg_error err = {0};
        mg_pool *pool;
        cr_assert(mg_pool_new(&pool, threads, &err) == MG_OK);
        for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
            mg_gram g;
            gather(&g, x, weight, chunks[c], pool);
            cr_expect(memcmp(g.g, first.g, (D + 15) / 16 * 16 * D * sizeof(float)) == 0);
            mg_gram_release(&g);
        }
        mg_pool_free(pool);
    }
    mg_gram_release(&first);
    free(x);
}

Test(gram, refuses_values_that_are_not_finite) {
    mg_error err = {0};
    float x[D] = {0};
    mg_gram g;
    x[3] = INFINITY;
    cr_assert(mg_gram_init(&g, D, &err) == MG_OK);
    cr_assert(mg_gram_rows(&g, x, NULL, 1, NULL, &err) == MG_OK);
    cr_expect(mg_gram_finish(&g, NULL, &err) == MG_ERR_FORMAT);
    cr_expect(strstr(err.message, "channel 3"));
    mg_gram_release(&g);
}

Test(gram, products_with_it) {
    enum { M = 13 };
    float weight[N], *x = rows(weight), y[M * 32];
    const mg_math *math = mg_math_get();
    mg_gram g;
    gather(&g, x, NULL, N, NULL);
    float *packed = calloc((M + MG_GEMM_MAX_MR) * D, sizeof *packed);
    cr_assert(packed);
    for (uint64_t s = 0; s * math->mr < M; s++) mg_gemm_pack_x(math, packed, s, x, D, NULL, M, D);
    for (uint64_t from = 0; from < 40; from += 37) { /* all of it, and a part */
        const uint64_t to = from ? from + 11 : D;
        mg_gram_times(&g, packed, M, from, to, 2, 2, y, 32);
        for (uint64_t i = 0; i < M; i++)
            for (uint64_t j = 32; j < 64; j++) {
                float want = 0;
                for (uint64_t k = from; k < to; k++) want = fmaf(x[i * D + k], mg_gram_at(&g, k, j), want);
                cr_expect_eq(y[i * 32 + j - 32], want);
            }
    }
    mg_gram_release(&g);
    free(packed);
    free(x);
}
