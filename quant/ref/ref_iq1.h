/* ref_iq1.h - what the scalar IQ1 encoders share with their SIMD twins: the blocks made of what the searches found
 * (private to quant/). */
#ifndef MG_QUANT_REF_IQ1_H
#define MG_QUANT_REF_IQ1_H

#include "quant/block_layout.h"

#include <stdbool.h>

/* What was found for a sub-block; all 0 for one that is left out. */
typedef struct mg_iq1_fit {
    float scale;       /* >= 0 */
    uint8_t minus[2];  /* shift of each half: 1 = -1/8 (IQ1_S: both the same) */
    uint16_t index[4]; /* codebook index of each group of 8 */
} mg_iq1_fit;

/* The block of eight sub-blocks. */
void mg_ref_iq1_s_put(const mg_iq1_fit *fit, mg_blk_iq1_s *b);

/* The 3-bit scales l of sixteen sub-blocks and their super-scale d; false when no scale is above 0. */
bool mg_ref_iq1_m_scales(const mg_iq1_fit *fit, uint8_t *l, float *d);
/* The block, d being the super-scale refitted with all codes and scales fixed. */
void mg_ref_iq1_m_put(const mg_iq1_fit *fit, const uint8_t *l, float d, mg_blk_iq1_m *b);

#endif
