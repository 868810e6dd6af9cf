/* fp4_repack.h - weights of 4-bit floats between the blocks of GGUF and the two arrays that safetensors checkpoints
 * store: codes, two to a byte, the lower nibble first, and one scale byte for each group. Only bits move.
 *
 *     MXFP4: 32 weights, one E8M0 scale; in a block byte j has weight j below and weight j + 16 above.
 *     NVFP4: 64 weights, four E4M3 scales (whose sign, never used, GGUF has not); in each of its four sixteens byte j
 *            has weight j below and weight j + 8 above.
 *
 * A row holds whole blocks, so both forms are one stream of blocks and no shape is needed. */
#ifndef MG_QUANT_FP4_REPACK_H
#define MG_QUANT_FP4_REPACK_H

#include "formats/dtype.h"

/* Bytes of codes, and of scales, of one block. 0: dtype has no such form. */
uint32_t mg_fp4_code_bytes(mg_dtype dtype);
uint32_t mg_fp4_scale_bytes(mg_dtype dtype);

/* n blocks of dtype from their codes and scales. */
void mg_fp4_pack(mg_dtype dtype, const uint8_t *codes, const uint8_t *scales, uint64_t n, uint8_t *blocks);
/* The codes, or the scales, of n blocks. */
void mg_fp4_codes(mg_dtype dtype, const uint8_t *blocks, uint64_t n, uint8_t *codes);
void mg_fp4_scales(mg_dtype dtype, const uint8_t *blocks, uint64_t n, uint8_t *scales);

#endif
