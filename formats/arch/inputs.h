/* inputs.h - what the matrices of a layer are multiplied by: which of them read one vector, and what makes it. Said
 * once for all families: a family has of it what it has rows for (roles.inc). Calibration looks at these vectors; AWQ
 * scales their channels, which every reader and the maker have to follow. */
#ifndef MG_FORMATS_ARCH_INPUTS_H
#define MG_FORMATS_ARCH_INPUTS_H

#include "formats/arch/arch.h"

typedef enum mg_layer_input {
    MG_IN_ATTN,
    MG_IN_FFN,
    MG_IN_ATTN_O,
    MG_IN_FFN_DOWN,
    MG_IN_EXPERT_DOWN, /* of each expert */
    MG_IN_SHARED_DOWN,
    MG_IN_EXPERT, /* of each expert: the rows of MG_IN_FFN that are routed to it */
    MG_IN_COUNT,
} mg_layer_input;

typedef struct mg_input_row {
    const char *name;
    mg_role readers[11]; /* every weight that is multiplied by it, ended by TOKEN_EMBD */
    mg_role norm;        /* the norm that makes it, or MG_ROLE_COUNT */
    mg_role rows;        /* else the matrix whose rows do, through a product or a mean that lets factors pass */
    mg_role bias;        /* of either, MG_ROLE_COUNT: it has none */
    mg_layer_input part; /* an input that is part of this one, so that its readers count as well; MG_IN_COUNT: none */
} mg_input_row;

const mg_input_row *mg_input_row_of(mg_layer_input i);
/* Can factors of an input be taken out where it is made? Not where a norm or a product does not let them pass. */
bool mg_input_absorbed(const mg_arch *arch, mg_layer_input i);
/* The input a role reads; MG_IN_COUNT: none of these. */
mg_layer_input mg_input_of(mg_role r);
/* Is this role a linear layer, which is what weights are quantized for? Routers are none. */
bool mg_role_is_linear(mg_role r);

#endif
