/* regex.c - see regex.h. The only includer of PCRE2.
 *
 * A text is checked for UTF-8 once per text, not once per search as PCRE2 would do by itself (the square of the length
 * for a text of many matches). Compiled to machine code where the system allows; where that code runs out of stack, the
 * interpreter, whose memory is on the heap and limited, has the last word. */
#include "formats/base/regex.h"

#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "formats/base/utf8.h"

enum {
    MATCH_LIMIT = 20000000, /* steps of one search; the patterns in use need a few per character of a word */
    HEAP_LIMIT_KIB = 64 << 10,
    PARENS_LIMIT = 100,
    JIT_STACK_MIN = 32 << 10,
    JIT_STACK_MAX = 4 << 20,
};

struct mg_regex {
    pcre2_code *code;
};

struct mg_regex_run {
    pcre2_match_context *context;
    pcre2_match_data *data;
    pcre2_jit_stack *stack; /* NULL without JIT */
    const char *text;
    size_t n;
};

static mg_status fail_pcre(int code, const char *what, mg_status status, mg_error *err) {
    PCRE2_UCHAR text[256];
    pcre2_get_error_message(code, text, sizeof text);
    return mg_fail(err, status, "regular expression: %s: %s", what, (const char *)text);
}

mg_status mg_regex_new(mg_regex **out, const char *pattern, mg_error *err) {
    char *translated;
    *out = NULL;
    mg_status s = mg_regex_translate(&translated, pattern, err);
    if (s) return s;
    mg_regex *r = calloc(1, sizeof *r);
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!r || !context) {
        s = mg_fail_nomem(err, sizeof *r);
    } else {
        int code;
        PCRE2_SIZE at;
        pcre2_set_newline(context, PCRE2_NEWLINE_LF);
        pcre2_set_parens_nest_limit(context, PARENS_LIMIT);
        r->code = pcre2_compile((PCRE2_SPTR)translated, PCRE2_ZERO_TERMINATED,
                                PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &code, &at, context);
        if (!r->code) s = fail_pcre(code, pattern, MG_ERR_UNSUPPORTED, err);
    }
    if (!s) (void)pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE); /* without it the interpreter does the same */
    pcre2_compile_context_free(context);
    free(translated);
    if (s) {
        mg_regex_free(r);
        return s;
    }
    *out = r;
    return MG_OK;
}

void mg_regex_free(mg_regex *r) {
    if (!r) return;
    pcre2_code_free(r->code);
    free(r);
}

mg_status mg_regex_run_new(mg_regex_run **out, mg_error *err) {
    mg_regex_run *run = calloc(1, sizeof *run);
    *out = run;
    if (!run) return mg_fail_nomem(err, sizeof *run);
    run->context = pcre2_match_context_create(NULL);
    run->data = pcre2_match_data_create(1, NULL);
    if (!run->context || !run->data) {
        mg_regex_run_free(run);
        *out = NULL;
        return mg_fail_nomem(err, sizeof *run);
    }
    pcre2_set_match_limit(run->context, MATCH_LIMIT);
    pcre2_set_heap_limit(run->context, HEAP_LIMIT_KIB);
    run->stack = pcre2_jit_stack_create(JIT_STACK_MIN, JIT_STACK_MAX, NULL);
    if (run->stack) pcre2_jit_stack_assign(run->context, NULL, run->stack);
    run->text = "";
    return MG_OK;
}

void mg_regex_run_free(mg_regex_run *run) {
    if (!run) return;
    pcre2_jit_stack_free(run->stack);
    pcre2_match_data_free(run->data);
    pcre2_match_context_free(run->context);
    free(run);
}

mg_status mg_regex_run_text(mg_regex_run *run, const char *text, size_t n, mg_error *err) {
    size_t valid = mg_utf8_valid_prefix((const uint8_t *)text, n);
    if (valid != n) return mg_fail(err, MG_ERR_FORMAT, "regular expression: text is not UTF-8 at byte %zu", valid);
    run->text = n ? text : "";
    run->n = n;
    return MG_OK;
}

mg_status mg_regex_search(const mg_regex *r, mg_regex_run *run, size_t from, bool *found, size_t *begin, size_t *end,
                          mg_error *err) {
    *found = false;
    if (from > run->n) return mg_fail(err, MG_ERR_INTERNAL, "regular expression: search beyond the text");
    uint32_t options = PCRE2_NO_UTF_CHECK;
    PCRE2_SPTR text = (PCRE2_SPTR)run->text;
    int rc = pcre2_match(r->code, text, run->n, from, options, run->data, run->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(r->code, text, run->n, from, options | PCRE2_NO_JIT, run->data, run->context);
    if (rc == PCRE2_ERROR_NOMATCH) return MG_OK;
    if (rc == PCRE2_ERROR_MATCHLIMIT || rc == PCRE2_ERROR_HEAPLIMIT || rc == PCRE2_ERROR_DEPTHLIMIT)
        return fail_pcre(rc, "a pattern that backtracks too much on this text", MG_ERR_LIMIT, err);
    if (rc == PCRE2_ERROR_NOMEMORY) return mg_fail_nomem(err, 0);
    if (rc < 0) return fail_pcre(rc, "search", MG_ERR_INTERNAL, err);
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(run->data);
    *found = true;
    *begin = at[0];
    *end = at[1];
    return MG_OK;
}
