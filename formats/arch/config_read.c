/* config_read.c - stated values of a configuration, from config.json or from GGUF metadata, into canonical keys.
 *
 * What is not stated is left to config.c. Wrong types and values out of range are MG_ERR_CONFLICT naming the field as
 * the file spells it, what was found and what was expected; fields that change the mathematics in a way we do not
 * describe are MG_ERR_UNSUPPORTED. */
#include "formats/arch/arch_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

char mg_key_kind(mg_key k) {
    /* clang-format off */
    static const char kinds[] =
#define MG_KEY(sym, kind, meaning) #kind
#include "formats/arch/keys.inc"
#undef MG_KEY
        ;
    /* clang-format on */
    return kinds[k];
}

/* transformers folds rope_scaling (when it is not empty) over rope_parameters as a whole, never field by field. */
static const mg_json *rope_object(const mg_json *config) {
    const mg_json *v = mg_json_get(config, "rope_scaling");
    if (v && mg_json_type(v) == MG_JSON_OBJECT && mg_json_len(v)) return v;
    return mg_json_get(config, "rope_parameters");
}

static const mg_json *child_object(const mg_json *v, const char *key) {
    const mg_json *c = v ? mg_json_get(v, key) : NULL;
    return c && mg_json_type(c) == MG_JSON_OBJECT ? c : NULL;
}

/* Families with a base of their own for windowed layers may state one object per kind of layer; "rope_parameters." then
 * means that of full attention, unless the path names the kind. */
static const mg_json *rope_field(const mg_json *config, const char *path) {
    static const char local[] = "sliding_attention.";
    const mg_json *all = rope_object(config), *full = child_object(all, "full_attention");
    if (strncmp(path, local, sizeof local - 1) == 0) {
        const mg_json *c = child_object(mg_json_get(config, "rope_parameters"), "sliding_attention");
        return c ? mg_json_get(c, path + sizeof local - 1) : NULL;
    }
    return full ? mg_json_get(full, path) : all ? mg_json_get(all, path) : NULL;
}

static const mg_json *config_path(const mg_json *config, const char *path) {
    static const char rope[] = "rope_parameters.";
    if (strncmp(path, rope, sizeof rope - 1) == 0) return rope_field(config, path + sizeof rope - 1);
    const size_t n = strlen(path);
    if (n < 3 || path[n - 2] != '.' || path[n - 1] < '0' || path[n - 1] > '9') return mg_json_path(config, path);
    char list[64];
    snprintf(list, sizeof list, "%.*s", (int)n - 2, path); /* an entry of a list: "name.0" */
    const mg_json *c = mg_json_path(config, list);
    if (!c || mg_json_type(c) != MG_JSON_ARRAY) return NULL;
    c = mg_json_first(c);
    for (int i = path[n - 1] - '0'; c && i > 0; i--) c = mg_json_next(c);
    return c;
}

static void describe(const mg_json *v, char *buf, size_t size) {
    int64_t i;
    double d;
    bool b;
    switch (mg_json_type(v)) {
    case MG_JSON_STRING:
        snprintf(buf, size, "\"%.60s\"", mg_json_str(v));
        break;
    case MG_JSON_BOOL:
        snprintf(buf, size, "%s", mg_json_bool(v, &b) && b ? "true" : "false");
        break;
    case MG_JSON_INT:
    case MG_JSON_REAL:
        if (mg_json_i64(v, &i))
            snprintf(buf, size, "%lld", (long long)i);
        else if (mg_json_f64(v, &d))
            snprintf(buf, size, "%.17g", d);
        else
            snprintf(buf, size, "a number out of range");
        break;
    case MG_JSON_ARRAY:
        snprintf(buf, size, "a list");
        break;
    case MG_JSON_OBJECT: /* quantization_config is the object people meet */
        if (mg_json_str(mg_json_get(v, "quant_method")))
            snprintf(buf, size, "an object of method \"%.40s\"", mg_json_str(mg_json_get(v, "quant_method")));
        else
            snprintf(buf, size, "an object");
        break;
    case MG_JSON_NULL:
        snprintf(buf, size, "null");
        break;
    }
}

static mg_status in_range(const mg_config_row *r, double v, const char *field, const char *found, mg_error *err) {
    if (!isfinite(v)) return mg_fail(err, MG_ERR_CONFLICT, "'%s' is %s, expected a finite number", field, found);
    if (r->lo == 0 && r->hi == 0) return MG_OK;
    if (v >= r->lo && v <= r->hi) return MG_OK;
    return mg_fail(err, MG_ERR_CONFLICT, "'%s' is %s, expected %.10g to %.10g", field, found, r->lo, r->hi);
}

static mg_status enum_value(const mg_config_row *r, const char *s, const char *field, int64_t *out, mg_error *err) {
    for (const mg_enum_name *n = r->names; n->name; n++) {
        if (strcmp(n->name, s) == 0) {
            *out = n->value;
            return MG_OK;
        }
    }
    return mg_fail(err, MG_ERR_UNSUPPORTED, "'%s' is \"%.60s\", which this version does not know", field, s);
}

mg_status mg_config_take_json(mg_hparams *hp, const mg_config_row *r, const mg_json *v, const char *field,
                              mg_error *err) {
    char found[80];
    bool b;
    describe(v, found, sizeof found);
    switch (mg_key_kind(r->key)) {
    case 'B':
        if (!mg_json_bool(v, &b))
            return mg_fail(err, MG_ERR_CONFLICT, "'%s' is %s, expected true or false", field, found);
        hp->i[r->key] = b;
        return MG_OK;
    case 'E':
        if (mg_json_type(v) != MG_JSON_STRING)
            return mg_fail(err, MG_ERR_CONFLICT, "'%s' is %s, expected a name", field, found);
        return enum_value(r, mg_json_str(v), field, &hp->i[r->key], err);
    case 'F':
        if (!mg_json_f64(v, &hp->f[r->key]))
            return mg_fail(err, MG_ERR_CONFLICT, "'%s' is %s, expected a number", field, found);
        return in_range(r, hp->f[r->key], field, found, err);
    default:
        if (!mg_json_i64(v, &hp->i[r->key]))
            return mg_fail(err, MG_ERR_CONFLICT, "'%s' is %s, expected an integer", field, found);
        return in_range(r, (double)hp->i[r->key], field, found, err);
    }
}

/* Token ids may be lists (several end tokens): the first counts. Other integers may be stated per layer: a list of
 * equal entries is its entry. */
static const mg_json *first_id(const mg_config_row *r, const mg_json *v) {
    bool id = r->key == MG_K_BOS || r->key == MG_K_EOS || r->key == MG_K_PAD;
    int64_t first, other;
    if (mg_json_type(v) != MG_JSON_ARRAY || !mg_json_len(v)) return v;
    if (id) return mg_json_first(v);
    if (!mg_json_i64(mg_json_first(v), &first)) return v;
    for (const mg_json *c = mg_json_first(v); c; c = mg_json_next(c))
        if (!mg_json_i64(c, &other) || other != first) return v;
    return mg_json_first(v);
}

/* Only a family with a base of its own for windowed layers knows objects per kind of layer, and there windowed layers
 * are not scaled. */
static mg_status refuse_rope_kinds(const mg_arch *arch, const mg_json *rope, mg_error *err) {
    const bool local = mg_arch_config_row(arch, MG_K_ROPE_THETA_LOCAL) != NULL;
    for (const mg_json *c = rope ? mg_json_first(rope) : NULL; c; c = mg_json_next(c)) {
        if (mg_json_type(c) != MG_JSON_OBJECT) continue;
        const bool sliding = strcmp(mg_json_key(c), "sliding_attention") == 0;
        if (!local || (!sliding && strcmp(mg_json_key(c), "full_attention") != 0))
            return mg_fail(err, MG_ERR_UNSUPPORTED,
                           "'rope_parameters' differ by layer type ('%.60s'), which family '%s' does not have",
                           mg_json_key(c), arch->name);
        const char *type = mg_json_str(mg_json_get(c, "rope_type"));
        if (sliding && type && strcmp(type, "default") != 0)
            return mg_fail(err, MG_ERR_UNSUPPORTED, "'rope_type' of windowed layers is \"%.60s\", expected default",
                           type);
    }
    return MG_OK;
}

static mg_status read_refusals(const mg_arch *arch, const mg_json *config, mg_error *err) {
    for (uint32_t i = 0; i < arch->n_refusals; i++) {
        const mg_config_refusal *r = &arch->refusals[i];
        const mg_json *v = config_path(config, r->path);
        char found[80];
        double d;
        bool b;
        if (!v || mg_json_type(v) == MG_JSON_NULL) continue;
        if (mg_json_f64(v, &d) && d == r->harmless) continue;
        if (mg_json_bool(v, &b) && (double)b == r->harmless) continue;
        describe(v, found, sizeof found);
        return mg_fail(err, MG_ERR_UNSUPPORTED, "'%s' is %s: %s", r->path, found, r->why);
    }
    return refuse_rope_kinds(arch, rope_object(config), err);
}

/* The factor lists of a longrope scaling; whether they fit is checked when the sizes are known. */
static mg_status read_factors(mg_model *m, const mg_json *config, mg_error *err) {
    static const char *const paths[2] = {"rope_parameters.short_factor", "rope_parameters.long_factor"};
    for (int k = 0; mg_arch_row(m->arch, MG_R_ROPE_FACTORS_SHORT) && k < 2; k++) {
        const mg_json *list = config_path(config, paths[k]);
        uint32_t n = 0;
        if (!list || mg_json_type(list) == MG_JSON_NULL) continue;
        if (mg_json_type(list) != MG_JSON_ARRAY || mg_json_len(list) > MG_MAX_ROPE_PAIRS)
            return mg_fail(err, MG_ERR_CONFLICT, "'%s' is not a list of up to %d numbers", paths[k], MG_MAX_ROPE_PAIRS);
        for (const mg_json *v = mg_json_first(list); v; v = mg_json_next(v), n++) {
            double d;
            if (!mg_json_f64(v, &d))
                return mg_fail(err, MG_ERR_CONFLICT, "'%s' has a value that is no number", paths[k]);
            m->hp.rope_factors[k][n] = (float)d;
        }
        m->hp.n_rope_factors[k] = n;
    }
    return MG_OK;
}

/* Does the list row apply, and what does config say? Evaluated when the number of layers is known. */
static void read_lists(mg_model *m, mg_config_state *st, const mg_json *config) {
    for (const mg_layer_list *row = m->arch->lists; row && row->path; row++) {
        const mg_json *v = mg_json_path(config, row->path);
        if (!v || mg_json_type(v) == MG_JSON_NULL) continue;
        st->list[row->trait] = v;
        st->list_row[row->trait] = row;
    }
}

/* Layers listed as dense. Indices beyond the model name nothing, as in transformers. */
static mg_status read_dense_list(mg_model *m, const mg_json *config, mg_error *err) {
    const char *path = m->arch->dense_list;
    const mg_json *list = path ? mg_json_path(config, path) : NULL;
    int64_t l;
    if (!list || mg_json_type(list) == MG_JSON_NULL) return MG_OK;
    if (mg_json_type(list) != MG_JSON_ARRAY)
        return mg_fail(err, MG_ERR_CONFLICT, "'%s' is not a list of layer numbers", path);
    for (const mg_json *c = mg_json_first(list); c; c = mg_json_next(c)) {
        if (!mg_json_i64(c, &l)) return mg_fail(err, MG_ERR_CONFLICT, "'%s' is not a list of layer numbers", path);
        if (l >= 0 && l < MG_MAX_LAYERS) m->hp.dense[l / 64] |= (uint64_t)1 << (l % 64);
    }
    return MG_OK;
}

mg_status mg_config_read_json(mg_model *m, mg_config_state *st, const mg_json *config, mg_error *err) {
    if (!config || mg_json_type(config) != MG_JSON_OBJECT)
        return mg_fail(err, MG_ERR_FORMAT, "config.json is not an object");
    MG_TRY(read_refusals(m->arch, config, err));
    MG_TRY(read_dense_list(m, config, err));
    read_lists(m, st, config);
    MG_TRY(read_factors(m, config, err));
    for (uint32_t i = 0; i < m->arch->n_config; i++) {
        const mg_config_row *r = &m->arch->config[i];
        if (r->gguf_when == MG_GGUF_FILE_TYPE) continue;
        for (uint32_t s = 0; s < MG_MAX_SPELLINGS && r->hf[s] && !m->hp.present[r->key]; s++) {
            const mg_json *v = config_path(config, r->hf[s]);
            if (!v) continue;
            v = first_id(r, v);
            if (mg_json_type(v) == MG_JSON_NULL) {
                st->null[r->key] = true;
                continue;
            }
            MG_TRY(mg_config_take_json(&m->hp, r, v, r->hf[s], err));
            m->hp.present[r->key] = true;
        }
    }
    return MG_OK;
}

static mg_status take_kv(mg_hparams *hp, const mg_config_row *r, const mg_kv *v, const char *field, mg_error *err) {
    char found[80];
    mg_str s;
    bool b;
    if (v->type == MG_KV_ARR)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "'%s' is a list: values that differ by layer are not supported here",
                       field);
    switch (mg_key_kind(r->key)) {
    case 'B':
        if (!mg_kv_bool(v, &b)) return mg_fail(err, MG_ERR_CONFLICT, "'%s' is not a bool", field);
        hp->i[r->key] = b;
        return MG_OK;
    case 'E':
        if (r->gguf_type == MG_KV_U32) { /* GGUF writes the number */
            if (!mg_kv_i64(v, &hp->i[r->key])) return mg_fail(err, MG_ERR_CONFLICT, "'%s' is not an integer", field);
            return MG_OK;
        }
        if (!mg_kv_str(v, &s)) return mg_fail(err, MG_ERR_CONFLICT, "'%s' is not a string", field);
        return enum_value(r, s.data, field, &hp->i[r->key], err);
    case 'F':
        if (!mg_kv_f64(v, &hp->f[r->key])) return mg_fail(err, MG_ERR_CONFLICT, "'%s' is not a number", field);
        if (r->gguf_scale != 0) hp->f[r->key] /= r->gguf_scale;
        snprintf(found, sizeof found, "%.9g", hp->f[r->key]);
        return in_range(r, hp->f[r->key], field, found, err);
    default:
        if (!mg_kv_i64(v, &hp->i[r->key])) return mg_fail(err, MG_ERR_CONFLICT, "'%s' is not an integer", field);
        snprintf(found, sizeof found, "%lld", (long long)hp->i[r->key]);
        return in_range(r, (double)hp->i[r->key], field, found, err);
    }
}

/* Keys of the tokenizer stand alone; all others carry the architecture's name. */
static void gguf_name(char *buf, size_t size, const mg_arch *arch, const char *suffix) {
    if (strncmp(suffix, "tokenizer.", 10) == 0)
        snprintf(buf, size, "%s", suffix);
    else
        snprintf(buf, size, "%s.%s", arch->gguf_arch, suffix);
}

const char *mg_config_spelling(const mg_arch *arch, mg_key key, mg_layout layout, char *buf, size_t size) {
    snprintf(buf, size, "%s", mg_key_name(key));
    for (uint32_t i = arch->n_config; i-- > 0;) { /* a key without a spelling goes by what it falls back on, above it */
        const mg_config_row *r = &arch->config[i];
        if (r->key != key || r->gguf_when == MG_GGUF_FILE_TYPE) continue;
        const char *native = layout == MG_LAYOUT_NATIVE ? mg_native_spelling(arch, key) : NULL;
        if (native)
            snprintf(buf, size, "%s", native);
        else if (layout == MG_LAYOUT_GGUF && r->gguf)
            gguf_name(buf, size, arch, r->gguf);
        else if (layout == MG_LAYOUT_HF && r->hf[0])
            snprintf(buf, size, "%s", r->hf[0]);
        else if (r->absent.kind == MG_FB_KEY)
            key = r->absent.key;
    }
    return buf;
}

mg_status mg_config_read_gguf(mg_model *m, mg_config_state *st, const mg_kvs *kv, mg_error *err) {
    char name[128];
    st->gguf = true;
    for (uint32_t i = 0; i < m->arch->n_config; i++) {
        const mg_config_row *r = &m->arch->config[i];
        if (!r->gguf || r->gguf_unread || r->gguf_when == MG_GGUF_FILE_TYPE) continue;
        gguf_name(name, sizeof name, m->arch, r->gguf);
        const mg_kv *v = mg_kvs_get(kv, name);
        if (!v) continue;
        MG_TRY(take_kv(&m->hp, r, v, name, err));
        m->hp.present[r->key] = true;
    }
    m->hp.i[MG_K_LAYERS] -= m->hp.i[MG_K_NEXTN];
    const mg_kv *tokens = mg_kvs_get(kv, "tokenizer.ggml.tokens");
    if (tokens && tokens->type == MG_KV_ARR) st->tokens = tokens->count;
    /* Files from before rope.scaling.type: a factor alone means linear, and it had another name. */
    if (!m->hp.present[MG_K_ROPE_FACTOR]) {
        snprintf(name, sizeof name, "%s.rope.scale_linear", m->arch->gguf_arch);
        m->hp.present[MG_K_ROPE_FACTOR] = mg_kv_f64(mg_kvs_get(kv, name), &m->hp.f[MG_K_ROPE_FACTOR]);
    }
    if (!m->hp.present[MG_K_ROPE_TYPE] && m->hp.present[MG_K_ROPE_FACTOR] && m->hp.f[MG_K_ROPE_FACTOR] != 0 &&
        m->hp.f[MG_K_ROPE_FACTOR] != 1) {
        m->hp.i[MG_K_ROPE_TYPE] = MG_ROPE_LINEAR;
        m->hp.present[MG_K_ROPE_TYPE] = true;
    }
    return MG_OK;
}

/* ---- comparing ---- */

uint32_t mg_hparams_diff(const mg_hparams *a, const mg_hparams *b, mg_key out[MG_KEY_COUNT]) {
    uint32_t n = 0;
    for (int k = 0; k < MG_KEY_COUNT; k++) {
        bool real = mg_key_kind((mg_key)k) == 'F';
        if (real ? (float)a->f[k] != (float)b->f[k] : a->i[k] != b->i[k]) out[n++] = (mg_key)k;
    }
    return n;
}

/* The name of an enumerator's value, NULL when the family has none. */
static const char *value_name(const mg_arch *arch, mg_key key, int64_t v) {
    for (uint32_t i = 0; i < arch->n_config; i++)
        for (const mg_enum_name *n = arch->config[i].key == key ? arch->config[i].names : NULL; n && n->name; n++)
            if (n->value == v) return n->name;
    return NULL;
}

const char *mg_model_key_text(const mg_model *m, mg_key key, char *buf, size_t size) {
    char name[96];
    int64_t v = m->hp.i[key];
    const char *word = value_name(m->arch, key, v);
    mg_config_spelling(m->arch, key, m->ckpt ? mg_layout_of(m->ckpt) : MG_LAYOUT_HF, name, sizeof name);
    switch (mg_key_kind(key)) {
    case 'F':
        snprintf(buf, size, "%s %.9g", name, m->hp.f[key]);
        break;
    case 'B':
        snprintf(buf, size, "%s %s", name, v ? "true" : "false");
        break;
    default:
        if (word)
            snprintf(buf, size, "%s %s", name, word);
        else
            snprintf(buf, size, "%s %lld", name, (long long)v);
    }
    return buf;
}
