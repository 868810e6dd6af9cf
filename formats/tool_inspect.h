/* tool_inspect.h - between the files of moegraft-inspect: what was opened, and the two ways of saying it. */
#ifndef MG_FORMATS_TOOL_INSPECT_H
#define MG_FORMATS_TOOL_INSPECT_H

#include "convert/tool_recipe.h"
#include "formats/arch/arch.h"
#include "quant/scan.h"

typedef struct inspection {
    mg_common common;
    bool tensors, kv, stats, hash;
    const char *path;
    mg_tool_weights merged; /* a recipe's model, which owns ckpt */
    mg_checkpoint *ckpt;    /* NULL for a bare configuration */
    mg_checkpoint *dense;   /* what the model is read from: ckpt itself, or the dense view that owns it */
    mg_json *own_config;    /* of a bare configuration */
    const mg_json *config;
    mg_model *model; /* NULL: family unknown, see why_no_model */
    mg_error why_no_model;
    mg_scan *scan; /* [n_tensors] when stats or hash were asked for */
} inspection;

/* Experts of a token, as asked for or as the model says. Needs in->model. */
int64_t inspect_per_token(const inspection *in);

/* A file that is no model (captures, importance matrices) has no family, and that is no error. */
bool inspect_is_model(const inspection *in);

typedef struct type_sum {
    uint64_t tensors, elements, bytes;
} type_sum;

/* What all tensors hold together, and what those of each type hold. */
type_sum inspect_types(const inspection *in, type_sum by[MG_DTYPE_COUNT]);
double inspect_bits_per_weight(type_sum s);

/* hf, gguf, ...: the container. */
const char *inspect_format(const inspection *in);

/* Names of the tokenizer's files or of its GGUF kind; "" when there is none. */
void inspect_tokenizer(const inspection *in, char *buf, size_t size);

/* Where a chat template is kept, or NULL. */
const char *inspect_template(const inspection *in);

/* Programs that load it, or NULL. */
const char *inspect_runs_in(const inspection *in);

/* The report on stdout. */
void inspect_print(const inspection *in);
mg_status inspect_print_json(const inspection *in, mg_error *err) MG_MUST_CHECK;

#endif
