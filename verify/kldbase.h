/* kldbase.h - llama-perplexity's --kl-divergence-base file: the log-probabilities of a base model in 16 bits.
 *
 *   8 bytes "_logits_", i32 n_ctx, i32 n_vocab, i32 n_chunk, i32 tokens[n_chunk * n_ctx] (before BOS took the first
 *   place), then for every chunk n_ctx - 1 - n_ctx/2 rows of 2 * ((n_vocab + 1) / 2) + 4 u16:
 *   f32 scale, f32 min_log_prob, u16 q[n_vocab] with log p = min_log_prob + scale * q. */
#ifndef MG_VERIFY_KLDBASE_H
#define MG_VERIFY_KLDBASE_H

#include "formats/base/file.h"
#include "verify/onefile.h"
#include "verify/score.h"

#define MG_BASE_RANGE 16.0f /* log-probabilities further below the largest are cut off */

typedef struct mg_kldbase_writer {
    mg_onefile out;
    uint64_t ctx, vocab, row_bytes, rows_at, rows;
    uint16_t *row;
} mg_kldbase_writer;

/* Begin path for these windows, which must be text windows of one length (MG_ERR_USAGE). */
mg_status mg_kldbase_create(mg_kldbase_writer *k, const char *path, bool force, const mg_windows *w, uint64_t vocab,
                            mg_error *err) MG_MUST_CHECK;
/* The next scored position, in order. */
mg_status mg_kldbase_put(mg_kldbase_writer *k, const float *logits, const mg_lse *lse, mg_error *err) MG_MUST_CHECK;
mg_status mg_kldbase_commit(mg_kldbase_writer *k, mg_error *err) MG_MUST_CHECK;
void mg_kldbase_close(mg_kldbase_writer *k); /* without commit: nothing is left */

typedef struct mg_kldbase {
    mg_file file;
    uint64_t ctx, vocab, chunks, row_bytes, rows_at;
    int32_t *tokens; /* [chunks * ctx] */
    uint8_t *raw;    /* one row */
    float *logp;     /* [vocab] of the row last read */
} mg_kldbase;

/* MG_ERR_FORMAT when sizes do not add up to the file's. */
mg_status mg_kldbase_open(mg_kldbase *k, const char *path, mg_error *err) MG_MUST_CHECK;
void mg_kldbase_release(mg_kldbase *k);
/* k->logp = row number `row` over all chunks. MG_ERR_FORMAT when scale or minimum is not finite. */
mg_status mg_kldbase_row(mg_kldbase *k, uint64_t row, mg_error *err) MG_MUST_CHECK;

/* *kept: logarithm of what is left of a row of `vocab` log-probabilities in its first `ids`: 1 less those beyond, so
 * that it is 0 where these are none, whatever 16 bits made of the sum. MG_ERR_FORMAT: nothing. */
mg_status mg_kldbase_kept(double *kept, const float *base, uint64_t ids, uint64_t vocab, mg_error *err) MG_MUST_CHECK;
/* Divergence of a row of logits from log-probabilities of a base file as llama-perplexity forms it (tokens with log
 * p_base above -16), and the most likely token of the base. kept: logarithm of the base's probability of these `vocab`
 * ids where there are more, by which it is divided; 0 for all of them. */
double mg_kldbase_kl(const float *base, uint64_t vocab, double kept, const float *logits, const mg_lse *lse,
                     uint64_t *top);

#endif
