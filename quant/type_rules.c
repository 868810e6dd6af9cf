/* type_rules.c - patterns of --tensor-type translated to POSIX and matched in order. */
#include "quant/type_rules.h"

#include "formats/base/file.h"

#include <ctype.h>
#include <regex.h>
#include <stdlib.h>
#include <string.h>

typedef struct mg_type_rule {
    regex_t re;
    mg_dtype dtype;
} mg_type_rule;

void mg_type_rules_init(mg_type_rules *r) {
    *r = (mg_type_rules){0};
}

void mg_type_rules_release(mg_type_rules *r) {
    for (uint32_t i = 0; i < r->n; i++) regfree(&r->items[i].re);
    free(r->items);
    *r = (mg_type_rules){0};
}

typedef struct translation {
    const char *in;
    char *out;
    size_t at;
} translation;

static void put(translation *t, const char *s) {
    size_t n = strlen(s);
    memcpy(t->out + t->at, s, n);
    t->at += n;
}

/* The character after a backslash; inside says whether we are in a bracket expression, where POSIX knows no escapes. */
static mg_status put_escape(translation *t, char c, bool inside, const char *pattern, mg_error *err) {
    static const struct {
        char c;
        const char *outside, *inside;
    } classes[] = {{'d', "[0-9]", "0-9"},
                   {'w', "[[:alnum:]_]", "[:alnum:]_"},
                   {'s', "[[:space:]]", "[:space:]"},
                   {'t', "\t", "\t"},
                   {'n', "\n", "\n"},
                   {'r', "\r", "\r"},
                   {'b', "\\b", NULL}};
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
        if (classes[i].c != c) continue;
        const char *s = inside ? classes[i].inside : classes[i].outside;
        if (!s) break;
        put(t, s);
        return MG_OK;
    }
    bool ok = inside ? ispunct((unsigned char)c) && !strchr("]-^[", c) : ispunct((unsigned char)c);
    if (!ok) return mg_fail(err, MG_ERR_UNSUPPORTED, "pattern '%s': escape '\\%c' is not supported here", pattern, c);
    char s[3] = {'\\', c, '\0'};
    put(t, inside ? s + 1 : s);
    return MG_OK;
}

/* A bracket expression, t->in just behind its '['. */
static mg_status put_bracket(translation *t, const char *pattern, mg_error *err) {
    put(t, "[");
    bool first = true;
    for (; *t->in; t->in++) {
        if (*t->in == '^' && first) {
            put(t, "^");
            continue;
        }
        if (*t->in == ']') {
            /* "[]" matches nothing and "[^]" everything in ECMAScript; POSIX reads a literal ']' instead */
            if (first) return mg_fail(err, MG_ERR_UNSUPPORTED, "pattern '%s': empty brackets", pattern);
            put(t, "]");
            t->in++;
            return MG_OK;
        }
        first = false;
        if (*t->in == '\\' && t->in[1]) {
            MG_TRY(put_escape(t, *++t->in, true, pattern, err));
            continue;
        }
        char s[2] = {*t->in, '\0'};
        put(t, s);
    }
    return mg_fail(err, MG_ERR_USAGE, "pattern '%s': '[' without ']'", pattern);
}

/* ECMAScript to POSIX extended. Every input byte yields at most 13 output bytes. */
static mg_status translate(const char *pattern, char *out, mg_error *err) {
    translation t = {.in = pattern, .out = out};
    bool quantifier = false;
    while (*t.in) {
        char c = *t.in++;
        if (c == '?' && quantifier) { /* lazy: the same language */
            quantifier = false;
            continue;
        }
        quantifier = c == '*' || c == '+' || c == '?' || c == '}';
        if (c == '\\' && *t.in) {
            MG_TRY(put_escape(&t, *t.in++, false, pattern, err));
        } else if (c == '[') {
            MG_TRY(put_bracket(&t, pattern, err));
        } else if (c == '(' && *t.in == '?') {
            if (t.in[1] != ':') return mg_fail(err, MG_ERR_UNSUPPORTED, "pattern '%s': look-ahead", pattern);
            t.in += 2;
            put(&t, "(");
        } else {
            char s[2] = {c, '\0'};
            put(&t, s);
        }
    }
    out[t.at] = '\0';
    return MG_OK;
}

static mg_status compile(regex_t *re, const char *text, size_t n, mg_error *err) {
    char *low = malloc(n + 1), *posix = malloc(n * 13 + 1);
    mg_status st = low && posix ? MG_OK : mg_fail_nomem(err, n * 14);
    if (st == MG_OK) {
        for (size_t i = 0; i < n; i++) low[i] = (char)tolower((unsigned char)text[i]);
        low[n] = '\0';
        st = translate(low, posix, err);
    }
    if (st == MG_OK) {
        int rc = regcomp(re, posix, REG_EXTENDED | REG_NOSUB);
        char why[128];
        if (rc != 0) {
            regerror(rc, re, why, sizeof why);
            st = mg_fail(err, MG_ERR_USAGE, "pattern '%s': %s", low, why);
        }
    }
    free(low);
    free(posix);
    return st;
}

mg_status mg_type_rules_add(mg_type_rules *r, const char *text, mg_error *err) {
    const char *eq = strchr(text, '=');
    if (!eq || eq == text || eq[1] == '\0')
        return mg_fail(err, MG_ERR_USAGE, "tensor type rule '%s' is not of the form PATTERN=TYPE", text);
    mg_dtype dtype = mg_dtype_from_name(eq + 1);
    if (dtype == MG_DTYPE_COUNT || mg_dtype_get(dtype)->gguf_id < 0)
        return mg_fail(err, MG_ERR_USAGE, "tensor type rule '%s': unknown ggml type '%s'", text, eq + 1);
    if (eq - text > 4096) return mg_fail(err, MG_ERR_LIMIT, "tensor type rule longer than 4096 bytes");
    if (r->n == r->cap) {
        uint32_t cap = r->cap ? r->cap * 2 : 8;
        mg_type_rule *items = realloc(r->items, cap * sizeof *items);
        if (!items) return mg_fail_nomem(err, cap * sizeof *items);
        r->items = items;
        r->cap = cap;
    }
    MG_TRY(compile(&r->items[r->n].re, text, (size_t)(eq - text), err));
    r->items[r->n++].dtype = dtype;
    return MG_OK;
}

mg_status mg_type_rules_load(mg_type_rules *r, const char *path, mg_error *err) {
    char *text, *save = NULL;
    size_t n;
    MG_TRY(mg_file_slurp(path, 16u << 20, &text, &n, err));
    mg_status st = MG_OK;
    if (memchr(text, '\0', n)) st = mg_fail(err, MG_ERR_FORMAT, "a NUL byte in a text file");
    for (char *w = strtok_r(text, " \t\r\n\v\f", &save); w && st == MG_OK; w = strtok_r(NULL, " \t\r\n\v\f", &save))
        st = mg_type_rules_add(r, w, err);
    if (st != MG_OK) mg_error_at(err, path, NULL);
    free(text);
    return st;
}

mg_dtype mg_type_rules_match(const mg_type_rules *r, const char *name) {
    if (!r) return MG_DTYPE_COUNT;
    for (uint32_t i = 0; i < r->n; i++)
        if (regexec(&r->items[i].re, name, 0, NULL, 0) == 0) return r->items[i].dtype;
    return MG_DTYPE_COUNT;
}
