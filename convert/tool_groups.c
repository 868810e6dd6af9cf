/* tool_groups.c - see tool_groups.h. */
#include "convert/tool_groups.h"

#include "convert/config_ckpt.h"
#include "convert/quantize_groups.h"
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
    mg_checkpoint *ckpt;
    mg_model *model;
    mg_plan *plan;
    uint32_t output;
} run;

/* ---- words and options ---- */

static bool is_group_type(const char *word) {
    static const char *const types[] = {"AWQ", "GPTQ", "RTN"};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcasecmp(word, types[i]) == 0) return true;
    return false;
}

bool mg_tool_groups_asked(const mg_opt_list *words) {
    for (size_t i = 1; i < words->n && i < 3; i++)
        if (is_group_type(words->items[i])) return true;
    return false;
}

const char *mg_tool_groups_option(const mg_tool_groups *g) {
    if (g->bits) return "--bits";
    if (g->group_size) return "--group-size";
    if (g->symmetric) return "--symmetric";
    if (g->format) return "--format";
    return g->layout ? "--layout" : NULL;
}

static mg_status take_words(run *r, const mg_opt_list *words, uint64_t *threads, mg_error *err) {
    if (words->n < 3 || is_group_type(words->items[1]))
        return mg_fail(err, MG_ERR_USAGE, "name the directory to write: IN OUT %s", words->items[words->n - 1]);
    r->in = words->items[0];
    r->out = words->items[1];
    r->type = words->items[2];
    if (words->n > 4) return mg_fail(err, MG_ERR_USAGE, "one argument too many: '%s'", words->items[4]);
    if (words->n == 4) MG_TRY(mg_parse_u64(words->items[3], threads, err));
    if (*threads > 1024) return mg_fail(err, MG_ERR_USAGE, "%" PRIu64 " threads: at most 1024", *threads);
    if (strcasecmp(r->type, "RTN") != 0)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "the method %s is not built yet; RTN rounds to nearest", r->type);
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

static mg_status take_options(run *r, const mg_tool_groups *g, mg_error *err) {
    const char *layout = g->layout ? g->layout : "legacy";
    r->opt.format = mg_group_format_find(g->format ? g->format : "awq");
    if (r->opt.format == MG_FORMAT_COUNT)
        return mg_fail(err, MG_ERR_USAGE, "--format '%s', expected awq, gptq, gptq_v2, compressed-tensors or mlx",
                       g->format);
    if (strcmp(layout, "legacy") != 0 && strcmp(layout, "v5") != 0)
        return mg_fail(err, MG_ERR_USAGE, "--layout '%s', expected legacy or v5", layout);
    r->opt.v5_names = strcmp(layout, "v5") == 0;
    r->opt.symmetric = g->symmetric;
    r->opt.allow_requantize = g->allow_requantize;
    return take_sizes(r, g, err);
}

/* ---- plan ---- */

static mg_status open_input(run *r, bool dry_run, mg_error *err) {
    if (mg_config_ckpt_is(r->in)) {
        if (!dry_run)
            return mg_fail(err, MG_ERR_USAGE, "'%s' is a configuration without weights: only --dry-run works", r->in);
        MG_TRY(mg_config_ckpt_open(&r->ckpt, r->in, err));
    } else {
        MG_TRY(mg_group_checkpoint_open(&r->ckpt, r->in, err));
    }
    return mg_model_open(&r->model, r->ckpt, err);
}

static void say(const mg_common *c, const char *text) {
    if (!c->quiet) fprintf(stderr, "moegraft-quantize: %s\n", text);
}

static void warn(const run *r, const mg_common *c, bool had_tokenizer) {
    char text[256];
    if (!had_tokenizer) say(c, "the model has no tokenizer files: the result has none either");
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

static mg_status work(run *r, const mg_exec_options *opt, const mg_common *c, mg_error *err) {
    bool had_tokenizer = true;
    r->opt.had_tokenizer = &had_tokenizer;
    MG_TRY(open_input(r, c->dry_run, err));
    MG_TRY(mg_plan_new(&r->plan, err));
    MG_TRY(mg_quantize_plan_groups(r->plan, r->model, r->out, &r->opt, &r->report, &r->output, err));
    warn(r, c, had_tokenizer);
    if (c->dry_run) return show(r, opt, c, err);
    const mg_tool_plan_style style = {.json = c->json, .quiet = c->quiet, .sizes = true};
    return mg_tool_plan_execute(r->plan, opt, style, err);
}

mg_status mg_tool_groups_run(const mg_tool_groups *g, const mg_opt_list *words, const mg_exec_options *opt,
                             const mg_common *common, mg_error *err) {
    run r = {0};
    uint64_t threads = 0;
    mg_exec_options o = *opt;
    mg_status st = take_words(&r, words, &threads, err);
    if (st == MG_OK && threads && common->threads)
        st = mg_fail(err, MG_ERR_USAGE, "the thread count is given twice: as NTHREADS and with --threads");
    if (threads) o.threads = (unsigned)threads;
    if (st == MG_OK) st = take_options(&r, g, err);
    if (st == MG_OK) st = work(&r, &o, common, err);
    mg_plan_free(r.plan);
    mg_model_free(r.model);
    mg_checkpoint_free(r.ckpt);
    return st;
}
