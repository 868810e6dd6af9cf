/* quantize_groups.h - plans that store a model as a Hugging Face directory of weights quantized in groups (AWQ, GPTQ,
 * compressed-tensors, MLX), from any input a model can be opened from.
 *
 * Quantized is every linear layer inside the decoder; embeddings, output head, norms, biases and routers stay floats.
 * What would not fit the format is refused here, before a byte is written.
 *
 * A stage that knows better than rounding to nearest hands in `make`, which turns one linear into its stored parts. */
#ifndef MG_CONVERT_QUANTIZE_GROUPS_H
#define MG_CONVERT_QUANTIZE_GROUPS_H

#include "convert/convert.h"
#include "formats/arch/arch.h"
#include "quant/group_pack.h"

/* The stored parts of one linear, in the order of form->parts. NULL in the options: mg_expr_group_encode. */
typedef mg_status (*mg_groups_make_fn)(void *ctx, mg_plan *p, const mg_target *t, const mg_expr *weight,
                                       const mg_group_form *form, const mg_expr *parts[MG_GROUP_MAX_PARTS],
                                       mg_error *err);

typedef struct mg_groups_options {
    mg_group_format format;
    uint32_t bits;
    uint64_t group_size; /* 0: whole rows */
    bool symmetric;
    bool v5_names;         /* the newest names of a family's experts instead of those every other loader knows */
    bool allow_requantize; /* accept weights that are quantized already */
    bool as_stored; /* only weights that are MXFP4 already become so; all others are floats: nothing is rounded */
    mg_groups_make_fn make; /* may be NULL */
    void *ctx;
    bool *had_tokenizer; /* may be NULL */
} mg_groups_options;

typedef struct mg_groups_report {
    uint32_t quantized, kept; /* linear layers */
    uint64_t elements;        /* stored: words of packed codes count once */
} mg_groups_report;

/* Weights that are blocks of MXFP4 already are not rounded again by MXFP4 formats: their bits move. */

/* How weights of m are rounded under opt. */
mg_group_scheme mg_groups_scheme(const mg_model *m, const mg_groups_options *opt);
/* Add the output `dir`. m may be opened over a plan or over mg_config_checkpoint. */
mg_status mg_quantize_plan_groups(mg_plan *p, mg_model *m, const char *dir, const mg_groups_options *opt,
                                  mg_groups_report *report, uint32_t *out, mg_error *err) MG_MUST_CHECK;

/* What a format stores beside codes, scales and zeros: *suffix NULL for nothing. */
mg_status mg_groups_companion(mg_plan *p, const mg_group_form *f, const char **suffix, const mg_expr **out,
                              mg_error *err) MG_MUST_CHECK;

/* ---- values (groups_scan.c) ---- */

typedef struct mg_groups_values {
    uint64_t zero_groups; /* groups of zeros only */
} mg_groups_values;

/* Read all weights of a planned output once and fail as writing it would: values that are not finite, scales and floats
 * that their type cannot hold. For formats of whole numbers. */
mg_status mg_groups_scan(const mg_plan *p, uint32_t out, mg_groups_values *v, mg_error *err) MG_MUST_CHECK;

/* ---- config.json (groups_config.c) ---- */

/* Names of linear layers ("model.layers.0.self_attn.q_proj") that are quantized, and of those that are not. */
typedef struct mg_groups_names {
    mg_arena *arena;
    const char **quantized, **kept;
    size_t n_quantized, n_kept;
} mg_groups_names;

/* What loaders want to know, into config, and as the side file of older ones (*side_name NULL: none; the text is
 * malloc'ed). Loaders match the modules to leave alone as substrings, as suffixes or as whole names, each its own way:
 * the lists written select exactly `kept` under all of these. MG_ERR_UNSUPPORTED when no list can. */
mg_status mg_groups_config(mg_json *config, const mg_groups_options *opt, const mg_groups_names *names,
                           const char **side_name, char **side_text, mg_error *err) MG_MUST_CHECK;

#endif
