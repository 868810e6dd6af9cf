/* graft.h - an existing mixture with experts dropped, dense donors added, routers replaced, or another number of
 * experts per token. Nothing else is touched: weights that stay are copied as they are stored, quantized blocks
 * included. */
#ifndef MG_CONVERT_GRAFT_H
#define MG_CONVERT_GRAFT_H

#include "convert/donors.h"
#include "convert/plan.h"
#include "formats/arch/arch.h"

typedef struct mg_graft {
    mg_model *m;
    uint32_t *keep; /* [layers][n_keep] which old expert each new one is, ascending; layers may differ */
    uint32_t n_keep;
    mg_donor
        *donors; /* [n_add] dense models appended as experts, in this order; their rows must be made by new routers */
    uint32_t n_add;
    uint32_t used;                /* experts per token; 0: as it is */
    uint32_t n_copied, n_rounded; /* out: matrices of added experts that are stored as the donor has them, and that
                                     were rounded to the mixture's type */
    bool regate;                  /* routers are slots, to be supplied before the plan is executed */
    const mg_expr *
        *routers; /* out: [layers] slots [n_keep + n_add, hidden], NULL in layers without; in the plan's arena */
} mg_graft;

/* Add the result: a GGUF from a GGUF, else a Hugging Face directory. Weights in group formats (AWQ, GPTQ ...) keep
 * their codes; the result is then a model through mg_group_checkpoint_wrap of its plan's checkpoint. An added expert is
 * copied as the donor stores it where that is how the mixture stores its own, else rounded to nearest in that type. In
 * an AWQ model, or of an AWQ donor, its first projections are scaled by the quotient of the norms before them, which
 * have scales folded in. MG_ERR_UNSUPPORTED: experts on a grid, experts stored in a way that new ones cannot be put
 * into. MG_ERR_CONFLICT: fewer experts than a token
 * uses; donors that do not fit. */
mg_status mg_graft_plan(mg_plan *p, mg_graft *g, const char *path, uint32_t *out, mg_error *err) MG_MUST_CHECK;

#endif
