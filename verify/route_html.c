/* route_html.c - see route_html.h. */
#include "verify/route_html.h"

#include <stdlib.h>

#include "verify/report_html.h"

#define COLOURS    48u /* then they repeat */
#define MANY       16u /* from here on loads are a picture instead of a table */
#define MAX_TITLES 8192u
#define CELL       14u /* pixels of that picture */

static void name_of(FILE *f, uint32_t expert) {
    char name[MG_EXPERT_NAME];
    mg_expert_name(expert, name);
    fputs(name, f);
}

/* Hues by the golden angle, so that neighbours differ however many there are. */
static void colours(FILE *f, uint32_t experts) {
    fputs(".t{white-space:pre-wrap;line-height:1.9;font-family:ui-monospace,monospace}.t i{font-style:normal;"
          "border-radius:3px;padding:.1rem 0}pre{overflow-x:auto;font-size:12px}",
          f);
    for (uint32_t e = 0; e < experts && e < COLOURS; e++)
        fprintf(f, ".e%u{background:hsla(%u,70%%,50%%,.35)}", e, (unsigned)(e * 137.508) % 360);
}

/* Something written by fn with what HTML reserves written as entities. */
static mg_status escaped(FILE *f, const mg_route_view *v, uint64_t token, mg_error *err) {
    char *text = NULL;
    size_t n = 0;
    FILE *m = open_memstream(&text, &n);
    if (!m) return mg_fail_nomem(err, 1);
    if (token == UINT64_MAX)
        mg_route_view_tokens(v, m);
    else
        mg_route_view_token(v, m, token);
    MG_TRY(mg_text_finish(m, &text, &n, err));
    for (char *line = text, *end; line; line = end) { /* control characters are escapes already, but for line ends */
        end = NULL;
        for (char *p = line; *p; p++)
            if (*p == '\n') {
                *p = 0;
                end = p + 1;
                break;
            }
        mg_html_escaped(f, line);
        if (end) fputc('\n', f);
    }
    free(text);
    return MG_OK;
}

static void legend(FILE *f, const mg_routes *r) {
    fputs("<p>", f);
    for (uint32_t e = 0; e < r->experts; e++) {
        fprintf(f, "<span class=\"e%u\">&nbsp;", e % COLOURS);
        name_of(f, e);
        fprintf(f, "&nbsp;</span> %.4g&nbsp;%% ", 100 * r->majority_share[e]);
    }
    fputs("</p>", f);
}

/* The text, each token in the colour of its majority; the tip lists the best expert of every layer. */
static mg_status text(FILE *f, const mg_route_view *v, mg_error *err) {
    const mg_routes *r = v->routes;
    const uint64_t n = r->n < MG_ROUTE_HTML_TOKENS ? r->n : MG_ROUTE_HTML_TOKENS;
    fputs("<div class=\"t\">", f);
    for (uint64_t i = 0; i < n; i++) {
        if (v->hide && v->hide[i]) continue;
        fprintf(f, "<i class=\"e%u\" title=\"", r->majority[i] % COLOURS);
        for (uint32_t l = 0; l < r->n_layers; l++) {
            if (l) fputc(' ', f);
            name_of(f, r->layers[l].expert[i * r->k]);
        }
        fputs("\">", f);
        MG_TRY(escaped(f, v, i, err));
        fputs(mg_route_view_ends_line(v, i) ? "</i><br>" : "</i>", f);
    }
    fputs("</div>", f);
    if (n < r->n) fprintf(f, "<p class=\"dim\">%llu more tokens in the JSON.</p>", (unsigned long long)(r->n - n));
    return MG_OK;
}

static void load_table(FILE *f, const mg_routes *r) {
    fputs("<div class=\"scroll\"><table><tr><th>layer</th>", f);
    for (uint32_t e = 0; e < r->experts; e++) {
        fputs("<th>", f);
        name_of(f, e);
        fputs("</th>", f);
    }
    fputs("</tr>", f);
    for (uint32_t l = 0; l < r->n_layers; l++) {
        fprintf(f, "<tr><td>%u</td>", r->layers[l].layer);
        for (uint32_t e = 0; e < r->experts; e++)
            fprintf(f, "<td style=\"background:rgba(43,108,176,%.2f)\">%.4g</td>", r->layers[l].load[e] * 0.8,
                    100 * r->layers[l].load[e]);
        fputs("</tr>", f);
    }
    fputs("</table></div>", f);
}

/* Layers downwards, experts across; darkest is the largest load. */
static void load_picture(FILE *f, const mg_routes *r) {
    const bool titles = (uint64_t)r->experts * r->n_layers <= MAX_TITLES;
    double top = 0;
    for (uint32_t l = 0; l < r->n_layers; l++)
        for (uint32_t e = 0; e < r->experts; e++) top = r->layers[l].load[e] > top ? r->layers[l].load[e] : top;
    const unsigned w = r->experts * CELL, h = r->n_layers * CELL;
    fprintf(f,
            "<div class=\"scroll\"><svg viewBox=\"0 0 %u %u\" style=\"width:%upx;max-width:none\" role=\"img\"><title>"
            "load of every expert by layer</title>",
            w, h, w);
    for (uint32_t l = 0; l < r->n_layers; l++)
        for (uint32_t e = 0; e < r->experts; e++) {
            const double x = r->layers[l].load[e];
            if (!(x > 0)) continue;
            fprintf(f, "<rect class=\"a\" x=\"%u\" y=\"%u\" width=\"%u\" height=\"%u\" opacity=\"%.2f\"", e * CELL,
                    l * CELL, CELL - 1, CELL - 1, x / top);
            if (titles) fprintf(f, "><title>layer %u, %u: %.4g %%</title></rect>", r->layers[l].layer, e, 100 * x);
            if (!titles) fputs("/>", f);
        }
    fputs("</svg></div>", f);
}

static mg_status body(FILE *f, const mg_route_view *v, const char *path, mg_error *err) {
    const mg_routes *r = v->routes;
    mg_route_view part = *v;
    mg_routes first = *r;
    fputs("<p><code>", f);
    mg_html_escaped(f, path);
    fprintf(
        f,
        "</code>: %llu tokens, %u of %u experts each. Colours and shares: the expert that is best in most layers.</p>",
        (unsigned long long)r->counted, r->k, r->experts);
    legend(f, r);
    MG_TRY(text(f, v, err));
    fputs("<h2>Load of every layer</h2><p class=\"dim\">Share of the choices that fell on each expert, in percent.</p>",
          f);
    if (r->experts <= MANY)
        load_table(f, r);
    else
        load_picture(f, r);
    fputs("<h2>Every layer</h2><p class=\"dim\">Under each token the expert with the largest weight.</p><pre>", f);
    first.n = r->n < MG_ROUTE_HTML_LETTERS ? r->n : MG_ROUTE_HTML_LETTERS;
    part.routes = &first;
    part.colour = false;
    MG_TRY(escaped(f, &part, UINT64_MAX, err));
    fputs("</pre>", f);
    if (first.n < r->n) fprintf(f, "<p class=\"dim\">The first %llu tokens.</p>", (unsigned long long)first.n);
    return MG_OK;
}

mg_status mg_route_html(char **out, size_t *size, const mg_route_view *v, const char *path, mg_error *err) {
    FILE *f = open_memstream(out, size);
    if (!f) return mg_fail_nomem(err, 1);
    mg_html_head(f, "moegraft route");
    colours(f, v->routes->experts);
    mg_html_body(f, "moegraft route");
    mg_status st = body(f, v, path, err);
    mg_html_end(f);
    mg_status closed = mg_text_finish(f, out, size, err);
    if (st == MG_OK || closed != MG_OK) return closed;
    free(*out);
    *out = NULL;
    return st;
}
