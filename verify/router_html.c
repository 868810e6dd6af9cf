/* router_html.c - the report about routers as one self-contained page, in the manner of report_html.c. */
#include "verify/report_html.h"
#include "verify/route_view.h"
#include "verify/router_report.h"

#include <math.h>

#define LABELLED 0.1

static void expert_heads(FILE *f, uint32_t n) {
    for (uint32_t e = 0; e < n; e++) {
        char name[MG_EXPERT_NAME];
        mg_expert_name(e, name);
        fprintf(f, "<th>%s</th>", name);
    }
}

/* Cells of a list of shares of 1, shaded by their size. */
static void shaded(FILE *f, const mg_json *list) {
    for (const mg_json *v = mg_json_first(list); v; v = mg_json_next(v)) {
        double x;
        if (!mg_json_f64(v, &x))
            fputs("<td>–</td>", f);
        else
            fprintf(f, "<td style=\"background:rgba(99,150,237,%.3f)\">%.3f</td>", fmin(fmax(x, 0), 1) * 0.8, x);
    }
}

static void share(FILE *f, double x) {
    if (isnan(x))
        fputs("<td>–</td>", f);
    else
        fprintf(f, "<td>%.1f&nbsp;%%</td>", 100 * x);
}

static void sets_table(FILE *f, const mg_json *m, uint32_t experts) {
    if (mg_json_len(mg_json_get(m, "sets")) == 0) return;
    fputs("<h3>Texts</h3><p class=\"dim\">Chosen: share of the text's tokens whose experts include the one it is meant "
          "for "
          "(for a negative text: do not include it), best: that give it the largest weight; means over the layers, as "
          "are the "
          "weights.</p><div class=\"scroll\"><table><tr><th>text</th><th>tokens</th><th class=\"left\">meant "
          "for</th><th>chosen</th>"
          "<th>best</th>",
          f);
    expert_heads(f, experts);
    fputs("</tr>", f);
    for (const mg_json *v = mg_json_first(mg_json_get(m, "sets")); v; v = mg_json_next(v)) {
        bool negative = false;
        negative = mg_json_bool(mg_json_get(v, "negative"), &negative) && negative;
        fputs("<tr><td>", f);
        mg_html_escaped(f, mg_json_str(mg_json_get(v, "name")));
        fprintf(f, "</td><td>%.0f</td><td class=\"left\">", mg_html_num(v, "tokens"));
        if (isnan(mg_html_num(v, "intended"))) {
            fputs("–", f);
        } else {
            char name[MG_EXPERT_NAME];
            mg_expert_name((uint32_t)mg_html_num(v, "intended"), name);
            fprintf(f, "%s%s", negative ? "not " : "", name);
        }
        fputs("</td>", f);
        share(f, mg_html_num(v, "chosen"));
        share(f, mg_html_num(v, "best"));
        shaded(f, mg_json_get(v, "weight"));
        fputs("</tr>", f);
    }
    fputs("</table></div>", f);
}

static void layers_table(FILE *f, const mg_json *m, uint32_t experts) {
    fputs("<h3>Layers</h3><p class=\"dim\">Load: share of all choices. Entropy of the router's probabilities, 1 = it "
          "prefers "
          "nobody. Balance and z loss as in training. Dropped: choices that would not fit experts with room for 1, "
          "1.25 and "
          "2 even shares.</p><div class=\"scroll\"><table><tr><th>layer</th>",
          f);
    expert_heads(f, experts);
    fputs("<th>entropy</th><th>balance</th><th>z loss</th><th>dropped</th><th></th><th></th><th>condition</th></tr>",
          f);
    for (const mg_json *l = mg_json_first(mg_json_get(m, "layers")); l; l = mg_json_next(l)) {
        fprintf(f, "<tr><td>%.0f</td>", mg_html_num(l, "layer"));
        shaded(f, mg_json_path(l, "all.load"));
        mg_html_cell(f, mg_html_num(l, "all.entropy"), 4);
        mg_html_cell(f, mg_html_num(l, "balance_loss"), 5);
        mg_html_cell(f, mg_html_num(l, "z_loss"), 4);
        for (const mg_json *d = mg_json_first(mg_json_get(l, "dropped")); d; d = mg_json_next(d))
            share(f, mg_html_num(d, "share"));
        mg_html_cell(f, mg_html_num(l, "condition"), 4);
        fputs("</tr>", f);
    }
    fputs("</table></div>", f);
}

/* Mean weight of every set by layer: a line for each expert. */
static void weight_plots(FILE *f, const mg_json *m, uint32_t experts) {
    const mg_json *layers = mg_json_get(m, "layers");
    const size_t n = mg_json_len(layers);
    size_t set = 0;
    if (n < 2) return;
    fputs("<h3>Mean weight by layer</h3><div class=\"plots\">", f);
    for (const mg_json *v = mg_json_first(mg_json_get(m, "sets")); v; v = mg_json_next(v), set++) {
        char last[32];
        snprintf(last, sizeof last, "layer %.0f", mg_html_num(mg_json_first(layers), "layer") + (double)n - 1);
        fputs("<div><p>", f);
        mg_html_escaped(f, mg_json_str(mg_json_get(v, "name")));
        fputs("</p>", f);
        mg_html_axes(f, "mean weight of every expert by layer", 1, "first", last);
        for (uint32_t e = 0; e < experts; e++) {
            char name[MG_EXPERT_NAME];
            size_t i = 0;
            double y = 0;
            mg_expert_name(e, name);
            fprintf(f, "<polyline fill=\"none\" stroke=\"hsl(%u,60%%,50%%)\" stroke-width=\"2\" points=\"",
                    (unsigned)(e * 137.508) % 360);
            for (const mg_json *l = mg_json_first(layers); l; l = mg_json_next(l), i++) {
                const mg_json *s = mg_json_first(mg_json_get(l, "sets"));
                for (size_t k = 0; s && k < set; k++) s = mg_json_next(s);
                const mg_json *w = mg_json_first(mg_json_get(s, "weight"));
                for (uint32_t k = 0; w && k < e; k++) w = mg_json_next(w);
                if (!mg_json_f64(w, &y)) continue;
                fprintf(f, "%.1f,%.1f ", MG_PLOT_LEFT + (double)i / (double)(n - 1) * (MG_PLOT_W - 16),
                        MG_PLOT_H - y * (MG_PLOT_H - 8));
            }
            fprintf(f, "\"><title>%s</title></polyline>", name);
            if (y < LABELLED) continue; /* at the bottom they would lie over each other */
            fprintf(f, "<text x=\"%d\" y=\"%.1f\">%s</text>", MG_PLOT_LEFT + MG_PLOT_W - 12,
                    MG_PLOT_H - y * (MG_PLOT_H - 8) + 4, name);
        }
        fputs("</svg></div>", f);
    }
    fputs("</div>", f);
}

/* Cosines of the router's rows, one small table for each layer. */
static void cosine_tables(FILE *f, const mg_json *m, uint32_t experts) {
    fputs("<h3>Cosines of the routers' rows</h3><div class=\"plots\">", f);
    for (const mg_json *l = mg_json_first(mg_json_get(m, "layers")); l; l = mg_json_next(l)) {
        uint32_t i = 0;
        fprintf(f, "<div class=\"scroll\"><table><tr><th>layer %.0f</th>", mg_html_num(l, "layer"));
        expert_heads(f, experts);
        fputs("</tr>", f);
        for (const mg_json *r = mg_json_first(mg_json_get(l, "cosines")); r; r = mg_json_next(r), i++) {
            char name[MG_EXPERT_NAME];
            mg_expert_name(i, name);
            fprintf(f, "<tr><td>%s</td>", name);
            shaded(f, r);
            fputs("</tr>", f);
        }
        fputs("</table></div>", f);
    }
    fputs("</div>", f);
}

static void model(FILE *f, const mg_json *m) {
    const uint32_t experts = (uint32_t)mg_html_num(m, "experts");
    fputs("<h2>", f);
    mg_html_escaped(f, mg_json_str(mg_json_get(m, "path")));
    fprintf(f, "</h2><p>%.0f tokens, %.0f of %.0f experts each; balance loss %.4f (%.0f when all is even).</p>",
            mg_html_num(m, "tokens"), mg_html_num(m, "experts_per_token"), mg_html_num(m, "experts"),
            mg_html_num(m, "balance_loss"), mg_html_num(m, "experts_per_token"));
    for (const mg_json *w = mg_json_first(mg_json_get(m, "warnings")); w; w = mg_json_next(w)) {
        fputs("<p class=\"fail\">", f);
        mg_html_escaped(f, mg_json_str(w));
        fputs("</p>", f);
    }
    sets_table(f, m, experts);
    layers_table(f, m, experts);
    weight_plots(f, m, experts);
    cosine_tables(f, m, experts);
}

mg_status mg_router_report_html(char **out, size_t *size, const mg_json *root, mg_error *err) {
    FILE *f = open_memstream(out, size);
    if (!f) return mg_fail_nomem(err, 1);
    mg_html_begin(f, "moegraft: routers");
    for (const mg_json *m = mg_json_first(mg_json_get(root, "models")); m; m = mg_json_next(m)) model(f, m);
    mg_html_end(f);
    return mg_text_finish(f, out, size, err);
}
