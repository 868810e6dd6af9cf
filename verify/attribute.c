/* attribute.c - see attribute.h. */
#include "verify/attribute.h"

#include "quant/weight_error.h"

#include <math.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GROUP 8u /* parts measured in one run beside one pass of the reference; they share the memory budget */

/* Tables of rotary factors are the configuration in another form. */
static bool is_weight(mg_role r) {
    return r != MG_R_ROPE_FREQS && r != MG_R_ROPE_FACTORS_LONG && r != MG_R_ROPE_FACTORS_SHORT;
}

static bool per_expert(mg_role r) {
    return mg_role_scope(r) == MG_SCOPE_EXPERT || mg_role_scope(r) == MG_SCOPE_EDGE;
}

static uint32_t count_of(const mg_model *m, mg_role role) {
    return per_expert(role) ? mg_scope_count(mg_role_scope(role), &m->hp) : 1;
}

/* ---- the tree ---- */

static mg_status add_part(mg_attribution *a, const mg_attribution_part *p, mg_error *err) {
    if (a->n == a->cap) {
        uint32_t cap = a->cap ? 2 * a->cap : 64;
        mg_attribution_part *parts = realloc(a->parts, cap * sizeof *parts);
        if (!parts) return mg_fail_nomem(err, cap * sizeof *parts);
        a->parts = parts;
        a->cap = cap;
    }
    a->parts[a->n++] = *p;
    return MG_OK;
}

static uint64_t bytes_of(const mg_model *m, const mg_bound *b) {
    return mg_bound_rows(b) * mg_model_row_bytes(m, b);
}

/* One role, or one expert of it; nothing when neither model has it. */
static mg_status add_role(mg_attribution *a, const mg_model *ref, const mg_model *cand, mg_role role, uint32_t layer,
                          uint32_t expert, mg_error *err) {
    const mg_model *m = cand;
    mg_attribution_part p = {.role = role, .layer = layer, .expert = expert};
    const uint32_t l = layer == MG_ATTRIBUTE_ALL ? 0 : layer, e = expert == MG_ATTRIBUTE_ALL ? 0 : expert;
    const mg_bound *b = mg_model_find(cand, role, l, e);
    if (!b) b = mg_model_find(m = ref, role, l, e);
    if (!b) return MG_OK;
    const mg_tensor *t = mg_model_tensor(m, b);
    const uint32_t n = count_of(m, role);
    if (n > 1 && expert == MG_ATTRIBUTE_ALL && t->rank < 3)
        snprintf(p.name, sizeof p.name, "layer %u %s, all %u", layer, mg_role_name(role), n);
    else if (n > 1 && expert != MG_ATTRIBUTE_ALL && t->rank == 3)
        snprintf(p.name, sizeof p.name, "%.140s[%u]", t->name, expert);
    else
        snprintf(p.name, sizeof p.name, "%.150s", t->name);
    for (uint32_t i = 0; i < n && m == cand; i++) {
        const mg_bound *x = expert == MG_ATTRIBUTE_ALL ? mg_model_find(m, role, l, i) : i == 0 ? b : NULL;
        if (x) p.bytes += bytes_of(m, x);
    }
    return add_part(a, &p, err);
}

static mg_status add_layer(mg_attribution *a, const mg_model *cand, uint32_t layer, mg_error *err) {
    mg_attribution_part p = {.role = MG_ROLE_COUNT, .layer = layer, .expert = MG_ATTRIBUTE_ALL};
    snprintf(p.name, sizeof p.name, "layer %u", layer);
    for (int role = 0; role < MG_ROLE_COUNT; role++) {
        if (mg_role_scope((mg_role)role) == MG_SCOPE_MODEL) continue;
        for (uint32_t e = 0; e < count_of(cand, (mg_role)role); e++) {
            const mg_bound *b = mg_model_find(cand, (mg_role)role, layer, e);
            if (b) p.bytes += bytes_of(cand, b);
        }
    }
    return add_part(a, &p, err);
}

/* The layers, and what stands outside them. */
static mg_status add_top(mg_attribution *a, const mg_model *ref, const mg_model *cand, mg_error *err) {
    for (int role = 0; role < MG_ROLE_COUNT; role++)
        if (mg_role_scope((mg_role)role) == MG_SCOPE_MODEL && is_weight((mg_role)role))
            MG_TRY(add_role(a, ref, cand, (mg_role)role, MG_ATTRIBUTE_ALL, MG_ATTRIBUTE_ALL, err));
    for (uint32_t l = 0; l < (uint32_t)mg_hp_i(cand, MG_K_LAYERS); l++) MG_TRY(add_layer(a, cand, l, err));
    return MG_OK;
}

static bool can_open(const mg_model *cand, const mg_attribution_part *p) {
    if (!p->measured || p->opened || !(p->kl > 0)) return false;
    return p->role == MG_ROLE_COUNT || (p->expert == MG_ATTRIBUTE_ALL && count_of(cand, p->role) > 1);
}

static int by_bytes(const void *x, const void *y) {
    const mg_attribution_part *a = x, *b = y;
    if (a->bytes != b->bytes) return a->bytes > b->bytes ? -1 : 1;
    return strcmp(a->name, b->name);
}

/* Children of the part with the most drift, the largest first, so that a budget is not spent on norms; false when no
 * part is left to open. */
static mg_status open_worst(mg_attribution *a, const mg_model *ref, const mg_model *cand, bool *opened, mg_error *err) {
    uint32_t best = UINT32_MAX;
    for (uint32_t i = 0; i < a->n; i++)
        if (can_open(cand, &a->parts[i]) && (best == UINT32_MAX || a->parts[i].kl > a->parts[best].kl)) best = i;
    *opened = best != UINT32_MAX;
    if (!*opened) return MG_OK;
    a->parts[best].opened = true;
    const uint32_t first = a->n;
    const mg_attribution_part p = a->parts[best]; /* adding moves the list */
    if (p.role != MG_ROLE_COUNT) {
        for (uint32_t e = 0; e < count_of(cand, p.role); e++) MG_TRY(add_role(a, ref, cand, p.role, p.layer, e, err));
    } else {
        for (int role = 0; role < MG_ROLE_COUNT; role++)
            if (mg_role_scope((mg_role)role) != MG_SCOPE_MODEL)
                MG_TRY(add_role(a, ref, cand, (mg_role)role, p.layer, MG_ATTRIBUTE_ALL, err));
    }
    if (a->n > first) qsort(a->parts + first, a->n - first, sizeof *a->parts, by_bytes);
    return MG_OK;
}

/* ---- measuring ---- */

/* One weight of the part exchanged, and what it differs by. */
static mg_status take_one(mg_overlay *o, mg_model *ref, mg_weight_error *error, mg_role role, uint32_t l, uint32_t e,
                          mg_pool *pool, mg_error *err) {
    MG_TRY(mg_overlay_take(o, role, l, e, err));
    mg_model *m = mg_overlay_model(o);
    const mg_bound *a = mg_model_find(ref, role, l, e), *b = mg_model_find(m, role, l, e);
    return a && b && is_weight(role) ? mg_weight_error_add(error, ref, a, m, b, pool, err) : MG_OK;
}

static mg_status take(mg_overlay *o, mg_model *ref, mg_attribution_part *p, mg_pool *pool, mg_error *err) {
    const uint32_t l = p->layer == MG_ATTRIBUTE_ALL ? 0 : p->layer;
    mg_weight_error error = {0};
    mg_overlay_reset(o);
    for (int role = 0; role < MG_ROLE_COUNT; role++) {
        const mg_role r = (mg_role)role;
        const bool wanted = p->role == MG_ROLE_COUNT ? mg_role_scope(r) != MG_SCOPE_MODEL : r == p->role;
        if (!wanted) continue;
        const uint32_t n = count_of(ref, r), one = p->expert;
        for (uint32_t e = one == MG_ATTRIBUTE_ALL ? 0 : one; e < (one == MG_ATTRIBUTE_ALL ? n : one + 1); e++)
            MG_TRY(take_one(o, ref, &error, r, l, e, pool, err));
    }
    p->error = mg_weight_error_relative(&error);
    return MG_OK;
}

/* Parts from..from+n-1 beside one pass of the reference. */
static mg_status measure(mg_attribution *a, uint32_t from, uint32_t n, mg_overlay *const *overlays, mg_model *ref,
                         const mg_compare_options *opt, mg_error *err) {
    mg_candidate c[GROUP] = {0};
    mg_status st = MG_OK;
    for (uint32_t i = 0; st == MG_OK && i < n; i++) {
        c[i].path = a->parts[from + i].name;
        c[i].model = mg_overlay_model(overlays[i]);
        st = take(overlays[i], ref, &a->parts[from + i], opt->pool, err);
    }
    if (st == MG_OK) st = mg_compare_run(&(mg_walk_source){.model = ref, .path = "reference"}, c, n, opt, err);
    for (uint32_t i = 0; st == MG_OK && i < n; i++)
        if (c[i].not_finite)
            st =
                mg_fail(err, MG_ERR_FORMAT, "with %s in the reference: window %llu, position %u: a logit is not finite",
                        c[i].path, (unsigned long long)c[i].bad_window, c[i].bad_pos);
    for (uint32_t i = 0; i < n; i++) {
        mg_attribution_part *p = &a->parts[from + i];
        p->measured = st == MG_OK;
        p->kl = c[i].summary.kl.mean;
        p->kl_stderr = c[i].summary.kl.stderr_;
        p->ppl = c[i].summary.ppl_candidate;
        a->n_measured += p->measured;
        mg_candidate_release(&c[i]);
    }
    return st;
}

static int by_drift(const void *x, const void *y) {
    const mg_attribution_part *a = x, *b = y;
    if (a->measured != b->measured) return a->measured ? -1 : 1;
    if (a->kl != b->kl) return a->kl < b->kl ? 1 : -1;
    if (a->bytes != b->bytes) return a->bytes > b->bytes ? 1 : -1;
    return strcmp(a->name, b->name);
}

static mg_status explore(mg_attribution *out, mg_model *ref, mg_model *cand, mg_overlay *const *overlays,
                         uint32_t budget, const mg_compare_options *opt, mg_error *err) {
    MG_TRY(add_top(out, ref, cand, err));
    for (bool more = true; more && out->n_measured < budget;) {
        while (out->n_measured < out->n && out->n_measured < budget) { /* parts are measured in the order they came */
            uint32_t n = out->n - out->n_measured;
            n = n < GROUP ? n : GROUP;
            n = n < budget - out->n_measured ? n : budget - out->n_measured;
            MG_TRY(measure(out, out->n_measured, n, overlays, ref, opt, err));
        }
        if (out->n_measured < budget) MG_TRY(open_worst(out, ref, cand, &more, err));
    }
    if (out->n) qsort(out->parts, out->n, sizeof *out->parts, by_drift);
    return MG_OK;
}

mg_status mg_attribute_run(mg_attribution *out, mg_model *ref, mg_model *cand, uint32_t budget,
                           const mg_compare_options *opt, mg_error *err) {
    mg_overlay *overlays[GROUP] = {0};
    mg_compare_options quick = *opt;
    quick.logits_only = true;
    quick.weights = false;
    memset(out, 0, sizeof *out);
    mg_status st = MG_OK;
    for (uint32_t i = 0; st == MG_OK && i < GROUP; i++) st = mg_overlay_new(&overlays[i], ref, cand, err);
    if (st == MG_OK) st = explore(out, ref, cand, overlays, budget, &quick, err);
    for (uint32_t i = 0; i < GROUP; i++) mg_overlay_free(overlays[i]);
    return st;
}

void mg_attribution_release(mg_attribution *a) {
    free(a->parts);
    memset(a, 0, sizeof *a);
}

static void set_place(mg_json *o, const char *key, uint32_t x) {
    mg_json_set(o, key, x == MG_ATTRIBUTE_ALL ? mg_json_new_null() : mg_json_new_i64(x));
}

mg_status mg_attribution_json(mg_json **out, const mg_attribution *a, mg_error *err) {
    mg_json *o = mg_json_new_object(), *list = mg_json_new_array();
    mg_json_set_u64(o, "measured", a->n_measured);
    mg_json_set_u64(o, "not_measured", a->n - a->n_measured);
    for (uint32_t i = 0; i < a->n_measured; i++) {
        const mg_attribution_part *p = &a->parts[i];
        mg_json *x = mg_json_new_object(), *kl = mg_json_new_object();
        mg_json_set_str(x, "name", p->name);
        mg_json_set_str(x, "role", p->role == MG_ROLE_COUNT ? "layer" : mg_role_name(p->role));
        set_place(x, "layer", p->layer);
        set_place(x, "expert", p->expert);
        mg_json_set_u64(x, "bytes", p->bytes);
        mg_json_set_f64(x, "error", sqrt(p->error));
        mg_json_set_f64(kl, "mean", p->kl);
        mg_json_set_f64(kl, "stderr", p->kl_stderr);
        mg_json_set(x, "kl", kl);
        mg_json_set_f64(x, "ppl", p->ppl);
        mg_json_push(list, x);
    }
    mg_json_set(o, "parts", list);
    *out = o;
    if (o && list && !mg_json_is_broken(o)) return MG_OK;
    mg_json_free(o);
    *out = NULL;
    return mg_fail_nomem(err, sizeof(void *));
}
