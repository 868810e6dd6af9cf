/* windows.h - texts and token files cut into the sequences that are scored.
 *
 * Text: consecutive windows of ctx tokens, a rest is dropped; the first token of each window is replaced by BOS when
 * the model has one, and positions ctx/2 .. ctx-2 are scored (llama-perplexity's definition). Token files: every row is
 * a sequence as it stands and positions 0 .. n-2 are scored. Scoring position p means predicting token p+1. */
#ifndef MG_VERIFY_WINDOWS_H
#define MG_VERIFY_WINDOWS_H

#include "formats/base/status.h"

typedef struct mg_window {
    uint64_t at; /* first token in mg_windows.ids */
    uint32_t len;
    uint32_t first;   /* first scored position; the last is len - 2 */
    uint32_t source;  /* which text or token file, counted from 0 */
    int32_t original; /* first token before BOS took its place */
} mg_window;

typedef struct mg_windows {
    mg_window *items;
    uint64_t n, cap;
    int32_t *ids;
    uint64_t n_ids, cap_ids;
    uint64_t scored; /* positions over all windows */
    uint32_t sources;
} mg_windows;

void mg_windows_init(mg_windows *w);
void mg_windows_release(mg_windows *w);

/* Windows of ctx >= 2 tokens over ids [n] of one text. bos < 0: none. MG_ERR_USAGE when the text is shorter than one
 * window. */
mg_status mg_windows_add_text(mg_windows *w, const int32_t *ids, uint64_t n, uint64_t ctx, int64_t bos,
                              mg_error *err) MG_MUST_CHECK;
/* One sequence as it stands. */
mg_status mg_windows_add_row(mg_windows *w, const int32_t *ids, uint64_t n, mg_error *err) MG_MUST_CHECK;
/* One sequence of which the positions first .. n-2 are scored. */
mg_status mg_windows_add_scored(mg_windows *w, const int32_t *ids, uint64_t n, uint64_t first,
                                mg_error *err) MG_MUST_CHECK;
/* A token file: safetensors with input_ids [batch, n] (or [n]) int64 or int32 when the name ends in .safetensors, else
 * text with one sequence of ids per line, separated by blanks or commas, optionally in brackets. MG_ERR_FORMAT names
 * file and line. */
mg_status mg_windows_add_token_file(mg_windows *w, const char *path, mg_error *err) MG_MUST_CHECK;
/* "1,5,9" as one sequence. MG_ERR_USAGE when it is not a list of ids. */
mg_status mg_windows_add_list(mg_windows *w, const char *text, mg_error *err) MG_MUST_CHECK;

/* The largest token id; -1 when there is none. */
int64_t mg_windows_last_id(const mg_windows *w);

/* MG_ERR_USAGE saying why when no position is scored. */
mg_status mg_windows_check_scored(const mg_windows *w, mg_error *err) MG_MUST_CHECK;

/* Scored positions of a window. */
static inline uint64_t mg_window_scored(const mg_window *w) {
    return w->len > w->first + 1u ? w->len - 1u - w->first : 0;
}

#endif
