/* report_html.h - what the files that write the page of verify share. Everything goes to an open stream; numbers come
 * from the JSON result. */
#ifndef MG_VERIFY_REPORT_HTML_H
#define MG_VERIFY_REPORT_HTML_H

#include "formats/base/json.h"

#include <stdio.h>

#define MG_PLOT_W    460 /* narrow enough that labels stay readable on a phone */
#define MG_PLOT_H    150
#define MG_PLOT_LEFT 68 /* room for the axis labels */

/* Everything up to the heading, and what closes the page. */
void mg_html_begin(FILE *f, const char *title);
/* The same in two, with room between them for rules of the page's own. */
void mg_html_head(FILE *f, const char *title);
void mg_html_body(FILE *f, const char *title);
void mg_html_end(FILE *f);
/* Close a memory stream; on failure *out is freed and MG_ERR_LIMIT. size: what the stream counts into. */
mg_status mg_text_finish(FILE *f, char **out, const size_t *size, mg_error *err) MG_MUST_CHECK;
/* s inside a Markdown table: no bar may end the cell. NULL is empty. */
void mg_markdown_text(FILE *f, const char *s);
/* s with what HTML and XML reserve written as entities and control characters as \x1f; NULL is empty. */
void mg_html_escaped(FILE *f, const char *s);
/* The number at a path of v; NaN when it is not there. */
double mg_html_num(const mg_json *v, const char *path);
/* What stands before divergences of candidate c: nothing, or the sign of a lower bound. */
const char *mg_html_at_least(const mg_json *c);
/* Over which ids a candidate was compared where the reference has more or fewer, between two texts; nothing at all
 * where it has as many. */
void mg_vocabulary_note(FILE *f, const mg_json *candidate, const char *before, const char *after);
/* Where a candidate gave a logit that is not finite, between two texts; false and nothing where it did not. */
bool mg_not_finite_note(FILE *f, const mg_json *candidate, const char *before, const char *after);
/* A table cell with so many significant digits, a dash for NaN. */
void mg_html_cell(FILE *f, double x, int digits);
/* Begin a plot: the vertical axis from 0 to top, labels at both ends of the horizontal one. The caller ends the svg. */
void mg_html_axes(FILE *f, const char *title, double top, const char *x0, const char *x1);

/* The table of all candidates, smallest first, and for more than one of them mean KL against size. floor may be NULL.
 */
mg_status mg_html_summary(FILE *f, const mg_json *candidates, const mg_json *floor, mg_error *err) MG_MUST_CHECK;

/* The same with a logarithmic vertical axis from low, 8 units above the bottom, to high, 8 below the top. */
void mg_html_log_axes(FILE *f, const char *title, double low, double high, const char *x0, const char *x1);

/* Sections of one candidate; nothing is written where the result has none. */
void mg_html_histogram(FILE *f, const mg_json *histogram);
void mg_html_figures(FILE *f, const mg_json *candidate);
void mg_html_classes(FILE *f, const mg_json *classes);
void mg_html_worst(FILE *f, const mg_json *worst);
void mg_html_flips(FILE *f, const mg_json *routing);
void mg_html_tensor_plot(FILE *f, const mg_json *tensors);
void mg_html_attribution(FILE *f, const mg_json *attribution);

#endif
