/* tool_choices.h - perplexity --choices: multiple choice questions put to several models, and the answers that flip.
 * Linked into tools only. */
#ifndef MG_VERIFY_TOOL_CHOICES_H
#define MG_VERIFY_TOOL_CHOICES_H

#include "verify/score.h"
#include "verify/tool_model.h"

/* Every model of paths answers the questions of file; the first is what the others' answers are compared with. Prints
 * the result. */
mg_status mg_tool_choices_run(const char *file, const mg_opt_list *paths, const mg_common *c, mg_precision precision,
                              mg_error *err) MG_MUST_CHECK;

#endif
