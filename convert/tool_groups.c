/* tool_groups.c - see tool_groups.h. */
#include "convert/tool_groups.h"

#include "convert/config_ckpt.h"
#include "convert/convert_common.h"
#include "convert/quantize_groups.h"
#include "convert/tool_calib.h"
#include "convert/tool_recipe.h"
#include "formats/base/file.h"
#include "quant/group_checkpoint.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Everything that lives while the plan does. */
typedef struct run {
    const char *in, *out, *type;
    mg_groups_options opt;
    mg_groups_report report;
    mg_groups_values values;
    mg_tool_weights input;
    mg_checkpoint *ckpt; /* its weights */
    mg_model *model;
    mg_plan *plan;
    uint32_t output;
    bool awq, gptq, fold_only;
    uint64_t samples;
    mg_tool_calib calib;
} run;

/* ---- words and options ---- */

static bool is_one_of(const char *word, const char *const *list) {
    while (*list && strcasecmp(word, *list) != 0) list++;
    return *list != NULL;
}

/* Words for small floats. MXFP4 and NVFP4 are GGUF types, too, which they stay unless --format says otherwise. */
static bool is_float_type(const char *word, bool ct) {
    static const char *const types[] = {"FP8", "FP8_DYNAMIC", "FP8_BLOCK", "NVFP4A16", "MXFP4A16", NULL};
    static const char *const both[] = {"MXFP4", "NVFP4", NULL};
    return is_one_of(word, types) || (ct && is_one_of(word, both));
}

static bool is_group_type(const char *word, bool ct) {
    static const char *const types[] = {"AWQ", "GPTQ", "RTN", NULL};
    return is_one_of(word, types) || is_float_type(word, ct);
}

static bool wants_ct(const mg_tool_groups *g) {
    return g->format && mg_group_format_find(g->format) == MG_FORMAT_CT;
}

bool mg_tool_groups_asked(const mg_tool_groups *g, const mg_opt_list *words) {
    for (size_t i = 1; i < words->n && i < 3; i++)
        if (is_group_type(words->items[i], wants_ct(g))) return true;
    return false;
}

const char *mg_tool_groups_option(const mg_tool_groups *g) {
    if (g->bits) return "--bits";
    if (g->group_size) return "--group-size";
    if (g->symmetric) return "--symmetric";
    if (g->format) return "--format";
    if (g->method) return "--method";
    return g->layout ? "--layout" : NULL;
}

static mg_status take_words(run *r, const mg_tool_groups *g, const mg_opt_list *words, uint64_t *threads,
                            mg_error *err) {
    if (words->n < 3 || is_group_type(words->items[1], wants_ct(g)))
        return mg_fail(err, MG_ERR_USAGE, "name the directory to write: IN OUT %s", words->items[words->n - 1]);
    r->in = words->items[0];
    r->out = words->items[1];
    r->type = words->items[2];
    if (words->n > 4) return mg_fail(err, MG_ERR_USAGE, "one argument too many: '%s'", words->items[4]);
    if (words->n == 4) MG_TRY(mg_parse_u64(words->items[3], threads, err));
    if (*threads > 1024) return mg_fail(err, MG_ERR_USAGE, "%" PRIu64 " threads: at most 1024", *threads);
    return MG_OK;
}

/* TYPE names a method and a format; --method and --format overrule either. */
static mg_status take_method(run *r, const mg_tool_groups *g, const mg_common *c, mg_error *err) {
    static const struct {
        const char *name;
        bool awq, gptq;
    } methods[] = {{"rtn", false, false}, {"awq", true, false}, {"gptq", false, true}, {"awq+gptq", true, true}};
    const char *want = g->method ? g->method : r->type;
    size_t i = 0;
    while (i < 4 && strcasecmp(methods[i].name, want) != 0) i++;
    if (i == 4) return mg_fail(err, MG_ERR_USAGE, "--method '%s', expected awq, gptq, awq+gptq or rtn", want);
    if (strcasecmp(r->type, "RTN") == 0 && i != 0)
        return mg_fail(err, MG_ERR_USAGE, "RTN is rounding to nearest: with --method %s the type is AWQ or GPTQ", want);
    r->awq = methods[i].awq;
    r->gptq = methods[i].gptq;
    r->fold_only = g->fold_only;
    r->samples = g->samples;
    const bool text = c->text.n || c->tokens.n;
    if (i == 0 && (text || g->samples || g->fold_only))
        return mg_fail(err, MG_ERR_USAGE,
                       "rounding to nearest looks at no text: no --text, --tokens, --samples, --fold-only");
    if (i != 0 && !text && !c->dry_run)
        return mg_fail(err, MG_ERR_USAGE, "%s needs calibration text: --text FILE or --tokens FILE", want);
    if (r->fold_only && r->gptq)
        return mg_fail(err, MG_ERR_USAGE, "--fold-only writes floats: it goes with the method awq");
    return MG_OK;
}

static mg_status take_sizes(run *r, const mg_tool_groups *g, mg_error *err) {
    uint64_t bits = 4, size = 128;
    if (g->bits) MG_TRY(mg_parse_u64(g->bits, &bits, err));
    if (bits < 2 || bits > 8) return mg_fail(err, MG_ERR_USAGE, "--bits %" PRIu64 ", expected 2 to 8", bits);
    const bool whole = g->group_size && strcmp(g->group_size, "-1") == 0;
    if (g->group_size && !whole) MG_TRY(mg_parse_u64(g->group_size, &size, err));
    if (size != 32 && size != 64 && size != 128)
        return mg_fail(err, MG_ERR_USAGE, "--group-size %s, expected 32, 64, 128 or -1", g->group_size);
    r->opt.bits = (uint32_t)bits;
    r->opt.group_size = whole ? 0 : size;
    return MG_OK;
}

/* Small floats: TYPE says everything but the names. */
static mg_status take_float(run *r, const mg_tool_groups *g, const mg_common *c, mg_error *err) {
    const char *extra = g->bits         ? "--bits"
                        : g->group_size ? "--group-size"
                        : g->method     ? "--method"
                        : g->symmetric  ? "--symmetric"
                        : g->fold_only  ? "--fold-only"
                        : g->samples    ? "--samples"
                        : c->text.n     ? "--text"
                        : c->tokens.n   ? "--tokens"
                                        : NULL;
    r->opt.format = mg_group_format_find(r->type);
    if (extra) return mg_fail(err, MG_ERR_USAGE, "%s is not for %s, which says all of it", extra, r->type);
    if (g->format && !wants_ct(g))
        return mg_fail(err, MG_ERR_USAGE, "%s is a format of compressed-tensors, not of '%s'", r->type, g->format);
    if (r->opt.format == MG_FORMAT_COUNT) /* FP8, NVFP4 */
        return mg_fail(err, MG_ERR_UNSUPPORTED,
                       "%s rounds inputs at run time by a scale that calibration has found, which is not built; %s has "
                       "the same weights",
                       r->type, strcasecmp(r->type, "FP8") == 0 ? "FP8_DYNAMIC" : "NVFP4A16");
    const mg_group_scheme s = mg_group_format_scheme(r->opt.format, 0, 0, true, MG_F32);
    r->opt.bits = s.bits;
    r->opt.group_size = s.group_size;
    r->opt.symmetric = true;
    return MG_OK;
}

static mg_status take_options(run *r, const mg_tool_groups *g, const mg_common *c, mg_error *err) {
    const char *layout = g->layout ? g->layout : "legacy";
    const char *usual = strcasecmp(r->type, "GPTQ") == 0 ? "gptq" : "awq";
    if (strcmp(layout, "legacy") != 0 && strcmp(layout, "v5") != 0)
        return mg_fail(err, MG_ERR_USAGE, "--layout '%s', expected legacy or v5", layout);
    r->opt.v5_names = strcmp(layout, "v5") == 0;
    r->opt.allow_requantize = g->allow_requantize;
    if (is_float_type(r->type, wants_ct(g))) return take_float(r, g, c, err);
    r->opt.format = mg_group_format_find(g->format ? g->format : usual);
    if (r->opt.format == MG_FORMAT_COUNT || mg_group_format_is_float(r->opt.format))
        return mg_fail(err, MG_ERR_USAGE, "--format '%s', expected awq, gptq, gptq_v2, compressed-tensors or mlx",
                       g->format);
    r->opt.symmetric = g->symmetric;
    MG_TRY(take_sizes(r, g, err));
    return take_method(r, g, c, err);
}

/* ---- plan ---- */

static mg_status open_input(run *r, unsigned threads, bool dry_run, mg_error *err) {
    if (mg_config_ckpt_is(r->in)) {
        if (!dry_run)
            return mg_fail(err, MG_ERR_USAGE, "'%s' is a configuration without weights: only --dry-run works", r->in);
        MG_TRY(mg_config_ckpt_open(&r->input.ckpt, r->in, err));
    } else {
        MG_TRY(mg_tool_weights_open(&r->input, r->in, threads, err));
    }
    r->ckpt = r->input.ckpt;
    return mg_model_open(&r->model, r->ckpt, err);
}

static void say(const mg_common *c, const char *text) {
    if (!c->quiet) fprintf(stderr, "moegraft-quantize: %s\n", text);
}

static void warn(const run *r, const mg_common *c, bool had_tokenizer) {
    char text[256];
    if (!had_tokenizer) say(c, "the model has no tokenizer files: the result has none either");
    if (r->fold_only) return;
    snprintf(text, sizeof text,
             "%" PRIu32 " linear layers are quantized (%s, %" PRIu32 " bits, %s), %" PRIu32
             " and embeddings, norms and the output head stay floats",
             r->report.quantized, mg_group_format_name(r->opt.format), r->opt.bits,
             r->opt.symmetric ? "symmetric" : "zero points", r->report.kept);
    say(c, text);
}

static mg_status show(run *r, const mg_exec_options *opt, const mg_common *c, mg_error *err) {
    const mg_tool_plan_style style = {.json = c->json, .quiet = c->quiet, .sizes = true};
    MG_TRY(mg_tool_plan_show(r->plan, &r->output, 1, opt, style, err));
    if (!c->json)
        printf("%" PRIu64 " stored elements (%.4fe9; words of packed codes count once)\n", r->report.elements,
               (double)r->report.elements / 1e9);
    return MG_OK;
}

/* ---- calibration ---- */

/* Hours of work must not end in a refusal: shapes and values are judged before. What an interrupted run left is ours.
 */
static mg_status check_input(run *r, mg_error *err) {
    mg_plan *p = NULL;
    mg_groups_options plain = r->opt;
    uint32_t out = 0;
    mg_groups_report report;
    mg_status st = mg_plan_new(&p, err);
    if (st == MG_OK && !r->fold_only) st = mg_quantize_plan_groups(p, r->model, r->out, &plain, &report, &out, err);
    if (st == MG_OK && !r->fold_only) st = mg_groups_scan(p, out, &r->values, err);
    if (st != MG_OK) mg_error_at(err, r->ckpt->path, NULL);
    mg_plan_free(p);
    return st;
}

static mg_status check_out(const run *r, const mg_common *c, mg_error *err) {
    char first[4096];
    const int n = snprintf(first, sizeof first, "%s/config.json", r->out);
    if (n < 0 || (size_t)n >= sizeof first) return mg_fail(err, MG_ERR_LIMIT, "path of %zu bytes", strlen(r->out));
    if (!c->force && mg_path_exists(first))
        return mg_fail(err, MG_ERR_USAGE, "'%s' holds a model already; --force writes into it", r->out);
    return MG_OK;
}

/* Codes, scales or zeros of the parts of a stored weight. */
typedef struct stage_part {
    const run *r;
    mg_plan *p;
    int which;
} stage_part;

static mg_status part_of_stage(const void *ctx, const mg_target *t, uint32_t part, const mg_expr **out, mg_error *err) {
    const stage_part *s = ctx;
    const mg_part *x = &t->parts[part];
    mg_checkpoint *c;
    uint32_t at[3];
    if (!mg_group_stage_codes(s->r->calib.stage, x->role, x->layer, x->expert, &c, &at[0], &at[1], &at[2]))
        return mg_fail(err, MG_ERR_UNSUPPORTED, "'%s' is stored with weights that calibration did not reach", t->name);
    MG_TRY(mg_expr_source(s->p, c, at[s->which], out, err));
    const mg_view slice = {.kind = MG_VIEW_ROWS, .a = x->first, .b = x->slice};
    if (x->slice) MG_TRY(mg_expr_view(s->p, *out, &slice, out, err));
    for (const mg_view *v = t->views; v < t->views + MG_MAX_VIEWS && v->kind != MG_VIEW_END; v++) {
        if (v->kind == MG_VIEW_TRANSPOSE || v->kind == MG_VIEW_ADD || v->kind == MG_VIEW_RESHAPE)
            return mg_fail(err, MG_ERR_UNSUPPORTED, "GPTQ of '%s', which is not stored row by row, is not built",
                           t->name);
        MG_TRY(mg_expr_view(s->p, *out, v, out, err));
    }
    return MG_OK;
}

static mg_status make_parts(void *ctx, mg_plan *p, const mg_target *t, const mg_expr *weight, const mg_group_form *form,
                            const mg_expr *parts[MG_GROUP_MAX_PARTS], mg_error *err) {
    const run *r = ctx;
    mg_checkpoint *c;
    uint32_t at[3];
    const mg_expr *e[3];
    if (!mg_group_stage_codes(r->calib.stage, t->parts[0].role, t->parts[0].layer, t->parts[0].expert, &c, &at[0],
                              &at[1], &at[2]))
        return mg_expr_group_encode(p, weight, NULL, form, parts, err);
    for (int i = 0; i < 3; i++) {
        const stage_part s = {r, p, i};
        MG_TRY(mg_convert_target_of(p, t, part_of_stage, &s, &e[i], err));
    }
    return mg_expr_group_pack(p, e[0], e[1], e[2], form, parts, err);
}

/* The dense model with scales folded in, in F32: rounding it to 16 bits would cost what a good type keeps. */
static mg_status plan_folded(run *r, mg_error *err) {
    mg_model *m = mg_group_stage_folded(r->calib.stage);
    mg_dtype dtype = MG_F32;
    const mg_convert_hf_options opt = {.dtype = mg_convert_uniform_dtype,
                                       .dtype_ctx = &dtype,
                                       .torch_dtype = dtype,
                                       .had_tokenizer = r->opt.had_tokenizer};
    return mg_convert_plan_hf(r->plan, m, r->out, &opt, &r->output, err);
}

static mg_status add_report(run *r, mg_error *err) {
    char *text;
    mg_json_set_u64(r->calib.report, "zero_groups", r->values.zero_groups);
    mg_json_set_bool(r->calib.report, "tied_embeddings", !mg_model_find(r->model, MG_R_OUTPUT, 0, 0));
    MG_TRY(mg_json_print(&text, r->calib.report, 1, err));
    mg_status st = mg_plan_add_side_file(r->plan, r->output, "calibration.json", text, strlen(text), err);
    free(text);
    return st;
}

static mg_status plan_calibrated(run *r, const mg_common *c, mg_error *err) {
    const mg_tool_calib_options opt = {.common = c,
                                       .out = r->out,
                                       .scheme = mg_groups_scheme(r->model, &r->opt),
                                       .awq = r->awq,
                                       .gptq = r->gptq,
                                       .fold_only = r->fold_only,
                                       .samples = r->samples};
    MG_TRY(check_out(r, c, err));
    MG_TRY(check_input(r, err));
    MG_TRY(mg_tool_calib_run(&r->calib, r->ckpt, r->model, &opt, err));
    if (r->fold_only) {
        MG_TRY(plan_folded(r, err));
    } else {
        r->opt.make = r->gptq ? make_parts : NULL;
        r->opt.ctx = r;
        MG_TRY(mg_quantize_plan_groups(r->plan, mg_group_stage_folded(r->calib.stage), r->out, &r->opt, &r->report,
                                       &r->output, err));
    }
    return add_report(r, err);
}

/* The words, and what took part. */
static mg_status record_words(const run *r, mg_record *record, mg_error *err) {
    MG_TRY(mg_tool_weights_record(&r->input, r->in, r->plan, record, err));
    MG_TRY(mg_record_word(record, MG_RECORD_OUTPUT, r->out, err));
    MG_TRY(mg_record_word(record, MG_RECORD_TEXT, r->type, err));
    return r->awq || r->gptq ? mg_record_stage(record, "calibration", false, err) : MG_OK;
}

static mg_status work(run *r, const mg_exec_options *opt, const mg_common *c, mg_record *record,
                      const mg_tool_sink *sink, mg_error *err) {
    bool had_tokenizer = true;
    r->opt.had_tokenizer = &had_tokenizer;
    MG_TRY(open_input(r, opt->threads, c->dry_run, err));
    MG_TRY(mg_plan_new(&r->plan, err));
    if ((r->awq || r->gptq) && !c->dry_run)
        MG_TRY(plan_calibrated(r, c, err));
    else
        MG_TRY(mg_quantize_plan_groups(r->plan, r->model, r->out, &r->opt, &r->report, &r->output, err));
    warn(r, c, had_tokenizer);
    if (c->dry_run) return show(r, opt, c, err);
    const mg_tool_plan_style style = {.json = c->json, .quiet = c->quiet, .sizes = true};
    MG_TRY(record_words(r, record, err));
    return mg_tool_plan_execute(r->plan, opt, style, (mg_tool_job){record, sink}, err);
}

mg_status mg_tool_groups_fold(const mg_tool_groups *g, mg_tool_calib *t, mg_checkpoint *ckpt, mg_model *m,
                              const char *out, const mg_common *common, mg_error *err) {
    run r = {0};
    mg_tool_groups sizes = *g;
    if (!sizes.group_size) sizes.group_size = "32";
    if (g->method && strcasecmp(g->method, "awq") != 0)
        return mg_fail(err, MG_ERR_USAGE, "--fold-only is AWQ: not with --method %s", g->method);
    if (g->format || g->layout) return mg_fail(err, MG_ERR_USAGE, "--format and --layout are not for GGUF types");
    if (!common->text.n && !common->tokens.n)
        return mg_fail(err, MG_ERR_USAGE, "--fold-only needs calibration text: --text FILE or --tokens FILE");
    MG_TRY(take_sizes(&r, &sizes, err));
    if (!common->force && mg_path_exists(out))
        return mg_fail(err, MG_ERR_USAGE, "'%s' exists already; --force replaces it", out);
    const mg_tool_calib_options opt = {.common = common,
                                       .out = out,
                                       .scheme = {.bits = r.opt.bits,
                                                  .group_size = r.opt.group_size,
                                                  .symmetric = g->symmetric,
                                                  .rule = MG_GROUP_MINMAX,
                                                  .scale_dtype = MG_F16},
                                       .awq = true,
                                       .fold_only = true,
                                       .samples = g->samples};
    return mg_tool_calib_run(t, ckpt, m, &opt, err);
}

mg_status mg_tool_groups_run(const mg_tool_groups *g, const mg_opt_list *words, const mg_exec_options *opt,
                             const mg_common *common, mg_record *record, const mg_tool_sink *sink, mg_error *err) {
    run r = {0};
    uint64_t threads = 0;
    mg_exec_options o = *opt;
    mg_status st = take_words(&r, g, words, &threads, err);
    if (st == MG_OK && threads && common->threads)
        st = mg_fail(err, MG_ERR_USAGE, "the thread count is given twice: as NTHREADS and with --threads");
    if (threads) o.threads = (unsigned)threads;
    if (st == MG_OK) st = take_options(&r, g, common, err);
    if (st == MG_OK) st = work(&r, &o, common, record, sink, err);
    mg_plan_free(r.plan);
    mg_tool_calib_close(&r.calib, st == MG_OK && !common->world);
    mg_model_free(r.model);
    mg_tool_weights_close(&r.input);
    return st;
}
