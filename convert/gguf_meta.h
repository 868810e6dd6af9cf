/* gguf_meta.h - the general.* keys of a converted model: what convert_hf_to_gguf.py derives from the model card
 * (README.md front matter), config.json, generation_config.json and the directory name. */
#ifndef MG_CONVERT_GGUF_META_H
#define MG_CONVERT_GGUF_META_H

#include "formats/base/json.h"
#include "formats/kv.h"

typedef struct mg_gguf_meta_in {
    const char *dir_name;  /* last component of the model's directory; NULL for none */
    const char *side_dir;  /* for README.md and generation_config.json; NULL for none */
    const mg_json *config; /* for _name_or_path; may be NULL */
    const char *name;      /* --model-name; NULL: derived */
    uint64_t total;        /* elements of all tensors */
    uint64_t shared;       /* without expert stacks */
    uint64_t expert;       /* of one expert over all stacks (sum of elements / experts) */
    uint32_t expert_count; /* 0 for dense models */
} mg_gguf_meta_in;

/* Append general.type and the derived keys in the converter's order. Model card fields that need more than scalars and
 * string lists are read as the converter does; a card that is no valid YAML is ignored, as it is there. */
mg_status mg_gguf_meta_append(mg_kvs *kv, const mg_gguf_meta_in *in, mg_error *err) MG_MUST_CHECK;

/* Parts of a model name ("Llama-2-7B-Chat"), each "" when absent. */
typedef struct mg_name_parts {
    char name[256], organization[256], basename[256], finetune[256], version[256], size_label[256];
} mg_name_parts;
void mg_name_split(mg_name_parts *out, const char *model_id, uint64_t total);
/* "4x2.9M": rounded parameter count with at least two digits. */
const char *mg_size_label(char buf[32], const mg_gguf_meta_in *in);

#endif
