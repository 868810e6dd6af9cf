/* vecmath_ref.c - elementwise functions, reductions and rows of the forward pass: the definition the other twins are
 * compared with. */
#include <math.h>

#include "quant/math/mathtwins.h"
#include "quant/math/vec_scalar.inc"
#include "quant/math/vecmath_tmpl.inc"

void mg_vecmath_fill_ref(mg_math *t) {
    vecmath_fill(t);
}
