/* tool_inputs.h - what verify compares: models and recordings, and the tokens they are compared on. Linked into tools
 * only. */
#ifndef MG_VERIFY_TOOL_INPUTS_H
#define MG_VERIFY_TOOL_INPUTS_H

#include "verify/common_vocab.h"
#include "verify/tokenizer_diff.h"
#include "verify/tool_model.h"
#include "verify/walk.h"

typedef struct mg_tool_input {
    const char *path;
    mg_tool_model model;         /* model.m NULL: recorded */
    mg_recorded *recorded;       /* NULL: a model */
    uint64_t bytes, n_weights;   /* of all tensors; 0 for a recording */
    uint64_t rows, known;        /* of its vocabulary, as in mg_vocab_side */
    mg_tokenizer_diff tokenizer; /* beside the one that reads the text */
} mg_tool_input;

typedef struct mg_tool_inputs {
    mg_tool_input *items;
    uint32_t n;
    mg_tool_input *text; /* whose tokenizer reads text: the first model; NULL: all are recorded */
    mg_tokenizer *tok;   /* its; NULL: none, or a kind that is not understood */
    mg_windows windows;
    char text_name[512]; /* of files, "built-in text", or what was recorded */
    char text_sha256[65];
} mg_tool_inputs;

/* in is zeroed by the caller and released in every case. */
mg_status mg_tool_inputs_open(mg_tool_inputs *in, const mg_opt_list *paths, mg_error *err) MG_MUST_CHECK;
void mg_tool_inputs_release(mg_tool_inputs *in);
/* What the tokenizers of all models know, and how they differ from the one that reads the text. */
mg_status mg_tool_inputs_tokenizers(mg_tool_inputs *in, mg_error *err) MG_MUST_CHECK;
/* *ids over which these n inputs (indexes of items) are compared, once the windows are there (common_vocab.h). Also
 * MG_ERR_CONFLICT: outputs of different height, and a tokenizer in which tokens mean something else. */
mg_status mg_tool_inputs_common(const mg_tool_inputs *in, const uint32_t *which, uint32_t n, uint64_t *ids,
                                mg_error *err) MG_MUST_CHECK;
/* Windows of --text and --tokens; else those of the first recording; else of the built-in text. */
mg_status mg_tool_inputs_windows(mg_tool_inputs *in, const mg_common *c, mg_error *err) MG_MUST_CHECK;

mg_walk_source mg_tool_input_source(const mg_tool_input *i);

#endif
