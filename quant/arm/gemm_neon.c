/* gemm_neon.c - rule G with four-lane vectors: 6 x 16 tiles use 24 of the 32 registers as accumulators. */
#if defined(__aarch64__)
#include "quant/math/mathtwins.h"
#include "quant/arm/vec_neon.inc"
#define MR 6
#include "quant/math/gemm_tmpl.inc"

void mg_gemm_fill_neon(mg_math *t) {
    t->mr = MR;
    t->gemm = gemm_any;
    t->pack_w = mg_gemm_pack_w_ref;
}

#else
typedef int mg_not_this_machine; /* a translation unit may not be empty */
#endif
