/* tool_recipe.c - see tool_recipe.h. */
#include "convert/tool_recipe.h"

#include "formats/base/file.h"
#include "quant/group_checkpoint.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

bool mg_tool_is_recipe(const char *path) {
    const char *dot = strrchr(path, '.');
    return dot && (strcasecmp(dot, ".yml") == 0 || strcasecmp(dot, ".yaml") == 0) && !mg_path_is_dir(path);
}

static mg_status add_texts(mg_merge_spec *spec, const mg_opt_list *text, mg_error *err) {
    for (size_t i = 0; text && i < text->n; i++) {
        char name[1024];
        const char *item = text->items[i], *eq = strchr(item, '=');
        if (!eq || (size_t)(eq - item) >= sizeof name)
            return mg_fail(err, MG_ERR_USAGE, "--text '%s': expected NAME=FILE", item);
        snprintf(name, sizeof name, "%.*s", (int)(eq - item), item);
        MG_TRY(mg_merge_spec_add_text(spec, name, eq + 1, err));
    }
    return MG_OK;
}

static mg_status load_spec(mg_tool_recipe *r, const char *path, const mg_tool_recipe_options *opt, mg_error *err) {
    MG_TRY(mg_merge_spec_load(&r->spec, path, err));
    MG_TRY(add_texts(r->spec, opt->text, err));
    if (opt->gate)
        MG_TRY(mg_merge_spec_set_gate(r->spec, opt->gate, err));
    else if (opt->mergekit_defaults && !r->spec->gate_mode_given)
        MG_TRY(mg_merge_spec_set_gate(r->spec, "hidden", err));
    if (opt->experts_per_token) r->spec->experts_per_token = opt->experts_per_token;
    return mg_merge_spec_check(r->spec, opt->same_models, err);
}

static mg_status open_moe(mg_tool_recipe *r, const char *path, mg_pool *pool, const mg_tool_recipe_options *opt,
                          mg_error *err) {
    MG_TRY(load_spec(r, path, opt, err));
    MG_TRY(mg_forward_new(&r->forward, pool, NULL, err));
    mg_evaluator eval = mg_forward_evaluator(r->forward);
    mg_merge_run_options run = opt->run;
    run.eval = &eval;
    run.pool = pool;
    MG_TRY(mg_merge_run_new(&r->moe, r->spec, &run, err));
    r->gate_file = !opt->gate && r->spec->gate_mode == MG_GATE_FILE ? r->spec->gate_file : NULL;
    r->plan = r->moe->plan;
    r->out = r->moe->out;
    r->ckpt = r->moe->ckpt;
    return MG_OK;
}

static mg_status open_dense(mg_tool_recipe *r, const char *path, const mg_tool_recipe_options *opt, mg_error *err) {
    if (opt->gate || (opt->text && opt->text->n))
        return mg_fail(err, MG_ERR_USAGE, "--gate and --text mean nothing for a dense merge");
    MG_TRY(mg_dense_spec_load(&r->dense_spec, path, err));
    r->dense_spec->seed = opt->run.seed;
    MG_TRY(mg_dense_run_new(&r->dense, r->dense_spec, opt->run.dir, opt->run.shard_size, err));
    r->plan = r->dense->plan;
    r->out = r->dense->out;
    r->ckpt = r->dense->ckpt;
    return MG_OK;
}

mg_status mg_tool_recipe_open(mg_tool_recipe *r, const char *path, mg_pool *pool, const mg_tool_recipe_options *opt,
                              mg_error *err) {
    bool dense;
    MG_TRY(mg_merge_is_dense(path, &dense, err));
    return dense ? open_dense(r, path, opt, err) : open_moe(r, path, pool, opt, err);
}

mg_status mg_tool_recipe_record(const mg_tool_recipe *r, mg_record *record, mg_error *err) {
    if (!r->spec) return MG_OK; /* dense: recipes of tensors say it all */
    if (r->gate_file) MG_TRY(mg_record_named(record, r->gate_file, err));
    if (r->spec->trunk_regmean) MG_TRY(mg_record_stage(record, "trunk", false, err));
    if (r->spec->exchange_fit) MG_TRY(mg_record_stage(record, "exchange maps", false, err));
    return mg_record_stage(record, "routers", false, err);
}

void mg_tool_recipe_close(mg_tool_recipe *r) {
    mg_merge_run_free(r->moe);
    mg_merge_spec_free(r->spec);
    mg_dense_run_free(r->dense);
    mg_dense_spec_free(r->dense_spec);
    mg_forward_free(r->forward);
    *r = (mg_tool_recipe){0};
}

mg_status mg_tool_weights_open(mg_tool_weights *in, const char *path, unsigned threads, mg_error *err) {
    const mg_tool_recipe_options opt = {.run = {.dir = path}}; /* names the output of a plan that is never executed */
    if (!mg_tool_is_recipe(path)) return mg_group_checkpoint_open(&in->ckpt, path, err);
    MG_TRY(mg_pool_new(&in->pool, threads, err));
    MG_TRY(mg_tool_recipe_open(&in->recipe, path, in->pool, &opt, err));
    in->ckpt = in->recipe.ckpt;
    in->ckpt->n_files = 0; /* none that a manifest of what is made from it could list: its dir is the base's */
    return MG_OK;
}

mg_status mg_tool_weights_record(const mg_tool_weights *in, const char *path, mg_plan *p, mg_record *record,
                                 mg_error *err) {
    if (!in->recipe.plan) return mg_record_word(record, MG_RECORD_MODEL, in->ckpt->path, err);
    MG_TRY(mg_record_word(record, MG_RECORD_FILE, path, err));
    MG_TRY(mg_plan_add_inputs(p, in->recipe.plan, err));
    return mg_tool_recipe_record(&in->recipe, record, err);
}

void mg_tool_weights_close(mg_tool_weights *in) {
    if (!in->pool) mg_checkpoint_free(in->ckpt);
    mg_tool_recipe_close(&in->recipe);
    mg_pool_free(in->pool);
    *in = (mg_tool_weights){0};
}
