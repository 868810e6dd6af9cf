/* Tests of the option tables: every kind of value, every refusal, help and man page from the same rows; and progress.
 */
#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "formats/base/options.h"

static const mg_tool_info tool = {"demo", "shows options", "IN [OUT]\n--list", "  moegraft-demo a b\n",
                                  "moegraft-check a"};

typedef struct values {
    bool flag;
    const char *str;
    mg_opt_list list;
    uint64_t u, size;
    double f;
    mg_opt_list pos;
    mg_common c;
} values;

/* argv as one string split at '|'. */
static mg_status parse(values *v, const char *words, mg_error *err) {
    static char copy[512];
    static char *argv[32];
    int argc = 0;
    snprintf(copy, sizeof copy, "demo|%s", words);
    for (char *s = strtok(copy, "|"); s; s = strtok(NULL, "|")) argv[argc++] = s;
    memset(v, 0, sizeof *v);
    memset(err, 0, sizeof *err);
    mg_common_init(&v->c);
    const mg_opt opts[] = {
        {"--flag", MG_OPT_FLAG, &v->flag, NULL, "a flag"},
        {"--string,-s", MG_OPT_STR, &v->str, "S", "a string"},
        {"--list,-l", MG_OPT_LIST, &v->list, "S", "many strings"},
        {"--number,-n", MG_OPT_U64, &v->u, "N", "a number"},
        {"--real", MG_OPT_F64, &v->f, "X", "a real"},
        {"--size", MG_OPT_SIZE, &v->size, "SIZE", "a size"},
        {"--layer,-L", MG_OPT_UNBUILT, NULL, "N", "one layer"},
        MG_COMMON_EXEC_OPTS(v->c),
        MG_COMMON_WRITE_OPTS(v->c),
        MG_COMMON_TEXT_OPTS(v->c),
        MG_COMMON_MODEL_OPTS(v->c),
        MG_COMMON_JSON_OPT(v->c),
        MG_COMMON_VERIFY_OPT(v->c),
        MG_MERGEKIT_NOOP_OPTS,
        {0},
    };
    bool done;
    mg_status s = mg_options_parse(&tool, opts, argc, argv, &v->pos, &done, err);
    return s ? s : mg_common_finish(&v->c, err);
}

static void drop(values *v) {
    mg_opt_list_release(&v->list);
    mg_opt_list_release(&v->pos);
    mg_common_release(&v->c);
}

Test(options, every_kind) {
    values v;
    mg_error err;
    cr_assert_eq(parse(&v, "a|--flag|-s|x y|--list=1|-l2|-l|3|-n7|--real|-2.5|--size|1.5KiB|b|-5|--|--flag|-", &err),
                 MG_OK, "%s", err.message);
    cr_expect(v.flag && strcmp(v.str, "x y") == 0 && v.u == 7 && v.f == -2.5 && v.size == 1536);
    cr_assert_eq(v.list.n, 3);
    cr_expect(!strcmp(v.list.items[0], "1") && !strcmp(v.list.items[1], "2") && !strcmp(v.list.items[2], "3"));
    cr_assert_eq(v.pos.n, 5);
    cr_expect_str_eq(v.pos.items[2], "-5");
    cr_expect_str_eq(v.pos.items[3], "--flag");
    cr_expect_str_eq(v.pos.items[4], "-");
    drop(&v);
}

Test(options, shared_groups) {
    values v;
    mg_error err;
    cr_assert_eq(
        parse(&v, "-t3|--memory|64MiB|-c|128|-f|a|--text|b|--json|--dry-run|--experts-per-token|all|--progress|json",
              &err),
        MG_OK, "%s", err.message);
    cr_expect(v.c.n_threads == 3 && v.c.memory == 64 << 20 && v.c.ctx == 128 && v.c.text.n == 2 && v.c.json &&
              v.c.dry_run);
    cr_expect(v.c.experts_per_token == MG_EXPERTS_ALL && v.c.progress == MG_PROGRESS_JSON);
    drop(&v);
    cr_assert_eq(parse(&v, "-q", &err), MG_OK);
    cr_expect(v.c.progress == MG_PROGRESS_NONE && v.c.n_threads >= 1 && v.c.ctx == 512 && v.c.experts_per_token == 0);
    drop(&v);
}

Test(options, refuses) {
    static const struct {
        const char *words, *says;
        mg_status code;
    } bad[] = {
        {"--thread|3", "--threads", MG_ERR_USAGE},
        {"--exprets-per-token|3", "--experts-per-token", MG_ERR_USAGE},
        {"--verson", "--version", MG_ERR_USAGE},
        {"--qqqqqqqqqq", "unknown option '--qqqqqqqqqq'", MG_ERR_USAGE},
        {"-n", "needs a value", MG_ERR_USAGE},
        {"-s|--flag", "needs a value", MG_ERR_USAGE},
        {"--flag=1", "takes no value", MG_ERR_USAGE},
        {"-n|-3", "not a whole number", MG_ERR_USAGE},
        {"-n|18446744073709551616", "not a whole number", MG_ERR_USAGE},
        {"--real|x", "not a number", MG_ERR_USAGE},
        {"--size|5Q", "not a size", MG_ERR_USAGE},
        {"--progress|bar", "progress mode", MG_ERR_USAGE},
        {"--experts-per-token|0", "at least 1", MG_ERR_USAGE},
        {"--layer|3", "not built yet", MG_ERR_UNSUPPORTED},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        values v;
        mg_error err;
        cr_expect_eq(parse(&v, bad[i].words, &err), bad[i].code, "%s", bad[i].words);
        cr_expect(strstr(err.message, bad[i].says) != NULL, "%s: %s", bad[i].words, err.message);
        drop(&v);
    }
}

Test(options, twice_in_a_table_is_our_bug) {
    bool a, done;
    mg_opt_list pos = {0};
    mg_error err = {0};
    char name[] = "demo", *argv[] = {name};
    const mg_opt opts[] = {{"--a,-x", MG_OPT_FLAG, &a, NULL, "a"}, {"--b,-x", MG_OPT_FLAG, &a, NULL, "b"}, {0}};
    cr_expect_eq(mg_options_parse(&tool, opts, 1, argv, &pos, &done, &err), MG_ERR_INTERNAL);
}

Test(options, noop_says_so, .init = cr_redirect_stderr) {
    values v;
    mg_error err;
    cr_assert_eq(parse(&v, "--cuda", &err), MG_OK);
    fflush(stderr);
    cr_assert_stderr_eq_str("moegraft-demo: note: '--cuda' is not needed: everything runs on the CPU\n");
    drop(&v);
}

Test(options, failure_names_the_next_command, .init = cr_redirect_stderr) {
    mg_error err = {0};
    (void)mg_fail(&err, MG_ERR_FORMAT, "broken");
    cr_expect_eq(mg_tool_fail(&tool, &err), 3);
    err = (mg_error){0};
    (void)mg_fail(&err, MG_ERR_USAGE, "what?");
    cr_expect_eq(mg_tool_fail(&tool, &err), 2);
    fflush(stderr);
    cr_assert_stderr_eq_str("moegraft-demo: error: broken\nnext: moegraft-check a\nmoegraft-demo: error: what?\n"
                            "next: moegraft-demo --help\n");
}

Test(options, help_and_man_hold_every_row) {
    bool a;
    uint64_t n;
    const mg_opt opts[] = {
        {"--alpha,-a", MG_OPT_FLAG, &a, NULL, "first"},
        {NULL, MG_OPT_GROUP, NULL, NULL, "Second group"},
        {"--beta", MG_OPT_U64, &n, "N",
         "a sentence that is long enough to be wrapped at the right margin of the help text of a tool"},
        {"--gamma", MG_OPT_UNBUILT, NULL, NULL, "third"},
        {0}};
    char *text = NULL;
    size_t size;
    FILE *m = open_memstream(&text, &size);
    mg_options_help(&tool, opts, m);
    fclose(m);
    static const char *const has[] = {"moegraft-demo: shows options",
                                      "Usage: moegraft-demo IN [OUT]\n       moegraft-demo --list",
                                      "--alpha, -a ",
                                      "\nSecond group:\n",
                                      "--beta N",
                                      "(not built yet)",
                                      "--version",
                                      "Examples:\n  moegraft-demo a b\n",
                                      "Exit status: 0 done"};
    for (size_t i = 0; i < sizeof has / sizeof *has; i++) cr_expect(strstr(text, has[i]), "%s in\n%s", has[i], text);
    for (const char *s = text; *s; s += strcspn(s, "\n") + 1) cr_expect_leq(strcspn(s, "\n"), 100);
    free(text);
    m = open_memstream(&text, &size);
    mg_options_man(&tool, opts, m);
    fclose(m);
    static const char *const man[] = {".TH MOEGRAFT\\-DEMO 1", "moegraft\\-demo IN [OUT]\n", ".B \\-\\-alpha, \\-a",
                                      ".SS Second group", "\\-\\-gamma"};
    for (size_t i = 0; i < sizeof man / sizeof *man; i++) cr_expect(strstr(text, man[i]), "%s in\n%s", man[i], text);
    free(text);
}

Test(options, sizes) {
    static const struct {
        const char *text;
        uint64_t bytes;
    } row[] = {{"0", 0},
               {"17", 17},
               {"5B", 5000000000},
               {"5b", 5000000000},
               {"200M", 200000000},
               {"3K", 3000},
               {"1G", 1000000000},
               {"2KiB", 2048},
               {"1.5GiB", 1610612736},
               {"0.5K", 500},
               {"18446744073709551615", UINT64_MAX},
               {"1T", 1000000000000}};
    uint64_t v;
    mg_error err = {0};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        cr_expect(mg_parse_size(row[i].text, &v, &err) == MG_OK && v == row[i].bytes, "%s", row[i].text);
    static const char *const bad[] = {
        "", "K", "-1", "1 K", "1KX", "1.2.3", "18446744073709551616", "99999999999G", "1e99999G"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        err = (mg_error){0};
        cr_expect_eq(mg_parse_size(bad[i], &v, &err), MG_ERR_USAGE, "%s", bad[i]);
    }
}

Test(options, nearest) {
    static const char *const tools[] = {"merge", "convert", "quantize", "verify", NULL};
    cr_expect_str_eq(mg_nearest("mrege", tools), "merge");
    cr_expect_str_eq(mg_nearest("quant", tools), "quantize");
    cr_expect_str_eq(mg_nearest("verfiy", tools), "verify");
    cr_expect_null(mg_nearest("tokenize", tools));
    cr_expect_eq(mg_edit_distance("abcd", 4, "acbd", 4), 1);
    cr_expect_eq(mg_edit_distance("", 0, "abc", 3), 3);
}

static void *add_many(void *p) {
    for (int i = 0; i < 1000; i++) mg_progress_add(p, 1000, "model.layers.0\x1b[31m");
    return NULL;
}

Test(progress, json_lines_from_threads) {
    char *text = NULL;
    size_t size;
    FILE *m = tmpfile();
    mg_progress *p;
    mg_error err = {0};
    cr_assert_eq(mg_progress_new_on(&p, MG_PROGRESS_JSON, "merge", 4000000, m, &err), MG_OK);
    pthread_t t[4];
    for (int i = 0; i < 4; i++) pthread_create(&t[i], NULL, add_many, p);
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
    mg_progress_free(p);
    mg_progress_cost(m, MG_PROGRESS_JSON, &(mg_job_cost){"merge", 1, 2, "abc"});
    rewind(m);
    cr_assert_gt(getline(&text, &size, m), 0);
    cr_expect(strstr(text, "\"done\": 4000000") && strstr(text, "model.layers.0?[31m"), "%s", text);
    cr_assert_gt(getline(&text, &size, m), 0);
    cr_expect(strstr(text, "\"sha256\": \"abc\"") && strstr(text, "\"peak_memory_bytes\": "), "%s", text);
    free(text);
    fclose(m);
}

/* What an earlier run did is done, and no part of the rate: 25 took the time so far, so the 50 left take twice that. */
Test(progress, skipped_work_is_no_rate) {
    char *text = NULL;
    size_t size;
    FILE *m = tmpfile();
    mg_progress *p;
    mg_error err = {0};
    cr_assert_eq(mg_progress_new_on(&p, MG_PROGRESS_JSON, "calibrate", 1000, m, &err), MG_OK);
    mg_progress_skip(p, 925);
    usleep(20000);
    mg_progress_add(p, 25, "layer 3");
    mg_progress_free(p);
    rewind(m);
    cr_assert_gt(getline(&text, &size, m), 0);
    const char *seconds = strstr(text, "\"seconds\": "), *left = strstr(text, "\"seconds_left\": ");
    cr_assert(strstr(text, "\"done\": 950") && seconds && left, "%s", text);
    const double ratio = strtod(left + 16, NULL) / strtod(seconds + 11, NULL);
    cr_expect(ratio > 1.999 && ratio < 2.001, "%s", text);
    free(text);
    fclose(m);
}

Test(progress, counts_tokens) {
    char *text = NULL;
    size_t size;
    FILE *m = tmpfile();
    mg_progress *p;
    mg_error err = {0};
    cr_assert_eq(mg_progress_new_on(&p, MG_PROGRESS_JSON, "verify", 510, m, &err), MG_OK);
    mg_progress_unit(p, "tokens");
    mg_progress_unit(NULL, "tokens");
    mg_progress_add(p, 510, NULL);
    mg_progress_free(p);
    rewind(m);
    cr_assert_gt(getline(&text, &size, m), 0);
    cr_expect(strstr(text, "\"done\": 510") && strstr(text, "\"unit\": \"tokens\""), "%s", text);
    free(text);
    fclose(m);
}

Test(progress, figures) {
    char b[MG_HUMAN_MAX];
    cr_expect_str_eq(mg_human_bytes(512, b), "512 B");
    cr_expect_str_eq(mg_human_bytes(1500, b), "1.50 KB");
    cr_expect_str_eq(mg_human_bytes(29400000, b), "29.4 MB");
    cr_expect_str_eq(mg_human_bytes(999999999, b), "1.00 GB");
    cr_expect_str_eq(mg_human_bytes(UINT64_MAX, b), "18.4 EB");
    cr_expect_gt(mg_peak_memory(), 100000);
    cr_expect_geq(mg_elapsed_seconds(), 0);
    mg_progress_add(NULL, 1, "x");
    mg_progress_free(NULL);
}
