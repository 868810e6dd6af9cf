/* block_steps.c - see block_steps.h. Codes are counted from 0: a type with signed values has its smallest as bias. The
 * blocks are drawn in quant/ref/. */
#include "quant/block_steps.h"

#include "quant/ref/ref_kparts.h"

static void q4_0(const void *block, float *scale, float *bias) {
    *scale = mg_get_f16(((const mg_blk_q4_0 *)block)->d);
    *bias = -8.0f * *scale;
}

static void q4_1(const void *block, float *scale, float *bias) {
    const mg_blk_q4_1 *b = block;
    *scale = mg_get_f16(b->d);
    *bias = mg_get_f16(b->m);
}

static void q5_0(const void *block, float *scale, float *bias) {
    *scale = mg_get_f16(((const mg_blk_q5_0 *)block)->d);
    *bias = -16.0f * *scale;
}

static void q5_1(const void *block, float *scale, float *bias) {
    const mg_blk_q5_1 *b = block;
    *scale = mg_get_f16(b->d);
    *bias = mg_get_f16(b->m);
}

static void q8_0(const void *block, float *scale, float *bias) {
    *scale = mg_get_f16(((const mg_blk_q8_0 *)block)->d);
    *bias = -128.0f * *scale;
}

static void q2_k(const void *block, float *scale, float *bias) {
    const mg_blk_q2_k *b = block;
    const float d = mg_get_f16(b->d), dmin = mg_get_f16(b->dmin);
    for (int j = 0; j < 16; j++) {
        scale[j] = d * (float)(b->scales[j] & 15);
        bias[j] = -(dmin * (float)(b->scales[j] >> 4));
    }
}

static void q3_k(const void *block, float *scale, float *bias) {
    const mg_blk_q3_k *b = block;
    const float d = mg_get_f16(b->d);
    for (int j = 0; j < 16; j++) {
        scale[j] = d * (float)mg_q3_k_scale(b->scales, j);
        bias[j] = -4.0f * scale[j];
    }
}

static void k45(const uint8_t *d, const uint8_t *dmin, const uint8_t *scales, float *scale, float *bias) {
    mg_ref_k45_unpack(mg_get_f16(d), mg_get_f16(dmin), scales, scale, bias);
    for (int j = 0; j < 8; j++) bias[j] = -bias[j];
}

static void q4_k(const void *block, float *scale, float *bias) {
    const mg_blk_q4_k *b = block;
    k45(b->d, b->dmin, b->scales, scale, bias);
}

static void q5_k(const void *block, float *scale, float *bias) {
    const mg_blk_q5_k *b = block;
    k45(b->d, b->dmin, b->scales, scale, bias);
}

static void q6_k(const void *block, float *scale, float *bias) {
    const mg_blk_q6_k *b = block;
    const float d = mg_get_f16(b->d);
    for (int j = 0; j < 16; j++) {
        scale[j] = d * (float)b->scales[j];
        bias[j] = -32.0f * scale[j];
    }
}

static const mg_block_steps all[] = {
    {MG_Q4_0, 4, 32, q4_0}, {MG_Q4_1, 4, 32, q4_1}, {MG_Q5_0, 8, 32, q5_0}, {MG_Q5_1, 8, 32, q5_1},
    {MG_Q8_0, 8, 32, q8_0}, {MG_Q2_K, 2, 16, q2_k}, {MG_Q3_K, 4, 16, q3_k}, {MG_Q4_K, 4, 32, q4_k},
    {MG_Q5_K, 8, 32, q5_k}, {MG_Q6_K, 8, 16, q6_k},
};

const mg_block_steps *mg_block_steps_of(mg_dtype t) {
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].dtype == t) return &all[i];
    return NULL;
}
