/* report_html.c - the result of verify as one self-contained page: inline SVG, no script, no network, light and dark.
 * Every number comes from the JSON, so the two cannot disagree. */
#include "verify/report.h"
#include "verify/report_html.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BOTTOM          24
#define LOAD_H          36
#define MAX_TENSOR_ROWS 40u /* damaged ones; of sound ones the first MIN_TENSOR_ROWS */
#define MIN_TENSOR_ROWS 10u

/* clang-format off */
static const char style[] =
    ":root{color-scheme:light dark;--fg:#1b1f24;--dim:#5b6472;--bg:#fff;--line:#ccd3dc;--a:#2b6cb0;--b:#c05621;"
    "--bad:#b00020;--ok:#18794e}"
    "@media(prefers-color-scheme:dark){:root{--fg:#e6e8eb;--dim:#9aa4b2;--bg:#14171a;--line:#39424e;--a:#63b3ed;"
    "--b:#f6ad55;--bad:#ff6b81;--ok:#4cc38a}}"
    "body{font:15px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);max-width:70rem;margin:2rem auto;"
    "padding:0 1rem;overflow-wrap:anywhere}"
    "h1{font-size:1.4rem}h3{font-size:1rem;margin-bottom:.3rem}"
    "h2{font-size:1.15rem;margin-top:2.5rem;border-top:1px solid var(--line);padding-top:1rem}"
    ".scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    "td,th{padding:.2rem .55rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}"
    "td:first-child,th:first-child{text-align:left;padding-left:0}.left{text-align:left}"
    "svg{display:block;max-width:100%;height:auto}.plot{width:33rem}.plots{display:flex;flex-wrap:wrap;gap:0 2rem}.tables{gap:0 5rem}text{fill:var(--dim);font-size:12px}"
    ".dim{color:var(--dim)}.pass{color:var(--ok);font-weight:600}.fail{color:var(--bad);font-weight:600}"
    ".a{fill:var(--a)}.bad{fill:var(--bad)}table.text td:first-child{white-space:normal;min-width:16rem}.b{fill:var(--b)}.key{font-weight:600}.ka{color:var(--a)}.kb{color:var(--b)}"
    "code{font-size:.93em}";
/* clang-format on */

void mg_html_escaped(FILE *f, const char *s) {
    for (; s && *s; s++) {
        if (*s == '<')
            fputs("&lt;", f);
        else if (*s == '>')
            fputs("&gt;", f);
        else if (*s == '&')
            fputs("&amp;", f);
        else if (*s == '"')
            fputs("&quot;", f);
        else if ((unsigned char)*s < 0x20)
            fprintf(f, "\\x%02x", (unsigned char)*s);
        else
            fputc(*s, f);
    }
}

void mg_html_head(FILE *f, const char *title) {
    fprintf(f,
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
            "content=\"width=device-width, initial-scale=1\">"
            "<title>%s</title><style>%s",
            title, style);
}

void mg_html_body(FILE *f, const char *title) {
    fprintf(f, "</style></head><body><h1>%s</h1>", title);
}

void mg_html_begin(FILE *f, const char *title) {
    mg_html_head(f, title);
    mg_html_body(f, title);
}

void mg_html_end(FILE *f) {
    fputs("</body></html>\n", f);
}

mg_status mg_text_finish(FILE *f, char **out, const size_t *size, mg_error *err) {
    bool ok = !ferror(f);
    ok = fclose(f) == 0 && ok;
    if (ok) return MG_OK;
    free(*out);
    *out = NULL;
    return mg_fail_nomem(err, *size);
}

double mg_html_num(const mg_json *v, const char *path) {
    double x;
    return mg_json_f64(mg_json_path(v, path), &x) ? x : NAN;
}

const char *mg_html_at_least(const mg_json *c) {
    const char *kind = mg_json_str(mg_json_path(c, "kl.kind"));
    return kind && !strcmp(kind, "lower_bound") ? "≥ " : "";
}

void mg_html_cell(FILE *f, double x, int digits) {
    if (isnan(x))
        fputs("<td>–</td>", f);
    else
        fprintf(f, "<td>%.*g</td>", digits, x);
}

/* ---- plots ---- */

static void frame(FILE *f, const char *title, const char *x0, const char *x1) {
    fprintf(f, "<svg class=\"plot\" viewBox=\"0 0 %d %d\" role=\"img\"><title>", MG_PLOT_LEFT + MG_PLOT_W + 8,
            MG_PLOT_H + BOTTOM);
    mg_html_escaped(f, title);
    fprintf(f, "</title><path d=\"M%d 4V%dH%d\" fill=\"none\" stroke=\"var(--line)\"/>", MG_PLOT_LEFT, MG_PLOT_H,
            MG_PLOT_LEFT + MG_PLOT_W);
    fprintf(f, "<text x=\"%d\" y=\"%d\">%s</text><text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>", MG_PLOT_LEFT,
            MG_PLOT_H + 17, x0, MG_PLOT_LEFT + MG_PLOT_W, MG_PLOT_H + 17, x1);
}

static void axis_label(FILE *f, int y, double x) {
    fprintf(f, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%.4g</text>", MG_PLOT_LEFT - 6, y, x);
}

void mg_html_axes(FILE *f, const char *title, double top, const char *x0, const char *x1) {
    frame(f, title, x0, x1);
    axis_label(f, 13, top);
    axis_label(f, MG_PLOT_H, 0);
}

void mg_html_log_axes(FILE *f, const char *title, double low, double high, const char *x0, const char *x1) {
    frame(f, title, x0, x1);
    axis_label(f, 13, high);
    axis_label(f, MG_PLOT_H - 4, low);
}

/* The largest of the numbers that path names in each element of list (NULL path: the elements themselves), and how many
 * elements at the beginning have none. */
static double largest(const mg_json *list, const char *path, size_t *empty) {
    double top = 0;
    bool seen = false;
    *empty = 0;
    for (const mg_json *v = mg_json_first(list); v; v = mg_json_next(v)) {
        double x = 0;
        seen = mg_json_f64(path ? mg_json_path(v, path) : v, &x) || seen;
        *empty += !seen;
        top = x > top ? x : top;
    }
    return top;
}

/* Those numbers as bars, or a sentence when all are 0. */
static void bars(FILE *f, const mg_json *list, const char *path, const char *title, const char *x0, const char *x1) {
    size_t n = mg_json_len(list), i = 0, empty;
    double top = largest(list, path, &empty), w = (double)MG_PLOT_W / (double)(n ? n : 1);
    double bar = fmin(w > 4 ? w - 1 : w * 0.8, 48);
    if (!(top > 0)) {
        fputs("<p class=\"dim\">No difference.</p>", f);
        return;
    }
    mg_html_axes(f, title, top, x0, x1);
    if (4 * empty >= n)
        fprintf(f, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">context, not scored</text>",
                MG_PLOT_LEFT + (double)empty * w / 2, MG_PLOT_H / 2);
    for (const mg_json *v = mg_json_first(list); v; v = mg_json_next(v), i++) {
        double x = 0;
        if (!mg_json_f64(path ? mg_json_path(v, path) : v, &x) || !(x > 0)) continue;
        double h = x / top * (MG_PLOT_H - 8);
        fprintf(
            f, "<rect class=\"a\" x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\"><title>%zu: %.6g</title></rect>",
            MG_PLOT_LEFT + (double)i * w + (w - bar) / 2, MG_PLOT_H - h, bar, h, i, x);
    }
    fputs("</svg>", f);
}

static void load_bar(FILE *f, char side, double x, double w, double share, double top, size_t expert) {
    fprintf(f,
            "<rect class=\"%c\" x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\"><title>%zu: "
            "%.4f</title></rect>",
            side, x, LOAD_H - (LOAD_H - 2) * share / top, w, (LOAD_H - 2) * share / top, expert, share);
}

/* Load of every expert, reference beside candidate, for one layer; the dashes are an even share. */
static void load_plot(FILE *f, const mg_json *layer) {
    const mg_json *a = mg_json_get(layer, "load_reference"), *b = mg_json_get(layer, "load_candidate");
    size_t n = mg_json_len(a), i = 0, unused;
    double top = fmax(largest(a, NULL, &unused), largest(b, NULL, &unused));
    if (n == 0 || mg_json_len(b) != n || !(top > 0)) return;
    double width = n * 4 > 200 ? 4 * (double)n : 200, w = width / (double)n,
           even = LOAD_H - (LOAD_H - 2) / (double)n / top;
    fprintf(f, "<svg viewBox=\"0 0 %.0f %d\" style=\"width:%.0fpx\" role=\"img\"><title>expert load</title>", width,
            LOAD_H + 1, width);
    for (const mg_json *x = mg_json_first(a), *y = mg_json_first(b); x && y;
         x = mg_json_next(x), y = mg_json_next(y), i++) {
        double p = 0, q = 0;
        if (!mg_json_f64(x, &p) || !mg_json_f64(y, &q)) continue;
        load_bar(f, 'a', (double)i * w, w * 0.42, p, top, i);
        load_bar(f, 'b', ((double)i + 0.45) * w, w * 0.42, q, top, i);
    }
    fprintf(f, "<path d=\"M0 %.2fH%.0f\" stroke=\"var(--dim)\" stroke-dasharray=\"3 3\"/></svg>", even, width);
}

/* ---- tables ---- */

static void routing_table(FILE *f, const mg_json *routing) {
    if (mg_json_len(routing) == 0) return;
    fputs("<h3>Routing</h3><p class=\"dim\">Load: each expert's share of all choices, <span class=\"key "
          "ka\">reference</span> beside <span class=\"key kb\">candidate</span>; the dashes are an even share.</p>"
          "<div class=\"scroll\"><table><tr><th>layer</th><th>same experts</th><th>same best</th><th>KL of "
          "weights</th><th class=\"left\">load</th></tr>",
          f);
    for (const mg_json *r = mg_json_first(routing); r; r = mg_json_next(r)) {
        fprintf(f, "<tr><td>%.0f</td>", mg_html_num(r, "layer"));
        mg_html_cell(f, mg_html_num(r, "set_agreement"), 5);
        mg_html_cell(f, mg_html_num(r, "top1_agreement"), 5);
        mg_html_cell(f, mg_html_num(r, "weight_kl"), 4);
        fputs("<td>", f);
        load_plot(f, r);
        fputs("</td></tr>", f);
    }
    fputs("</table></div>", f);
}

static void tensor_row(FILE *f, const mg_json *t, bool damaged) {
    static const char *const paths[] = {"bpw", "rmse", "snr_db", "error", "error_limit", "worst_block", "limit"};
    bool missing = false;
    fputs("<tr><td><code>", f);
    mg_html_escaped(f, mg_json_str(mg_json_get(t, "name")));
    fputs("</code></td><td class=\"left\">", f);
    mg_html_escaped(f, mg_json_str(mg_json_get(t, "type")));
    fputs("</td>", f);
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) mg_html_cell(f, mg_html_num(t, paths[i]), 4);
    fprintf(f, "<td>%.0f, %.0f</td>", mg_html_num(t, "worst_row"), mg_html_num(t, "worst_column"));
    if (mg_json_bool(mg_json_get(t, "missing"), &missing) && missing) damaged = true;
    const double changed = mg_html_num(t, "changed"), nearest = mg_html_num(t, "nearest_expert");
    if (nearest >= 0)
        fprintf(f, "<td class=\"left fail\">nearest to expert %.0f of the reference, error %.4g</td></tr>", nearest,
                mg_html_num(t, "nearest_error"));
    else if (changed > 0)
        fprintf(f, "<td class=\"left fail\">changed: %.0f, first at row %.0f, column %.0f</td></tr>", changed,
                mg_html_num(t, "changed_row"), mg_html_num(t, "changed_column"));
    else
        fprintf(f, "<td class=\"left fail\">%s</td></tr>", missing ? "missing" : damaged ? "damaged" : "");
}

static void padding_note(FILE *f, const mg_json *t) {
    fputs("<p class=\"dim\"><code>", f);
    mg_html_escaped(f, mg_json_str(mg_json_get(t, "name")));
    fprintf(f,
            "</code>: rows 0 to %.0f are compared, padding is left out: %.0f rows of the reference's, %.0f of this "
            "one's.</p>",
            mg_html_num(t, "compared_rows") - 1, mg_html_num(t, "padding_reference"),
            mg_html_num(t, "padding_candidate"));
}

static bool is_apart(const mg_json *t) {
    bool apart = false;
    return mg_json_bool(mg_json_get(t, "apart"), &apart) && apart;
}

static void tensor_table(FILE *f, const mg_json *tensors) {
    size_t compared = 0;
    if (mg_json_len(tensors) == 0) return;
    for (const mg_json *t = mg_json_first(tensors); t; t = mg_json_next(t)) {
        if (!isnan(mg_html_num(t, "compared_rows"))) padding_note(f, t);
        compared += !is_apart(t);
    }
    if (compared < mg_json_len(tensors))
        fprintf(f,
                "<p class=\"dim\">%zu weights of feed-forward blocks are not compared: dense in one model, a mixture "
                "in the "
                "other.</p>",
                mg_json_len(tensors) - compared);
    if (mg_html_num(mg_json_first(tensors), "worst_block") == 0) { /* the worst comes first; a missing one is damaged */
        bool bad = false;
        if (mg_json_bool(mg_json_get(mg_json_first(tensors), "damaged"), &bad) && !bad) {
            fprintf(f, "<h3>Weights</h3><p>All %zu are equal.</p>", compared);
            return;
        }
    }
    fputs("<h3>Weights</h3><p class=\"dim\">The most suspicious first. Error: rms of the difference over rms of the "
          "weight; worst block: the same over 32 weights. Above the limit of its type it is damage, not rounding.</p>"
          "<div class=\"scroll\"><table><tr><th>tensor</th><th "
          "class=\"left\">type</th><th>bits</th><th>rmse</th><th>SNR dB</th>"
          "<th>error</th><th>limit</th><th>worst block</th><th>limit</th><th>row, column</th><th></th></tr>",
          f);
    unsigned n = 0;
    for (const mg_json *t = mg_json_first(tensors); t && !is_apart(t) && n < MAX_TENSOR_ROWS; t = mg_json_next(t)) {
        bool bad = false;
        bad = mg_json_bool(mg_json_get(t, "damaged"), &bad) && bad;
        if (!bad && n >= MIN_TENSOR_ROWS) break;
        tensor_row(f, t, bad);
        n++;
    }
    fputs("</table></div>", f);
    if (compared > n) fprintf(f, "<p class=\"dim\">%zu more in the JSON.</p>", compared - n);
}

static void failed_list(FILE *f, const mg_json *failed) {
    if (mg_json_len(failed) == 0) return;
    fputs("<p class=\"fail\">Failed:", f);
    for (const mg_json *t = mg_json_first(failed); t; t = mg_json_next(t)) {
        fputs(" <code>", f);
        mg_html_escaped(f, mg_json_str(t));
        fputs("</code>", f);
    }
    fputs("</p>", f);
}

static void layer_plot(FILE *f, const mg_json *layers) {
    char last[32];
    if (mg_json_len(layers) == 0) return;
    snprintf(last, sizeof last, "layer %zu", mg_json_len(layers) - 1);
    fputs("<div><h3>Error of the residual stream after each layer, relative L2</h3>", f);
    bars(f, layers, "relative_l2", "relative L2 by layer", "layer 0", last);
    fputs("</div>", f);
}

static void candidate(FILE *f, const mg_json *c) {
    fputs("<h2>", f);
    mg_html_escaped(f, mg_json_str(mg_json_get(c, "path")));
    fputs("</h2>", f);
    failed_list(f, mg_json_get(c, "failed"));
    mg_not_finite_note(f, c, "<p class=\"fail\">No figures: ", ".</p>");
    mg_vocabulary_note(f, c, "<p class=\"dim\">Vocabulary: ", ".</p>");
    if (mg_json_get(c, "kl")) {
        fputs("<div class=\"plots\"><div><h3>Mean KL by position in the window, nats</h3>", f);
        bars(f, mg_json_path(c, "kl.by_position"), NULL, "mean KL by position", "start", "end");
        fputs("</div>", f);
        mg_html_histogram(f, mg_json_path(c, "kl.histogram"));
        layer_plot(f, mg_json_get(c, "layers"));
        mg_html_tensor_plot(f, mg_json_get(c, "tensors"));
        fputs("</div>", f);
    }
    mg_html_figures(f, c);
    mg_html_attribution(f, mg_json_get(c, "attribution"));
    mg_html_classes(f, mg_json_get(c, "classes"));
    mg_html_worst(f, mg_json_get(c, "worst"));
    routing_table(f, mg_json_get(c, "routing"));
    mg_html_flips(f, mg_json_get(c, "routing"));
    tensor_table(f, mg_json_get(c, "tensors"));
}

mg_status mg_report_html(char **out, size_t *size, const mg_report *r, const mg_json *json, mg_error *err) {
    const mg_json *list = mg_json_get(json, "candidates");
    *out = NULL;
    FILE *f = open_memstream(out, size);
    if (!f) return mg_fail_nomem(err, 1);
    mg_html_begin(f, "moegraft verify");
    fputs("<p>Reference <code>", f);
    mg_html_escaped(f, r->reference);
    fputs("</code>", f);
    if (r->tokens) {
        fprintf(f, ", %llu scored positions of ", (unsigned long long)r->tokens);
        mg_html_escaped(f, r->text_name);
        fprintf(f, " <span class=\"dim\">(sha256 %s)</span>", r->text_sha256);
        double ppl = NAN; /* a candidate whose logits are not finite does not have it */
        for (const mg_json *c = mg_json_first(list); c && isnan(ppl); c = mg_json_next(c))
            ppl = mg_html_num(c, "ppl.reference");
        if (!isnan(ppl)) fprintf(f, ", perplexity of the reference %.6g", ppl);
    }
    fputs(".</p>", f);
    mg_status st = mg_html_summary(f, list, mg_json_get(json, "floor"), err);
    for (const mg_json *c = mg_json_first(list); c; c = mg_json_next(c)) candidate(f, c);
    mg_html_end(f);
    if (st == MG_OK) return mg_text_finish(f, out, size, err);
    fclose(f);
    free(*out);
    *out = NULL;
    return st;
}
