/* Tests of jsonlex, json, number and utf8: what is refused, what is exact, what is written. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/json.h"
#include "formats/base/jsonlex.h"
#include "formats/base/number.h"
#include "formats/base/utf8.h"

static mg_status parse(mg_json **out, const char *text, mg_error *err) {
    memset(err, 0, sizeof *err);
    return mg_json_parse(out, (mg_span){(const uint8_t *)text, strlen(text)}, "test.json", err);
}

/* Text read and written again on one line; empty when refused. */
static const char *echo(const char *text) {
    static char buf[1024];
    mg_json *v;
    mg_error err;
    buf[0] = 0;
    if (parse(&v, text, &err)) return buf;
    char *out;
    cr_assert_eq(mg_json_print(&out, v, 0, &err), MG_OK);
    cr_assert_lt(strlen(out), sizeof buf);
    strcpy(buf, out);
    free(out);
    mg_json_free(v);
    return buf;
}

Test(json, refuses) {
    static const struct {
        const char *text;
        unsigned at;
    } bad[] = {
        {"", 0},
        {"  ", 2},
        {"\xEF\xBB\xBF{}", 0},
        {"\x01{}", 0},
        {"{} x", 3},
        {"{}{}", 2},
        {"01", 0},
        {"1.", 0},
        {".5", 0},
        {"+1", 0},
        {"1e", 0},
        {"-", 0},
        {"NaN", 0},
        {"[Infinity]", 1},
        {"1e400", 0},
        {"tru", 0},
        {"truex", 4},
        {"[1,]", 3},
        {"[,1]", 1},
        {"[1 2]", 3},
        {"{\"a\":1,}", 7},
        {"{\"a\" 1}", 5},
        {"{a:1}", 1},
        {"{\"a\":}", 5},
        {"[1}", 2},
        {"{\"a\":1]", 6},
        {"[", 1},
        {"\"abc", 0},
        {"\"a\nb\"", 2},
        {"\"\\x\"", 1},
        {"\"\\u12\"", 1},
        {"\"\\u0000\"", 1},
        {"\"\\ud800\"", 1},
        {"\"\\udc00\"", 1},
        {"\"\\ud800\\u0041\"", 1},
        {"\"\xC0\x80\"", 1},
        {"\"\xED\xA0\x80\"", 1},
        {"\"\xF5\x80\x80\x80\"", 1},
        {"\"\xE2\x96\"", 1},
        {"'a'", 0},
        {"{\"a\":1,\"b\":2,\"\\u0061\":3}", 23},
        {"{\"a\":{\"k\":1,\"k\":1}}", 17},
        {"/**/1", 0},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        mg_json *v;
        mg_error err;
        cr_expect_eq(parse(&v, bad[i].text, &err), MG_ERR_FORMAT, "accepted: %s", bad[i].text);
        cr_expect_null(v);
        cr_expect(err.has_offset && err.offset == bad[i].at, "%s: offset %lu: %s", bad[i].text,
                  (unsigned long)err.offset, err.message);
        cr_expect_str_eq(err.file, "test.json");
    }
}

Test(json, depth_is_bounded) {
    char text[200];
    mg_json *v;
    mg_error err;
    memset(text, '[', 64);
    memset(text + 64, ']', 64);
    text[128] = 0;
    cr_expect_eq(parse(&v, text, &err), MG_OK);
    mg_json_free(v);
    memset(text, '[', 65);
    cr_expect_eq(parse(&v, text, &err), MG_ERR_FORMAT);
    cr_expect(strstr(err.message, "deep") != NULL);
}

Test(json, exact_numbers) {
    cr_expect_str_eq(echo("[9007199254740993, 18446744073709551615, -9223372036854775808]"),
                     "[9007199254740993, 18446744073709551615, -9223372036854775808]");
    cr_expect_str_eq(echo("1000000000000000019884624838656"), "1000000000000000019884624838656");
    cr_expect_str_eq(echo("[-0, -0.0, 1e-5, 1E4, 0.1, 1e16, 123456789012345680.0, 5e-324, 1.7976931348623157e308]"),
                     "[0, -0.0, 1e-05, 10000.0, 0.1, 1e+16, 1.2345678901234568e+17, 5e-324, 1.7976931348623157e+308]");
    mg_json *v;
    mg_error err;
    cr_assert_eq(parse(&v, "[18446744073709551615, -1, 2.0, 2.5, 1e30, \"7\", 18446744073709551616]", &err), MG_OK);
    const mg_json *c = mg_json_first(v);
    uint64_t u;
    int64_t i;
    double d;
    cr_expect(mg_json_u64(c, &u) && u == UINT64_MAX && !mg_json_i64(c, &i));
    c = mg_json_next(c);
    cr_expect(!mg_json_u64(c, &u) && mg_json_i64(c, &i) && i == -1);
    c = mg_json_next(c);
    cr_expect(mg_json_u64(c, &u) && u == 2 && mg_json_type(c) == MG_JSON_REAL);
    c = mg_json_next(c);
    cr_expect(!mg_json_u64(c, &u) && mg_json_f64(c, &d) && d == 2.5);
    c = mg_json_next(c);
    cr_expect(!mg_json_u64(c, &u) && !mg_json_i64(c, &i));
    c = mg_json_next(c);
    cr_expect(!mg_json_u64(c, &u) && !mg_json_f64(c, &d) && strcmp(mg_json_str(c), "7") == 0);
    c = mg_json_next(c);
    cr_expect(!mg_json_u64(c, &u) && mg_json_f64(c, &d) && d == 18446744073709551616.0);
    mg_json_free(v);
}

Test(json, shortest_is_pythons_repr) {
    /* 2^-44 and 2^87 are powers of two whose shortest text is not their nearest 16-digit text. */
    static const struct {
        double v;
        const char *text;
    } row[] = {{0x1p-44, "5.684341886080802e-14"},
               {0x1p87, "1.5474250491067253e+26"},
               {0.0001, "0.0001"},
               {0.00001, "1e-05"},
               {9999999999999998.0, "9999999999999998.0"},
               {1e22, "1e+22"},
               {100.0, "100.0"},
               {123.456, "123.456"},
               {0.1 + 0.2, "0.30000000000000004"},
               {1.0 / 3, "0.3333333333333333"}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        char buf[MG_NUMBER_MAX];
        double back;
        mg_number_print(row[i].v, buf);
        cr_expect_str_eq(buf, row[i].text);
        cr_expect(mg_number_parse(buf, strlen(buf), &back) && back == row[i].v);
    }
    double v;
    static const char *const bad[] = {"", "-", "0x10", "inf", "nan", "1e", "1 ", " 1", ".", "1e999", "1,5"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        cr_expect(!mg_number_parse(bad[i], strlen(bad[i]), &v), "%s", bad[i]);
}

Test(json, strings) {
    cr_expect_str_eq(echo("\"\\ud83d\\ude00 \xE2\x96\x81 \\/ \\b\\f\\n\\r\\t\\\\ \\u001f\""),
                     "\"\\ud83d\\ude00 \\u2581 / \\b\\f\\n\\r\\t\\\\ \\u001f\"");
    mg_json *o = mg_json_new_object();
    mg_json_set_str(o, "s", "a\xFFz");
    cr_expect_str_eq(mg_json_str(mg_json_get(o, "s")), "a\xEF\xBF\xBDz");
    mg_json_free(o);
}

Test(json, builds_and_prints_like_python) {
    mg_error err = {0};
    mg_json *o = mg_json_new_object(), *a = mg_json_new_array();
    mg_json_set_u64(o, "n", UINT64_MAX);
    mg_json_set_f64(o, "eps", 1e-5);
    mg_json_set_f64(o, "nan", 0.0 / 0.0);
    mg_json_push(a, mg_json_new_i64(-1));
    mg_json_push(a, mg_json_new_bool(true));
    mg_json_set(o, "list", a);
    mg_json_set(o, "empty", mg_json_new_array());
    mg_json_set_str(o, "n", "replaced in place");
    mg_json_set_bool(o, "gone", true);
    mg_json_remove(o, "gone");
    char *text;
    cr_assert_eq(mg_json_print(&text, o, 2, &err), MG_OK);
    cr_expect_str_eq(text,
                     "{\n  \"n\": \"replaced in place\",\n  \"eps\": 1e-05,\n  \"nan\": null,\n  \"list\": [\n    -1,\n"
                     "    true\n  ],\n  \"empty\": []\n}");
    free(text);
    mg_json *copy;
    cr_assert_eq(mg_json_dup(&copy, o, &err), MG_OK);
    mg_json_push(copy, mg_json_new_null()); /* not an array */
    cr_expect(mg_json_is_broken(copy) && !mg_json_is_broken(o));
    cr_expect_eq(mg_json_print(&text, copy, 0, &err), MG_ERR_LIMIT);
    mg_json_free(copy);
    mg_json_free(o);
}

Test(json, lookup) {
    mg_json *v;
    mg_error err;
    cr_assert_eq(parse(&v, "{\"rope\":{\"theta\":1e4,\"Theta\":2},\"l\":[1,2,3]}", &err), MG_OK);
    double d;
    cr_expect(mg_json_f64(mg_json_path(v, "rope.theta"), &d) && d == 10000);
    cr_expect(mg_json_f64(mg_json_path(v, "rope.Theta"), &d) && d == 2);
    cr_expect_null(mg_json_path(v, "rope.thet"));
    cr_expect_null(mg_json_path(v, "rope.theta.x"));
    cr_expect_null(mg_json_get(NULL, "x"));
    cr_expect_eq(mg_json_len(mg_json_get(v, "l")), 3);
    cr_expect_eq(mg_json_type(NULL), MG_JSON_NULL);
    mg_json_free(v);
}

Test(jsonlex, pulls_and_skips) {
    static const char text[] = "{\"a\": [1, {\"b\": [2]}], \"\\u0062\": \"x\\ty\", \"c\": 18446744073709551616}";
    mg_jsonlex lx;
    mg_jtok t;
    mg_error err = {0};
    char buf[8];
    size_t n;
    uint64_t u;
    mg_jsonlex_init(&lx, (mg_span){(const uint8_t *)text, sizeof text - 1}, 0);
    cr_assert(!mg_jsonlex_next(&lx, &t, &err) && t == MG_JTOK_OBJ_BEGIN);
    cr_assert(!mg_jsonlex_next(&lx, &t, &err) && t == MG_JTOK_KEY);
    cr_assert(!mg_jsonlex_next(&lx, &t, &err) && t == MG_JTOK_ARR_BEGIN);
    cr_assert(!mg_jsonlex_skip(&lx, t, &err));
    cr_assert(!mg_jsonlex_next(&lx, &t, &err) && t == MG_JTOK_KEY && lx.has_escapes);
    cr_expect(!mg_jsonlex_string(&lx, buf, sizeof buf, &n, &err) && n == 1 && strcmp(buf, "b") == 0);
    cr_assert(!mg_jsonlex_next(&lx, &t, &err) && t == MG_JTOK_STRING);
    cr_expect(!mg_jsonlex_string(&lx, buf, 4, &n, &err) && n == 3 && strcmp(buf, "x\ty") == 0);
    cr_expect_eq(mg_jsonlex_string(&lx, buf, 3, &n, &err), MG_ERR_LIMIT);
    err = (mg_error){0};
    cr_assert(!mg_jsonlex_next(&lx, &t, &err) && t == MG_JTOK_KEY);
    cr_assert(!mg_jsonlex_next(&lx, &t, &err) && t == MG_JTOK_NUMBER);
    cr_expect_eq(mg_jsonlex_u64(&lx, &u, &err), MG_ERR_FORMAT);
    err = (mg_error){0};
    cr_assert(!mg_jsonlex_next(&lx, &t, &err) && t == MG_JTOK_OBJ_END);
    cr_assert(!mg_jsonlex_next(&lx, &t, &err) && t == MG_JTOK_END);
}

Test(utf8, all_code_points) {
    for (uint32_t cp = 0; cp <= 0x10FFFF; cp++) {
        char buf[4];
        uint32_t back = 1;
        size_t n = mg_utf8_encode(cp, buf);
        bool surrogate = cp >= 0xD800 && cp <= 0xDFFF;
        cr_assert(mg_utf8_decode((uint8_t *)buf, n, &back) == n && back == (surrogate ? 0xFFFD : cp));
        if (n > 1) cr_assert_eq(mg_utf8_decode((uint8_t *)buf, n - 1, NULL), 0);
    }
}
