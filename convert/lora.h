/* lora.h - a model with a LoRA adapter (PEFT's adapter_config.json + adapter_model.safetensors or .bin) as one
 * checkpoint: every adapted weight is W + s B A, evaluated when it is read; s = lora_alpha / r, or lora_alpha / sqrt(r)
 * with use_rslora; alpha_pattern gives modules another lora_alpha, r is what the factors have. An embedding's is W + s
 * (B A)^T, DoRA's each row of W + s B A scaled to its norm in lora_magnitude_vector, a bias b + s b'. In f32, rounded
 * to the weight's type once: what PEFT's merge_and_unload does. */
#ifndef MG_CONVERT_LORA_H
#define MG_CONVERT_LORA_H

#include "formats/checkpoint.h"

typedef struct mg_lora mg_lora;

/* base is borrowed and must outlive the result. dir: the adapter's directory. Every tensor of the adapter must belong
 * to a weight of the base (MG_ERR_CONFLICT names one that does not). MG_ERR_UNSUPPORTED by name: variants of LoRA, and
 * adapters that belong to another base than the one that is stored. */
mg_status mg_lora_open(mg_lora **out, mg_checkpoint *base, const char *dir, mg_error *err) MG_MUST_CHECK;
/* The adapted model; owned by the lora. */
mg_checkpoint *mg_lora_checkpoint(const mg_lora *l);
void mg_lora_free(mg_lora *l);

/* Is this what the file with an adapter's weights is called? */
bool mg_lora_is_file(const char *name);
/* The weights of the adapter in dir, under the folder's name. *out is the caller's. */
mg_status mg_lora_open_weights(mg_checkpoint **out, const char *dir, mg_error *err) MG_MUST_CHECK;

/* "model+adapter" in two when there is no such path as a whole but the part before a '+' is a path (or no part is: then
 * at the first '+'). *adapter is empty when there is none. MG_ERR_LIMIT: longer than size. */
mg_status mg_lora_split(const char *name, char *model, char *adapter, size_t size, mg_error *err) MG_MUST_CHECK;

#endif
