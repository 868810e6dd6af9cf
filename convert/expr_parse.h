/* expr_parse.h - the recipe of a manifest (expr_json.c writes it) back to an expression over inputs that are open. */
#ifndef MG_CONVERT_EXPR_PARSE_H
#define MG_CONVERT_EXPR_PARSE_H

#include "convert/plan.h"
#include "quant/imatrix.h"

/* What recipes refer to. Everything is borrowed. */
typedef struct mg_recipe_scope {
    mg_plan *plan;                /* that expressions are built in */
    mg_checkpoint *const *inputs; /* [n_inputs]; NULL: not there */
    uint32_t n_inputs;
    const mg_imatrix *imatrix; /* importance weights, found by their hash; NULL: none given */
    const mg_plan *values;     /* a plan whose constants stand for those of recipes, found by their hash; NULL */
} mg_recipe_scope;

/* t: the tensor that the recipe is of (shape). MG_ERR_FORMAT: no recipe. MG_ERR_INTEGRITY: an input lacks what is read.
 * MG_ERR_UNSUPPORTED: values that the scope does not have; the message says which. */
mg_status mg_expr_parse(const mg_expr **out, const mg_recipe_scope *s, const mg_json *recipe, const mg_tensor *t,
                        mg_error *err) MG_MUST_CHECK;

#endif
