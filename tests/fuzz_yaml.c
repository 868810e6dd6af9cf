/* fuzz_yaml.c - recipes: any bytes end in a bounded tree or in an error with a message. */
#include <stdlib.h>
#include <string.h>

#include "formats/base/yaml.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int ok) {
    if (!ok) abort();
}

static size_t count(const mg_yaml *v, unsigned depth) {
    size_t n = 1, children = 0;
    require(depth <= 64);
    if (v->type == MG_YAML_SCALAR) require(v->text != NULL && v->child == NULL);
    for (const mg_yaml *c = v->child; c; c = c->next, children++) {
        require((c->key != NULL) == (v->type == MG_YAML_MAP));
        if (c->key) require(mg_yaml_get(v, c->key) == c); /* no duplicates */
        n += count(c, depth + 1);
    }
    require(children == v->n_children);
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    mg_yaml_doc *d = NULL;
    mg_error err = {0};
    mg_status st = mg_yaml_parse(&d, (const char *)data, size, "input", &err);
    if (st != MG_OK) {
        require(err.code == st && err.message[0]);
        return 0;
    }
    if (mg_yaml_root(d)) require(count(mg_yaml_root(d), 0) <= 100000);
    mg_yaml_free(d);
    return 0;
}
