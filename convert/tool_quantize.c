/* tool_quantize.c - moegraft-quantize: llama-quantize's command line on our plans. */
#include "convert/quantize.h"
#include "convert/quantize_args.h"
#include "convert/tool_calib.h"
#include "convert/reuse.h"
#include "convert/tool_feedback.h"
#include "convert/tool_groups.h"
#include "convert/tool_recipe.h"
#include "convert/tool_runs.h"
#include "convert/tool_solve.h"
#include "formats/arch/arch_file.h"
#include "formats/base/options.h"
#include "formats/base/pool.h"
#include "quant/group_checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

const mg_tool_info mg_tool_quantize_info = {
    .name = "quantize",
    .summary = "store a model in 1 to 8 bit GGUF types, byte for byte as llama-quantize does",
    .synopsis =
        "IN [OUT.gguf] TYPE [NTHREADS]\nIN DIR/ TYPE TYPE... [NTHREADS]\nIN -o FILE=TYPE [-o FILE=TYPE]...\nIN OUT "
        "AWQ|GPTQ|RTN|FP8_DYNAMIC|FP8_BLOCK|NVFP4A16|MXFP4A16 [NTHREADS]",
    .examples =
        "  moegraft-quantize model-bf16.gguf Q4_K_M\n"
        "  moegraft-quantize model/ model-Q8_0.gguf Q8_0            (a Hugging Face directory, no intermediate file)\n"
        "  moegraft-quantize --imatrix im.gguf model-bf16.gguf out/ Q2_K Q3_K_M Q4_K_M   (one read for all)\n"
        "  moegraft-quantize --dry-run model-bf16.gguf IQ4_XS\n"
        "  moegraft-quantize model/ model-AWQ/ AWQ --text calibration.txt   (a directory for AutoAWQ, vLLM ...)\n"
        "  moegraft-quantize model/ model-GPTQ/ GPTQ --method awq+gptq --text calibration.txt\n"
        "  moegraft-quantize model/ model-FP8/ FP8_DYNAMIC                  (compressed-tensors, as llm-compressor)\n",
    .next = "moegraft quantize --help",
};

typedef struct args {
    mg_common common;
    mg_opt_list words, outputs, rules, rule_files, include, exclude, overrides, prune;
    const char *imatrix_path, *output_type, *embd_type, *target_types, *reuse, *attribution;
    double target_bpw;
    uint64_t target_size, samples;
    bool fixed, feedback, pure, leave_output, no_fallback, allow_requantize, no_manifest, keep_split;
    mg_tool_groups groups;
    mg_record *record;
    const mg_tool_sink *sink;
} args;

/* Everything that lives while the plan does. */
typedef struct run {
    mg_arena arena;
    mg_quantize_targets targets;
    mg_type_rules rules;
    mg_imatrix *imatrix;
    mg_tool_weights input;
    mg_checkpoint *in; /* its weights */
    mg_quantize_source source;
    mg_plan *plan;
    mg_quantize_options opt;
    mg_tool_solution solution;
    mg_reuse *reuse;
    uint32_t *out;   /* [targets.n] outputs of the plan */
    mg_model *model; /* --fold-only */
    mg_tool_calib calib;
    mg_tool_feedback feedback;
} run;

static mg_status parse(args *a, int argc, char **argv, bool *done, mg_error *err) {
    const mg_opt opts[] = {
        {NULL, MG_OPT_GROUP, NULL, NULL, "Types"},
        {"--pure", MG_OPT_FLAG, &a->pure, NULL, "every weight in the type itself, without its mix"},
        {"--leave-output-tensor", MG_OPT_FLAG, &a->leave_output, NULL, "keep output.weight as it is"},
        {"--output-tensor-type", MG_OPT_STR, &a->output_type, "T", "ggml type of output.weight"},
        {"--token-embedding-type", MG_OPT_STR, &a->embd_type, "T", "ggml type of the token embedding"},
        {"--tensor-type", MG_OPT_LIST, &a->rules, "REGEX=T",
         "ggml type of tensors whose name matches; the first rule wins"},
        {"--tensor-type-file", MG_OPT_LIST, &a->rule_files, "FILE",
         "such rules from a file, after those of --tensor-type"},
        {"--no-fallback", MG_OPT_FLAG, &a->no_fallback, NULL,
         "refuse rows that do not fit the type instead of using another"},
        {"--allow-requantize", MG_OPT_FLAG, &a->allow_requantize, NULL, "accept tensors that are quantized already"},
        {"--fixed", MG_OPT_FLAG, &a->fixed, NULL,
         "without the known defects of the reference encoders; their bytes otherwise"},
        {NULL, MG_OPT_GROUP, NULL, NULL, "By calibration text (need --text or --tokens)"},
        {"--feedback", MG_OPT_FLAG, &a->feedback, NULL,
         "choose codes so that errors of a row make up for each other on the text; the types stay what they are"},
        {"--target-bpw", MG_OPT_F64, &a->target_bpw, "X",
         "choose every tensor's type for this many bits per weight; the recipe goes to OUT.types.txt"},
        {"--target-size", MG_OPT_SIZE, &a->target_size, "SIZE", "the same for a file of this size"},
        {"--target-types", MG_OPT_STR, &a->target_types, "T,T", "choose among these types only"},
        {"--attribution", MG_OPT_STR, &a->attribution, "FILE",
         "choose by the --json result of verify --attribute instead of measuring: no text is needed, the model is not "
         "run"},
        {"--samples", MG_OPT_U64, &a->samples, "N",
         "windows of text to use (default: 16 to measure on; all for --feedback, AWQ, GPTQ)"},
        {NULL, MG_OPT_GROUP, NULL, NULL, "Importance matrix"},
        {"--imatrix", MG_OPT_STR, &a->imatrix_path, "FILE", "importance matrix, GGUF or .dat"},
        {"--include-weights", MG_OPT_LIST, &a->include, "S", "use it only for tensors whose name contains S"},
        {"--exclude-weights", MG_OPT_LIST, &a->exclude, "S", "do not use it for tensors whose name contains S"},
        {NULL, MG_OPT_GROUP, NULL, NULL, "Model"},
        {"--override-kv", MG_OPT_LIST, &a->overrides, "K=TYPE:V", "set a key; TYPE is int, float, bool or str"},
        {"--prune-layers", MG_OPT_LIST, &a->prune, "L,L", "leave blocks out and renumber the rest"},
        {"--keep-split", MG_OPT_FLAG, &a->keep_split, NULL, "the same parts as the input, OUT-00001-of-0000N.gguf"},
        {"--reuse", MG_OPT_STR, &a->reuse, "OLD.gguf",
         "copy tensors from an earlier result whose manifest proves that they would be the same"},
        {NULL, MG_OPT_GROUP, NULL, NULL, "Group formats (AWQ, GPTQ, RTN, FP8_DYNAMIC ...)"},
        {"--bits", MG_OPT_STR, &a->groups.bits, "N", "bits per weight, 2 to 8 (default 4)"},
        {"--group-size", MG_OPT_STR, &a->groups.group_size, "N",
         "weights per scale: 32, 64, 128 (default), or -1 for whole rows"},
        {"--symmetric", MG_OPT_FLAG, &a->groups.symmetric, NULL, "no zero points"},
        {"--format", MG_OPT_STR, &a->groups.format, "F",
         "awq (default), gptq, gptq_v2, compressed-tensors or mlx; with the types MXFP4 and FP8_... "
         "compressed-tensors"},
        {"--layout", MG_OPT_STR, &a->groups.layout, "L",
         "names of experts: legacy (default; AutoAWQ, vLLM, the hub) or v5 (GPTQModel 7)"},
        {"--method", MG_OPT_STR, &a->groups.method, "M",
         "awq, gptq, awq+gptq or rtn (default: what TYPE says); all but rtn need --text or --tokens"},
        {"--fold-only", MG_OPT_FLAG, &a->groups.fold_only, NULL,
         "AWQ's scales folded in and nothing else: as F32 with type AWQ, or quantized to a GGUF type"},
        MG_COMMON_TEXT_OPTS(a->common),
        MG_COMMON_WRITE_OPTS(a->common),
        {"--output,-o", MG_OPT_LIST, &a->outputs, "FILE=TYPE", "an output; repeatable, all from one read"},
        {"--no-manifest", MG_OPT_FLAG, &a->no_manifest, NULL,
         "do not write FILE.manifest.json (inputs, recipe, hashes)"},
        MG_ARCH_OPT,
        MG_COMMON_JSON_OPT(a->common),
        MG_COMMON_EXEC_OPTS(a->common),
        MG_COMMON_RANK_OPTS(a->common),
        MG_COMMON_VERIFY_OPT(a->common),
        {0},
    };
    MG_TRY(mg_options_parse(&mg_tool_quantize_info, opts, argc, argv, &a->words, done, err));
    if (*done) return MG_OK;
    MG_TRY(mg_common_finish(&a->common, err));
    if (!a->sink) MG_TRY(mg_common_ranks(&a->common, &mg_tool_quantize_info, err));
    return mg_record_options(a->record, opts, err);
}

static void args_release(args *a) {
    mg_opt_list *lists[] = {&a->words,   &a->outputs, &a->rules,     &a->rule_files,
                            &a->include, &a->exclude, &a->overrides, &a->prune};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) mg_opt_list_release(lists[i]);
    mg_common_release(&a->common);
}

static void say(void *quiet, const char *text) {
    if (!*(const bool *)quiet) fprintf(stderr, "moegraft-quantize: %s\n", text);
}

/* ---- options of the plan ---- */

static mg_status parse_ggml_type(const char *option, const char *text, mg_dtype *out, mg_error *err) {
    if (!text) return MG_OK;
    *out = mg_dtype_from_name(text);
    if (*out != MG_DTYPE_COUNT && mg_dtype_get(*out)->gguf_id >= 0) return MG_OK;
    return mg_fail(err, MG_ERR_USAGE, "%s: unknown ggml type '%s'", option, text);
}

static mg_status set_rules(run *r, const args *a, mg_error *err) {
    for (size_t i = 0; i < a->rules.n; i++) MG_TRY(mg_type_rules_add(&r->rules, a->rules.items[i], err));
    for (size_t i = 0; i < a->rule_files.n; i++) MG_TRY(mg_type_rules_load(&r->rules, a->rule_files.items[i], err));
    r->opt.mix.rules = &r->rules;
    MG_TRY(parse_ggml_type("--output-tensor-type", a->output_type, &r->opt.mix.output_type, err));
    return parse_ggml_type("--token-embedding-type", a->embd_type, &r->opt.mix.embd_type, err);
}

static mg_status set_overrides(run *r, const args *a, mg_error *err) {
    mg_kv_override *o;
    MG_TRY(MG_ARENA_NEW(&r->arena, &o, a->overrides.n + 1, err));
    for (size_t i = 0; i < a->overrides.n; i++) MG_TRY(mg_kv_override_parse(&o[i], a->overrides.items[i], err));
    r->opt.overrides = o;
    r->opt.n_overrides = a->overrides.n;
    uint32_t *prune;
    MG_TRY(mg_quantize_parse_prune(&r->arena, &a->prune, &prune, &r->opt.n_prune, err));
    r->opt.prune = prune;
    return MG_OK;
}

static mg_status load_imatrix(run *r, const args *a, mg_error *err) {
    if (a->include.n && a->exclude.n)
        return mg_fail(err, MG_ERR_USAGE, "--include-weights and --exclude-weights cannot be used together");
    if (!a->imatrix_path) {
        if (a->include.n || a->exclude.n)
            return mg_fail(err, MG_ERR_USAGE, "--include-weights and --exclude-weights need --imatrix");
        return MG_OK;
    }
    MG_TRY(mg_imatrix_load(&r->imatrix, a->imatrix_path, err));
    MG_TRY(mg_imatrix_filter(r->imatrix, a->include.items, a->include.n, true, err));
    MG_TRY(mg_imatrix_filter(r->imatrix, a->exclude.items, a->exclude.n, false, err));
    r->opt.imatrix = r->imatrix;
    r->opt.imatrix_name = a->imatrix_path;
    return MG_OK;
}

static mg_status set_options(run *r, const args *a, mg_error *err) {
    r->opt = (mg_quantize_options)MG_QUANTIZE_OPTIONS_INIT;
    r->opt.mix.pure = a->pure;
    r->opt.mix.leave_output = a->leave_output;
    r->opt.mix.no_fallback = a->no_fallback;
    r->opt.allow_requantize = a->allow_requantize;
    r->opt.fixed = a->fixed;
    r->opt.estimate = a->common.dry_run;
    r->opt.keep_split = a->keep_split;
    MG_TRY(set_rules(r, a, err));
    MG_TRY(set_overrides(r, a, err));
    return load_imatrix(r, a, err);
}

/* ---- types by measurement ---- */

static bool has_target(const args *a) {
    return a->target_bpw != 0 || a->target_size != 0;
}

static mg_status check_feedback(const run *r, const args *a, mg_error *err) {
    if (!a->common.text.n && !a->common.tokens.n)
        return mg_fail(err, MG_ERR_USAGE, "--feedback needs calibration text: --text FILE or --tokens FILE");
    if (r->targets.n != 1) return mg_fail(err, MG_ERR_USAGE, "--feedback is for one output at a time");
    if (a->prune.n)
        return mg_fail(err, MG_ERR_USAGE, "--feedback looks at the model as it is: not with --prune-layers");
    if (!mg_dtype_is_block(r->targets.items[0].preset->dtype))
        return mg_fail(err, MG_ERR_USAGE, "--feedback needs a quantized TYPE, %s is none",
                       r->targets.items[0].preset->name);
    return MG_OK;
}

/* Options that need text, or that text is for. */
static mg_status check_text(const run *r, const args *a, mg_error *err) {
    const bool text = a->common.text.n || a->common.tokens.n;
    if (a->groups.fold_only) {
        if (has_target(a) || a->target_types || a->imatrix_path || a->feedback || a->attribution)
            return mg_fail(err, MG_ERR_USAGE,
                           "--fold-only changes what inputs weigh: not with --imatrix, --feedback, --target-bpw or "
                           "--target-size");
        return MG_OK;
    }
    if (has_target(a) && a->common.world)
        return mg_fail(err, MG_ERR_USAGE,
                       "--target-... is measured by one process: run it without ranks, or give ranks its "
                       "FILE.types.txt with --tensor-type-file");
    if (a->feedback) MG_TRY(check_feedback(r, a, err));
    if (!has_target(a)) {
        if (a->target_types || a->attribution || (!a->feedback && (text || a->samples)))
            return mg_fail(err, MG_ERR_USAGE,
                           "--text, --tokens, --samples, --target-types and --attribution need --target-bpw or "
                           "--target-size (the first three may go with --feedback)");
        return MG_OK;
    }
    if (a->target_bpw != 0 && a->target_size)
        return mg_fail(err, MG_ERR_USAGE, "--target-bpw and --target-size cannot be used together");
    if (a->target_bpw != 0 && !(a->target_bpw > 0 && a->target_bpw <= 32))
        return mg_fail(err, MG_ERR_USAGE, "--target-bpw %g: expected bits per weight, above 0 and at most 32",
                       a->target_bpw);
    if (!text && !a->attribution)
        return mg_fail(err, MG_ERR_USAGE,
                       "types are chosen by measuring on text: give --text FILE (or --attribution FILE)");
    if (r->targets.n != 1) return mg_fail(err, MG_ERR_USAGE, "a target is for one output at a time");
    if (!mg_dtype_is_block(r->targets.items[0].preset->dtype))
        return mg_fail(err, MG_ERR_USAGE, "a target needs a quantized TYPE, %s is none",
                       r->targets.items[0].preset->name);
    return MG_OK;
}

static mg_tool_solve_options solve_options(run *r, const args *a) {
    return (mg_tool_solve_options){.common = &a->common,
                                   .in = r->in,
                                   .gguf = r->source.gguf,
                                   .quantize = &r->opt,
                                   .out = r->targets.items[0].path,
                                   .bpw = a->target_bpw,
                                   .size = a->target_size,
                                   .types = a->target_types,
                                   .samples = a->samples,
                                   .attribution = a->attribution,
                                   .say = say,
                                   .say_ctx = (void *)(uintptr_t)&a->common.quiet};
}

static mg_status solve(run *r, const args *a, mg_error *err) {
    const mg_tool_solve_options opt = solve_options(r, a);
    r->opt.mix.preset = r->targets.items[0].preset;
    return mg_tool_solve(&opt, &r->rules, &r->solution, err);
}

/* What was found, and the recipe; before the file itself, which may take long and be interrupted. */
static mg_status report_solution(run *r, const args *a, mg_error *err) {
    const mg_tool_solve_options opt = solve_options(r, a);
    const char *how = a->attribution ? "estimated" : "measured";
    double kl;
    char text[256];
    if (a->common.text.n || a->common.tokens.n) {
        MG_TRY(mg_tool_solve_check(&opt, r->plan, r->out[0], &kl, err));
        snprintf(text, sizeof text,
                 "expected divergence %.6f nats per token, measured with all tensors quantized (%.6f as the sum of %u "
                 "tensors %s alone)",
                 kl, r->solution.sum, r->solution.n_tensors, how);
    } else {
        snprintf(text, sizeof text, "expected divergence %.6f nats per token, the sum of %u tensors %s alone",
                 r->solution.sum, r->solution.n_tensors, how);
    }
    say(opt.say_ctx, text);
    return a->common.dry_run ? MG_OK : mg_tool_solve_write(&opt, &r->solution, err);
}

/* ---- plan ---- */

static mg_status check_not_input(const char *in, const char *out, mg_error *err) {
    struct stat a, b;
    if (stat(in, &a) == 0 && stat(out, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino)
        return mg_fail(err, MG_ERR_USAGE, "input and output are the same file: '%s'", out);
    return MG_OK;
}

static void summarize(const mg_quantize_report *rep, const char *path, bool *quiet) {
    char text[512];
    if (rep->n_feedback) {
        snprintf(text, sizeof text, "%s: %u of %u encoded tensors with error feedback (-v lists the others)", path,
                 rep->n_feedback, rep->n_encoded);
        say(quiet, text);
    }
    if (rep->n_fallback) {
        snprintf(text, sizeof text,
                 "%s: %u of %u tensors have rows that do not fit their type and get another (-v lists them)", path,
                 rep->n_fallback, rep->n_tensors);
        say(quiet, text);
    }
    if (rep->n_unweighted) {
        snprintf(text, sizeof text,
                 "%s: %u tensors are not in the importance matrix and are encoded without (-v lists them)", path,
                 rep->n_unweighted);
        say(quiet, text);
    }
    if (rep->n_empty_experts) {
        snprintf(text, sizeof text,
                 "%s: %llu expert matrices saw no calibration token and are encoded with equal weights", path,
                 (unsigned long long)rep->n_empty_experts);
        say(quiet, text);
    }
    if (rep->needs_imatrix) {
        snprintf(text, sizeof text, "%s: writing this needs an importance matrix (--imatrix FILE)", path);
        say(quiet, text);
    }
}

/* The model with AWQ's scales folded in, as what is quantized. */
static mg_status open_folded(run *r, args *a, mg_error *err) {
    a->groups.samples = a->samples;
    MG_TRY(mg_model_open(&r->model, r->in, err));
    MG_TRY(mg_tool_groups_fold(&a->groups, &r->calib, r->in, r->model, r->targets.items[0].path, &a->common, err));
    return mg_quantize_source_of_model(&r->source, mg_group_stage_folded(r->calib.stage), err);
}

static mg_status feed_back(run *r, const args *a, mg_error *err) {
    const mg_tool_feedback_options opt = {.common = &a->common,
                                          .in = r->in,
                                          .gguf = r->source.gguf,
                                          .quantize = &r->opt,
                                          .out = r->targets.items[0].path,
                                          .samples = a->samples};
    r->opt.mix.preset = r->targets.items[0].preset;
    MG_TRY(check_not_input(r->targets.in, opt.out, err));
    MG_TRY(mg_tool_feedback_run(&r->feedback, &opt, err));
    r->opt.feedback = &r->feedback.made;
    return MG_OK;
}

static void summarize_reuse(const run *r, bool *quiet) {
    char text[256], size[MG_HUMAN_MAX];
    uint32_t n;
    uint64_t bytes;
    mg_reuse_counts(r->reuse, &n, &bytes);
    snprintf(text, sizeof text, "%u encoded tensors, %s, are copied from the earlier result", n,
             mg_human_bytes(bytes, size));
    say(quiet, text);
}

static mg_status make_plan(run *r, args *a, mg_error *err) {
    mg_quantize_targets *t = &r->targets;
    bool details = a->common.verbose && !a->common.quiet;
    r->opt.note = details ? say : NULL;
    r->opt.note_ctx = &a->common.quiet;
    MG_TRY(mg_tool_weights_open(&r->input, t->in, a->common.n_threads, err));
    r->in = r->input.ckpt;
    if (a->groups.fold_only && !a->common.dry_run)
        MG_TRY(open_folded(r, a, err));
    else
        MG_TRY(mg_quantize_source_open(&r->source, r->in, NULL, err));
    if (!r->source.had_tokenizer)
        say(&a->common.quiet, "the model has no tokenizer files: the result has no tokenizer keys");
    if (has_target(a)) MG_TRY(solve(r, a, err));
    if (a->feedback && !a->common.dry_run) MG_TRY(feed_back(r, a, err));
    if (a->reuse) MG_TRY(mg_reuse_open(&r->reuse, a->reuse, err));
    r->opt.reuse = r->reuse;
    MG_TRY(mg_plan_new(&r->plan, err));
    MG_TRY(MG_ARENA_NEW(&r->arena, &r->out, t->n, err));
    for (size_t i = 0; i < t->n; i++) {
        mg_quantize_report rep;
        MG_TRY(check_not_input(t->in, t->items[i].path, err));
        if (a->reuse) MG_TRY(check_not_input(a->reuse, t->items[i].path, err));
        r->opt.mix.preset = t->items[i].preset;
        MG_TRY(mg_quantize_plan(r->plan, r->source.gguf, t->items[i].path, &r->opt, &rep, &r->out[i], err));
        summarize(&rep, t->items[i].path, &a->common.quiet);
    }
    if (r->reuse) summarize_reuse(r, &a->common.quiet);
    return MG_OK;
}

static mg_exec_options exec_options(const args *a) {
    mg_exec_options opt = mg_tool_exec_options(&a->common, "quantize");
    opt.check_values = true;
    opt.hash_sources = true;
    opt.manifest = !a->no_manifest;
    return opt;
}

/* Options that the other kind of output has no use for. */
static mg_status work_groups(args *a, mg_error *err) {
    const struct {
        bool given;
        const char *name;
    } ggml[] = {{a->pure, "--pure"},
                {a->leave_output, "--leave-output-tensor"},
                {a->output_type != NULL, "--output-tensor-type"},
                {a->embd_type != NULL, "--token-embedding-type"},
                {a->rules.n != 0, "--tensor-type"},
                {a->rule_files.n != 0, "--tensor-type-file"},
                {a->no_fallback, "--no-fallback"},
                {a->imatrix_path != NULL, "--imatrix"},
                {a->overrides.n != 0, "--override-kv"},
                {a->prune.n != 0, "--prune-layers"},
                {a->keep_split, "--keep-split"},
                {a->feedback, "--feedback"},
                {a->outputs.n != 0, "--output"},
                {has_target(a) || a->target_types, "--target-..."}};
    const mg_exec_options opt = exec_options(a);
    for (size_t i = 0; i < sizeof ggml / sizeof *ggml; i++)
        if (ggml[i].given) return mg_fail(err, MG_ERR_USAGE, "%s is not for rounding into group formats", ggml[i].name);
    a->groups.allow_requantize = a->allow_requantize;
    a->groups.samples = a->samples;
    return mg_tool_groups_run(&a->groups, &a->words, &opt, &a->common, a->record, a->sink, err);
}

/* The words, and what took part. */
static mg_status record(const run *r, args *a, mg_error *err) {
    MG_TRY(mg_tool_weights_record(&r->input, r->targets.in, r->plan, a->record, err));
    for (size_t i = 0; i < r->targets.n; i++)
        MG_TRY(mg_record_output(a->record, r->targets.items[i].path, r->targets.items[i].preset->name, err));
    if (a->groups.fold_only) MG_TRY(mg_record_stage(a->record, "folding", false, err));
    if (a->feedback) MG_TRY(mg_record_stage(a->record, "feedback", false, err));
    return has_target(a) ? mg_record_stage(a->record, "types", true, err) : MG_OK;
}

static mg_status work(run *r, args *a, mg_error *err) {
    if (mg_tool_groups_asked(&a->groups, &a->words)) return work_groups(a, err);
    if (mg_tool_groups_option(&a->groups) && !a->groups.fold_only)
        return mg_fail(err, MG_ERR_USAGE, "%s is for group formats (AWQ, GPTQ, RTN), not for GGUF types",
                       mg_tool_groups_option(&a->groups));
    MG_TRY(mg_quantize_targets_parse(&r->targets, &a->words, &a->outputs, err));
    if (r->targets.threads_given && a->common.threads)
        return mg_fail(err, MG_ERR_USAGE, "the thread count is given twice: as NTHREADS and with --threads");
    MG_TRY(set_options(r, a, err));
    MG_TRY(check_text(r, a, err));
    MG_TRY(make_plan(r, a, err));
    if (has_target(a) && !a->sink) MG_TRY(report_solution(r, a, err));
    mg_exec_options opt = exec_options(a);
    if (r->targets.threads) opt.threads = (unsigned)r->targets.threads;
    mg_tool_plan_style style = {.json = a->common.json, .quiet = a->common.quiet, .sizes = true};
    if (a->common.dry_run) return mg_tool_plan_show(r->plan, r->out, r->targets.n, &opt, style, err);
    MG_TRY(record(r, a, err));
    return mg_tool_plan_execute(r->plan, &opt, style, (mg_tool_job){a->record, a->sink}, err);
}

mg_status mg_tool_quantize_run(int argc, char **argv, const mg_tool_sink *sink, mg_error *err) {
    args a = {.sink = sink};
    run r = {0};
    bool done = false;
    mg_common_init(&a.common);
    mg_arena_init(&r.arena, 0);
    mg_type_rules_init(&r.rules);
    mg_status st = mg_record_new(&a.record, mg_tool_quantize_info.name, err);
    if (st == MG_OK) st = parse(&a, argc, argv, &done, err);
    if (st == MG_OK && !done) st = work(&r, &a, err);
    mg_plan_free(r.plan);
    const bool alone = st == MG_OK && !a.common.world; /* else finalize removes what stages keep */
    mg_tool_feedback_close(&r.feedback, alone);
    mg_quantize_source_close(&r.source);
    mg_tool_calib_close(&r.calib, alone);
    mg_model_free(r.model);
    mg_tool_weights_close(&r.input);
    mg_imatrix_free(r.imatrix);
    mg_type_rules_release(&r.rules);
    free(r.solution.recipe);
    mg_reuse_free(r.reuse);
    mg_quantize_targets_release(&r.targets);
    mg_arena_release(&r.arena);
    args_release(&a);
    mg_record_free(a.record);
    return st;
}
