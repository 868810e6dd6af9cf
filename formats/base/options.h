/* options.h - option tables. One table per tool yields parsing, --help, the man page and the nearest-name suggestion for
 * an unknown option (MG_ERR_USAGE, exit 2). A table row states where the value goes, so an option cannot be parsed and
 * forgotten without its variable being visibly unused. */
#ifndef MG_BASE_OPTIONS_H
#define MG_BASE_OPTIONS_H

#include <stdio.h>

#include "formats/base/status.h"

typedef enum mg_opt_kind {
    MG_OPT_GROUP,  /* heading line in --help; only .help is used */
    MG_OPT_FLAG,   /* bool *          : set to true */
    MG_OPT_STR,    /* const char **   : last one wins */
    MG_OPT_LIST,   /* mg_opt_list *   : repeatable string */
    MG_OPT_U64,    /* uint64_t *      */
    MG_OPT_F64,    /* double *        */
    MG_OPT_SIZE,   /* uint64_t *      : K/M/G/B decimal, KiB/MiB/GiB binary, plain bytes */
    MG_OPT_NOOP,   /* accepted, with one line on stderr saying why it is not needed (mergekit's switches) */
} mg_opt_kind;

typedef struct mg_opt_list {
    const char **items;
    size_t n;
} mg_opt_list;

typedef struct mg_opt {
    const char *names;  /* "--threads,-t,-j": first long, then aliases */
    mg_opt_kind kind;
    void *out;
    const char *arg;    /* placeholder in help: "N", "FILE"; NULL for flags */
    const char *help;   /* one sentence */
} mg_opt;

typedef struct mg_tool_info {
    const char *name;      /* "quantize": the executable is moegraft-quantize */
    const char *summary;   /* one line */
    const char *synopsis;  /* "IN [OUT] TYPE [NTHREADS]" (may hold several lines) */
    const char *examples;  /* block of text, may be NULL */
    const char *next;      /* printed after a failure: the next command to type, may be NULL */
} mg_tool_info;

/* Parse argv. opts: table ended by {0}. Positional arguments are collected in order into *pos (pointing into argv).
 * Values: "--opt value", "--opt=value", "-t8", "-t 8"; "--" ends options. A negative number is a value, not an option.
 * --help, --version and --man are handled here: text to stdout, then *done = true and MG_OK. */
mg_status mg_options_parse(const mg_tool_info *tool, const mg_opt *opts, int argc, char **argv, mg_opt_list *pos, bool *done,
                           mg_error *err) MG_MUST_CHECK;
void mg_opt_list_release(mg_opt_list *l);
void mg_options_help(const mg_tool_info *tool, const mg_opt *opts, FILE *to);
void mg_options_man(const mg_tool_info *tool, const mg_opt *opts, FILE *to);

mg_status mg_parse_size(const char *text, uint64_t *out, mg_error *err) MG_MUST_CHECK;
mg_status mg_parse_u64(const char *text, uint64_t *out, mg_error *err) MG_MUST_CHECK;
mg_status mg_parse_f64(const char *text, double *out, mg_error *err) MG_MUST_CHECK;
/* The candidate closest to word by edit distance (NULL-terminated list), or NULL when none is near. */
const char *mg_nearest(const char *word, const char *const *candidates);

/* Print "moegraft-TOOL: error: TEXT" and the next command to stderr; returns code as an exit status. */
int mg_tool_fail(const mg_tool_info *tool, const mg_error *err);

#endif
