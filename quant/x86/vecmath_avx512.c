/* vecmath_avx512.c - elementwise functions, reductions and rows of the forward pass: sixteen lanes. */
#if defined(__x86_64__)
#include <math.h>

#include "quant/math/mathtwins.h"
#include "quant/x86/vec_avx512.inc"
#include "quant/math/vecmath_tmpl.inc"

void mg_vecmath_fill_avx512(mg_math *t) {
    vecmath_fill(t);
}

#else
typedef int mg_not_this_machine; /* a translation unit may not be empty */
#endif
