/* tool_plan.h - what the tools that execute a plan (merge, convert, quantize) have in common: the dry run, the list of
 * files written, and the cost line. Linked into those tools only, because libraries do not print. */
#ifndef MG_CONVERT_TOOL_PLAN_H
#define MG_CONVERT_TOOL_PLAN_H

#include "convert/record.h"
#include "formats/base/options.h"

/* How to print. */
typedef struct mg_tool_plan_style {
    bool json;
    bool quiet; /* no cost line */
    bool sizes; /* "SHA256  PATH  N bytes" instead of "SHA256  PATH" */
} mg_tool_plan_style;

/* The options that all such tools share; label: "merge", ... */
mg_exec_options mg_tool_exec_options(const mg_common *c, const char *label);

/* Before stages that all ranks need and one of them should compute: waits until no other rank is at it, saying so.
 * *lock, 0 at first, is given to unlock when they are done. out: the first output. */
mg_status mg_tool_stage_lock(int *lock, const mg_common *c, const char *out, mg_error *err) MG_MUST_CHECK;
void mg_tool_stage_unlock(int *lock);

/* Print what outputs out[0..n) of p will be: tables, or as JSON one object (several: {"schema":1,"outputs":[...]}). */
mg_status mg_tool_plan_show(mg_plan *p, const uint32_t *out, size_t n, const mg_exec_options *opt,
                            mg_tool_plan_style style, mg_error *err) MG_MUST_CHECK;

/* Who takes a plan instead of it being executed: verify --provenance, which compares what it gives. Everything the plan
 * reads lives until use returns. */
typedef struct mg_tool_sink {
    mg_status (*use)(void *ctx, mg_plan *p, mg_error *err);
    void *ctx;
} mg_tool_sink;

/* Where a plan goes. */
typedef struct mg_tool_job {
    const mg_record *record;  /* for the manifests */
    const mg_tool_sink *sink; /* NULL: it is executed */
} mg_tool_job;

/* Execute p; print a line per file (or {"schema":1,"files":[...]}) to stdout and, unless quiet, the cost to stderr. A
 * rank prints what its share was ({"schema":1,"rank",...}), and the files only when it completed the output. */
mg_status mg_tool_plan_execute(mg_plan *p, const mg_exec_options *opt, mg_tool_plan_style style, mg_tool_job job,
                               mg_error *err) MG_MUST_CHECK;

/* Print the files of a result, as above. */
mg_status mg_tool_plan_files(const mg_exec_result *res, const mg_exec_options *opt, mg_tool_plan_style style,
                             mg_error *err) MG_MUST_CHECK;

#endif
