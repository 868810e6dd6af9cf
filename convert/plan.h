/* plan.h - every output tensor written down as a pure function of input tensors before a byte moves.
 *
 * A plan holds inputs (checkpoints), expressions (small trees over input tensors, in the plan's arena) and outputs
 * (files or directories with their tensors). It can be printed, sized to the byte, hashed, executed, and read as a
 * checkpoint. Expressions carry dtype and shape; evaluating rows [r, r+n) of an expression yields n rows in that dtype.
 */
#ifndef MG_CONVERT_PLAN_H
#define MG_CONVERT_PLAN_H

#include "formats/arch/model.h"
#include "formats/base/hash.h"
#include "formats/base/outfile.h"
#include "formats/base/progress.h"
#include "quant/group_pack.h"

typedef struct mg_plan mg_plan;
typedef struct mg_expr mg_expr; /* arena node; immutable once built */

mg_status mg_plan_new(mg_plan **out, mg_error *err) MG_MUST_CHECK;
void mg_plan_free(mg_plan *p); /* inputs are borrowed, not closed */

/* The inputs of `from` are p's too, whether an expression names them or not: what p reads was computed from them. They
 * are in p's manifests and id. */
mg_status mg_plan_add_inputs(mg_plan *p, const mg_plan *from, mg_error *err) MG_MUST_CHECK;

/* ---- expressions ---- */
/* A stored tensor as it is. Adds ckpt to the plan's inputs when new (ckpt outlives the plan). */
mg_status mg_expr_source(mg_plan *p, mg_checkpoint *ckpt, uint32_t tensor, const mg_expr **out,
                         mg_error *err) MG_MUST_CHECK;
/* A view (model.h), applied to child. ADD yields F32: the sum of a bf16 weight and 1 need not be a bf16. */
mg_status mg_expr_view(mg_plan *p, const mg_expr *child, const mg_view *view, const mg_expr **out,
                       mg_error *err) MG_MUST_CHECK;
/* The role of an opened model in logical order: source plus its views. */
mg_status mg_expr_role(mg_plan *p, mg_model *m, const mg_bound *b, const mg_expr **out, mg_error *err) MG_MUST_CHECK;
/* n children of equal dtype and shape stacked: [n, ...child]. */
mg_status mg_expr_stack(mg_plan *p, const mg_expr *const *children, uint32_t n, const mg_expr **out,
                        mg_error *err) MG_MUST_CHECK;
/* n children concatenated along rows (fused tensors). */
mg_status mg_expr_concat(mg_plan *p, const mg_expr *const *children, uint32_t n, const mg_expr **out,
                         mg_error *err) MG_MUST_CHECK;
/* n matrices of equal dtype and number of rows beside each other: rows of all of them make one row. Blocks stay whole,
 * so each child's rows are whole blocks. */
mg_status mg_expr_beside(mg_plan *p, const mg_expr *const *children, uint32_t n, const mg_expr **out,
                         mg_error *err) MG_MUST_CHECK;
/* Another dtype: decode to f32, encode. weights: importance weights, n_slices * cols values (slice = slowest index of a
 * rank-3 child, else 1 slice), copied; NULL for none. Same dtype: returns child itself. */
mg_status mg_expr_cast(mg_plan *p, const mg_expr *child, mg_dtype dtype, const float *weights, uint64_t n_weights,
                       const mg_expr **out, mg_error *err) MG_MUST_CHECK;
/* The same with the corrected encoder of quant/fixed.h where there is one. */
mg_status mg_expr_cast_fixed(mg_plan *p, const mg_expr *child, mg_dtype dtype, const float *weights, uint64_t n_weights,
                             const mg_expr **out, mg_error *err) MG_MUST_CHECK;
/* child in the type that `tensor` of ckpt has, whose rows a stage has chosen (quant/feedback.h). id: what it went by
 * besides the model. ckpt outlives the plan; its sources are child's. */
mg_status mg_expr_feedback(mg_plan *p, const mg_expr *child, mg_checkpoint *ckpt, uint32_t tensor, mg_xxh128 id,
                           const mg_expr **out, mg_error *err) MG_MUST_CHECK;
/* sum_i factor[i] * child_i in f32, i ascending (fixed order); result F32. */
mg_status mg_expr_linear(mg_plan *p, const mg_expr *const *children, const double *factors, uint32_t n,
                         const mg_expr **out, mg_error *err) MG_MUST_CHECK;
/* Children of equal shape made into one by a merge method (blend.h), child i being its input i; result F32. What the
 * method needs of whole tensors is gathered when the first row is read. */
struct mg_blend;
mg_status mg_expr_blend(mg_plan *p, const mg_expr *const *children, const struct mg_blend *blend, const mg_expr **out,
                        mg_error *err) MG_MUST_CHECK;
/* child + scale * standard normal numbers from seed and the element's number; result F32. */
mg_status mg_expr_noise(mg_plan *p, const mg_expr *child, double scale, uint64_t seed, const mg_expr **out,
                        mg_error *err) MG_MUST_CHECK;
/* w [out, in] + scale * b [out, r] a [r, in], summed over r ascending in f32; result F32. */
mg_status mg_expr_lowrank(mg_plan *p, const mg_expr *w, const mg_expr *b, const mg_expr *a, double scale,
                          const mg_expr **out, mg_error *err) MG_MUST_CHECK;
/* w [out, in] with column k times v[k] (v [in]); result F32. */
mg_status mg_expr_columns(mg_plan *p, const mg_expr *w, const mg_expr *v, const mg_expr **out,
                          mg_error *err) MG_MUST_CHECK;
/* w [out, in], row i times v[i] / its norm (v [out]); result F32. MG_ERR_FORMAT when that is not finite. */
mg_status mg_expr_norms(mg_plan *p, const mg_expr *w, const mg_expr *v, const mg_expr **out,
                        mg_error *err) MG_MUST_CHECK;
/* Values in memory (router rows, rope factors), copied. */
mg_status mg_expr_const(mg_plan *p, mg_dtype dtype, uint32_t rank, const uint64_t *shape, const void *data,
                        const mg_expr **out, mg_error *err) MG_MUST_CHECK;
/* A constant of zeros, in memory like any other. */
mg_status mg_expr_zeros(mg_plan *p, mg_dtype dtype, uint32_t rank, const uint64_t *shape, const mg_expr **out,
                        mg_error *err) MG_MUST_CHECK;
/* Values supplied later (a router being fitted): F32, unreadable until mg_expr_supply. */
mg_status mg_expr_slot(mg_plan *p, uint32_t rank, const uint64_t *shape, const mg_expr **out,
                       mg_error *err) MG_MUST_CHECK;
mg_status mg_expr_supply(mg_plan *p, const mg_expr *slot, const float *data, mg_error *err) MG_MUST_CHECK;

/* What safetensors checkpoints store of a tensor of 4-bit float blocks (quant/fp4_repack.h): its codes or its scales,
 * U8, in a shape of as many bytes. MG_ERR_UNSUPPORTED for other types. */
typedef enum mg_fp4_part { MG_FP4_CODES, MG_FP4_SCALES } mg_fp4_part;
mg_status mg_expr_fp4_part(mg_plan *p, const mg_expr *child, mg_fp4_part part, uint32_t rank, const uint64_t *shape,
                           const mg_expr **out, mg_error *err) MG_MUST_CHECK;
/* NVFP4's global scale of weights that kernels join (F32 [1]; quant/group_floats.h), found when it is first read: each
 * weight is then read once more. model: the type of the model's floats. */
mg_status mg_expr_group_global(mg_plan *p, const mg_expr *const *weights, uint32_t n, mg_dtype model,
                               const mg_expr **out, mg_error *err) MG_MUST_CHECK;
/* The form of a weight [out, in], or of a stack [matrices, out, in]. */
mg_status mg_expr_group_form(mg_group_form *f, mg_group_format format, const mg_group_scheme *s, const mg_expr *weight,
                             mg_error *err) MG_MUST_CHECK;
/* The stored parts (form->parts, in this order) of such a weight rounded to nearest in groups. global: NVFP4's,
 * else NULL. */
mg_status mg_expr_group_encode(mg_plan *p, const mg_expr *weight, const mg_expr *global, const mg_group_form *form,
                               const mg_expr *parts[MG_GROUP_MAX_PARTS], mg_error *err) MG_MUST_CHECK;
/* The same from codes U8 [out, in], scales [out, groups] (F32 that the form's scale type holds exactly) and zeros U8
 * [out, groups], or biases F32 like scales where the format has these, that a stage has chosen. Which group a column
 * belongs to is not asked: g_idx is stored beside them. */
mg_status mg_expr_group_pack(mg_plan *p, const mg_expr *codes, const mg_expr *scales, const mg_expr *offsets,
                             const mg_group_form *form, const mg_expr *parts[MG_GROUP_MAX_PARTS],
                             mg_error *err) MG_MUST_CHECK;

mg_dtype mg_expr_dtype(const mg_expr *e);
uint32_t mg_expr_shape(const mg_expr *e, uint64_t shape[MG_MAX_RANK]); /* returns rank */

/* ---- outputs ---- */
typedef enum mg_out_kind { MG_OUT_GGUF, MG_OUT_HF_DIR, MG_OUT_SAFETENSORS } mg_out_kind;
/* path: final file (GGUF, SAFETENSORS) or directory. */
mg_status mg_plan_add_output(mg_plan *p, mg_out_kind kind, const char *path, uint32_t *out,
                             mg_error *err) MG_MUST_CHECK;
/* Tensors appear in the file in this order. e's dtype and shape are the stored ones; GGUF dims are the reverse of
 * shape. */
mg_status mg_plan_add_tensor(mg_plan *p, uint32_t out, const char *name, const mg_expr *e, mg_error *err) MG_MUST_CHECK;
/* Expression of tensor i of an output (NULL when there is none), in the order of addition. */
const mg_expr *mg_plan_tensor_expr(const mg_plan *p, uint32_t out, uint32_t i);
mg_status mg_plan_set_kv(mg_plan *p, uint32_t out, const mg_kvs *kv, mg_error *err) MG_MUST_CHECK; /* GGUF: copied */
mg_status mg_plan_set_config(mg_plan *p, uint32_t out, const mg_json *config,
                             mg_error *err) MG_MUST_CHECK; /* HF_DIR: copied, written as config.json */
/* Other names than model*.safetensors and config.json: of a native release, `stem`*.safetensors and `config`. Both are
 * literals. */
mg_status mg_plan_set_names(mg_plan *p, uint32_t out, const char *stem, const char *config,
                            mg_error *err) MG_MUST_CHECK;
/* A side file of a directory output, bytes copied into the plan (recipes, tokenizer files). */
mg_status mg_plan_add_side_file(mg_plan *p, uint32_t out, const char *name, const void *data, size_t n,
                                mg_error *err) MG_MUST_CHECK;
/* Shard limit of a safetensors directory in bytes (default 5e9; a larger tensor gets its own shard). */
mg_status mg_plan_set_shard_size(mg_plan *p, uint32_t out, uint64_t bytes, mg_error *err) MG_MUST_CHECK;
/* GGUF: split into parts NAME-00001-of-0000N.gguf, a new one when the next tensor would push a part's tensor data over
 * max_bytes or its number of tensors over max_tensors; 0: no such limit. A larger tensor gets its own part; when all
 * fit in one, that is an ordinary file. The two tools that split differ in bytes: gguf-split (like_gguf_split) counts
 * tensors with their padding and leaves split.count last, convert_hf_to_gguf.py does neither. */
mg_status mg_plan_set_split(mg_plan *p, uint32_t out, uint64_t max_bytes, uint32_t max_tensors, bool like_gguf_split,
                            mg_error *err) MG_MUST_CHECK;
/* GGUF: the same with part[i] for tensor i, in the order of addition, each below n_parts and not falling. */
mg_status mg_plan_set_parts(mg_plan *p, uint32_t out, uint32_t n_parts, const uint32_t *part,
                            mg_error *err) MG_MUST_CHECK;

/* ---- use ---- */
/* Final names, offsets and sizes. Called by the functions below when needed. */
mg_status mg_plan_layout(mg_plan *p, mg_error *err) MG_MUST_CHECK;
/* Identity of everything that determines the bytes (inputs, expressions, layouts, format version). */
mg_status mg_plan_id(mg_plan *p, mg_xxh128 *id, mg_error *err) MG_MUST_CHECK;

typedef struct mg_exec_options {
    unsigned threads; /* 0 = all allowed cores */
    uint64_t memory;  /* byte budget of tiles: fewer workers run when theirs would not fit; 0 = no limit (a worker needs
                         about 8 MiB plus the encoded unit, whatever the model's size) */
    bool restart, force;
    bool in_place; /* an output may be a file that is read: it is replaced when the new one is complete */
    mg_progress_mode progress;
    const char *label;    /* "merge", "convert" ... */
    bool manifest;        /* write NAME.manifest.json beside each output: inputs, recipe, XXH3-128 of tensors, sha256 of
                             files */
    bool check_values;    /* refuse a NaN or an infinity in tensors stored as they are or as F32 (encoders refuse them
                             anyway) */
    bool hash_sources;    /* the manifest also says what encoded tensors were made of, so that they can be reused */
    bool verify_copies;   /* before anything gets its final name: read back every tensor that is stored as it is in its
                             source and compare; MG_ERR_INTEGRITY names one that differs. Fills mg_exec_result.copies */
    uint32_t rank, world; /* one of `world` processes that carry out the plan together: only its share is written, and
                             nothing gets its final name (docs/ranks.md). world 0: alone */
    bool verify_inputs;   /* for the tools: mg_plan_verify_inputs first */
    bool finalize;        /* for the tools: the last rank goes on with mg_finalize */
} mg_exec_options;

typedef struct mg_exec_result {
    uint64_t bytes_read, bytes_written;
    uint32_t n_files;
    struct {
        const char *path;
        uint64_t size;
        char sha256[65];
    } * files; /* owned by the plan */
    struct {   /* verify_copies: XXH3-128 over the bytes of all copied tensors in output order */
        uint64_t tensors, bytes;
        char before[33], after[33]; /* in the sources, as read back */
    } copies;
    uint64_t units, share_units; /* of the plan, and of the rank */
    const char *out;             /* the first output's path */
} mg_exec_result;

mg_status mg_plan_execute(mg_plan *p, const mg_exec_options *opt, mg_exec_result *res, mg_error *err) MG_MUST_CHECK;
/* What ranks began and finished, completed: claims of all ranks checked, headers and manifests written, hashes taken,
 * final names given. out: a file or directory as it was given to the ranks, or any other file of the same run; neither
 * the inputs nor the plan are needed. opt: threads, force, progress. *state says what stood in the way when units are
 * missing or a rank is at work (then also an error: MG_ERR_INTEGRITY, MG_ERR_IO). */
typedef enum mg_finalize_state {
    MG_FINALIZE_DONE,
    MG_FINALIZE_NOTHING,    /* no ranks have been here; MG_OK, nothing was done */
    MG_FINALIZE_INCOMPLETE, /* units are missing: the error names the ranks to run again */
    MG_FINALIZE_BUSY,       /* a process is at work on it */
    MG_FINALIZE_FAILED
} mg_finalize_state;
typedef struct mg_finalized mg_finalized; /* owns what the result points to */
mg_status mg_finalize(mg_finalized **f, const char *out, const mg_exec_options *opt, mg_exec_result *res,
                      mg_finalize_state *state, mg_error *err) MG_MUST_CHECK;
void mg_finalized_free(mg_finalized *f);
/* Remove what stages keep beside an output while its ranks may need it: finalize does. */
void mg_finalize_stages(const char *out);
/* Compare the inputs' files with the hashes recorded beside them (formats/known_hashes.h); a rank compares its part of
 * the files. MG_ERR_INTEGRITY names one that differs. */
struct mg_known_counts;
mg_status mg_plan_verify_inputs(mg_plan *p, const mg_exec_options *opt, struct mg_known_counts *counts,
                                mg_error *err) MG_MUST_CHECK;
/* Units and output bytes of each of `world` shares, and the estimated cost of each in parts of the whole. */
typedef struct mg_plan_share {
    uint64_t first_unit, n_units, bytes;
    double cost;
} mg_plan_share;
mg_status mg_plan_share_list(mg_plan *p, uint32_t world, mg_plan_share *shares, mg_error *err) MG_MUST_CHECK;
/* {"tensors":[{"name","shape","from","to","bytes"}],"bytes","bpw","peak_memory_bytes", ...} of one output, CLI.md's
 * dry-run keys. */
mg_status mg_plan_json(mg_plan *p, uint32_t out, mg_json **json, mg_error *err) MG_MUST_CHECK;
/* The same for people, on `to`: one line per tensor (name, shape, from, to, bytes) and the totals. opt: threads and
 * memory. */
mg_status mg_plan_print(mg_plan *p, uint32_t out, const mg_exec_options *opt, FILE *to, mg_error *err) MG_MUST_CHECK;
/* Foretold peak memory of executing p with opt (NULL: defaults), in bytes. mg_plan_json states it for the defaults. */
mg_status mg_plan_memory(mg_plan *p, const mg_exec_options *opt, uint64_t *bytes, mg_error *err) MG_MUST_CHECK;
/* The output as a checkpoint that evaluates on reading; freed by mg_checkpoint_free, borrows the plan. */
mg_status mg_plan_checkpoint(mg_plan *p, uint32_t out, mg_checkpoint **ckpt, mg_error *err) MG_MUST_CHECK;

#endif
