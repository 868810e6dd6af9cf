/* bind.c - every tensor of a checkpoint finds its role, and every role its tensor.
 *
 * Names are made from the family's patterns and looked up (never parsed), so a layer or expert too many in the file is
 * a tensor nobody claims. A stored tensor may serve several roles (stacked experts, fused projections); its elements
 * are counted as they are claimed, and in the end every tensor must have been claimed exactly once, or be one the
 * family ignores. */
#include "formats/arch/bind.h"

#include <stdio.h>
#include <string.h>

typedef struct binder {
    mg_model *m;
    mg_layout layout;
    uint64_t missing; /* required roles not found */
    char first_missing[256];
    mg_error *err;
} binder;

mg_layout mg_layout_of(const mg_checkpoint *c) {
    return c->kv ? MG_LAYOUT_GGUF : c->params ? MG_LAYOUT_NATIVE : MG_LAYOUT_HF;
}

static uint32_t lookup(const mg_model *m, const char *pattern, uint32_t l, uint32_t e, char *name, size_t size) {
    if (!mg_pattern_expand(name, size, pattern, &m->hp, l, e)) return MG_STRMAP_NONE;
    return mg_checkpoint_find(m->ckpt, name);
}

/* ---- sizes from shapes ---- */

/* The key whose plain default decides this one: itself, or what it falls back on. MG_KEY_COUNT when the value is
 * derived by a formula or cannot be left out. */
static mg_key decided_by(const mg_model *m, const mg_config_state *st, mg_key key) {
    for (uint32_t steps = 0; steps < m->arch->n_config; steps++) {
        const mg_config_row *r = mg_arch_config_row(m->arch, key);
        if (!r || m->hp.present[key] || st->fixed[key]) break;
        const mg_fallback *fb = mg_native_absent(st, &m->hp, key);
        if (!fb) fb = st->gguf && r->gguf_absent.kind != MG_FB_SAME ? &r->gguf_absent : &r->absent;
        if (fb->kind == MG_FB_VALUE || (fb->kind == MG_FB_TOKENS && !st->tokens)) return key;
        if (fb->kind != MG_FB_KEY) break;
        key = fb->key;
    }
    return MG_KEY_COUNT;
}

static void fix_from(mg_model *m, mg_config_state *st, const mg_tensor *t, const mg_sym *syms, uint32_t rank) {
    for (uint32_t d = 0; d < rank; d++) {
        const mg_sym *s = &syms[d];
        if (s->kind != MG_SYM_KEY || s->div || t->shape[d] > INT32_MAX || (s->mul && t->shape[d] % s->mul)) continue;
        mg_key key = decided_by(m, st, s->a);
        if (key == MG_KEY_COUNT) continue;
        m->hp.i[key] = (int64_t)(t->shape[d] / (s->mul ? s->mul : 1));
        st->fixed[key] = true;
    }
}

/* Layers the file has: one past the last for which a norm or any other layer tensor is there. */
static void fix_layers(mg_model *m, mg_config_state *st) {
    const mg_tensor_row *r = mg_arch_row(m->arch, MG_R_ATTN_NORM);
    if (!r) r = mg_arch_row(m->arch, MG_R_ATTN_POST_NORM);
    const char *pattern = r ? r->forms[mg_layout_of(m->ckpt)][0].pattern : NULL;
    char name[256];
    uint32_t l = 0;
    if (!pattern || m->hp.present[MG_K_LAYERS]) return;
    while (l < m->ckpt->n_tensors && lookup(m, pattern, l, 0, name, sizeof name) != MG_STRMAP_NONE) l++;
    if (!l) return;
    m->hp.i[MG_K_LAYERS] = l;
    st->fixed[MG_K_LAYERS] = true;
}

/* The tensor of the first layer that has one: some roles begin after the dense layers. */
static uint32_t first_of(const mg_model *m, const char *pattern, char *name, size_t size) {
    const bool layers = strstr(pattern, "{l}") != NULL;
    uint32_t t = lookup(m, pattern, 0, 0, name, size);
    for (uint32_t l = 1; layers && t == MG_STRMAP_NONE && l < MG_MAX_LAYERS && (int64_t)l < m->hp.i[MG_K_LAYERS]; l++)
        t = lookup(m, pattern, l, 0, name, size);
    return t;
}

/* GGUF has no list of dense layers: they are those without a router. */
static void fix_dense(mg_model *m) {
    const mg_tensor_row *r = mg_arch_row(m->arch, MG_R_ROUTER);
    const char *pattern = r ? r->forms[MG_LAYOUT_GGUF][0].pattern : NULL;
    char name[256];
    for (uint32_t l = 0; pattern && l < MG_MAX_LAYERS && (int64_t)l < m->hp.i[MG_K_LAYERS]; l++)
        if (lookup(m, pattern, l, 0, name, sizeof name) == MG_STRMAP_NONE)
            m->hp.dense[l / 64] |= (uint64_t)1 << (l % 64);
}

/* Those that the keys imply anyway are not listed. */
void mg_bind_dense(mg_model *m, const mg_config_state *st) {
    if (!st->gguf) return;
    fix_dense(m);
    for (uint32_t l = 0; l < MG_MAX_LAYERS; l++) {
        if (!mg_hp_dense(&m->hp, l)) continue;
        m->hp.dense[l / 64] &= ~((uint64_t)1 << (l % 64));
        if (mg_layer_routes(m, l)) m->hp.dense[l / 64] |= (uint64_t)1 << (l % 64);
    }
}

void mg_bind_sizes(mg_model *m, mg_config_state *st) {
    char name[256];
    mg_layout layout = mg_layout_of(m->ckpt);
    fix_layers(m, st);
    for (uint32_t i = 0; i < m->arch->n_tensors; i++) {
        const mg_tensor_row *r = &m->arch->tensors[i];
        for (uint32_t f = 0; f < MG_MAX_FORMS && r->forms[layout][f].pattern; f++) {
            const mg_form *form = &r->forms[layout][f];
            uint32_t t = first_of(m, form->pattern, name, sizeof name), rank = 0;
            if (t == MG_STRMAP_NONE) continue;
            const mg_sym *syms = form->stored[0].kind != MG_SYM_NONE ? form->stored : r->shape;
            uint32_t max = syms == r->shape ? 3 : 4;
            while (rank < max && syms[rank].kind != MG_SYM_NONE) rank++;
            if (m->ckpt->tensors[t].rank == rank) fix_from(m, st, &m->ckpt->tensors[t], syms, rank);
        }
    }
}

/* ---- one role ---- */

/* "[vocab_size 320, hidden_size 64]": what the config says, dimension by dimension. */
static void expected_text(const binder *b, const mg_sym *syms, const uint64_t *shape, uint32_t rank, char *buf,
                          size_t size) {
    size_t n = (size_t)snprintf(buf, size, "[");
    char key[96];
    for (uint32_t d = 0; d < rank && n < size; d++) {
        const char *what = "";
        if (syms[d].kind == MG_SYM_KEY && !syms[d].mul && !syms[d].div)
            what = mg_config_spelling(b->m->arch, syms[d].a, b->layout, key, sizeof key);
        n += (size_t)snprintf(buf + n, size - n, "%s%s%s%llu", d ? ", " : "", what, *what ? " " : "",
                              (unsigned long long)shape[d]);
    }
    if (n < size) snprintf(buf + n, size - n, "]");
}

static mg_status check_stored(const binder *b, const mg_tensor *t, const mg_sym *syms, uint32_t max, uint32_t expert) {
    uint64_t shape[4] = {0};
    uint32_t rank = mg_sym_shape(shape, syms, max, &b->m->hp, expert);
    bool same = rank == t->rank && memcmp(shape, t->shape, rank * sizeof *shape) == 0;
    if (!same) {
        char want[256], found[128];
        expected_text(b, syms, shape, rank, want, sizeof want);
        mg_fail(b->err, MG_ERR_CONFLICT, "shape %s, but the configuration says %s",
                mg_tensor_shape_text(t, found, sizeof found), want);
        mg_error_at(b->err, NULL, t->name);
        return MG_ERR_CONFLICT;
    }
    if (mg_dtype_is_float(t->dtype) || mg_dtype_is_block(t->dtype)) return MG_OK;
    mg_fail(b->err, MG_ERR_UNSUPPORTED, "type %s is not one that weights of this family are read from",
            mg_dtype_get(t->dtype)->name);
    mg_error_at(b->err, NULL, t->name);
    return MG_ERR_UNSUPPORTED;
}

static mg_status claim(binder *b, uint32_t t, const mg_tensor_row *r, uint32_t l, uint32_t e, const mg_bound *bound) {
    const mg_tensor *x = &b->m->ckpt->tensors[t];
    mg_claim *c = &b->m->claims[t];
    uint64_t n = 1;
    for (uint32_t i = 0; i < bound->rank; i++) n *= bound->shape[i];
    if (n > x->n_elements - c->elements) {
        mg_fail(b->err, MG_ERR_FORMAT, "claimed twice, the second time as %s", mg_role_name(r->role));
        mg_error_at(b->err, NULL, x->name);
        return MG_ERR_FORMAT;
    }
    if (c->elements == 0) {
        c->role = r->role;
        c->layer = l;
        c->expert = e;
    }
    c->elements += n;
    return MG_OK;
}

/* GGUF writers drop the last of ggml's dimensions when it is 1, which is our first: [1, n] comes back as [n]. *full is
 * the view that puts it back. */
static bool lost_ones(const binder *b, const mg_tensor *t, const mg_sym *syms, uint32_t max, uint32_t expert,
                      mg_view *full) {
    uint64_t shape[4] = {0};
    uint32_t rank = mg_sym_shape(shape, syms, max, &b->m->hp, expert), ones = rank - t->rank;
    if (b->layout != MG_LAYOUT_GGUF || rank <= t->rank || rank > 3) return false;
    for (uint32_t i = 0; i < ones; i++)
        if (shape[i] != 1) return false;
    *full = (mg_view){.kind = MG_VIEW_RESHAPE, .a = shape[0], .b = shape[1], .step = rank > 2 ? shape[2] : 0};
    return memcmp(shape + ones, t->shape, t->rank * sizeof *shape) == 0;
}

static mg_status bind_form(binder *b, uint32_t t, const mg_tensor_row *r, const mg_form *form, uint32_t l, uint32_t e) {
    const mg_tensor *x = &b->m->ckpt->tensors[t];
    bool own = form->stored[0].kind != MG_SYM_NONE;
    uint64_t want[3] = {0};
    uint32_t rank = mg_sym_shape(want, r->shape, 3, &b->m->hp, e);
    mg_bound *bound = mg_bind_slot(b->m, r->role, l, e);
    const mg_sym *syms = own ? form->stored : r->shape;
    mg_view full = {0};
    mg_form_views(bound->views, form, &b->m->hp, e);
    if (lost_ones(b, x, syms, own ? 4 : 3, e, &full)) {
        memmove(bound->views + 1, bound->views,
                (MG_MAX_VIEWS - 1) * sizeof full); /* rows have MG_MAX_ROW_VIEWS < MAX */
        bound->views[0] = full;
    } else {
        MG_TRY(check_stored(b, x, syms, own ? 4 : 3, e));
    }
    if (!mg_views_shape(bound->views, x->rank, x->shape, &bound->rank, bound->shape) || bound->rank != rank ||
        memcmp(bound->shape, want, rank * sizeof *want) != 0)
        return mg_fail(b->err, MG_ERR_FORMAT, "the view of %s does not give its shape", mg_role_name(r->role));
    bound->tensor = t;
    return claim(b, t, r, l, e, bound);
}

/* GGUF metadata does not state these; the tensors do. */
static bool told_by_tensors(mg_cond c) {
    return c == MG_IF_UNTIED || c == MG_IF_ATTN_BIAS || c == MG_IF_QK_NORM || c == MG_IF_HEAD_BIAS ||
           c == MG_IF_DENSE_MLP_BIAS;
}

static bool wanted(const binder *b, const mg_tensor_row *r, const mg_layer *layer, bool *required) {
    bool gguf = b->layout == MG_LAYOUT_GGUF;
    *required = false;
    if (r->when == MG_IF_STORED || r->when == MG_IF_LLAMA3 || r->when == MG_IF_LONGROPE) return true;
    if (gguf && r->when == MG_IF_DENSE_MLP_BIAS) return !layer->moe;
    if (gguf && told_by_tensors(r->when)) return true;
    return *required = mg_cond_holds(r->when, &b->m->hp, layer);
}

static mg_status bind_role(binder *b, const mg_tensor_row *r, uint32_t l, uint32_t e) {
    const mg_layer *layer = mg_role_scope(r->role) == MG_SCOPE_MODEL ? NULL : &b->m->layers[l];
    bool required;
    char name[256];
    if (!wanted(b, r, layer, &required)) return MG_OK;
    for (uint32_t f = 0; f < MG_MAX_FORMS && r->forms[b->layout][f].pattern; f++) {
        uint32_t t = lookup(b->m, r->forms[b->layout][f].pattern, l, e, name, sizeof name);
        if (t != MG_STRMAP_NONE) return bind_form(b, t, r, &r->forms[b->layout][f], l, e);
    }
    if (!required || !r->forms[b->layout][0].pattern) return MG_OK;
    if (b->missing++ == 0)
        mg_pattern_expand(b->first_missing, sizeof b->first_missing, r->forms[b->layout][0].pattern, &b->m->hp, l, e);
    return MG_OK;
}

/* ---- all roles ---- */

static mg_status alloc_bounds(mg_model *m, mg_layout layout, mg_error *err) {
    char name[96];
    if ((uint64_t)m->hp.i[MG_K_LAYERS] > m->ckpt->n_tensors)
        return mg_fail(err, MG_ERR_CONFLICT, "'%s' is %lld, but there are only %u tensors",
                       mg_config_spelling(m->arch, MG_K_LAYERS, layout, name, sizeof name),
                       (long long)m->hp.i[MG_K_LAYERS], m->ckpt->n_tensors);
    uint64_t layers = (uint64_t)m->hp.i[MG_K_LAYERS], n, per_layer = 0;
    for (uint32_t i = 0; i < m->arch->n_tensors; i++) {
        mg_role role = m->arch->tensors[i].role;
        m->slot[role] = m->n_slots[mg_role_scope(role)]++;
    }
    /* layers and experts are bounded by the config rows, so this cannot wrap; the arena's cap refuses what is absurd */
    for (int s = MG_SCOPE_LAYER; s < MG_SCOPE_COUNT; s++)
        per_layer += (uint64_t)m->n_slots[s] * mg_scope_count((mg_scope)s, &m->hp);
    n = m->n_slots[MG_SCOPE_MODEL] + layers * per_layer;
    MG_TRY(MG_ARENA_NEW(&m->arena, &m->bounds, n, err));
    MG_TRY(MG_ARENA_NEW(&m->arena, &m->claims, m->ckpt->n_tensors, err));
    m->n_claims = m->ckpt->n_tensors;
    m->n_bounds = n;
    for (uint64_t i = 0; i < n; i++) m->bounds[i].tensor = MG_STRMAP_NONE;
    return MG_OK;
}

static mg_status bind_row(binder *b, const mg_tensor_row *r) {
    mg_scope scope = mg_role_scope(r->role);
    uint32_t layers = scope == MG_SCOPE_MODEL ? 1 : (uint32_t)b->m->hp.i[MG_K_LAYERS];
    uint32_t experts = mg_scope_count(scope, &b->m->hp);
    for (uint32_t l = 0; l < layers; l++)
        for (uint32_t e = 0; e < experts; e++) MG_TRY(bind_role(b, r, l, e));
    return MG_OK;
}

/* A tensor of a layer the model does not have. */
static bool extra_layer(const mg_model *m, const char *name) {
    static const char *const prefixes[MG_LAYOUT_COUNT] = {"model.layers.", "blk.", "layers."};
    const char *prefix = prefixes[mg_layout_of(m->ckpt)];
    const size_t n = strlen(prefix);
    int64_t l = 0;
    if (strncmp(name, prefix, n) != 0 || name[n] < '0' || name[n] > '9') return false;
    for (name += n; *name >= '0' && *name <= '9' && l < MG_MAX_LAYERS; name++) l = 10 * l + (*name - '0');
    return l >= m->hp.i[MG_K_LAYERS];
}

static bool is_ignored(const mg_arch *arch, const char *name) {
    for (const char *const *p = arch->ignored; p && *p; p++)
        if (mg_pattern_match(*p, name)) return true;
    return false;
}

/* A tied model may still carry the head it does not use (transformers loads the embedding then). */
static const mg_tensor_row *unused_by_tie(const binder *b, const char *name) {
    for (uint32_t i = 0; i < b->m->arch->n_tensors; i++) {
        const mg_tensor_row *r = &b->m->arch->tensors[i];
        if (r->when != MG_IF_UNTIED || !b->m->hp.i[MG_K_TIED]) continue;
        const mg_form *f = &r->forms[b->layout][0];
        if (f->pattern && mg_pattern_match(f->pattern, name)) return r;
    }
    return NULL;
}

static mg_status check_claims(binder *b) {
    mg_model *m = b->m;
    uint64_t unknown = 0;
    uint32_t first = 0;
    if (b->missing == 1) return mg_fail(b->err, MG_ERR_FORMAT, "tensor '%s' is missing", b->first_missing);
    if (b->missing)
        return mg_fail(b->err, MG_ERR_FORMAT, "tensor '%s' and %llu more are missing", b->first_missing,
                       (unsigned long long)(b->missing - 1));
    for (uint32_t t = 0; t < m->ckpt->n_tensors; t++) {
        const mg_tensor *x = &m->ckpt->tensors[t];
        if (m->claims[t].elements == x->n_elements && x->n_elements) continue;
        if (m->claims[t].elements) {
            mg_fail(b->err, MG_ERR_FORMAT, "only %llu of its %llu elements belong to the model",
                    (unsigned long long)m->claims[t].elements, (unsigned long long)x->n_elements);
            mg_error_at(b->err, NULL, x->name);
            return MG_ERR_FORMAT;
        }
        m->claims[t].ignored = true;
        if (is_ignored(m->arch, x->name)) continue;
        if (m->arch->skip_extra_layers && extra_layer(m, x->name)) {
            MG_TRY(mg_model_assume(m, b->err, "layers from %lld on are for predicting several tokens at once: not read",
                                   (long long)m->hp.i[MG_K_LAYERS]));
            continue;
        }
        if (unused_by_tie(b, x->name)) {
            MG_TRY(mg_model_assume(
                m, b->err, "'%s' is stored but not used: the config ties the output head to the embedding", x->name));
            continue;
        }
        if (unknown++ == 0) first = t;
    }
    if (!unknown) return MG_OK;
    mg_fail(b->err, MG_ERR_FORMAT, "not a tensor of family '%s' with this configuration (%llu such tensor%s)",
            m->arch->name, (unsigned long long)unknown, unknown > 1 ? "s" : "");
    mg_error_at(b->err, NULL, m->ckpt->tensors[first].name);
    return MG_ERR_FORMAT;
}

/* Keys that GGUF does not state: set from what was found. */
static void keys_from_tensors(mg_model *m) {
    m->hp.i[MG_K_TIED] = mg_model_find(m, MG_R_OUTPUT, 0, 0) == NULL;
    for (uint32_t i = 0; i < m->arch->n_tensors; i++) {
        const mg_tensor_row *r = &m->arch->tensors[i];
        if (!mg_model_find(m, r->role, 0, 0)) continue;
        if (r->when == MG_IF_ATTN_BIAS) m->hp.i[MG_K_ATTN_BIAS] = 1;
        if (r->when == MG_IF_HEAD_BIAS) m->hp.i[MG_K_HEAD_BIAS] = 1;
        if (r->when == MG_IF_QK_NORM) m->hp.i[MG_K_QK_NORM] = 1;
        if (r->when == MG_IF_DENSE_MLP_BIAS) m->hp.i[MG_K_MLP_BIAS] = 1;
    }
}

/* The lists of a longrope scaling, which GGUF stores as tensors and otherwise does not mention. */
static mg_status factors_from_tensors(mg_model *m, mg_error *err) {
    static const mg_role roles[2] = {MG_R_ROPE_FACTORS_SHORT, MG_R_ROPE_FACTORS_LONG};
    uint32_t found = 0;
    for (int k = 0; k < 2; k++) {
        const mg_bound *b = mg_model_find(m, roles[k], 0, 0);
        if (!b) continue;
        const mg_tensor *t = mg_model_tensor(m, b);
        if (t->dtype != MG_F32 || t->n_elements > MG_MAX_ROPE_PAIRS) {
            mg_fail(err, MG_ERR_UNSUPPORTED, "rotary factors of type %s, expected up to %d of type F32",
                    mg_dtype_get(t->dtype)->name, MG_MAX_ROPE_PAIRS);
            mg_error_at(err, NULL, t->name);
            return MG_ERR_UNSUPPORTED;
        }
        MG_TRY(mg_model_read_rows(m, b, 0, 1, m->hp.rope_factors[k], err));
        m->hp.n_rope_factors[k] = (uint32_t)t->n_elements;
        found++;
    }
    if (!found) return MG_OK;
    m->hp.i[MG_K_ROPE_TYPE] = MG_ROPE_LONGROPE;
    return mg_config_check(m, true, err);
}

mg_status mg_bind(mg_model *m, const mg_config_state *st, mg_error *err) {
    binder b = {.m = m, .layout = mg_layout_of(m->ckpt), .err = err};
    MG_TRY(alloc_bounds(m, b.layout, err));
    for (uint32_t i = 0; i < m->arch->n_tensors; i++) MG_TRY(bind_row(&b, &m->arch->tensors[i]));
    MG_TRY(check_claims(&b));
    if (!st->gguf) return MG_OK;
    keys_from_tensors(m);
    return factors_from_tensors(m, err);
}
