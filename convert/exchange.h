/* exchange.h - exchange maps of a Mesh fitted on the experts' prompts.
 *
 * The map X(a -> b) of a bond adds w_b X(a -> b) y_a to what a token gets that chose the neighbours a and b with
 * weights w_a, w_b and outputs y_a, y_b. For the tokens of a bond, in every layer in turn, the two maps of the bond are
 *     argmin  sum_t c_t |r_t - s (X(a -> b) w_b y_a + X(b -> a) w_a y_b)|^2 + ridge |X|^2
 * where s is exchange_scale, c_t lets every expert's tokens weigh the same, and r_t is what the residual stream of the
 * model being built lacks, after this layer, of the stream of the donor that the token's prompt belongs to. The maps of
 * a bond are zero unless they make that smaller on prompts that were held out, all of them unless they make the
 * held-out prompts' next tokens more likely. */
#ifndef MG_CONVERT_EXCHANGE_H
#define MG_CONVERT_EXCHANGE_H

#include "convert/donors.h"
#include "convert/merge_spec.h"
#include "formats/base/hash.h"
#include "formats/base/pool.h"
#include "formats/tokenizer.h"
#include "quant/eval.h"

typedef struct mg_exchange {
    const mg_merge_spec *spec;
    mg_donor *donors; /* [spec->n_experts] dense, expert e of every layer is donor e */
    mg_model *moe;    /* with its routers, and maps that are zero */
    const mg_tokenizer *tok;
    const mg_evaluator *eval;
    mg_pool *pool;
    void (*note)(void *ctx, const char *text); /* NULL: silent */
    void *note_ctx;
} mg_exchange;

/* Fit all of them into a safetensors file at path (tensors "exchange.LAYER.EDGE", F32 [hidden, hidden]) that carries
 * id. MG_ERR_CONFLICT: an expert whose prompts fill less than two windows. Memory: 11 + experts per token vectors of
 * the hidden size h for each prompt token, and 100 h^2 bytes. */
mg_status mg_exchange_run(const mg_exchange *r, const char *path, mg_xxh128 id, mg_error *err) MG_MUST_CHECK;
/* Number of a map in such a file, MG_STRMAP_NONE when it has none. */
uint32_t mg_exchange_find(const mg_checkpoint *c, uint32_t layer, uint32_t edge);

#endif
