/* group_floats.h - weights rounded to small floats that share scales (MG_GROUP_FLOAT of quant/group_encode.h): FP8 by
 * rows or by blocks, NVFP4 and MXFP4, with the bytes of llm-compressor's data-free quantization.
 *
 *     FP8     W = e4m3 * scale               scale = max|W| / 448, in the model's type
 *     NVFP4   W = e2m1 * (scale / global)    scale = e4m3(global * max|W| / 6), global = 448 * 6 / max|W| of the tensor
 *     MXFP4   W = e2m1 * 2^n                 n = floor(log2(max|W|)) - 2, one more from 1.75 times a power of two on
 *
 * Formulas: compressed-tensors calculate_qparams, generate_gparam, generate_mx_scales and its compressors. All
 * arithmetic is f32, one rounding per operation. Zeros only: the scale those give, which decodes them exactly. Where a
 * scale vanishes though its weights do not, it is the smallest number of its type (llm-compressor takes a fixed one and
 * loses the weights). Rows are in blocks of scheme.row_block, which share scales; a block is rounded in three steps:
 * peaks of all its rows, scales, then each row. */
#ifndef MG_QUANT_GROUP_FLOATS_H
#define MG_QUANT_GROUP_FLOATS_H

#include "quant/group_encode.h"

/* Largest |w| of each group of a row of q->cols values, if it is larger than peaks[g]. MG_ERR_FORMAT names the first
 * value that is not finite. */
mg_status mg_group_float_peaks(const mg_group_codes *q, const float *w, float *peaks, mg_error *err) MG_MUST_CHECK;
/* The scales of the block that row `row` of q begins. MG_ERR_UNSUPPORTED when one is too large for its type. */
mg_status mg_group_float_scales(mg_group_codes *q, uint64_t row, const float *peaks, mg_error *err) MG_MUST_CHECK;
/* Codes of one row. */
void mg_group_float_round(mg_group_codes *q, uint64_t row, const float *w);
/* Values of one row. */
void mg_group_float_unround(const mg_group_codes *q, uint64_t row, float *w);

/* NVFP4's global scale of weights whose largest magnitude is peak; rounded to BF16 for models of that type, as
 * llm-compressor computes in it. Never zero or infinite. */
float mg_group_float_global(float peak, mg_dtype model);

#endif
