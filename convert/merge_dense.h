/* merge_dense.h - dense merges: whole models, or stacks of their layers, made into one by a merge method of blend.h. */
#ifndef MG_CONVERT_MERGE_DENSE_H
#define MG_CONVERT_MERGE_DENSE_H

#include "convert/donors.h"
#include "convert/merge_dense_spec.h"
#include "convert/plan.h"
#include "formats/arch/arch.h"

/* Opened donors and the plan of their merge as a Hugging Face directory. Donors must have the base's canonical config
 * and tokenizer (MG_ERR_CONFLICT); with slices the number of layers may differ, and is that of the stack. */
typedef struct mg_dense_run {
    mg_donor *donors; /* [n_donors] the base, then every source of every slice */
    uint32_t n_donors;
    mg_vocab_union *vocab; /* NULL: the base's vocabulary */
    mg_plan *plan;
    uint32_t out;        /* the directory output */
    mg_checkpoint *ckpt; /* the merge, evaluated on reading */
    mg_arena arena;
} mg_dense_run;
mg_status mg_dense_run_new(mg_dense_run **out, const mg_dense_spec *spec, const char *dir, uint64_t shard_size,
                           mg_error *err) MG_MUST_CHECK;
void mg_dense_run_free(mg_dense_run *r);

/* Tensor t of a model's layout as donor d has it, with layer `layer` in place of its own (UINT32_MAX: as it is). A tied
 * output head is the embedding. */
mg_status mg_dense_donor_expr(mg_plan *p, mg_donor *d, const mg_target *t, uint32_t layer, const mg_expr **out,
                              mg_error *err) MG_MUST_CHECK;

#endif
