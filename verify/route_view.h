/* route_view.h - routing for people: the text with the letter of an expert under each token, and the loads. */
#ifndef MG_VERIFY_ROUTE_VIEW_H
#define MG_VERIFY_ROUTE_VIEW_H

#include <stdio.h>

#include "formats/tokenizer.h"
#include "verify/routes.h"

#define MG_EXPERT_NAME 8

typedef struct mg_route_view {
    const mg_routes *routes;
    const mg_windows *windows;
    const mg_tokenizer *tok; /* NULL: ids are shown instead of text */
    const bool *hide;        /* [n] tokens that are not shown (NULL: none) */
    unsigned width;          /* columns; 0 = 100 */
    bool colour;
} mg_route_view;

/* "A" .. "Z", "AA", "AB" ... as spreadsheets name columns; returns the length. */
unsigned mg_expert_name(uint32_t expert, char buf[MG_EXPERT_NAME]);
/* Lines of text, each followed by one line per recorded layer and, for more than one, the majority. Characters that
 * could steer a terminal are shown as escapes. */
void mg_route_view_tokens(const mg_route_view *v, FILE *to);
/* The text of token i as it is shown; its columns. */
unsigned mg_route_view_token(const mg_route_view *v, FILE *to, uint64_t i);
/* Does a line of the text end with it? */
bool mg_route_view_ends_line(const mg_route_view *v, uint64_t i);
/* Load of every expert by layer, and how many tokens each wins. */
void mg_route_view_loads(const mg_route_view *v, FILE *to);

#endif
