/* options.c - parsing of argv by an option table (options.h). Help and man page: options_text.c; values:
 * options_value.c. */
#include "formats/base/options.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/cpu.h"
#include "mg_version.h"

static bool row_ends(const mg_opt *o) {
    return !o->names && !o->help; /* a group has no names either */
}

/* The next name of a comma-separated list: its length, and *at moved behind it; 0 at the end. */
static size_t next_name(const char **at, const char **name) {
    if (**at == ',') ++*at;
    *name = *at;
    size_t n = strcspn(*at, ",");
    *at += n;
    return n;
}

/* The row that has exactly this name, or NULL. */
static const mg_opt *find(const mg_opt *opts, const char *word, size_t n) {
    for (const mg_opt *o = opts; !row_ends(o); o++) {
        if (o->kind == MG_OPT_GROUP) continue;
        const char *at = o->names, *name;
        for (size_t k; (k = next_name(&at, &name)) > 0;)
            if (k == n && memcmp(name, word, n) == 0) return o;
    }
    return NULL;
}

/* A table composed of groups may name something twice: found at the first run of the tool, not by a user. */
static mg_status check_table(const mg_opt *opts, mg_error *err) {
    for (const mg_opt *o = opts; !row_ends(o); o++) {
        if (o->kind == MG_OPT_GROUP) continue;
        const char *at = o->names, *name;
        for (size_t k; (k = next_name(&at, &name)) > 0;)
            if (find(opts, name, k) != o)
                return mg_fail(err, MG_ERR_INTERNAL, "option '%.*s' is listed twice", (int)k, name);
    }
    return MG_OK;
}

static mg_status list_add(mg_opt_list *l, const char *item, mg_error *err) {
    if ((l->n & (l->n - 1)) == 0) { /* full at every power of two */
        const char **items = realloc(l->items, (l->n ? 2 * l->n : 1) * sizeof *items);
        if (!items) return mg_fail_nomem(err, 2 * l->n * sizeof *items);
        l->items = items;
    }
    l->items[l->n++] = item;
    return MG_OK;
}

static bool is_number(const char *s) {
    if (*s == '-') s++;
    return isdigit((unsigned char)s[0]) || (s[0] == '.' && isdigit((unsigned char)s[1]));
}

static mg_status unknown(const mg_opt *opts, const char *word, mg_error *err) {
    size_t n = strcspn(word, "=");
    const char *best = NULL, *built_in[] = {"--help", "--version", "--man"};
    size_t best_n = 0;
    unsigned best_d = (unsigned)(n / 3) + 1;
    for (size_t i = 0; i < 3; i++) {
        unsigned d = mg_edit_distance(word, n, built_in[i], strlen(built_in[i]));
        if (d < best_d) best = built_in[i], best_n = strlen(best), best_d = d;
    }
    for (const mg_opt *o = opts; !row_ends(o); o++) {
        const char *at = o->kind == MG_OPT_GROUP ? "" : o->names, *name;
        for (size_t k; (k = next_name(&at, &name)) > 0;) {
            unsigned d = mg_edit_distance(word, n, name, k);
            if (n >= 4 && k > n && memcmp(name, word, n) == 0) d = 1;
            if (d < best_d) best = name, best_n = k, best_d = d;
        }
    }
    if (!best) return mg_fail(err, MG_ERR_USAGE, "unknown option '%.*s'", (int)n, word);
    return mg_fail(err, MG_ERR_USAGE, "unknown option '%.*s'; nearest: '%.*s'", (int)n, word, (int)best_n, best);
}

static mg_status store(const mg_opt *o, const char *value, mg_error *err) {
    switch (o->kind) {
    case MG_OPT_FLAG:
        *(bool *)o->out = true;
        return MG_OK;
    case MG_OPT_STR:
        *(const char **)o->out = value;
        return MG_OK;
    case MG_OPT_LIST:
        return list_add(o->out, value, err);
    case MG_OPT_U64:
        return mg_parse_u64(value, o->out, err);
    case MG_OPT_F64:
        return mg_parse_f64(value, o->out, err);
    case MG_OPT_SIZE:
        return mg_parse_size(value, o->out, err);
    case MG_OPT_GROUP:
    case MG_OPT_CALL:
    case MG_OPT_NOOP:
    case MG_OPT_UNBUILT:
        break;
    }
    return mg_fail(err, MG_ERR_INTERNAL, "option row of kind %d", (int)o->kind);
}

/* One word of argv split into its option and the value attached to it (NULL: none). */
static const mg_opt *match(const mg_opt *opts, const char *word, const char **attached) {
    *attached = NULL;
    const mg_opt *o = find(opts, word, strlen(word));
    if (o) return o;
    size_t n = strcspn(word, "=");
    if (word[n] && (o = find(opts, word, n))) {
        *attached = word + n + 1;
        return o;
    }
    if (word[1] != '-' && word[2] && (o = find(opts, word, 2)) && o->arg) *attached = word + 2; /* -t8 */
    return *attached ? o : NULL;
}

/* The option at argv[*i]; *i is moved onto the last word it used. */
static mg_status parse_one(const mg_tool_info *tool, const mg_opt *opts, int argc, char **argv, int *i, mg_error *err) {
    const char *word = argv[*i], *value;
    const mg_opt *o = match(opts, word, &value);
    if (!o) return unknown(opts, word, err);
    if (o->kind == MG_OPT_UNBUILT)
        return mg_fail(err, MG_ERR_UNSUPPORTED, "option '%.*s' is not built yet", (int)strcspn(word, "="), word);
    if (!o->arg && value) return mg_fail(err, MG_ERR_USAGE, "option '%s' takes no value", word);
    if (o->arg && !value) {
        const char *next = *i + 1 < argc ? argv[*i + 1] : NULL, *ignored;
        if (!next || (next[0] == '-' && next[1] && !is_number(next) && match(opts, next, &ignored)))
            return mg_fail(err, MG_ERR_USAGE, "option '%s' needs a value %s", word, o->arg);
        value = next;
        ++*i;
    }
    if (o->kind == MG_OPT_NOOP) {
        fprintf(stderr, "moegraft-%s: note: '%s' is not needed: %s\n", tool->name, word, o->help);
        return MG_OK;
    }
    if (o->kind == MG_OPT_CALL) return ((const mg_opt_call *)o->out)->run(value, err);
    mg_error cause = {0};
    mg_status s = store(o, value, &cause);
    return s ? mg_fail(err, s, "option '%.*s': %s", (int)strcspn(word, "="), word, cause.message) : MG_OK;
}

static bool built_in(const mg_tool_info *tool, const mg_opt *opts, const char *word) {
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)
        mg_options_help(tool, opts, stdout);
    else if (strcmp(word, "--man") == 0)
        mg_options_man(tool, opts, stdout);
    else if (strcmp(word, "--version") == 0)
        printf("moegraft-%s %s (commit %s, %s)\n", tool->name, MG_VERSION, MG_COMMIT, mg_isa_name(mg_cpu_isa()));
    else
        return false;
    return true;
}

mg_status mg_options_parse(const mg_tool_info *tool, const mg_opt *opts, int argc, char **argv, mg_opt_list *pos,
                           bool *done, mg_error *err) {
    *done = false;
    mg_status s = check_table(opts, err);
    if (!s) s = mg_cpu_check(err);
    bool options_end = false;
    for (int i = 1; i < argc && !s; i++) {
        const char *word = argv[i];
        if (options_end || word[0] != '-' || !word[1] || is_number(word))
            s = list_add(pos, word, err);
        else if (strcmp(word, "--") == 0)
            options_end = true;
        else if (built_in(tool, opts, word)) {
            *done = true;
            return MG_OK;
        } else
            s = parse_one(tool, opts, argc, argv, &i, err);
    }
    return s;
}

int mg_tool_fail(const mg_tool_info *tool, const mg_error *err) {
    char text[2048];
    fflush(stdout);
    fprintf(stderr, "moegraft-%s: error: %s\n", tool->name, mg_error_text(err, text, sizeof text));
    if (err->code == MG_ERR_USAGE)
        fprintf(stderr, "next: moegraft-%s --help\n", tool->name);
    else if (tool->next)
        fprintf(stderr, "next: %s\n", tool->next);
    return err->code == MG_OK ? MG_ERR_INTERNAL : (int)err->code;
}
