/* gguf_meta.c - general.* keys from the model card, config.json, generation_config.json and the directory name, in the
 * order and with the precedence of the reference converter: model card, then _name_or_path, then the directory. */
#include "convert/gguf_meta.h"

#include "formats/base/file.h"
#include "formats/base/yaml.h"
#include "formats/model_card.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Truncating copy. */
static void copy(char *dst, size_t size, const char *s) {
    size_t n = strlen(s);
    if (n >= size) n = size - 1;
    memcpy(dst, s, n);
    dst[n] = 0;
}

/* ---- names ---- */

/* A lower-case word that is no version number begins with a capital: "moe4-chat v2" -> "Moe4 Chat v2". */
static void title(char *out, size_t size, const char *s) {
    size_t at = 0;
    while (*s && at + 2 < size) {
        while (*s == '-' || isspace((unsigned char)*s)) s++;
        size_t k = 0;
        bool lower = false, upper = false;
        for (; s[k] && s[k] != '-' && !isspace((unsigned char)s[k]); k++) {
            lower = lower || islower((unsigned char)s[k]);
            upper = upper || isupper((unsigned char)s[k]);
        }
        if (!k) break;
        size_t v = s[0] == 'v' ? 1 : 0; /* v1.2: digits with dots between */
        bool version = v && isdigit((unsigned char)s[v]) && s[k - 1] != '.';
        for (size_t i = v; version && i < k; i++)
            version = isdigit((unsigned char)s[i]) || (s[i] == '.' && s[i - 1] != '.');
        bool change = lower && !upper && !version && !isdigit((unsigned char)s[0]);
        if (at) out[at++] = ' ';
        bool inside = false; /* after a letter of the same run */
        for (size_t i = 0; i < k && at + 1 < size; i++) {
            unsigned char c = (unsigned char)s[i];
            out[at++] = (char)(change && !inside ? toupper(c) : c);
            inside = isalpha(c) || c >= 0x80;
        }
        s += k;
    }
    out[at] = 0;
}

typedef struct meta {
    char name[256], author[256], version[256], organization[256], finetune[256], basename[256], size_label[256];
    char *description;
    char license[512], license_name[256], license_link[512];
    char source_url[512], source_doi[512], source_uuid[512], source_repo_url[512];
} meta;

static void fill_from_name(meta *m, const char *id, uint64_t total) {
    mg_name_parts p;
    mg_name_split(&p, id, total);
    if (!m->name[0]) title(m->name, sizeof m->name, p.name);
    if (!m->organization[0]) title(m->organization, sizeof m->organization, p.organization);
    if (!m->basename[0]) copy(m->basename, sizeof m->basename, p.basename);
    if (!m->finetune[0]) copy(m->finetune, sizeof m->finetune, p.finetune);
    if (!m->version[0]) copy(m->version, sizeof m->version, p.version);
    if (!m->size_label[0]) copy(m->size_label, sizeof m->size_label, p.size_label);
}

/* ---- model card ---- */

static const char *card_text(const mg_yaml *card, const char *key) {
    const mg_yaml *v = mg_yaml_get(card, key);
    return v && v->type == MG_YAML_SCALAR && !mg_yaml_is_null(v) ? v->text : NULL;
}

static void take(char *field, size_t size, const mg_yaml *card, const char *key) {
    const char *t = card_text(card, key);
    if (t && !field[0]) copy(field, size, t);
}

#define TAKE(field, key) take(m->field, sizeof m->field, card, key)

static mg_status read_card(meta *m, const mg_yaml *card, mg_error *err) {
    const char *pre[2] = {"", "model_"};
    char key[64];
    for (int i = 0; i < 2; i++) {
#define BOTH(field, name)                                                                                              \
    do {                                                                                                               \
        snprintf(key, sizeof key, "%s%s", pre[i], name);                                                               \
        TAKE(field, key);                                                                                              \
    } while (0)
        BOTH(name, "name");
        BOTH(author, "author");
        BOTH(version, "version");
        BOTH(organization, "organization");
        BOTH(finetune, "finetune");
        BOTH(basename, "basename");
        BOTH(size_label, "size_label");
        BOTH(source_url, "url");
        BOTH(source_doi, "doi");
        BOTH(source_uuid, "uuid");
        BOTH(source_repo_url, "repo_url");
#undef BOTH
    }
    TAKE(author, "model_creator");
    TAKE(basename, "model_type");
    TAKE(license_name, "license_name");
    TAKE(license_link, "license_link");
    TAKE(license, "license");
    const mg_yaml *l = mg_yaml_get(card, "license");
    size_t at = 0;
    for (const mg_yaml *c = l && l->type == MG_YAML_SEQ ? l->child : NULL; c; c = c->next)
        if (c->type == MG_YAML_SCALAR && at + strlen(c->text) + 2 < sizeof m->license)
            at += (size_t)snprintf(m->license + at, sizeof m->license - at, "%s%s", at ? "," : "", c->text);
    const char *d = card_text(card, "description");
    if (!d) d = card_text(card, "model_description");
    if (d && !(m->description = strdup(d))) return mg_fail_nomem(err, strlen(d));
    return MG_OK;
}

/* ---- keys ---- */

static mg_status put(mg_kvs *kv, const char *key, const char *value, mg_error *err) {
    if (!value || !value[0]) return MG_OK; /* the reference writer skips empty strings */
    return mg_kvs_set_str(kv, key, value, strlen(value), err);
}

static mg_status put_sampling(mg_kvs *kv, const mg_json *gen, mg_error *err) {
    static const struct {
        const char *key, *field, *field2;
        bool integer;
    } rows[] = {
        {"top_k", "top_k", NULL, true},
        {"top_p", "top_p", NULL, false},
        {"min_p", "min_p", NULL, false},
        {"xtc_probability", "xtc_probability", NULL, false},
        {"xtc_threshold", "xtc_threshold", NULL, false},
        {"temp", "temperature", NULL, false},
        {"penalty_last_n", "penalty_last_n", NULL, true},
        {"penalty_repeat", "penalty_repeat", "repetition_penalty", false},
        {"mirostat", "mirostat", NULL, true},
        {"mirostat_tau", "mirostat_tau", NULL, false},
        {"mirostat_eta", "mirostat_eta", NULL, false},
    };
    MG_TRY(put(kv, "general.sampling.sequence", mg_json_str(mg_json_get(gen, "sequence")), err));
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char key[64];
        const mg_json *v = mg_json_get(gen, rows[i].field);
        if (!v && rows[i].field2) v = mg_json_get(gen, rows[i].field2);
        snprintf(key, sizeof key, "general.sampling.%s", rows[i].key);
        int64_t n;
        double x;
        if (rows[i].integer && mg_json_i64(v, &n) && n >= INT32_MIN && n <= INT32_MAX) {
            int32_t w = (int32_t)n;
            MG_TRY(mg_kvs_set(kv, key, MG_KV_I32, &w, err));
        } else if (!rows[i].integer && mg_json_f64(v, &x)) {
            MG_TRY(mg_kvs_set_f32(kv, key, (float)x, err));
        }
    }
    return MG_OK;
}

/* One base model or dataset: an identifier, a URL, or a map of its fields. */
static mg_status put_relative(mg_kvs *kv, const char *kind, uint32_t i, const mg_yaml *v, uint64_t total,
                              mg_error *err) {
    static const char *const fields[] = {"name", "author", "version", "organization", "description",
                                         "url",  "doi",    "uuid",    "repo_url"};
    char key[128], name[256] = "", org[256] = "", repo[1024] = "";
    mg_name_parts p = {0};
    bool map = v->type == MG_YAML_MAP;
    if (!map && v->type != MG_YAML_SCALAR) return MG_OK;
    if (!map) {
        const char *id = v->text;
        bool url = !strncmp(id, "http://", 7) || !strncmp(id, "https://", 8) || !strncmp(id, "ssh://", 6);
        const char *hub = NULL;
        if (url) {
            copy(repo, sizeof repo, id);
            const char *rest = !strncmp(id, "https://huggingface.co/", 23)  ? id + 23
                               : !strncmp(id, "http://huggingface.co/", 22) ? id + 22
                                                                            : NULL;
            const char *slash = rest ? strchr(rest, '/') : NULL;
            if (slash && slash > rest && slash[1] && !strchr(slash + 1, '/')) hub = rest;
        }
        if (hub || !url) mg_name_split(&p, hub ? hub : id, total);
        title(name, sizeof name, p.name);
        title(org, sizeof org, p.organization);
        if (!url && p.organization[0])
            snprintf(repo, sizeof repo, "https://huggingface.co/%s/%s", p.organization, p.name);
    }
    for (size_t f = 0; f < sizeof fields / sizeof fields[0]; f++) {
        snprintf(key, sizeof key, "general.%s.%u.%s", kind, i, fields[f]);
        const char *value = map      ? card_text(v, fields[f])
                            : f == 0 ? name
                            : f == 2 ? p.version
                            : f == 3 ? org
                            : f == 8 ? repo
                                     : NULL;
        MG_TRY(put(kv, key, value, err));
    }
    return MG_OK;
}

static mg_status put_relatives(mg_kvs *kv, const char *kind, const mg_yaml *card, const char *const names[3],
                               uint64_t total, mg_error *err) {
    const mg_yaml *v = NULL;
    for (int i = 0; i < 3 && !v; i++) v = mg_yaml_get(card, names[i]);
    if (!v) return MG_OK;
    char key[64];
    bool list = v->type == MG_YAML_SEQ;
    uint32_t n = list ? (uint32_t)v->n_children : mg_yaml_is_null(v) || v->type == MG_YAML_MAP ? 0 : 1, i = 0;
    snprintf(key, sizeof key, "general.%s.count", kind);
    MG_TRY(mg_kvs_set_u32(kv, key, n, err));
    for (const mg_yaml *c = list ? v->child : v; c && i < n; c = list ? c->next : NULL)
        MG_TRY(put_relative(kv, kind, i++, c, total, err));
    return MG_OK;
}

/* Strings of one or two card fields, each a scalar or a list, as one array. */
static mg_status put_list(mg_kvs *kv, const char *key, const mg_yaml *card, const char *a, const char *b,
                          mg_error *err) {
    const mg_yaml *v[2] = {mg_yaml_get(card, a), mg_yaml_get(card, b)};
    size_t n = 0, cap = 0;
    for (int i = 0; i < 2; i++) cap += v[i] ? v[i]->n_children + 1 : 0;
    mg_str *s = calloc(cap + 1, sizeof *s);
    if (!s) return mg_fail_nomem(err, cap * sizeof *s);
    for (int i = 0; i < 2; i++) {
        if (!v[i] || v[i]->type == MG_YAML_MAP || mg_yaml_is_null(v[i])) continue;
        bool list = v[i]->type == MG_YAML_SEQ;
        for (const mg_yaml *c = list ? v[i]->child : v[i]; c; c = list ? c->next : NULL)
            if (c->type == MG_YAML_SCALAR) s[n++] = (mg_str){.data = c->text, .size = strlen(c->text)};
    }
    mg_status st = n ? mg_kvs_set_arr(kv, key, MG_KV_STR, n, s, err) : MG_OK;
    free(s);
    return st;
}

static mg_status put_meta(mg_kvs *kv, const meta *m, mg_error *err) {
    const struct {
        const char *key, *value;
    } rows[] = {
        {"general.name", m->name},
        {"general.author", m->author},
        {"general.version", m->version},
        {"general.organization", m->organization},
        {"general.finetune", m->finetune},
        {"general.basename", m->basename},
        {"general.description", m->description},
        {"general.size_label", m->size_label},
        {"general.license", m->license},
        {"general.license.name", m->license_name},
        {"general.license.link", m->license_link},
        {"general.source.url", m->source_url},
        {"general.source.doi", m->source_doi},
        {"general.source.uuid", m->source_uuid},
        {"general.source.repo_url", m->source_repo_url},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) MG_TRY(put(kv, rows[i].key, rows[i].value, err));
    return MG_OK;
}

static mg_status put_card_lists(mg_kvs *kv, const mg_yaml *card, uint64_t total, mg_error *err) {
    static const char *const bases[3] = {"base_model", "base_models", "base_model_sources"};
    static const char *const sets[3] = {"datasets", "dataset", "dataset_sources"};
    MG_TRY(put_relatives(kv, "base_model", card, bases, total, err));
    MG_TRY(put_relatives(kv, "dataset", card, sets, total, err));
    MG_TRY(put_list(kv, "general.tags", card, "tags", "pipeline_tag", err));
    return put_list(kv, "general.languages", card, "languages", "language", err);
}

static mg_json *load_generation(const char *dir) {
    enum { CAP = 1 << 20 };
    char path[4096];
    mg_json *gen = NULL;
    mg_error quiet = {0};
    if (mg_path_join(path, sizeof path, dir, "generation_config.json", &quiet) != MG_OK || !mg_path_exists(path))
        return NULL;
    return mg_json_load(&gen, path, CAP, &quiet) == MG_OK ? gen : NULL;
}

static mg_status append(mg_kvs *kv, const mg_gguf_meta_in *in, meta *m, const mg_yaml *card, mg_error *err) {
    char label[32];
    if (card) MG_TRY(read_card(m, card, err));
    const char *origin = mg_json_str(mg_json_get(in->config, "_name_or_path"));
    const char *slash = origin ? strchr(origin, '/') : NULL;
    if (origin && (!slash || !strchr(slash + 1, '/'))) fill_from_name(m, origin, in->total);
    if (in->dir_name) fill_from_name(m, in->dir_name, in->total);
    if (in->name) copy(m->name, sizeof m->name, in->name);
    if (!m->size_label[0] && in->total) copy(m->size_label, sizeof m->size_label, mg_size_label(label, in));
    MG_TRY(put(kv, "general.type", "model", err));
    mg_json *gen = in->side_dir ? load_generation(in->side_dir) : NULL;
    mg_status st = gen ? put_sampling(kv, gen, err) : MG_OK;
    mg_json_free(gen);
    if (st == MG_OK) st = put_meta(kv, m, err);
    if (st == MG_OK && card) st = put_card_lists(kv, card, in->total, err);
    return st;
}

mg_status mg_gguf_meta_append(mg_kvs *kv, const mg_gguf_meta_in *in, mg_error *err) {
    mg_yaml_doc *doc = NULL;
    meta *m = calloc(1, sizeof *m);
    if (!m) return mg_fail_nomem(err, sizeof *m);
    mg_status st = in->side_dir ? mg_model_card_load(&doc, in->side_dir, err) : MG_OK;
    if (st == MG_OK) st = append(kv, in, m, doc ? mg_yaml_root(doc) : NULL, err);
    mg_yaml_free(doc);
    free(m->description);
    free(m);
    return st;
}
