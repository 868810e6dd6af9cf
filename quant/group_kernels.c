/* group_kernels.c - picks the twin of the group kernels for the instruction set in use. */
#include "quant/group_kernels.h"

#include <pthread.h>

#include "quant/group_twins.h"

static mg_group_kernels tables[MG_ISA_NEON + 1];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void fill(void) {
    for (mg_isa isa = MG_ISA_SCALAR; isa <= MG_ISA_NEON; isa++) mg_group_fill_ref(&tables[isa]);
    if (mg_cpu_has(MG_ISA_AVX2)) mg_group_fill_avx2(&tables[MG_ISA_AVX2]);
    if (mg_cpu_has(MG_ISA_AVX512)) mg_group_fill_avx512(&tables[MG_ISA_AVX512]);
    if (mg_cpu_has(MG_ISA_NEON)) mg_group_fill_neon(&tables[MG_ISA_NEON]);
}

const mg_group_kernels *mg_group_kernels_for(mg_isa isa) {
    pthread_once(&once, fill);
    return &tables[isa];
}

const mg_group_kernels *mg_group_kernels_get(void) {
    return mg_group_kernels_for(mg_cpu_isa());
}
