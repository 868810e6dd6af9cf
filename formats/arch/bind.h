/* bind.h - between model.c and bind.c. */
#ifndef MG_FORMATS_ARCH_BIND_H
#define MG_FORMATS_ARCH_BIND_H

#include "formats/arch/arch_internal.h"

/* Who uses a stored tensor, and how many of its elements so far. */
typedef struct mg_claim {
    uint64_t elements;
    mg_role role;
    uint32_t layer, expert; /* of the first claim */
    bool ignored;
} mg_claim;

/* Sizes the file does not state are taken from the shapes of tensors; st->fixed says which. */
void mg_bind_sizes(mg_model *m, mg_config_state *st);
/* GGUF: which layers are dense is told by the tensors there. After the keys are settled. */
void mg_bind_dense(mg_model *m, const mg_config_state *st);
/* Find every role, claim every tensor. m->hp and m->layers are settled; keys that only tensors tell are set here. */
mg_status mg_bind(mg_model *m, const mg_config_state *st, mg_error *err) MG_MUST_CHECK;
/* The bound of a role whether present or not; NULL when the family has no such role or an index is out of range. */
mg_bound *mg_bind_slot(mg_model *m, mg_role role, uint32_t layer, uint32_t expert);

#endif
