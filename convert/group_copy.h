/* group_copy.h - weights quantized in groups (AWQ, GPTQ, compressed-tensors, MLX, FP8) that stay as they are: their
 * stored parts under another name, and a config.json that still says so. */
#ifndef MG_CONVERT_GROUP_COPY_H
#define MG_CONVERT_GROUP_COPY_H

#include "convert/plan.h"

/* Names of modules ("model.layers.0.self_attn.q_proj") of the result. */
typedef struct mg_group_names {
    const char **quantized;
    size_t n, cap;
    mg_arena arena;
} mg_group_names;
void mg_group_names_init(mg_group_names *n);
void mg_group_names_release(mg_group_names *n);

/* Add tensor t of a group view (quant/group_checkpoint.h) to an output as `name`, which ends in ".weight" where the
 * weight is quantized: every stored part with the suffix it has. What is not quantized is read where it is stored, too.
 * names (may be NULL) learns of a quantized module. */
mg_status mg_group_copy(mg_plan *p, uint32_t out, mg_checkpoint *view, uint32_t t, const char *name,
                        mg_group_names *names, mg_error *err) MG_MUST_CHECK;
/* Are tensors of two such views stored in one way, part by part, so that a copy of one can stand beside the other? */
bool mg_group_same_layout(mg_checkpoint *a, uint32_t ta, mg_checkpoint *b, uint32_t tb);
/* Add w, a weight of the size of tensor t of a view, rounded to nearest in t's own format under the name `name`.
 * MG_ERR_UNSUPPORTED: a format that is not written, or stored in a way that is not. */
mg_status mg_group_round_like(mg_plan *p, uint32_t out, mg_checkpoint *view, uint32_t t, const char *name,
                              const mg_expr *w, mg_group_names *names, mg_error *err) MG_MUST_CHECK;
/* The expression of a tensor of such a view that is not quantized, over the files themselves. */
mg_status mg_group_copy_plain(mg_plan *p, mg_checkpoint *view, uint32_t t, const mg_expr **out,
                              mg_error *err) MG_MUST_CHECK;

/* What the source's config.json says of its quantization, into config, and older readers' side file, into the output.
 * Entries of lists of modules to leave alone that would hit a module of `names` are left out. single: entries for
 * single experts are MG_ERR_UNSUPPORTED, because experts are numbered anew. */
mg_status mg_group_copy_config(mg_plan *p, uint32_t out, const mg_checkpoint *view, mg_json *config,
                               const mg_group_names *names, bool single, mg_error *err) MG_MUST_CHECK;

#endif
