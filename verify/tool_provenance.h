/* tool_provenance.h - verify --provenance: an output made again from its inputs. Linked into moegraft-verify only. */
#ifndef MG_VERIFY_TOOL_PROVENANCE_H
#define MG_VERIFY_TOOL_PROVENANCE_H

#include "formats/base/options.h"

typedef struct mg_tool_provenance {
    const char *manifest, *tensors, *imatrix, *work; /* the last three may be NULL */
    uint64_t sample;                                 /* 0: all */
    const mg_opt_list *paths; /* inputs, texts, recipes and other files that took part, or folders that hold them */
    const mg_common *common;
} mg_tool_provenance;

/* Print what was found. *failed: tensors whose bytes are not those that the manifest states. MG_ERR_INTEGRITY: the
 * output is as stated and an input has changed; MG_ERR_IO: an input is missing. */
mg_status mg_tool_provenance_run(const mg_tool_provenance *o, uint32_t *failed, mg_error *err) MG_MUST_CHECK;

#endif
