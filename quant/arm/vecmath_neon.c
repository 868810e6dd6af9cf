/* vecmath_neon.c - elementwise functions, reductions and rows of the forward pass: four lanes. */
#if defined(__aarch64__)
#include <math.h>

#include "quant/math/mathtwins.h"
#include "quant/arm/vec_neon.inc"
#include "quant/math/vecmath_tmpl.inc"

void mg_vecmath_fill_neon(mg_math *t) {
    vecmath_fill(t);
}

#else
typedef int mg_not_this_machine; /* a translation unit may not be empty */
#endif
