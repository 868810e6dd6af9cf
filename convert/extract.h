/* extract.h - an expert of a mixture of experts back as a dense model: attention, norms, embeddings and head of the
 * mixture, the expert's matrices as its feed-forward blocks; layers that do not route stay as they are. Where only
 * these blocks differed between the donors (experts trained on a shared trunk), what comes out is the donor, bit for
 * bit. Weights are copied as they are stored, blocks and codes of quantized files included, unless another type is
 * asked for. */
#ifndef MG_CONVERT_EXTRACT_H
#define MG_CONVERT_EXTRACT_H

#include "convert/plan.h"
#include "formats/arch/arch.h"

/* What becomes of a shared expert. */
typedef enum mg_extract_shared {
    MG_SHARED_APART, /* left out: it is a model of its own */
    MG_SHARED_MERGE, /* beside the expert, in one wider block: the sum of both, exactly */
    MG_SHARED_ONLY,  /* it, and no routed expert */
} mg_extract_shared;

typedef struct mg_extract {
    mg_model *m;
    uint32_t expert; /* without meaning for MG_SHARED_ONLY */
    mg_extract_shared shared;
    double scale;          /* of the down projections taken out; 1 */
    double shared_weight;  /* MG_SHARED_MERGE: what stands for a router that is not constant; NAN: refused */
    mg_dtype dtype;        /* of all matrices of the result; MG_DTYPE_COUNT: as they are stored */
    const mg_arch *family; /* of the result; NULL: the last that m's family is made from and that has a place for all
                              its weights. Set to what it is */
    uint64_t ffn;          /* out: inner size of the result */
    bool padded;           /* out: layers of different sizes: the smaller ones end in zeros */
} mg_extract;

/* Add the result to p: a directory, or (gguf) a file of Hugging Face names that is only good for being read through
 * mg_plan_checkpoint by mg_convert_plan_gguf, which names, orders and describes it. Blocks stay blocks in a GGUF, codes
 * of group formats in a directory; elsewhere they become F32.
 * MG_ERR_UNSUPPORTED: m is no mixture made from dense families, has no shared expert, or one whose weight depends on
 * the token; blocks that cannot be scaled or joined; MG_ERR_USAGE: no such expert or family. */
mg_status mg_extract_plan(mg_plan *p, mg_extract *x, const char *path, bool gguf, uint32_t *out,
                          mg_error *err) MG_MUST_CHECK;

#endif
