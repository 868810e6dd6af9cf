/* gguf_name.c - what a model's name says: "Llama-2-7B-Chat" is basename Llama-2, size 7B, finetune Chat.
 *
 * The rules are those of gguf-py's metadata module (specification: docs/format_gguf.md names the keys), because the
 * keys of a converted file must equal the reference converter's. Letters are ASCII; other bytes count as letters
 * without case. */
#include "convert/gguf_meta.h"

#include "formats/base/number.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { BASENAME = 1, SIZE = 2, FINETUNE = 4, VERSION = 8, TYPE = 16 };
enum { MAX_PARTS = 64, PART = 128 };

/* Truncating copy. */
static void copy(char *dst, size_t size, const char *s) {
    size_t n = strlen(s);
    if (n >= size) n = size - 1;
    memcpy(dst, s, n);
    dst[n] = 0;
}

typedef struct part {
    char text[PART];
    unsigned types;
} part;

static bool digit(char c) {
    return c >= '0' && c <= '9';
}
static bool alpha(char c) {
    return isalpha((unsigned char)c) || (unsigned char)c >= 0x80;
}

static const char *digits(const char *s) { /* one or more, or NULL */
    if (!s || !digit(*s)) return NULL;
    while (digit(*s)) s++;
    return s;
}

/* (v|iter)?D+(.D+)* */
static bool is_version(const char *s) {
    if (!strncasecmp(s, "iter", 4))
        s += 4;
    else if (*s == 'v' || *s == 'V')
        s++;
    s = digits(s);
    while (s && *s == '.') s = digits(s + 1);
    return s && !*s;
}

/* i?qD(_W)* or b?fp?(16|32) */
static bool is_type(const char *s) {
    const char *q = s;
    if (*q == 'i' || *q == 'I') q++;
    if ((*q == 'q' || *q == 'Q') && digit(q[1])) {
        q += 2;
        while (*q == '_' && (isalnum((unsigned char)q[1]) || q[1] == '_')) q += 2;
        if (!*q) return true;
    }
    if (*s == 'b' || *s == 'B') s++;
    if (*s != 'f' && *s != 'F') return false;
    s++;
    if (*s == 'p' || *s == 'P') s++;
    return !strcmp(s, "16") || !strcmp(s, "32");
}

/* (A|D+x)?D+([._]D+)?[KMBT]D? or a word */
static bool is_size_from(const char *s) {
    s = digits(s);
    if (!s) return false;
    if ((*s == '.' || *s == '_') && digit(s[1])) s = digits(s + 1);
    if (!*s || !strchr("kmbtKMBT", *s)) return false;
    s++;
    if (digit(*s)) s++;
    return !*s;
}

static bool is_size(const char *s) {
    static const char *const words[] = {"small", "mini", "medium", "large", "xl", "xxl"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (!strcasecmp(s, words[i])) return true;
    if (is_size_from(s)) return true;
    if ((*s == 'a' || *s == 'A') && is_size_from(s + 1)) return true;
    const char *x = digits(s);
    return x && (*x == 'x' || *x == 'X') && is_size_from(x + 1);
}

static bool is_finetune(const char *s) {
    return !strcasecmp(s, "chat") || !strcasecmp(s, "instruct") || !strcasecmp(s, "vision") || !strcasecmp(s, "lora");
}

/* "7b1" -> "7.1B", "7_5b" -> "7.5B"; a number far from the model's own size is no size but a context length ("32k"). */
static void read_size(part *p, uint64_t total) {
    char *s = p->text;
    for (char *c = s; *c; c++)
        if (*c == '_') *c = '.';
    size_t n = strlen(s);
    if (digit(s[n - 1])) {
        char unit = s[n - 2], last = s[n - 1];
        if (n + 1 >= PART) return;
        s[n - 2] = '.';
        s[n - 1] = last;
        s[n] = unit;
        s[++n] = 0;
    }
    if (n > 1 && digit(s[n - 2]) && strchr("kmbt", s[n - 1])) s[n - 1] = (char)toupper((unsigned char)s[n - 1]);
    static const char units[] = "KMBT";
    const char *unit = strchr(units, s[n - 1]);
    double value;
    if (total && unit && mg_number_parse(s, n - 1, &value)) {
        double label = value * pow(1000.0, (double)(unit - units) + 1.0);
        if (fabs(label - (double)total) > (double)(7 * total / 8)) {
            p->types |= FINETUNE;
            s[n - 1] = (char)tolower((unsigned char)s[n - 1]);
        }
    }
    if (!p->types) p->types = SIZE;
}

static void annotate(part *p, size_t i, uint64_t total) {
    if (is_version(p->text)) {
        p->types = VERSION;
    } else if (is_type(p->text)) {
        p->types = TYPE;
        for (char *c = p->text; *c; c++) *c = (char)toupper((unsigned char)*c);
    } else if (i > 0 && is_size(p->text)) {
        read_size(p, total);
    } else if (i > 0 && is_finetune(p->text)) {
        p->types = FINETUNE;
    }
}

/* Size words give way to size numbers. */
static void drop_size_words(part *p, size_t n) {
    bool number = false;
    for (size_t i = 0; i < n; i++)
        for (const char *c = p[i].text; p[i].types & SIZE && *c; c++) number = number || digit(*c);
    for (size_t i = 0; number && i < n; i++) {
        bool word = true;
        for (const char *c = p[i].text; *c; c++) word = word && alpha(*c);
        if (word) p[i].types &= ~(unsigned)SIZE;
    }
}

static void find_basename(part *p, size_t n) {
    bool start = true;
    for (size_t i = 0; i < n; i++) {
        if (start && ((!p[i].types && alpha(p[i].text[0])) || p[i].types & VERSION)) {
            p[i].types |= BASENAME;
            continue;
        }
        start = false;
        if (!p[i].types) p[i].types = FINETUNE;
    }
    for (size_t i = n; i-- > 0;) {
        if (!(p[i].types & BASENAME) || p[i].types == BASENAME) break;
        p[i].types &= ~(unsigned)BASENAME;
    }
}

/* Parts of a kind joined by '-', repeated sizes once. */
static void join(char out[256], const part *p, size_t n, unsigned kind, unsigned but_not) {
    size_t at = 0;
    out[0] = 0;
    for (size_t i = 0; i < n; i++) {
        bool again = false;
        if (!(p[i].types & kind) || p[i].types & but_not) continue;
        for (size_t j = 0; kind == SIZE && j < i; j++)
            again = again || ((p[j].types & SIZE) && !strcmp(p[j].text, p[i].text));
        if (again) continue;
        int k = snprintf(out + at, 256 - at, "%s%s", at ? "-" : "", p[i].text);
        at += k > 0 && (size_t)k < 256 - at ? (size_t)k : 0;
    }
}

static size_t split_parts(part *p, const char *name) {
    size_t n = 0;
    while (*name && n < MAX_PARTS) {
        size_t k = strcspn(name, "-");
        if (k) {
            size_t keep = k < PART - 2 ? k : PART - 2;
            memcpy(p[n].text, name, keep);
            p[n].text[keep] = 0;
            p[n++].types = 0;
        }
        name += k + (name[k] == '-');
    }
    return n;
}

void mg_name_split(mg_name_parts *out, const char *id, uint64_t total) {
    memset(out, 0, sizeof *out);
    const char *slash = strchr(id, '/'), *name = slash && !strchr(id, ' ') ? slash + 1 : id;
    copy(out->name, sizeof out->name, name);
    if (strchr(id, ' ')) return; /* a sentence, not an identifier */
    if (slash && id[0] != '.') snprintf(out->organization, sizeof out->organization, "%.*s", (int)(slash - id), id);
    part *p = calloc(MAX_PARTS, sizeof *p);
    if (!p) return;
    size_t n = split_parts(p, name);
    for (size_t i = 0; i < n; i++) annotate(&p[i], i, total);
    drop_size_words(p, n);
    find_basename(p, n);
    join(out->basename, p, n, BASENAME, 0);
    join(out->size_label, p, n, SIZE, 0);
    join(out->finetune, p, n, FINETUNE, 0);
    join(out->version, p, n, VERSION, BASENAME);
    if (!out->size_label[0] && !out->finetune[0] && !out->version[0]) out->basename[0] = 0; /* too little to tell */
    free(p);
}

const char *mg_size_label(char buf[32], const mg_gguf_meta_in *in) {
    uint64_t count = in->expert_count ? in->shared + in->expert : in->total;
    double scaled = (double)count * 1e-3;
    char unit = 'K', head[16] = "", digits_text[32];
    if (count > 1000000000000u) {
        scaled = (double)count * 1e-12;
        unit = 'T';
    } else if (count > 1000000000u) {
        scaled = (double)count * 1e-9;
        unit = 'B';
    } else if (count > 1000000u) {
        scaled = (double)count * 1e-6;
        unit = 'M';
    }
    snprintf(digits_text, sizeof digits_text, "%.0f", nearbyint(scaled));
    const char *d = digits_text;
    while (*d == '0') d++;
    int fix = strlen(d) < 2 ? 2 - (int)strlen(d) : 0;
    if (in->expert_count) snprintf(head, sizeof head, "%ux", in->expert_count);
    snprintf(buf, 32, "%s%.*f%c", head, fix, scaled, unit);
    for (char *c = buf; *c; c++)
        if (*c == ',') *c = '.'; /* a locale's decimal point */
    return buf;
}
