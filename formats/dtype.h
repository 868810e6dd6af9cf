/* dtype.h - every element type a tensor can be stored in: plain scalars and ggml blocks, in one table.
 *
 * A tensor is a matrix of rows; a row (the last, contiguous dimension) holds whole blocks. block = elements per block
 * (1 for plain types), block_bytes = bytes per block. What the bits of a block mean is the business of quant/. */
#ifndef MG_FORMATS_DTYPE_H
#define MG_FORMATS_DTYPE_H

#include "formats/base/status.h"

typedef enum mg_dtype {
    MG_F32 = 0,
    MG_F16,
    MG_BF16,
    MG_F64,
    MG_I8,
    MG_I16,
    MG_I32,
    MG_I64,
    MG_U8,
    MG_U16,
    MG_U32,
    MG_U64,
    MG_BOOL,
    MG_F8_E4M3,
    MG_F8_E5M2,
    MG_F8_E8M0,
    MG_Q1_0,
    MG_Q2_0,
    MG_Q4_0,
    MG_Q4_1,
    MG_Q5_0,
    MG_Q5_1,
    MG_Q8_0,
    MG_MXFP4,
    MG_NVFP4,
    MG_Q2_K,
    MG_Q3_K,
    MG_Q4_K,
    MG_Q5_K,
    MG_Q6_K,
    MG_IQ1_S,
    MG_IQ1_M,
    MG_IQ2_XXS,
    MG_IQ2_XS,
    MG_IQ2_S,
    MG_IQ3_XXS,
    MG_IQ3_S,
    MG_IQ4_NL,
    MG_IQ4_XS,
    MG_TQ1_0,
    MG_TQ2_0,
    MG_DTYPE_COUNT,
} mg_dtype;

typedef struct mg_dtype_info {
    const char *name;    /* as ggml prints it for GGUF types ("Q4_K", "BF16"), else the safetensors name */
    const char *st_name; /* safetensors header spelling, NULL when the container has none */
    int32_t gguf_id;     /* ggml type id, -1 when GGUF has none */
    uint32_t block;      /* elements per block */
    uint32_t block_bytes;
} mg_dtype_info;

const mg_dtype_info *mg_dtype_get(mg_dtype t);
static inline bool mg_dtype_is_block(mg_dtype t) {
    return t >= MG_Q1_0 && t < MG_DTYPE_COUNT;
}
/* F32, F16, BF16, F64: what a weight can be without a codec. */
static inline bool mg_dtype_is_float(mg_dtype t) {
    return t <= MG_F64;
}
/* MG_DTYPE_COUNT when unknown. Names are compared without regard to case. */
mg_dtype mg_dtype_from_name(const char *name);
mg_dtype mg_dtype_from_st_name(const char *name, size_t len);
mg_dtype mg_dtype_from_gguf_id(int64_t id);

/* Bytes of a row of n elements; false when n is not a whole number of blocks or the product overflows. */
bool mg_dtype_row_bytes(mg_dtype t, uint64_t n, uint64_t *out);

/* Exact scalar conversions: round to nearest even, subnormals kept. f16 NaN becomes sign|0x7E00 and bf16 NaN keeps its
 * upper half with the quiet bit (0x40) set, as ggml and torch do; f16/bf16 -> f32 is exact. */
uint16_t mg_f32_to_f16(float x);
uint16_t mg_f32_to_bf16(float x);
float mg_f16_to_f32(uint16_t h);
static inline float mg_bf16_to_f32(uint16_t h) {
    union {
        uint32_t u;
        float f;
    } v = {.u = (uint32_t)h << 16};
    return v.f;
}

#endif
