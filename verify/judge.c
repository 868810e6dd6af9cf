/* judge.c - see judge.h. */
#include "verify/judge.h"

#include "formats/base/options.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

mg_status mg_threshold_parse(mg_threshold *t, const char *text, mg_error *err) {
    size_t n = strcspn(text, "<>=!");
    const char *op = text + n;
    size_t k = op[0] && op[1] == '=' ? 2 : 1;
    while (n && isspace((unsigned char)text[n - 1])) n--;
    bool single = op[0] == '<' || op[0] == '>';
    const char *number = op[0] ? op + k : op;
    while (isspace((unsigned char)*number)) number++;
    if (n == 0 || n >= sizeof t->path || (k == 1 && !single) || mg_parse_f64(number, &t->value, NULL) != MG_OK)
        return mg_fail(err, MG_ERR_USAGE, "--fail-on '%s': expected PATH, one of > >= < <= == != and a number", text);
    t->text = text;
    snprintf(t->path, sizeof t->path, "%.*s", (int)n, text);
    snprintf(t->op, sizeof t->op, "%.*s", (int)k, op);
    return MG_OK;
}

/* One element of an array: the i-th child, or with any the first. */
static const mg_json *element(const mg_json *v, unsigned long i, bool any) {
    const mg_json *c = v && mg_json_type(v) == MG_JSON_ARRAY ? mg_json_first(v) : NULL;
    while (c && !any && i--) c = mg_json_next(c);
    return c;
}

/* Follow "a.b[2].c". */
static const mg_json *follow(const mg_json *v, const char *path, bool any) {
    while (v && *path) {
        if (*path == '[') {
            char *end;
            if (!isdigit((unsigned char)path[1])) return NULL;
            v = element(v, strtoul(path + 1, &end, 10), any);
            if (*end != ']') return NULL;
            path = end + 1;
        } else {
            char key[sizeof((mg_threshold *)0)->path];
            size_t n = strcspn(path, ".[");
            snprintf(key, sizeof key, "%.*s", (int)n, path);
            v = mg_json_get(v, key);
            path += n;
        }
        if (*path == '.' && path[1] != 0 && path[1] != '[')
            path++;
        else if (*path != 0 && *path != '[')
            return NULL;
    }
    return v;
}

static mg_status no_number(const mg_threshold *t, mg_error *err) {
    return mg_fail(err, MG_ERR_USAGE, "--fail-on '%s': '%s' is no number of the result (--json shows the paths)",
                   t->text, t->path);
}

mg_status mg_threshold_known(const mg_threshold *t, const mg_json *example, mg_error *err) {
    const mg_json *v = follow(example, t->path, true);
    bool number =
        v && (mg_json_type(v) == MG_JSON_INT || mg_json_type(v) == MG_JSON_REAL || mg_json_type(v) == MG_JSON_NULL);
    return number ? MG_OK : no_number(t, err);
}

static bool holds(double x, const char *op, double value) {
    bool equal = op[1] == '=';
    switch (op[0]) {
    case '>':
        return equal ? x >= value : x > value;
    case '<':
        return equal ? x <= value : x < value;
    case '=':
        return x == value;
    default:
        return x != value;
    }
}

mg_status mg_threshold_check(const mg_threshold *t, const mg_json *candidate, bool *fails, mg_error *err) {
    double x;
    const mg_json *v = follow(candidate, t->path, false);
    *fails = false;
    if (v && mg_json_type(v) == MG_JSON_NULL) return MG_OK;
    if (!mg_json_f64(v, &x)) return no_number(t, err);
    *fails = holds(x, t->op, t->value);
    return MG_OK;
}
