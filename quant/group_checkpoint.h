/* group_checkpoint.h - quantized Hugging Face checkpoints (AWQ, GPTQ, compressed-tensors, FP8, MXFP4) as the dense
 * models that they stand for: X.qweight, X.scales, ... become one tensor X.weight of F32, decoded as it is read, and
 * config.json loses its quantization_config. Nobody who works with the result sees a difference from a float
 * checkpoint.
 *
 * Memory: a few bands of unpacked rows (quant/group_decode.h), whatever the size of the weights. */
#ifndef MG_QUANT_GROUP_CHECKPOINT_H
#define MG_QUANT_GROUP_CHECKPOINT_H

#include "formats/checkpoint.h"

/* Bytes of unpacked codes kept at once, at most: MG_GROUP_BANDS bands of MG_GROUP_BAND_BYTES. */
#define MG_GROUP_BANDS      8
#define MG_GROUP_BAND_BYTES (4u << 20)

/* mg_checkpoint_open, and the dense view when the weights are quantized. What every tool opens models with, except
 * those that show or check what is stored. MG_ERR_UNSUPPORTED names a quantization that is not read; MG_ERR_FORMAT
 * names tensor, found and expected where parts do not fit together. */
mg_status mg_group_checkpoint_open(mg_checkpoint **out, const char *path, mg_error *err) MG_MUST_CHECK;

/* What becomes of weights that are blocks of GGUF's 4-bit floats in another order, for those who keep what is stored.
 */
typedef enum mg_group_keep {
    MG_KEEP_NONE,  /* F32, as everything else */
    MG_KEEP_MXFP4, /* MXFP4 is a tensor of that type */
    MG_KEEP_FP4,   /* NVFP4, too: without its factor, see mg_group_checkpoint_factors */
} mg_group_keep;
mg_status mg_group_checkpoint_open_keeping(mg_checkpoint **out, const char *path, mg_group_keep keep,
                                           mg_error *err) MG_MUST_CHECK;
/* What multiplies tensor t of such a view, and what its inputs were divided by where activations are quantized; 1 and 1
 * for all but NVFP4. compressed-tensors stores the reciprocals. */
mg_status mg_group_checkpoint_factors(mg_checkpoint *c, uint32_t t, float *weight, float *input,
                                      mg_error *err) MG_MUST_CHECK;

/* The dense view of an opened checkpoint. *out is inner itself when nothing is quantized; else inner belongs to *out.
 * After a failure inner is still the caller's. Tensors keep their order, each weight in the place of its codes. */
mg_status mg_group_checkpoint_wrap(mg_checkpoint **out, mg_checkpoint *inner, mg_error *err) MG_MUST_CHECK;

/* What is stored, for those who copy it. The checkpoint that a view is of (c itself when it is none), and tensor t of
 * the view there: of a weight, its codes. */
mg_checkpoint *mg_group_checkpoint_stored(mg_checkpoint *c, uint32_t t, uint32_t *stored);
/* How the weight that is tensor t of a view is stored; NULL when it is not quantized. */
const struct mg_group_matrix *mg_group_checkpoint_matrix(const mg_checkpoint *c, uint32_t t);

/* The band that holds row `row` of the weight that is tensor t of a view (mg_group_checkpoint_matrix), until it is
 * given back with its pin. Few at a time: MG_GROUP_BANDS are there for all threads. */
struct mg_group_band;
mg_status mg_group_checkpoint_pin(mg_checkpoint *c, uint32_t t, uint64_t row, const struct mg_group_band **band,
                                  void **pin, mg_error *err) MG_MUST_CHECK;
void mg_group_checkpoint_unpin(mg_checkpoint *c, void *pin);

/* What config.json says of it; NULL of what is no view. */
const struct mg_group_config *mg_group_checkpoint_config(const mg_checkpoint *c);

/* Is c such a view, with weights of full f32 precision whatever its other tensors are? */
bool mg_group_checkpoint_is_view(const mg_checkpoint *c);

#endif
