/* kldbase.c - see kldbase.h. */
#include "verify/kldbase.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/checked.h"
#include "quant/math/f64.h"
#include "quant/math/mathops.h"

#define MAGIC "_logits_"
#define HEAD  (8u + 3u * 4u)

static uint64_t row_bytes(uint64_t vocab) {
    return 2 * (2 * ((vocab + 1) / 2) + 4);
}
static uint64_t rows_per_chunk(uint64_t ctx) {
    return ctx - 1 - ctx / 2;
}

/* --- writing --- */

static mg_status write_head(mg_kldbase_writer *k, const mg_windows *w, mg_error *err) {
    uint8_t head[HEAD];
    const int32_t n[3] = {(int32_t)k->ctx, (int32_t)k->vocab, (int32_t)w->n};
    memcpy(head, MAGIC, 8);
    memcpy(head + 8, n, sizeof n);
    MG_TRY(mg_onefile_write(&k->out, 0, head, HEAD, err));
    for (uint64_t i = 0; i < w->n; i++) {
        const uint64_t at = HEAD + i * k->ctx * 4;
        MG_TRY(mg_onefile_write(&k->out, at, &w->items[i].original, 4, err));
        MG_TRY(mg_onefile_write(&k->out, at + 4, w->ids + w->items[i].at + 1, (k->ctx - 1) * 4, err));
    }
    return MG_OK;
}

mg_status mg_kldbase_create(mg_kldbase_writer *k, const char *path, bool force, const mg_windows *w, uint64_t vocab,
                            mg_error *err) {
    *k = (mg_kldbase_writer){.ctx = w->n ? w->items[0].len : 0, .vocab = vocab, .row_bytes = row_bytes(vocab)};
    for (uint64_t i = 0; i < w->n; i++)
        if (w->items[i].len != k->ctx || w->items[i].first != k->ctx / 2)
            return mg_fail(err, MG_ERR_USAGE, "a base file holds windows of --text only");
    if (k->ctx < 4 || k->ctx > INT32_MAX || vocab > INT32_MAX || w->n > INT32_MAX)
        return mg_fail(err, MG_ERR_USAGE, "a base file cannot hold %llu windows of %llu tokens",
                       (unsigned long long)w->n, (unsigned long long)k->ctx);
    k->rows_at = HEAD + w->n * k->ctx * 4;
    k->row = calloc(1, k->row_bytes);
    if (!k->row) return mg_fail_nomem(err, k->row_bytes);
    const uint64_t size = k->rows_at + w->n * rows_per_chunk(k->ctx) * k->row_bytes;
    mg_status st = mg_onefile_open(&k->out, path, size, force, err);
    if (st == MG_OK) st = write_head(k, w, err);
    if (st != MG_OK) mg_kldbase_close(k);
    return st;
}

mg_status mg_kldbase_put(mg_kldbase_writer *k, const float *logits, const mg_lse *lse, mg_error *err) {
    float min = lse->max;
    for (uint64_t i = 0; i < k->vocab; i++)
        if (logits[i] < min) min = logits[i];
    if (min < lse->max - MG_BASE_RANGE) min = lse->max - MG_BASE_RANGE;
    const float scale = (lse->max - min) / 65535.0f, low = (float)((double)(min - lse->max) - lse->log_sum);
    memcpy(k->row, &scale, 4);
    memcpy(k->row + 2, &low, 4);
    uint16_t *q = k->row + 4;
    const float inverse = scale > 0 ? 1.0f / scale : 0.0f;
    for (uint64_t i = 0; i < k->vocab; i++) {
        const float v = logits[i] > min ? inverse * (logits[i] - min) : 0.0f;
        q[i] = (uint16_t)(v < 65535.0f ? rintf(v) : 65535.0f);
    }
    return mg_onefile_write(&k->out, k->rows_at + k->rows++ * k->row_bytes, k->row, k->row_bytes, err);
}

mg_status mg_kldbase_commit(mg_kldbase_writer *k, mg_error *err) {
    return mg_onefile_commit(&k->out, err);
}

void mg_kldbase_close(mg_kldbase_writer *k) {
    mg_onefile_close(&k->out);
    free(k->row);
    *k = (mg_kldbase_writer){0};
}

/* --- reading --- */

static mg_status read_head(mg_kldbase *k, mg_error *err) {
    uint8_t head[HEAD];
    int32_t n[3];
    uint64_t tokens, rows, bytes;
    if (k->file.size < HEAD) return mg_fail(err, MG_ERR_FORMAT, "no file of log-probabilities: too short");
    MG_TRY(mg_file_read(&k->file, 0, head, HEAD, err));
    if (memcmp(head, MAGIC, 8)) return mg_fail(err, MG_ERR_FORMAT, "no file of log-probabilities: no '" MAGIC "'");
    memcpy(n, head + 8, sizeof n);
    if (n[0] < 4 || n[1] < 1 || n[2] < 1)
        return mg_fail(err, MG_ERR_FORMAT, "%d windows of %d tokens over a vocabulary of %d", n[2], n[0], n[1]);
    k->ctx = (uint64_t)n[0];
    k->vocab = (uint64_t)n[1];
    k->chunks = (uint64_t)n[2];
    k->row_bytes = row_bytes(k->vocab);
    /* all factors are below 2^31, row_bytes below 2^34 */
    tokens = k->ctx * k->chunks;
    rows = rows_per_chunk(k->ctx) * k->chunks;
    k->rows_at = HEAD + tokens * 4;
    if (!mg_mul_u64(rows, k->row_bytes, &bytes) || !mg_add_u64(bytes, k->rows_at, &bytes) || bytes != k->file.size)
        return mg_fail(err, MG_ERR_FORMAT,
                       "%llu windows of %llu tokens over a vocabulary of %llu do not make %llu bytes",
                       (unsigned long long)k->chunks, (unsigned long long)k->ctx, (unsigned long long)k->vocab,
                       (unsigned long long)k->file.size);
    k->tokens = malloc(tokens * 4);
    k->raw = malloc(k->row_bytes);
    k->logp = malloc(k->vocab * sizeof *k->logp);
    if (!k->tokens || !k->raw || !k->logp) return mg_fail_nomem(err, tokens * 4 + k->row_bytes);
    MG_TRY(mg_file_read(&k->file, HEAD, k->tokens, tokens * 4, err));
    for (uint64_t i = 0; i < tokens; i++)
        if (k->tokens[i] < 0 || (uint64_t)k->tokens[i] >= k->vocab)
            return mg_fail(err, MG_ERR_FORMAT, "token id %d, the vocabulary has %llu", k->tokens[i],
                           (unsigned long long)k->vocab);
    return MG_OK;
}

mg_status mg_kldbase_open(mg_kldbase *k, const char *path, mg_error *err) {
    memset(k, 0, sizeof *k);
    MG_TRY(mg_file_open(&k->file, path, err));
    mg_status st = read_head(k, err);
    if (st != MG_OK) {
        mg_error_at(err, path, NULL);
        mg_kldbase_release(k);
    }
    return st;
}

void mg_kldbase_release(mg_kldbase *k) {
    if (k->file.path[0]) mg_file_close(&k->file);
    free(k->tokens);
    free(k->raw);
    free(k->logp);
    memset(k, 0, sizeof *k);
}

mg_status mg_kldbase_row(mg_kldbase *k, uint64_t row, mg_error *err) {
    float head[2];
    MG_TRY(mg_file_read(&k->file, k->rows_at + row * k->row_bytes, k->raw, k->row_bytes, err));
    memcpy(head, k->raw, 8);
    if (!isfinite(head[0]) || !isfinite(head[1]) || head[0] < 0) {
        mg_error_at(err, k->file.path, NULL);
        return mg_fail(err, MG_ERR_FORMAT, "row %llu: scale %g, smallest log-probability %g", (unsigned long long)row,
                       (double)head[0], (double)head[1]);
    }
    for (uint64_t i = 0; i < k->vocab; i++) {
        uint16_t q;
        memcpy(&q, k->raw + 8 + 2 * i, 2);
        k->logp[i] = head[0] * (float)q + head[1];
    }
    return MG_OK;
}

enum { TILE = 1024 }; /* a multiple of 16 */

mg_status mg_kldbase_kept(double *kept, const float *base, uint64_t ids, uint64_t vocab, mg_error *err) {
    double left = 1;
    for (uint64_t i = ids; i < vocab; i++) left -= mg_f64_exp((double)base[i]);
    if (!(left > 0))
        return mg_fail(err, MG_ERR_FORMAT, "no probability is left below token %llu", (unsigned long long)ids);
    *kept = ids < vocab ? mg_f64_log(left) : 0;
    return MG_OK;
}

double mg_kldbase_kl(const float *base, uint64_t vocab, double kept, const float *logits, const mg_lse *lse,
                     uint64_t *top) {
    const mg_math *math = mg_math_get();
    const double shift = (double)lse->max + lse->log_sum - kept;
    double lane[16] = {0};
    float p[TILE];
    *top = 0;
    for (uint64_t i = 0; i < vocab; i += TILE) {
        const uint64_t n = vocab - i < TILE ? vocab - i : TILE;
        math->exp(p, base + i, n);
        for (uint64_t j = 0; j < n; j++) {
            const float b = base[i + j];
            if (b > base[*top]) *top = i + j;
            if (b > -MG_BASE_RANGE) lane[j % 16] += (double)p[j] * ((double)b - (double)logits[i + j] + shift);
        }
    }
    for (int h = 8; h >= 1; h /= 2)
        for (int j = 0; j < h; j++) lane[j] += lane[j + h];
    return lane[0] * mg_f64_exp(-kept);
}
