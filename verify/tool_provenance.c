/* tool_provenance.c - see tool_provenance.h. */
#include "verify/tool_provenance.h"

#include <stdio.h>
#include <stdlib.h>

#include "convert/provenance.h"
#include "convert/tool_recipe.h"
#include "verify/tool_inputs.h"
#include "verify/tool_replay.h"

typedef struct run {
    const mg_tool_provenance *o;
    mg_pool *pool;
    mg_provenance p;
    mg_tool_recipe recipe;
    mg_imatrix *imatrix;
    const char **places;
    size_t n_places;
    bool proven;      /* by work done again */
    uint32_t n_files; /* that are others than stated */
    uint32_t n[MG_PROOF_COUNT];
} run;

/* A manifest without `made`: a recipe among the paths is opened, which computes its routers. */
static mg_status open_recipe(run *r, mg_error *err) {
    const mg_opt_list *paths = r->o->paths;
    const char *recipe = NULL;
    for (size_t i = 0; i < paths->n; i++) {
        if (!mg_tool_is_recipe(paths->items[i])) continue;
        if (recipe) return mg_fail(err, MG_ERR_USAGE, "--provenance takes one recipe");
        recipe = paths->items[i];
    }
    if (!recipe || r->p.made) return MG_OK;
    const mg_tool_recipe_options opt = {.same_models = true, .run = {.dir = recipe}}; /* never written */
    return mg_tool_recipe_open(&r->recipe, recipe, r->pool, &opt, err);
}

static mg_status take_paths(run *r, mg_error *err) {
    const mg_opt_list *paths = r->o->paths;
    r->places = calloc(paths->n + 2, sizeof *r->places);
    if (!r->places) return mg_fail_nomem(err, paths->n * sizeof *r->places);
    for (size_t i = 0; i < paths->n; i++) r->places[r->n_places++] = paths->items[i];
    if (r->o->imatrix) r->places[r->n_places++] = r->o->imatrix;
    return open_recipe(r, err);
}

/* Files that are others than stated. */
static mg_json *files_json(const run *r) {
    mg_json *files = mg_json_new_array();
    for (uint32_t i = 0; i < r->p.n_files; i++) {
        const mg_proof_file *f = &r->p.files[i];
        if (!f->differs) continue;
        mg_json *v = mg_json_new_object();
        mg_json_set_str(v, "name", f->name);
        mg_json_set_str(v, "stated", f->stated);
        mg_json_set(v, "found", f->found[0] ? mg_json_new_str(f->found) : mg_json_new_null());
        mg_json_push(files, v);
    }
    return files;
}

static mg_json *result_json(const run *r) {
    mg_json *o = mg_json_new_object(), *inputs = mg_json_new_array(), *tensors = mg_json_new_array();
    mg_json *counts = mg_json_new_object();
    mg_json_set_i64(o, "schema", 1);
    mg_json_set_str(o, "manifest", r->o->manifest);
    for (uint32_t i = 0; i < r->p.n_inputs; i++) {
        mg_json *in = mg_json_new_object();
        mg_json_set_str(in, "name", r->p.inputs[i].name);
        mg_json_set(in, "path", r->p.inputs[i].path ? mg_json_new_str(r->p.inputs[i].path) : mg_json_new_null());
        mg_json_push(inputs, in);
    }
    for (int k = 0; k < MG_PROOF_COUNT; k++) mg_json_set_i64(counts, mg_proof_name((mg_proof)k), r->n[k]);
    for (uint32_t i = 0; i < r->p.n_tensors; i++) {
        const mg_proof_tensor *t = &r->p.tensors[i];
        if (t->proof == MG_PROOF_SKIPPED || t->proof == MG_PROOF_SAME) continue;
        mg_json *v = mg_json_new_object();
        mg_json_set_str(v, "name", t->name);
        mg_json_set_str(v, "result", mg_proof_name(t->proof));
        mg_json_set_str(v, "note", t->note);
        mg_json_push(tensors, v);
    }
    mg_json_set(o, "inputs", inputs);
    mg_json_set(o, "counts", counts);
    mg_json_set(o, "tensors", tensors); /* those that are not proven */
    mg_json_set(o, "files", files_json(r));
    return o;
}

/* The first 20 tensors of a result. */
static void print_result(const run *r, mg_proof proof) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < r->p.n_tensors; i++) {
        const mg_proof_tensor *t = &r->p.tensors[i];
        if (t->proof == proof && n++ < 20) printf("  %-16s %s: %s\n", mg_proof_name(proof), t->name, t->note);
    }
    if (n > 20) printf("  and %u more (--json)\n", n - 20);
}

static void print_text(const run *r) {
    for (uint32_t i = 0; i < r->p.n_inputs; i++)
        printf("input %s: %s\n", r->p.inputs[i].name,
               r->p.inputs[i].path   ? r->p.inputs[i].path
               : r->p.inputs[i].made ? "made by a stage, not kept"
                                     : "not found, not needed");
    print_result(r, MG_PROOF_STORED);
    print_result(r, MG_PROOF_STATED);
    print_result(r, MG_PROOF_DERIVED);
    print_result(r, MG_PROOF_NOT_DERIVED);
    for (uint32_t i = 0; i < r->p.n_files; i++)
        if (r->p.files[i].differs)
            printf("  file differs     %s: found %s, stated %s\n", r->p.files[i].name,
                   r->p.files[i].found[0] ? r->p.files[i].found : "nothing", r->p.files[i].stated);
    printf("%u tensors derived again and equal, %u not derived, %u of the output differ, %u of changed inputs\n",
           r->n[MG_PROOF_SAME], r->n[MG_PROOF_NOT_DERIVED], r->n[MG_PROOF_STORED] + r->n[MG_PROOF_STATED],
           r->n[MG_PROOF_DERIVED]);
}

/* The first tensor of a result; the run has one. */
static const mg_proof_tensor *first(const run *r, mg_proof proof) {
    uint32_t i = 0;
    while (r->p.tensors[i].proof != proof) i++;
    return &r->p.tensors[i];
}

static mg_status verdict(const run *r, uint32_t *failed, mg_error *err) {
    *failed = r->n[MG_PROOF_STORED] + r->n[MG_PROOF_STATED] + r->n_files;
    if (*failed) return MG_OK;
    if (r->n[MG_PROOF_DERIVED]) {
        const mg_proof_tensor *t = first(r, MG_PROOF_DERIVED);
        return mg_fail(err, MG_ERR_INTEGRITY, "'%s' is not what its inputs give now: %s%s", t->name, t->note,
                       t->again ? "" : " has changed");
    }
    if (r->n[MG_PROOF_SAME]) return MG_OK;
    return mg_fail(err, MG_ERR_UNSUPPORTED, "nothing could be derived: %s", first(r, MG_PROOF_NOT_DERIVED)->note);
}

/* ---- deriving ---- */

/* Importance weights are found in the matrix by their hash, which needs no work to be done again. */
static mg_status plan(run *r, const mg_tool_replay *again, mg_error *err) {
    const char *path = r->o->imatrix;
    MG_TRY(mg_provenance_plan(&r->p, &(mg_provenance_options){.imatrix = r->imatrix, .values = r->recipe.plan}, err));
    if (!mg_provenance_lacks(&r->p) || r->imatrix) return MG_OK;
    if (r->p.made) MG_TRY(mg_tool_replay_file(again, "--imatrix", &path, err));
    if (!path) return MG_OK;
    MG_TRY(mg_imatrix_load(&r->imatrix, path, err));
    return mg_provenance_plan(&r->p, &(mg_provenance_options){.imatrix = r->imatrix, .values = r->recipe.plan}, err);
}

static mg_status prove(run *r, mg_error *err) {
    mg_provenance_options opt = {.pool = r->pool};
    MG_TRY(mg_progress_new(&opt.progress, r->o->common->progress, "provenance", r->p.selected_bytes, err));
    mg_status st = mg_provenance_prove(&r->p, &opt, err);
    mg_progress_free(opt.progress);
    return st;
}

/* The plan of the tool's work done again. */
static mg_status compare(void *ctx, mg_plan *again, mg_error *err) {
    run *r = ctx;
    bool found;
    MG_TRY(mg_provenance_take(&r->p, again, &found, err));
    r->proven = r->proven || found; /* extract --all makes one plan for each */
    return found ? prove(r, err) : MG_OK;
}

static mg_status derive(run *r, mg_error *err) {
    const mg_tool_replay again = {
        .p = &r->p, .places = r->places, .n_places = r->n_places, .work = r->o->work, .common = r->o->common};
    const mg_tool_sink sink = {compare, r};
    MG_TRY(plan(r, &again, err));
    if (!r->p.made || !mg_provenance_lacks(&r->p)) return prove(r, err);
    MG_TRY(mg_tool_replay_run(&again, &sink, err));
    return r->proven ? MG_OK : mg_fail(err, MG_ERR_FORMAT, "the work that the manifest records does not make it");
}

static mg_status work(run *r, uint32_t *failed, mg_error *err) {
    const mg_common *c = r->o->common;
    MG_TRY(mg_pool_new(&r->pool, c->n_threads, err));
    MG_TRY(mg_provenance_open(&r->p, r->o->manifest, err));
    MG_TRY(mg_provenance_select(&r->p, r->o->tensors, r->o->sample, err));
    MG_TRY(take_paths(r, err));
    MG_TRY(mg_provenance_inputs(&r->p, r->places, r->n_places, err));
    MG_TRY(mg_provenance_open_output(&r->p, err));
    MG_TRY(derive(r, err));
    if (!r->o->tensors && !r->o->sample) MG_TRY(mg_provenance_files(&r->p, r->pool, &r->n_files, err));
    for (uint32_t i = 0; i < r->p.n_tensors; i++) r->n[r->p.tensors[i].proof]++;
    if (c->json) {
        mg_json *json = result_json(r);
        mg_status st = mg_tool_print_json(json, err);
        mg_json_free(json);
        MG_TRY(st);
    } else {
        print_text(r);
    }
    return verdict(r, failed, err);
}

mg_status mg_tool_provenance_run(const mg_tool_provenance *o, uint32_t *failed, mg_error *err) {
    run r = {.o = o};
    mg_status st = work(&r, failed, err);
    mg_tool_recipe_close(&r.recipe);
    mg_imatrix_free(r.imatrix);
    mg_provenance_release(&r.p);
    mg_pool_free(r.pool);
    free(r.places);
    return st;
}
