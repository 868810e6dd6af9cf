/* mathops.c - picks the twin of the f32 kernels for the instruction set in use. */
#include "quant/math/mathops.h"

#include <pthread.h>

#include "quant/math/mathtwins.h"

static mg_math tables[MG_ISA_NEON + 1];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void fill(void) {
    mg_vecmath_fill_ref(&tables[MG_ISA_SCALAR]);
    mg_gemm_fill_ref(&tables[MG_ISA_SCALAR]);
#if defined(__x86_64__)
    if (mg_cpu_has(MG_ISA_AVX2)) {
        mg_vecmath_fill_avx2(&tables[MG_ISA_AVX2]);
        mg_gemm_fill_avx2(&tables[MG_ISA_AVX2]);
    }
    if (mg_cpu_has(MG_ISA_AVX512)) {
        mg_vecmath_fill_avx512(&tables[MG_ISA_AVX512]);
        mg_gemm_fill_avx512(&tables[MG_ISA_AVX512]);
    }
#elif defined(__aarch64__)
    mg_vecmath_fill_neon(&tables[MG_ISA_NEON]);
    mg_gemm_fill_neon(&tables[MG_ISA_NEON]);
#endif
}

const mg_math *mg_math_for(mg_isa isa) {
    pthread_once(&once, fill);
    return mg_cpu_has(isa) ? &tables[isa] : NULL;
}

const mg_math *mg_math_get(void) {
    return mg_math_for(mg_cpu_isa());
}
