/* report_files.c - the result of verify as JUnit XML for continuous integration, and as a Markdown table for model
 * cards. Both are made of the finished JSON. */
#include "verify/report.h"
#include "verify/report_html.h"

#include <string.h>

/* ---- JUnit ---- */

static const char *tensor_note(const mg_json *c) {
    const mg_json *t = mg_json_first(mg_json_get(c, "tensors"));
    bool bad = false;
    return t && mg_json_bool(mg_json_get(t, "damaged"), &bad) && bad ? mg_json_str(mg_json_get(t, "name")) : NULL;
}

/* "compared" is no rule of a verdict: it fails where no figure came of it. */
static bool has_failed(const mg_json *c, const char *rule) {
    if (strcmp(rule, "compared") == 0) rule = "not_finite";
    for (const mg_json *t = mg_json_first(mg_json_get(c, "failed")); t; t = mg_json_next(t))
        if (mg_json_str(t) && strcmp(mg_json_str(t), rule) == 0) return true;
    return false;
}

static void test_case(FILE *f, const mg_json *c, const char *rule) {
    const char *first = strcmp(rule, "weights") == 0 ? tensor_note(c) : NULL;
    fputs("    <testcase classname=\"", f);
    mg_html_escaped(f, mg_json_str(mg_json_get(c, "path")));
    fputs("\" name=\"", f);
    mg_html_escaped(f, rule);
    fputs("\"", f);
    if (has_failed(c, rule)) {
        fputs("><failure message=\"", f);
        mg_html_escaped(f, rule);
        if (first) fputs(": ", f);
        mg_html_escaped(f, first);
        if (mg_not_finite_note(f, c, ": ", "\"/></testcase>\n")) return;
        fprintf(f, "\">mean KL %.6g, perplexity ratio %.6g, same top token %.6g</failure></testcase>\n",
                mg_html_num(c, "kl.mean"), mg_html_num(c, "ppl.ratio"), mg_html_num(c, "top1_agreement"));
    } else {
        fputs("/>\n", f);
    }
}

mg_status mg_report_junit(char **out, size_t *size, const mg_json *json, const char *const *rules, size_t n,
                          mg_error *err) {
    *out = NULL;
    const mg_json *list = mg_json_get(json, "candidates");
    size_t failures = 0;
    for (const mg_json *c = mg_json_first(list); c; c = mg_json_next(c))
        failures += mg_json_len(mg_json_get(c, "failed"));
    FILE *f = open_memstream(out, size);
    if (!f) return mg_fail_nomem(err, 1);
    fputs("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n  <testsuite name=\"moegraft verify\" tests=\"",
          f);
    fprintf(f, "%zu\" failures=\"%zu\">\n", (n + 1) * mg_json_len(list), failures);
    for (const mg_json *c = mg_json_first(list); c; c = mg_json_next(c)) {
        test_case(f, c, "compared"); /* what was asked without a rule was done */
        for (size_t i = 0; i < n; i++) test_case(f, c, rules[i]);
    }
    fputs("  </testsuite>\n</testsuites>\n", f);
    return mg_text_finish(f, out, size, err);
}

/* ---- Markdown ---- */

void mg_markdown_text(FILE *f, const char *s) {
    for (; s && *s; s++) {
        if (*s == '|' || *s == '\\' || *s == '`') fputc('\\', f);
        fputc((unsigned char)*s < 0x20 ? ' ' : *s, f);
    }
}

static void md_number(FILE *f, const mg_json *c, const char *path, double scale, int digits, const char *unit) {
    const double x = mg_html_num(c, path);
    if (x == x)
        fprintf(f, " %s%.*g%s |", strncmp(path, "kl.", 3) ? "" : mg_html_at_least(c), digits, scale * x, unit);
    else
        fputs(" – |", f);
}

mg_status mg_report_markdown(char **out, size_t *size, const mg_json *json, mg_error *err) {
    *out = NULL;
    FILE *f = open_memstream(out, size);
    if (!f) return mg_fail_nomem(err, 1);
    fputs("| file | GB | bits | mean KL | p99 KL | max KL | perplexity | ratio | same top token | verdict |\n"
          "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|\n",
          f);
    for (const mg_json *c = mg_json_first(mg_json_get(json, "candidates")); c; c = mg_json_next(c)) {
        const char *path = mg_json_str(mg_json_get(c, "path")), *slash = path ? strrchr(path, '/') : NULL;
        fputs("| ", f);
        mg_markdown_text(f, slash && slash[1] ? slash + 1 : path);
        mg_vocabulary_note(f, c, " (", ")");
        mg_not_finite_note(f, c, " (", ")");
        fputs(" |", f);
        md_number(f, c, "bytes", 1e-9, 4, "");
        md_number(f, c, "bpw", 1, 4, "");
        md_number(f, c, "kl.mean", 1, 4, "");
        md_number(f, c, "kl.p99", 1, 4, "");
        md_number(f, c, "kl.max", 1, 4, "");
        md_number(f, c, "ppl.candidate", 1, 6, "");
        md_number(f, c, "ppl.ratio", 1, 6, "");
        md_number(f, c, "top1_agreement", 100, 5, " %");
        fprintf(f, " %s |\n", mg_json_str(mg_json_get(c, "verdict")));
    }
    const mg_json *floor = mg_json_get(json, "floor");
    if (floor) {
        fprintf(f, "| noise floor (%s) | – | – |", mg_json_str(mg_json_get(floor, "precision")));
        md_number(f, floor, "kl.mean", 1, 4, "");
        md_number(f, floor, "kl.p99", 1, 4, "");
        md_number(f, floor, "kl.max", 1, 4, "");
        md_number(f, floor, "ppl.candidate", 1, 6, "");
        md_number(f, floor, "ppl.ratio", 1, 6, "");
        md_number(f, floor, "top1_agreement", 100, 5, " %");
        fputs(" – |\n", f);
    }
    fputs("\nAgainst ", f);
    mg_markdown_text(f, mg_json_str(mg_json_get(json, "reference")));
    fprintf(f, ", %.0f positions of ", mg_html_num(json, "tokens"));
    mg_markdown_text(f, mg_json_str(mg_json_get(json, "text")));
    fprintf(f, " (sha256 %s), measured with `moegraft verify`.\n", mg_json_str(mg_json_get(json, "text_sha256")));
    return mg_text_finish(f, out, size, err);
}
