/* tool_verify_print.h - the result of verify as text for a terminal. Linked into that tool only. */
#ifndef MG_VERIFY_TOOL_VERIFY_PRINT_H
#define MG_VERIFY_TOOL_VERIFY_PRINT_H

#include "verify/report.h"

/* by_size [report->n]: the candidates, smallest first. json: the finished result with verdicts. all: every weight and
 * part, not only the first ones. */
void mg_tool_verify_print(const mg_report *report, mg_candidate *const *by_size, const mg_json *json, bool all);

#endif
