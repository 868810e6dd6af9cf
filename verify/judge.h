/* judge.h - thresholds: "kl.mean>0.05" is a path into a candidate's JSON result, a comparison and a number. */
#ifndef MG_VERIFY_JUDGE_H
#define MG_VERIFY_JUDGE_H

#include "formats/base/json.h"

typedef struct mg_threshold {
    const char *text; /* as given */
    char path[128];   /* "kl.mean", "layers[3].cosine" */
    char op[3];       /* > >= < <= == != */
    double value;
} mg_threshold;

/* MG_ERR_USAGE when it is not PATH OP NUMBER. */
mg_status mg_threshold_parse(mg_threshold *t, const char *text, mg_error *err) MG_MUST_CHECK;
/* *fails: the comparison holds for this candidate. A path that leads to null (a figure that does not exist here, like
 * the signal-to-noise ratio of equal weights) never holds. MG_ERR_USAGE when the path leads nowhere or to no number: a
 * misspelt threshold must not pass in silence. */
mg_status mg_threshold_check(const mg_threshold *t, const mg_json *candidate, bool *fails, mg_error *err) MG_MUST_CHECK;
/* Before anything is measured: can t's path exist? example: a candidate with every key, one element in each list
 * (mg_report_example); any index is as good as another. MG_ERR_USAGE naming the path. */
mg_status mg_threshold_known(const mg_threshold *t, const mg_json *example, mg_error *err) MG_MUST_CHECK;

#endif
