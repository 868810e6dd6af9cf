/* route_html.h - routing as one self-contained page: the text coloured by expert, the loads of every layer, and every
 * layer's letters under the text. */
#ifndef MG_VERIFY_ROUTE_HTML_H
#define MG_VERIFY_ROUTE_HTML_H

#include "verify/route_view.h"

/* The page, malloc'ed. path: the model. Texts longer than MG_ROUTE_HTML_TOKENS are shown in part; loads count all. */
#define MG_ROUTE_HTML_TOKENS  4000u
#define MG_ROUTE_HTML_LETTERS 600u /* tokens shown with the letters of every layer */
mg_status mg_route_html(char **out, size_t *size, const mg_route_view *v, const char *path,
                        mg_error *err) MG_MUST_CHECK;

#endif
