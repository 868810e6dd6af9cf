/* tool_card_sources.h - what a model card tells, gathered from the result, its recipe, its donors and the results of
 * other tools. Linked into tools only. */
#ifndef MG_VERIFY_TOOL_CARD_SOURCES_H
#define MG_VERIFY_TOOL_CARD_SOURCES_H

#include "formats/base/options.h"
#include "formats/checkpoint.h"
#include "verify/card.h"

typedef struct mg_tool_card_args {
    mg_opt_list pos, verify, bases, manifests;
    const char *recipe, *routing, *name, *licence, *licence_name, *licence_link;
} mg_tool_card_args;

/* c is zeroed by the caller and released in every case. */
mg_status mg_tool_card_gather(mg_card *c, const mg_tool_card_args *a, mg_error *err) MG_MUST_CHECK;
void mg_tool_card_release(mg_card *c);

/* ---- tool_card_donors.c ---- */

/* The recipe (given, PATH itself, or the copy in dir, which may be NULL) and its donors into c. */
mg_status mg_tool_card_recipe(mg_card *c, const mg_tool_card_args *a, const char *dir, mg_error *err) MG_MUST_CHECK;

#endif
