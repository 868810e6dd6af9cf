/* tool_calib.c - see tool_calib.h. */
#include "convert/tool_calib.h"

#include "convert/tool_plan.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static mg_status take_text(mg_tool_calib *t, mg_checkpoint *ckpt, mg_model *m, const mg_tool_calib_options *opt,
                           mg_error *err) {
    const mg_tool_model model = {.ckpt = ckpt, .m = m};
    mg_windows_init(&t->windows);
    MG_TRY(mg_tool_model_windows(&t->windows, &model, opt->common, err));
    const uint64_t n = opt->samples && opt->samples < t->windows.n ? opt->samples : t->windows.n;
    if (n > UINT32_MAX) return mg_fail(err, MG_ERR_LIMIT, "%" PRIu64 " sequences", n);
    t->len = malloc((size_t)(n + 1) * sizeof *t->len);
    if (!t->len) return mg_fail_nomem(err, n * sizeof *t->len);
    t->text = (mg_stage_text){.ids = t->windows.ids, .len = t->len, .n_seqs = (uint32_t)n};
    for (uint64_t i = 0; i < n; i++) t->text.n_tokens += t->len[i] = t->windows.items[i].len;
    if (!t->text.n_tokens) return mg_fail(err, MG_ERR_USAGE, "no tokens");
    return MG_OK;
}

/* OUT/../.NAME.stage */
static mg_status make_dir(mg_tool_calib *t, const char *out, mg_error *err) {
    size_t end = strlen(out);
    while (end > 1 && out[end - 1] == '/') end--;
    size_t at = end;
    while (at > 0 && out[at - 1] != '/') at--;
    const int n = snprintf(t->dir, sizeof t->dir, "%.*s.%.*s.stage", (int)at, out, (int)(end - at), out + at);
    if (n < 0 || (size_t)n >= sizeof t->dir) return mg_fail(err, MG_ERR_LIMIT, "path of %zu bytes", strlen(out));
    if (mkdir(t->dir, 0777) == 0 || errno == EEXIST) return MG_OK;
    return mg_fail_errno(err, "cannot make the work folder '%s'", t->dir);
}

/* ---- report ---- */

#define F16_MAX 65504.0

typedef struct totals {
    double plain, loss;
    uint64_t inputs, scaled, few, layers, rounded_plain;
    double largest; /* input of a layer */
    uint64_t large; /* layers whose inputs go beyond F16 */
} totals;

static double number(const mg_json *v, const char *key) {
    double x = 0;
    return mg_json_f64(mg_json_get(v, key), &x) ? x : 0;
}

static void add_up(totals *t, const mg_json *layers, const char *list) {
    for (const mg_json *l = mg_json_first(layers); l; l = mg_json_next(l)) {
        t->layers++;
        const double most = number(l, "largest_input");
        t->few += (uint64_t)number(l, "few");
        t->large += most > F16_MAX;
        if (most > t->largest) t->largest = most;
        for (const mg_json *x = mg_json_first(mg_json_get(l, list)); x; x = mg_json_next(x)) {
            const char *scales = mg_json_str(mg_json_get(x, "scales")), *how = mg_json_str(mg_json_get(x, "method"));
            t->inputs++;
            t->scaled += scales && strcmp(scales, "none") != 0;
            t->rounded_plain += how && strcmp(how, "rounding") == 0;
            t->plain += number(x, "plain");
            t->loss += number(x, "loss");
        }
    }
}

static void say_few(const totals *t) {
    if (t->few)
        fprintf(stderr,
                "moegraft-quantize: warning: %" PRIu64
                " experts saw fewer than %d tokens and are rounded by the inputs of "
                "all tokens (gate, up) or to nearest (down): more or other text would help\n",
                t->few, MG_STAGE_FEW_TOKENS);
}

static void say_large(const totals *t) {
    if (t->large)
        fprintf(
            stderr,
            "moegraft-quantize: warning: inputs of %" PRIu64
            " layers reach %.3g, beyond F16, in which the kernels of AWQ and GPTQ compute: run the result in BF16\n",
            t->large, t->largest);
}

static void summarize(const mg_tool_calib *t, bool feedback) {
    totals awq = {0}, limits = {0}, gptq = {0};
    add_up(&awq, mg_json_get(t->report, "awq"), "awq");
    add_up(&limits, mg_json_get(t->report, "awq"), "limits");
    add_up(&gptq, mg_json_get(t->report, feedback ? "feedback" : "gptq"), "gptq");
    if (awq.layers)
        fprintf(stderr,
                "moegraft-quantize: AWQ: %" PRIu64 " of %" PRIu64
                " inputs scaled, loss %.3g times rounding's; unquantized "
                "logits change by %.1e of their size\n",
                awq.scaled, awq.inputs, awq.plain > 0 ? awq.loss / awq.plain : 1.0,
                number(mg_json_get(t->report, "folding"), "logits_rms_difference"));
    if (limits.inputs)
        fprintf(stderr, "moegraft-quantize: AWQ: %" PRIu64 " weights limited, loss %.3g times that without limits\n",
                limits.inputs, limits.plain > 0 ? limits.loss / limits.plain : 1.0);
    if (gptq.layers)
        fprintf(stderr, "moegraft-quantize: %s: %" PRIu64 " weights, %" PRIu64 " of them rounded to nearest\n",
                feedback ? "error feedback" : "GPTQ", gptq.inputs, gptq.rounded_plain);
    say_few(gptq.layers ? &gptq : &awq);
    say_large(gptq.layers ? &gptq : &awq);
}

/* ---- running ---- */

static mg_status run_stage(mg_tool_calib *t, mg_model *m, const mg_tool_calib_options *opt, mg_error *err) {
    const uint64_t passes = (uint64_t)opt->awq + opt->gptq;
    t->eval = mg_forward_evaluator(t->pass.f);
    t->text.token_bytes = mg_forward_token_bytes(t->pass.f, m);
    MG_TRY(mg_progress_new(&t->progress, opt->common->progress, "calibrate",
                           t->text.n_tokens * passes * (uint64_t)mg_hp_i(m, MG_K_LAYERS), err));
    mg_progress_unit(t->progress, "tokens x layers");
    const mg_group_stage_options o = {.eval = &t->eval,
                                      .pool = t->pass.pool,
                                      .text = &t->text,
                                      .scheme = opt->scheme,
                                      .awq = opt->awq,
                                      .gptq = opt->gptq,
                                      .types = opt->types,
                                      .fold_only = opt->fold_only,
                                      .memory = opt->common->memory,
                                      .dir = t->dir,
                                      .progress = t->progress};
    mg_status st = mg_group_stage_run(&t->stage, m, &o, err);
    mg_progress_free(t->progress);
    t->progress = NULL;
    return st;
}

mg_status mg_tool_calib_run(mg_tool_calib *t, mg_checkpoint *ckpt, mg_model *m, const mg_tool_calib_options *opt,
                            mg_error *err) {
    MG_TRY(mg_forward_check(m, err));
    MG_TRY(take_text(t, ckpt, m, opt, err));
    MG_TRY(mg_tool_pass_new(&t->pass, opt->common, err));
    t->have_pass = true;
    MG_TRY(mg_tool_stage_lock(&t->lock, opt->common, opt->out, err));
    MG_TRY(make_dir(t, opt->out, err));
    MG_TRY(run_stage(t, m, opt, err));
    mg_tool_stage_unlock(&t->lock);
    MG_TRY(mg_group_stage_report(t->stage, &t->report, err));
    mg_json_set_u64(t->report, "tokens", t->text.n_tokens);
    if (!opt->common->quiet) summarize(t, opt->types != NULL);
    return MG_OK;
}

void mg_tool_calib_close(mg_tool_calib *t, bool done) {
    mg_tool_stage_unlock(&t->lock);
    if (t->stage && done) mg_group_stage_clean(t->stage);
    mg_group_stage_free(t->stage);
    mg_json_free(t->report);
    mg_windows_release(&t->windows);
    free(t->len);
    if (t->have_pass) mg_tool_pass_free(&t->pass);
    *t = (mg_tool_calib){0};
}
