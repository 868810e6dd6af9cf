/* weight_exact.c - see weight_exact.h. */
#include "verify/weight_exact.h"

#include "quant/codec.h"

#include <stdlib.h>
#include <string.h>

#define MAX_BLOCK 32u

bool mg_weight_exact_has(mg_dtype t) {
    return t == MG_F32 || t == MG_F16 || t == MG_BF16 || t == MG_Q8_0;
}

/* n values as t stores them; false where it cannot. */
static bool stored(const mg_codec *c, const float *x, uint64_t n, void *raw, float *out) {
    if (c->encode(x, NULL, n, raw, NULL) != MG_OK) return false;
    c->decode(raw, n, out);
    return true;
}

static bool equal(const float *a, const float *b, uint64_t n) {
    for (uint64_t i = 0; i < n; i++)
        if (a[i] != b[i]) return false;
    return true;
}

/* The same unit through F16. */
static bool by_detour(const mg_codec *c, const float *x, const float *y, uint64_t n) {
    float narrow[MAX_BLOCK], out[MAX_BLOCK];
    uint8_t raw[MAX_BLOCK * sizeof(float)];
    uint16_t half[MAX_BLOCK];
    return stored(mg_codec_get(MG_F16), x, n, half, narrow) && stored(c, narrow, n, raw, out) && equal(out, y, n);
}

mg_status mg_weight_exact_scan(mg_weight_exact *e, mg_dtype t, const float *x, const float *y, uint64_t row,
                               uint64_t rows, uint64_t cols, mg_error *err) {
    const mg_codec *c = mg_codec_get(t);
    const uint64_t block = mg_dtype_get(t)->block;
    uint64_t bytes;
    if (!c || block > MAX_BLOCK || !mg_dtype_row_bytes(t, cols, &bytes))
        return mg_fail(err, MG_ERR_INTERNAL, "rows of %llu values of this type", (unsigned long long)cols);
    void *raw = malloc(bytes + 1);
    float *want = malloc(cols * sizeof *want + 1);
    mg_status st = raw && want ? MG_OK : mg_fail_nomem(err, bytes + cols * sizeof *want);
    for (uint64_t r = 0; st == MG_OK && r < rows; r++, x += cols, y += cols) {
        const bool fits = stored(c, x, cols, raw, want);
        for (uint64_t k = 0; k < cols; k += block) {
            e->units++;
            if (fits && (equal(want + k, y + k, block) || by_detour(c, x + k, y + k, block))) continue;
            if (e->odd++ > 0) continue;
            e->row = row + r;
            e->col = k;
        }
    }
    free(raw);
    free(want);
    return st;
}
