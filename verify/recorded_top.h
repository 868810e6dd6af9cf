/* recorded_top.h - JSON lines of token log-probabilities, one line per sequence, as servers answer (docs/verify.md has
 * the forms): a logprobs object of an OpenAI completion with echo, prompt_logprobs, or completion_probabilities. */
#ifndef MG_VERIFY_RECORDED_TOP_H
#define MG_VERIFY_RECORDED_TOP_H

#include "verify/score.h"

typedef struct mg_recorded_top mg_recorded_top;

/* Reads every line once: its tokens and first recorded position become a window of own. Errors name the line and
 * position: MG_ERR_FORMAT what is malformed, MG_ERR_UNSUPPORTED tokens given as text. */
mg_status mg_recorded_top_open(mg_recorded_top **out, const char *path, mg_windows *own, mg_error *err) MG_MUST_CHECK;
void mg_recorded_top_free(mg_recorded_top *t);
/* n positions of one window from pos on; valid until the next call. They must be there. */
mg_status mg_recorded_top_rows(mg_recorded_top *t, uint64_t window, uint32_t pos, uint32_t n, const mg_top_row **rows,
                               mg_error *err) MG_MUST_CHECK;

#endif
