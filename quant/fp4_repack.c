/* fp4_repack.c - see fp4_repack.h. */
#include "quant/fp4_repack.h"

/* Stored as `subs` runs of scales, then `subs` runs of `half` bytes of codes. */
typedef struct shape {
    uint32_t subs, half;
    uint8_t scale_mask;
} shape;

static shape shape_of(mg_dtype dtype) {
    if (dtype == MG_MXFP4) return (shape){1, 16, 0xff};
    if (dtype == MG_NVFP4) return (shape){4, 8, 0x7f};
    return (shape){0};
}

uint32_t mg_fp4_code_bytes(mg_dtype dtype) {
    const shape s = shape_of(dtype);
    return s.subs * s.half;
}

uint32_t mg_fp4_scale_bytes(mg_dtype dtype) {
    return shape_of(dtype).subs;
}

/* 2 h codes in sequence: byte i has codes 2 i and 2 i + 1. As halves: byte j has codes j and j + h. */
static void to_halves(const uint8_t *sequence, unsigned h, uint8_t *halves) {
    for (unsigned j = 0; j < h; j++) {
        const unsigned shift = j % 2 * 4;
        const unsigned low = sequence[j / 2] >> shift & 15, high = sequence[(j + h) / 2] >> shift & 15; /* h is even */
        halves[j] = (uint8_t)(low | high << 4);
    }
}

static void to_sequence(const uint8_t *halves, unsigned h, uint8_t *sequence) {
    for (unsigned i = 0; i < h / 2; i++) {
        const unsigned a = halves[2 * i], b = halves[2 * i + 1];
        sequence[i] = (uint8_t)((a & 15) | (b & 15) << 4);
        sequence[i + h / 2] = (uint8_t)(a >> 4 | (b & 0xf0));
    }
}

void mg_fp4_pack(mg_dtype dtype, const uint8_t *codes, const uint8_t *scales, uint64_t n, uint8_t *blocks) {
    const shape s = shape_of(dtype);
    for (; n; n--, blocks += s.half * s.subs) {
        for (uint32_t k = 0; k < s.subs; k++) *blocks++ = *scales++ & s.scale_mask;
        for (uint32_t k = 0; k < s.subs; k++, codes += s.half) to_halves(codes, s.half, blocks + k * s.half);
    }
}

void mg_fp4_codes(mg_dtype dtype, const uint8_t *blocks, uint64_t n, uint8_t *codes) {
    const shape s = shape_of(dtype);
    for (uint64_t i = 0; i < n * s.subs; i++, codes += s.half) {
        if (i % s.subs == 0) blocks += s.subs;
        to_sequence(blocks, s.half, codes);
        blocks += s.half;
    }
}

void mg_fp4_scales(mg_dtype dtype, const uint8_t *blocks, uint64_t n, uint8_t *scales) {
    const shape s = shape_of(dtype);
    for (uint64_t i = 0; i < n; i++, blocks += s.subs * (s.half + 1))
        for (uint32_t k = 0; k < s.subs; k++) *scales++ = blocks[k];
}
