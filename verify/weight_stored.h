/* weight_stored.h - what a weight is stored as, when that is not the type of its tensor: codes in groups with scales
 * (AWQ, GPTQ, compressed-tensors, FP8), which the dense view of such a checkpoint shows as F32. */
#ifndef MG_VERIFY_WEIGHT_STORED_H
#define MG_VERIFY_WEIGHT_STORED_H

#include "formats/arch/model.h"

/* What storing in a type explains: the largest worst_block, and the largest error of a whole weight. */
typedef struct mg_weight_limits {
    double block, total;
} mg_weight_limits;

typedef struct mg_weight_stored {
    mg_dtype dtype;   /* of the tensor; MG_DTYPE_COUNT: there is none */
    const char *name; /* "Q4_K", "INT4", "FP8" ..; "missing" */
    uint32_t bits;    /* of a code in groups; 0: stored as dtype */
    int method;       /* of the checkpoint, with bits */
    uint64_t group;   /* weights that share a scale, with bits */
    double bpw;       /* scales and zero points included */
    mg_weight_limits limits;
} mg_weight_stored;

/* b: of m, NULL for none. */
mg_weight_stored mg_weight_stored_of(const mg_model *m, const mg_bound *b);
/* Twice the same: what is stored once may not differ. */
bool mg_weight_stored_same(const mg_weight_stored *a, const mg_weight_stored *b);

#endif
