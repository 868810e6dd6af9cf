/* stage_file.c - see stage_file.h. */
#include "convert/stage_layer.h"

#include "convert/stage_id.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/file.h"
#include "formats/base/outfile.h"

static const struct {
    const char *name;
    mg_dtype dtype;
} whats[MG_STAGE_WHATS] = {{"values", MG_F32}, {"col", MG_F32},    {"row", MG_F32},
                           {"limits", MG_F32}, {"codes", MG_U8},   {"scales", MG_F32},
                           {"zeros", MG_U8},   {"biases", MG_F32}, {"blocks", MG_U8}};

static void piece_name(char *buf, size_t size, mg_role role, uint32_t expert, mg_stage_what what) {
    snprintf(buf, size, "%s.%u.%s", mg_role_name(role), expert, whats[what].name);
}

/* ---- a layer under way ---- */

void mg_stage_layer_release(mg_stage_layer *l) {
    for (uint32_t i = 0; i < l->n; i++) free(l->pieces[i].data);
    free(l->pieces);
    *l = (mg_stage_layer){0};
}

mg_status mg_stage_layer_add(mg_stage_layer *l, const mg_stage_piece *p, mg_error *err) {
    if (l->n == l->cap) {
        const uint32_t cap = l->cap ? 2 * l->cap : 64;
        mg_stage_piece *more = realloc(l->pieces, cap * sizeof *more);
        if (!more) {
            free(p->data);
            return mg_fail_nomem(err, cap * sizeof *more);
        }
        l->pieces = more;
        l->cap = cap;
    }
    l->pieces[l->n++] = *p;
    return MG_OK;
}

const mg_stage_piece *mg_stage_layer_find(const mg_stage_layer *l, mg_role role, uint32_t expert, mg_stage_what what) {
    for (uint32_t i = 0; i < l->n; i++)
        if (l->pieces[i].role == role && l->pieces[i].expert == expert && l->pieces[i].what == what)
            return &l->pieces[i];
    return NULL;
}

/* ---- writing ---- */

static mg_status lay_out(mg_stage_layout *out, const mg_stage_layer *l, mg_xxh128 id, const char *note, mg_error *err) {
    MG_TRY(mg_stage_layout_begin(out, l->n, err));
    for (uint32_t i = 0; i < l->n; i++) {
        const mg_stage_piece *p = &l->pieces[i];
        char name[96];
        piece_name(name, sizeof name, p->role, p->expert, p->what);
        MG_TRY(mg_stage_layout_tensor(out, i, name, whats[p->what].dtype, p->rank, p->shape, err));
    }
    return mg_stage_layout_end(out, id, note, err);
}

static mg_status put(mg_outset **set, const mg_stage_layout *as, const mg_stage_layer *l, const char *path,
                     mg_xxh128 id, mg_error *err) {
    MG_TRY(mg_stage_set_begin(set, path, id, as, err));
    for (uint32_t i = 0; i < l->n; i++)
        MG_TRY(mg_outset_write(*set, 0, as->offsets[i], l->pieces[i].data, as->tensors[i].n_bytes, err));
    return mg_stage_set_end(*set, as, err);
}

mg_status mg_stage_layer_write(const mg_stage_layer *l, const char *path, mg_xxh128 id, const char *note,
                               mg_error *err) {
    mg_stage_layout as = {0};
    mg_outset *set = NULL;
    mg_status st = lay_out(&as, l, id, note, err);
    if (st == MG_OK) st = put(&set, &as, l, path, id, err);
    mg_outset_free(set);
    mg_stage_layout_release(&as);
    return st;
}

/* ---- reading ---- */

mg_status mg_stage_set_init(mg_stage_set *s, uint32_t layers, mg_error *err) {
    *s = (mg_stage_set){.layers = calloc((size_t)layers + 1, sizeof(mg_checkpoint *)), .n = layers};
    return s->layers ? MG_OK : mg_fail_nomem(err, layers * sizeof *s->layers);
}

void mg_stage_set_release(mg_stage_set *s) {
    for (uint32_t l = 0; s->layers && l < s->n; l++) mg_checkpoint_free(s->layers[l]);
    for (uint32_t i = 0; i < s->n_vectors; i++) free(s->vectors[i]);
    free(s->layers);
    free(s->vectors);
    *s = (mg_stage_set){0};
}

static bool text_of(const mg_checkpoint *c, const char *key, mg_str *out) {
    return c->st_metadata && mg_kv_str(mg_kvs_get(c->st_metadata, key), out);
}

mg_status mg_stage_set_open(mg_stage_set *s, uint32_t layer, const char *path, mg_xxh128 id, bool *found,
                            mg_error *err) {
    mg_checkpoint *c = NULL;
    *found = false;
    if (!mg_path_exists(path)) return MG_OK;
    MG_TRY(mg_checkpoint_open(&c, path, err));
    *found = mg_stage_id_is(c, id);
    if (!*found) {
        mg_checkpoint_free(c);
        return MG_OK;
    }
    mg_checkpoint_free(s->layers[layer]);
    s->layers[layer] = c;
    return MG_OK;
}

const char *mg_stage_set_note(const mg_stage_set *s, uint32_t layer) {
    mg_str text;
    return s->layers[layer] && text_of(s->layers[layer], "note", &text) ? text.data : NULL;
}

uint32_t mg_stage_set_find(const mg_stage_set *s, mg_role role, uint32_t layer, uint32_t expert, mg_stage_what what) {
    char name[96];
    if (layer >= s->n || !s->layers[layer]) return MG_STRMAP_NONE;
    piece_name(name, sizeof name, role, expert, what);
    return mg_checkpoint_find(s->layers[layer], name);
}

/* A small tensor of a layer in memory; NULL when the layer has none. */
static mg_status vector(mg_stage_set *s, mg_checkpoint *c, uint32_t at, const float **out, mg_error *err) {
    *out = NULL;
    if (at == MG_STRMAP_NONE) return MG_OK;
    if (s->n_vectors == s->cap_vectors) {
        const uint32_t cap = s->cap_vectors ? 2 * s->cap_vectors : 256;
        float **more = realloc(s->vectors, cap * sizeof *more);
        if (!more) return mg_fail_nomem(err, cap * sizeof *more);
        s->vectors = more;
        s->cap_vectors = cap;
    }
    float *v = malloc((size_t)c->tensors[at].n_bytes + sizeof *v);
    if (!v) return mg_fail_nomem(err, c->tensors[at].n_bytes);
    s->vectors[s->n_vectors++] = v;
    *out = v;
    return mg_checkpoint_read(c, at, 0, v, c->tensors[at].n_bytes, err);
}

static mg_status apply_weight(mg_stage_set *s, const uint64_t *group, mg_role role, uint32_t layer, uint32_t expert,
                              mg_variant *v, mg_error *err) {
    uint32_t at[MG_STAGE_WHATS];
    bool any = false;
    for (int w = 0; w < MG_STAGE_WHATS; w++) {
        const bool part = group || w < MG_STAGE_LIMITS;
        at[w] = part ? mg_stage_set_find(s, role, layer, expert, (mg_stage_what)w) : MG_STRMAP_NONE;
        any = any || at[w] != MG_STRMAP_NONE;
    }
    /* Weights that are stored together have to be of one type: an untouched linear is F32 like the others. */
    if (!any && (!mg_stage_rounds(role) || !mg_model_find(mg_variant_model(v), role, layer, expert))) return MG_OK;
    mg_patch p = MG_PATCH_INIT(role, layer, expert);
    p.group = group ? *group : 0;
    p.stage = s->layers[layer];
    MG_TRY(vector(s, p.stage, at[MG_STAGE_VALUES], &p.values, err));
    MG_TRY(vector(s, p.stage, at[MG_STAGE_COL], &p.col, err));
    MG_TRY(vector(s, p.stage, at[MG_STAGE_ROW], &p.row, err));
    p.limits_at = at[MG_STAGE_LIMITS];
    p.codes_at = at[MG_STAGE_CODES];
    p.scales_at = at[MG_STAGE_SCALES];
    p.zeros_at = at[MG_STAGE_ZEROS];
    p.biases_at = at[MG_STAGE_BIASES];
    return mg_variant_set(v, &p, err);
}

mg_status mg_stage_set_apply(mg_stage_set *s, uint32_t layer, const uint64_t *group, mg_variant *v, mg_error *err) {
    const mg_model *m = mg_variant_model(v);
    for (int r = 0; r < MG_ROLE_COUNT; r++) {
        const mg_scope scope = mg_role_scope((mg_role)r);
        if (scope == MG_SCOPE_MODEL) continue;
        const uint32_t n = scope == MG_SCOPE_LAYER ? 1 : mg_scope_count(scope, &m->hp);
        for (uint32_t e = 0; e < n; e++) MG_TRY(apply_weight(s, group, (mg_role)r, layer, e, v, err));
    }
    return MG_OK;
}

/* ---- stored tensors ---- */

static bool slice_of(const mg_stage_set *s, const mg_stage_layer *l, mg_role role, uint32_t layer, uint32_t expert,
                     mg_stored_slice *out) {
    const mg_stage_piece *p = l ? mg_stage_layer_find(l, role, expert, MG_STAGE_BLOCKS) : NULL;
    *out = (mg_stored_slice){.bytes = p ? p->data : NULL};
    if (l) return p != NULL;
    out->at = mg_stage_set_find(s, role, layer, expert, MG_STAGE_BLOCKS);
    out->stage = layer < s->n ? s->layers[layer] : NULL;
    return out->at != MG_STRMAP_NONE;
}

/* The tensor of a role: experts one by one, or all of them in one. */
static mg_status store_weight(const mg_stage_set *s, const mg_stage_layer *l, mg_role role, uint32_t layer,
                              uint32_t expert, const mg_dtype *types, mg_variant *v, mg_error *err) {
    const mg_bound *b = mg_model_find(mg_variant_model(v), role, layer, expert);
    if (!b) return MG_OK;
    const mg_tensor *t = mg_model_tensor(mg_variant_model(v), b);
    const uint32_t n = t->rank == 3 ? (uint32_t)t->shape[0] : 1;
    if (n > 1 && expert) return MG_OK;
    mg_stored_slice *slices = calloc((size_t)n + 1, sizeof *slices);
    if (!slices) return mg_fail_nomem(err, n * sizeof *slices);
    bool all = true;
    for (uint32_t i = 0; all && i < n; i++) all = slice_of(s, l, role, layer, n > 1 ? i : expert, &slices[i]);
    mg_status st = all ? mg_variant_store(v, b->tensor, types[b->tensor], slices, n, err) : MG_OK;
    free(slices);
    return st;
}

mg_status mg_stage_store(const mg_stage_set *s, const mg_stage_layer *l, uint32_t layer, const mg_dtype *types,
                         mg_variant *v, mg_error *err) {
    for (mg_role r = 0; r < MG_ROLE_COUNT; r++) {
        if (!mg_stage_rounds(r)) continue;
        const mg_scope scope = mg_role_scope(r);
        const uint32_t n = scope == MG_SCOPE_LAYER ? 1 : mg_scope_count(scope, &mg_variant_model(v)->hp);
        for (uint32_t e = 0; e < n; e++) MG_TRY(store_weight(s, l, r, layer, e, types, v, err));
    }
    return MG_OK;
}
