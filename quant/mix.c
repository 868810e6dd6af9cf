/* mix.c - walks the tables that decide dtypes: skip list, categories, mixes.inc, shape fallback. */
#include "quant/mix.h"

#include "formats/base/text.h"

#include <string.h>

/* ---- tables ---- */

enum { /* conditions; a NO_ twin is true when the plain one is false */
       G4 = 1 << 0,
       E4 = 1 << 1,
       E8 = 1 << 2,
       IM = 1 << 3,
       RAGGED = 1 << 4,
       STACK = 1 << 5,
       OWN_DOWN = 1 << 6,
       L70B = 1 << 7,
       NO_3D_PROJ = 1 << 8,
       NO_E8 = 1 << 9,
       NO_IM = 1 << 10,
       NO_OWN_DOWN = 1 << 11,
       NO_L70B = 1 << 12,
};

typedef enum layer_rule { ALL, EIGHTH, RUN_EIGHTH, SIXTEENTH, MORE, FIRST2, FIRST4, MIDDLE } layer_rule;

typedef struct row {
    mg_mix_category category;
    uint64_t presets; /* bit per mg_preset_id */
    uint32_t conditions;
    layer_rule layers;
    mg_dtype dtype;
} row;

_Static_assert(MG_PRESET_COUNT <= 64, "preset sets are 64-bit masks");
#define P1(a)          (UINT64_C(1) << MG_PRESET_##a)
#define P2(a, b)       (P1(a) | P1(b))
#define P3(a, b, c)    (P2(a, b) | P1(c))
#define P4(a, b, c, d) (P2(a, b) | P2(c, d))
#define NOT(set)       (~(set))
#define EVERY          UINT64_MAX
#define IQ12           (P4(IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS) | P2(IQ2_S, IQ2_M))

static const row rows[] = {
#define MG_MIX(category, presets, conditions, layers, dtype) {MG_MIX_##category, presets, conditions, layers, dtype},
#include "quant/mixes.inc"
#undef MG_MIX
};

static const struct trait {
    const char *arch;
    unsigned flags;
    uint64_t layers_70b;
    bool only_gqa;
} traits[] = {
#define MG_MIX_TRAIT(arch, flags, layers, gqa) {arch, flags, layers, gqa},
#include "formats/arch/mix_traits.inc"
#undef MG_MIX_TRAIT
};

/* First hit decides. Exact rows compare the whole name, the others look anywhere in it. */
static const struct {
    const char *text;
    bool exact;
    mg_mix_category category;
} categories[] = {
    {"output.weight", true, MG_MIX_OUTPUT},
    {"token_embd.weight", true, MG_MIX_TOKEN_EMBD},
    {"per_layer_token_embd.weight", true, MG_MIX_TOKEN_EMBD},
    {"attn_qkv.weight", false, MG_MIX_ATTN_V},
    {"attn_kv_b.weight", false, MG_MIX_ATTN_V},
    {"attn_v.weight", false, MG_MIX_ATTN_V},
    {"attn_k.weight", false, MG_MIX_ATTN_K},
    {"attn_q.weight", false, MG_MIX_ATTN_Q},
    {"attn_output.weight", false, MG_MIX_ATTN_OUTPUT},
    {"ffn_up", false, MG_MIX_FFN_UP},
    {"ffn_gate", false, MG_MIX_FFN_GATE},
    {"ffn_down", false, MG_MIX_FFN_DOWN},
};

/* Tensors that are never quantized: small, or too sensitive. Anywhere in the name. */
static const char *const kept_names[] = {
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "attn_rel_b.weight",
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
};

/* More of them in families with MG_MIX_MORE_KEPT. */
static const char *const more_kept_names[] = {
    "hc_",
    "indexer.attn_q_b",
    "indexer.attn_k",
    "indexer.proj",
    "indexer_compressor_gate",
    "indexer_compressor_ape",
    "ssm_f_a.weight",
    "ssm_f_b.weight",
    "ssm_g_a.weight",
    "ssm_g_b.weight",
    "ssm_beta.weight",
    "attn_kv_a_mqa.weight",
    "attn_k_b.weight",
    "attn_v_b.weight",
};

static const char *const wide_q_lora[] = {"attn_q_a", "attn_q_b", "nextn.eh_proj"};

/* A row that is no whole number of blocks: the dtype of 32-element blocks that takes over. */
static const struct {
    mg_dtype from, to;
} fallbacks[] = {
    {MG_IQ1_S, MG_IQ4_NL}, {MG_IQ1_M, MG_IQ4_NL},   {MG_IQ2_XXS, MG_IQ4_NL}, {MG_IQ2_XS, MG_IQ4_NL},
    {MG_IQ2_S, MG_IQ4_NL}, {MG_IQ3_XXS, MG_IQ4_NL}, {MG_IQ3_S, MG_IQ4_NL},   {MG_IQ4_XS, MG_IQ4_NL},
    {MG_Q2_0, MG_Q4_0},    {MG_Q2_K, MG_Q4_0},      {MG_Q3_K, MG_Q4_0},      {MG_TQ1_0, MG_Q4_0},
    {MG_TQ2_0, MG_Q4_0},   {MG_Q4_K, MG_Q5_0},      {MG_Q5_K, MG_Q5_1},      {MG_Q6_K, MG_Q8_0},
};

#define COUNT(a) (sizeof(a) / sizeof *(a))

/* ---- names ---- */

static bool contains_any(const char *name, const char *const *list, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (strstr(name, list[i])) return true;
    return false;
}

mg_mix_category mg_mix_categorize(const char *name) {
    for (size_t i = 0; i < COUNT(categories); i++)
        if (categories[i].exact ? strcmp(name, categories[i].text) == 0 : strstr(name, categories[i].text) != NULL)
            return categories[i].category;
    return MG_MIX_OTHER;
}

int64_t mg_mix_block(const char *name) {
    if (strncmp(name, "blk.", 4) != 0) return -1;
    int64_t v = 0;
    const char *p = name + 4;
    if (*p < '0' || *p > '9') return -1;
    for (; *p >= '0' && *p <= '9'; p++) {
        v = v * 10 + (*p - '0');
        if (v > INT32_MAX) return -1;
    }
    return v;
}

int mg_mix_compare(const char *a, const char *b) {
    int64_t la = mg_mix_block(a), lb = mg_mix_block(b);
    if (la != lb) return la < lb ? -1 : 1;
    return strcmp(a, b);
}

static const struct trait *trait_of(const char *arch) {
    for (size_t i = 0; i < COUNT(traits); i++)
        if (strcmp(traits[i].arch, arch) == 0) return &traits[i];
    static const struct trait none = {"", 0, 0, false};
    return &none;
}

static bool is_kept(const mg_mix_tensor *t, const mg_mix_options *opt, unsigned trait_flags) {
    if (opt->preset->id == MG_PRESET_COPY) return true;
    if (t->ne[1] == 1 && t->ne[2] == 1 && t->ne[3] == 1) return true;
    if (!mg_ends_with(t->name, "weight")) return true;
    if (contains_any(t->name, kept_names, COUNT(kept_names))) return true;
    if (strcmp(t->name, "position_embd.weight") == 0 || strcmp(t->name, "token_types.weight") == 0) return true;
    if (opt->leave_output && strcmp(t->name, "output.weight") == 0) return true;
    return (trait_flags & MG_MIX_MORE_KEPT) && contains_any(t->name, more_kept_names, COUNT(more_kept_names));
}

static bool target_needs_imatrix(const mg_mix_tensor *t, mg_preset_id preset) {
    if (strcmp(t->name, "token_embd.weight") == 0 || strcmp(t->name, "per_layer_token_embd.weight") == 0 ||
        strcmp(t->name, "output.weight") == 0)
        return false;
    switch (t->target) {
    case MG_IQ3_XXS:
    case MG_IQ2_XXS:
    case MG_IQ2_XS:
    case MG_IQ2_S:
    case MG_IQ1_M:
    case MG_IQ1_S:
        return true;
    case MG_Q2_K:
        return preset == MG_PRESET_Q2_K_S;
    default:
        return false;
    }
}

/* ---- the walk ---- */

typedef struct walk {
    const mg_mix_options *opt;
    const mg_mix_model *model;
    const struct trait *trait;
    uint32_t facts;   /* conditions that hold for the whole model */
    int64_t v, n_v;   /* running number and total of ATTN_V tensors */
    int64_t ffn_down; /* running number of FFN_DOWN tensors */
    int64_t gate, up;
} walk;

static bool layer_holds(layer_rule rule, int64_t i, int64_t n, int64_t running) {
    switch (rule) {
    case ALL:
        return true;
    case EIGHTH:
        return i < n / 8;
    case RUN_EIGHTH:
        return running < n / 8;
    case SIXTEENTH:
        return i < n / 16;
    case MORE:
        return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
    case FIRST2:
        return i < 2;
    case FIRST4:
        return i < 4;
    case MIDDLE:
        return i >= n / 8 && i < 7 * n / 8;
    }
    return false;
}

static uint32_t model_facts(const walk *w) {
    const mg_mix_model *m = w->model;
    uint32_t f = 0;
    if (m->n_head_kv != 0 && m->n_head / m->n_head_kv >= 4) f |= G4;
    if (m->n_expert >= 4) f |= E4;
    f |= m->n_expert == 8 ? E8 : NO_E8;
    f |= w->opt->have_imatrix ? IM : NO_IM;
    f |= w->trait->flags & MG_MIX_OWN_DOWN ? OWN_DOWN : NO_OWN_DOWN;
    if (!(w->trait->flags & MG_MIX_3D_PROJECTIONS)) f |= NO_3D_PROJ;
    bool big = w->trait->layers_70b != 0 && m->n_layer == w->trait->layers_70b &&
               (!w->trait->only_gqa || m->n_head != m->n_head_kv);
    f |= big ? L70B : NO_L70B;
    return f;
}

/* Number the rules compare with n: the running number of the category, or for feed-forward tensors of an MoE the block
 * of the name, because experts and shared experts of one block come one after the other. */
static mg_status layer_of(walk *w, const mg_mix_tensor *t, int64_t *i, int64_t *running, mg_error *err) {
    switch (t->category) {
    case MG_MIX_ATTN_V:
        *i = *running = w->v++;
        return MG_OK;
    case MG_MIX_FFN_DOWN:
        *i = *running = w->ffn_down++;
        break;
    case MG_MIX_FFN_GATE:
        *i = *running = w->gate++;
        break;
    case MG_MIX_FFN_UP:
        *i = *running = w->up++;
        break;
    default:
        *i = *running = 0;
        return MG_OK;
    }
    bool by_name = w->model->n_expert > 1 && !((IQ12 | P1(MXFP4_MOE)) >> w->opt->preset->id & 1);
    if (!by_name) return MG_OK;
    *i = mg_mix_block(t->name);
    if (*i >= 0 && (uint64_t)*i < w->model->n_layer) return MG_OK;
    mg_status st = mg_fail(err, MG_ERR_FORMAT, "block number is not in [0, %llu): the mix of an MoE needs it",
                           (unsigned long long)w->model->n_layer);
    mg_error_at(err, NULL, t->name);
    return st;
}

static mg_status by_table(walk *w, mg_mix_tensor *t, mg_error *err) {
    const mg_dtype dflt = w->opt->preset->dtype;
    t->wanted = dflt;
    if ((w->trait->flags & MG_MIX_WIDE_Q_LORA) && contains_any(t->name, wide_q_lora, COUNT(wide_q_lora))) {
        t->wanted = MG_Q8_0;
        return MG_OK;
    }
    if (t->category == MG_MIX_OUTPUT && w->opt->output_type != MG_DTYPE_COUNT) { /* a tied token_embd */
        t->wanted = w->opt->output_type;
        return MG_OK;
    }
    int64_t i, running;
    MG_TRY(layer_of(w, t, &i, &running, err));
    int64_t n = t->category == MG_MIX_ATTN_V ? w->n_v : (int64_t)w->model->n_layer;
    uint32_t facts = w->facts | (t->ne[0] % mg_dtype_get(dflt)->block ? RAGGED : 0) | (t->ne[2] > 1 ? STACK : 0);
    for (size_t k = 0; k < COUNT(rows); k++) {
        const row *r = &rows[k];
        if (r->category != MG_MIX_ANY && r->category != t->category) continue;
        if (!(r->presets >> w->opt->preset->id & 1) || (r->conditions & ~facts)) continue;
        if (!layer_holds(r->layers, i, n, running)) continue;
        t->wanted = r->dtype;
        break;
    }
    return MG_OK;
}

static mg_status ragged(const mg_mix_tensor *t, const char *why, mg_error *err) {
    const mg_dtype_info *d = mg_dtype_get(t->wanted);
    mg_status st = mg_fail(err, MG_ERR_UNSUPPORTED, "rows of %llu values are no whole number of %s blocks of %u%s",
                           (unsigned long long)t->ne[0], d->name, d->block, why);
    mg_error_at(err, NULL, t->name);
    return st;
}

/* target from wanted. */
static mg_status apply_fallback(const mg_mix_options *opt, mg_mix_tensor *t, mg_error *err) {
    t->target = t->wanted;
    const mg_dtype_info *d = mg_dtype_get(t->wanted);
    if (t->ne[0] % d->block == 0) return MG_OK;
    if (opt->no_fallback) return ragged(t, ", and --no-fallback forbids another type", err);
    size_t k = 0;
    while (k < COUNT(fallbacks) && fallbacks[k].from != t->wanted) k++;
    if (k < COUNT(fallbacks))
        t->target = fallbacks[k].to;
    else if (d->block > 32)
        return ragged(t, ", and there is no fallback for that type", err);
    if (t->ne[0] % mg_dtype_get(t->target)->block != 0) t->target = MG_F16;
    return MG_OK;
}

/* A dtype given by --output-tensor-type or --token-embedding-type: no mix, no fallback. */
static mg_status by_option(mg_mix_tensor *t, mg_dtype dtype, mg_error *err) {
    t->wanted = t->target = dtype;
    if (t->ne[0] % mg_dtype_get(dtype)->block != 0) return ragged(t, "", err);
    return MG_OK;
}

static mg_status choose(walk *w, mg_mix_tensor *t, bool tied, mg_error *err) {
    const mg_mix_options *o = w->opt;
    bool embd = t->category == MG_MIX_TOKEN_EMBD;
    if (embd && tied) t->category = MG_MIX_OUTPUT;
    t->kept = is_kept(t, o, w->trait->flags);
    t->target = t->wanted = t->source;
    if (t->kept) return MG_OK;
    mg_dtype rule = mg_type_rules_match(o->rules, t->name);
    /* per_layer_token_embd follows --token-embedding-type unless a rule names it */
    bool named = rule != MG_DTYPE_COUNT && strcmp(t->name, "per_layer_token_embd.weight") == 0;
    if (o->embd_type != MG_DTYPE_COUNT && embd && !named) return by_option(t, o->embd_type, err);
    if (o->output_type != MG_DTYPE_COUNT && !embd && t->category == MG_MIX_OUTPUT)
        return by_option(t, o->output_type, err);
    t->target = t->wanted = o->preset->dtype;
    if (!mg_dtype_is_block(o->preset->dtype))
        return MG_OK; /* F32, F16, BF16: rules and mix are for quantized presets */
    if (rule != MG_DTYPE_COUNT)
        t->wanted = rule;
    else if (!o->pure)
        MG_TRY(by_table(w, t, err));
    return apply_fallback(o, t, err);
}

mg_status mg_mix_choose(const mg_mix_options *opt, const mg_mix_model *model, mg_mix_tensor *t, uint32_t n,
                        mg_error *err) {
    walk w = {.opt = opt, .model = model, .trait = trait_of(model->arch)};
    w.facts = model_facts(&w);
    bool tied = true;
    for (uint32_t k = 0; k < n; k++) {
        t[k].category = mg_mix_categorize(t[k].name);
        if (t[k].category == MG_MIX_ATTN_V) w.n_v++;
        if (t[k].category == MG_MIX_OUTPUT) tied = false;
    }
    for (uint32_t k = 0; k < n; k++) {
        MG_TRY(choose(&w, &t[k], tied, err));
        t[k].needs_imatrix = !t[k].kept && target_needs_imatrix(&t[k], opt->preset->id);
    }
    return MG_OK;
}
