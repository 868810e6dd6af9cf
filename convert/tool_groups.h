/* tool_groups.h - quantize IN OUT AWQ|GPTQ|RTN|FP8_DYNAMIC...: the part of moegraft-quantize that writes group formats.
 * Linked into that tool only. */
#ifndef MG_CONVERT_TOOL_GROUPS_H
#define MG_CONVERT_TOOL_GROUPS_H

#include "convert/tool_plan.h"
#include "formats/base/options.h"

/* Options as given; NULL and 0: not given. */
typedef struct mg_tool_groups {
    const char *bits, *group_size, *format, *layout, *method;
    bool symmetric, fold_only;
    uint64_t samples;
    bool allow_requantize;
} mg_tool_groups;

/* Do the words IN [OUT] TYPE ask for a group format? */
bool mg_tool_groups_asked(const mg_tool_groups *g, const mg_opt_list *words);
/* Has an option been given that only group formats know? Its name, or NULL. */
const char *mg_tool_groups_option(const mg_tool_groups *g);
/* --fold-only before a GGUF type: calibrate m for weights like those of g (4 bits, groups of 32 unless it says
 * otherwise) into t (tool_calib.h), zeroed by the caller; mg_group_stage_folded(t->stage) is what to quantize. */
struct mg_tool_calib;
mg_status mg_tool_groups_fold(const mg_tool_groups *g, struct mg_tool_calib *t, mg_checkpoint *ckpt, mg_model *m,
                              const char *out, const mg_common *common, mg_error *err) MG_MUST_CHECK;
/* Plan, then show, execute or hand to the sink. record has the options; the words are added here. */
mg_status mg_tool_groups_run(const mg_tool_groups *g, const mg_opt_list *words, const mg_exec_options *opt,
                             const mg_common *common, mg_record *record, const mg_tool_sink *sink,
                             mg_error *err) MG_MUST_CHECK;

#endif
