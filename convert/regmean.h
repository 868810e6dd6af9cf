/* regmean.h - attention projections and output heads of several models made into one by regression (RegMean, arXiv
 * 2212.09849).
 *
 * For models W_i with inputs X_i (row-wise, on each model's own prompts), the matrix that is closest to all of them on
 * their own inputs, sum_i |X_i W^T - X_i W_i^T|^2 / n_i, is
 *     W = (sum_i W_i G_i) (sum_i G_i)^-1,   G_i = X_i^T X_i / n_i + r I,
 * with r a millionth of the inputs' mean square: directions that no prompt excites get the plain mean. Layer by layer
 * through each donor, one layer's matrices in memory. */
#ifndef MG_CONVERT_REGMEAN_H
#define MG_CONVERT_REGMEAN_H

#include "convert/donors.h"
#include "convert/merge_spec.h"
#include "formats/base/hash.h"
#include "formats/base/pool.h"
#include "quant/eval.h"

typedef struct mg_regmean {
    mg_donor *donors;              /* [n] */
    const mg_prompts *const *text; /* [n] prompts of each */
    uint32_t n;
    const mg_evaluator *eval;
    mg_pool *pool;
    void (*note)(void *ctx, const char *text); /* NULL: silent */
    void *note_ctx;
} mg_regmean;

/* Compute all of them into a safetensors file at path (tensors "ROLE.LAYER", F32, logical order), which carries id; a
 * file that carries it already is left as it is. All donors have the same layers and shapes. MG_ERR_CONFLICT: a donor
 * without prompts or without tokenizer files. */
mg_status mg_regmean_run(const mg_regmean *r, const char *path, mg_xxh128 id, mg_error *err) MG_MUST_CHECK;
/* Number of the tensor in such a file, MG_STRMAP_NONE when it has none. */
uint32_t mg_regmean_find(const mg_checkpoint *c, mg_role role, uint32_t layer);

#endif
