/* report_sections.c - the parts of the page about single tokens, routers' close decisions and single weights. */
#include "verify/report_html.h"

#include <math.h>
#include <string.h>

#define MAX_PARTS 12u

void mg_vocabulary_note(FILE *f, const mg_json *candidate, const char *before, const char *after) {
    const mg_json *v = mg_json_get(candidate, "vocabulary");
    const double ids = mg_html_num(v, "compared"), a = mg_html_num(v, "reference"), b = mg_html_num(v, "candidate");
    const double cut = mg_html_num(v, "positions_cut");
    const bool differ = !isnan(ids) && !isnan(a) && !isnan(b) && a != b;
    if (!differ && !(cut > 0)) return;
    fputs(before, f);
    if (differ) fprintf(f, "ids 0 to %.0f compared, the reference has %.0f, this one %.0f", ids - 1, a, b);
    if (cut > 0)
        fprintf(f, "%sat %.0f positions ids from %.0f on are listed and left out", differ ? "; " : "", cut, ids);
    fputs(after, f);
}

bool mg_not_finite_note(FILE *f, const mg_json *candidate, const char *before, const char *after) {
    const double window = mg_html_num(candidate, "not_finite.window");
    if (isnan(window)) return false;
    fprintf(f, "%swindow %.0f, position %.0f: a logit is not finite%s", before, window,
            mg_html_num(candidate, "not_finite.position"), after);
    return true;
}

void mg_html_histogram(FILE *f, const mg_json *h) {
    const mg_json *counts = mg_json_get(h, "counts"), *edges = mg_json_get(h, "edges");
    const size_t n = mg_json_len(counts);
    double top = 0, edge = 0, x = 0;
    for (const mg_json *v = mg_json_first(counts); v; v = mg_json_next(v))
        if (mg_json_f64(v, &x) && x > top) top = x;
    if (n == 0 || !(top > 0)) return;
    const double w = (double)MG_PLOT_W / (double)n;
    size_t i = 0;
    fputs("<div><h3>Positions by KL, nats</h3>", f);
    mg_html_axes(f, "positions by divergence", top, "0", "");
    const mg_json *e = mg_json_first(edges);
    for (const mg_json *v = mg_json_first(counts); v; v = mg_json_next(v), i++) {
        const double at = MG_PLOT_LEFT + (double)i * w;
        const bool labelled = mg_json_f64(e, &edge) && i % 3 == 2;
        if (labelled)
            fprintf(f, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%g</text>", at + w, MG_PLOT_H + 17, edge);
        if (e) e = mg_json_next(e);
        if (!mg_json_f64(v, &x) || !(x > 0)) continue;
        fprintf(f, "<rect class=\"a\" x=\"%.1f\" y=\"%.2f\" width=\"%.1f\" height=\"%.2f\"><title>%.0f</title></rect>",
                at + 1, MG_PLOT_H - x / top * (MG_PLOT_H - 8), w - 2, x / top * (MG_PLOT_H - 8), x);
    }
    fputs("</svg></div>", f);
}

/* How KL and the change of probability are spread over the positions. */
static void spread_table(FILE *f, const mg_json *c) {
    static const struct {
        const char *title, *name;
    } points[] = {{"smallest", "min"}, {"0.1 %", "p001"},    {"1 %", "p01"},    {"5 %", "p05"},  {"10 %", "p10"},
                  {"25 %", "p25"},     {"median", "median"}, {"75 %", "p75"},   {"90 %", "p90"}, {"95 %", "p95"},
                  {"99 %", "p99"},     {"99.9 %", "p999"},   {"largest", "max"}};
    fputs("<div><h3>Spread over the positions</h3><table><tr><th>percentile</th><th>KL, nats</th><th>Δp</th></tr>", f);
    for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
        fprintf(f, "<tr><td>%s</td>", points[i].title);
        mg_html_cell(f, mg_html_num(mg_json_get(c, "kl"), points[i].name), 4);
        mg_html_cell(f, mg_html_num(mg_json_get(c, "delta_p"), points[i].name), 4);
        fputs("</tr>", f);
    }
    fputs("</table></div>", f);
}

/* What is said of all positions together, with errors. */
static void paired_table(FILE *f, const mg_json *c) {
    static const struct {
        const char *title, *path, *error;
    } figures[] = {{"perplexity", "ppl.candidate", "ppl.candidate_stderr"},
                   {"ratio to the reference's", "ppl.ratio", "ppl.ratio_stderr"},
                   {"difference from it", "ppl.difference", "ppl.difference_stderr"},
                   {"correlation of ln p", "ppl.correlation", NULL},
                   {"mean Δp", "delta_p.mean", "delta_p.mean_stderr"},
                   {"rms Δp", "delta_p.rms", "delta_p.rms_stderr"},
                   {"same top token", "top1_agreement", "top1_stderr"},
                   {"of the top five", "top5_agreement", NULL},
                   {"logits: cosine", "logits.cosine", NULL},
                   {"rms of the difference", "logits.rms", NULL},
                   {"largest difference", "logits.max_abs", NULL}};
    fputs("<div><h3>Paired figures</h3><table><tr><th>figure</th><th>value</th><th>±</th></tr>", f);
    for (size_t i = 0; i < sizeof figures / sizeof *figures; i++) {
        fprintf(f, "<tr><td>%s</td>", figures[i].title);
        mg_html_cell(f, mg_html_num(c, figures[i].path), 7);
        mg_html_cell(f, figures[i].error ? mg_html_num(c, figures[i].error) : (double)NAN, 2);
        fputs("</tr>", f);
    }
    fputs("</table></div>", f);
}

void mg_html_figures(FILE *f, const mg_json *c) {
    if (!mg_json_get(c, "kl")) return;
    fputs("<div class=\"plots tables\">", f);
    spread_table(f, c);
    paired_table(f, c);
    fputs(
        "</div><p class=\"dim\">Δp: difference of the probability of the token that follows, 0 to 1. Errors of paired "
        "figures are those of differences position by position.</p>",
        f);
}

void mg_html_classes(FILE *f, const mg_json *classes) {
    if (mg_json_len(classes) == 0) return;
    fputs("<h3>By kind of token</h3><div class=\"scroll\"><table><tr><th>next token</th><th>positions</th><th>mean "
          "KL</th>"
          "<th>top-1</th><th>perplexity</th><th>of the reference</th></tr>",
          f);
    for (const mg_json *c = mg_json_first(classes); c; c = mg_json_next(c)) {
        fputs("<tr><td>", f);
        mg_html_escaped(f, mg_json_str(mg_json_get(c, "class")));
        fputs("</td>", f);
        mg_html_cell(f, mg_html_num(c, "tokens"), 12);
        mg_html_cell(f, mg_html_num(c, "kl"), 4);
        mg_html_cell(f, mg_html_num(c, "top1_agreement"), 5);
        mg_html_cell(f, mg_html_num(c, "ppl_candidate"), 5);
        mg_html_cell(f, mg_html_num(c, "ppl_reference"), 5);
        fputs("</tr>", f);
    }
    fputs("</table></div>", f);
}

/* A token's text, or its id where there is no tokenizer. */
static void token(FILE *f, const mg_json *w, const char *text, const char *id) {
    const char *s = mg_json_str(mg_json_get(w, text));
    fputs("<td class=\"left\"><code>", f);
    if (s)
        mg_html_escaped(f, s);
    else
        fprintf(f, "%.0f", mg_html_num(w, id));
    fputs("</code></td>", f);
}

void mg_html_worst(FILE *f, const mg_json *worst) {
    if (mg_json_len(worst) == 0 || !(mg_html_num(mg_json_first(worst), "kl") > 0)) return;
    fputs("<h3>Where they differ most</h3><div class=\"scroll\"><table class=\"text\"><tr><th>context</th><th "
          "class=\"left\">"
          "next</th><th class=\"left\">reference says</th><th class=\"left\">candidate says</th><th>KL</th><th>p</th>"
          "<th>p of the reference</th></tr>",
          f);
    for (const mg_json *w = mg_json_first(worst); w; w = mg_json_next(w)) {
        const char *context = mg_json_str(mg_json_get(w, "context"));
        fputs("<tr><td>", f);
        if (context)
            mg_html_escaped(f, context);
        else
            fprintf(f, "window %.0f, position %.0f", mg_html_num(w, "window"), mg_html_num(w, "position"));
        fputs("</td>", f);
        token(f, w, "text", "token");
        token(f, w, "top_reference_text", "top_reference");
        token(f, w, "top_candidate_text", "top_candidate");
        mg_html_cell(f, mg_html_num(w, "kl"), 4);
        mg_html_cell(f, mg_html_num(w, "p_candidate"), 3);
        mg_html_cell(f, mg_html_num(w, "p_reference"), 3);
        fputs("</tr>", f);
    }
    fputs("</table></div>", f);
}

/* All layers together: where the reference's choice was clear, nothing should change. */
void mg_html_flips(FILE *f, const mg_json *routing) {
    const mg_json *ranges = mg_json_get(mg_json_first(routing), "flips");
    if (mg_json_len(ranges) == 0) return;
    fputs(
        "<h3>Changed choices of experts by how close they were</h3><div class=\"scroll\"><table><tr><th>margin of the "
        "reference's router logits</th><th>choices</th><th>changed</th><th>%</th></tr>",
        f);
    double from = 0;
    for (size_t i = 0; i < mg_json_len(ranges); i++) {
        double tokens = 0, flips = 0, to = NAN;
        for (const mg_json *l = mg_json_first(routing); l; l = mg_json_next(l)) {
            const mg_json *r = mg_json_first(mg_json_get(l, "flips"));
            for (size_t k = 0; r && k < i; k++) r = mg_json_next(r);
            tokens += mg_html_num(r, "tokens");
            flips += mg_html_num(r, "flips");
            to = mg_html_num(r, "margin_below");
        }
        fprintf(f, isnan(to) ? "<tr><td>%g and more</td>" : "<tr><td>%g to %g</td>", from, to);
        mg_html_cell(f, tokens, 12);
        mg_html_cell(f, flips, 12);
        mg_html_cell(f, tokens > 0 ? 100 * flips / tokens : NAN, 3);
        fputs("</tr>", f);
        from = to;
    }
    fputs("</table></div>", f);
}

void mg_html_tensor_plot(FILE *f, const mg_json *tensors) {
    double top = 0, bits = 0;
    for (const mg_json *t = mg_json_first(tensors); t; t = mg_json_next(t)) {
        top = fmax(top, mg_html_num(t, "error")); /* fmax leaves a NaN out */
        bits = fmax(bits, mg_html_num(t, "bpw"));
    }
    if (!(top > 0) || !(bits > 0)) return;
    char last[32];
    snprintf(last, sizeof last, "%g bits per weight", bits);
    fputs("<div><h3>Error of every weight against its bits</h3>", f);
    mg_html_axes(f, "relative error by bits per weight", top, "0", last);
    for (const mg_json *t = mg_json_first(tensors); t; t = mg_json_next(t)) {
        const double e = mg_html_num(t, "error"), b = mg_html_num(t, "bpw");
        bool bad = false;
        if (isnan(e) || isnan(b)) continue;
        bad = mg_json_bool(mg_json_get(t, "damaged"), &bad) && bad;
        fprintf(f, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\"><title>", bad ? "bad" : "a",
                MG_PLOT_LEFT + b / bits * (MG_PLOT_W - 6), MG_PLOT_H - e / top * (MG_PLOT_H - 8));
        mg_html_escaped(f, mg_json_str(mg_json_get(t, "name")));
        fprintf(f, ": %.4g</title></circle>", e);
    }
    fputs("</svg></div>", f);
}

void mg_html_attribution(FILE *f, const mg_json *a) {
    const mg_json *p = mg_json_first(mg_json_get(a, "parts"));
    const double top = mg_html_num(p, "kl.mean");
    if (!(top > 0)) return;
    fputs(
        "<h3>Drift with one part exchanged at a time</h3><div class=\"scroll\"><table><tr><th>part</th><th>mean KL</th>"
        "<th>±</th><th></th></tr>",
        f);
    for (unsigned n = 0; p && n < MAX_PARTS; p = mg_json_next(p), n++) {
        fputs("<tr><td><code>", f);
        mg_html_escaped(f, mg_json_str(mg_json_get(p, "name")));
        fputs("</code></td>", f);
        mg_html_cell(f, mg_html_num(p, "kl.mean"), 4);
        mg_html_cell(f, mg_html_num(p, "kl.stderr"), 2);
        fprintf(
            f,
            "<td><svg viewBox=\"0 0 160 10\" style=\"width:160px\" role=\"img\"><title>share</title><rect class=\"a\" "
            "width=\"%.1f\" height=\"10\"/></svg></td></tr>",
            160 * fmax(mg_html_num(p, "kl.mean"), 0) / top);
    }
    fputs("</table></div>", f);
}
