/* group_stage.h - calibration of weights that are rounded in groups: AWQ scales and limits (quant/awq.h), GPTQ codes
 * (quant/gptq.h), or both, layer by layer on a text, one layer in memory.
 *
 * AWQ scales an input of a layer for every weight that reads it: the norm before attention is divided and q, k, v are
 * multiplied; the norm before the feed-forward is divided and gate, up, all experts, the shared expert, the router and
 * the shared expert's gate are multiplied; rows of v are divided and columns of o multiplied (key heads that serve
 * several query heads share scales), rows of up are divided and columns of down multiplied, per expert. The folded
 * model computes the same logits. GPTQ works on the folded model when both are asked for, on inputs that the layers
 * rounded so far really give.
 *
 * What is found of a layer is a file in the work folder (stage_file.h), so an interrupted run goes on after the last
 * finished layer. Results do not depend on threads, instruction set or memory. */
#ifndef MG_CONVERT_GROUP_STAGE_H
#define MG_CONVERT_GROUP_STAGE_H

#include "convert/stage_file.h"
#include "convert/stage_stream.h"
#include "formats/base/json.h"
#include "formats/base/progress.h"
#include "quant/group_encode.h"
#include "quant/math/gram.h"

/* Experts with fewer tokens than this are rounded without statistics of their own: gate and up by the inputs of all
 * tokens, down to nearest. */
#define MG_STAGE_FEW_TOKENS 32

typedef struct mg_group_stage_options {
    const mg_evaluator *eval;
    mg_pool *pool;
    const mg_stage_text *text;
    mg_group_scheme scheme; /* of the weights */
    bool awq, gptq;
    /* GPTQ: not into groups but into ggml types (quant/feedback.h), of each tensor of the model's checkpoint;
     * MG_DTYPE_COUNT: stays as it is. NULL: groups. The model's layout is GGUF. */
    const mg_dtype *types;
    bool fold_only;  /* AWQ: scales alone, no limits (the type that follows is another) */
    double damping;  /* GPTQ: of the mean diagonal; 0: a hundredth */
    uint64_t memory; /* of activations, Gram matrices and their factors; 0: 256 MiB, more where a layer needs it */
    const char *dir; /* existing work folder */
    mg_progress *progress; /* counts tokens times layers, once for each of awq and gptq; may be NULL */
} mg_group_stage_options;

typedef struct mg_group_stage mg_group_stage;

/* Mark the tensors of m's checkpoint that the stage rounds, read [n_tensors]. */
void mg_group_stage_tensors(const mg_model *m, bool *read);
/* Run what is not done yet. m outlives the stage. MG_ERR_LIMIT, before anything is run, when the matrices of a layer do
 * not fit memory. MG_ERR_FORMAT when the model computes values that are not finite.
 * After AWQ the model is run with its scales folded in and nothing rounded, on the first tokens: logits that differ are
 * MG_ERR_INTERNAL. */
mg_status mg_group_stage_run(mg_group_stage **out, mg_model *m, const mg_group_stage_options *opt,
                             mg_error *err) MG_MUST_CHECK;
void mg_group_stage_free(mg_group_stage *s);
/* m with scales folded in and weights limited; m itself without AWQ. */
mg_model *mg_group_stage_folded(mg_group_stage *s);
/* The same with GPTQ's weights in the place of the folded ones; under opt->types its checkpoint has the tensors that
 * were made in their types. */
mg_model *mg_group_stage_rounded(mg_group_stage *s);
/* Digest of what tensors under opt->types were made with besides the model: text, damping, version. No times, no paths.
 */
mg_status mg_group_stage_text_id(const mg_group_stage *s, mg_xxh128 *id, mg_error *err) MG_MUST_CHECK;
/* GPTQ's codes, scales and zeros (or biases, as the scheme has them) of a weight, as tensors of a checkpoint. false: it
 * has none. */
bool mg_group_stage_codes(const mg_group_stage *s, mg_role role, uint32_t layer, uint32_t expert, mg_checkpoint **c,
                          uint32_t *codes, uint32_t *scales, uint32_t *offsets);
/* {"layers":[{"layer","awq":[{"input","scales","ratio","plain","loss"}...],"limits":{...},"gptq":[...],"tokens":[...],
 * "few":n}...],...}: the caller's. */
mg_status mg_group_stage_report(const mg_group_stage *s, mg_json **out, mg_error *err) MG_MUST_CHECK;
/* Remove the work files of a finished stage. */
void mg_group_stage_clean(const mg_group_stage *s);

#endif
