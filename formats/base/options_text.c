/* options_text.c - --help and the man page, both from the tool's option table. */
#include "formats/base/options.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "mg_version.h"

/* The rows every tool has, handled in mg_options_parse. */
static const mg_opt general[] = {
    {NULL, MG_OPT_GROUP, NULL, NULL, "General"},
    {"--help,-h", MG_OPT_FLAG, NULL, NULL, "this text"},
    {"--version", MG_OPT_FLAG, NULL, NULL, "version, commit and instruction set in use"},
    {"--man", MG_OPT_FLAG, NULL, NULL, "manual page (roff) on stdout"},
    {0},
};

static const char exits[] = "0 done; 1 judged and failed; 2 usage; 3 malformed input; 4 unsupported; 5 input/output; "
                            "6 resource limit; 7 integrity; 8 conflicting configs; 70 internal; 130/143 interrupted";

static bool row_ends(const mg_opt *o) {
    return !o->names && !o->help; /* a group has no names either */
}

/* "--threads, -t, -j N" */
static void spell(const mg_opt *o, char *buf, size_t size) {
    size_t at = 0;
    for (const char *s = o->names; *s && at + 3 < size; s++) {
        buf[at++] = *s;
        if (*s == ',') buf[at++] = ' ';
    }
    snprintf(buf + at, size - at, "%s%s", o->arg ? " " : "", o->arg ? o->arg : "");
}

/* Words of text from column `indent` on, wrapped before column 100, continuation lines indented. */
static void wrap(FILE *to, const char *text, size_t indent) {
    size_t at = indent;
    while (*text) {
        size_t n = strcspn(text, " ");
        bool fits = at + n < 100;
        if (at > indent && fits) fputc(' ', to);
        if (at > indent && !fits) {
            fprintf(to, "\n%*s", (int)indent, "");
            at = indent;
        }
        fprintf(to, "%.*s", (int)n, text);
        at += n + 1; /* the blank that a next word needs */
        text += n + (text[n] == ' ');
    }
    fputc('\n', to);
}

static const char *suffix(const mg_opt *o) {
    return o->kind == MG_OPT_UNBUILT ? " (not built yet)"
           : o->kind == MG_OPT_NOOP  ? " (no effect)"
           : o->kind == MG_OPT_LIST  ? " (repeatable)"
                                     : "";
}

static void help_rows(const mg_opt *opts, FILE *to) {
    enum { COLUMN = 34 };
    if (!row_ends(opts) && opts->kind != MG_OPT_GROUP) fprintf(to, "\nOptions:\n");
    for (const mg_opt *o = opts; !row_ends(o); o++) {
        if (o->kind == MG_OPT_GROUP) {
            fprintf(to, "\n%s:\n", o->help);
            continue;
        }
        char left[128], right[512];
        spell(o, left, sizeof left);
        snprintf(right, sizeof right, "%s%s", o->help, strstr(o->help, "repeatable") ? "" : suffix(o));
        size_t n = strlen(left) + 2;
        fprintf(to, "  %s", left);
        if (n + 2 > COLUMN)
            fprintf(to, "\n%*s", COLUMN, "");
        else
            fprintf(to, "%*s", (int)(COLUMN - n), "");
        wrap(to, right, COLUMN);
    }
}

/* Each line of a synopsis is one way to call the tool. */
static void usage(const mg_tool_info *tool, FILE *to, const char *first, const char *other) {
    const char *s = tool->synopsis;
    for (bool head = true; *s; head = false) {
        size_t n = strcspn(s, "\n");
        fprintf(to, "%smoegraft-%s %.*s\n", head ? first : other, tool->name, (int)n, s);
        s += n + (s[n] == '\n');
    }
}

void mg_options_help(const mg_tool_info *tool, const mg_opt *opts, FILE *to) {
    fprintf(to, "moegraft-%s: %s\n\n", tool->name, tool->summary);
    usage(tool, to, "Usage: ", "       ");
    help_rows(opts, to);
    help_rows(general, to);
    if (tool->examples) {
        size_t n = strlen(tool->examples);
        fprintf(to, "\nExamples:\n%s%s", tool->examples, n && tool->examples[n - 1] == '\n' ? "" : "\n");
    }
    fprintf(to, "\nExit status: ");
    wrap(to, exits, 13);
}

/* Text as roff: backslashes and hyphens escaped, no line that begins with a request character. */
static void roff(FILE *to, const char *s) {
    bool line_start = true;
    for (; *s; s++) {
        if (line_start && (*s == '.' || *s == '\'')) fputs("\\&", to);
        if (*s == '\\')
            fputs("\\e", to);
        else if (*s == '-')
            fputs("\\-", to);
        else
            fputc(*s, to);
        line_start = *s == '\n';
    }
}

static void man_rows(const mg_opt *opts, FILE *to) {
    for (const mg_opt *o = opts; !row_ends(o); o++) {
        if (o->kind == MG_OPT_GROUP) {
            fputs(".SS ", to);
            roff(to, o->help);
            fputc('\n', to);
            continue;
        }
        char left[128];
        spell(o, left, sizeof left);
        fputs(".TP\n.B ", to);
        roff(to, left);
        fputc('\n', to);
        roff(to, o->help);
        roff(to, strstr(o->help, "repeatable") ? "" : suffix(o));
        fputc('\n', to);
    }
}

void mg_options_man(const mg_tool_info *tool, const mg_opt *opts, FILE *to) {
    fputs(".TH MOEGRAFT\\-", to);
    for (const char *s = tool->name; *s; s++) fputc(toupper((unsigned char)*s), to);
    fprintf(to, " 1 \"\" \"moegraft %s\"\n.SH NAME\nmoegraft\\-%s \\- ", MG_VERSION, tool->name);
    roff(to, tool->summary);
    fputs("\n.SH SYNOPSIS\n.nf\n", to);
    char *text = NULL;
    size_t n = 0;
    FILE *m = open_memstream(&text, &n);
    if (m) {
        usage(tool, m, "", "");
        fclose(m);
        roff(to, text ? text : "");
    }
    free(text);
    fputs(".fi\n.SH OPTIONS\n", to);
    man_rows(opts, to);
    man_rows(general, to);
    if (tool->examples) {
        fputs(".SH EXAMPLES\n.nf\n", to);
        roff(to, tool->examples);
        fputs("\n.fi\n", to);
    }
    fputs(".SH EXIT STATUS\n", to);
    roff(to, exits);
    fputs("\n.SH ENVIRONMENT\n.TP\n.B MOEGRAFT_ISA\ncaps the instruction set: scalar, avx2, avx512 or neon\n"
          ".TP\n.B NO_COLOR\nno colour, as everywhere\n",
          to);
}
