/* regex_syntax.c - from Oniguruma's syntax (Ruby) to PCRE2's. A recursive descent over the constructs that patterns of
 * tokenizers use; every other one is refused by its name, because the two libraries read too many of them differently:
 *
 *   \s          PCRE2 counts U+180E in
 *   \w, \b      PCRE2 (10.42) means letters, digits and underscore only
 *   \h          hexadecimal digit or horizontal space
 *   \p{Han}     PCRE2 means script extensions
 *   [a&&b]      an intersection, or the letters a, b and &
 *   [a[bc]]     a class in a class, or text
 *   x{2}+       repeated, or possessive
 *   (?i)        to the end of the group with all its alternatives, or of one
 *
 * A class becomes one of PCRE2's where it can; with intersections or negated parts it becomes a group that matches one
 * character: (?:[items]|[^part]), (?:(?=A)B), (?:(?!A)(?s:.)). */
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "formats/base/regex.h"
#include "formats/base/utf8.h"

enum { MAX_PATTERN = 16 << 10, MAX_OUTPUT = 1 << 20, MAX_DEPTH = 50, MAX_REPEAT = 65535 };

typedef struct text {
    char *data;
    size_t n, cap;
} text;

typedef struct parser {
    const char *s;
    size_t n, at;
    unsigned depth;
    bool caseless;
    mg_error *err;
} parser;

static mg_status put_n(parser *p, text *t, const char *s, size_t n) {
    if (t->n + n > MAX_OUTPUT) return mg_fail(p->err, MG_ERR_LIMIT, "regular expression: too long when written out");
    if (n >= t->cap - t->n) {
        size_t cap = (t->cap + n) * 2 + 64;
        char *data = realloc(t->data, cap);
        if (!data) return mg_fail_nomem(p->err, cap);
        t->data = data;
        t->cap = cap;
    }
    memcpy(t->data + t->n, s, n);
    t->n += n;
    t->data[t->n] = 0;
    return MG_OK;
}

static mg_status put(parser *p, text *t, const char *s) {
    return put_n(p, t, s, strlen(s));
}

static mg_status put_text(parser *p, text *t, const text *from) {
    return from->n ? put_n(p, t, from->data, from->n) : MG_OK;
}

/* head, inner, tail */
static mg_status wrap(parser *p, text *t, const char *head, const text *inner, const char *tail) {
    MG_TRY(put(p, t, head));
    MG_TRY(put_text(p, t, inner));
    return put(p, t, tail);
}

static mg_status unsupported(const parser *p, const char *what) {
    return mg_fail(p->err, MG_ERR_UNSUPPORTED, "regular expression with %s at byte %zu of '%.200s'", what, p->at, p->s);
}

static bool more(const parser *p) {
    return p->at < p->n;
}

static bool next_is(const parser *p, const char *s) {
    size_t n = strlen(s);
    return p->n - p->at >= n && memcmp(p->s + p->at, s, n) == 0;
}

static bool accept(parser *p, const char *s) {
    if (!next_is(p, s)) return false;
    p->at += strlen(s);
    return true;
}

/* A character, in a form that means itself inside and outside of classes. */
static mg_status put_char(parser *p, text *t, uint32_t c) {
    char hex[16];
    bool word = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    snprintf(hex, sizeof hex, word ? "%c" : "\\x{%X}", (unsigned)c);
    return put(p, t, hex);
}

/* ---- sets by name ---- */

#define SPACES                                                                                                         \
    "\\x{9}-\\x{D}\\x{20}\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"
#define WORD_NUMBERS                                                                                                   \
    "\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}" /* superscripts and fractions of Latin-1, in \w of Oniguruma */

static const struct {
    uint32_t from, to;
    const char *name;
} added[] = {
#define X(from, to, name) {from, to, name},
#include "formats/base/regex_unicode.inc"
#undef X
};

/* The rows of added[] whose name begins with one of the comma-separated prefixes, neighbours joined. */
static mg_status put_added(parser *p, text *t, const char *prefixes) {
    uint32_t from = 1, to = 0;
    for (size_t i = 0; i <= sizeof added / sizeof *added; i++) {
        bool wanted = false, last = i == sizeof added / sizeof *added;
        for (const char *q = prefixes; q && !last && !wanted; q = strchr(q, ',') ? strchr(q, ',') + 1 : NULL)
            wanted = strncmp(added[i].name, q, strcspn(q, ",")) == 0;
        if (wanted && from <= to && added[i].from == to + 1) {
            to = added[i].to;
            continue;
        }
        if (!wanted && !last) continue;
        if (from <= to) {
            char range[48];
            snprintf(range, sizeof range, from == to ? "\\x{%X}" : "\\x{%X}-\\x{%X}", (unsigned)from, (unsigned)to);
            MG_TRY(put(p, t, range));
        }
        if (!last) {
            from = added[i].from;
            to = added[i].to;
        }
    }
    return MG_OK;
}

/* \p{NAME}: general categories except C and Cn (which the additions would have to be taken out of) and Mn, Mc (one
 * character changed its class); the script Han; and \p{_word}, a name of ours: \w of Rust's regular expressions. */
static mg_status put_property(parser *p, text *t, const char *name) {
    static const char *const known[] = {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Me", "N",  "Nd", "Nl",
                                        "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S",  "Sm",
                                        "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp", "Cc", "Cf"};
    char item[48];
    if (strcmp(name, "Han") == 0) {
        MG_TRY(put(p, t, "\\p{sc:Han}"));
        return put_added(p, t, "Han");
    }
    if (strcmp(name, "_word") == 0) {
        MG_TRY(put(p, t, "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200C}\\x{200D}"));
        return put_added(p, t, "L,M,Nd,Pc");
    }
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i]) == 0) {
            snprintf(item, sizeof item, "\\p{%s}", name);
            MG_TRY(put(p, t, item));
            return put_added(p, t, name);
        }
    char what[64];
    snprintf(what, sizeof what, "the property '%.40s'", name);
    return unsupported(p, what);
}

/* The items of \s, \d, \w, \h (any case of the letter). */
static mg_status put_shorthand(parser *p, text *t, char letter) {
    switch (letter | 32) {
    case 's':
        return put(p, t, SPACES);
    case 'd':
        MG_TRY(put(p, t, "\\p{Nd}"));
        return put_added(p, t, "Nd");
    case 'h':
        return put(p, t, "0-9A-Fa-f");
    default:
        MG_TRY(put(p, t, "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}" WORD_NUMBERS));
        return put_added(p, t, "L,M,Nd,Pc");
    }
}

/* ---- escapes ---- */

static int hex_value(char c) {
    return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

/* Up to `most` hexadecimal digits. */
static mg_status hex_digits(parser *p, unsigned least, unsigned most, uint32_t *c) {
    unsigned n = 0;
    *c = 0;
    for (; n < most && more(p) && hex_value(p->s[p->at]) >= 0; n++) *c = *c << 4 | (uint32_t)hex_value(p->s[p->at++]);
    if (n < least || *c > 0x10FFFF || (*c >= 0xD800 && *c <= 0xDFFF)) return unsupported(p, "a malformed \\x or \\u");
    return MG_OK;
}

/* What follows a backslash, when it is one character: *is_char. Otherwise nothing is consumed. */
static mg_status escaped_char(parser *p, uint32_t *c, bool *is_char) {
    static const char letters[] = "nrtfvae", values[] = "\n\r\t\f\v\a\x1B";
    char e = p->s[p->at];
    const char *known = e ? strchr(letters, e) : NULL;
    *is_char = true;
    if (known) {
        *c = (uint32_t)values[known - letters];
        p->at++;
        return MG_OK;
    }
    if (e == 'u') {
        p->at++;
        return hex_digits(p, 4, 4, c);
    }
    if (e == 'x') {
        p->at++;
        if (!accept(p, "{")) return hex_digits(p, 2, 2, c);
        MG_TRY(hex_digits(p, 1, 8, c));
        return accept(p, "}") ? MG_OK : unsupported(p, "a malformed \\x{}");
    }
    if (e > 0x20 && e < 0x7F && hex_value(e) < 0 && ((e | 32) < 'a' || (e | 32) > 'z')) { /* punctuation */
        *c = (uint32_t)e;
        p->at++;
        return MG_OK;
    }
    if (e == ' ') {
        *c = ' ';
        p->at++;
        return MG_OK;
    }
    *is_char = false;
    return MG_OK;
}

/* A set behind a backslash: s, d, w, h, p{...} and their negations. *items gets what belongs into a class. */
static mg_status escaped_set(parser *p, text *items, bool *negated) {
    char e = p->s[p->at], name[32];
    if (p->caseless) return unsupported(p, "a set of characters where case is ignored");
    *negated = e >= 'A' && e <= 'Z';
    if (e && strchr("sdwhSDWH", e)) {
        p->at++;
        return put_shorthand(p, items, e);
    }
    if ((e | 32) != 'p') {
        char what[32];
        snprintf(what, sizeof what, "'\\%c'", e > 0x20 && e < 0x7F ? e : '?');
        return unsupported(p, what);
    }
    p->at++;
    if (!accept(p, "{")) return unsupported(p, "'\\p' without a name");
    if (accept(p, "^")) *negated = !*negated;
    const char *close = memchr(p->s + p->at, '}', p->n - p->at);
    size_t len = close ? (size_t)(close - p->s) - p->at : 0;
    if (len == 0 || len >= sizeof name) return unsupported(p, "a malformed property");
    memcpy(name, p->s + p->at, len);
    name[len] = 0;
    p->at += len + 1;
    return put_property(p, items, name);
}

static mg_status literal(parser *p, uint32_t *c) {
    size_t len = mg_utf8_decode((const uint8_t *)p->s + p->at, p->n - p->at, c);
    if (len == 0) return mg_fail(p->err, MG_ERR_FORMAT, "regular expression: not UTF-8 at byte %zu", p->at);
    if (p->caseless && *c >= 0x80) return unsupported(p, "a character beyond ASCII where case is ignored");
    p->at += len;
    return MG_OK;
}

/* ---- classes ---- */

/* A union in the making: items of a plain class, and alternatives that match one character each. */
typedef struct set {
    text items, others;
} set;

static void set_release(set *u) {
    free(u->items.data);
    free(u->others.data);
    *u = (set){0};
}

static mg_status set_other(parser *p, set *u, const char *head, const text *inner, const char *tail) {
    if (u->others.n) MG_TRY(put(p, &u->others, "|"));
    return wrap(p, &u->others, head, inner, tail);
}

/* The union as a pattern for one character. */
static mg_status set_close(parser *p, set *u, text *out) {
    if (u->items.n == 0 && u->others.n == 0) return unsupported(p, "an empty class");
    if (u->others.n == 0) return wrap(p, out, "[", &u->items, "]");
    MG_TRY(put(p, out, "(?:"));
    if (u->items.n) MG_TRY(wrap(p, out, "[", &u->items, "]|"));
    return wrap(p, out, "", &u->others, ")");
}

static mg_status class(parser *p, text *out);

/* One member of a class: a character (*is_char, then perhaps the start of a range) or a set. */
static mg_status member(parser *p, set *u, uint32_t *c, bool *is_char) {
    *is_char = false;
    if (next_is(p, "[:")) return unsupported(p, "a POSIX bracket");
    if (accept(p, "[")) {
        text inner = {0};
        mg_status s = class(p, &inner);
        if (!s) s = set_other(p, u, "", &inner, "");
        free(inner.data);
        return s;
    }
    if (!accept(p, "\\")) {
        *is_char = true;
        return literal(p, c);
    }
    if (!more(p)) return unsupported(p, "a backslash at its end");
    MG_TRY(escaped_char(p, c, is_char));
    if (*is_char) return MG_OK;
    bool negated = false;
    text items = {0};
    mg_status s = escaped_set(p, &items, &negated);
    if (!s) s = negated ? set_other(p, u, "[^", &items, "]") : put_text(p, &u->items, &items);
    free(items.data);
    return s;
}

static mg_status members(parser *p, set *u) {
    while (more(p) && !next_is(p, "]") && !next_is(p, "&&")) {
        uint32_t from = 0, to = 0;
        bool one, other;
        MG_TRY(member(p, u, &from, &one));
        bool range = next_is(p, "-") && p->n - p->at >= 2 && p->s[p->at + 1] != ']';
        if (!one && range) return unsupported(p, "a set as the start of a range");
        if (!one) continue;
        MG_TRY(put_char(p, &u->items, from));
        if (!range) continue;
        p->at++;
        if (next_is(p, "[")) return unsupported(p, "a class as the end of a range");
        MG_TRY(member(p, u, &to, &other));
        if (!other || to < from) return unsupported(p, "a malformed range");
        MG_TRY(put(p, &u->items, "-"));
        MG_TRY(put_char(p, &u->items, to));
    }
    return more(p) ? MG_OK : unsupported(p, "a class that is not closed");
}

/* The operands of `&&`, the last without look-ahead: (?=A)(?=B)C */
static mg_status operands(parser *p, text *out, bool *several) {
    for (*several = false;; *several = true) {
        set u = {0};
        text one = {0};
        mg_status s = members(p, &u);
        if (!s) s = set_close(p, &u, &one);
        bool last = !s && !accept(p, "&&");
        if (!s) s = last ? put_text(p, out, &one) : wrap(p, out, "(?=", &one, ")");
        set_release(&u);
        free(one.data);
        if (s || last) return s;
    }
}

static mg_status class_inside(parser *p, text *out) {
    bool negated = accept(p, "^"), several;
    if (next_is(p, "]")) return unsupported(p, "']' as the first of a class");
    if (p->caseless && negated) return unsupported(p, "a negated class where case is ignored");
    text inner = {0};
    mg_status s = operands(p, &inner, &several);
    if (!s && !accept(p, "]")) s = unsupported(p, "a class that is not closed");
    bool plain = !s && !several && inner.data[0] == '[';
    if (!s && negated && plain) {
        s = put(p, out, "[^");
        if (!s) s = put_n(p, out, inner.data + 1, inner.n - 1);
    } else if (!s) {
        s = negated ? wrap(p, out, "(?:(?!", &inner, ")(?s:.))")
                    : wrap(p, out, several ? "(?:" : "", &inner, several ? ")" : "");
    }
    free(inner.data);
    return s;
}

/* Behind '['. */
static mg_status class(parser *p, text *out) {
    if (++p->depth > MAX_DEPTH) return unsupported(p, "classes nested too deep");
    mg_status s = class_inside(p, out);
    p->depth--;
    return s;
}

/* ---- expressions ---- */

static mg_status alternatives(parser *p, text *out);

/* \b as a boundary of what \w means here. */
static mg_status word_boundary(parser *p, text *out, bool negated) {
    text w = {0};
    mg_status s = put(p, &w, "[");
    if (!s) s = put_shorthand(p, &w, 'w');
    if (!s) s = put(p, &w, "]");
    if (!s) s = wrap(p, out, "(?:(?<=", &w, ")");
    if (!s) s = wrap(p, out, negated ? "(?=" : "(?!", &w, ")|(?<!");
    if (!s) s = wrap(p, out, "", &w, negated ? ")(?!" : ")(?=");
    if (!s) s = wrap(p, out, "", &w, "))");
    free(w.data);
    return s;
}

static mg_status escape(parser *p, text *out, bool *repeatable) {
    uint32_t c;
    bool is_char, negated = false;
    if (!more(p)) return unsupported(p, "a backslash at its end");
    char e = p->s[p->at];
    if (e == 'b' || e == 'B' || e == 'A' || e == 'z') {
        *repeatable = false;
        p->at++;
        if ((e | 32) == 'b') return word_boundary(p, out, e == 'B');
        return put(p, out, e == 'A' ? "\\A" : "\\z");
    }
    MG_TRY(escaped_char(p, &c, &is_char));
    if (is_char) return put_char(p, out, c);
    text items = {0};
    mg_status s = escaped_set(p, &items, &negated);
    if (!s) s = wrap(p, out, negated ? "[^" : "[", &items, "]");
    free(items.data);
    return s;
}

/* Behind '('. */
static mg_status group(parser *p, text *out, bool *repeatable) {
    static const struct {
        const char *in, *out;
        bool look;
    } heads[] = {{"?:", "(?:", false},  {"?i:", "(?i:", false}, {"?=", "(?=", true}, {"?!", "(?!", true},
                 {"?<=", "(?<=", true}, {"?<!", "(?<!", true},  {"?>", "(?>", false}};
    size_t i = 0, n = sizeof heads / sizeof *heads;
    bool outer = p->caseless;
    while (i < n && !accept(p, heads[i].in)) i++;
    if (i == n && next_is(p, "?")) return unsupported(p, "a group of the kind '(?'");
    if (i == 1) p->caseless = true;
    *repeatable = i == n || !heads[i].look;
    if (++p->depth > MAX_DEPTH) return unsupported(p, "groups nested too deep");
    MG_TRY(put(p, out, i == n ? "(?:" : heads[i].out));
    MG_TRY(alternatives(p, out));
    if (!accept(p, ")")) return unsupported(p, "a group that is not closed");
    p->depth--;
    p->caseless = outer;
    return put(p, out, ")");
}

static bool number(parser *p, uint32_t *v) {
    size_t from = p->at;
    for (*v = 0; more(p) && p->s[p->at] >= '0' && p->s[p->at] <= '9' && *v <= MAX_REPEAT; p->at++)
        *v = *v * 10 + (uint32_t)(p->s[p->at] - '0');
    return p->at > from;
}

/* {n}, {n,}, {,m}, {n,m}; *fixed: {n} */
static mg_status interval(parser *p, text *out, bool *fixed) {
    uint32_t least = 0, most = 0;
    char form[48];
    bool has_least = number(p, &least), comma = accept(p, ","), has_most = comma && number(p, &most);
    if (!accept(p, "}") || (!has_least && !has_most) || least > MAX_REPEAT || most > MAX_REPEAT ||
        (has_most && most < least))
        return unsupported(p, "a malformed or too large repetition");
    *fixed = !comma;
    if (!comma)
        snprintf(form, sizeof form, "{%u}", least);
    else if (has_most)
        snprintf(form, sizeof form, "{%u,%u}", least, most);
    else
        snprintf(form, sizeof form, "{%u,}", least);
    return put(p, out, form);
}

static mg_status quantifier(parser *p, text *out, bool repeatable) {
    bool fixed = false, braces = false;
    if (!more(p) || !strchr("*+?{", p->s[p->at]) || !p->s[p->at]) return MG_OK;
    if (!repeatable) return unsupported(p, "a repeated assertion");
    char q = p->s[p->at++];
    if (q == '{') {
        braces = true;
        MG_TRY(interval(p, out, &fixed));
    } else {
        MG_TRY(put_n(p, out, &q, 1));
    }
    if (next_is(p, "?") && !fixed) {
        p->at++;
        MG_TRY(put(p, out, "?"));
    } else if (next_is(p, "+") && !braces) {
        p->at++;
        MG_TRY(put(p, out, "+"));
    }
    if (more(p) && p->s[p->at] && strchr("*+?{", p->s[p->at])) return unsupported(p, "a repetition of a repetition");
    return MG_OK;
}

static mg_status atom(parser *p, text *out, bool *repeatable) {
    uint32_t c;
    char s = p->s[p->at];
    *repeatable = true;
    if (s && strchr("*+?{", s)) return unsupported(p, "a repetition of nothing");
    if (accept(p, "(")) return group(p, out, repeatable);
    if (accept(p, "[")) return class(p, out);
    if (accept(p, "\\")) return escape(p, out, repeatable);
    if (accept(p, ".")) return p->caseless ? unsupported(p, "'.' where case is ignored") : put(p, out, ".");
    if (s == '^' || s == '$') {
        *repeatable = false;
        p->at++;
        return put_n(p, out, &s, 1);
    }
    MG_TRY(literal(p, &c));
    return put_char(p, out, c);
}

/* Pairs of letters that are one character in another case (the ligatures of fi, ss, st ...): Oniguruma folds them. */
static bool folds_with_next(const parser *p, size_t at) {
    static const char *const pairs[] = {"ff", "fi", "fl", "ss", "st"};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if (p->n - at >= 2 && (p->s[at] | 32) == pairs[i][0] && (p->s[at + 1] | 32) == pairs[i][1]) return true;
    return false;
}

static mg_status alternatives(parser *p, text *out) {
    while (more(p) && p->s[p->at] != ')') {
        bool repeatable;
        if (accept(p, "|")) {
            MG_TRY(put(p, out, "|"));
            continue;
        }
        if (p->caseless && folds_with_next(p, p->at)) return unsupported(p, "a ligature where case is ignored");
        MG_TRY(atom(p, out, &repeatable));
        MG_TRY(quantifier(p, out, repeatable));
    }
    return MG_OK;
}

mg_status mg_regex_translate(char **out, const char *pattern, mg_error *err) {
    parser p = {.s = pattern, .n = strlen(pattern), .err = err};
    text t = {0};
    *out = NULL;
    if (p.n > MAX_PATTERN) return mg_fail(err, MG_ERR_LIMIT, "regular expression of %zu bytes", p.n);
    mg_status s = put(&p, &t, "");
    if (!s) s = alternatives(&p, &t);
    if (!s && more(&p)) s = unsupported(&p, "an unmatched ')'");
    if (s) {
        free(t.data);
        return s;
    }
    *out = t.data;
    return MG_OK;
}
