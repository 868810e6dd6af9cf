/* group_decode.h - weights quantized in groups (formats/group_layouts.h) as f32: W = (code - zero) * scale, MLX W =
 * code * scale + bias.
 *
 * Exactness: code - zero is a small integer and exact in f32; the scale is widened exactly; the product is rounded once
 * to f32 (and is exact for F16 and BF16 scales, whose 11 and 8 bits meet at most 9). FP8 and FP4 codes are widened
 * exactly and multiplied once. NVFP4 first divides its scale by the global scale, in f32, as compressed-tensors does.
 */
#ifndef MG_QUANT_GROUP_DECODE_H
#define MG_QUANT_GROUP_DECODE_H

#include "formats/group_layouts.h"

/* Some rows of one weight, unpacked: what every layout looks like once its bits have been found. */
typedef struct mg_group_band {
    const mg_group_matrix *m;
    uint64_t row, n_rows;
    uint64_t ld;     /* bytes from one row of codes to the next */
    uint8_t *codes;  /* [n_rows][ld] */
    uint8_t *zeros;  /* [n_rows][groups] */
    float *scales;   /* [n_rows][groups] */
    float *biases;   /* [n_rows][groups], or NULL: 0 */
    uint32_t *g_idx; /* [cols], or NULL: column / group_size */
} mg_group_band;

/* Rows of m that make a band of about `bytes`; a multiple of 32, so that no packed word is shared by two bands. */
uint64_t mg_group_band_rows(const mg_group_matrix *m, uint64_t bytes);

/* Read and unpack rows row..row+n of m. *b is released by the caller, also after a failure. MG_ERR_FORMAT when g_idx
 * names a group that does not exist. */
mg_status mg_group_band_load(mg_group_band *b, mg_checkpoint *c, const mg_group_matrix *m, uint64_t row, uint64_t n,
                             mg_error *err) MG_MUST_CHECK;
void mg_group_band_release(mg_group_band *b);

/* n weights of a row of the band, from column col. */
void mg_group_band_decode(const mg_group_band *b, uint64_t row, uint64_t col, uint64_t n, float *out);

#endif
