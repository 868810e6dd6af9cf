/* licence.c - see licence.h. */
#include "verify/licence.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "formats/model_card.h"

static void copy(char *dst, size_t size, const char *s) {
    snprintf(dst, size, "%s", s ? s : "");
}

static void licence_of_kv(mg_licence *l, const mg_kvs *kv) {
    static const char *const keys[] = {"general.license", "general.license.name", "general.license.link"};
    mg_str s[3] = {{0}};
    for (int i = 0; i < 3; i++)
        if (!mg_kv_str(mg_kvs_get(kv, keys[i]), &s[i])) s[i].data = NULL;
    copy(l->id, sizeof l->id, s[0].data);
    copy(l->name, sizeof l->name, s[1].data);
    copy(l->link, sizeof l->link, s[2].data);
}

static const char *scalar_of(const mg_yaml *card, const char *key) {
    const mg_yaml *v = mg_yaml_get(card, key);
    if (v && v->type == MG_YAML_SEQ && v->n_children == 1) v = v->child;
    return v && v->type == MG_YAML_SCALAR && !mg_yaml_is_null(v) ? v->text : NULL;
}

mg_status mg_licence_of_dir(mg_licence *l, const char *dir, mg_error *err) {
    mg_yaml_doc *doc;
    MG_TRY(mg_model_card_load(&doc, dir, err));
    if (!doc) return MG_OK;
    copy(l->id, sizeof l->id, scalar_of(mg_yaml_root(doc), "license"));
    copy(l->name, sizeof l->name, scalar_of(mg_yaml_root(doc), "license_name"));
    copy(l->link, sizeof l->link, scalar_of(mg_yaml_root(doc), "license_link"));
    mg_yaml_free(doc);
    return MG_OK;
}

mg_status mg_licence_of(mg_licence *l, const mg_checkpoint *c, mg_error *err) {
    if (c->kv) licence_of_kv(l, c->kv);
    return !l->id[0] && c->dir ? mg_licence_of_dir(l, c->dir, err) : MG_OK;
}

bool mg_licence_same(const mg_licence *a, const mg_licence *b) {
    return strcasecmp(a->id, b->id) == 0 && strcasecmp(a->name, b->name) == 0;
}
