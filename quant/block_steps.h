/* block_steps.h - GGUF blocks whose values are code * scale + bias: how many bits, and what a block states. */
#ifndef MG_QUANT_BLOCK_STEPS_H
#define MG_QUANT_BLOCK_STEPS_H

#include "formats/dtype.h"

#define MG_STEPS_MAX 16 /* of a block */

typedef struct mg_block_steps {
    mg_dtype dtype;
    uint32_t bits;       /* of a code in memory: 2, 4, 8 */
    uint32_t group_size; /* values that share a step */
    /* The steps of one block, in order: block / group_size of them. Products are exact in f32. */
    void (*read)(const void *block, float *scale, float *bias);
} mg_block_steps;

/* NULL: a type of another kind. */
const mg_block_steps *mg_block_steps_of(mg_dtype t);

#endif
