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

/* Prompt tokens of an expert of the recipe that has several rows in a layer: which of them each token is for. */
typedef struct mg_gate_group {
    uint32_t layer, entry;
    const mg_batch *batch;
    const float *x;        /* [batch tokens, hidden] residual stream after the layer's attention */
    const float *in;       /* [n, hidden] router inputs of the tokens in question */
    const uint32_t *token; /* [n] their places in the batch */
    uint64_t n;
    uint32_t *place; /* [n] out: counted among the rows of this expert */
} mg_gate_group;

/* Which of the recipe's experts the rows of a router are for. */
typedef struct mg_gate_map {
    uint32_t rows;         /* of each layer */
    const uint32_t *entry; /* [layers][rows], those of one expert together; NULL: row e is for expert e */
    const bool *
        sliced; /* [experts of the recipe], NULL: none; rows are for slices of one block, to be weighted nearly alike */
    mg_status (*choose)(void *ctx, const mg_gate_group *g, mg_error *err);
    void *ctx;
    const struct mg_gate_fixed *fixed; /* NULL: all rows are fitted */
} mg_gate_map;

/* Rows that stay as they are. The recipe's expert 0 then stands for all of them: its tokens are those that new rows
 * must leave alone. What is supplied are the fixed rows, then one for each other expert of the recipe. */
typedef struct mg_gate_fixed {
    uint32_t n;
    bool alone; /* scores do not compete (sigmoid): a new row is fitted against nothing */
    mg_status (*rows)(void *ctx, uint32_t layer, float *rows, mg_error *err); /* [n, hidden] */
    void *ctx;
} mg_gate_fixed;

/* random, uniform_random and orthogonal: rows from the seed alone. */
mg_status mg_gates_random(mg_gate_mode mode, uint64_t seed, uint32_t layers, uint32_t experts, uint64_t hidden,
                          float *rows, mg_error *err) MG_MUST_CHECK;

/* rows of a safetensors file of float tensors [experts, hidden], one per layer, named as the result names its routers
 * (such as the gates of another merge). MG_ERR_FORMAT names what is missing or has another shape. target: the merged
 * model, for the names; role: ROUTER or SHARED_ROUTER; a layer's rows are rows_per_layer apart. */
mg_status mg_gates_from_file(const char *path, mg_model *target, mg_role role, uint32_t rows_per_layer, float *rows,
                             mg_error *err) MG_MUST_CHECK;

/* hidden, hidden_avg, cheap_embed: from the base model alone, mergekit-moe's formulas in f32. n_rows: the experts of
 * the recipe and, where it has a router row, the shared one: [layers][n_rows][hidden]. */
mg_status mg_gates_from_prompts(const mg_merge_spec *spec, uint32_t n_rows, mg_model *base, const mg_tokenizer *tok,
                                const mg_evaluator *eval, float *rows, mg_error *err) MG_MUST_CHECK;

/* fit: layer by layer through the MoE being built. moe: opened over the merge plan's checkpoint, whose router slots are
 * filled by supply(ctx, layer, rows [experts, hidden]) as soon as each is known. map NULL: row e is the recipe's expert
 * e. Tokens of experts that a layer has not are left out there. reports: [layers] or NULL. */
typedef mg_status (*mg_gates_supply)(void *ctx, uint32_t layer, const float *rows, mg_error *err);
mg_status mg_gates_fit(const mg_merge_spec *spec, const mg_gate_map *map, mg_model *moe, const mg_tokenizer *tok,
                       const mg_evaluator *eval, mg_pool *pool, mg_gates_supply supply, void *ctx,
                       mg_fit_report *reports, mg_error *err) MG_MUST_CHECK;

#endif
