/* report_html.c - the result of verify as one self-contained page: inline SVG, no script, no network, light and dark.
 * Every number comes from the JSON, so the two cannot disagree. */
#include "verify/report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PLOT_W          640
#define PLOT_H          180
#define LEFT            64 /* room for the axis labels */
#define BOTTOM          24
#define MAX_TENSOR_ROWS 40u

static const char style[] =
    ":root{color-scheme:light "
    "dark;--fg:#1b1f24;--dim:#667;--bg:#fff;--line:#ccd;--a:#2b6cb0;--b:#c05621;--bad:#b00020;--ok:#18794e}"
    "@media(prefers-color-scheme:dark){:root{--fg:#e6e8eb;--dim:#99a;--bg:#14171a;--line:#39424e;--a:#63b3ed;--b:#"
    "f6ad55;--bad:#ff6b81;--ok:#4cc38a}}"
    "body{font:15px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);max-width:60rem;margin:2rem "
    "auto;padding:0 1rem}"
    "h1{font-size:1.4rem}h2{font-size:1.15rem;margin-top:2.5rem;border-top:1px solid "
    "var(--line);padding-top:1rem;overflow-wrap:anywhere}h3{font-size:1rem}"
    ".scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    "td,th{padding:.2rem .6rem;border-bottom:1px solid "
    "var(--line);text-align:right;white-space:nowrap}td:first-child,th:first-child{text-align:left}"
    "svg{max-width:100%;height:auto;display:block}text{fill:var(--dim);font-size:11px}.dim{color:var(--dim)}.pass{"
    "color:var(--ok)}.fail{color:var(--bad)}"
    "code{overflow-wrap:anywhere}";

static void escaped(FILE *f, const char *s) {
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

/* A number of the JSON; NaN when it is not there (then nothing is drawn). */
static double num(const mg_json *v, const char *path) {
    double x;
    return mg_json_f64(mg_json_path(v, path), &x) ? x : NAN;
}

static void value(FILE *f, double x) {
    if (isnan(x))
        fputs("–", f);
    else
        fprintf(f, "%.6g", x);
}

static void cell(FILE *f, double x) {
    fputs("<td>", f);
    value(f, x);
    fputs("</td>", f);
}

/* ---- plots ---- */

static void axes(FILE *f, const char *title, double top, const char *x0, const char *x1) {
    fprintf(f, "<svg viewBox=\"0 0 %d %d\" role=\"img\"><title>", LEFT + PLOT_W + 8, PLOT_H + BOTTOM + 8);
    escaped(f, title);
    fprintf(f, "</title><path d=\"M%d 4V%dH%d\" fill=\"none\" stroke=\"var(--line)\"/>", LEFT, PLOT_H, LEFT + PLOT_W);
    fprintf(
        f,
        "<text x=\"%d\" y=\"12\" text-anchor=\"end\">%.3g</text><text x=\"%d\" y=\"%d\" text-anchor=\"end\">0</text>",
        LEFT - 6, top, LEFT - 6, PLOT_H);
    fprintf(f, "<text x=\"%d\" y=\"%d\">%s</text><text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>", LEFT,
            PLOT_H + 16, x0, LEFT + PLOT_W, PLOT_H + 16, x1);
}

/* Bars of the numbers that path names in each element of list (NULL path: the elements themselves). */
static void bars(FILE *f, const mg_json *list, const char *path, const char *title, const char *x0, const char *x1) {
    double top = 0;
    size_t n = mg_json_len(list), i = 0;
    for (const mg_json *v = mg_json_first(list); v; v = mg_json_next(v)) {
        double x = 0;
        if (mg_json_f64(path ? mg_json_path(v, path) : v, &x) && x > top) top = x;
    }
    if (n == 0) return;
    axes(f, title, top, x0, x1);
    double w = (double)PLOT_W / (double)n;
    for (const mg_json *v = mg_json_first(list); v; v = mg_json_next(v), i++) {
        double x = 0;
        if (!mg_json_f64(path ? mg_json_path(v, path) : v, &x) || !(x > 0)) continue;
        double h = x / top * (PLOT_H - 8);
        fprintf(f,
                "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" fill=\"var(--a)\"><title>%zu: "
                "%.6g</title></rect>",
                LEFT + (double)i * w + 0.5, PLOT_H - h, w > 2 ? w - 1 : w, h, i, x);
    }
    fputs("</svg>", f);
}

/* Load of every expert, reference beside candidate, for one layer. */
static void load_plot(FILE *f, const mg_json *layer) {
    const mg_json *a = mg_json_get(layer, "load_reference"), *b = mg_json_get(layer, "load_candidate");
    size_t n = mg_json_len(a), i = 0;
    if (n == 0 || mg_json_len(b) != n) return;
    double w = 200.0 / (double)n;
    fputs("<svg viewBox=\"0 0 216 84\" style=\"width:216px\" role=\"img\"><title>expert load</title><path d=\"M8 "
          "72H208\" stroke=\"var(--line)\"/>",
          f);
    for (const mg_json *x = mg_json_first(a), *y = mg_json_first(b); x && y;
         x = mg_json_next(x), y = mg_json_next(y), i++) {
        double p = 0, q = 0;
        if (!mg_json_f64(x, &p) || !mg_json_f64(y, &q)) continue;
        fprintf(f,
                "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" fill=\"var(--a)\"><title>expert %zu, "
                "reference: %.4f</title></rect>",
                8 + (double)i * w, 72 - 68 * p, w * 0.42, 68 * p, i, p);
        fprintf(f,
                "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" fill=\"var(--b)\"><title>expert %zu, "
                "candidate: %.4f</title></rect>",
                8 + ((double)i + 0.45) * w, 72 - 68 * q, w * 0.42, 68 * q, i, q);
    }
    fputs("</svg>", f);
}

/* ---- tables ---- */

static void summary_table(FILE *f, const mg_json *list) {
    fputs("<div class=\"scroll\"><table><tr><th>candidate</th><th>mean KL</th><th>± </th><th>p99 KL</th><th>max "
          "KL</th><th>top-1</th>"
          "<th>perplexity</th><th>reference</th><th>ratio</th><th>rms Δp</th><th>verdict</th></tr>",
          f);
    for (const mg_json *c = mg_json_first(list); c; c = mg_json_next(c)) {
        static const char *const paths[] = {"kl.mean",       "kl.stderr",      "kl.p99",
                                            "kl.max",        "top1_agreement", "ppl.candidate",
                                            "ppl.reference", "ppl.ratio",      "delta_p.rms"};
        const char *verdict = mg_json_str(mg_json_get(c, "verdict"));
        fputs("<tr><td>", f);
        escaped(f, mg_json_str(mg_json_get(c, "path")));
        fputs("</td>", f);
        for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) cell(f, num(c, paths[i]));
        fprintf(f, "<td class=\"%s\">%s</td></tr>", verdict ? verdict : "", verdict ? verdict : "–");
    }
    fputs("</table></div>", f);
}

static void routing_table(FILE *f, const mg_json *routing) {
    if (mg_json_len(routing) == 0) return;
    fputs("<h3>Routing</h3><p class=\"dim\">Share of (token, slot) pairs per expert: left bar the reference, right bar "
          "the candidate.</p>"
          "<div class=\"scroll\"><table><tr><th>layer</th><th>same experts</th><th>same best</th><th>KL of "
          "weights</th><th>load</th></tr>",
          f);
    for (const mg_json *r = mg_json_first(routing); r; r = mg_json_next(r)) {
        fprintf(f, "<tr><td>%.0f</td>", num(r, "layer"));
        cell(f, num(r, "set_agreement"));
        cell(f, num(r, "top1_agreement"));
        cell(f, num(r, "weight_kl"));
        fputs("<td>", f);
        load_plot(f, r);
        fputs("</td></tr>", f);
    }
    fputs("</table></div>", f);
}

static void tensor_table(FILE *f, const mg_json *tensors) {
    if (mg_json_len(tensors) == 0) return;
    fputs("<h3>Weights</h3><p class=\"dim\">The most suspicious first. A worst block above the limit of its type is "
          "damage, not rounding.</p>"
          "<div class=\"scroll\"><table><tr><th>tensor</th><th>type</th><th>bits</th><th>rmse</th><th>SNR "
          "dB</th><th>error</th><th>limit</th><th>worst block</th><th>limit</th><th></th></tr>",
          f);
    unsigned n = 0;
    for (const mg_json *t = mg_json_first(tensors); t && n < MAX_TENSOR_ROWS; t = mg_json_next(t), n++) {
        static const char *const paths[] = {"bpw", "rmse", "snr_db", "error", "error_limit", "worst_block", "limit"};
        bool bad = false;
        fputs("<tr><td><code>", f);
        escaped(f, mg_json_str(mg_json_get(t, "name")));
        fputs("</code></td><td>", f);
        escaped(f, mg_json_str(mg_json_get(t, "type")));
        fputs("</td>", f);
        for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) cell(f, num(t, paths[i]));
        bool found = mg_json_bool(mg_json_get(t, "damaged"), &bad) && bad;
        fprintf(f, "<td class=\"fail\">%s</td></tr>", found ? "damaged" : "");
    }
    fputs("</table></div>", f);
    if (mg_json_len(tensors) > MAX_TENSOR_ROWS)
        fprintf(f, "<p class=\"dim\">%zu more in the JSON.</p>", mg_json_len(tensors) - MAX_TENSOR_ROWS);
}

static void failed_list(FILE *f, const mg_json *failed) {
    if (mg_json_len(failed) == 0) return;
    fputs("<p class=\"fail\">Failed:", f);
    for (const mg_json *t = mg_json_first(failed); t; t = mg_json_next(t)) {
        fputs(" <code>", f);
        escaped(f, mg_json_str(t));
        fputs("</code>", f);
    }
    fputs("</p>", f);
}

static void candidate(FILE *f, const mg_json *c) {
    fputs("<h2>", f);
    escaped(f, mg_json_str(mg_json_get(c, "path")));
    fputs("</h2>", f);
    failed_list(f, mg_json_get(c, "failed"));
    if (mg_json_get(c, "kl")) {
        fputs("<h3>KL by position in the window</h3>", f);
        bars(f, mg_json_path(c, "kl.by_position"), NULL, "mean KL by position", "start of the window", "end");
        if (mg_json_len(mg_json_get(c, "layers"))) {
            fputs("<h3>Relative error of the residual stream by layer</h3>", f);
            bars(f, mg_json_get(c, "layers"), "relative_l2", "relative L2 by layer", "first layer", "last layer");
        }
    }
    routing_table(f, mg_json_get(c, "routing"));
    tensor_table(f, mg_json_get(c, "tensors"));
}

mg_status mg_report_html(char **out, size_t *size, const mg_report *r, const mg_json *json, mg_error *err) {
    *out = NULL;
    FILE *f = open_memstream(out, size);
    if (!f) return mg_fail_nomem(err, 1);
    fprintf(f,
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
            "content=\"width=device-width\">"
            "<title>moegraft verify</title><style>%s</style></head><body><h1>moegraft verify</h1><p>Reference <code>",
            style);
    escaped(f, r->reference);
    fputs("</code>", f);
    if (r->tokens) {
        fprintf(f, ", %llu scored positions of ", (unsigned long long)r->tokens);
        escaped(f, r->text_name);
        fprintf(f, " <span class=\"dim\">(sha256 %s)</span>", r->text_sha256);
    }
    fputs(".</p>", f);
    const mg_json *list = mg_json_get(json, "candidates");
    summary_table(f, list);
    for (const mg_json *c = mg_json_first(list); c; c = mg_json_next(c)) candidate(f, c);
    fputs("</body></html>\n", f);
    bool ok = !ferror(f);
    ok = fclose(f) == 0 && ok;
    if (ok) return MG_OK;
    free(*out);
    *out = NULL;
    return mg_fail_nomem(err, *size);
}
