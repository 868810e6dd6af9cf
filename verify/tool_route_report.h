/* tool_route_report.h - moegraft-route --report: what the routers of models do with sets of text. */
#ifndef MG_VERIFY_TOOL_ROUTE_REPORT_H
#define MG_VERIFY_TOOL_ROUTE_REPORT_H

#include "formats/base/options.h"

typedef struct mg_route_report {
    const mg_common *c;
    const mg_opt_list *paths; /* of models, the original first */
    const char *recipe;       /* its prompts are sets, each meant for its expert; NULL */
    const mg_opt_list *sets;  /* "E=FILE" or "FILE", a prompt on each line */
    const char *html;         /* page to write, or NULL */
} mg_route_report;

/* Print the report (c->json: as JSON) and write the page. */
mg_status mg_tool_route_report(const mg_route_report *r, mg_error *err) MG_MUST_CHECK;

#endif
