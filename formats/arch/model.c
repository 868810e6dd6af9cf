/* model.c - opening a model: family, numbers, tensors; and asking it. Binding itself is in bind.c. */
#include "formats/arch/arch_internal.h"
#include "formats/arch/bind.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Descriptors of the largest models known take some 30 MB; a config that asks for more than this is not one. */
#define MODEL_ARENA     ((uint64_t)2 << 30)
#define MAX_ASSUMPTIONS 64

mg_status mg_model_assume(mg_model *m, mg_error *err, const char *fmt, ...) {
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    for (uint32_t i = 0; i < m->n_assumptions; i++)
        if (strcmp(m->assumptions[i], text) == 0) return MG_OK;
    if (!m->assumptions) MG_TRY(MG_ARENA_NEW(&m->arena, &m->assumptions, MAX_ASSUMPTIONS, err));
    if (m->n_assumptions == MAX_ASSUMPTIONS) return MG_OK;
    char *s = mg_arena_strdup(&m->arena, text);
    if (!s) return mg_fail_nomem(err, strlen(text));
    m->assumptions[m->n_assumptions++] = s;
    return MG_OK;
}

static mg_status model_new(mg_model **out, mg_error *err) {
    mg_model *m = calloc(1, sizeof *m);
    if (!m) return mg_fail_nomem(err, sizeof *m);
    mg_arena_init(&m->arena, MODEL_ARENA);
    for (int r = 0; r < MG_ROLE_COUNT; r++) m->slot[r] = MG_STRMAP_NONE;
    *out = m;
    return MG_OK;
}

void mg_model_free(mg_model *m) {
    if (!m) return;
    mg_arena_release(&m->arena);
    free(m);
}

/* Everything that follows from the numbers. */
static mg_status settle(mg_model *m, const mg_config_state *st, mg_error *err) {
    MG_TRY(mg_config_resolve(m, st, err));
    MG_TRY(mg_config_check(m, mg_state_layout(st), err));
    MG_TRY(mg_config_note(m, st, err));
    if (m->ckpt) mg_bind_dense(m, st);
    return mg_config_layers(m, st, err);
}

static mg_status open_config(mg_model *m, const mg_json *config, mg_error *err) {
    mg_config_state st = {0};
    MG_TRY(mg_arch_of_config(&m->arch, config, err));
    MG_TRY(mg_config_read_json(m, &st, config, err));
    return settle(m, &st, err);
}

static mg_status open_params(mg_model *m, const mg_json *params, mg_error *err) {
    mg_config_state st = {0};
    MG_TRY(mg_arch_of_params(&m->arch, params, err));
    MG_TRY(mg_config_read_params(m, &st, params, err));
    return settle(m, &st, err);
}

static mg_status from_json(mg_model **out, const mg_json *json,
                           mg_status (*open)(mg_model *, const mg_json *, mg_error *), mg_error *err) {
    mg_model *m = NULL;
    MG_TRY(model_new(&m, err));
    mg_status st = open(m, json, err);
    if (st == MG_OK)
        *out = m;
    else
        mg_model_free(m);
    return st;
}

mg_status mg_model_from_config(mg_model **out, const mg_json *config, mg_error *err) {
    return from_json(out, config, open_config, err);
}

mg_status mg_model_from_params(mg_model **out, const mg_json *params, mg_error *err) {
    return from_json(out, params, open_params, err);
}

static mg_status open_checkpoint(mg_model *m, mg_error *err) {
    mg_config_state st = {0};
    mg_checkpoint *c = m->ckpt;
    if (c->kv) {
        MG_TRY(mg_arch_of_gguf(&m->arch, c->kv, err));
        MG_TRY(mg_config_read_gguf(m, &st, c->kv, err));
    } else if (c->config) {
        MG_TRY(mg_arch_of_config(&m->arch, c->config, err));
        MG_TRY(mg_config_read_json(m, &st, c->config, err));
    } else if (c->params) {
        MG_TRY(mg_arch_of_params(&m->arch, c->params, err));
        MG_TRY(mg_config_read_params(m, &st, c->params, err));
    } else {
        return mg_fail(err, MG_ERR_FORMAT,
                       "no config.json beside it: a file of tensors alone does not say which family it is nor its "
                       "rotary base; put the model's config.json into the same directory");
    }
    mg_bind_sizes(m, &st);
    MG_TRY(settle(m, &st, err));
    return mg_bind(m, &st, err);
}

mg_status mg_model_open(mg_model **out, mg_checkpoint *ckpt, mg_error *err) {
    mg_model *m = NULL;
    MG_TRY(model_new(&m, err));
    m->ckpt = ckpt;
    mg_status st = open_checkpoint(m, err);
    if (st == MG_OK) {
        *out = m;
        return st;
    }
    mg_error_at(err, ckpt->path, NULL);
    mg_model_free(m);
    return st;
}

mg_status mg_model_copy(mg_model **out, const mg_model *m, mg_checkpoint *ckpt, mg_error *err) {
    mg_model *c = NULL;
    MG_TRY(model_new(&c, err));
    const mg_arena own = c->arena;
    *c = *m;
    c->arena = own;
    c->ckpt = ckpt;
    mg_status st = MG_ARENA_NEW(&c->arena, &c->bounds, m->n_bounds, err);
    if (st != MG_OK) {
        mg_model_free(c);
        return st;
    }
    memcpy(c->bounds, m->bounds, m->n_bounds * sizeof *c->bounds);
    *out = c;
    return MG_OK;
}

/* ---- asking ---- */

static const mg_bound *slot_of(const mg_model *m, mg_role role, uint32_t layer, uint32_t expert) {
    if ((unsigned)role >= MG_ROLE_COUNT || m->slot[role] == MG_STRMAP_NONE || !m->bounds) return NULL;
    const mg_scope scope = mg_role_scope(role);
    if (scope == MG_SCOPE_MODEL) return &m->bounds[m->slot[role]];
    if (scope == MG_SCOPE_LAYER) expert = 0;
    const uint64_t layers = (uint64_t)m->hp.i[MG_K_LAYERS], count = mg_scope_count(scope, &m->hp);
    if (layer >= layers || expert >= count) return NULL;
    uint64_t at = m->n_slots[MG_SCOPE_MODEL];
    for (int s = MG_SCOPE_LAYER; s < (int)scope; s++)
        at += layers * m->n_slots[s] * mg_scope_count((mg_scope)s, &m->hp);
    return &m->bounds[at + (layer * count + expert) * m->n_slots[scope] + m->slot[role]];
}

mg_bound *mg_bind_slot(mg_model *m, mg_role role, uint32_t layer, uint32_t expert) {
    return (mg_bound *)slot_of(m, role, layer, expert);
}

const mg_bound *mg_model_find(const mg_model *m, mg_role role, uint32_t layer, uint32_t expert) {
    const mg_bound *b = slot_of(m, role, layer, expert);
    return b && b->tensor != MG_STRMAP_NONE ? b : NULL;
}

void mg_model_redirect(mg_model *m, mg_role role, uint32_t layer, uint32_t expert, const mg_bound *b, mg_bound *old) {
    mg_bound *slot = mg_bind_slot(m, role, layer, expert);
    if (!slot) return;
    if (old) *old = *slot;
    *slot = *b;
}

bool mg_model_has(const void *model, mg_role role, uint32_t layer, uint32_t expert) {
    return mg_model_find(model, role, layer, expert) != NULL;
}

const mg_tensor *mg_model_tensor(const mg_model *m, const mg_bound *b) {
    return &m->ckpt->tensors[b->tensor];
}

uint64_t mg_bound_rows(const mg_bound *b) {
    uint64_t n = 1;
    for (uint32_t i = 0; i + 1 < b->rank; i++) n *= b->shape[i];
    return n;
}

bool mg_bound_same_shape(const mg_bound *a, const mg_bound *b) {
    return a->rank == b->rank && memcmp(a->shape, b->shape, a->rank * sizeof *a->shape) == 0;
}

uint64_t mg_model_row_bytes(const mg_model *m, const mg_bound *b) {
    uint64_t n = 0;
    /* bound shapes are made of whole blocks: checked when the bound was made */
    if (!mg_dtype_row_bytes(mg_model_tensor(m, b)->dtype, b->rank ? b->shape[b->rank - 1] : 1, &n)) return 0;
    return n;
}

mg_status mg_model_read_rows(mg_model *m, const mg_bound *b, uint64_t row, uint64_t n, void *dst, mg_error *err) {
    return mg_views_read(m->ckpt, b->tensor, b->views, row, n, dst, err);
}

bool mg_model_stored_row(const mg_model *m, const mg_bound *b, uint64_t row, uint64_t *stored) {
    return mg_views_row(m->ckpt, b->tensor, b->views, row, stored);
}

bool mg_model_role_of(const mg_model *m, uint32_t tensor, mg_role *role, uint32_t *layer, uint32_t *expert) {
    if (!m->claims || tensor >= m->n_claims || m->claims[tensor].elements == 0) return false;
    const mg_claim *c = &m->claims[tensor];
    if (role) *role = c->role;
    if (layer) *layer = c->layer;
    if (expert) *expert = c->expert;
    return true;
}

/* ---- counting ---- */

typedef struct counter {
    const mg_model *m;
    uint64_t k; /* experts per token */
    mg_counts c;
    uint64_t matmul; /* active parameters that multiply an activation */
} counter;

static bool counted(const mg_model *m, const mg_tensor_row *r, uint32_t l) {
    if (r->when == MG_IF_STORED || r->when == MG_IF_LLAMA3 || r->when == MG_IF_LONGROPE)
        return false; /* tables, not weights */
    const mg_layer *layer = mg_role_scope(r->role) == MG_SCOPE_MODEL ? NULL : &m->layers[l];
    return m->ckpt ? mg_model_find(m, r->role, l, 0) != NULL : mg_cond_holds(r->when, &m->hp, layer);
}

static void count_row(counter *k, const mg_tensor_row *r) {
    const mg_model *m = k->m;
    mg_scope scope = mg_role_scope(r->role);
    uint64_t shape[3], n = 1, layers = scope == MG_SCOPE_MODEL ? 1 : (uint64_t)m->hp.i[MG_K_LAYERS];
    uint64_t all = mg_scope_count(scope, &m->hp), used = all;
    if (scope == MG_SCOPE_EXPERT) used = k->k;
    if (scope == MG_SCOPE_EDGE && all) used = mg_edge_most(&m->hp, k->k);
    uint32_t rank = mg_sym_shape(shape, r->shape, 3, &m->hp, 0);
    for (uint32_t i = 0; i < rank; i++) n *= shape[i];
    for (uint32_t l = 0; l < layers; l++) {
        if (!counted(m, r, l)) continue;
        k->c.total += n * all;
        k->c.active += n * used;
        k->c.active_one_bond += n * (scope == MG_SCOPE_EDGE && used > 2 ? 2 : used);
        if (r->role != MG_R_TOKEN_EMBD && r->role != MG_R_OUTPUT) k->c.non_embedding += n * all;
        bool multiplies = rank >= 2 && (r->role != MG_R_TOKEN_EMBD || m->hp.i[MG_K_TIED]);
        if (multiplies) k->matmul += n * used;
    }
}

mg_counts mg_model_counts(const mg_model *m, uint64_t experts_per_token) {
    const uint64_t experts = (uint64_t)m->hp.i[MG_K_EXPERTS];
    counter k = {.m = m, .k = experts_per_token ? experts_per_token : (uint64_t)m->hp.i[MG_K_EXPERTS_USED]};
    if (k.k > experts) k.k = experts;
    for (uint32_t i = 0; i < m->arch->n_tensors; i++) count_row(&k, &m->arch->tensors[i]);
    const uint64_t latent = (uint64_t)(m->hp.i[MG_K_KV_LORA] + m->hp.i[MG_K_ROPE_DIM]);
    k.c.flop_per_token = 2 * k.matmul;
    k.c.kv_bytes_per_token = (uint64_t)m->hp.i[MG_K_LAYERS] * (uint64_t)m->hp.i[MG_K_KV_HEADS] *
                             (uint64_t)(m->hp.i[MG_K_HEAD_DIM] + m->hp.i[MG_K_V_HEAD_DIM]) * 2;
    if (m->hp.i[MG_K_KV_LORA] > 0) k.c.kv_bytes_per_token = (uint64_t)m->hp.i[MG_K_LAYERS] * latent * 2;
    return k.c;
}
