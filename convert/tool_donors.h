/* tool_donors.h - `check BASE DONOR... --merge`: what merging these would be like. Linked into the check tool. */
#ifndef MG_CONVERT_TOOL_DONORS_H
#define MG_CONVERT_TOOL_DONORS_H

#include "formats/base/json.h"
#include "formats/base/options.h"

/* paths[0] is the base. --text or --tokens, one per donor in their order, add perplexities and the predicted ceiling.
 * report (an object) is filled; text goes to stdout unless c->json. Donors that do not fit together: MG_ERR_CONFLICT.
 */
mg_status mg_tool_donors(const mg_opt_list *paths, const mg_common *c, mg_json *report, mg_error *err) MG_MUST_CHECK;

#endif
