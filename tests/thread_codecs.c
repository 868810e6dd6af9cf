/* thread_codecs.c - many threads encode at once, the first use of every IQ codebook included. A plain main, so that it
 * runs under ThreadSanitizer. */
#include "quant/codec.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { THREADS = 8, N = 512, MAX_BYTES = 8 * N };

static float x[N], w[N];
static uint8_t out[THREADS][MG_DTYPE_COUNT][MAX_BYTES];
static mg_status status[THREADS];

static void *encode_all(void *arg) {
    size_t me = (size_t)(uint8_t *)arg;
    for (int k = 0; k < MG_DTYPE_COUNT; k++) {
        int t = MG_DTYPE_COUNT - 1 - k; /* the IQ types first: all threads meet at the same codebook */
        const mg_codec *c = mg_codec_get((mg_dtype)t);
        mg_error err = {0};
        if (c && c->encode(x, w, N, out[me][t], &err) != MG_OK) status[me] = err.code;
    }
    return NULL;
}

int main(void) {
    pthread_t thread[THREADS];
    uint32_t seed = 1;
    int failures = 0;
    for (int i = 0; i < N; i++) {
        x[i] = (float)((int32_t)(seed = seed * 1664525u + 1013904223u) >> 8) * 0x1p-20f;
        w[i] = (float)((seed = seed * 1664525u + 1013904223u) >> 8) * 0x1p-20f;
    }
    for (size_t t = 0; t < THREADS; t++)
        if (pthread_create(&thread[t], NULL, encode_all, (void *)t) != 0) return 1;
    for (int t = 0; t < THREADS; t++) pthread_join(thread[t], NULL);
    for (int t = 0; t < THREADS; t++)
        if (status[t] != MG_OK || memcmp(out[t], out[0], sizeof out[0]) != 0) {
            fprintf(stderr, "thread %d differs from thread 0\n", t);
            failures++;
        }
    return failures != 0;
}
