/* reuse.h - encoded tensors taken from an earlier file instead of being encoded again, when it can be proved that the
 * bytes would be the same.
 *
 * The proof is the manifest beside the earlier file. It holds, for every encoded tensor, the digest of the source
 * values (their stored bytes, dtype and shape), the recipe (dtype, digest of the importance values, encoder) and the
 * digest of the result, and the version of the program that made it. All of them are compared; the source is read for
 * it, and so is the earlier file. Where anything differs or is missing the tensor is encoded. */
#ifndef MG_CONVERT_REUSE_H
#define MG_CONVERT_REUSE_H

#include "convert/expr.h"

/* What the digest of an expression that is encoded begins with, before its rows: dtype and shape. */
void mg_reuse_source_begin(mg_xxh128_state *s, const mg_expr *e);

typedef struct mg_reuse mg_reuse;
/* path: a GGUF in one file, with PATH.manifest.json (MG_ERR_IO when it is missing, MG_ERR_FORMAT when it is not one of
 * ours). A manifest of another version is accepted and gives nothing. */
mg_status mg_reuse_open(mg_reuse **out, const char *path, mg_error *err) MG_MUST_CHECK;
void mg_reuse_free(mg_reuse *r); /* after the plan that borrows from it */

/* *e, an encoded tensor of plan p that will be stored as name, becomes a copy from the earlier file when that is proved
 * to be the same, and *source the digest of what it was encoded from (in p's arena); else both stay. A tensor whose
 * bytes do not match the earlier manifest is MG_ERR_INTEGRITY. */
mg_status mg_reuse_apply(mg_reuse *r, mg_plan *p, const char *name, const mg_expr **e, const char **source,
                         mg_error *err) MG_MUST_CHECK;

/* Tensors and bytes taken so far. */
void mg_reuse_counts(const mg_reuse *r, uint32_t *tensors, uint64_t *bytes);

#endif
