/* restate.h - a model said as one of another family that computes the same: Mesh without exchange as Mixtral, NekoMind
 * as Qwen3-Next of full attention alone. What a family can say is in its row (mg_restates). */
#ifndef MG_CONVERT_RESTATE_H
#define MG_CONVERT_RESTATE_H

#include "convert/convert.h"

/* The family called name, when it can say m: MG_ERR_USAGE for unknown names (with the nearest), MG_ERR_UNSUPPORTED when
 * it cannot say models of m's family, or not this one (a weight it lacks is not zero, a rule differs). Reads the
 * weights that have to vanish. */
mg_status mg_restate_find(const struct mg_arch **out, mg_model *m, const char *name, mg_error *err) MG_MUST_CHECK;

/* m as a directory output of family arch (mg_restate_find). dtype: of all tensors, or MG_DTYPE_COUNT: each as in m;
 * where the other family stores a weight in another way (norms less one) and that is not exact in m's type, F32.
 * shard_size 0 = 5e9. MG_ERR_UNSUPPORTED when a weight is not exact in F32 either. had_tokenizer may be NULL. */
mg_status mg_restate_plan(mg_plan *p, mg_model *m, const struct mg_arch *arch, const char *dir, mg_dtype dtype,
                          uint64_t shard_size, bool *had_tokenizer, uint32_t *out, mg_error *err) MG_MUST_CHECK;

#endif
