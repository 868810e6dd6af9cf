/* group_neon.c - the NEON twins of the group formats (quant/simd/group.inc). */
#if defined(__aarch64__)
#include "quant/arm/codec_neon.inc"
#define MG_GROUP_FILL mg_group_fill_neon
#include "quant/simd/group.inc"
#else
#include "quant/group_twins.h"
void mg_group_fill_neon(mg_group_kernels *t) {
    (void)t;
}
#endif
