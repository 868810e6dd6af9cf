/* dtype.c - the dtype table and the exact half-precision conversions. */
#include "formats/dtype.h"

#include "formats/base/checked.h"

#include <string.h>
#include <strings.h>

static const mg_dtype_info table[MG_DTYPE_COUNT] = {
    [MG_F32] = {"F32", "F32", 0, 1, 4},
    [MG_F16] = {"F16", "F16", 1, 1, 2},
    [MG_BF16] = {"BF16", "BF16", 30, 1, 2},
    [MG_F64] = {"F64", "F64", 28, 1, 8},
    [MG_I8] = {"I8", "I8", 24, 1, 1},
    [MG_I16] = {"I16", "I16", 25, 1, 2},
    [MG_I32] = {"I32", "I32", 26, 1, 4},
    [MG_I64] = {"I64", "I64", 27, 1, 8},
    [MG_U8] = {"U8", "U8", -1, 1, 1},
    [MG_U16] = {"U16", "U16", -1, 1, 2},
    [MG_U32] = {"U32", "U32", -1, 1, 4},
    [MG_U64] = {"U64", "U64", -1, 1, 8},
    [MG_BOOL] = {"BOOL", "BOOL", -1, 1, 1},
    [MG_F8_E4M3] = {"F8_E4M3", "F8_E4M3", -1, 1, 1},
    [MG_F8_E5M2] = {"F8_E5M2", "F8_E5M2", -1, 1, 1},
    [MG_F8_E8M0] = {"F8_E8M0", "F8_E8M0", -1, 1, 1},
    [MG_Q1_0] = {"Q1_0", NULL, 41, 128, 18},
    [MG_Q2_0] = {"Q2_0", NULL, 42, 64, 18},
    [MG_Q4_0] = {"Q4_0", NULL, 2, 32, 18},
    [MG_Q4_1] = {"Q4_1", NULL, 3, 32, 20},
    [MG_Q5_0] = {"Q5_0", NULL, 6, 32, 22},
    [MG_Q5_1] = {"Q5_1", NULL, 7, 32, 24},
    [MG_Q8_0] = {"Q8_0", NULL, 8, 32, 34},
    [MG_MXFP4] = {"MXFP4", NULL, 39, 32, 17},
    [MG_NVFP4] = {"NVFP4", NULL, 40, 64, 36},
    [MG_Q2_K] = {"Q2_K", NULL, 10, 256, 84},
    [MG_Q3_K] = {"Q3_K", NULL, 11, 256, 110},
    [MG_Q4_K] = {"Q4_K", NULL, 12, 256, 144},
    [MG_Q5_K] = {"Q5_K", NULL, 13, 256, 176},
    [MG_Q6_K] = {"Q6_K", NULL, 14, 256, 210},
    [MG_IQ1_S] = {"IQ1_S", NULL, 19, 256, 50},
    [MG_IQ1_M] = {"IQ1_M", NULL, 29, 256, 56},
    [MG_IQ2_XXS] = {"IQ2_XXS", NULL, 16, 256, 66},
    [MG_IQ2_XS] = {"IQ2_XS", NULL, 17, 256, 74},
    [MG_IQ2_S] = {"IQ2_S", NULL, 22, 256, 82},
    [MG_IQ3_XXS] = {"IQ3_XXS", NULL, 18, 256, 98},
    [MG_IQ3_S] = {"IQ3_S", NULL, 21, 256, 110},
    [MG_IQ4_NL] = {"IQ4_NL", NULL, 20, 32, 18},
    [MG_IQ4_XS] = {"IQ4_XS", NULL, 23, 256, 136},
    [MG_TQ1_0] = {"TQ1_0", NULL, 34, 256, 54},
    [MG_TQ2_0] = {"TQ2_0", NULL, 35, 256, 66},
};

const mg_dtype_info *mg_dtype_get(mg_dtype t) {
    return &table[t];
}

mg_dtype mg_dtype_from_name(const char *name) {
    for (int t = 0; t < MG_DTYPE_COUNT; t++)
        if (strcasecmp(table[t].name, name) == 0) return (mg_dtype)t;
    return MG_DTYPE_COUNT;
}

mg_dtype mg_dtype_from_st_name(const char *name, size_t len) {
    for (int t = 0; t < MG_DTYPE_COUNT; t++)
        if (table[t].st_name && strlen(table[t].st_name) == len && memcmp(table[t].st_name, name, len) == 0)
            return (mg_dtype)t;
    return MG_DTYPE_COUNT;
}

mg_dtype mg_dtype_from_gguf_id(int64_t id) {
    for (int t = 0; t < MG_DTYPE_COUNT; t++)
        if (id >= 0 && table[t].gguf_id == id) return (mg_dtype)t;
    return MG_DTYPE_COUNT;
}

bool mg_dtype_row_bytes(mg_dtype t, uint64_t n, uint64_t *out) {
    const mg_dtype_info *d = &table[t];
    return n % d->block == 0 && mg_mul_u64(n / d->block, d->block_bytes, out);
}

static uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static float float_of(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

uint16_t mg_f32_to_bf16(float x) {
    uint32_t u = bits_of(x);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u) return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7FFFu + ((u >> 16) & 1u)) >> 16);
}

uint16_t mg_f32_to_f16(float x) {
    uint32_t u = bits_of(x), sign = (u >> 16) & 0x8000u, a = u & 0x7FFFFFFFu;
    if (a > 0x7F800000u) return (uint16_t)(sign | 0x7E00u);
    if (a >= 0x47800000u) return (uint16_t)(sign | 0x7C00u); /* 65536 and above, infinity included */
    if (a >= 0x38800000u) {                                  /* normal half: drop 13 bits, half to even */
        uint32_t v = a - 0x38000000u;
        v += 0xFFFu + ((v >> 13) & 1u);
        return (uint16_t)(sign | (v >> 13)); /* a carry out of the mantissa gives the next exponent, or infinity */
    }
    if (a < 0x33000000u) return (uint16_t)sign;                              /* below half of the smallest subnormal */
    uint32_t e = a >> 23, m = (a & 0x7FFFFFu) | 0x800000u, shift = 126u - e; /* 14..24 */
    uint32_t v = m >> shift, rest = m & ((1u << shift) - 1u), half = 1u << (shift - 1u);
    if (rest > half || (rest == half && (v & 1u))) v++;
    return (uint16_t)(sign | v);
}

float mg_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, e = (h >> 10) & 31u, m = h & 0x3FFu;
    if (e == 31) return float_of(sign | 0x7F800000u | (m << 13));
    if (e == 0) {
        float v = (float)m * 0x1p-24f; /* exact */
        return sign ? -v : v;
    }
    return float_of(sign | ((e + 112u) << 23) | (m << 13));
}
