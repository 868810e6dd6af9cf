/* progress.h - progress of long jobs on stderr: a bar on a terminal, a line now and then elsewhere, JSON lines on
 * request, or nothing. Thread safe; updates are rate limited. NO_COLOR is honoured. Ends with the resource line of long
 * jobs. */
#ifndef MG_BASE_PROGRESS_H
#define MG_BASE_PROGRESS_H

#include <stdio.h>

#include "formats/base/status.h"

typedef enum mg_progress_mode {
    MG_PROGRESS_AUTO,
    MG_PROGRESS_PLAIN,
    MG_PROGRESS_JSON,
    MG_PROGRESS_NONE
} mg_progress_mode;
mg_status mg_progress_parse_mode(const char *text, mg_progress_mode *out, mg_error *err) MG_MUST_CHECK;

typedef struct mg_progress mg_progress;
/* total in units of work, bytes unless mg_progress_unit says otherwise; label e.g. "merge". */
mg_status mg_progress_new(mg_progress **out, mg_progress_mode mode, const char *label, uint64_t total,
                          mg_error *err) MG_MUST_CHECK;
/* Count something other than bytes, e.g. "tokens": numbers are shown as they are, rates as "12.3 tokens/s". unit is
 * borrowed; p may be NULL. Call before the first mg_progress_add. */
void mg_progress_unit(mg_progress *p, const char *unit);
void mg_progress_add(mg_progress *p, uint64_t done,
                     const char *item); /* p may be NULL; item: what is being worked on */
/* Work that an earlier run has done: it counts as done, and not for the rate, which what is left is guessed from. */
void mg_progress_skip(mg_progress *p, uint64_t done);
void mg_progress_free(mg_progress *p);  /* ends the bar */

/* The same, writing to a stream of the caller's (mg_progress_new: stderr). AUTO looks whether it is a terminal. */
mg_status mg_progress_new_on(mg_progress **out, mg_progress_mode mode, const char *label, uint64_t total, FILE *to,
                             mg_error *err) MG_MUST_CHECK;

/* The last line of a long job. */
typedef struct mg_job_cost {
    const char *label;      /* "quantize" */
    uint64_t read, written; /* bytes */
    const char *sha256;     /* hex digest of the one file written; NULL: several files or none, left out */
} mg_job_cost;
/* "merge: read 29.4 MB, wrote 12.0 MB, peak memory 41.2 MB, 3.21 s, sha256 ..." to `to` (stderr as a rule); a JSON
 * object on one line in mode JSON; nothing in mode NONE. */
void mg_progress_cost(FILE *to, mg_progress_mode mode, const mg_job_cost *cost);

/* "512 B", "1.50 KB", "29.4 MB", "1.21 GB": decimal units, three figures. Returns buf. */
#define MG_HUMAN_MAX 32
const char *mg_human_bytes(uint64_t n, char buf[MG_HUMAN_MAX]);

/* Peak resident memory of this process in bytes, and seconds since it started. */
uint64_t mg_peak_memory(void);
double mg_elapsed_seconds(void);

#endif
