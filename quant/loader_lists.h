/* loader_lists.h - lists of modules that are left alone, as loaders match them. Part of quant/loader_rules.h. */
#ifndef MG_QUANT_LOADER_LISTS_H
#define MG_QUANT_LOADER_LISTS_H

#include "formats/arch/arch.h"
#include "formats/group_layouts.h"

/* How an entry selects a module. */
typedef enum mg_list_match {
    MG_LIST_SUBSTRING, /* AWQ's modules_to_not_convert: it stands anywhere in the name */
    MG_LIST_SUFFIX,    /* the same list: the name ends in it at a dot, or begins with it */
    MG_LIST_RULES,     /* compressed-tensors' ignore: the whole name or "re:REGEX"; GPTQ's dynamic: "-:REGEX" */
} mg_list_match;

typedef struct mg_list_view {
    const mg_group_layout *layout;
    const mg_checkpoint *dense;
    const mg_model *model;
    const mg_json *quant; /* quantization_config */
    bool or_files; /* what AWQ's empty list or GPTQ's rules leave open is as it is stored, except in joined experts
                      (vLLM) */
} mg_list_view;

/* The first weight that is quantized and selected, or neither: its name, which of the two, and what is wrong in text.
 * False when there is none, and where the list is not of this kind or has an expression that is not understood. */
bool mg_loader_list_wrong(const mg_list_view *v, mg_list_match how, const char **tensor, bool *quantized, char *text,
                          size_t size);

#endif
