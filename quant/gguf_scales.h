/* gguf_scales.h - GGUF files whose weights have a factor beside them: "X.scale", one number or one per expert, which
 * multiplies what "X.weight" decodes to (NVFP4 as convert_hf_to_gguf.py writes it). Seen through this view each such
 * weight is a tensor of F32, the product rounded once, and the factors are gone; "X.input_scale" belongs to activations
 * that are quantized and is left out. */
#ifndef MG_QUANT_GGUF_SCALES_H
#define MG_QUANT_GGUF_SCALES_H

#include "formats/checkpoint.h"

/* *out is inner itself when it has no such factors; else inner belongs to *out. After a failure inner is still the
 * caller's. Factors are read at once. MG_ERR_FORMAT: a factor without its weight, of another type or number, or that is
 * no finite number. */
mg_status mg_gguf_scales_wrap(mg_checkpoint **out, mg_checkpoint *inner, mg_error *err) MG_MUST_CHECK;

#endif
