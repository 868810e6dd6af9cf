/* loader_rules.h - will this program load this model, and load it right? A table of rules with the source of each,
 * judged from headers and config.json alone. */
#ifndef MG_QUANT_LOADER_RULES_H
#define MG_QUANT_LOADER_RULES_H

#include "formats/checkpoint.h"

typedef enum mg_loader {
    MG_LOADER_VLLM,
    MG_LOADER_TRANSFORMERS5,
    MG_LOADER_AUTOAWQ,
    MG_LOADER_GPTQMODEL,
    MG_LOADER_LLAMA_CPP,
    MG_LOADER_MLX,
    MG_LOADER_COUNT,
} mg_loader;

/* "vllm:tp=4", "transformers5", "autoawq", "gptqmodel", "llama.cpp", "mlx". tp: tensor-parallel ranks, 1 when not said.
 * MG_ERR_USAGE lists the names. */
mg_status mg_loader_parse(const char *text, mg_loader *loader, uint32_t *tp, mg_error *err) MG_MUST_CHECK;
const char *mg_loader_name(mg_loader l);

typedef struct mg_loader_finding {
    const char *rule;   /* its short name */
    bool fatal;         /* it does not load, or loads wrong; else worth knowing */
    const char *source; /* where the rule is from */
    const char *tensor; /* the first it applies to, or NULL */
    const char *text;
} mg_loader_finding;

/* Called for each finding, in the order of the table; strings live until it returns. */
typedef void (*mg_loader_fn)(void *ctx, const mg_loader_finding *f);

/* Judge a model: c as it is stored, dense its dense view (c itself when nothing is quantized). Models of families we do
 * not know: MG_ERR_UNSUPPORTED. */
mg_status mg_loader_judge(mg_checkpoint *c, mg_checkpoint *dense, mg_loader loader, uint32_t tp, mg_loader_fn found,
                          void *ctx, mg_error *err) MG_MUST_CHECK;

#endif
