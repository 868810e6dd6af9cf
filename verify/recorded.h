/* recorded.h - what another program recorded of a model's predictions, read in place of running it:
 *
 *   base file     llama-perplexity's --kl-divergence-base: 16-bit log-probabilities of text windows (kldbase.h)
 *   logits        safetensors with logits [batch, n, vocab] and input_ids [batch, n], as moegraft-forward writes
 *   top tokens    JSON lines: the log-probabilities of a few tokens per position, from a server (recorded_top.h)
 *
 * A recording holds the tokens it is of, so it is never compared with another text. */
#ifndef MG_VERIFY_RECORDED_H
#define MG_VERIFY_RECORDED_H

#include "verify/score.h"

typedef struct mg_recorded mg_recorded;

/* Is path a recording rather than a model? By what is in the file; errors count as no. */
bool mg_path_is_recorded(const char *path);
/* Errors name path, and line or tensor. Nothing but the tokens is held. */
mg_status mg_recorded_open(mg_recorded **out, const char *path, mg_error *err) MG_MUST_CHECK;
void mg_recorded_free(mg_recorded *r);

mg_rows_kind mg_recorded_kind(const mg_recorded *r);
const char *mg_recorded_kind_name(mg_rows_kind kind); /* for results; NULL for logits of a model that is run */
uint64_t mg_recorded_vocab(const mg_recorded *r);     /* tokens per row; 0: it does not say */

/* Add the windows it was recorded on. bos: what stood in the first place of the windows of a base file; -1: none. */
mg_status mg_recorded_windows(const mg_recorded *r, int64_t bos, mg_windows *w, mg_error *err) MG_MUST_CHECK;
/* Is it of these windows, and does it have every scored position? MG_ERR_CONFLICT naming the first that differs. */
mg_status mg_recorded_check(const mg_recorded *r, const mg_windows *w, mg_error *err) MG_MUST_CHECK;
/* Rows of the positions of cut (window, pos, n; targets are passed on), valid until the next call. MG_ERR_FORMAT for
 * what is no distribution. */
mg_status mg_recorded_rows(mg_recorded *r, const mg_score_rows *cut, mg_score_rows *rows, mg_error *err) MG_MUST_CHECK;

#endif
