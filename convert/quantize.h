/* quantize.h - plans that store a model's GGUF form with other dtypes, as llama-quantize does: tensor order, keys,
 * dtypes and therefore whole files equal its own (docs/quantize.md lists the differences).
 *
 * Nothing is read but headers and the importance matrix; the bytes move when the plan is executed. One input may feed
 * several outputs of one plan, which then share every read. `merge --to TYPE` is mg_quantize_source_open on the
 * checkpoint of the merge plan, then mg_quantize_plan. */
#ifndef MG_CONVERT_QUANTIZE_H
#define MG_CONVERT_QUANTIZE_H

#include "convert/convert.h"
#include "quant/imatrix.h"
#include "quant/mix.h"

/* --override-kv KEY=TYPE:VALUE. int is stored as u32 of the absolute value, as llama-quantize does. */
typedef struct mg_kv_override {
    char key[128];
    mg_kv_type type; /* U32, F32, BOOL or STR */
    uint32_t u32;
    float f32;
    bool flag;
    const char *str; /* borrowed from the text, at most 127 bytes */
} mg_kv_override;
mg_status mg_kv_override_parse(mg_kv_override *o, const char *text, mg_error *err) MG_MUST_CHECK;

/* What a stage of error feedback made of in (group_stage.h). */
typedef struct mg_quantize_feedback {
    mg_checkpoint *ckpt; /* in with some tensors in other types: those are taken where the type is the wanted one */
    mg_xxh128 id;        /* of what it went by */
} mg_quantize_feedback;

struct mg_reuse;
typedef struct mg_quantize_options {
    mg_mix_options mix;                   /* preset and dtype choices; have_imatrix is derived */
    bool allow_requantize;                /* sources in block dtypes are refused otherwise */
    bool fixed;                           /* corrected encoders (quant/fixed.h) instead of the reference's bytes */
    struct mg_reuse *reuse;               /* reuse.h: encoded tensors may be copied from there; NULL for none */
    const mg_quantize_feedback *feedback; /* NULL for none */
    bool estimate;                        /* dry run: a missing importance matrix is reported, not refused */
    const mg_imatrix *imatrix;            /* NULL or without entries: none */
    const char *imatrix_name;             /* stored as quantize.imatrix.file (first 127 bytes) */
    const mg_kv_override *overrides;      /* also seen by the mix */
    size_t n_overrides;
    const uint32_t *prune; /* blocks to leave out, ascending, no duplicates; the rest is renumbered */
    size_t n_prune;
    bool keep_split; /* the parts of the input, each tensor where it was; order and mix follow the parts */
    void (*note)(void *ctx, const char *text); /* one line about something the user should know; NULL: dropped */
    void *note_ctx;
} mg_quantize_options;
#define MG_QUANTIZE_OPTIONS_INIT                                                                                       \
    { .mix = MG_MIX_OPTIONS_INIT }

typedef struct mg_quantize_report {
    uint32_t n_tensors, n_pruned;
    uint32_t n_encoded;  /* tensors whose dtype changes */
    uint32_t n_fallback; /* of them, in another dtype than the mix wanted because of their row length */
    uint32_t
        n_unweighted; /* encoded without importance weights although a matrix was given and the codec would use them */
    uint32_t n_feedback;      /* of the encoded ones, with error feedback */
    uint64_t n_empty_experts; /* expert matrices no calibration token reached (weights 1) */
    bool needs_imatrix;       /* only under estimate: doing it for real needs --imatrix */
} mg_quantize_report;

/* Add the output file path to plan p: in's tensors under opt. in holds GGUF names and keys (a .gguf, or the checkpoint
 * of a plan that writes one) and must outlive p, as must opt->imatrix until this returns. report may be NULL. */
mg_status mg_quantize_plan(mg_plan *p, mg_checkpoint *in, const char *path, const mg_quantize_options *opt,
                           mg_quantize_report *report, uint32_t *out, mg_error *err) MG_MUST_CHECK;

/* One tensor of the output of mg_quantize_plan, before its plan. */
typedef struct mg_quantize_item {
    const char *name;     /* of the output; borrowed from in */
    uint32_t tensor;      /* in in */
    mg_dtype target;      /* as the mix and the options have it */
    bool open;            /* encoded into a block dtype, and no option names that dtype: another one may be chosen */
    const float *weights; /* importance values of the tensor, borrowed from opt->imatrix; NULL: none */
    uint64_t n_weights;
} mg_quantize_item;
/* What mg_quantize_plan would store, in its order. items are in a. Errors as there. */
mg_status mg_quantize_items(mg_checkpoint *in, const mg_quantize_options *opt, mg_arena *a, mg_quantize_item **items,
                            uint32_t *n, mg_error *err) MG_MUST_CHECK;

/* The GGUF form of any model, without writing it. A GGUF is used as it is; for other layouts the model is opened and
 * planned as `convert --outtype auto` would write it, so that quantizing it gives the bytes of convert followed by
 * quantize. */
typedef struct mg_quantize_source {
    mg_checkpoint *gguf; /* what mg_quantize_plan takes; borrowed or owned by the fields below */
    mg_model *model;     /* NULL when the input is a GGUF */
    mg_plan *plan;
    mg_checkpoint *planned;
    bool had_tokenizer; /* false: tokenizer keys are missing because the source has no tokenizer files */
} mg_quantize_source;
/* in: files or a plan; outlives s. opt: names and side files of the conversion, NULL for the defaults (dtype and
 * file_type are set here). */
mg_status mg_quantize_source_open(mg_quantize_source *s, mg_checkpoint *in, const mg_convert_gguf_options *opt,
                                  mg_error *err) MG_MUST_CHECK;
/* The same for an opened model whose weights are F32 (a variant); borrowed. */
mg_status mg_quantize_source_of_model(mg_quantize_source *s, mg_model *m, mg_error *err) MG_MUST_CHECK;
void mg_quantize_source_close(mg_quantize_source *s);

#endif
