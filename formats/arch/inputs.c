/* inputs.c - see inputs.h. */
#include "formats/arch/inputs.h"

/* In the order in which AWQ scales: what makes an input has been scaled as a reader before. Norms of queries and keys
 * come after their projections and do not matter. */
static const mg_input_row rows[MG_IN_COUNT] = {
    [MG_IN_ATTN] = {.name = "attention",
                    .readers = {MG_R_ATTN_Q, MG_R_ATTN_K, MG_R_ATTN_V, MG_R_ATTN_GATE, MG_R_ATTN_Q_A, MG_R_ATTN_KV_A},
                    .norm = MG_R_ATTN_NORM,
                    .rows = MG_ROLE_COUNT,
                    .bias = MG_R_ATTN_NORM_BIAS,
                    .part = MG_IN_COUNT},
    [MG_IN_FFN] = {.name = "feed-forward",
                   .readers = {MG_R_FFN_GATE, MG_R_FFN_UP, MG_R_SHARED_GATE, MG_R_SHARED_UP, MG_R_ROUTER,
                               MG_R_SHARED_ROUTER},
                   .norm = MG_R_FFN_NORM,
                   .rows = MG_ROLE_COUNT,
                   .bias = MG_R_FFN_NORM_BIAS,
                   .part = MG_IN_EXPERT},
    [MG_IN_ATTN_O] = {.name = "attention output",
                      .readers = {MG_R_ATTN_O},
                      .norm = MG_ROLE_COUNT,
                      .rows = MG_R_ATTN_V,
                      .bias = MG_R_ATTN_V_BIAS,
                      .part = MG_IN_COUNT},
    [MG_IN_FFN_DOWN] = {.name = "down",
                        .readers = {MG_R_FFN_DOWN},
                        .norm = MG_ROLE_COUNT,
                        .rows = MG_R_FFN_UP,
                        .bias = MG_R_FFN_UP_BIAS,
                        .part = MG_IN_COUNT},
    [MG_IN_EXPERT_DOWN] = {.name = "expert down",
                           .readers = {MG_R_EXPERT_DOWN},
                           .norm = MG_ROLE_COUNT,
                           .rows = MG_R_EXPERT_UP,
                           .bias = MG_R_EXPERT_UP_BIAS,
                           .part = MG_IN_COUNT},
    [MG_IN_SHARED_DOWN] = {.name = "shared down",
                           .readers = {MG_R_SHARED_DOWN},
                           .norm = MG_ROLE_COUNT,
                           .rows = MG_R_SHARED_UP,
                           .bias = MG_ROLE_COUNT,
                           .part = MG_IN_COUNT},
    [MG_IN_EXPERT] = {.name = "expert",
                      .readers = {MG_R_EXPERT_GATE, MG_R_EXPERT_UP},
                      .norm = MG_ROLE_COUNT,
                      .rows = MG_ROLE_COUNT,
                      .bias = MG_ROLE_COUNT,
                      .part = MG_IN_COUNT},
};

const mg_input_row *mg_input_row_of(mg_layer_input i) {
    return &rows[i];
}

bool mg_input_absorbed(const mg_arch *arch, mg_layer_input i) {
    const mg_input_row *r = &rows[i];
    if (r->norm != MG_ROLE_COUNT || r->rows == MG_R_ATTN_V) return true;
    return r->rows != MG_ROLE_COUNT && arch->block.gating == MG_GATING_ACT; /* act(gate) * up */
}

mg_layer_input mg_input_of(mg_role r) {
    for (mg_layer_input i = 0; i < MG_IN_COUNT; i++)
        for (const mg_role *p = rows[i].readers; *p != MG_R_TOKEN_EMBD; p++)
            if (*p == r) return i;
    return MG_IN_COUNT;
}

bool mg_role_is_linear(mg_role r) {
    if (r == MG_R_ATTN_Q_B || r == MG_R_ATTN_K_B || r == MG_R_ATTN_V_B) return true; /* they read latents */
    return r != MG_R_ROUTER && r != MG_R_SHARED_ROUTER && mg_input_of(r) != MG_IN_COUNT;
}
