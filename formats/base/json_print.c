/* json_print.c - the writing half of json.h: text as Python's json.dump lays it out (ASCII with \u escapes, the same
 * spacing, floats as repr), so that a rewritten config.json differs from transformers' own only where it should. */
#include "formats/base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/base/number.h"
#include "formats/base/utf8.h"

/* Growing text; broken once memory was refused or the tree is not whole. */
typedef struct writer {
    char *text;
    size_t n, cap;
    unsigned indent;
    bool broken;
} writer;

static void put(writer *w, const char *s, size_t n) {
    if (w->broken) return;
    if (n >= w->cap - w->n) {
        size_t cap = (w->cap + n) * 2 + 256;
        char *text = realloc(w->text, cap);
        w->broken = !text;
        if (!text) return;
        w->text = text;
        w->cap = cap;
    }
    memcpy(w->text + w->n, s, n);
    w->n += n;
    w->text[w->n] = 0;
}

static void puts_(writer *w, const char *s) {
    put(w, s, strlen(s));
}

static void newline(writer *w, unsigned level) {
    if (w->indent == 0) return;
    puts_(w, "\n");
    for (unsigned i = 0; i < level * w->indent; i++) puts_(w, " ");
}

static void put_unit(writer *w, uint32_t u) {
    char buf[8];
    snprintf(buf, sizeof buf, "\\u%04x", (unsigned)(u & 0xFFFF));
    puts_(w, buf);
}

static void put_code_point(writer *w, uint32_t cp) {
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    const char *p = cp && cp < 0x80 ? strchr(from, (int)cp) : NULL;
    if (p) {
        char buf[2] = {'\\', to[p - from]};
        put(w, buf, 2);
    } else if (cp >= 0x20 && cp < 0x7F) {
        char c = (char)cp;
        put(w, &c, 1);
    } else if (cp == 0x7F) {
        put(w, "\x7f", 1);
    } else if (cp < 0x10000) {
        put_unit(w, cp);
    } else {
        put_unit(w, 0xD800 + ((cp - 0x10000) >> 10));
        put_unit(w, 0xDC00 + ((cp - 0x10000) & 0x3FF));
    }
}

static void put_string(writer *w, const char *s) {
    puts_(w, "\"");
    size_t n = strlen(s);
    for (size_t at = 0; at < n;) {
        uint32_t cp = 0xFFFD;
        size_t len = mg_utf8_decode((const uint8_t *)s + at, n - at, &cp);
        put_code_point(w, cp);
        at += len ? len : 1;
    }
    puts_(w, "\"");
}

static void put_real(writer *w, const mg_json *v) {
    char buf[MG_NUMBER_MAX];
    double d = 0;
    if (!mg_json_f64(v, &d)) w->broken = true;
    mg_number_print(d, buf);
    puts_(w, buf);
}

static void put_value(writer *w, const mg_json *v, unsigned level);

static void put_container(writer *w, const mg_json *v, unsigned level, bool object) {
    if (mg_json_is_broken(v) || level >= 256) w->broken = true; /* the recursion is bounded too */
    puts_(w, object ? "{" : "[");
    for (const mg_json *c = mg_json_first(v), *next; c && !w->broken; c = next) {
        next = mg_json_next(c);
        newline(w, level + 1);
        if (object) {
            put_string(w, mg_json_key(c));
            puts_(w, ": ");
        }
        put_value(w, c, level + 1);
        if (next) puts_(w, w->indent ? "," : ", ");
    }
    if (mg_json_first(v)) newline(w, level);
    puts_(w, object ? "}" : "]");
}

static void put_value(writer *w, const mg_json *v, unsigned level) {
    bool yes = false;
    switch (mg_json_type(v)) {
    case MG_JSON_NULL:
        puts_(w, "null");
        break;
    case MG_JSON_BOOL:
        puts_(w, mg_json_bool(v, &yes) && yes ? "true" : "false");
        break;
    case MG_JSON_INT:
        puts_(w, mg_json_digits(v));
        break;
    case MG_JSON_REAL:
        put_real(w, v);
        break;
    case MG_JSON_STRING:
        put_string(w, mg_json_str(v));
        break;
    case MG_JSON_ARRAY:
        put_container(w, v, level, false);
        break;
    case MG_JSON_OBJECT:
        put_container(w, v, level, true);
        break;
    }
}

mg_status mg_json_print(char **out, const mg_json *v, unsigned indent, mg_error *err) {
    writer w = {.indent = indent, .broken = !v};
    if (v) put_value(&w, v, 0);
    if (w.broken) {
        free(w.text);
        *out = NULL;
        return mg_fail_nomem(err, w.n);
    }
    *out = w.text;
    return MG_OK;
}
