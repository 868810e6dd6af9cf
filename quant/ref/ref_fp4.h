/* ref_fp4.h - scales of the 4-bit floats, shared by the scalar codecs and their twins (private to quant/). */
#ifndef MG_QUANT_REF_FP4_H
#define MG_QUANT_REF_FP4_H

#include <stdint.h>

/* Stored exponent of an MXFP4 block with this largest magnitude, and half of the scale it stands for. */
uint8_t mg_ref_mxfp4_scale(float amax);
float mg_ref_e8m0_half(uint8_t e);

/* UE4M3 of x >= 0, and half of its value. */
uint8_t mg_ref_ue4m3_encode(float x);
float mg_ref_ue4m3_half(uint8_t c);

#endif
