/* gemm.c - packing and the loops around the micro-kernel. */
#include "quant/math/gemm.h"

#include <stdlib.h>
#include <string.h>

#include "formats/base/checked.h"

bool mg_gemm_x_floats(const mg_math *t, uint64_t m, uint64_t k, uint64_t *out) {
    uint64_t r;
    if (!mg_add_u64(m, t->mr - 1, &r)) return false;
    return mg_mul_u64(r / t->mr * t->mr, k, out) && *out <= SIZE_MAX / sizeof(float);
}

void mg_gemm_pack_x(const mg_math *t, float *dst, uint64_t s, const float *x, uint64_t ldx, const uint32_t *rows,
                    uint64_t m, uint64_t k) {
    const uint32_t mr = t->mr;
    const float *src[MG_GEMM_MAX_MR];
    uint32_t have = 0;
    for (uint32_t r = 0; r < mr && s * mr + r < m; r++, have++) {
        uint64_t row = s * mr + r;
        src[r] = x + (rows ? rows[row] : row) * ldx;
    }
    t->pack_x(dst + s * k * mr, src, have, k);
}

/* The last panel when n is not a multiple of 16: through a tile of its own, so nothing beyond column n is touched. */
static void ragged_panel(const mg_math *t, uint32_t m, uint64_t kc, const float *xs, const float *panel, uint64_t cols,
                         float *y, uint64_t ldy, bool first) {
    float tile[MG_GEMM_MAX_MR * MG_GEMM_NR] = {0};
    if (!first)
        for (uint32_t r = 0; r < m; r++) memcpy(tile + r * MG_GEMM_NR, y + r * ldy, cols * sizeof *y);
    t->gemm(m, kc, xs, panel, 0, 1, tile, MG_GEMM_NR, MG_GEMM_NR, first);
    for (uint32_t r = 0; r < m; r++) memcpy(y + r * ldy, tile + r * MG_GEMM_NR, cols * sizeof *y);
}

void mg_gemm_chunk(const mg_math *t, uint64_t m, const float *xp, uint64_t k, uint64_t k0, uint64_t kc,
                   const float *chunk, uint64_t n, float *y, uint64_t ldy) {
    const uint64_t panels = n / MG_GEMM_NR, stride = kc * MG_GEMM_NR, tail = n % MG_GEMM_NR;
    const bool first = k0 == 0;
    for (uint64_t r = 0; r < m; r += t->mr) {
        const float *xs = xp + r * k + k0 * t->mr;
        uint32_t rows = (uint32_t)(m - r < t->mr ? m - r : t->mr);
        t->gemm(rows, kc, xs, chunk, stride, panels, y + r * ldy, ldy, MG_GEMM_NR, first);
        if (tail)
            ragged_panel(t, rows, kc, xs, chunk + panels * stride, tail, y + r * ldy + panels * MG_GEMM_NR, ldy, first);
    }
}

mg_status mg_gemm(const mg_math *t, float *y, uint64_t ldy, const float *x, uint64_t ldx, const float *w, uint64_t ldw,
                  uint64_t m, uint64_t n, uint64_t k, mg_error *err) {
    enum { NC = 96 };
    uint64_t xf;
    if (!mg_gemm_x_floats(t, m, k, &xf)) return mg_fail(err, MG_ERR_LIMIT, "matrix product too large");
    float *xp = malloc((xf ? xf : 1) * sizeof *xp), *wp = malloc(mg_gemm_w_floats(NC) * sizeof *wp);
    if (!xp || !wp) {
        free(xp);
        free(wp);
        return mg_fail_nomem(err, xf * sizeof *xp);
    }
    for (uint64_t s = 0; s * t->mr < m; s++) mg_gemm_pack_x(t, xp, s, x, ldx, NULL, m, k);
    for (uint64_t j = 0; j < n; j += NC) {
        uint64_t nc = n - j < NC ? n - j : NC, k0 = 0;
        do {
            uint64_t kc = k - k0 < MG_GEMM_KC ? k - k0 : MG_GEMM_KC;
            for (uint64_t p = 0; p < nc; p += MG_GEMM_NR)
                t->pack_w(wp + p * kc, w + (j + p) * ldw + k0, ldw, (uint32_t)(nc - p < 16 ? nc - p : 16), kc);
            mg_gemm_chunk(t, m, xp, k, k0, kc, wp, nc, y + j, ldy);
            k0 += kc;
        } while (k0 < k);
    }
    free(xp);
    free(wp);
    return MG_OK;
}
