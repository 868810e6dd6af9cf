/* config.c - what a configuration leaves unsaid, and whether what it says hangs together. */
#include "formats/arch/arch_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* The fallback that applies to a row for this source. */
static const mg_fallback *fallback_of(const mg_model *m, const mg_config_row *r, const mg_config_state *st) {
    const mg_fallback *native = mg_native_absent(st, &m->hp, r->key);
    if (native) return native;
    if (st->gguf && r->gguf_absent.kind != MG_FB_SAME) return &r->gguf_absent;
    if (st->null[r->key] && r->null.kind != MG_FB_SAME) return &r->null;
    return &r->absent;
}

/* A key as a number, whatever its kind. Integers of a configuration stay below 2^53. */
static double number(const mg_hparams *hp, mg_key key) {
    return mg_key_kind(key) == 'F' ? hp->f[key] : (double)hp->i[key];
}

bool mg_fallback_value(const mg_hparams *hp, const mg_fallback *fb, double *out) {
    switch (fb->kind) {
    case MG_FB_SAME: /* a row without any fallback: the key is 0 */
        *out = 0;
        return true;
    case MG_FB_VALUE:
        *out = fb->value;
        return true;
    case MG_FB_KEY:
        *out = number(hp, fb->key);
        return true;
    case MG_FB_QUOTIENT:
        if (hp->i[fb->by] < 1 || hp->i[fb->key] % hp->i[fb->by]) return false;
        *out = (double)(hp->i[fb->key] / hp->i[fb->by]);
        return true;
    case MG_FB_PRODUCT:
        *out = (double)hp->i[fb->key] * (double)hp->i[fb->by];
        return true;
    case MG_FB_SUM:
        *out = (double)hp->i[fb->key] + (double)hp->i[fb->by];
        return true;
    case MG_FB_MINUS:
        *out = (double)hp->i[fb->key] - (double)hp->i[fb->by];
        return true;
    case MG_FB_PART:
        *out = floor((double)hp->i[fb->key] * hp->f[fb->by]);
        return true;
    case MG_FB_RATIO:
        *out = hp->i[fb->key] > 0 && hp->i[fb->by] > 0 ? (double)hp->i[fb->key] / (double)hp->i[fb->by] : 1;
        return true;
    case MG_FB_SCORE_DIM:
        *out = (double)hp->i[MG_K_HEAD_DIM];
        if ((double)hp->i[MG_K_LAYERS] == fb->value && hp->i[MG_K_HEADS] > 0)
            *out = (double)(hp->i[MG_K_HIDDEN] / hp->i[MG_K_HEADS]);
        return true;
    case MG_FB_ROOT:
        *out = sqrt((double)hp->i[fb->key]);
        return true;
    case MG_FB_REQUIRED:
    case MG_FB_TOKENS:
    case MG_FB_TENSORS:
        break;
    }
    return false;
}

static mg_status no_quotient(mg_model *m, const mg_config_row *r, const mg_fallback *fb, mg_layout layout,
                             mg_error *err) {
    char na[96], nb[96];
    return mg_fail(err, MG_ERR_CONFLICT, "'%s' is %lld, expected a multiple of '%s' (%lld) as '%s' is not stated",
                   mg_config_spelling(m->arch, fb->key, layout, na, sizeof na), (long long)m->hp.i[fb->key],
                   mg_config_spelling(m->arch, fb->by, layout, nb, sizeof nb), (long long)m->hp.i[fb->by],
                   mg_key_name(r->key));
}

/* The key's row, done: its fallback may use keys whose rows come later, which are then done first. depth keeps rows
 * that depend on each other from running in a circle. */
static mg_status resolve_key(mg_model *m, const mg_config_state *st, const mg_config_row *r, uint32_t depth, bool *done,
                             mg_error *err);

static mg_status resolve_used(mg_model *m, const mg_config_state *st, mg_key key, uint32_t depth, bool *done,
                              mg_error *err) {
    const mg_config_row *r = mg_arch_config_row(m->arch, key);
    return r ? resolve_key(m, st, r, depth + 1, done, err) : MG_OK;
}

static mg_status resolve_key(mg_model *m, const mg_config_state *st, const mg_config_row *r, uint32_t depth, bool *done,
                             mg_error *err) {
    mg_hparams *hp = &m->hp;
    char name[96];
    double v;
    const bool zero = r->zero.kind != MG_FB_SAME && hp->present[r->key] && hp->i[r->key] == 0;
    if (done[r->key] || (hp->present[r->key] && !zero) || st->fixed[r->key]) return MG_OK;
    if (depth > m->arch->n_config)
        return mg_fail(err, MG_ERR_INTERNAL, "the fallback of %s leads back to it", mg_key_name(r->key));
    const mg_fallback *fb = zero ? &r->zero : fallback_of(m, r, st);
    const bool two = fb->kind == MG_FB_QUOTIENT || fb->kind == MG_FB_PRODUCT || fb->kind == MG_FB_PART ||
                     fb->kind == MG_FB_RATIO || fb->kind == MG_FB_SUM || fb->kind == MG_FB_MINUS;
    if (two || fb->kind == MG_FB_KEY || fb->kind == MG_FB_ROOT) MG_TRY(resolve_used(m, st, fb->key, depth, done, err));
    if (two) MG_TRY(resolve_used(m, st, fb->by, depth, done, err));
    if (fb->kind == MG_FB_SCORE_DIM) MG_TRY(resolve_used(m, st, MG_K_HEAD_DIM, depth, done, err));
    done[r->key] = true;
    if (fb->kind == MG_FB_REQUIRED)
        return mg_fail(err, MG_ERR_CONFLICT, "'%s' is missing",
                       mg_config_spelling(m->arch, r->key, mg_state_layout(st), name, sizeof name));
    if (fb->kind == MG_FB_TOKENS) /* without tokens the embedding's rows decide (mg_model_open) */
        v = (double)st->tokens;
    else if (fb->kind == MG_FB_TENSORS) /* binding decides; until then the most tensors are allowed for */
        v = 0;
    else if (!mg_fallback_value(hp, fb, &v))
        return no_quotient(m, r, fb, mg_state_layout(st), err);
    if (mg_key_kind(r->key) != 'F' && !(fabs(v) < 9007199254740992.0)) /* 2^53 */
        return mg_fail(err, MG_ERR_CONFLICT, "'%s' is not stated and comes out as %g, which no number of the kind is",
                       mg_config_spelling(m->arch, r->key, mg_state_layout(st), name, sizeof name), v);
    if (mg_key_kind(r->key) == 'F')
        hp->f[r->key] = v;
    else
        hp->i[r->key] = (int64_t)v;
    return MG_OK;
}

/* The multiplier of a longrope scaling: stated, or from the factor, which is the ratio of the contexts unless stated.
 * In GGUF it is stated or 1. */
static void settle_longrope(mg_hparams *hp, bool gguf) {
    if (hp->i[MG_K_ROPE_TYPE] != MG_ROPE_LONGROPE || hp->f[MG_K_ROPE_ATTN_FACTOR] > 0 || gguf) return;
    const double orig = (double)hp->i[MG_K_ROPE_ORIG_CONTEXT];
    const double factor =
        hp->f[MG_K_ROPE_FACTOR] > 0 ? hp->f[MG_K_ROPE_FACTOR] : (double)hp->i[MG_K_CONTEXT] / (orig > 0 ? orig : 1);
    hp->f[MG_K_ROPE_ATTN_FACTOR] = factor > 1 && orig > 1 ? sqrt(1 + log(factor) / log(orig)) : 1;
}

mg_status mg_config_resolve(mg_model *m, const mg_config_state *st, mg_error *err) {
    mg_hparams *hp = &m->hp;
    bool done[MG_KEY_COUNT] = {false};
    for (uint32_t i = 0; i < m->arch->n_config; i++) {
        const mg_config_row *r = &m->arch->config[i];
        if (r->gguf_when != MG_GGUF_FILE_TYPE) MG_TRY(resolve_key(m, st, r, 0, done, err));
    }
    for (uint32_t i = 0; i < m->arch->n_config; i++) {
        const mg_config_row *r = &m->arch->config[i];
        if (r->only_if && !hp->i[r->only_if]) hp->i[r->key] = 0;
    }
    if (!mg_arch_config_row(m->arch, MG_K_NORM_TOPK)) hp->i[MG_K_NORM_TOPK] = m->arch->block.norm_topk;
    /* Groups that do not limit the choice are as good as one group, and one group limits nothing. */
    if (mg_arch_config_row(m->arch, MG_K_GROUP_LIMITED)) {
        if (!hp->i[MG_K_GROUP_LIMITED] && hp->i[MG_K_GROUPS] > 1) hp->i[MG_K_GROUPS] = hp->i[MG_K_GROUPS_USED] = 1;
        if (hp->i[MG_K_GROUPS] <= 1) hp->i[MG_K_GROUP_LIMITED] = 0;
    }
    if (hp->i[MG_K_MOE_LAST] < 0) hp->i[MG_K_MOE_LAST] = hp->i[MG_K_LAYERS] - 1; /* as an index from the end */
    settle_longrope(hp, st->gguf);
    /* transformers: `beta_fast or 32` - zero means unset. */
    if (hp->f[MG_K_ROPE_BETA_FAST] == 0) hp->f[MG_K_ROPE_BETA_FAST] = 32;
    if (hp->f[MG_K_ROPE_BETA_SLOW] == 0) hp->f[MG_K_ROPE_BETA_SLOW] = 1;
    /* transformers: a yarn factor of null is the ratio of the context lengths. */
    if (!st->gguf && hp->i[MG_K_ROPE_TYPE] == MG_ROPE_YARN && !hp->present[MG_K_ROPE_FACTOR] &&
        hp->i[MG_K_ROPE_ORIG_CONTEXT] > 0)
        hp->f[MG_K_ROPE_FACTOR] = (double)hp->i[MG_K_CONTEXT] / (double)hp->i[MG_K_ROPE_ORIG_CONTEXT];
    return MG_OK;
}

mg_status mg_config_note(mg_model *m, const mg_config_state *st, mg_error *err) {
    char name[96];
    for (uint32_t i = 0; i < m->arch->n_config; i++) {
        const mg_config_row *r = &m->arch->config[i];
        if (r->gguf_when == MG_GGUF_FILE_TYPE || r->quiet || m->hp.present[r->key]) continue;
        const mg_fallback *fb = fallback_of(m, r, st);
        mg_config_spelling(m->arch, r->key, mg_state_layout(st), name, sizeof name);
        if (st->fixed[r->key])
            MG_TRY(mg_model_assume(m, err, "'%s' is not stated: %lld, from the shapes of the tensors", name,
                                   (long long)m->hp.i[r->key]));
        else if (fb->kind == MG_FB_VALUE && mg_key_kind(r->key) == 'F')
            MG_TRY(mg_model_assume(m, err, "'%s' is not stated: %g assumed, the default of the format", name,
                                   m->hp.f[r->key]));
        else if (fb->kind == MG_FB_VALUE)
            MG_TRY(mg_model_assume(m, err, "'%s' is not stated: %lld assumed, the default of the format", name,
                                   (long long)m->hp.i[r->key]));
    }
    return MG_OK;
}

/* ---- checks ---- */

#define MAX_EXPERTS 65536

typedef struct check {
    const mg_model *m;
    mg_layout layout;
    mg_error *err;
} check;

static mg_status bad(const check *c, mg_key key, const char *expected) {
    char name[96];
    mg_config_spelling(c->m->arch, key, c->layout, name, sizeof name);
    if (mg_key_kind(key) == 'F')
        return mg_fail(c->err, MG_ERR_CONFLICT, "'%s' is %.9g, expected %s", name, c->m->hp.f[key], expected);
    return mg_fail(c->err, MG_ERR_CONFLICT, "'%s' is %lld, expected %s", name, (long long)c->m->hp.i[key], expected);
}

static mg_status check_heads(const check *c) {
    const int64_t *i = c->m->hp.i;
    char text[96];
    if (i[MG_K_HEADS] % i[MG_K_KV_HEADS]) {
        snprintf(text, sizeof text, "a divisor of the %lld query heads", (long long)i[MG_K_HEADS]);
        return bad(c, MG_K_KV_HEADS, text);
    }
    if (i[MG_K_KV_LORA] && (i[MG_K_NOPE_DIM] < 0 || i[MG_K_NOPE_DIM] + i[MG_K_ROPE_DIM] != i[MG_K_HEAD_DIM])) {
        snprintf(text, sizeof text, "%lld, the head less its rotated part",
                 (long long)(i[MG_K_HEAD_DIM] - i[MG_K_ROPE_DIM]));
        return bad(c, MG_K_NOPE_DIM, text);
    }
    if (i[MG_K_HEAD_DIM] % 2) return bad(c, MG_K_HEAD_DIM, "an even number (rotary pairs)");
    if (c->m->arch->block.heads_fill && i[MG_K_HEADS] * i[MG_K_HEAD_DIM] != i[MG_K_HIDDEN]) {
        snprintf(text, sizeof text, "%lld / %lld: the family knows no other size of a head", (long long)i[MG_K_HIDDEN],
                 (long long)i[MG_K_HEADS]);
        return bad(c, MG_K_HEAD_DIM, text);
    }
    if (i[MG_K_ROPE_DIM] % 2 || i[MG_K_ROPE_DIM] > i[MG_K_HEAD_DIM]) {
        snprintf(text, sizeof text, "an even number up to the head size %lld", (long long)i[MG_K_HEAD_DIM]);
        return bad(c, MG_K_ROPE_DIM, text);
    }
    return MG_OK;
}

static mg_status check_factors(const check *c) {
    static const char *const names[2] = {"short_factor", "long_factor"};
    const mg_hparams *hp = &c->m->hp;
    const int64_t pairs = hp->i[MG_K_ROPE_DIM] / 2;
    if (!mg_arch_row(c->m->arch, MG_R_ROPE_FACTORS_SHORT))
        return mg_fail(c->err, MG_ERR_UNSUPPORTED,
                       "rope scaling 'longrope' needs factor lists, which family '%s' does not read yet",
                       c->m->arch->name);
    if (hp->f[MG_K_ROPE_THETA] <= 0) return bad(c, MG_K_ROPE_THETA, "a positive number");
    if (hp->i[MG_K_ROPE_ORIG_CONTEXT] < 2) return bad(c, MG_K_ROPE_ORIG_CONTEXT, "at least 2");
    for (int k = 0; k < 2; k++) {
        if (hp->n_rope_factors[k] != pairs)
            return mg_fail(c->err, MG_ERR_CONFLICT, "'%s' has %u values, expected %lld, one for each rotated pair",
                           names[k], hp->n_rope_factors[k], (long long)pairs);
        for (int64_t i = 0; i < pairs; i++)
            if (!(hp->rope_factors[k][i] > 0) || !isfinite(hp->rope_factors[k][i]))
                return mg_fail(c->err, MG_ERR_CONFLICT, "'%s' of pair %lld is %g, expected a positive number", names[k],
                               (long long)i, (double)hp->rope_factors[k][i]);
    }
    return MG_OK;
}

static mg_status check_rope(const check *c) {
    const mg_hparams *hp = &c->m->hp;
    int64_t type = hp->i[MG_K_ROPE_TYPE];
    bool scaled = type == MG_ROPE_LINEAR || type == MG_ROPE_LLAMA3 || type == MG_ROPE_DYNAMIC;
    if (type == MG_ROPE_LONGROPE) return check_factors(c);
    if (scaled && !hp->present[MG_K_ROPE_FACTOR]) return bad(c, MG_K_ROPE_FACTOR, "a stated value for this rope type");
    if (hp->f[MG_K_ROPE_THETA] <= 0) return bad(c, MG_K_ROPE_THETA, "a positive number");
    if (type != MG_ROPE_NONE && hp->f[MG_K_ROPE_FACTOR] <= 0) return bad(c, MG_K_ROPE_FACTOR, "a positive number");
    if ((type == MG_ROPE_YARN || type == MG_ROPE_LLAMA3) && hp->i[MG_K_ROPE_ORIG_CONTEXT] < 1)
        return bad(c, MG_K_ROPE_ORIG_CONTEXT, "at least 1");
    if (type != MG_ROPE_LLAMA3) return MG_OK;
    if (!hp->present[MG_K_ROPE_LOW_FREQ] || hp->f[MG_K_ROPE_LOW_FREQ] <= 0)
        return bad(c, MG_K_ROPE_LOW_FREQ, "a stated positive number");
    if (!hp->present[MG_K_ROPE_HIGH_FREQ] || hp->f[MG_K_ROPE_HIGH_FREQ] <= hp->f[MG_K_ROPE_LOW_FREQ])
        return bad(c, MG_K_ROPE_HIGH_FREQ, "a stated number above low_freq_factor");
    return MG_OK;
}

static mg_status check_experts(const check *c) {
    const int64_t *i = c->m->hp.i;
    char text[96];
    if (c->m->arch->block.router == MG_ROUTER_NONE) return MG_OK;
    if (i[MG_K_EXPERTS] < 1 || i[MG_K_EXPERTS] > MAX_EXPERTS) return bad(c, MG_K_EXPERTS, "1 to 65536");
    if (i[MG_K_EXPERT_FFN] < 1) return bad(c, MG_K_EXPERT_FFN, "at least 1");
    const mg_moe_rule rule = c->m->arch->block.moe;
    if (rule != MG_MOE_ALL && rule != MG_MOE_AFTER_DENSE && i[MG_K_MOE_STEP] < 1)
        return bad(c, MG_K_MOE_STEP, "at least 1");
    snprintf(text, sizeof text, "1 to the number of experts, %lld", (long long)i[MG_K_EXPERTS]);
    if (i[MG_K_EXPERTS_USED] < 1 || i[MG_K_EXPERTS_USED] > i[MG_K_EXPERTS]) return bad(c, MG_K_EXPERTS_USED, text);
    const bool sigmoid = c->m->arch->block.router == MG_ROUTER_SIGMOID;
    if (i[MG_K_SCORE_FUNC] && i[MG_K_SCORE_FUNC] != (sigmoid ? MG_SCORE_SIGMOID : MG_SCORE_SOFTMAX))
        return mg_fail(c->err, MG_ERR_UNSUPPORTED, "'%s' is not %s, which is what family '%s' routes by",
                       mg_config_spelling(c->m->arch, MG_K_SCORE_FUNC, c->layout, text, sizeof text),
                       sigmoid ? "sigmoid" : "softmax", c->m->arch->name);
    if (i[MG_K_GRID_X] && i[MG_K_GRID_X] * i[MG_K_GRID_Y] != i[MG_K_EXPERTS]) {
        snprintf(text, sizeof text, "the cells of the grid, %lld x %lld", (long long)i[MG_K_GRID_X],
                 (long long)i[MG_K_GRID_Y]);
        return bad(c, MG_K_EXPERTS, text);
    }
    if (i[MG_K_GROUPS] > 1 && i[MG_K_EXPERTS] % i[MG_K_GROUPS]) {
        snprintf(text, sizeof text, "a divisor of the number of experts, %lld", (long long)i[MG_K_EXPERTS]);
        return bad(c, MG_K_GROUPS, text);
    }
    if (i[MG_K_GROUPS] > 1 && (i[MG_K_GROUPS_USED] < 1 || i[MG_K_GROUPS_USED] > i[MG_K_GROUPS])) {
        snprintf(text, sizeof text, "1 to the number of groups, %lld", (long long)i[MG_K_GROUPS]);
        return bad(c, MG_K_GROUPS_USED, text);
    }
    if (c->m->arch->block.router == MG_ROUTER_SPARSEMIXER && i[MG_K_EXPERTS_USED] != 2)
        return bad(c, MG_K_EXPERTS_USED, "2, the number this router chooses");
    return MG_OK;
}

/* Each size is bounded by its row; their product must stay far from 2^64, so that no count of elements or bytes can
 * wrap. */
static mg_status check_product(const check *c) {
    const int64_t *i = c->m->hp.i;
    double ffn = 3.0 * (double)i[MG_K_FFN] * (double)(i[MG_K_EXPERTS] ? i[MG_K_EXPERTS] : 1);
    double attention = 4.0 * (double)i[MG_K_HEADS] * (double)(i[MG_K_HEAD_DIM] + i[MG_K_V_HEAD_DIM]);
    double n = (double)i[MG_K_HIDDEN] * ((double)i[MG_K_LAYERS] * (ffn + attention) + 2.0 * (double)i[MG_K_VOCAB]);
    if (n < 1e17) return MG_OK;
    return mg_fail(c->err, MG_ERR_CONFLICT, "the sizes make a model of %.3g parameters, expected less than 1e17", n);
}

mg_status mg_config_check(const mg_model *m, mg_layout layout, mg_error *err) {
    static const mg_key positive[] = {MG_K_VOCAB,    MG_K_HIDDEN,     MG_K_LAYERS, MG_K_HEADS,  MG_K_KV_HEADS,
                                      MG_K_HEAD_DIM, MG_K_V_HEAD_DIM, MG_K_FFN,    MG_K_CONTEXT};
    check c = {m, layout, err};
    char name[96];
    for (size_t k = 0; k < sizeof positive / sizeof *positive; k++)
        if (m->hp.i[positive[k]] < 1) return bad(&c, positive[k], "at least 1");
    if (m->hp.i[MG_K_LAYERS] > MG_MAX_LAYERS) return bad(&c, MG_K_LAYERS, "at most 4096");
    MG_TRY(check_product(&c));
    MG_TRY(check_heads(&c));
    MG_TRY(check_rope(&c));
    if (m->hp.i[MG_K_PARALLEL])
        return mg_fail(err, MG_ERR_UNSUPPORTED, "attention and feed-forward side by side ('%s') are not built",
                       mg_config_spelling(m->arch, MG_K_PARALLEL, layout, name, sizeof name));
    return check_experts(&c);
}

bool mg_layer_routes(const mg_model *m, uint32_t layer) {
    const int64_t *i = m->hp.i, l = layer;
    const mg_block *b = &m->arch->block;
    if (b->router == MG_ROUTER_NONE || i[MG_K_EXPERTS] < 1 || mg_hp_dense(&m->hp, layer)) return false;
    if (b->moe == MG_MOE_ALL) return true;
    if (b->moe != MG_MOE_STEPPED && l < i[MG_K_DENSE_LAYERS]) return false;
    if (b->moe == MG_MOE_RANGE && l > i[MG_K_MOE_LAST]) return false;
    if (b->moe == MG_MOE_MULTIPLES) return l % i[MG_K_MOE_STEP] == 0;
    return b->moe == MG_MOE_AFTER_DENSE || (l + 1) % i[MG_K_MOE_STEP] == 0;
}

/* ---- layers ---- */

bool mg_trait_by_keys(const mg_hparams *hp, mg_layer_trait trait, uint64_t l) {
    const int64_t period = hp->i[trait == MG_TRAIT_ROPE ? MG_K_NOPE_PERIOD : MG_K_WINDOW_PERIOD];
    if (trait == MG_TRAIT_WINDOW && (int64_t)l < hp->i[MG_K_WINDOW_FROM]) return false;
    return period <= 0 || ((int64_t)l + 1) % period != 0;
}

/* One entry of a list: a word, or a number of which 0 is no. */
static mg_status list_entry(bool *yes, const mg_layer_list *row, const mg_json *v, size_t l, mg_error *err) {
    const char *s = mg_json_str(v);
    int64_t i;
    bool b;
    if (row->yes && s && (strcmp(s, row->yes) == 0 || strcmp(s, row->no) == 0)) {
        *yes = strcmp(s, row->yes) == 0;
        return MG_OK;
    }
    if (!row->yes && mg_json_i64(v, &i)) {
        *yes = i != 0;
        return MG_OK;
    }
    if (!row->yes && mg_json_bool(v, &b)) {
        *yes = b;
        return MG_OK;
    }
    if (row->yes && s)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "'%s' of layer %zu is \"%.60s\", expected %s or %s", row->path, l, s,
                       row->yes, row->no);
    return mg_fail(err, MG_ERR_CONFLICT, "'%s' of layer %zu is not %s", row->path, l, row->yes ? "a name" : "a number");
}

static void set_trait(mg_layer *layer, mg_layer_trait trait, bool yes, const mg_hparams *hp) {
    if (trait == MG_TRAIT_ROPE)
        layer->rope = yes;
    else
        layer->window = yes ? (uint64_t)hp->i[MG_K_WINDOW] : 0;
}

/* Take a list over, and find the period that says the same: what the keys say already, else the shortest. */
static mg_status apply_list(mg_model *m, const mg_layer_list *row, const mg_json *list, bool *yes, mg_error *err) {
    const size_t n = (size_t)m->hp.i[MG_K_LAYERS];
    size_t l = 0;
    if (mg_json_type(list) != MG_JSON_ARRAY || mg_json_len(list) < n)
        return mg_fail(err, MG_ERR_CONFLICT, "'%s' is not a list of %zu layers", row->path, n);
    for (const mg_json *v = mg_json_first(list); v && l < n; v = mg_json_next(v), l++) {
        MG_TRY(list_entry(&yes[l], row, v, l, err));
        set_trait(&m->layers[l], row->trait, yes[l], &m->hp);
    }
    const mg_key key = row->trait == MG_TRAIT_ROPE ? MG_K_NOPE_PERIOD : MG_K_WINDOW_PERIOD;
    const int64_t own = m->hp.i[key];
    for (int64_t p = -1; p <= (int64_t)n; p++) {
        m->hp.i[key] = p < 0 ? own : p;
        for (l = 0; l < n && mg_trait_by_keys(&m->hp, row->trait, l) == yes[l];) l++;
        if (l == n && m->hp.i[key] >= 0) return MG_OK;
    }
    m->hp.i[key] = -1;
    return MG_OK;
}

mg_status mg_config_layers(mg_model *m, const mg_config_state *st, mg_error *err) {
    const size_t n = (size_t)m->hp.i[MG_K_LAYERS];
    const double local = m->hp.f[MG_K_ROPE_THETA_LOCAL];
    bool *yes;
    MG_TRY(MG_ARENA_NEW(&m->arena, &m->layers, n, err));
    MG_TRY(MG_ARENA_NEW(&m->arena, &yes, n, err));
    for (size_t l = 0; l < n; l++) {
        m->layers[l] = (mg_layer){.moe = mg_layer_routes(m, (uint32_t)l), .rope_theta = m->hp.f[MG_K_ROPE_THETA]};
        for (int t = 0; t < MG_TRAIT_COUNT; t++)
            set_trait(&m->layers[l], (mg_layer_trait)t, mg_trait_by_keys(&m->hp, (mg_layer_trait)t, l), &m->hp);
    }
    for (int t = 0; t < MG_TRAIT_COUNT; t++)
        if (st->list[t]) MG_TRY(apply_list(m, st->list_row[t], st->list[t], yes, err));
    for (size_t l = 0; l < n && local > 0; l++) {
        if (!m->layers[l].window) continue;
        m->layers[l].rope_theta = local;
        m->layers[l].rope_plain = true;
    }
    return MG_OK;
}
