/* kernel_peak.c - the rate of f32 fused multiply-adds that a core can reach, and how much of it a dense product gets.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "formats/base/cpu.h"
#include "quant/math/gemm.h"
#include "tests/kernels/kernel_test.h"

#if defined(__x86_64__)
#include <immintrin.h>

enum { ROUNDS = 1 << 22, CHAINS = 12 }; /* enough independent chains to hide the latency of either width */

static volatile float kept;

__attribute__((target("avx2,fma"))) static double run_8(void) {
    __m256 a[CHAINS], x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(1e-3f);
    for (int i = 0; i < CHAINS; i++) a[i] = _mm256_set1_ps((float)i);
    for (int r = 0; r < ROUNDS; r++)
        for (int i = 0; i < CHAINS; i++) a[i] = _mm256_fmadd_ps(a[i], x, y);
    for (int i = 1; i < CHAINS; i++) a[0] = _mm256_add_ps(a[0], a[i]);
    kept = _mm256_cvtss_f32(a[0]);
    return 2.0 * 8 * CHAINS * ROUNDS;
}

__attribute__((target("avx512f"))) static double run_16(void) {
    __m512 a[CHAINS], x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(1e-3f);
    for (int i = 0; i < CHAINS; i++) a[i] = _mm512_set1_ps((float)i);
    for (int r = 0; r < ROUNDS; r++)
        for (int i = 0; i < CHAINS; i++) a[i] = _mm512_fmadd_ps(a[i], x, y);
    for (int i = 1; i < CHAINS; i++) a[0] = _mm512_add_ps(a[0], a[i]);
    kept = _mm512_cvtss_f32(a[0]);
    return 2.0 * 16 * CHAINS * ROUNDS;
}

static double (*peak_run(void))(void) {
    return mg_cpu_isa() == MG_ISA_AVX512 ? run_16 : mg_cpu_isa() == MG_ISA_AVX2 ? run_8 : NULL;
}
#else
static double (*peak_run(void))(void) {
    return NULL;
}
#endif

static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* y[M][N] = x[M][K] w[N][K]^T of one thread, packing included. */
static double product(const float *x, const float *w, float *y, uint64_t m, uint64_t n, uint64_t k) {
    mg_error err = {0};
    if (mg_gemm(mg_math_get(), y, n, x, k, w, k, m, n, k, &err) != MG_OK) return 0;
    return 2.0 * (double)m * (double)n * (double)k;
}

void kt_peak_bench(void) {
    enum { M = 512, TURNS = 5 };
    static const uint64_t sizes[][2] = {{1024, 1024}, {3584, 1024}, {1024, 3584}, {4096, 4096}}; /* N, K */
    double (*peak)(void) = peak_run();
    float *x = calloc((size_t)M * 4096, sizeof *x), *w = calloc((size_t)4096 * 4096, sizeof *w),
          *y = calloc((size_t)M * 4096, sizeof *y);
    double best[sizeof sizes / sizeof *sizes] = {0}, top = 0;
    if (!kt_selected("math.gemm") || !x || !w || !y) goto out;
    kt_fill(x, (uint64_t)M * 4096, KT_GAUSS);
    kt_fill(w, (uint64_t)4096 * 4096, KT_GAUSS);
    for (int t = 0; t < TURNS; t++) { /* in turns, so that both see the same clock */
        double from = cpu_seconds(), rate = peak ? peak() / (cpu_seconds() - from) * 1e-9 : 0;
        top = rate > top ? rate : top;
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            from = cpu_seconds();
            rate = product(x, w, y, M, sizes[i][0], sizes[i][1]) / (cpu_seconds() - from) * 1e-9;
            best[i] = rate > best[i] ? rate : best[i];
        }
    }
    printf("\nDense products of %d rows, one thread, GFLOP/s (fma peak of this core: %.1f), best of %d\n\n| N | K | "
           "GFLOP/s | "
           "%% of the peak |\n|---|---|---|---|\n",
           M, top, TURNS);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        printf("| %llu | %llu | %.1f | %.0f |\n", (unsigned long long)sizes[i][0], (unsigned long long)sizes[i][1],
               best[i], top > 0 ? 100 * best[i] / top : 0);
out:
    free(x);
    free(w);
    free(y);
}
