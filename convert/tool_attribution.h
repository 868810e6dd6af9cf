/* tool_attribution.h - quantize's --attribution: types chosen by what verify --attribute measured of another
 * quantization, without text and without running the model.
 *
 * Divergence grows with the square of an error that is small, so a tensor whose relative squared error e gave the
 * divergence k is taken to give k e' / e for another type with the error e', which is found by encoding. A tensor that
 * was not measured on its own counts as an equal share of its layer. */
#ifndef MG_CONVERT_TOOL_ATTRIBUTION_H
#define MG_CONVERT_TOOL_ATTRIBUTION_H

#include "convert/quantize.h"
#include "formats/base/pool.h"

/* slope[n]: nats per relative squared error of each open item, from the result of verify --json at path, of which
 * exactly one candidate has an attribution. gguf: the model that the items are of. MG_ERR_FORMAT for what is no such
 * result, MG_ERR_USAGE naming the first tensor of which it says nothing. */
mg_status mg_tool_attribution_load(double *slope, const char *path, mg_model *gguf, const mg_quantize_item *items,
                                   uint32_t n, mg_error *err) MG_MUST_CHECK;
/* Relative squared error of the item's tensor in variant, against the same of gguf. */
mg_status mg_tool_attribution_error(double *out, mg_model *gguf, const mg_quantize_item *item, mg_model *variant,
                                    mg_pool *pool, mg_error *err) MG_MUST_CHECK;

#endif
