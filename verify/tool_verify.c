/* tool_verify.c - moegraft-verify: how far candidates are from a reference, and where. Ends in one verdict line per
 * candidate; exit 1 when a threshold is crossed, --weights finds damage or logits are not finite. */
#include "verify/attribute.h"
#include "verify/baseline.h"
#include "verify/judge.h"
#include "verify/pareto.h"
#include "verify/report.h"
#include "verify/tool_peer.h"
#include "verify/tool_verify_print.h"
#include "verify/tool_provenance.h"

#include "formats/arch/arch_file.h"
#include "formats/base/file.h"
#include "formats/base/outfile.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_CANDIDATES 32u
#define MAX_THRESHOLDS 64u

static const mg_tool_info tool = {
    .name = "verify",
    .summary = "measure how far models are from a reference, and where",
    .synopsis = "REFERENCE CANDIDATE... [--text F]... [--fail-on EXPR]... [--html F] [--json]\n"
                "--provenance MANIFEST [PATH]... [--tensors REGEX]",
    .examples =
        "  moegraft-verify model/ model-Q4_K_M.gguf                     on the built-in text\n"
        "  moegraft-verify model/ a.gguf b.gguf --text eval.txt --html report.html\n"
        "  moegraft-verify model/ a.gguf --weights --fail-on 'kl.mean>0.05'\n"
        "  moegraft-verify --peer a.gguf b.gguf c.gguf --text eval.txt\n"
        "  moegraft-verify --provenance a.gguf.manifest.json donors/ recipe.yml\n"
        "  moegraft-verify base.kld a.gguf          the reference as llama-perplexity recorded it (docs/verify.md)\n",
    .next = "moegraft verify --help",
};

typedef struct args {
    mg_common c;
    mg_opt_list pos, fail_on;
    const char *html, *junit, *markdown, *baseline, *precision_word;
    mg_precision precision;
    mg_tool_provenance provenance;
    uint64_t attribute;
    bool weights, peer, done;
    mg_threshold thresholds[MAX_THRESHOLDS];
} args;

static mg_status parse(args *a, int argc, char **argv, mg_error *err) {
    const mg_opt opts[] = {
        {NULL, MG_OPT_GROUP, NULL, NULL, "What is compared"},
        {"--weights", MG_OPT_FLAG, &a->weights, NULL, "also compare every weight, decoded, and name damaged tensors"},
        {"--attribute", MG_OPT_U64, &a->attribute, "N",
         "which weights cause the drift: exchange up to N parts of the reference one at a time, worst first"},
        {"--provenance", MG_OPT_STR, &a->provenance.manifest, "MANIFEST",
         "derive the output again from what its manifest names and compare hashes; PATHs are the inputs (or folders of "
         "them) and the files that took part: recipe, texts, router rows, importance matrix"},
        {"--tensors", MG_OPT_STR, &a->provenance.tensors, "REGEX",
         "with --provenance: only tensors whose name matches"},
        {"--sample", MG_OPT_U64, &a->provenance.sample, "N", "with --provenance: N of them, evenly spaced"},
        {"--imatrix", MG_OPT_STR, &a->provenance.imatrix, "FILE",
         "with --provenance: the importance matrix that was quantized with"},
        {"--work", MG_OPT_STR, &a->provenance.work, "DIR",
         "with --provenance: where calibration done again keeps its layers until all is done (default: beside the "
         "manifest)"},
        {"--peer", MG_OPT_FLAG, &a->peer, NULL,
         "compare all models with each other, none being the reference: KL both ways, paired perplexities, agreement"},
        {"--precision", MG_OPT_STR, &a->precision_word, "f32|f64|bf16|f16",
         "also print the noise floor: the reference against itself with every operation rounded to 16 bits; f64: run "
         "all models in double, the floor being f32"},
        MG_COMMON_TEXT_OPTS(a->c),
        {NULL, MG_OPT_GROUP, NULL, NULL, "Verdict and report"},
        {"--fail-on", MG_OPT_LIST, &a->fail_on, "EXPR",
         "exit 1 when it holds: a path of the JSON result, > >= < <= == or !=, a number ('kl.mean>0.05')"},
        {"--html", MG_OPT_STR, &a->html, "FILE", "write a self-contained page"},
        {"--baseline", MG_OPT_STR, &a->baseline, "FILE",
         "an earlier --json result of the same text: exit 1 when a candidate is worse than there"},
        {"--junit", MG_OPT_STR, &a->junit, "FILE", "write JUnit XML, one case per candidate and rule"},
        {"--markdown", MG_OPT_STR, &a->markdown, "FILE", "write a table for a model card"},
        {"--force", MG_OPT_FLAG, &a->c.force, NULL, "replace an existing report (it is refused otherwise)"},
        MG_ARCH_OPT,
        MG_COMMON_JSON_OPT(a->c),
        MG_COMMON_MODEL_OPTS(a->c),
        MG_COMMON_EXEC_OPTS(a->c),
        {0}};
    MG_TRY(mg_options_parse(&tool, opts, argc, argv, &a->pos, &a->done, err));
    if (a->done) return MG_OK;
    MG_TRY(mg_common_finish(&a->c, err));
    a->provenance.paths = &a->pos;
    a->provenance.common = &a->c;
    if (a->provenance.manifest)
        return a->weights || a->peer || a->attribute || a->fail_on.n || a->baseline || a->junit || a->html ||
                       a->markdown || a->precision_word || a->c.text.n || a->c.tokens.n
                   ? mg_fail(err, MG_ERR_USAGE, "--provenance compares hashes and goes with no other comparison")
                   : MG_OK;
    if (a->provenance.tensors || a->provenance.sample || a->provenance.imatrix || a->provenance.work)
        return mg_fail(err, MG_ERR_USAGE, "--tensors, --sample, --imatrix and --work go with --provenance");
    if (a->pos.n < 2)
        return mg_fail(err, MG_ERR_USAGE, "a reference and at least one candidate are needed (two models for --peer)");
    MG_TRY(mg_precision_parse(a->precision_word, &a->precision, err));
    if (a->peer && (a->weights || a->attribute || a->fail_on.n || a->baseline || a->junit || a->precision_word))
        return mg_fail(
            err, MG_ERR_USAGE,
            "--peer judges nothing: no --weights, --attribute, --precision, --fail-on, --baseline or --junit");
    if (a->pos.n > MAX_CANDIDATES + 1) return mg_fail(err, MG_ERR_USAGE, "at most %u candidates", MAX_CANDIDATES);
    if (a->fail_on.n > MAX_THRESHOLDS) return mg_fail(err, MG_ERR_USAGE, "at most %u thresholds", MAX_THRESHOLDS);
    if (a->attribute > UINT32_MAX) return mg_fail(err, MG_ERR_USAGE, "--attribute: at most %u parts", UINT32_MAX);
    for (size_t i = 0; i < a->fail_on.n; i++) MG_TRY(mg_threshold_parse(&a->thresholds[i], a->fail_on.items[i], err));
    const char *const files[] = {a->html, a->junit, a->markdown};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (files[i] && !a->c.force && mg_path_exists(files[i]))
            return mg_fail(err, MG_ERR_USAGE, "'%s' exists (--force replaces it)", files[i]);
    return MG_OK;
}

typedef struct run {
    mg_pool *pool;
    mg_tool_inputs in; /* the reference, then the candidates */
    mg_candidate cand[MAX_CANDIDATES + 1], *by_size[MAX_CANDIDATES];
    uint32_t n; /* the noise floor, when asked for, is cand[n] */
    char floor_name[32];
    uint8_t *classes;
    mg_report report;
    mg_json *json, *baseline;
} run;

/* ---- results ---- */

/* Verdicts into the JSON; *failed counts the candidates that fail. */
static mg_status judge(run *r, const args *a, uint32_t *failed, mg_error *err) {
    uint32_t i = 0;
    for (const mg_json *c = mg_json_first(mg_json_get(r->json, "candidates")); c; c = mg_json_next(c), i++) {
        mg_json *list = mg_json_new_array();
        const bool measured = !r->cand[i].not_finite; /* else there is no figure to hold against anything */
        if (!measured) mg_json_push(list, mg_json_new_str("not_finite"));
        for (size_t t = 0; measured && t < a->fail_on.n; t++) {
            bool fails;
            mg_status st = mg_threshold_check(&a->thresholds[t], c, &fails, err);
            if (st != MG_OK) {
                mg_json_free(list);
                return st;
            }
            if (fails) mg_json_push(list, mg_json_new_str(a->thresholds[t].text));
        }
        if (r->cand[i].has_weights && r->cand[i].weights.n_bad) mg_json_push(list, mg_json_new_str("weights"));
        if (a->weights && mg_tokenizer_differs(&r->cand[i].tokenizer)) mg_json_push(list, mg_json_new_str("tokenizer"));
        const char *worse = NULL;
        mg_status st = r->baseline && measured ? mg_baseline_check(r->baseline, c, r->n == 1, &worse, err) : MG_OK;
        if (st != MG_OK) {
            mg_json_free(list);
            mg_error_at(err, a->baseline, NULL);
            return st;
        }
        if (worse) {
            mg_json_push(list, mg_json_new_str("baseline"));
            mg_json_set_str((mg_json *)c, "worse_than_baseline", worse);
        }
        bool bad = mg_json_len(list) > 0;
        *failed += bad;
        mg_json_set_str((mg_json *)c, "verdict", bad ? "fail" : "pass");
        mg_json_set((mg_json *)c, "failed", list);
    }
    return MG_OK;
}

/* ---- several candidates ---- */

/* Mark the candidates that no other one beats in both size and divergence. */
static void rank(run *r) {
    mg_ranked items[MAX_CANDIDATES];
    for (uint32_t i = 0; i < r->n; i++)
        items[i] = (mg_ranked){.bytes = r->cand[i].bytes,
                               .figure = r->cand[i].not_finite ? (double)NAN : r->cand[i].summary.kl.mean,
                               .unsized = r->cand[i].recorded != NULL,
                               .index = i};
    mg_rank(items, r->n);
    for (uint32_t i = 0; i < r->n; i++) {
        r->by_size[i] = &r->cand[items[i].index];
        r->by_size[i]->pareto = items[i].pareto;
    }
}

typedef enum file_kind { FILE_HTML, FILE_JUNIT, FILE_MARKDOWN } file_kind;

static mg_status write_file(const run *r, const args *a, const char *path, file_kind kind, const char *const *rules,
                            size_t n_rules, mg_error *err) {
    char *text = NULL;
    size_t n = 0;
    if (!path) return MG_OK;
    mg_status st = kind == FILE_HTML    ? mg_report_html(&text, &n, &r->report, r->json, err)
                   : kind == FILE_JUNIT ? mg_report_junit(&text, &n, r->json, rules, n_rules, err)
                                        : mg_report_markdown(&text, &n, r->json, err);
    if (st == MG_OK) st = mg_outfile_write_all(path, text, n, a->c.force, err);
    free(text);
    return st;
}

static mg_status write_files(const run *r, const args *a, mg_error *err) {
    const char *rules[MAX_THRESHOLDS + 3];
    size_t n_rules = 0;
    for (size_t i = 0; i < a->fail_on.n; i++) rules[n_rules++] = a->thresholds[i].text;
    if (a->weights) rules[n_rules++] = "weights";
    if (a->weights) rules[n_rules++] = "tokenizer";
    if (a->baseline) rules[n_rules++] = "baseline";
    MG_TRY(write_file(r, a, a->html, FILE_HTML, rules, n_rules, err));
    MG_TRY(write_file(r, a, a->junit, FILE_JUNIT, rules, n_rules, err));
    return write_file(r, a, a->markdown, FILE_MARKDOWN, rules, n_rules, err);
}

/* ---- the run ---- */

/* A misspelt threshold is refused before hours are spent. */
static mg_status check_thresholds(const args *a, mg_error *err) {
    mg_json *example;
    MG_TRY(mg_report_example(&example, err));
    mg_status st = MG_OK;
    for (size_t i = 0; st == MG_OK && i < a->fail_on.n; i++) st = mg_threshold_known(&a->thresholds[i], example, err);
    mg_json_free(example);
    return st;
}

/* One of the two comparisons under a progress of its own, so that its rate is its own. */
static mg_status compare_part(run *r, const args *a, bool weights, const char *unit, uint64_t total, mg_error *err) {
    mg_walk_source reference = mg_tool_input_source(&r->in.items[0]);
    reference.precision = r->report.precision;
    mg_compare_options opt = {.pool = r->pool,
                              .windows = weights ? NULL : &r->in.windows,
                              .experts_per_token = a->c.experts_per_token,
                              .memory = a->c.memory,
                              .classes = r->classes,
                              .weights = weights};
    MG_TRY(mg_progress_new(&opt.progress, a->c.progress, weights ? "weights" : "verify", total, err));
    mg_progress_unit(opt.progress, unit);
    const uint32_t n = r->report.floor && !weights ? r->n + 1 : r->n;
    mg_status st = mg_compare_run(&reference, r->cand, n, &opt, err);
    mg_progress_free(opt.progress);
    return st;
}

static mg_status attribute(run *r, const args *a, mg_candidate *c, mg_error *err) {
    mg_attribution found;
    mg_compare_options opt = {
        .pool = r->pool, .windows = &r->in.windows, .experts_per_token = a->c.experts_per_token, .memory = a->c.memory};
    MG_TRY(mg_progress_new(&opt.progress, a->c.progress, "attribute", 0, err));
    mg_progress_unit(opt.progress, "tokens");
    mg_status st = mg_attribute_run(&found, r->in.items[0].model.m, c->model, (uint32_t)a->attribute, &opt, err);
    mg_progress_free(opt.progress);
    if (st == MG_OK) st = mg_attribution_json(&c->attribution, &found, err);
    mg_attribution_release(&found);
    if (st != MG_OK) mg_error_at(err, c->path, NULL);
    return st;
}

static mg_status compare(run *r, const args *a, mg_error *err) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < r->n; i++) bytes += r->cand[i].bytes;
    MG_TRY(compare_part(r, a, false, "tokens", r->in.windows.scored, err));
    if (a->weights) MG_TRY(compare_part(r, a, true, NULL, bytes, err));
    const mg_candidate *floor = r->report.floor;
    if (floor && floor->not_finite) {
        mg_error_at(err, floor->path, NULL);
        return mg_fail(err, MG_ERR_FORMAT, "window %llu, position %u: a logit is not finite",
                       (unsigned long long)floor->bad_window, floor->bad_pos);
    }
    for (uint32_t i = 0; a->attribute && i < r->n; i++)
        if (!r->cand[i].not_finite) MG_TRY(attribute(r, a, &r->cand[i], err));
    return MG_OK;
}

/* Do the candidates read text as the reference does, and over which ids can they be compared with it? */
static mg_status compare_vocabularies(run *r, mg_error *err) {
    const mg_tool_inputs *in = &r->in;
    MG_TRY(mg_tool_inputs_tokenizers(&r->in, err));
    for (uint32_t i = 0; i < r->n; i++) {
        const uint32_t pair[] = {0, i + 1};
        r->cand[i].rows = in->items[i + 1].rows;
        if (in->text == in->items) r->cand[i].tokenizer = in->items[i + 1].tokenizer;
        MG_TRY(mg_tool_inputs_common(in, pair, 2, &r->cand[i].ids, err));
    }
    return MG_OK;
}

static mg_status open_inputs(run *r, const args *a, mg_error *err) {
    MG_TRY(mg_tool_inputs_open(&r->in, &a->pos, err));
    for (uint32_t i = 0; i < r->in.n; i++) {
        const mg_tool_input *o = &r->in.items[i];
        if (o->recorded && (a->weights || a->attribute))
            return mg_fail(err, MG_ERR_USAGE, "'%s' is a recording: there are no weights for %s", o->path,
                           a->weights ? "--weights" : "--attribute");
        if (i == 0) continue;
        r->cand[r->n++] = (mg_candidate){.path = o->path,
                                         .model = o->model.m,
                                         .recorded = o->recorded,
                                         .bytes = o->bytes,
                                         .n_weights = o->n_weights};
    }
    return MG_OK;
}

/* Candidate n is the reference in the arithmetic whose noise is asked for. */
static mg_status add_floor(run *r, const args *a, mg_error *err) {
    const bool wide = a->precision == MG_PRECISION_F64;
    mg_candidate *floor = &r->cand[r->n];
    r->report.precision = wide ? MG_PRECISION_F64 : MG_PRECISION_F32;
    for (uint32_t i = 0; i < r->n; i++) r->cand[i].precision = r->report.precision;
    if (a->precision == MG_PRECISION_F32) return MG_OK;
    if (r->in.items[0].recorded)
        return mg_fail(err, MG_ERR_USAGE, "the reference is a recording: it cannot be run in other arithmetic");
    floor->precision = wide ? MG_PRECISION_F32 : a->precision;
    snprintf(r->floor_name, sizeof r->floor_name, "noise floor (%s)", mg_precision_name(floor->precision));
    floor->path = r->floor_name;
    floor->model = r->in.items[0].model.m;
    r->report.floor = floor;
    return MG_OK;
}

static mg_status work(run *r, const args *a, uint32_t *failed, mg_error *err) {
    MG_TRY(check_thresholds(a, err));
    MG_TRY(mg_pool_new(&r->pool, a->c.n_threads, err));
    MG_TRY(open_inputs(r, a, err));
    MG_TRY(add_floor(r, a, err));
    MG_TRY(mg_tool_inputs_windows(&r->in, &a->c, err));
    MG_TRY(mg_tool_windows_check(&r->in.windows, &tool, &a->c, err));
    memcpy(r->report.text_sha256, r->in.text_sha256, sizeof r->report.text_sha256);
    if (a->baseline) MG_TRY(mg_baseline_open(&r->baseline, a->baseline, r->report.text_sha256, err));
    MG_TRY(compare_vocabularies(r, err));
    if (r->in.tok) MG_TRY(mg_token_classes(&r->classes, mg_forward_vocab(r->in.text->model.m), r->in.tok, err));
    MG_TRY(compare(r, a, err));
    rank(r);
    r->report.reference = a->pos.items[0];
    r->report.reference_recorded = r->in.items[0].recorded;
    r->report.rows = r->in.items[0].rows;
    r->report.text_name = r->in.text_name;
    r->report.tokens = r->in.windows.scored;
    r->report.windows = &r->in.windows;
    r->report.tok = r->in.tok;
    r->report.cand = r->cand;
    r->report.n = r->n;
    MG_TRY(mg_report_json(&r->json, &r->report, err));
    MG_TRY(judge(r, a, failed, err));
    MG_TRY(write_files(r, a, err));
    if (a->c.json) return mg_tool_print_json(r->json, err);
    mg_tool_verify_print(&r->report, r->by_size, r->json, a->c.verbose);
    return MG_OK;
}

int main(int argc, char **argv) {
    mg_error err = {0};
    args a = {0};
    static run r; /* large: dozens of candidates */
    uint32_t failed = 0;
    mg_interrupt_install();
    mg_common_init(&a.c);
    mg_status st = parse(&a, argc, argv, &err);
    if (st == MG_OK && a.provenance.manifest && !a.done)
        st = mg_tool_provenance_run(&a.provenance, &failed, &err);
    else if (st == MG_OK && a.peer && !a.done)
        st = mg_tool_peer_run(&(mg_tool_peer){&tool, &a.pos, &a.c, a.html, a.markdown}, &err);
    else if (st == MG_OK && !a.done)
        st = work(&r, &a, &failed, &err);
    mg_json_free(r.baseline);
    mg_json_free(r.json);
    for (uint32_t i = 0; i <= r.n; i++) mg_candidate_release(&r.cand[i]);
    free(r.classes);
    mg_tool_inputs_release(&r.in);
    mg_pool_free(r.pool);
    mg_opt_list_release(&a.pos);
    mg_opt_list_release(&a.fail_on);
    mg_common_release(&a.c);
    if (st != MG_OK) return mg_tool_fail(&tool, &err);
    return failed ? MG_ERR_FAILED : 0;
}
