/* fixed.h - encoders without the known defects of the reference (docs/quants.md names them): the files are read by
 * every reader of the type, but their bytes differ from llama-quantize's where a defect would have struck.
 *
 *   IQ3_S       a sub-block of zeros no longer shifts the indices and signs of the ones behind it
 *   weights     a run of importance 0 over a whole sub-block counts as the least importance of the row above 0 (1 when
 *               there is none): the values are stored as well as they can be, not as zeros
 *   MXFP4       a block of values below 2^-125 gets the smallest exponent, not one that wrapped to 2^127
 *   NVFP4       scales between 256 and 447 are stored as such, not as 448 */
#ifndef MG_QUANT_FIXED_H
#define MG_QUANT_FIXED_H

#include "quant/codec.h"

/* Whether encoding into t can differ from the reference at all; weights: importance values are given. */
bool mg_fixed_matters(mg_dtype t, bool weights);

/* As codec->encode of one row, corrected. */
mg_status mg_fixed_encode(const mg_codec *codec, const float *x, const float *weights, uint64_t n, void *out,
                          mg_error *err) MG_MUST_CHECK;

#endif
