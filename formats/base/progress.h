/* progress.h - progress of long jobs on stderr: a bar on a terminal, a line now and then elsewhere, JSON lines on request,
 * or nothing. Thread safe; updates are rate limited. NO_COLOR is honoured. Ends with the resource line of long jobs. */
#ifndef MG_BASE_PROGRESS_H
#define MG_BASE_PROGRESS_H

#include "formats/base/status.h"

typedef enum mg_progress_mode { MG_PROGRESS_AUTO, MG_PROGRESS_PLAIN, MG_PROGRESS_JSON, MG_PROGRESS_NONE } mg_progress_mode;
mg_status mg_progress_parse_mode(const char *text, mg_progress_mode *out, mg_error *err) MG_MUST_CHECK;

typedef struct mg_progress mg_progress;
/* total in units of work (bytes usually); label e.g. "merge". */
mg_status mg_progress_new(mg_progress **out, mg_progress_mode mode, const char *label, uint64_t total, mg_error *err) MG_MUST_CHECK;
void mg_progress_add(mg_progress *p, uint64_t done, const char *item); /* p may be NULL; item: what is being worked on */
void mg_progress_free(mg_progress *p);                                 /* ends the bar */

/* Peak resident memory of this process in bytes, and seconds since it started. */
uint64_t mg_peak_memory(void);
double mg_elapsed_seconds(void);

#endif
