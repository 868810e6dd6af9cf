/* scan.c - statistics and digests of tensor data, tile by tile. */
#include "quant/scan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quant/codec.h"

#define TILE 262144u /* elements: a multiple of every block; at most 2 MiB as stored and as double */

typedef struct scan_job {
    mg_checkpoint *c;
    unsigned what;
    mg_progress *progress;
    mg_scan *out;
} scan_job;

typedef struct tile {
    uint8_t *raw;   /* TILE elements as stored */
    float *f32;     /* TILE, block types only */
    double *values; /* TILE */
} tile;

/* 8-bit floats: e exponent bits, m mantissa bits. E4M3 has no infinity: all ones is NaN. */
static double small_float(uint8_t b, int m, int bias, bool has_inf) {
    int e = (b & 0x7F) >> m, mant = b & ((1 << m) - 1), top = 0x7F >> m;
    double v = e ? ldexp((double)((1 << m) + mant), e - bias - m) : ldexp((double)mant, 1 - bias - m);
    if (has_inf && e == top) v = mant ? (double)NAN : (double)INFINITY;
    if (!has_inf && (b & 0x7F) == 0x7F) v = (double)NAN;
    return b & 0x80 ? -v : v;
}

#define WIDEN(type, expr)                                                                                              \
    for (uint64_t i = 0; i < n; i++) {                                                                                 \
        type x;                                                                                                        \
        memcpy(&x, raw + i * sizeof x, sizeof x);                                                                      \
        v[i] = (double)(expr);                                                                                         \
    }                                                                                                                  \
    break

static void widen(mg_dtype t, const uint8_t *raw, uint64_t n, float *scratch, double *v) {
    switch (t) {
    case MG_F32:
        WIDEN(float, x);
    case MG_F16:
        WIDEN(uint16_t, mg_f16_to_f32(x));
    case MG_BF16:
        WIDEN(uint16_t, mg_bf16_to_f32(x));
    case MG_F64:
        WIDEN(double, x);
    case MG_I8:
        WIDEN(int8_t, x);
    case MG_I16:
        WIDEN(int16_t, x);
    case MG_I32:
        WIDEN(int32_t, x);
    case MG_I64:
        WIDEN(int64_t, x);
    case MG_U8:
    case MG_BOOL:
        WIDEN(uint8_t, x);
    case MG_U16:
        WIDEN(uint16_t, x);
    case MG_U32:
        WIDEN(uint32_t, x);
    case MG_U64:
        WIDEN(uint64_t, x);
    case MG_F8_E4M3:
        WIDEN(uint8_t, small_float(x, 3, 7, false));
    case MG_F8_E5M2:
        WIDEN(uint8_t, small_float(x, 2, 15, true));
    case MG_F8_E8M0:
        WIDEN(uint8_t, x == 255 ? (double)NAN : ldexp(1.0, x - 127));
    default:
        mg_codec_get(t)->decode(raw, n, scratch);
        for (uint64_t i = 0; i < n; i++) v[i] = (double)scratch[i];
    }
}

/* Mean and squared deviations of the tile by two passes, merged into the running ones (Chan et al. 1979): no
 * cancellation however large the mean. m2 is the sum of squared deviations so far. */
static void merge(mg_scan_stats *s, double *m2, const double *v, uint64_t n) {
    double sum = 0, dev = 0;
    uint64_t k = 0;
    for (uint64_t i = 0; i < n; i++) {
        if (!isfinite(v[i])) continue;
        if (s->finite + k == 0 || v[i] < s->min) s->min = v[i];
        if (s->finite + k == 0 || v[i] > s->max) s->max = v[i];
        s->zeros += v[i] == 0;
        sum += v[i];
        k++;
    }
    if (k == 0) return;
    double mean = sum / (double)k;
    for (uint64_t i = 0; i < n; i++)
        if (isfinite(v[i])) dev += (v[i] - mean) * (v[i] - mean);
    double total = (double)(s->finite + k), delta = mean - s->mean;
    *m2 += dev + delta * delta * (double)s->finite * (double)k / total;
    s->mean += delta * (double)k / total;
    s->finite += k;
}

/* at: of the tensor, a multiple of MG_SCAN_BLOCK */
static void note_zeros(mg_scan_stats *s, const double *v, uint64_t n, uint64_t at) {
    for (uint64_t i = 0; i + MG_SCAN_BLOCK <= n; i += MG_SCAN_BLOCK) {
        uint64_t k = 0;
        while (k < MG_SCAN_BLOCK && v[i + k] == 0) k++;
        if (k == MG_SCAN_BLOCK && s->zero_blocks++ == 0) s->zero_block = at + i;
    }
}

static void note_bad(mg_scan_stats *s, const double *v, uint64_t n, uint64_t first, uint64_t cols, uint64_t *last_row) {
    for (uint64_t i = 0; i < n; i++) {
        if (isfinite(v[i])) continue;
        if (isnan(v[i]))
            s->nans++;
        else
            s->infs++;
        uint64_t row = (first + i) / cols;
        if (row == *last_row) continue;
        if (s->bad_rows < MG_SCAN_BAD_ROWS) s->bad_row[s->bad_rows] = row;
        s->bad_rows++;
        *last_row = row;
    }
}

static mg_status scan_tensor(const scan_job *j, uint32_t t, tile *w, mg_xxh128_state *xxh, mg_error *err) {
    const mg_tensor *d = &j->c->tensors[t];
    const mg_dtype_info *info = mg_dtype_get(d->dtype);
    mg_scan *o = &j->out[t];
    mg_sha256 sha;
    double m2 = 0;
    uint64_t last_row = UINT64_MAX;
    memset(o, 0, sizeof *o);
    mg_sha256_init(&sha);
    for (uint64_t at = 0; at < d->n_elements; at += TILE) {
        uint64_t n = d->n_elements - at < TILE ? d->n_elements - at : TILE;
        uint64_t bytes = n / info->block * info->block_bytes;
        MG_TRY(mg_checkpoint_read(j->c, t, at / info->block * info->block_bytes, w->raw, bytes, err));
        if (j->what & MG_SCAN_HASH) {
            mg_xxh128_update(xxh, w->raw, bytes);
            mg_sha256_update(&sha, w->raw, bytes);
        }
        if (j->what & MG_SCAN_STATS) {
            widen(d->dtype, w->raw, n, w->f32, w->values);
            merge(&o->stats, &m2, w->values, n);
            note_zeros(&o->stats, w->values, n, at);
            if (o->stats.finite != at + n - o->stats.nans - o->stats.infs)
                note_bad(&o->stats, w->values, n, at, mg_tensor_cols(d), &last_row);
        }
        mg_progress_add(j->progress, bytes, d->name);
    }
    if (o->stats.finite) o->stats.std = sqrt(m2 / (double)o->stats.finite);
    mg_sha256_final(&sha, o->sha256);
    o->xxh3 = mg_xxh128_final(xxh);
    return MG_OK;
}

static mg_status scan_ticket(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    const scan_job *j = ctx;
    (void)worker;
    tile w = {malloc(TILE * sizeof(double)), malloc(TILE * sizeof(float)), malloc(TILE * sizeof(double))};
    mg_xxh128_state *xxh = NULL;
    mg_status st = w.raw && w.f32 && w.values ? mg_xxh128_new(&xxh, err) : mg_fail_nomem(err, TILE * 20);
    if (st == MG_OK) st = scan_tensor(j, (uint32_t)ticket, &w, xxh, err);
    if (xxh) mg_xxh128_free(xxh);
    free(w.raw);
    free(w.f32);
    free(w.values);
    return st;
}

/* Any of n words of `bytes` bytes with all exponent bits of mask set. */
static bool any_special(const uint8_t *p, uint64_t n, size_t bytes, uint64_t mask) {
    uint64_t bad = 0;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t v = 0;
        memcpy(&v, p + i * bytes, bytes);
        bad |= (uint64_t)((v & mask) == mask);
    }
    return bad != 0;
}

static bool all_finite(mg_dtype t, const uint8_t *p, uint64_t n) {
    switch (t) {
    case MG_F32:
        return !any_special(p, n, 4, 0x7F800000u);
    case MG_F16:
        return !any_special(p, n, 2, 0x7C00u);
    case MG_BF16:
        return !any_special(p, n, 2, 0x7F80u);
    case MG_F64:
        return !any_special(p, n, 8, UINT64_C(0x7FF0000000000000));
    default:
        return !mg_dtype_is_block(t) || !mg_codec_get(t);
    }
}

mg_status mg_scan_finite(mg_dtype t, const void *stored, uint64_t n, mg_error *err) {
    enum { PART = 1024 }; /* a multiple of every block */
    float f[PART];
    double v[PART];
    const mg_dtype_info *d = mg_dtype_get(t);
    const bool blocks = mg_dtype_is_block(t) && mg_codec_get(t);
    if (!blocks && all_finite(t, stored, n)) return MG_OK;
    for (uint64_t at = 0; at < n; at += PART) {
        const uint64_t k = n - at < PART ? n - at : PART;
        widen(t, (const uint8_t *)stored + at / d->block * d->block_bytes, k, f, v);
        for (uint64_t i = 0; i < k; i++)
            if (!isfinite(v[i]))
                return mg_fail(err, MG_ERR_FORMAT, "element %llu of the row is %g, expected a finite value",
                               (unsigned long long)(at + i), v[i]);
    }
    return MG_OK;
}

unsigned mg_scan_threads(unsigned threads, uint64_t memory) {
    uint64_t fit = memory ? memory / MG_SCAN_THREAD_BYTES : threads;
    return fit >= threads ? threads : fit ? (unsigned)fit : 1;
}

mg_status mg_scan_checkpoint(mg_checkpoint *c, unsigned what, mg_pool *pool, mg_progress *progress, mg_scan *out,
                             mg_error *err) {
    scan_job j = {c, what, progress, out};
    for (uint32_t t = 0; (what & MG_SCAN_STATS) && t < c->n_tensors; t++)
        if (mg_dtype_is_block(c->tensors[t].dtype) && !mg_codec_get(c->tensors[t].dtype)) {
            mg_fail(err, MG_ERR_UNSUPPORTED, "%s has no decoder", mg_dtype_get(c->tensors[t].dtype)->name);
            mg_error_at(err, NULL, c->tensors[t].name);
            return MG_ERR_UNSUPPORTED;
        }
    return mg_pool_run(pool, c->n_tensors, scan_ticket, &j, err);
}
