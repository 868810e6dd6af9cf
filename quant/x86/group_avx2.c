/* group_avx2.c - the AVX2 twins of the group formats (quant/simd/group.inc). */
#if defined(__x86_64__)
#include "quant/x86/codec_avx2.inc"
#define MG_GROUP_FILL mg_group_fill_avx2
#include "quant/simd/group.inc"
#else
#include "quant/group_twins.h"
void mg_group_fill_avx2(mg_group_kernels *t) {
    (void)t;
}
#endif
