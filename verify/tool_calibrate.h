/* tool_calibrate.h - what moegraft-calibrate prints: expert coverage of a run, statistics of a file. */
#ifndef MG_VERIFY_TOOL_CALIBRATE_H
#define MG_VERIFY_TOOL_CALIBRATE_H

#include "quant/imatrix_set.h"
#include "verify/calibrate.h"

/* An expert that saw fewer tokens is reported: the mean square of n normal values is off by sqrt(2 / n), here 12.5 %.
 */
#define MG_FEW_TOKENS 128

/* What a run was. */
typedef struct mg_calibrate_run {
    const char *model, *output;
    uint64_t windows, tokens, size;
    uint32_t entries, layers;
    const mg_calibration *c;
} mg_calibrate_run;

/* Print the result of a run, as JSON or for people; *unseen: experts without tokens, *few: with fewer than
 * MG_FEW_TOKENS. */
mg_status mg_tool_calibrate_result(const mg_calibrate_run *r, bool json, uint64_t *unseen, uint64_t *few,
                                   mg_error *err) MG_MUST_CHECK;
/* Print the statistics of m, which was loaded with mg_imatrix_load_sums. */
mg_status mg_tool_calibrate_statistics(const char *path, const mg_imatrix *m, bool json, mg_error *err) MG_MUST_CHECK;

#endif
