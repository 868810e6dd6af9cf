/* tool_merge.c - moegraft-merge: donors in, a mixture of experts out, as a Hugging Face directory or straight to GGUF
 * files of any type in one pass over the donors. Dense recipes (merge_method: linear) take the same way. */
#include "convert/quantize.h"
#include "convert/tool_recipe.h"
#include "convert/tool_runs.h"

#include "formats/arch/arch_file.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

const mg_tool_info mg_tool_merge_info = {
    .name = "merge",
    .summary = "merge dense models into a mixture of experts",
    .synopsis = "CONFIG OUT [--to TYPE]\nCONFIG -o FILE=TYPE [-o FILE=TYPE]...",
    .examples = "  moegraft-merge moe.yml moe4                            a Hugging Face directory\n"
                "  moegraft-merge moe.yml moe4-Q4_K_M.gguf --to Q4_K_M    donors to a quantized file in one pass\n"
                "  moegraft-merge moe.yml -o a.gguf=Q4_K_M -o b.gguf=Q8_0 --gate hidden\n",
    .next = "moegraft merge --help",
};

typedef struct args {
    mg_common c;
    mg_opt_list words, outputs, text;
    const char *to, *gate, *model_name, *compat;
    uint64_t seed, shard_size;
    bool same_models, manifest;
    mg_record *record;
    const mg_tool_sink *sink;
} args;

/* A quantized output: where and as what. */
typedef struct target {
    char path[4096];
    const mg_preset *preset;
} target;

typedef struct run {
    mg_pool *pool;
    mg_tool_recipe recipe;
    mg_quantize_source source;
    mg_plan *gguf_plan;
    target *targets;
    size_t n_targets;
    char stage_path[4096], trunk_path[4096], exchange_path[4096];
    int lock; /* while what ranks share is computed; 0: none */
} run;

static mg_status parse(args *a, int argc, char **argv, bool *done, mg_error *err) {
    const mg_opt opts[] = {
        {NULL, MG_OPT_GROUP, NULL, NULL, "Result"},
        {"--to", MG_OPT_STR, &a->to, "TYPE", "write OUT as a GGUF file of this type or preset (Q8_0, Q4_K_M ...)"},
        {"--output,-o", MG_OPT_LIST, &a->outputs, "FILE=TYPE", "a GGUF output; repeatable, all from one pass"},
        {"--model-name", MG_OPT_STR, &a->model_name, "S", "general.name of GGUF outputs"},
        {"--out-shard-size", MG_OPT_SIZE, &a->shard_size, "SIZE", "largest shard of a directory output (default 5B)"},
        {"--manifest", MG_OPT_FLAG, &a->manifest, NULL, "write NAME.manifest.json: inputs, recipe and hashes"},
        {NULL, MG_OPT_GROUP, NULL, NULL, "Routers"},
        {"--gate", MG_OPT_STR, &a->gate, "MODE",
         "fit, hidden, hidden_avg, cheap_embed, random, uniform_random, orthogonal, keep, svd, or a safetensors file "
         "of "
         "router rows; overrides the recipe"},
        {"--text", MG_OPT_LIST, &a->text, "NAME=FILE",
         "more positive prompts of an expert (last part of its path, or its index), one per line"},
        {"--compat", MG_OPT_STR, &a->compat, "mergekit",
         "mergekit's defaults: a recipe without gate_mode means hidden"},
        {"--random-seed", MG_OPT_U64, &a->seed, "N", "seed of random routers (default 0)"},
        {"--i-understand-this-is-not-useful-without-training", MG_OPT_FLAG, &a->same_models, NULL,
         "accept experts that are all the same model"},
        MG_COMMON_MODEL_OPTS(a->c),
        MG_COMMON_WRITE_OPTS(a->c),
        MG_ARCH_OPT,
        MG_COMMON_JSON_OPT(a->c),
        MG_COMMON_EXEC_OPTS(a->c),
        MG_MERGEKIT_NOOP_OPTS,
        MG_COMMON_RANK_OPTS(a->c),
        MG_COMMON_VERIFY_OPT(a->c),
        {0},
    };
    MG_TRY(mg_options_parse(&mg_tool_merge_info, opts, argc, argv, &a->words, done, err));
    if (*done) return MG_OK;
    MG_TRY(mg_common_finish(&a->c, err));
    if (!a->sink) MG_TRY(mg_common_ranks(&a->c, &mg_tool_merge_info, err));
    if (a->compat && strcmp(a->compat, "mergekit") != 0)
        return mg_fail(err, MG_ERR_USAGE, "--compat '%s': only mergekit is known", a->compat);
    size_t expected = a->outputs.n ? 1 : 2;
    if (a->words.n != expected || (a->to && a->outputs.n))
        return mg_fail(err, MG_ERR_USAGE, "expected CONFIG OUT [--to TYPE], or CONFIG and -o FILE=TYPE");
    return mg_record_options(a->record, opts, err);
}

static void say(void *ctx, const char *text) {
    const args *a = ctx;
    if (!a->c.quiet) fprintf(stderr, "moegraft-merge: %s\n", text);
}

/* ---- targets ---- */

static mg_status add_target(run *r, const char *path, size_t n, const char *type, mg_error *err) {
    target *t = &r->targets[r->n_targets];
    if (n == 0 || n >= sizeof t->path)
        return mg_fail(err, MG_ERR_USAGE, "output name '%.*s' is empty or too long", (int)n, path);
    snprintf(t->path, sizeof t->path, "%.*s", (int)n, path);
    if (strcasecmp(type, "AWQ") == 0 || strcasecmp(type, "GPTQ") == 0 || strcasecmp(type, "RTN") == 0)
        return mg_fail(err, MG_ERR_USAGE, "'%s' is a group format: moegraft quantize CONFIG OUT %s", type, type);
    MG_TRY(mg_preset_parse(type, &t->preset, err));
    r->n_targets++;
    return MG_OK;
}

static mg_status parse_targets(run *r, const args *a, mg_error *err) {
    r->targets = calloc(a->outputs.n + 1, sizeof *r->targets);
    if (!r->targets) return mg_fail_nomem(err, (a->outputs.n + 1) * sizeof *r->targets);
    if (a->to) return add_target(r, a->words.items[1], strlen(a->words.items[1]), a->to, err);
    for (size_t i = 0; i < a->outputs.n; i++) {
        const char *text = a->outputs.items[i], *eq = strrchr(text, '=');
        if (!eq) return mg_fail(err, MG_ERR_USAGE, "-o '%s': expected FILE=TYPE", text);
        MG_TRY(add_target(r, text, (size_t)(eq - text), eq + 1, err));
    }
    return MG_OK;
}

/* The model's name as a directory of it would be called: "x/moe4-Q4_K_M.gguf" of type Q4_K_M is "moe4". */
static void name_of_target(const target *t, char *buf, size_t size) {
    const char *slash = strrchr(t->path, '/'), *name = slash ? slash + 1 : t->path, *type = t->preset->name;
    size_t n = strlen(name), k = strlen(type);
    if (n > 5 && strcasecmp(name + n - 5, ".gguf") == 0) n -= 5;
    if (n > k + 1 && strncasecmp(name + n - k, type, k) == 0 && strchr("-._", name[n - k - 1])) n -= k + 1;
    snprintf(buf, size, "%.*s", (int)n, name);
}

/* ---- the merge ---- */

/* What is computed before the plan waits while the merge is not finished: ".NAME.WHAT.safetensors" beside the first
 * output. Too long a name: nothing is kept. */
static void set_stage_path(char *path, size_t size, const char *out, const char *what) {
    size_t n = strlen(out);
    while (n > 1 && out[n - 1] == '/') n--;
    size_t start = n;
    while (start && out[start - 1] != '/') start--;
    int used = snprintf(path, size, "%.*s.%.*s.%s.safetensors", (int)start, out, (int)(n - start), out + start, what);
    if (used < 0 || (size_t)used >= size) path[0] = 0;
}

static const char *kept(const args *a, const char *path) {
    return a->c.dry_run || !path[0] ? NULL : path;
}

static mg_status open_recipe(run *r, args *a, const char *dir, mg_error *err) {
    mg_tool_recipe_options opt = {.gate = a->gate,
                                  .text = &a->text,
                                  .experts_per_token = a->c.experts_per_token,
                                  .same_models = a->same_models,
                                  .mergekit_defaults = a->compat != NULL,
                                  .run = {.seed = a->seed,
                                          .dir = dir,
                                          .shard_size = a->shard_size,
                                          .stage_path = kept(a, r->stage_path),
                                          .trunk_path = kept(a, r->trunk_path),
                                          .exchange_path = kept(a, r->exchange_path),
                                          .note = say,
                                          .note_ctx = a}};
    return mg_tool_recipe_open(&r->recipe, a->words.items[0], r->pool, &opt, err);
}

/* The merged model to GGUF, one output per target, from one evaluation of every row. */
static mg_status plan_targets(run *r, args *a, uint32_t *out, mg_error *err) {
    char name[1024];
    name_of_target(&r->targets[0], name, sizeof name);
    mg_convert_gguf_options convert = {.name = a->model_name, .dir_name = name};
    MG_TRY(mg_quantize_source_open(&r->source, r->recipe.ckpt, &convert, err));
    if (!r->source.had_tokenizer) say(a, "the base has no tokenizer files: the result has no tokenizer keys");
    MG_TRY(mg_plan_new(&r->gguf_plan, err));
    mg_quantize_options q = MG_QUANTIZE_OPTIONS_INIT;
    q.estimate = a->c.dry_run;
    if (a->c.verbose) {
        q.note = say;
        q.note_ctx = a;
    }
    for (size_t i = 0; i < r->n_targets; i++) {
        mg_quantize_report rep;
        q.mix.preset = r->targets[i].preset;
        MG_TRY(mg_quantize_plan(r->gguf_plan, r->source.gguf, r->targets[i].path, &q, &rep, &out[i], err));
    }
    return MG_OK;
}

/* The words, and what took part. */
static mg_status record(const run *r, args *a, mg_error *err) {
    MG_TRY(mg_record_word(a->record, MG_RECORD_FILE, a->words.items[0], err));
    if (!a->outputs.n) MG_TRY(mg_record_word(a->record, MG_RECORD_OUTPUT, a->words.items[1], err));
    for (size_t i = 0; a->outputs.n && i < r->n_targets; i++)
        MG_TRY(mg_record_output(a->record, r->targets[i].path, r->targets[i].preset->name, err));
    return mg_tool_recipe_record(&r->recipe, a->record, err);
}

static mg_status work(run *r, args *a, mg_error *err) {
    MG_TRY(parse_targets(r, a, err));
    const char *first = a->outputs.n ? r->targets[0].path : a->words.items[1];
    set_stage_path(r->stage_path, sizeof r->stage_path, first, "router");
    set_stage_path(r->trunk_path, sizeof r->trunk_path, first, "trunk");
    set_stage_path(r->exchange_path, sizeof r->exchange_path, first, "exchange");
    MG_TRY(mg_pool_new(&r->pool, a->c.n_threads, err));
    MG_TRY(mg_tool_stage_lock(&r->lock, &a->c, first, err));
    MG_TRY(open_recipe(r, a, first, err));
    mg_tool_stage_unlock(&r->lock);
    uint32_t *out = calloc(r->n_targets + 1, sizeof *out);
    if (!out) return mg_fail_nomem(err, sizeof *out);
    out[0] = r->recipe.out;
    mg_status st = r->n_targets ? plan_targets(r, a, out, err) : MG_OK;
    mg_plan *plan = r->n_targets ? r->gguf_plan : r->recipe.plan;
    mg_exec_options opt = mg_tool_exec_options(&a->c, "merge");
    opt.manifest = a->manifest;
    mg_tool_plan_style style = {.json = a->c.json, .quiet = a->c.quiet};
    if (st == MG_OK) st = record(r, a, err);
    if (st == MG_OK)
        st = a->c.dry_run ? mg_tool_plan_show(plan, out, r->n_targets ? r->n_targets : 1, &opt, style, err)
                          : mg_tool_plan_execute(plan, &opt, style, (mg_tool_job){a->record, a->sink}, err);
    free(out);
    /* other ranks may need them still: finalize removes them then */
    if (st == MG_OK && !a->c.world && kept(a, r->stage_path)) unlink(r->stage_path);
    if (st == MG_OK && !a->c.world && kept(a, r->trunk_path)) unlink(r->trunk_path);
    if (st == MG_OK && !a->c.world && kept(a, r->exchange_path)) unlink(r->exchange_path);
    return st;
}

mg_status mg_tool_merge_run(int argc, char **argv, const mg_tool_sink *sink, mg_error *err) {
    args a = {.sink = sink};
    run r = {0};
    bool done = false;
    mg_common_init(&a.c);
    mg_status st = mg_record_new(&a.record, mg_tool_merge_info.name, err);
    if (st == MG_OK) st = parse(&a, argc, argv, &done, err);
    if (st == MG_OK && !done) st = work(&r, &a, err);
    mg_tool_stage_unlock(&r.lock);
    mg_plan_free(r.gguf_plan);
    mg_quantize_source_close(&r.source);
    mg_tool_recipe_close(&r.recipe);
    mg_pool_free(r.pool);
    free(r.targets);
    mg_opt_list *lists[] = {&a.words, &a.outputs, &a.text};
    for (size_t i = 0; i < 3; i++) mg_opt_list_release(lists[i]);
    mg_common_release(&a.c);
    mg_record_free(a.record);
    return st;
}
