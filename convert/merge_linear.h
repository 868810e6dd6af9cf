/* merge_linear.h - the dense merge everybody compares with: mergekit's `linear`, a weighted mean of whole models.
 * w = sum_i a_i w_i / sum_i a_i (normalize: true, the default) or sum_i a_i w_i, in f32, models in the recipe's order.
 */
#ifndef MG_CONVERT_MERGE_LINEAR_H
#define MG_CONVERT_MERGE_LINEAR_H

#include "convert/donors.h"
#include "convert/plan.h"

typedef struct mg_linear_spec {
    const char **path; /* [n] resolved */
    double *weight;    /* [n] */
    uint32_t n;
    const char *base_path; /* config and tokenizer; the first model when absent */
    bool normalize;
    mg_dtype dtype;   /* MG_DTYPE_COUNT: the base's */
    const char *text; /* the file verbatim, copied as mergekit_config.yml */
    size_t text_size;
    mg_arena arena;
} mg_linear_spec;

/* True when the recipe at path has a merge_method: a dense merge rather than a mixture of experts. */
mg_status mg_merge_is_dense(const char *path, bool *dense, mg_error *err) MG_MUST_CHECK;
/* Methods other than linear, slices, gradients and filters are MG_ERR_UNSUPPORTED by name. */
mg_status mg_linear_spec_load(mg_linear_spec **out, const char *path, mg_error *err) MG_MUST_CHECK;
void mg_linear_spec_free(mg_linear_spec *s);

/* Opened donors and the plan of their mean as a Hugging Face directory. Donors must have the same canonical config and
 * tokenizer (MG_ERR_CONFLICT). */
typedef struct mg_linear_run {
    mg_donor *donors; /* [n_donors] the base, then the models in the recipe's order */
    uint32_t n_donors;
    mg_plan *plan;
    uint32_t out;        /* the directory output */
    mg_checkpoint *ckpt; /* the mean, evaluated on reading */
    mg_arena arena;
} mg_linear_run;
mg_status mg_linear_run_new(mg_linear_run **out, const mg_linear_spec *spec, const char *dir, uint64_t shard_size,
                            mg_error *err) MG_MUST_CHECK;
void mg_linear_run_free(mg_linear_run *r);

#endif
