/* tool_peer.h - verify --peer: models beside each other, printed or written. Linked into tools only. */
#ifndef MG_VERIFY_TOOL_PEER_H
#define MG_VERIFY_TOOL_PEER_H

#include "verify/tool_inputs.h"

typedef struct mg_tool_peer {
    const mg_tool_info *tool;
    const mg_opt_list *paths;
    const mg_common *common;
    const char *html, *markdown; /* files to write; NULL */
} mg_tool_peer;
mg_status mg_tool_peer_run(const mg_tool_peer *o, mg_error *err) MG_MUST_CHECK;

#endif
