/* Tests of yaml: the tree, the typing of scalars, and every cap. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/yaml.h"

static mg_status parse(mg_yaml_doc **d, const char *text, mg_error *err) {
    memset(err, 0, sizeof *err);
    return mg_yaml_parse(d, text, strlen(text), "test.yml", err);
}

Test(yaml, tree_of_a_merge_config) {
    mg_yaml_doc *d;
    mg_error err = {0};
    cr_assert_eq(mg_yaml_load(&d, MG_TEST_DATA "/golden/merge/moe4_hidden.yml", &err), MG_OK, "%s", err.message);
    const mg_yaml *root = mg_yaml_root(d), *experts = mg_yaml_get(root, "experts");
    cr_expect_str_eq(mg_yaml_get(root, "gate_mode")->text, "hidden");
    cr_assert(experts && experts->type == MG_YAML_SEQ && experts->n_children == 4);
    size_t n = 0;
    for (const mg_yaml *e = experts->child; e; e = e->next, n++) {
        cr_assert(e->type == MG_YAML_MAP && mg_yaml_get(e, "source_model"));
        cr_expect_gt(mg_yaml_get(e, "positive_prompts")->n_children, 0);
    }
    cr_expect_eq(n, 4);
    cr_expect_null(mg_yaml_get(root, "nothing"));
    cr_expect_null(mg_yaml_get(experts, "a"));
    mg_yaml_free(d);
}

Test(yaml, scalars_are_typed_by_who_asks) {
    mg_yaml_doc *d;
    mg_error err;
    cr_assert_eq(
        parse(
            &d,
            "a: no\nb: 1e3\nc: 12_000\nd: 'yes'\ne: ~\nf:\ng: 'null'\nh: -9223372036854775808\ni: 9223372036854775808\n"
            "j: !!str 5\nk: +7\nl: 0x10\nm: |\n  two\n  lines\nn: &x {p: 1}\no: *x\n",
            &err),
        MG_OK, "%s", err.message);
    const mg_yaml *r = mg_yaml_root(d);
    bool b;
    double f;
    int64_t i;
    cr_expect(mg_yaml_bool(mg_yaml_get(r, "a"), &b) && !b);
    cr_expect(mg_yaml_f64(mg_yaml_get(r, "b"), &f) && f == 1000 && !mg_yaml_i64(mg_yaml_get(r, "b"), &i));
    cr_expect(!mg_yaml_i64(mg_yaml_get(r, "c"), &i) && !mg_yaml_f64(mg_yaml_get(r, "c"), &f));
    cr_expect(!mg_yaml_bool(mg_yaml_get(r, "d"), &b));
    cr_expect(mg_yaml_is_null(mg_yaml_get(r, "e")) && mg_yaml_is_null(mg_yaml_get(r, "f")) &&
              !mg_yaml_is_null(mg_yaml_get(r, "g")));
    cr_expect(mg_yaml_i64(mg_yaml_get(r, "h"), &i) && i == INT64_MIN && !mg_yaml_i64(mg_yaml_get(r, "i"), &i));
    cr_expect(!mg_yaml_i64(mg_yaml_get(r, "j"), &i) && mg_yaml_i64(mg_yaml_get(r, "k"), &i) && i == 7);
    cr_expect(!mg_yaml_i64(mg_yaml_get(r, "l"), &i) && !mg_yaml_is_null(NULL) && !mg_yaml_i64(NULL, &i));
    cr_expect_str_eq(mg_yaml_get(r, "m")->text, "two\nlines\n");
    const mg_yaml *o = mg_yaml_get(r, "o");
    cr_expect(o && o->line == 17 && o->column == 4 && o->n_children == 1);
    cr_expect_str_eq(mg_yaml_get(o, "p")->text, "1");
    cr_expect_str_eq(mg_yaml_get(r, "n")->key, "n");
    mg_yaml_free(d);
}

Test(yaml, refuses) {
    static const struct {
        const char *text, *says;
        mg_status code;
    } bad[] = {
        {"", "no document", MG_ERR_FORMAT},
        {"# nothing\n", "no document", MG_ERR_FORMAT},
        {"a: 1\nb: 2\na: 3\n", "line 3, column 4: duplicate key 'a' (first on line 1)", MG_ERR_FORMAT},
        {"a: 1\n---\nb: 2\n", "more than one document", MG_ERR_FORMAT},
        {"a: !!python/object:os.system {}\n", "tag that plain data", MG_ERR_FORMAT},
        {"a: !mine 1\n", "tag that plain data", MG_ERR_FORMAT},
        {"[1, 2", "line", MG_ERR_FORMAT},
        {"a: \"\\0\"\n", "NUL character", MG_ERR_FORMAT},
        {"a: \xFF\n", "YAML: ", MG_ERR_FORMAT},
        {"{[1]: 2}\n", "must be a scalar", MG_ERR_FORMAT},
        {"a: *b\n", "alias without an anchor: 'b'", MG_ERR_FORMAT},
        {"a: &x b\n*x : 1\n", "alias as a key", MG_ERR_FORMAT},
        {"a: &x [*x]\n", "alias inside what it names", MG_ERR_LIMIT},
        {"a: &x {k: 1}\nb:\n  <<: *x\n", "merge keys", MG_ERR_UNSUPPORTED},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        mg_yaml_doc *d;
        mg_error err;
        cr_expect_eq(parse(&d, bad[i].text, &err), bad[i].code, "%s: %s", bad[i].text, err.message);
        cr_expect(strstr(err.message, bad[i].says), "%s: %s", bad[i].text, err.message);
        cr_expect_str_eq(err.file, "test.yml");
        cr_expect_null(d);
    }
}

Test(yaml, caps) {
    mg_yaml_doc *d;
    mg_error err;
    char *text = malloc(2 << 20);
    memset(text, '[', 100000);
    text[100000] = 0;
    cr_expect_eq(parse(&d, text, &err), MG_ERR_LIMIT); /* depth */
    cr_expect(strstr(err.message, "deeper"), "%s", err.message);
    int n = sprintf(text, "a: &l0 [x, x, x, x, x, x, x, x, x, x]\n");
    for (int i = 1; i < 10; i++) {
        n += sprintf(text + n, "b%d: &l%d [", i, i);
        for (int k = 0; k < 10; k++) n += sprintf(text + n, "*l%d%s", i - 1, k < 9 ? ", " : "]\n");
    }
    cr_expect_eq(parse(&d, text, &err), MG_ERR_LIMIT); /* 10^10 nodes after expansion */
    cr_expect(strstr(err.message, "nodes"), "%s", err.message);
    n = sprintf(text, "a: &x 1\nb: [");
    for (int k = 0; k < 101; k++) n += sprintf(text + n, "*x, ");
    sprintf(text + n, "]\n");
    cr_expect_eq(parse(&d, text, &err), MG_ERR_LIMIT);
    cr_expect(strstr(err.message, "aliases"), "%s", err.message);
    memset(text, ' ', (1 << 20) + 1);
    text[(1 << 20) + 1] = 0;
    cr_expect_eq(parse(&d, text, &err), MG_ERR_LIMIT);
    cr_expect(strstr(err.message, "bytes"), "%s", err.message);
    free(text);
}
