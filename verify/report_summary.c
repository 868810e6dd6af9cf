/* report_summary.c - what the page of verify begins with: all candidates beside each other, smallest first. */
#include "verify/pareto.h"
#include "verify/report_html.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Figures of the table of candidates. */
static const struct {
    const char *title, *path;
    int digits;
} columns[] = {{"bits", "bpw", 4},
               {"mean KL", "kl.mean", 4},
               {"±", "kl.stderr", 2},
               {"p99", "kl.p99", 4},
               {"max", "kl.max", 4},
               {"top-1", "top1_agreement", 5},
               {"perplexity", "ppl.candidate", 6},
               {"ratio", "ppl.ratio", 6}};
#define N_COLUMNS (sizeof columns / sizeof *columns)

/* One row of the table of candidates; sizes are only said beside each other. */
static void summary_row(FILE *f, const mg_json *c, bool sizes) {
    const char *verdict = mg_json_str(mg_json_get(c, "verdict"));
    bool pareto = false;
    fputs("<tr><td>", f);
    mg_html_escaped(f, mg_json_str(mg_json_get(c, "path")));
    fprintf(f, "</td><td class=\"left %s\">%s</td>", verdict ? verdict : "dim", verdict ? verdict : "–");
    mg_html_cell(f, mg_html_num(c, "bytes") * 1e-6, 5);
    if (sizes) fprintf(f, "<td>%s</td>", mg_json_bool(mg_json_get(c, "pareto"), &pareto) && pareto ? "*" : "");
    for (size_t i = 0; i < N_COLUMNS; i++) {
        const double x = mg_html_num(c, columns[i].path);
        if (isnan(x) || strncmp(columns[i].path, "kl.", 3) || !strcmp(columns[i].path, "kl.stderr"))
            mg_html_cell(f, x, columns[i].digits);
        else
            fprintf(f, "<td>%s%.*g</td>", mg_html_at_least(c), columns[i].digits, x);
    }
    fputs("</tr>", f);
}

/* Smallest first. */
static void summary_table(FILE *f, const mg_json *const *by_size, size_t n, const mg_json *floor) {
    const bool sizes = n > 1;
    fprintf(f, "<div class=\"scroll\"><table><tr><th>candidate</th><th class=\"left\">verdict</th><th>MB</th>%s",
            sizes ? "<th>front</th>" : "");
    for (size_t i = 0; i < N_COLUMNS; i++) fprintf(f, "<th>%s</th>", columns[i].title);
    fputs("</tr>", f);
    for (size_t i = 0; i < n; i++) summary_row(f, by_size[i], sizes);
    if (floor) {
        fprintf(f, "<tr class=\"dim\"><td>noise floor (%s)</td><td class=\"left\">–</td><td>–</td>%s",
                mg_json_str(mg_json_get(floor, "precision")), sizes ? "<td></td>" : "");
        for (size_t i = 0; i < N_COLUMNS; i++) mg_html_cell(f, mg_html_num(floor, columns[i].path), columns[i].digits);
        fputs("</tr>", f);
    }
    fputs("</table></div><p class=\"dim\">KL (mean to max) in nats per scored position; top-1: share of positions with "
          "the same most likely token.",
          f);
    if (sizes) fputs(" Smallest first; * no other is both smaller and closer.", f);
    fputs(floor ? " Noise floor: the reference against itself in that arithmetic.</p>" : "</p>", f);
}

/* Both axes of a point's place; KL by its logarithm, because candidates are orders of magnitude apart. */
static void size_plot(FILE *f, const mg_json *const *list, size_t n) {
    double most = 0, low = INFINITY, high = 0;
    for (size_t i = 0; i < n; i++) {
        const double kl = mg_html_num(list[i], "kl.mean"), bytes = mg_html_num(list[i], "bytes");
        if (!(kl > 0) || isnan(bytes)) continue; /* what is equal has no place on a logarithmic axis */
        most = fmax(most, bytes);
        low = fmin(low, kl);
        high = fmax(high, kl);
    }
    if (n < 2 || !(most > 0) || !(high > low)) return;
    char last[32];
    snprintf(last, sizeof last, "%.4g MB", most * 1e-6);
    fputs("<h3>Mean KL against size, logarithmic</h3>", f);
    mg_html_log_axes(f, "mean KL by size", low, high, "0", last);
    for (size_t i = 0; i < n; i++) {
        const double kl = mg_html_num(list[i], "kl.mean"), bytes = mg_html_num(list[i], "bytes");
        bool pareto = false;
        if (!(kl > 0) || isnan(bytes)) continue;
        pareto = mg_json_bool(mg_json_get(list[i], "pareto"), &pareto) && pareto;
        fprintf(f, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"4\"><title>", pareto ? "a" : "b",
                MG_PLOT_LEFT + bytes / most * (MG_PLOT_W - 6),
                MG_PLOT_H - 8 - log(kl / low) / log(high / low) * (MG_PLOT_H - 16));
        mg_html_escaped(f, mg_json_str(mg_json_get(list[i], "path")));
        fprintf(f, ": %.5g MB, %.4g</title></circle>", bytes * 1e-6, kl);
    }
    fputs("</svg><p class=\"dim\"><span class=\"key ka\">On the front</span>, <span class=\"key kb\">beaten in both "
          "size and mean KL</span>.</p>",
          f);
}

/* The candidates of list, smallest first; the caller's to free. */
static mg_status sort_by_size(const mg_json ***out, const mg_json *list, mg_error *err) {
    const size_t n = mg_json_len(list);
    size_t i = 0;
    mg_ranked *rank = calloc(n + 1, sizeof *rank);
    const mg_json **given = calloc(2 * n + 1, sizeof *given), **sorted = given + n;
    if (!rank || !given) {
        free(rank);
        free(given);
        return mg_fail_nomem(err, n * sizeof *rank);
    }
    for (const mg_json *c = mg_json_first(list); c; c = mg_json_next(c), i++) {
        given[i] = c;
        rank[i] = (mg_ranked){.figure = mg_html_num(c, "kl.mean"), .index = (uint32_t)i};
        rank[i].unsized = !mg_json_u64(mg_json_get(c, "bytes"), &rank[i].bytes);
    }
    mg_rank(rank, (uint32_t)n);
    for (i = 0; i < n; i++) sorted[i] = given[rank[i].index];
    memmove(given, sorted, n * sizeof *given);
    free(rank);
    *out = given;
    return MG_OK;
}

mg_status mg_html_summary(FILE *f, const mg_json *list, const mg_json *floor, mg_error *err) {
    const mg_json **by_size = NULL;
    MG_TRY(sort_by_size(&by_size, list, err));
    summary_table(f, by_size, mg_json_len(list), floor);
    size_plot(f, by_size, mg_json_len(list));
    free(by_size);
    return MG_OK;
}
