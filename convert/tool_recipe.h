/* tool_recipe.h - a merge YAML opened as a model: planned, its routers computed, nothing written. Used by merge, and by
 * every tool that takes a model PATH. Linked into tools only, because it joins the merge with the forward pass. */
#ifndef MG_CONVERT_TOOL_RECIPE_H
#define MG_CONVERT_TOOL_RECIPE_H

#include "convert/merge_dense.h"
#include "convert/merge_run.h"
#include "convert/record.h"
#include "formats/base/options.h"
#include "verify/forward.h"

typedef struct mg_tool_recipe_options {
    const char *gate;           /* gate mode instead of the recipe's; NULL */
    const mg_opt_list *text;    /* NAME=FILE: more prompts; NULL */
    uint32_t experts_per_token; /* instead of the recipe's; 0; MG_EXPERTS_ALL */
    bool same_models;           /* experts may all be the same model */
    bool mergekit_defaults;     /* an absent gate mode is 'hidden' */
    mg_merge_run_options run;   /* eval and pool are filled in here */
} mg_tool_recipe_options;

typedef struct mg_tool_recipe {
    mg_forward *forward;
    mg_merge_spec *spec;
    mg_merge_run *moe; /* a mixture of experts, or */
    mg_dense_spec *dense_spec;
    mg_dense_run *dense; /* a dense merge */
    mg_plan *plan;
    uint32_t out; /* its directory output */
    mg_checkpoint *ckpt;
    const char *gate_file; /* that the recipe itself names, NULL */
} mg_tool_recipe;

/* True when path names a YAML file rather than a model. */
bool mg_tool_is_recipe(const char *path);
/* r is zeroed by the caller and closed in every case. */
mg_status mg_tool_recipe_open(mg_tool_recipe *r, const char *path, mg_pool *pool, const mg_tool_recipe_options *opt,
                              mg_error *err) MG_MUST_CHECK;
void mg_tool_recipe_close(mg_tool_recipe *r);
/* The files that it names and the stages that took part, into the record. */
mg_status mg_tool_recipe_record(const mg_tool_recipe *r, mg_record *record, mg_error *err) MG_MUST_CHECK;

/* A PATH whose weights a tool reads: a recipe's model, or what is stored, decoded where it is in a group format. */
typedef struct mg_tool_weights {
    mg_checkpoint *ckpt;
    mg_pool *pool; /* of a recipe, with the next */
    mg_tool_recipe recipe;
} mg_tool_weights;

/* in is zeroed by the caller and closed in every case. threads: for a recipe's routers; 0: all. */
mg_status mg_tool_weights_open(mg_tool_weights *in, const char *path, unsigned threads, mg_error *err) MG_MUST_CHECK;
void mg_tool_weights_close(mg_tool_weights *in);
/* Into the record of p, which was made of it: the word, path as it was opened; of a recipe also what took part, and its
 * models among p's inputs, because a stage may have come between them and the tensors of p. */
mg_status mg_tool_weights_record(const mg_tool_weights *in, const char *path, mg_plan *p, mg_record *record,
                                 mg_error *err) MG_MUST_CHECK;

#endif
