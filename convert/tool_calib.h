/* tool_calib.h - the group stage as moegraft-quantize runs it: text to tokens, forward pass, work folder, report.
 * Linked into that tool only, because it joins convert with the forward pass. */
#ifndef MG_CONVERT_TOOL_CALIB_H
#define MG_CONVERT_TOOL_CALIB_H

#include "convert/group_stage.h"
#include "verify/tool_model.h"

typedef struct mg_tool_calib_options {
    const mg_common *common;
    const char *out; /* what will be written; the work folder is beside it */
    mg_group_scheme scheme;
    bool awq, gptq, fold_only;
    const mg_dtype *types; /* gptq into these (group_stage.h); NULL: groups */
    uint64_t samples;      /* windows of the text to use; 0: all */
} mg_tool_calib_options;

typedef struct mg_tool_calib {
    mg_tool_pass pass;
    bool have_pass;
    mg_windows windows;
    uint32_t *len;
    mg_evaluator eval;
    mg_stage_text text;
    mg_progress *progress;
    char dir[4096];
    mg_group_stage *stage;
    mg_json *report;
    int lock; /* 0: none */
} mg_tool_calib;

/* Calibrate m, which was opened over ckpt; both outlive t. t is zeroed by the caller and closed in every case. */
mg_status mg_tool_calib_run(mg_tool_calib *t, mg_checkpoint *ckpt, mg_model *m, const mg_tool_calib_options *opt,
                            mg_error *err) MG_MUST_CHECK;
/* done: the output is complete and no other rank needs the work folder: it is removed. */
void mg_tool_calib_close(mg_tool_calib *t, bool done);

#endif
