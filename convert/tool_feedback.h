/* tool_feedback.h - quantize --feedback: the stage that chooses codes of block types with error feedback, run on the
 * GGUF form of a model. Part of the tool, because it joins plans with the forward pass. */
#ifndef MG_CONVERT_TOOL_FEEDBACK_H
#define MG_CONVERT_TOOL_FEEDBACK_H

#include "convert/quantize.h"
#include "convert/tool_calib.h"

typedef struct mg_tool_feedback_options {
    const mg_common *common; /* text, tokens, context, threads, memory, force */
    mg_checkpoint *in;       /* as opened: whose tokenizer it is */
    mg_checkpoint *gguf;     /* its GGUF form */
    const mg_quantize_options *quantize;
    const char *out;  /* the file that will be written; the work folder is beside it */
    uint64_t samples; /* windows of the text; 0: all */
} mg_tool_feedback_options;

typedef struct mg_tool_feedback {
    mg_quantize_feedback made; /* for mg_quantize_options.feedback */
    mg_tool_calib calib;
    mg_model *model;
    mg_dtype *types; /* of each tensor of gguf */
} mg_tool_feedback;

/* What the plan or the output would refuse is refused first. t is zeroed by the caller and closed in every case, after
 * the plan that uses it. */
mg_status mg_tool_feedback_run(mg_tool_feedback *t, const mg_tool_feedback_options *opt, mg_error *err) MG_MUST_CHECK;
/* done: the output is complete, the work folder is removed. */
void mg_tool_feedback_close(mg_tool_feedback *t, bool done);

#endif
