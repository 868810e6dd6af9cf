/* quantize_variant.h - a model with some of its tensors quantized, as a model that can be run, without writing it. */
#ifndef MG_CONVERT_QUANTIZE_VARIANT_H
#define MG_CONVERT_QUANTIZE_VARIANT_H

#include "convert/quantize.h"

typedef struct mg_quantize_variant {
    mg_model *model;
    mg_plan *plan;
    mg_checkpoint *ckpt;
} mg_quantize_variant;

/* fixed: by the corrected encoder. in (with GGUF names and keys; outlives v) with the tensor of `item` in dtype instead
 * of its own, encoded with the item's importance values; everything else is as stored. Close in every case. */
mg_status mg_quantize_variant_open(mg_quantize_variant *v, mg_checkpoint *in, const mg_quantize_item *item,
                                   mg_dtype dtype, bool fixed, mg_error *err) MG_MUST_CHECK;
/* The model that output `out` of plan p will be; p is borrowed. */
mg_status mg_quantize_variant_of_plan(mg_quantize_variant *v, mg_plan *p, uint32_t out, mg_error *err) MG_MUST_CHECK;
void mg_quantize_variant_close(mg_quantize_variant *v);

#endif
