/* fp4_repack.c - see fp4_repack.h. */
#include "quant/fp4_repack.h"

#include <string.h>

#include "quant/block_layout.h"

uint32_t mg_fp4_code_bytes(mg_dtype dtype) {
    return dtype == MG_MXFP4 ? 16 : 0;
}

uint32_t mg_fp4_scale_bytes(mg_dtype dtype) {
    return dtype == MG_MXFP4 ? 1 : 0;
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
    if (dtype != MG_MXFP4) return;
    mg_blk_mxfp4 *b = (mg_blk_mxfp4 *)blocks;
    for (uint64_t i = 0; i < n; i++) {
        b[i].e = scales[i];
        to_halves(codes + i * sizeof b->qs, sizeof b->qs, b[i].qs);
    }
}

void mg_fp4_codes(mg_dtype dtype, const uint8_t *blocks, uint64_t n, uint8_t *codes) {
    if (dtype != MG_MXFP4) return;
    const mg_blk_mxfp4 *b = (const mg_blk_mxfp4 *)blocks;
    for (uint64_t i = 0; i < n; i++) to_sequence(b[i].qs, sizeof b->qs, codes + i * sizeof b->qs);
}

void mg_fp4_scales(mg_dtype dtype, const uint8_t *blocks, uint64_t n, uint8_t *scales) {
    if (dtype != MG_MXFP4) return;
    const mg_blk_mxfp4 *b = (const mg_blk_mxfp4 *)blocks;
    for (uint64_t i = 0; i < n; i++) scales[i] = b[i].e;
}
