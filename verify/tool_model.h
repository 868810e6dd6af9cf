/* tool_model.h - what the tools that run a model have in common: PATH to model, threads and forward pass. Linked into
 * those tools only, because only tools may use every room. */
#ifndef MG_VERIFY_TOOL_MODEL_H
#define MG_VERIFY_TOOL_MODEL_H

#include "formats/base/options.h"
#include "formats/tokenizer.h"
#include "verify/forward.h"
#include "verify/windows.h"

typedef struct mg_tool_model {
    mg_checkpoint *ckpt;
    mg_model *m;
    struct mg_tool_recipe *recipe; /* owner of both when PATH is a merge YAML */
    mg_pool *pool;
    uint64_t stored; /* bytes of all tensors as they are stored */
} mg_tool_model;

/* Open PATH (see docs/cli.md) and bind it; refuse what the forward pass cannot run. A merge YAML is the model it
 * describes, its routers computed now (which runs the base on the prompts) and its weights evaluated as they are read.
 */
mg_status mg_tool_model_open(mg_tool_model *t, const char *path, mg_error *err) MG_MUST_CHECK;
void mg_tool_model_close(mg_tool_model *t);

/* Bytes of all tensors as stored (packed codes, scales), and values of the weights they stand for. */
void mg_tool_model_size(const mg_tool_model *t, uint64_t *bytes, uint64_t *n_weights);

/* Pool and forward pass as the shared options say. */
typedef struct mg_tool_pass {
    mg_pool *pool;
    mg_forward *f;
} mg_tool_pass;
mg_status mg_tool_pass_new(mg_tool_pass *p, const mg_common *c, mg_error *err) MG_MUST_CHECK;
/* The same, keeping up to keep_bytes of weights between calls (mg_forward_options). Free the pass before its models. */
mg_status mg_tool_pass_new_keeping(mg_tool_pass *p, const mg_common *c, uint64_t keep_bytes,
                                   mg_error *err) MG_MUST_CHECK;
void mg_tool_pass_free(mg_tool_pass *p);

/* The model's tokenizer; a model without one is MG_ERR_UNSUPPORTED and says what to give instead. The caller's. */
mg_status mg_tool_model_tokenizer(mg_tokenizer **out, const mg_tool_model *t, mg_error *err) MG_MUST_CHECK;
/* Windows of every --text (tokenized by t's tokenizer, cut into --ctx tokens, BOS first when the model adds one) and of
 * every --tokens. w is initialised by the caller. */
mg_status mg_tool_model_windows(mg_windows *w, const mg_tool_model *t, const mg_common *c, mg_error *err) MG_MUST_CHECK;

/* MG_ERR_USAGE when they score no position; says on stderr how many sequences of one token score nothing. */
mg_status mg_tool_windows_check(const mg_windows *w, const mg_tool_info *tool, const mg_common *c,
                                mg_error *err) MG_MUST_CHECK;

/* A result on stdout, one line. */
mg_status mg_tool_print_json(const mg_json *json, mg_error *err) MG_MUST_CHECK;

#endif
