/* merge.h - donors to a mixture-of-experts model, as a plan.
 *
 * Attention, norms, embeddings and head are the base's rows; each expert's feed-forward block is its donor's, or one of
 * its donor's experts (merge_units.h); routers are slots of the plan, filled by a gate stage (gates.h) before the plan
 * is executed. Donors are compared field by field with the base before anything is planned. */
#ifndef MG_CONVERT_MERGE_H
#define MG_CONVERT_MERGE_H

#include "convert/donors.h"
#include "convert/merge_spec.h"
#include "convert/merge_units.h"
#include "convert/plan.h"

typedef struct mg_merge {
    const mg_merge_spec *spec;    /* borrowed */
    const struct mg_arch *target; /* family of the result */
    mg_donor *donors;             /* [n_donors] the base, the experts in the recipe's order, the models of the trunk */
    uint32_t n_donors, first_trunk;
    mg_vocab_union *vocab; /* NULL: the base's vocabulary */
    mg_merge_units units;
    uint32_t used;           /* experts per token */
    mg_checkpoint *regmean;  /* projections of the trunk, opened before mg_merge_plan when the recipe wants them */
    mg_checkpoint *exchange; /* fitted exchange maps; NULL: zeros */
    mg_json *config;         /* config.json of the result */
    mg_model *result;        /* its numbers, no weights bound */
    mg_dtype dtype;          /* of the result; MG_DTYPE_COUNT keeps each tensor's own */
    const mg_expr **routers, **shared_routers; /* [layers] slots [experts, hidden] and [1, hidden], set by
                                                   mg_merge_plan; NULL where the layer has none */
    uint64_t seed;                             /* of noise; set before mg_merge_plan */
    mg_arena arena;
} mg_merge;

/* Open base and donors and compare them. Every difference is listed in one message (MG_ERR_CONFLICT): the field, and
 * its value in the base and in the donor. Weights of the base that the result could not carry (biases) are refused too.
 * Different tokenizers: MG_ERR_CONFLICT naming the first token that differs. */
mg_status mg_merge_open(mg_merge **out, const mg_merge_spec *spec, mg_error *err) MG_MUST_CHECK;
void mg_merge_free(mg_merge *m);

/* Add the merged model as a Hugging Face directory output: unfused per-expert names, config.json from the base's with
 * fields changed, the recipe as mergekit_moe_config.yml, tokenizer files and generation_config.json byte for byte.
 * dir may name a directory that will never be written, when only the plan's checkpoint is wanted. shard_size 0 = 5e9.
 */
mg_status mg_merge_plan(mg_merge *m, mg_plan *p, const char *dir, uint64_t shard_size, uint32_t *out,
                        mg_error *err) MG_MUST_CHECK;
/* May exchange maps be fitted? MG_ERR_CONFLICT, MG_ERR_UNSUPPORTED. */
mg_status mg_merge_check_exchange(const mg_merge *m, mg_error *err) MG_MUST_CHECK;

#endif
