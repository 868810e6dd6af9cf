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
    uint32_t used; /* experts per token; 0: as it is */
    bool regate;   /* routers are slots, to be supplied before the plan is executed */
    const mg_expr *
        *routers; /* out: [layers] slots [n_keep + n_add, hidden], NULL in layers without; in the plan's arena */
} mg_graft;

/* Add the result: a GGUF from a GGUF, else a Hugging Face directory. MG_ERR_UNSUPPORTED: experts on a grid, weights in
 * group formats, experts stored in a way that new ones cannot be put into. MG_ERR_CONFLICT: fewer experts than a token
 * uses; donors that do not fit. */
mg_status mg_graft_plan(mg_plan *p, mg_graft *g, const char *path, uint32_t *out, mg_error *err) MG_MUST_CHECK;

#endif
