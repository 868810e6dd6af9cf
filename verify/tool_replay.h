/* tool_replay.h - a tool's work done again as its manifest records it ("made", convert/record.h), up to the plan: for
 * verify --provenance. Linked into moegraft-verify only. */
#ifndef MG_VERIFY_TOOL_REPLAY_H
#define MG_VERIFY_TOOL_REPLAY_H

#include "convert/provenance.h"
#include "convert/tool_plan.h"

typedef struct mg_tool_replay {
    const mg_provenance *p;    /* inputs are open; it has `made` */
    const char *const *places; /* [n_places] files, and folders that hold them */
    size_t n_places;
    const char *work; /* folder for what stages find out, made when it is not there; removed when all is done. NULL:
                         beside the manifest */
    const mg_common *common; /* threads, memory, progress */
} mg_tool_replay;

/* The path of the file that option `name` was given (its first one), found by its sha256; NULL: the option was not
 * given. Arena string of p. MG_ERR_INTEGRITY: a file of the name is another one now; MG_ERR_IO: none is there. */
mg_status mg_tool_replay_file(const mg_tool_replay *o, const char *option, const char **path,
                              mg_error *err) MG_MUST_CHECK;
/* All files found as above, small files beside inputs compared, then the tool's own work; its plan goes to sink. A run
 * that was interrupted goes on with what is in the work folder. MG_ERR_UNSUPPORTED: a tool or a version that is not
 * known here. */
mg_status mg_tool_replay_run(const mg_tool_replay *o, const mg_tool_sink *sink, mg_error *err) MG_MUST_CHECK;

#endif
