/* mathops.c - picks the twin of the f32 kernels for the instruction set in use. */
#include "quant/math/mathops.h"

#include <pthread.h>

#include "quant/math/mathtwins.h"

static mg_math table_ref;
static pthread_once_t once = PTHREAD_ONCE_INIT;
#if defined(__x86_64__)
static mg_math table_avx2, table_avx512;
#elif defined(__aarch64__)
static mg_math table_neon;
#endif

static void fill(void) {
    mg_vecmath_fill_ref(&table_ref);
    mg_gemm_fill_ref(&table_ref);
#if defined(__x86_64__)
    mg_vecmath_fill_avx2(&table_avx2);
    mg_gemm_fill_avx2(&table_avx2);
    mg_vecmath_fill_avx512(&table_avx512);
    mg_gemm_fill_avx512(&table_avx512);
#elif defined(__aarch64__)
    mg_vecmath_fill_neon(&table_neon);
    mg_gemm_fill_neon(&table_neon);
#endif
}

const mg_math *mg_math_for(mg_isa isa) {
    pthread_once(&once, fill);
    switch (isa) {
    case MG_ISA_SCALAR:
        return &table_ref;
#if defined(__x86_64__)
    case MG_ISA_AVX2:
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &table_avx2 : NULL;
    case MG_ISA_AVX512:
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                       __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")
                   ? &table_avx512
                   : NULL;
#elif defined(__aarch64__)
    case MG_ISA_NEON:
        return &table_neon;
#endif
    default:
        return NULL;
    }
}

const mg_math *mg_math_get(void) {
    const mg_math *t = mg_math_for(mg_cpu_isa());
    return t ? t : mg_math_for(MG_ISA_SCALAR);
}
