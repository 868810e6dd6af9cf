/* tokenizer_cases.h - ids of a tokenizer against those another library gave, from tests/data/tokenizer/NAME.ids.json.
 */
#ifndef MG_TESTS_TOKENIZER_CASES_H
#define MG_TESTS_TOKENIZER_CASES_H

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "formats/base/json.h"
#include "formats/tokenizer.h"

static void must(mg_status st, const mg_error *err) {
    char text[2048];
    cr_assert_eq(st, MG_OK, "%s", mg_error_text(err, text, sizeof text));
}

/* NAME.json of that folder. */
static void open_data(mg_tokenizer **t, const char *name) {
    char path[4096];
    mg_error err = {0};
    snprintf(path, sizeof path, MG_TEST_DATA "/tokenizer/%s.json", name);
    must(mg_tokenizer_open_json(t, path, &err), &err);
}

/* Every case of NAME.ids.json; frees t. */
static void run_with(mg_tokenizer *t, const char *name, unsigned flags) {
    char path[4096];
    mg_json *root;
    mg_error err = {0};
    size_t n = 0;
    snprintf(path, sizeof path, MG_TEST_DATA "/tokenizer/%s.ids.json", name);
    must(mg_json_load(&root, path, 1 << 20, &err), &err);
    for (const mg_json *c = mg_json_first(mg_json_get(root, "cases")); c; c = mg_json_next(c), n++) {
        const char *text = mg_json_str(mg_json_get(c, "text"));
        mg_ids got = {0};
        size_t i = 0;
        must(mg_tokenizer_encode(t, text, strlen(text), flags, &got, &err), &err);
        for (const mg_json *v = mg_json_first(mg_json_get(c, "ids")); v; v = mg_json_next(v), i++) {
            int64_t id = -1;
            cr_assert(mg_json_i64(v, &id));
            if (i >= got.n || got.ids[i] != id) break;
        }
        cr_expect(i == got.n && i == mg_json_len(mg_json_get(c, "ids")), "%s: '%s' differs at %zu", name, text, i);
        mg_ids_release(&got);
    }
    cr_expect_gt(n, 50);
    mg_json_free(root);
    mg_tokenizer_free(t);
}

#endif
