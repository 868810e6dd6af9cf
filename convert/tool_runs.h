/* tool_runs.h - the tools whose results their recipes do not say completely, as functions: their own main calls them
 * with no sink, verify
 * --provenance with the words of a manifest and a sink that compares. Linked into tools only. */
#ifndef MG_CONVERT_TOOL_RUNS_H
#define MG_CONVERT_TOOL_RUNS_H

#include "convert/tool_plan.h"

extern const mg_tool_info mg_tool_merge_info, mg_tool_quantize_info, mg_tool_graft_info, mg_tool_convert_info,
    mg_tool_extract_info;

/* Everything from the command line to the finished output, or with a sink to the finished plan. */
mg_status mg_tool_merge_run(int argc, char **argv, const mg_tool_sink *sink, mg_error *err) MG_MUST_CHECK;
mg_status mg_tool_quantize_run(int argc, char **argv, const mg_tool_sink *sink, mg_error *err) MG_MUST_CHECK;
mg_status mg_tool_graft_run(int argc, char **argv, const mg_tool_sink *sink, mg_error *err) MG_MUST_CHECK;
mg_status mg_tool_extract_run(int argc, char **argv, const mg_tool_sink *sink, mg_error *err) MG_MUST_CHECK;
mg_status mg_tool_convert_run(int argc, char **argv, const mg_tool_sink *sink, mg_error *err) MG_MUST_CHECK;

#endif
