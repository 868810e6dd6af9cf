/* gates.h - router rows for a merged model. Every mode gives [layers][experts][hidden] floats, a pure function of the
 * recipe, the base's weights and the seed; the same for every thread count and instruction set. Formulas:
 * docs/merge.md. */
#ifndef MG_CONVERT_GATES_H
#define MG_CONVERT_GATES_H

#include "convert/merge_spec.h"
#include "formats/base/pool.h"
#include "formats/base/progress.h"
#include "formats/tokenizer.h"
#include "quant/eval.h"

/* What a fitted layer reports. */
typedef struct mg_fit_report {
    uint32_t iterations;
    double loss;     /* mean cross entropy over classes at the end, nats */
    double accuracy; /* tokens of the prompts whose best expert is their own, 0..1 */
    uint64_t tokens;
} mg_fit_report;

/* random, uniform_random and orthogonal: rows from the seed alone. */
mg_status mg_gates_random(mg_gate_mode mode, uint64_t seed, uint32_t layers, uint32_t experts, uint64_t hidden,
                          float *rows, mg_error *err) MG_MUST_CHECK;

/* rows of a safetensors file of float tensors [experts, hidden], one per layer, named as the result names its routers
 * (such as the gates of another merge). MG_ERR_FORMAT names what is missing or has another shape. target: the merged
 * model, for the names; role: ROUTER or SHARED_ROUTER; a layer's rows are rows_per_layer apart. */
mg_status mg_gates_from_file(const char *path, mg_model *target, mg_role role, uint32_t rows_per_layer, float *rows,
                             mg_error *err) MG_MUST_CHECK;

/* hidden, hidden_avg, cheap_embed: from the base model alone, mergekit-moe's formulas in f32. n_rows: the experts and,
 * where it has a router row, the shared one: [layers][n_rows][hidden]. */
mg_status mg_gates_from_prompts(const mg_merge_spec *spec, uint32_t n_rows, mg_model *base, const mg_tokenizer *tok,
                                const mg_evaluator *eval, float *rows, mg_error *err) MG_MUST_CHECK;

/* fit: layer by layer through the MoE being built. moe: opened over the merge plan's checkpoint, whose router slots are
 * filled by supply(ctx, layer, rows [experts, hidden]) as soon as each is known. reports: [layers] or NULL. */
typedef mg_status (*mg_gates_supply)(void *ctx, uint32_t layer, const float *rows, mg_error *err);
mg_status mg_gates_fit(const mg_merge_spec *spec, mg_model *moe, const mg_tokenizer *tok, const mg_evaluator *eval,
                       mg_pool *pool, mg_gates_supply supply, void *ctx, mg_fit_report *reports,
                       mg_error *err) MG_MUST_CHECK;

#endif
