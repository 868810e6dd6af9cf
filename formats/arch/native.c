/* native.c - params.json, the configuration of Mistral's and Meta's own releases, into canonical keys.
 *
 * The file is small and says little: no class names, no version. Which family it is, is told by the fields it has
 * (mg_native); a field we do not know may change the mathematics (quantization, yarn, a vision tower), so it is refused
 * by name. What it leaves unsaid has the native reader's defaults, not those of transformers. */
#include "formats/arch/arch_internal.h"

#include <stdio.h>
#include <string.h>

mg_status mg_arch_of_params(const mg_arch **out, const mg_json *params, mg_error *err) {
    for (uint32_t i = 0; i < mg_arch_count(); i++) {
        const mg_native *n = mg_arch_at(i)->native;
        if (!n || !mg_json_get(params, n->has) || (n->lacks && mg_json_get(params, n->lacks))) continue;
        *out = mg_arch_at(i);
        return MG_OK;
    }
    return mg_fail(err, MG_ERR_UNSUPPORTED,
                   "params.json has none of the fields by which native releases are told: 'moe', 'hidden_dim', "
                   "'multiple_of'");
}

static const mg_native_row *row_of(const mg_native *n, mg_key key) {
    for (uint32_t i = 0; n && i < n->n_rows; i++)
        if (n->rows[i].key == key) return &n->rows[i];
    return NULL;
}

const char *mg_native_spelling(const mg_arch *arch, mg_key key) {
    const mg_native_row *r = row_of(arch->native, key);
    return r ? r->path : NULL;
}

const mg_fallback *mg_native_absent(const mg_config_state *st, const mg_hparams *hp, mg_key key) {
    const mg_native_row *r = row_of(st->native, key);
    if (!r) return NULL;
    if (r->windowed.kind != MG_FB_SAME && hp->present[MG_K_WINDOW]) return &r->windowed;
    return r->absent.kind != MG_FB_SAME ? &r->absent : NULL;
}

/* Is there a row for this path, or for something below it? */
static bool names_path(const mg_native *n, const char *path) {
    size_t len = strlen(path);
    for (uint32_t i = 0; i < n->n_rows; i++)
        if (strncmp(n->rows[i].path, path, len) == 0 && (!n->rows[i].path[len] || n->rows[i].path[len] == '.'))
            return true;
    for (const char *const *p = n->ignored; p && *p; p++)
        if (strcmp(*p, path) == 0) return true;
    return false;
}

/* The objects of params.json are at most two deep where rows look. */
static mg_status refuse_unknown(const mg_native *n, const char *prefix, const mg_json *object, mg_error *err) {
    char path[128];
    bool b;
    for (const mg_json *v = mg_json_first(object); v; v = mg_json_next(v)) {
        if (mg_json_type(v) == MG_JSON_NULL || (mg_json_bool(v, &b) && !b)) continue;
        int len = snprintf(path, sizeof path, "%s%s%s", prefix, *prefix ? "." : "", mg_json_key(v));
        if (len < 0 || (size_t)len >= sizeof path || !names_path(n, path))
            return mg_fail(err, MG_ERR_UNSUPPORTED, "'%.100s' in params.json is not a field this version knows", path);
        if (!*prefix && mg_json_type(v) == MG_JSON_OBJECT) MG_TRY(refuse_unknown(n, path, v, err));
    }
    return MG_OK;
}

mg_status mg_config_read_params(mg_model *m, mg_config_state *st, const mg_json *params, mg_error *err) {
    const mg_native *n = m->arch->native;
    int64_t i;
    st->native = n;
    MG_TRY(refuse_unknown(n, "", params, err));
    for (uint32_t r = 0; r < n->n_rows; r++) {
        const mg_native_row *row = &n->rows[r];
        const mg_config_row *config = mg_arch_config_row(m->arch, row->key);
        const mg_json *v = mg_json_path(params, row->path);
        if (!v || mg_json_type(v) == MG_JSON_NULL) continue;
        if (!config) return mg_fail(err, MG_ERR_INTERNAL, "no config row for '%s'", row->path);
        if (mg_json_i64(v, &i) && i == -1) continue;
        MG_TRY(mg_config_take_json(&m->hp, config, v, row->path, err));
        m->hp.present[row->key] = true;
    }
    return MG_OK;
}

/* ---- writing ---- */

/* Mistral's form states the inner size; Meta's does not. */
static const mg_arch *writable(const mg_arch *arch) {
    if (row_of(arch->native, MG_K_FFN)) return arch;
    for (uint32_t i = 0; i < mg_arch_count(); i++) {
        const mg_arch *a = mg_arch_at(i);
        if (row_of(a->native, MG_K_FFN) && !strcmp(a->gguf_arch, arch->gguf_arch) &&
            a->block.router == arch->block.router)
            return a;
    }
    return NULL;
}

/* What the file leaves out because its absence says the same. */
static bool unsaid(const mg_native_row *r, const mg_hparams *hp) {
    if (mg_key_kind(r->key) == 'B') return !hp->i[r->key];
    if (r->absent.kind != MG_FB_VALUE || r->windowed.kind != MG_FB_SAME) return false;
    return (mg_key_kind(r->key) == 'F' ? hp->f[r->key] : (double)hp->i[r->key]) == r->absent.value;
}

static mg_json *value_of(mg_key key, const mg_hparams *hp) {
    switch (mg_key_kind(key)) {
    case 'F':
        return mg_json_new_f64(mg_shortest_f32(hp->f[key]));
    case 'B':
        return mg_json_new_bool(hp->i[key] != 0);
    default:
        return mg_json_new_i64(hp->i[key]);
    }
}

/* Set a path of one or two names. */
static void set_path(mg_json *params, const char *path, mg_json *v) {
    const char *dot = strchr(path, '.');
    if (!dot) {
        mg_json_set(params, path, v);
        return;
    }
    char object[64];
    snprintf(object, sizeof object, "%.*s", (int)(dot - path), path);
    if (!mg_json_get(params, object)) mg_json_set(params, object, mg_json_new_object());
    mg_json_set((mg_json *)mg_json_get(params, object), dot + 1, v);
}

/* The ids of special tokens are the tokenizer's to say. */
static bool of_tokens(mg_key key) {
    return key == MG_K_BOS || key == MG_K_EOS || key == MG_K_PAD;
}

static mg_status check_params(const mg_json *params, const mg_arch *family, const mg_model *m, const mg_hparams *hp,
                              mg_error *err) {
    mg_model *back;
    mg_key lost[MG_KEY_COUNT];
    char text[256];
    MG_TRY(mg_model_from_params(&back, params, err));
    mg_status st = MG_OK;
    if (back->arch != family)
        st = mg_fail(err, MG_ERR_INTERNAL, "params.json of family '%s' reads as '%s'", family->name, back->arch->name);
    for (uint32_t i = 0, n = mg_hparams_diff(&back->hp, hp, lost); st == MG_OK && i < n; i++)
        if (!of_tokens(lost[i]))
            st = mg_fail(err, MG_ERR_UNSUPPORTED, "params.json cannot state '%s'",
                         mg_model_key_text(m, lost[i], text, sizeof text));
    mg_model_free(back);
    return st;
}

mg_status mg_arch_new_params(mg_json **out, const mg_arch **family, const mg_model *m, const mg_hparams *hp,
                             mg_error *err) {
    const mg_arch *a = writable(m->arch);
    if (!a) return mg_fail(err, MG_ERR_UNSUPPORTED, "family '%s' has no releases in Mistral's form", m->arch->name);
    mg_json *params = mg_json_new_object();
    for (uint32_t i = 0; i < a->native->n_rows; i++) {
        const mg_native_row *r = &a->native->rows[i];
        if (!mg_json_path(params, r->path) && !unsaid(r, hp)) set_path(params, r->path, value_of(r->key, hp));
    }
    if (!params) return mg_fail_nomem(err, 64);
    mg_status st = check_params(params, a, m, hp, err);
    if (st != MG_OK) {
        mg_json_free(params);
        return st;
    }
    *out = params;
    *family = a;
    return MG_OK;
}
