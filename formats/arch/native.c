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
