/* ref_kparts.h - what the scalar K-quant encoders share with their SIMD twins: everything around the searches and the
 * final codes (private to quant/). A twin searches sub-blocks in its lanes, calls _scales, codes the elements, calls
 * _pack. */
#ifndef MG_QUANT_REF_KPARTS_H
#define MG_QUANT_REF_KPARTS_H

#include "quant/block_layout.h"
#include "quant/ref/ref_search.h"

/* The QKX searches of Q2_K, Q4_K, Q5_K without and with importance weights. */
extern const mg_qkx_search mg_qkx_q2_plain, mg_qkx_q2_weighted, mg_qkx_q4_plain, mg_qkx_q4_weighted, mg_qkx_q5_plain,
    mg_qkx_q5_weighted;

/* Quantize the scales and minimums of a super-block's sub-blocks into the block's fields. sw: the sum of weights of
 * each sub-block when there are importance weights, else NULL. D and M receive scale and minimum of each sub-block as
 * stored. */
void mg_ref_q2_k_scales(const float *scales, const float *mins, const float *sw, mg_blk_q2_k *b, float *D, float *M);
void mg_ref_k45_scales(const float *scales, const float *mins, const float *sw, uint8_t *d16, uint8_t *dmin16,
                       uint8_t *B, float *D, float *M);
/* The second half of the two above: the fields from quantized scales ls and minimums lm and their f32 super-scales. */
void mg_ref_q2_k_put(float d32, float dmin32, const uint8_t *ls, const uint8_t *lm, mg_blk_q2_k *b, float *D, float *M);
void mg_ref_k45_put(float d32, float dmin32, const uint8_t *ls, const uint8_t *lm, uint8_t *d16, uint8_t *dmin16,
                    uint8_t *B, float *D, float *M);
/* D and M of the eight sub-blocks of Q4_K and Q5_K from a block's fields. */
void mg_ref_k45_unpack(float d, float dmin, const uint8_t *B, float *D, float *M);
/* As the _scales above for signed scales; Q6_K: false when the super-block is zero (all bytes of *b are then 0). */
void mg_ref_q3_k_scales(const float *scales, const float *sw, mg_blk_q3_k *b, float *D);
void mg_ref_q3_k_put(float d32, const uint8_t *s, mg_blk_q3_k *b, float *D);
bool mg_ref_q6_k_scales(const float *scales, mg_blk_q6_k *b, float *D);

/* Scale j of Q3_K, -32..31, from the 12 bytes B. */
static inline int mg_q3_k_scale(const uint8_t *B, int j) {
    return ((B[j % 8] >> (j / 8 * 4) & 15) | (B[8 + j % 4] >> (j / 4 * 2) & 3) << 4) - 32;
}

/* The codebook of IQ4_NL and IQ4_XS, and the entry nearest to x (a tie goes to the upper one). */
extern const int8_t mg_iq4_values[16];
int mg_ref_iq4_nearest(float x);
/* Scale j of IQ4_XS, -32..31. */
static inline int mg_iq4_xs_scale(const mg_blk_iq4_xs *b, int j) {
    return ((b->scales_l[j / 2] >> (j % 2 * 4) & 15) | (mg_get16(b->scales_h) >> (2 * j) & 3) << 4) - 32;
}

/* The 256 codes of a super-block into the block. */
void mg_ref_q2_k_pack(const uint8_t *code, mg_blk_q2_k *b);
void mg_ref_q3_k_pack(const uint8_t *code, mg_blk_q3_k *b);
void mg_ref_q4_k_pack(const uint8_t *code, mg_blk_q4_k *b);
void mg_ref_q5_k_pack(const uint8_t *code, mg_blk_q5_k *b);
void mg_ref_q6_k_pack(const uint8_t *code, mg_blk_q6_k *b);

#endif
