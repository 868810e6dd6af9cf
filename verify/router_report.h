/* router_report.h - the figures of router_stats as JSON, and that as text or page, so that the three cannot disagree.
 */
#ifndef MG_VERIFY_ROUTER_REPORT_H
#define MG_VERIFY_ROUTER_REPORT_H

#include <stdio.h>

#include "formats/base/json.h"
#include "verify/router_stats.h"

/* {"path", "experts", ..., "layers":[...], "sets":[...], "warnings":[...]} of one model: docs/cli.md. NULL without
 * memory. */
mg_json *mg_router_report_model(const char *path, const mg_router_stats *s, const mg_router_set *sets);
/* root: {"models":[...]} of the above. */
void mg_router_report_text(FILE *to, const mg_json *root);
mg_status mg_router_report_html(char **out, size_t *size, const mg_json *root, mg_error *err) MG_MUST_CHECK;

#endif
