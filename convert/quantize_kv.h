/* quantize_kv.h - metadata of a quantized file. Private to quantize*.c. */
#ifndef MG_CONVERT_QUANTIZE_KV_H
#define MG_CONVERT_QUANTIZE_KV_H

#include "convert/quantize.h"

/* The numbers the mix looks at, overrides included. A missing block_count is MG_ERR_FORMAT only when need_layers. arch
 * points into the keys. */
mg_status mg_quantize_hparams(mg_mix_model *m, const mg_checkpoint *in, const mg_quantize_options *opt,
                              bool need_layers, mg_error *err) MG_MUST_CHECK;

/* All keys of the output, in llama-quantize's order. block_count: written when blocks were pruned, else UINT32_MAX. */
mg_status mg_quantize_keys(mg_kvs *kv, const mg_checkpoint *in, const mg_quantize_options *opt, const char *arch,
                           uint32_t block_count, mg_error *err) MG_MUST_CHECK;

#endif
