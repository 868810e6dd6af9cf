/* gemm_ref.c - rule G with scalar operations: the definition the other twins are compared with. */
#include <string.h>

#include "quant/math/mathtwins.h"
#include "quant/math/vec_scalar.inc"
#define MR            6
#define GEMM_CASES(X) X(1, 4) X(2, 2) X(3, 2) X(4, 1) X(5, 1) X(6, 1)
#include "quant/math/gemm_tmpl.inc"

void mg_gemm_pack_w_ref(float *dst, const float *src, uint64_t ld, uint32_t n, uint64_t k) {
    for (uint64_t i = 0; i < k; i++)
        for (uint32_t j = 0; j < MG_GEMM_NR; j++) dst[i * MG_GEMM_NR + j] = j < n ? src[j * ld + i] : 0.0f;
}

void mg_gemm_pack_x_ref(float *dst, const float *const *rows, uint32_t mr, uint32_t n, uint64_t from, uint64_t k) {
    for (uint64_t i = from; i < k; i++)
        for (uint32_t r = 0; r < mr; r++) dst[i * mr + r] = r < n ? rows[r][i] : 0.0f;
}

static void pack_x(float *dst, const float *const *rows, uint32_t n, uint64_t k) {
    mg_gemm_pack_x_ref(dst, rows, MR, n, 0, k);
}

/* Column j of a panel: its weight in column k. */
static float code_value(const mg_codes *w, const uint8_t *panel, uint64_t k, uint32_t j) {
    const float *scale = (const float *)(const void *)panel, *bias = scale + w->groups * MG_CODES_NR;
    const uint64_t g = w->g_idx ? w->g_idx[k] : k / w->group_size, per = 8 / w->bits;
    const uint32_t byte = panel[mg_codes_head(w) + k / per * MG_CODES_NR + j];
    const uint32_t code = byte >> k % per * w->bits & ((1u << w->bits) - 1);
    return mg_fma32((float)code, scale[g * MG_CODES_NR + j], bias[g * MG_CODES_NR + j]);
}

static void values_codes(const mg_codes *w, const uint8_t *panel, uint64_t from, uint64_t n, float *dst) {
    for (uint64_t k = 0; k < n; k++)
        for (uint32_t j = 0; j < MG_CODES_NR; j++) dst[k * MG_CODES_NR + j] = code_value(w, panel, from + k, j);
}

static void dot_codes(const mg_codes *w, const uint8_t *panel, uint64_t panels, uint32_t m, const float *xs, float *c,
                      uint64_t ldc) {
    float block[MG_GEMM_BLOCK * MG_GEMM_NR];
    uint64_t k = 0;
    do {
        const uint64_t n = w->k - k < MG_GEMM_BLOCK ? w->k - k : MG_GEMM_BLOCK;
        for (uint64_t p = 0; p < panels; p++) {
            values_codes(w, panel + p * mg_codes_panel_bytes(w), k, n, block);
            gemm_any(m, n, xs + k * MR, block, 0, 1, c + p * MG_GEMM_NR, ldc, MG_GEMM_NR, k == 0);
        }
        k += n;
    } while (k < w->k);
}

void mg_gemm_fill_ref(mg_math *t) {
    t->mr = MR;
    t->gemm = gemm_any;
    t->dot_codes = dot_codes;
    t->values_codes = values_codes;
    t->pack_w = mg_gemm_pack_w_ref;
    t->pack_x = pack_x;
}
