/* weight_error.h - how far one weight of a model is from the same weight of another, whatever both are stored as. */
#ifndef MG_QUANT_WEIGHT_ERROR_H
#define MG_QUANT_WEIGHT_ERROR_H

#include "formats/arch/model.h"
#include "formats/base/pool.h"

/* Sums over weights in double: of squared differences, and of the squared first ones. */
typedef struct mg_weight_error {
    double diff_sq, ref_sq;
} mg_weight_error;

/* sum |d|^2 / sum |r|^2; 0 where nothing differs, infinite where zeros do. */
double mg_weight_error_relative(const mg_weight_error *e);
/* Add weight x of a against weight y of b, which have the same logical shape (MG_ERR_INTERNAL otherwise). A few MiB per
 * thread whatever the weight's size; the sums do not depend on the number of threads. pool may be NULL. */
mg_status mg_weight_error_add(mg_weight_error *e, mg_model *a, const mg_bound *x, mg_model *b, const mg_bound *y,
                              mg_pool *pool, mg_error *err) MG_MUST_CHECK;

#endif
