/* arch_check.c - is a family description sound? What the rest of formats/arch and the forward pass take for granted of
 * the built-in tables, asked of every table: a description from a file may say anything.
 *
 * What a weight looks like is judged by example: a role has one of the shapes, under one of the conditions, that a
 * built-in family gives it. The arithmetic was written for those. */
#include "formats/arch/arch_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define WHOLE_LIMIT 9007199254740992.0 /* 2^53: whole numbers that a double holds */

typedef struct check {
    const mg_arch *a;
    mg_error *err;
} check;

/* ---- names ---- */

static bool is_name(const char *s, size_t most) {
    size_t n = s ? strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") : 0;
    return n && n <= most && !s[n];
}

static mg_status check_json(const check *c, const char *what, const char *text) {
    mg_json *v;
    mg_error why = {0};
    if (mg_json_parse(&v, (mg_span){(const uint8_t *)text, strlen(text)}, NULL, &why) != MG_OK)
        return mg_fail(c->err, MG_ERR_FORMAT, "%.60s: '%.60s' is no JSON: %.80s", what, text, why.message);
    mg_json_free(v);
    return MG_OK;
}

static mg_status check_names(const check *c) {
    const mg_arch *a = c->a;
    if (!is_name(a->name, 48))
        return mg_fail(c->err, MG_ERR_FORMAT, "name: expected at most 48 letters, digits, _ . -");
    if (!is_name(a->gguf_arch, 48))
        return mg_fail(c->err, MG_ERR_FORMAT, "gguf_arch: expected at most 48 letters, digits, _ . -");
    for (int i = 0; i < 4 && (i == 0 || a->hf_classes[i]); i++)
        if (!is_name(a->hf_classes[i], 80))
            return mg_fail(c->err, MG_ERR_FORMAT, "hf_classes: expected names of at most 80 letters, digits, _ . -");
    if (a->blocks_config) MG_TRY(check_json(c, "blocks_config", a->blocks_config));
    return MG_OK;
}

/* ---- configuration ---- */

static mg_status check_fallback(const check *c, const mg_config_row *r, const mg_fallback *fb) {
    if (fb->kind != MG_FB_VALUE || mg_key_kind(r->key) == 'F') return isfinite(fb->value) ? MG_OK : MG_ERR_FORMAT;
    if (fb->value == floor(fb->value) && fabs(fb->value) < WHOLE_LIMIT) return MG_OK;
    return mg_fail(c->err, MG_ERR_FORMAT, "%s: falls back on %g, expected a whole number", mg_key_name(r->key),
                   fb->value);
}

static mg_status check_row(const check *c, const mg_config_row *r) {
    const char *key = mg_key_name(r->key), kind = mg_key_kind(r->key);
    const bool stated = r->hf[0] || r->gguf;
    for (int i = 0; i < MG_MAX_SPELLINGS && r->hf[i]; i++)
        if (strlen(r->hf[i]) > 80) return mg_fail(c->err, MG_ERR_FORMAT, "%s: a path of more than 80 characters", key);
    if (r->gguf && !is_name(r->gguf, 48))
        return mg_fail(c->err, MG_ERR_FORMAT, "%s: gguf: expected at most 48 letters, digits, _ . -", key);
    if (kind == 'E' && !r->names) return mg_fail(c->err, MG_ERR_FORMAT, "%s: names its values nowhere ('names')", key);
    if (r->gguf_when != MG_GGUF_NEVER && !r->gguf)
        return mg_fail(c->err, MG_ERR_FORMAT, "%s: gguf_when without gguf", key);
    if (!(isfinite(r->lo) && isfinite(r->hi) && r->lo <= r->hi && isfinite(r->gguf_scale)))
        return mg_fail(c->err, MG_ERR_FORMAT, "%s: lo %g and hi %g are no range", key, r->lo, r->hi);
    if (kind == 'I' && stated && !(r->lo >= -1 && r->hi > 0 && r->hi <= 1e12))
        return mg_fail(c->err, MG_ERR_FORMAT, "%s: lo %g and hi %g, expected a range within -1 to 1e12", key, r->lo,
                       r->hi);
    const mg_fallback *all[] = {&r->absent, &r->null, &r->zero, &r->gguf_absent};
    for (int i = 0; i < 4; i++) MG_TRY(check_fallback(c, r, all[i]));
    return MG_OK;
}

/* Do the fallbacks of a row, those that count for GGUF or the others, lead back to it? path: keys on the way. */
static bool circular(const mg_arch *a, mg_key key, bool gguf, bool *path, bool *done) {
    const mg_config_row *r = mg_arch_config_row(a, key);
    if (!r || done[key]) return false;
    if (path[key]) return true;
    path[key] = true;
    const mg_fallback *hf[] = {&r->absent, &r->null, &r->zero};
    const mg_fallback *of_gguf[] = {r->gguf_absent.kind == MG_FB_SAME ? &r->absent : &r->gguf_absent, &r->zero,
                                    &r->zero};
    bool found = false;
    for (int i = 0; i < 3 && !found; i++) {
        const mg_fallback *fb = gguf ? of_gguf[i] : hf[i];
        const bool one = fb->kind == MG_FB_KEY || fb->kind == MG_FB_ROOT;
        const bool two = fb->kind == MG_FB_QUOTIENT || fb->kind == MG_FB_PRODUCT || fb->kind == MG_FB_SUM ||
                         fb->kind == MG_FB_MINUS || fb->kind == MG_FB_PART || fb->kind == MG_FB_RATIO;
        if (one || two) found = circular(a, fb->key, gguf, path, done);
        if (two && !found) found = circular(a, fb->by, gguf, path, done);
        if (fb->kind == MG_FB_SCORE_DIM && !found) found = circular(a, MG_K_HEAD_DIM, gguf, path, done);
    }
    path[key] = false;
    done[key] = !found;
    return found;
}

static mg_status check_config(const check *c) {
    static const mg_key needed[] = {MG_K_VOCAB,      MG_K_HIDDEN,     MG_K_LAYERS, MG_K_HEADS,   MG_K_KV_HEADS,
                                    MG_K_HEAD_DIM,   MG_K_V_HEAD_DIM, MG_K_FFN,    MG_K_CONTEXT, MG_K_NORM_EPS,
                                    MG_K_ROPE_THETA, MG_K_ROPE_DIM,   MG_K_TIED,   MG_K_ACT,     MG_K_BOS,
                                    MG_K_EOS,        MG_K_PAD};
    const mg_arch *a = c->a;
    bool known[MG_KEY_COUNT] = {false};
    uint32_t file_types = 0;
    for (uint32_t i = 0; i < a->n_config; i++) {
        const mg_config_row *r = &a->config[i];
        if (r->gguf_when == MG_GGUF_FILE_TYPE) {
            if (file_types++) return mg_fail(c->err, MG_ERR_FORMAT, "two rows for the place of general.file_type");
            continue;
        }
        if (known[r->key]) return mg_fail(c->err, MG_ERR_FORMAT, "two rows for key %s", mg_key_name(r->key));
        known[r->key] = true;
        MG_TRY(check_row(c, r));
    }
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        if (!known[needed[i]])
            return mg_fail(c->err, MG_ERR_FORMAT, "no config row for key %s", mg_key_name(needed[i]));
    if (a->block.router != MG_ROUTER_NONE &&
        (!known[MG_K_EXPERTS] || !known[MG_K_EXPERTS_USED] || !known[MG_K_EXPERT_FFN]))
        return mg_fail(c->err, MG_ERR_FORMAT,
                       "routes, but has no config rows for EXPERTS, EXPERTS_USED and EXPERT_FFN");
    if (a->block.moe != MG_MOE_ALL && a->block.moe != MG_MOE_AFTER_DENSE && !known[MG_K_MOE_STEP])
        return mg_fail(c->err, MG_ERR_FORMAT, "every MOE_STEP-th layer routes, but there is no config row for it");
    for (int gguf = 0; gguf < 2; gguf++) {
        bool path[MG_KEY_COUNT] = {false}, done[MG_KEY_COUNT] = {false};
        for (int k = 0; k < MG_KEY_COUNT; k++)
            if (circular(a, (mg_key)k, gguf, path, done))
                return mg_fail(c->err, MG_ERR_FORMAT, "the fallback of %s leads back to it", mg_key_name((mg_key)k));
    }
    for (const mg_layer_list *l = a->lists; l && l->path; l++)
        if (!l->yes != !l->no) return mg_fail(c->err, MG_ERR_FORMAT, "lists: '%.60s' has one word of two", l->path);
    return MG_OK;
}

/* ---- tensors ---- */

static uint32_t factor(uint32_t n) {
    return n ? n : 1;
}

static bool same_sym(const mg_sym *x, const mg_sym *y) {
    if (x->kind != y->kind) return false;
    switch (x->kind) {
    case MG_SYM_NONE:
    case MG_SYM_EXPERT:
        return true;
    case MG_SYM_LIT:
        return x->mul == y->mul;
    case MG_SYM_SUM:
        return x->a == y->a && x->b == y->b && x->c == y->c && factor(x->mul) == factor(y->mul);
    case MG_SYM_KEYS:
        return ((x->a == y->a && x->b == y->b) || (x->a == y->b && x->b == y->a)) && factor(x->mul) == factor(y->mul) &&
               factor(x->div) == factor(y->div);
    default:
        return x->a == y->a && factor(x->mul) == factor(y->mul) && factor(x->div) == factor(y->div);
    }
}

static bool same_shape(const mg_tensor_row *x, const mg_tensor_row *y) {
    return same_sym(&x->shape[0], &y->shape[0]) && same_sym(&x->shape[1], &y->shape[1]) &&
           same_sym(&x->shape[2], &y->shape[2]);
}

/* Does a built-in family know the role in this shape and under this condition? */
static mg_status check_example(const check *c, const mg_tensor_row *r) {
    bool shape = false, when = false, both = false;
    for (uint32_t i = 0; i < mg_arch_built_in_count(); i++) {
        const mg_tensor_row *known = mg_arch_row(mg_arch_built_in(i), r->role);
        if (!known) continue;
        shape = shape || same_shape(known, r);
        when = when || known->when == r->when;
        both = both || (same_shape(known, r) && known->when == r->when);
    }
    if (both || (shape && when)) return MG_OK;
    return mg_fail(c->err, MG_ERR_FORMAT, "the %s of role %s is not one that any known family gives it",
                   shape ? "condition" : "shape", mg_role_name(r->role));
}

/* {l} where there are layers; {e} or a view that selects, {s} and {d}, where there are several of them. */
static mg_status check_pattern(const check *c, const mg_tensor_row *r, const mg_form *f) {
    const mg_scope scope = mg_role_scope(r->role);
    const bool layer = strstr(f->pattern, "{l}") != NULL, expert = strstr(f->pattern, "{e}") != NULL;
    const bool edge = strstr(f->pattern, "{s}") && strstr(f->pattern, "{d}");
    bool picks = false;
    for (int i = 0; i < MG_MAX_ROW_VIEWS; i++)
        picks = picks || f->views[i].a.kind == MG_SYM_EXPERT || f->views[i].a.kind == MG_SYM_EXPERT_KEY;
    const char *why = NULL;
    if (strlen(f->pattern) > 150) why = "has more than 150 characters";
    if (layer != (scope != MG_SCOPE_MODEL)) why = layer ? "counts layers" : "has no {l}";
    if (!why && scope == MG_SCOPE_EXPERT && expert == picks) why = "does not say which expert, by {e} or one view";
    if (!why && scope == MG_SCOPE_EDGE && edge == picks) why = "does not say which edge, by {s} and {d} or one view";
    if (!why && scope < MG_SCOPE_EXPERT && expert) why = "counts experts";
    if (!why) return MG_OK;
    return mg_fail(c->err, MG_ERR_FORMAT, "%s: the pattern '%.80s' %s", mg_role_name(r->role), f->pattern, why);
}

static mg_status check_views(const check *c, const mg_tensor_row *r, const mg_form *f) {
    for (int i = 0; i < MG_MAX_ROW_VIEWS; i++) {
        const mg_view_row *v = &f->views[i];
        const bool counted = v->kind == MG_VIEW_ROWS || v->kind == MG_VIEW_GROUPS || v->kind == MG_VIEW_RESHAPE;
        if (v->kind == MG_VIEW_GROUPS && v->step == 0 && v->group.kind == MG_SYM_NONE)
            return mg_fail(c->err, MG_ERR_FORMAT, "%s: groups of no size in '%.80s'", mg_role_name(r->role),
                           f->pattern);
        if ((counted && v->b.kind == MG_SYM_NONE && v->kind != MG_VIEW_RESHAPE) || !isfinite(v->value))
            return mg_fail(c->err, MG_ERR_FORMAT, "%s: a view of no rows in '%.80s'", mg_role_name(r->role),
                           f->pattern);
    }
    return MG_OK;
}

static bool has(const mg_arch *a, mg_role role) {
    return mg_arch_row(a, role) != NULL;
}

/* What the forward pass needs to be there; all else is asked for when it runs. */
static mg_status check_roles(const check *c) {
    const mg_arch *a = c->a;
    const bool routes = a->block.router != MG_ROUTER_NONE;
    static const mg_role always[] = {MG_R_TOKEN_EMBD, MG_R_OUTPUT_NORM, MG_R_OUTPUT, MG_R_ATTN_O};
    static const mg_role dense[] = {MG_R_FFN_GATE, MG_R_FFN_UP, MG_R_FFN_DOWN};
    static const mg_role moe[] = {MG_R_ROUTER, MG_R_EXPERT_GATE, MG_R_EXPERT_UP, MG_R_EXPERT_DOWN};
    mg_role missing = MG_ROLE_COUNT;
    for (size_t i = 0; i < 4; i++)
        if (!has(a, always[i])) missing = always[i];
    for (size_t i = 0; i < 3 && !routes; i++)
        if (!has(a, dense[i])) missing = dense[i];
    for (size_t i = 0; i < 4 && routes; i++)
        if (!has(a, moe[i])) missing = moe[i];
    if (!has(a, MG_R_ATTN_K_B) && (!has(a, MG_R_ATTN_Q) || !has(a, MG_R_ATTN_K) || !has(a, MG_R_ATTN_V)))
        missing = MG_R_ATTN_Q;
    if (!has(a, MG_R_ATTN_NORM) && !has(a, MG_R_ATTN_POST_NORM)) missing = MG_R_ATTN_NORM;
    if (missing == MG_ROLE_COUNT) return MG_OK;
    return mg_fail(c->err, MG_ERR_FORMAT, "no tensor row for role %s, which this kind of block needs",
                   mg_role_name(missing));
}

static mg_status check_tensors(const check *c) {
    const mg_arch *a = c->a;
    for (uint32_t i = 0; i < a->n_tensors; i++) {
        const mg_tensor_row *r = &a->tensors[i];
        if (mg_arch_row(a, r->role) != r)
            return mg_fail(c->err, MG_ERR_FORMAT, "two tensor rows for role %s", mg_role_name(r->role));
        MG_TRY(check_example(c, r));
        for (int layout = 0; layout < MG_LAYOUT_COUNT; layout++)
            for (int f = 0; f < MG_MAX_FORMS && r->forms[layout][f].pattern; f++) {
                MG_TRY(check_pattern(c, r, &r->forms[layout][f]));
                MG_TRY(check_views(c, r, &r->forms[layout][f]));
                if (r->forms[layout][f].blocks && !a->blocks_config)
                    return mg_fail(c->err, MG_ERR_FORMAT, "a form of blocks, but no blocks_config");
            }
    }
    return check_roles(c);
}

/* ---- what it is made from, native releases ---- */

static mg_status check_made_from(const check *c) {
    const mg_arch *a = c->a;
    if (!a->made_from) return MG_OK;
    if (!a->edits || !a->edits[0].field) return mg_fail(c->err, MG_ERR_FORMAT, "made_from without edits");
    for (const mg_config_edit *e = a->edits; e->field; e++)
        if (e->json) MG_TRY(check_json(c, e->field, e->json));
    for (uint32_t i = 0; i < a->made_from->n_roles; i++)
        if (!has(a, a->made_from->roles[i].expert))
            return mg_fail(c->err, MG_ERR_FORMAT, "made_from: no tensor row for role %s",
                           mg_role_name(a->made_from->roles[i].expert));
    return MG_OK;
}

static mg_status check_native(const check *c) {
    const mg_native *n = c->a->native;
    for (uint32_t i = 0; n && i < n->n_rows; i++)
        if (!mg_arch_config_row(c->a, n->rows[i].key))
            return mg_fail(c->err, MG_ERR_FORMAT, "native: no config row for key %s", mg_key_name(n->rows[i].key));
    return MG_OK;
}

mg_status mg_arch_check(const mg_arch *arch, mg_error *err) {
    const check c = {arch, err};
    MG_TRY(check_names(&c));
    MG_TRY(check_config(&c));
    MG_TRY(check_tensors(&c));
    MG_TRY(check_made_from(&c));
    return check_native(&c);
}
