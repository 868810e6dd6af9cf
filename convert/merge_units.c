/* merge_units.c - see merge_units.h. */
#include "convert/merge_units.h"

const mg_merge_unit *mg_merge_unit_at(const mg_merge_units *u, uint32_t layer, uint32_t e) {
    return &u->unit[u->pick[(uint64_t)layer * u->per_layer + e]];
}

static bool is_mixture(const mg_donor *d) {
    return mg_hp_i(d->model, MG_K_EXPERTS) > 0;
}

static uint32_t units_of(const mg_merge_expert *x, const mg_donor *d) {
    uint32_t experts = !is_mixture(d) ? 1 : x->n_pick ? x->n_pick : (uint32_t)mg_hp_i(d->model, MG_K_EXPERTS);
    return experts * x->split;
}

/* What one entry says of its donor must be possible, and its experts as large as all others. */
static mg_status check_entry(mg_merge_units *u, const mg_merge_expert *x, const mg_donor *d, mg_error *err) {
    int64_t experts = mg_hp_i(d->model, MG_K_EXPERTS);
    if (x->n_pick && !is_mixture(d))
        return mg_fail(err, MG_ERR_CONFLICT, "'%s' is a dense model: 'expert' means nothing for it", d->name);
    for (uint32_t i = 0; i < x->n_pick; i++)
        if (x->pick[i] >= experts)
            return mg_fail(err, MG_ERR_CONFLICT, "'%s' has experts 0 to %lld, not %u", d->name, (long long)experts - 1,
                           x->pick[i]);
    if (mg_hp_i(d->model, MG_K_GRID_X))
        return mg_fail(err, MG_ERR_UNSUPPORTED, "'%s': experts on a grid mean nothing without their neighbours",
                       d->name);
    if (is_mixture(d) && x->split > 1)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "'%s': experts of a mixture cannot be split", d->name);
    uint64_t ffn = (uint64_t)mg_hp_i(d->model, is_mixture(d) ? MG_K_EXPERT_FFN : MG_K_FFN);
    if (ffn % x->split)
        return mg_fail(err, MG_ERR_CONFLICT, "'%s' has an inner size of %llu, which %u experts cannot share evenly",
                       d->name, (unsigned long long)ffn, x->split);
    if (u->ffn && u->ffn != ffn / x->split)
        return mg_fail(err, MG_ERR_CONFLICT, "experts of '%s' have an inner size of %llu, others of %llu", d->name,
                       (unsigned long long)(ffn / x->split), (unsigned long long)u->ffn);
    u->ffn = ffn / x->split;
    return MG_OK;
}

static uint32_t fill(mg_merge_unit *unit, uint32_t entry, const mg_merge_expert *x, const mg_donor *d) {
    uint32_t n = units_of(x, d);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t e = i / x->split;
        unit[i] = (mg_merge_unit){entry, x->n_pick ? x->pick[e] : e, i % x->split, x->split};
    }
    return n;
}

/* ---- layers ---- */

static bool of_entries(const mg_merge_layers *list, uint32_t entry) {
    for (uint32_t i = 0; list && i < list->n; i++)
        if (list->entry[i] == entry) return true;
    return !list;
}

/* The list that speaks of a layer; NULL: all experts. */
static const mg_merge_layers *list_of(const mg_merge_spec *s, uint32_t layer) {
    for (uint32_t i = 0; i < s->n_lists; i++)
        if (layer >= s->lists[i].first && layer < s->lists[i].end) return &s->lists[i];
    return NULL;
}

static bool stays_dense(const mg_merge_spec *s, uint32_t layer) {
    for (uint32_t i = 0; i < s->n_dense; i++)
        if (s->dense[i] == layer) return true;
    return false;
}

static mg_status pick_layers(mg_merge_units *u, const mg_merge_spec *s, uint32_t layers, mg_arena *arena,
                             mg_error *err) {
    uint32_t *pick, first = UINT32_MAX;
    for (uint32_t i = 0; i < s->n_lists; i++)
        if (s->lists[i].end > layers)
            return mg_fail(err, MG_ERR_CONFLICT, "layer_experts speaks of layer %u, the model has %u layers",
                           s->lists[i].end - 1, layers);
    MG_TRY(MG_ARENA_NEW(arena, &pick, (size_t)layers * u->n, err));
    u->per_layer = u->n;
    for (uint32_t l = 0; l < layers; l++) {
        uint32_t n = 0, *to = pick + (uint64_t)l * u->per_layer;
        for (uint32_t k = 0; k < u->n; k++)
            if (of_entries(list_of(s, l), u->unit[k].entry)) n++;
        if (stays_dense(s, l)) continue;
        if (first == UINT32_MAX) {
            first = l;
            u->per_layer = n;
            to = pick + (uint64_t)l * n;
        }
        if (n != u->per_layer)
            return mg_fail(err, MG_ERR_CONFLICT, "layer %u has %u experts, layer %u has %u: all must have as many",
                           first, u->per_layer, l, n);
        for (uint32_t k = 0, at = 0; k < u->n; k++)
            if (of_entries(list_of(s, l), u->unit[k].entry)) to[at++] = k;
    }
    u->pick = pick;
    return MG_OK;
}

mg_status mg_merge_units_make(mg_merge_units *u, const mg_merge_spec *spec, const mg_donor *donors, mg_arena *arena,
                              mg_error *err) {
    mg_merge_unit *unit;
    uint64_t n = 0;
    *u = (mg_merge_units){0};
    for (uint32_t e = 0; e < spec->n_experts; e++) {
        MG_TRY(check_entry(u, &spec->experts[e], &donors[e + 1], err));
        n += units_of(&spec->experts[e], &donors[e + 1]);
    }
    if (n > MG_MERGE_MAX_EXPERTS)
        return mg_fail(err, MG_ERR_LIMIT, "%llu experts, at most %u are possible", (unsigned long long)n,
                       MG_MERGE_MAX_EXPERTS);
    MG_TRY(MG_ARENA_NEW(arena, &unit, (size_t)n, err));
    for (uint32_t e = 0; e < spec->n_experts; e++) u->n += fill(unit + u->n, e, &spec->experts[e], &donors[e + 1]);
    u->unit = unit;
    return pick_layers(u, spec, (uint32_t)mg_hp_i(donors[0].model, MG_K_LAYERS), arena, err);
}
