/* baseline.h - a result of verify compared with an earlier one: is this release worse than the last? */
#ifndef MG_VERIFY_BASELINE_H
#define MG_VERIFY_BASELINE_H

#include "formats/base/json.h"

/* What may change without being worse: a hundredth of the divergence (or 1e-6), a ten-thousandth of the perplexity,
 * 0.05 points of agreement, the tolerances our figures are held to against llama.cpp's. On one text the sampling errors
 * of both results are the same and cancel. */
#define MG_BASELINE_KL   0.01
#define MG_BASELINE_KL0  1e-6
#define MG_BASELINE_PPL  1e-4
#define MG_BASELINE_TOP1 5e-4

/* The earlier result, checked: MG_ERR_FORMAT when it is none, MG_ERR_USAGE when it is of another text. */
mg_status mg_baseline_open(mg_json **out, const char *path, const char *text_sha256, mg_error *err) MG_MUST_CHECK;
/* candidate against the one of the same file name in old (the only one, when both results have one). *worse: the figure
 * that got worse ("kl.mean", "ppl.ratio", "top1_agreement"), NULL for none. MG_ERR_USAGE when old has no such
 * candidate. */
mg_status mg_baseline_check(const mg_json *old, const mg_json *candidate, bool only, const char **worse,
                            mg_error *err) MG_MUST_CHECK;

#endif
