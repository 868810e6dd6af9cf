/* convert.h - plans that write one model in another layout: Hugging Face directory or GGUF, any dtype per tensor.
 *
 * The two planners below take an opened model (over files or over another plan: a merge writes straight to GGUF by
 * opening the merge plan's checkpoint as a model) and add one output with all its tensors, metadata and side files to a
 * plan. convert, quantize and merge differ only in the dtype callback and in the options. */
#ifndef MG_CONVERT_CONVERT_H
#define MG_CONVERT_CONVERT_H

#include "convert/plan.h"

/* One tensor about to be planned, for the dtype callback. */
typedef struct mg_convert_item {
    const char *name; /* in the output */
    mg_role role;
    uint32_t layer;  /* 0 for MODEL scope */
    uint32_t expert; /* 0 unless the output stores experts one by one (HF) */
    uint32_t rank;
    uint64_t shape[MG_MAX_RANK]; /* as stored in the output, slowest first ([E, out, in] for a GGUF expert stack) */
    mg_dtype source;             /* dtype of the source expression */
    mg_dtype stored;             /* what was chosen, once it was */
    bool keep_f32;         /* the reference converter stores it as F32 whatever the outtype: vectors, norms, routers */
    uint32_t index, count; /* position in the output, tensors of the output */
} mg_convert_item;

/* Choose the stored dtype. *dtype comes in as item->source. weights (may stay NULL): importance weights, borrowed until
 * the planner returns, n_slices * cols values as in mg_expr_cast. Called once per tensor in output order. */
typedef mg_status (*mg_convert_dtype_fn)(void *ctx, const mg_convert_item *item, mg_dtype *dtype, const float **weights,
                                         uint64_t *n_weights, mg_error *err);

/* What "convert --outtype T" stores, convert_hf_to_gguf.py's rule: 1-D tensors, norms, routers and tensors not named
 * "*.weight" F32, the rest T, F16 when the row does not fit T's blocks. ctx: const mg_dtype * (F32, F16, BF16 or Q8_0).
 */
mg_status mg_convert_outtype_dtype(void *ctx, const mg_convert_item *item, mg_dtype *dtype, const float **weights,
                                   uint64_t *n_weights, mg_error *err) MG_MUST_CHECK;
/* The same, but a tensor that is MXFP4 blocks stays so. */
mg_status mg_convert_keep_blocks_dtype(void *ctx, const mg_convert_item *item, mg_dtype *dtype, const float **weights,
                                       uint64_t *n_weights, mg_error *err) MG_MUST_CHECK;
/* "auto": BF16 when the first tensor of rank >= 2 of the checkpoint is BF16, else F16. */
mg_dtype mg_convert_auto_dtype(const mg_checkpoint *c);
#define MG_FILE_TYPE_MXFP4_MOE 38u /* general.file_type where blocks of MXFP4 stay */
#define MG_FILE_TYPE_NVFP4     39u /* ... of NVFP4 */
/* general.file_type of an outtype (0, 1, 32, 7); UINT32_MAX for others. */
uint32_t mg_convert_file_type(mg_dtype outtype);

typedef struct mg_convert_gguf_options {
    mg_convert_dtype_fn dtype; /* NULL: every tensor as it is (stored dtypes that GGUF lacks are refused) */
    void *dtype_ctx;
    uint32_t file_type; /* general.file_type; UINT32_MAX keeps that of a GGUF source */
    const char *name;   /* general.name; NULL: from the model card, config and directory name as the converter does */
    const mg_json *override; /* --metadata (gguf_override.h); NULL: none */
    const char *dir_name;    /* directory name for these heuristics; NULL: last component of the checkpoint's path */
    const char
        *side_dir; /* where README.md, generation_config.json and the tokenizer files are; NULL: the checkpoint's dir */
    bool no_tokenizer;   /* leave tokenizer keys out */
    bool *had_tokenizer; /* may be NULL: whether tokenizer keys were written; the tool warns when false */
} mg_convert_gguf_options;

/* Model -> GGUF. From a Hugging Face layout: keys, tensor order and rows of convert_hf_to_gguf.py (rope_freqs first,
 * experts stacked where the last of them is read). From a GGUF: its keys and its tensor order. path: the final file. */
mg_status mg_convert_plan_gguf(mg_plan *p, mg_model *m, const char *path, const mg_convert_gguf_options *opt,
                               uint32_t *out, mg_error *err) MG_MUST_CHECK;

/* Floats as they are, blocks decoded to F32. No ctx. */
mg_status mg_convert_floats_dtype(void *ctx, const mg_convert_item *item, mg_dtype *dtype, const float **weights,
                                  uint64_t *n_weights, mg_error *err) MG_MUST_CHECK;
/* Every tensor in one dtype. ctx: const mg_dtype *. */
mg_status mg_convert_uniform_dtype(void *ctx, const mg_convert_item *item, mg_dtype *dtype, const float **weights,
                                   uint64_t *n_weights, mg_error *err) MG_MUST_CHECK;
/* config.json of a directory output; for families that transformers does not have, the modules that compute them and an
 * auto_map that names these, in place of any the config had. */
mg_status mg_convert_set_config(mg_plan *p, uint32_t out, const struct mg_arch *arch, const mg_json *config,
                                mg_error *err) MG_MUST_CHECK;
/* Copy tokenizer files, chat templates and generation_config.json of dir (may be NULL) into a directory output.
 * had_tokenizer may be NULL. */
mg_status mg_convert_copy_sides(mg_plan *p, uint32_t out, const char *dir, bool *had_tokenizer,
                                mg_error *err) MG_MUST_CHECK;

typedef struct mg_convert_hf_options {
    mg_convert_dtype_fn dtype; /* NULL: every tensor as it is (block dtypes are refused) */
    void *dtype_ctx;
    mg_dtype torch_dtype; /* what config.json says; MG_DTYPE_COUNT: leave it / take the first matrix's dtype */
    uint64_t shard_size;  /* 0: 5e9 */
    const char
        *side_dir; /* tokenizer files and generation_config.json are copied from here; NULL: the checkpoint's dir */
    bool *had_tokenizer; /* may be NULL */
    mg_error
        *no_tokenizer; /* may be NULL: why none was made from a GGUF's keys, code MG_OK when there are no such keys */
    bool blocks;       /* weights that are MXFP4 blocks stay so, in the family's own form (mg_model_has_blocks) */
    bool native;       /* Mistral's own form: consolidated.safetensors with native names, params.json */
} mg_convert_hf_options;

/* Model -> Hugging Face directory dir, per-tensor names of the family. From a GGUF config and tokenizer files are
 * made from its keys; keys that are not understood leave the tokenizer out (had_tokenizer false, no_tokenizer). */
mg_status mg_convert_plan_hf(mg_plan *p, mg_model *m, const char *dir, const mg_convert_hf_options *opt, uint32_t *out,
                             mg_error *err) MG_MUST_CHECK;

#endif
