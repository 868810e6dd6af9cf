/* fixed.c - see fixed.h. The reference encoder does the work; what it would do wrong is taken out of its input or put
 * right in its output. */
#include "quant/fixed.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quant/block_layout.h"

/* Elements that share one fitted scale; 0: weights do not matter to the type. */
static uint32_t run_of(mg_dtype t) {
    switch (t) {
    case MG_Q2_K:
    case MG_Q3_K:
    case MG_Q6_K:
    case MG_IQ1_M:
    case MG_IQ2_XS:
    case MG_IQ2_S:
        return 16;
    default:
        return mg_codec_get(t) && mg_codec_get(t)->imatrix != MG_IMATRIX_IGNORED ? 32 : 0;
    }
}

bool mg_fixed_matters(mg_dtype t, bool weights) {
    return t == MG_IQ3_S || t == MG_MXFP4 || t == MG_NVFP4 || (weights && run_of(t));
}

/* ---- importance weights ---- */

static bool all_zero(const float *v, uint64_t n) {
    for (uint64_t i = 0; i < n; i++)
        if (v[i] != 0) return false;
    return true;
}

/* Weights with the empty runs filled, malloc'ed; *out stays NULL when there is no such run. */
static mg_status fill_runs(const float *w, uint64_t n, uint32_t run, float **out, mg_error *err) {
    float least = 0;
    bool found = false;
    for (uint64_t i = 0; i < n; i++)
        if (w[i] > 0 && (least == 0 || w[i] < least)) least = w[i];
    if (least == 0) least = 1;
    for (uint64_t i = 0; i < n; i += run) found = found || all_zero(w + i, run);
    *out = NULL;
    if (!found) return MG_OK;
    *out = malloc(n * sizeof **out);
    if (!*out) return mg_fail_nomem(err, n * sizeof **out);
    memcpy(*out, w, n * sizeof **out);
    for (uint64_t i = 0; i < n; i += run)
        for (uint64_t k = 0; all_zero(w + i, run) && k < run; k++) (*out)[i + k] = least;
    return MG_OK;
}

/* ---- IQ3_S ---- */

/* Indices and signs of sub-block j stand in slot j less the zero sub-blocks before it: each is moved to its own place,
 * the last first. */
static void spread_iq3_s(const float *x, uint64_t n, mg_blk_iq3_s *b) {
    for (; n; n -= MG_SUPER, x += MG_SUPER, b++) {
        int slot = 0;
        for (int j = 0; j < 8; j++) slot += !all_zero(x + 32 * j, 32);
        for (int j = 7; j >= 0; j--) {
            const bool zero = all_zero(x + 32 * j, 32);
            if (!zero) slot--;
            if (!zero && slot == j) continue;
            if (!zero) {
                memmove(b->qs + 8 * j, b->qs + 8 * slot, 8);
                memmove(b->signs + 4 * j, b->signs + 4 * slot, 4);
            } else {
                memset(b->qs + 8 * j, 0, 8);
                memset(b->signs + 4 * j, 0, 4);
            }
        }
    }
}

/* ---- 4-bit floats ---- */

static float abs_max(const float *x, int n) {
    float most = 0;
    for (int i = 0; i < n; i++) most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    return most;
}

static const int8_t halves[8] = {0, 1, 2, 3, 4, 6, 8, 12}; /* magnitudes of E2M1, doubled */

static uint8_t nearest_e2m1(float x, float d) {
    uint8_t best = 0;
    for (uint8_t c = 1; c < 8; c++)
        if (fabsf((float)halves[c] * d - fabsf(x)) < fabsf((float)halves[best] * d - fabsf(x))) best = c;
    return (uint8_t)(best && x < 0 ? best | 8 : best);
}

/* Blocks whose exponent would wrap get the smallest there is, e = 0: steps of 2^-128. */
static void fit_tiny(const float *x, uint64_t n, mg_blk_mxfp4 *b) {
    for (; n; n -= 32, x += 32, b++) {
        const float most = abs_max(x, 32);
        if (most == 0 || most >= 0x1p-125f) continue;
        b->e = 0;
        for (int j = 0; j < 16; j++)
            b->qs[j] = (uint8_t)(nearest_e2m1(x[j], 0x1p-128f) | nearest_e2m1(x[j + 16], 0x1p-128f) << 4);
    }
}

/* Squared error of sub-block s of a block against x[16]. */
static double error_of(const mg_blk_nvfp4 *b, int s, const float *x) {
    float y[64];
    double sum = 0;
    mg_codec_get(MG_NVFP4)->decode(b, 64, y);
    for (int i = 0; i < 16; i++) sum += ((double)y[16 * s + i] - (double)x[i]) * ((double)y[16 * s + i] - (double)x[i]);
    return sum;
}

/* Sub-blocks of 16 whose scale amax/6 rounds to 256 (1 + m / 8), m = 0 .. 5: codes 0x78 + m in the place of 448, unless
 * 448 happens to be closer to the values. */
static void fit_large(const float *x, uint64_t n, mg_blk_nvfp4 *b) {
    for (; n; n -= 64, b++)
        for (int s = 0; s < 4; s++, x += 16) {
            const float scale = abs_max(x, 16) / 6.0f;
            if (b->d[s] != 0x7E || scale >= 432.0f) continue;
            const int m = scale < 256.0f ? 0 : (int)floorf((scale - 256.0f) / 32.0f + 0.5f);
            const float d = (256.0f + 32.0f * (float)m) * 0.5f;
            mg_blk_nvfp4 better = *b;
            better.d[s] = (uint8_t)(0x78 + m);
            for (int j = 0; j < 8; j++)
                better.qs[8 * s + j] = (uint8_t)(nearest_e2m1(x[j], d) | nearest_e2m1(x[j + 8], d) << 4);
            if (error_of(&better, s, x) < error_of(b, s, x)) *b = better;
        }
}

mg_status mg_fixed_encode(const mg_codec *codec, const float *x, const float *weights, uint64_t n, void *out,
                          mg_error *err) {
    float *filled = NULL;
    const uint32_t run = run_of(codec->dtype);
    if (weights && run) MG_TRY(fill_runs(weights, n, run, &filled, err));
    mg_status st = codec->encode(x, filled ? filled : weights, n, out, err);
    free(filled);
    MG_TRY(st);
    if (codec->dtype == MG_IQ3_S) spread_iq3_s(x, n, out);
    if (codec->dtype == MG_MXFP4) fit_tiny(x, n, out);
    if (codec->dtype == MG_NVFP4) fit_large(x, n, out);
    return MG_OK;
}
