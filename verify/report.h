/* report.h - a comparison as JSON (stable keys of the command line's documentation), as text for a terminal, and as one
 * self-contained HTML page (inline SVG, no script, no network, light and dark). */
#ifndef MG_VERIFY_REPORT_H
#define MG_VERIFY_REPORT_H

#include "verify/compare.h"

typedef struct mg_report {
    const char *reference;                 /* path */
    const mg_recorded *reference_recorded; /* NULL: a model that was run */
    uint64_t rows;                         /* logits per position of the reference; 0: a recording that does not say */
    const char *text_name;                 /* what was scored: file names, or "built-in text" */
    char text_sha256[65];                  /* of the text or token bytes, in order; empty without a forward pass */
    uint64_t tokens;                       /* scored positions */
    const mg_windows *windows;             /* for the context of the worst tokens */
    const mg_tokenizer *tok;               /* for their text; NULL: ids only */
    const mg_candidate *cand;
    uint32_t n;
    mg_precision precision;    /* of the models' arithmetic */
    const mg_candidate *floor; /* the reference itself in other arithmetic; NULL: not asked for */
} mg_report;

/* {"schema":1,"reference":..,"text_sha256":..,"tokens":..,"precision":..,"floor":..,"candidates":[..]}; verdicts are
 * added by the caller
 * ("verdict", "failed"). *out is the caller's. */
mg_status mg_report_json(mg_json **out, const mg_report *r, mg_error *err) MG_MUST_CHECK;
/* One candidate's object with every key, one element in each list and no meaning: what thresholds may name. *out is the
 * caller's. */
mg_status mg_report_example(mg_json **out, mg_error *err) MG_MUST_CHECK;
/* The page, malloc'ed. json: the finished result with verdicts; every number on the page is taken from it. */
mg_status mg_report_html(char **out, size_t *size, const mg_report *r, const mg_json *json,
                         mg_error *err) MG_MUST_CHECK;
/* JUnit XML, malloc'ed: one case per candidate and rule (n of them: thresholds as given, "weights", "baseline"), and
 * one that the comparison took place. json: the finished result with verdicts. */
mg_status mg_report_junit(char **out, size_t *size, const mg_json *json, const char *const *rules, size_t n,
                          mg_error *err) MG_MUST_CHECK;
/* A Markdown table of all candidates with one sentence under it, malloc'ed. */
mg_status mg_report_markdown(char **out, size_t *size, const mg_json *json, mg_error *err) MG_MUST_CHECK;

#endif
