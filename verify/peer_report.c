/* peer_report.c - the result of verify --peer as JSON, as a page, and as a Markdown table. */
#include "verify/peer.h"
#include "verify/report_html.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- JSON ---- */

static mg_json *peer_json(const mg_peer *p) {
    const mg_recorded *r = p->source.recorded;
    mg_json *o = mg_json_new_object();
    mg_json_set_str(o, "path", p->source.path);
    mg_json_set(o, "recorded", r ? mg_json_new_str(mg_recorded_kind_name(mg_recorded_kind(r))) : mg_json_new_null());
    mg_json_set(o, "bytes", r ? mg_json_new_null() : mg_json_new_u64(p->bytes));
    mg_json_set_f64(o, "bpw", p->n_weights ? 8 * (double)p->bytes / (double)p->n_weights : (double)NAN);
    mg_json_set(o, "vocabulary", p->rows ? mg_json_new_u64(p->rows) : mg_json_new_null());
    mg_json_set_f64(o, "ppl", p->ppl);
    mg_json_set_f64(o, "ppl_stderr", p->ppl_stderr);
    mg_json_set_bool(o, "pareto", p->pareto);
    return o;
}

static mg_json *kl_json(const mg_drift_summary *s) {
    mg_json *o = mg_json_new_object();
    mg_json_set_str(o, "kind", mg_kl_kind_name(s->kl_kind));
    mg_json_set_f64(o, "mean", s->kl.mean);
    mg_json_set_f64(o, "mean_upper", s->kl_upper);
    mg_json_set_f64(o, "stderr", s->kl.stderr_);
    mg_spread_json(o, &s->kl.kl);
    return o;
}

static mg_json *pair_json(const mg_peers *p, const mg_peer_pair *k) {
    const mg_drift_summary *s = &k->of_ab;
    mg_json *o = mg_json_new_object(), *ppl = mg_json_new_object();
    mg_json_set_str(o, "a", p->peers[k->a].source.path);
    mg_json_set_str(o, "b", p->peers[k->b].source.path);
    mg_json_set(o, "kl_ab", kl_json(s));
    mg_json_set(o, "kl_ba", kl_json(&k->of_ba));
    mg_json_set_f64(ppl, "a", s->ppl_reference);
    mg_json_set_f64(ppl, "b", s->ppl_candidate);
    mg_json_set_f64(ppl, "ratio", s->ppl_candidate / s->ppl_reference);
    mg_json_set_f64(ppl, "ln_ratio", s->kl.ln_ratio);
    mg_json_set_f64(ppl, "ln_ratio_stderr", s->kl.ln_ratio_stderr);
    mg_json_set(o, "ppl", ppl);
    mg_json_set_f64(o, "top1_agreement", s->kl.same_top);
    mg_json_set_f64(o, "top1_stderr", s->kl.same_top_stderr);
    mg_json_set_f64(o, "top5_agreement", s->top5);
    return o;
}

mg_status mg_peers_json(mg_json **out, const mg_peers *p, const mg_peer_text *text, mg_error *err) {
    mg_json *o = mg_json_new_object(), *peers = mg_json_new_array(), *pairs = mg_json_new_array();
    mg_json_set_i64(o, "schema", 1);
    mg_json_set_str(o, "text", text->name);
    mg_json_set_str(o, "text_sha256", text->sha256);
    mg_json_set_u64(o, "tokens", text->tokens);
    mg_json_set(o, "vocabulary_compared", p->ids ? mg_json_new_u64(p->ids) : mg_json_new_null());
    for (uint32_t i = 0; i < p->n; i++) mg_json_push(peers, peer_json(&p->peers[i]));
    for (uint32_t i = 0; i < p->n_pairs; i++) mg_json_push(pairs, pair_json(p, &p->pairs[i]));
    mg_json_set(o, "peers", peers);
    mg_json_set(o, "pairs", pairs);
    *out = o;
    return o ? MG_OK : mg_fail_nomem(err, sizeof(void *));
}

void mg_peers_vocabulary_note(FILE *f, const mg_json *json, const char *before, const char *after) {
    double low = INFINITY, high = 0;
    for (const mg_json *p = mg_json_first(mg_json_get(json, "peers")); p; p = mg_json_next(p)) {
        low = fmin(low, mg_html_num(p, "vocabulary")); /* fmin leaves a NaN out */
        high = fmax(high, mg_html_num(p, "vocabulary"));
    }
    if (!(low < high)) return;
    fprintf(f, "%sids 0 to %.0f compared, the models have %.0f to %.0f%s", before,
            mg_html_num(json, "vocabulary_compared") - 1, low, high, after);
}

/* ---- the page ---- */

static const char *base_name(const char *path) {
    const char *slash = path ? strrchr(path, '/') : NULL;
    return slash && slash[1] ? slash + 1 : path;
}

static const char *name_of(const mg_json *v, const char *key) {
    return base_name(mg_json_str(mg_json_get(v, key)));
}

static void peer_table(FILE *f, const mg_json *peers) {
    fputs(
        "<div class=\"scroll\"><table><tr><th>model</th><th></th><th>MB</th><th>bits</th><th>perplexity</th><th>±</th>"
        "</tr>",
        f);
    for (const mg_json *p = mg_json_first(peers); p; p = mg_json_next(p)) {
        bool pareto = false;
        fputs("<tr><td>", f);
        mg_html_escaped(f, mg_json_str(mg_json_get(p, "path")));
        fprintf(f, "</td><td>%s</td>", mg_json_bool(mg_json_get(p, "pareto"), &pareto) && pareto ? "*" : "");
        mg_html_cell(f, mg_html_num(p, "bytes") * 1e-6, 5);
        mg_html_cell(f, mg_html_num(p, "bpw"), 4);
        mg_html_cell(f, mg_html_num(p, "ppl"), 6);
        mg_html_cell(f, mg_html_num(p, "ppl_stderr"), 2);
        fputs("</tr>", f);
    }
    fputs("</table></div><p class=\"dim\">* no other one is both smaller and lower in perplexity.</p>", f);
}

/* The pair of two peers by number, and whether it is the other way round. Pairs come in the order of peer.h. */
static const mg_json *pair_of(const mg_json *pairs, size_t n, size_t a, size_t b) {
    const size_t lo = a < b ? a : b, hi = a < b ? b : a;
    size_t at = lo * n - lo * (lo + 1) / 2 + (hi - lo - 1);
    const mg_json *p = mg_json_first(pairs);
    while (p && at--) p = mg_json_next(p);
    return p;
}

static void head_row(FILE *f, const mg_json *peers, const char *corner) {
    fprintf(f, "<div class=\"scroll\"><table><tr><th>%s</th>", corner);
    for (const mg_json *p = mg_json_first(peers); p; p = mg_json_next(p)) {
        fputs("<th>", f);
        mg_html_escaped(f, name_of(p, "path"));
        fputs("</th>", f);
    }
    fputs("</tr>", f);
}

/* KL of row and column, darker where it is larger. */
static void kl_matrix(FILE *f, const mg_json *peers, const mg_json *pairs) {
    const size_t n = mg_json_len(peers);
    double top = 0;
    for (const mg_json *p = mg_json_first(pairs); p; p = mg_json_next(p))
        top = fmax(top, fmax(mg_html_num(p, "kl_ab.mean"), mg_html_num(p, "kl_ba.mean")));
    fputs("<h2>Mean KL, nats: of the row's predictions from the column's</h2>", f);
    head_row(f, peers, "KL(row ‖ column)");
    size_t r = 0;
    for (const mg_json *p = mg_json_first(peers); p; p = mg_json_next(p), r++) {
        fputs("<tr><td>", f);
        mg_html_escaped(f, name_of(p, "path"));
        fputs("</td>", f);
        for (size_t c = 0; c < n; c++) {
            const mg_json *k = r == c ? NULL : mg_json_get(pair_of(pairs, n, r, c), r < c ? "kl_ab" : "kl_ba");
            const double x = mg_html_num(k, "mean");
            const char *kind = mg_json_str(mg_json_get(k, "kind"));
            if (isnan(x))
                fputs("<td>–</td>", f);
            else
                fprintf(f, "<td style=\"background:rgba(192,86,33,%.2f)\">%s%.4g</td>", top > 0 ? 0.5 * x / top : 0,
                        kind && !strcmp(kind, "lower_bound") ? "≥ " : "", x);
        }
        fputs("</tr>", f);
    }
    fputs("</table></div>", f);
}

static void pair_table(FILE *f, const mg_json *pairs) {
    fputs("<h2>Pairs</h2><div class=\"scroll\"><table><tr><th>a</th><th class=\"left\">b</th><th>perplexity b/a</th>"
          "<th>ln ratio</th><th>±</th><th>top-1</th><th>±</th><th>top-5</th><th>p99 KL a‖b</th><th>max</th></tr>",
          f);
    static const struct {
        const char *path;
        int digits;
    } columns[] = {{"ppl.ratio", 6},   {"ppl.ln_ratio", 4},   {"ppl.ln_ratio_stderr", 2}, {"top1_agreement", 5},
                   {"top1_stderr", 2}, {"top5_agreement", 5}, {"kl_ab.p99", 4},           {"kl_ab.max", 4}};
    for (const mg_json *p = mg_json_first(pairs); p; p = mg_json_next(p)) {
        fputs("<tr><td>", f);
        mg_html_escaped(f, name_of(p, "a"));
        fputs("</td><td class=\"left\">", f);
        mg_html_escaped(f, name_of(p, "b"));
        fputs("</td>", f);
        for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
            mg_html_cell(f, mg_html_num(p, columns[i].path), columns[i].digits);
        fputs("</tr>", f);
    }
    fputs(
        "</table></div><p class=\"dim\">Ratios are paired by position: their errors are far smaller than those of the "
        "perplexities. top-1: share of positions with the same most likely token.</p>",
        f);
}

mg_status mg_peers_html(char **out, size_t *size, const mg_json *json, mg_error *err) {
    FILE *f = open_memstream(out, size);
    if (!f) return mg_fail_nomem(err, 1);
    const mg_json *peers = mg_json_get(json, "peers"), *pairs = mg_json_get(json, "pairs");
    mg_html_begin(f, "moegraft verify --peer");
    fprintf(f, "<p>%zu models beside each other, %.0f scored positions of ", mg_json_len(peers),
            mg_html_num(json, "tokens"));
    mg_html_escaped(f, mg_json_str(mg_json_get(json, "text")));
    fprintf(f, " <span class=\"dim\">(sha256 %s)</span>.</p>", mg_json_str(mg_json_get(json, "text_sha256")));
    mg_peers_vocabulary_note(f, json, "<p>Vocabulary: ", ".</p>");
    peer_table(f, peers);
    kl_matrix(f, peers, pairs);
    pair_table(f, pairs);
    mg_html_end(f);
    return mg_text_finish(f, out, size, err);
}

/* ---- the table ---- */

mg_status mg_peers_markdown(char **out, size_t *size, const mg_json *json, mg_error *err) {
    FILE *f = open_memstream(out, size);
    if (!f) return mg_fail_nomem(err, 1);
    fputs("| a | b | KL(a‖b) | KL(b‖a) | perplexity a | perplexity b | ln ratio | ± | same top token |\n"
          "|---|---|---:|---:|---:|---:|---:|---:|---:|\n",
          f);
    for (const mg_json *p = mg_json_first(mg_json_get(json, "pairs")); p; p = mg_json_next(p)) {
        fputs("| ", f);
        mg_markdown_text(f, name_of(p, "a"));
        fputs(" | ", f);
        mg_markdown_text(f, name_of(p, "b"));
        for (unsigned way = 0; way < 2; way++) {
            const mg_json *k = mg_json_get(p, way ? "kl_ba" : "kl_ab");
            const char *kind = mg_json_str(mg_json_get(k, "kind"));
            fprintf(f, " | %s%.4g", kind && !strcmp(kind, "lower_bound") ? "≥ " : "", mg_html_num(k, "mean"));
        }
        fprintf(f, " | %.6g | %.6g | %.4g | %.2g | %.5g %% |\n", mg_html_num(p, "ppl.a"), mg_html_num(p, "ppl.b"),
                mg_html_num(p, "ppl.ln_ratio"), mg_html_num(p, "ppl.ln_ratio_stderr"),
                100 * mg_html_num(p, "top1_agreement"));
    }
    fprintf(f, "\n%.0f positions of ", mg_html_num(json, "tokens"));
    mg_markdown_text(f, mg_json_str(mg_json_get(json, "text")));
    fprintf(f, " (sha256 %s), measured with `moegraft verify --peer`.\n",
            mg_json_str(mg_json_get(json, "text_sha256")));
    mg_peers_vocabulary_note(f, json, "\nVocabulary: ", ".\n");
    return mg_text_finish(f, out, size, err);
}
