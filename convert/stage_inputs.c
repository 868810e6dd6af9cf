/* stage_inputs.c - see stage_inputs.h. */
#include "convert/stage_inputs.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quant/group_kernels.h"

/* Where the forward pass shows an input, in the order in which a layer has them. */
static const struct {
    mg_layer_input input;
    mg_tap_point point;
} places[] = {
    {MG_IN_ATTN, MG_TAP_ATTN_IN},
    {MG_IN_ATTN_O, MG_TAP_ATTN_O_IN},
    {MG_IN_FFN, MG_TAP_FFN_IN},
    {MG_IN_FFN_DOWN, MG_TAP_FFN_DOWN_IN},
    {MG_IN_SHARED_DOWN, MG_TAP_SHARED_DOWN_IN},
    {MG_IN_EXPERT, MG_TAP_EXPERT_IN},
    {MG_IN_EXPERT_DOWN, MG_TAP_EXPERT_DOWN_IN},
};
enum { N_PLACES = sizeof places / sizeof *places };

mg_tap_point mg_stage_tap_of(mg_layer_input input) {
    size_t p = 0;
    while (places[p].input != input) p++;
    return places[p].point;
}

static bool per_expert(mg_tap_point p) {
    return p == MG_TAP_EXPERT_IN || p == MG_TAP_EXPERT_DOWN_IN;
}

static const mg_bound *reader(const mg_model *m, size_t place, uint32_t layer, uint32_t expert) {
    const mg_bound *b = NULL; /* the first that the layer has tells the width */
    for (const mg_role *r = mg_input_row_of(places[place].input)->readers; !b && *r != MG_R_TOKEN_EMBD; r++)
        b = mg_model_find(m, *r, layer, expert);
    return b;
}

mg_status mg_stage_inputs_init(mg_stage_inputs *in, const mg_model *m, uint32_t layer, mg_pool *pool, mg_error *err) {
    const uint32_t experts = m->layers[layer].moe ? (uint32_t)mg_hp_i(m, MG_K_EXPERTS) : 0;
    *in = (mg_stage_inputs){.pool = pool, .experts = experts};
    in->items = calloc(N_PLACES + 2 * (size_t)experts, sizeof *in->items);
    in->tokens = calloc((size_t)experts + 1, sizeof *in->tokens);
    if (!in->items || !in->tokens) return mg_fail_nomem(err, experts * sizeof *in->items);
    for (size_t p = 0; p < N_PLACES; p++)
        for (uint32_t e = 0; e < (per_expert(places[p].point) ? experts : 1); e++) {
            const mg_bound *b = reader(m, p, layer, e);
            if (!b) continue;
            in->items[in->n++] =
                (mg_stage_input){.point = places[p].point, .expert = e, .gram = {.d = b->shape[b->rank - 1]}};
        }
    return MG_OK;
}

void mg_stage_inputs_clear(mg_stage_inputs *in) {
    for (uint32_t i = 0; i < in->n; i++) {
        const uint64_t d = in->items[i].gram.d;
        mg_gram_release(&in->items[i].gram);
        in->items[i].gram.d = d;
        in->items[i].wanted = false;
    }
}

void mg_stage_inputs_release(mg_stage_inputs *in) {
    if (in->items) mg_stage_inputs_clear(in);
    free(in->items);
    free(in->tokens);
    *in = (mg_stage_inputs){0};
}

static mg_stage_input *at_place(const mg_stage_inputs *in, mg_tap_point p, uint32_t expert) {
    for (uint32_t i = 0; i < in->n; i++)
        if (in->items[i].point == p && in->items[i].expert == expert) return &in->items[i];
    return NULL;
}

mg_stage_input *mg_stage_input_of(const mg_stage_inputs *in, mg_role role, uint32_t expert) {
    const mg_layer_input input = mg_input_of(role);
    if (input == MG_IN_COUNT) return NULL;
    const mg_tap_point p = mg_stage_tap_of(input);
    return at_place(in, p, per_expert(p) ? expert : 0);
}

uint64_t mg_stage_input_bytes(const mg_stage_input *x) {
    return mg_gram_bytes(x->gram.d);
}

/* ---- the largest magnitude ---- */

typedef struct largest_run {
    const float *x;
    uint64_t n;
    atomic_uint_least32_t most; /* its bits: of floats that are not negative they have the order of the floats */
} largest_run;

enum { VALUES_PER_TICKET = 1 << 16 };

static mg_status largest_ticket(void *ctx, uint64_t ticket, unsigned worker, mg_error *err) {
    (void)worker;
    (void)err;
    largest_run *r = ctx;
    const uint64_t at = ticket * VALUES_PER_TICKET, left = r->n - at;
    float lo, hi;
    /* where values are not finite the matrix will have such, too, which mg_gram_finish reports */
    if (!mg_group_kernels_get()->range(r->x + at, left < VALUES_PER_TICKET ? left : VALUES_PER_TICKET, &lo, &hi))
        return MG_OK;
    const float most = -lo > hi ? -lo : hi;
    uint32_t bits;
    memcpy(&bits, &most, sizeof bits);
    uint_least32_t have = atomic_load(&r->most);
    while (have < bits && !atomic_compare_exchange_weak(&r->most, &have, bits)) continue;
    return MG_OK;
}

/* *most: of what it was and the values of t. */
static mg_status largest_of(const mg_stage_inputs *in, const mg_tap *t, float *most, mg_error *err) {
    largest_run r = {.x = t->data, .n = t->rows * t->cols};
    uint32_t bits;
    memcpy(&bits, most, sizeof bits);
    atomic_init(&r.most, bits);
    MG_TRY(mg_pool_run(in->pool, (r.n + VALUES_PER_TICKET - 1) / VALUES_PER_TICKET, largest_ticket, &r, err));
    bits = (uint32_t)atomic_load(&r.most);
    memcpy(most, &bits, sizeof bits);
    return MG_OK;
}

/* ---- gathering ---- */

static mg_status on_tap(void *ctx, const mg_tap *t, mg_error *err) {
    mg_stage_inputs *in = ctx;
    const bool inside = per_expert(t->point);
    mg_stage_input *x = at_place(in, t->point, inside ? t->expert : 0);
    if (t->point == MG_TAP_EXPERT_IN && t->expert < in->experts) in->tokens[t->expert] += t->rows;
    if (!x || !x->wanted) return MG_OK;
    if (t->cols != x->gram.d)
        return mg_fail(err, MG_ERR_INTERNAL, "an input of %llu columns, expected %llu", (unsigned long long)t->cols,
                       (unsigned long long)x->gram.d);
    MG_TRY(largest_of(in, t, &x->most, err));
    return mg_gram_rows(&x->gram, t->data, inside ? t->weight : NULL, t->rows, in->pool, err);
}

mg_status mg_stage_inputs_gather(mg_stage_inputs *in, mg_stage_stream *s, mg_model *m, uint32_t layer, unsigned parts,
                                 bool keep, mg_error *err) {
    if (parts & (MG_PART_FFN | MG_PART_EXPERT_IN | MG_PART_DOWN_IN))
        for (uint32_t e = 0; e < in->experts; e++) in->tokens[e] = 0;
    for (uint32_t i = 0; i < in->n; i++)
        if (in->items[i].wanted && !in->items[i].gram.g)
            MG_TRY(mg_gram_init(&in->items[i].gram, in->items[i].gram.d, err));
    MG_TRY(mg_stage_stream_run(s, m, layer, parts, keep, on_tap, in, err));
    mg_status st = MG_OK;
    for (uint32_t i = 0; st == MG_OK && i < in->n; i++)
        if (in->items[i].wanted) st = mg_gram_finish(&in->items[i].gram, in->pool, err);
    if (st != MG_OK) {
        char where[64];
        snprintf(where, sizeof where, "layer %u", layer);
        mg_error_at(err, NULL, where);
    }
    return st;
}
