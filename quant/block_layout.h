/* block_layout.h - the bytes of every ggml block type, field by field, for the scalar references and their SIMD twins.
 *
 * Every member is a byte array, so a struct has alignment 1 and no padding and may be laid over any buffer; multi-byte
 * fields are little-endian and read through the helpers below. What the bits of a field mean is drawn above the codec
 * in quant/ref/. d is a scale stored as f16, m and dmin a minimum; qs are packed codes, qh their high bits. */
#ifndef MG_QUANT_BLOCK_LAYOUT_H
#define MG_QUANT_BLOCK_LAYOUT_H

#include "formats/dtype.h"

#include <string.h>

/* clang-format off */
/* 32-element blocks and their relatives */
typedef struct { uint8_t d[2], qs[16]; } mg_blk_q1_0;
typedef struct { uint8_t d[2], qs[16]; } mg_blk_q2_0;
typedef struct { uint8_t d[2], qs[16]; } mg_blk_q4_0;
typedef struct { uint8_t d[2], m[2], qs[16]; } mg_blk_q4_1;
typedef struct { uint8_t d[2], qh[4], qs[16]; } mg_blk_q5_0;
typedef struct { uint8_t d[2], m[2], qh[4], qs[16]; } mg_blk_q5_1;
typedef struct { uint8_t d[2]; int8_t qs[32]; } mg_blk_q8_0;
typedef struct { uint8_t e, qs[16]; } mg_blk_mxfp4;
typedef struct { uint8_t d[4], qs[32]; } mg_blk_nvfp4;
typedef struct { uint8_t d[2], qs[16]; } mg_blk_iq4_nl;
/* super-blocks of 256 */
typedef struct { uint8_t scales[16], qs[64], d[2], dmin[2]; } mg_blk_q2_k;
typedef struct { uint8_t hmask[32], qs[64], scales[12], d[2]; } mg_blk_q3_k;
typedef struct { uint8_t d[2], dmin[2], scales[12], qs[128]; } mg_blk_q4_k;
typedef struct { uint8_t d[2], dmin[2], scales[12], qh[32], qs[128]; } mg_blk_q5_k;
typedef struct { uint8_t ql[128], qh[64]; int8_t scales[16]; uint8_t d[2]; } mg_blk_q6_k;
typedef struct { uint8_t d[2], qs[64]; } mg_blk_iq2_xxs;
typedef struct { uint8_t d[2], qs[64], scales[8]; } mg_blk_iq2_xs;
typedef struct { uint8_t d[2], qs[32], signs[32], qh[8], scales[8]; } mg_blk_iq2_s;
typedef struct { uint8_t d[2], qs[64], signs[32]; } mg_blk_iq3_xxs;
typedef struct { uint8_t d[2], qs[64], qh[8], signs[32], scales[4]; } mg_blk_iq3_s;
typedef struct { uint8_t d[2], qs[32], qh[16]; } mg_blk_iq1_s;
typedef struct { uint8_t qs[32], qh[16], scales[8]; } mg_blk_iq1_m;
typedef struct { uint8_t d[2], scales_h[2], scales_l[4], qs[128]; } mg_blk_iq4_xs;
typedef struct { uint8_t qs[48], qh[4], d[2]; } mg_blk_tq1_0;
typedef struct { uint8_t qs[64], d[2]; } mg_blk_tq2_0;
/* clang-format on */

enum { MG_SUPER = 256 }; /* elements of a super-block */

static inline uint16_t mg_get16(const uint8_t *p) {
    return (uint16_t)(p[0] | p[1] << 8);
}
static inline uint32_t mg_get32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static inline void mg_put16(uint8_t *p, uint16_t v) {
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}
static inline void mg_put32(uint8_t *p, uint32_t v) {
    mg_put16(p, (uint16_t)v);
    mg_put16(p + 2, (uint16_t)(v >> 16));
}
static inline float mg_get_f16(const uint8_t *p) {
    return mg_f16_to_f32(mg_get16(p));
}
/* Stores x as f16 and returns the value stored: h(x) of docs/quants.md. */
static inline float mg_put_f16(uint8_t *p, float x) {
    uint16_t v = mg_f32_to_f16(x);
    mg_put16(p, v);
    return mg_f16_to_f32(v);
}

#endif
