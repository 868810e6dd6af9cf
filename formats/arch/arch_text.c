/* arch_text.c - symbols and fallbacks of a family description as text, both ways (arch_fields.h). */
#include "formats/arch/arch_fields.h"
#include "formats/base/number.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* clang-format off */
static const char *const role_symbols[MG_ROLE_COUNT] = {
#define MG_ROLE(sym, scope, name) #sym,
#include "formats/arch/roles.inc"
#undef MG_ROLE
};
/* clang-format on */

const char *mg_role_symbol(mg_role r) {
    return role_symbols[r];
}

bool mg_key_by_name(const char *s, size_t n, mg_key *out) {
    for (int k = 0; k < MG_KEY_COUNT; k++)
        if (strlen(mg_key_name((mg_key)k)) == n && memcmp(mg_key_name((mg_key)k), s, n) == 0) {
            *out = (mg_key)k;
            return true;
        }
    return false;
}

/* ---- reading: names, numbers and signs, blanks between them ---- */

static void blanks(const char **s) {
    while (**s == ' ') ++*s;
}

static bool sign(const char **s, char c) {
    blanks(s);
    if (**s != c) return false;
    ++*s;
    return true;
}

static bool key(const char **s, mg_key *out) {
    blanks(s);
    size_t n = strspn(*s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");
    if (n == 0 || (**s >= '0' && **s <= '9') || !mg_key_by_name(*s, n, out)) return false;
    *s += n;
    return true;
}

static bool number(const char **s, uint32_t *out) {
    uint64_t v = 0;
    blanks(s);
    if (**s < '0' || **s > '9') return false;
    for (; **s >= '0' && **s <= '9'; ++*s)
        if ((v = v * 10 + (uint64_t)(**s - '0')) > UINT32_MAX) return false;
    *out = (uint32_t)v;
    return true;
}

static bool at_end(const char *s) {
    blanks(&s);
    return *s == 0;
}

/* A+B, A+B*2 */
static bool sum(const char **s, mg_sym *out) {
    *out = (mg_sym){.kind = MG_SYM_SUM, .c = MG_K_VOCAB};
    if (!key(s, &out->a) || !sign(s, '+') || !key(s, &out->b)) return false;
    const char *t = *s;
    if (sign(&t, '*') && number(&t, &out->mul)) *s = t;
    return true;
}

/* KEY, KEY*KEY, with *N and /N behind */
static bool product(const char **s, mg_sym *out) {
    *out = (mg_sym){.kind = MG_SYM_KEY, .c = MG_K_VOCAB};
    if (!key(s, &out->a)) return false;
    out->b = out->a;
    const char *t = *s;
    if (sign(&t, '*') && key(&t, &out->b)) {
        out->kind = MG_SYM_KEYS;
        *s = t;
    }
    t = *s;
    if (sign(&t, '*') && number(&t, &out->mul) && out->mul) *s = t;
    t = *s;
    if (sign(&t, '/') && number(&t, &out->div) && out->div) *s = t;
    return true;
}

/* e, e*KEY */
static bool expert(const char **s, mg_sym *out) {
    *out = (mg_sym){.kind = MG_SYM_EXPERT, .c = MG_K_VOCAB};
    if (!sign(s, 'e')) return false;
    const char *t = *s;
    if (sign(&t, '*') && key(&t, &out->a)) {
        out->kind = MG_SYM_EXPERT_KEY;
        out->b = out->a;
        *s = t;
    }
    return true;
}

bool mg_sym_parse(const char *text, mg_sym *out) {
    const char *s = text;
    *out = (mg_sym){.kind = MG_SYM_LIT};
    if (number(&s, &out->mul) && at_end(s)) return true;
    if (s = text, expert(&s, out) && at_end(s)) return true;
    if (s = text, sum(&s, out) && at_end(s)) return true;
    if (s = text, product(&s, out) && at_end(s)) return true;
    s = text;
    return sign(&s, '(') && sum(&s, out) && sign(&s, ')') && sign(&s, '*') && key(&s, &out->c) && at_end(s);
}

bool mg_fallback_parse(const char *text, mg_fallback *out) {
    static const struct {
        const char *name;
        mg_fallback_kind kind;
        int keys;
    } words[] = {{"required", MG_FB_REQUIRED, 0}, {"tokens", MG_FB_TOKENS, 0}, {"tensors", MG_FB_TENSORS, 0},
                 {"part(", MG_FB_PART, 2},        {"ratio(", MG_FB_RATIO, 2},  {"root(", MG_FB_ROOT, 1}};
    static const struct {
        char sign;
        mg_fallback_kind kind;
    } signs[] = {{'/', MG_FB_QUOTIENT}, {'*', MG_FB_PRODUCT}, {'+', MG_FB_SUM}, {'-', MG_FB_MINUS}};
    static const mg_key valued[] = {MG_K_ACT, MG_K_ROPE_TYPE, MG_K_SCORE_FUNC};
    uint32_t layers;
    *out = (mg_fallback){.kind = MG_FB_VALUE};
    if (mg_number_parse(text, strlen(text), &out->value)) return true;
    for (size_t i = 0; i < sizeof valued / sizeof *valued; i++)
        for (const mg_enum_name *n = mg_key_enumerators(valued[i]); n->name; n++)
            if (strcmp(n->name, text) == 0) {
                out->value = n->value;
                return true;
            }
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        const size_t n = strlen(words[i].name);
        const char *s = text + n;
        if (strncmp(text, words[i].name, n) != 0) continue;
        *out = (mg_fallback){.kind = words[i].kind};
        if (words[i].keys == 0) return *s == 0;
        if (!key(&s, &out->key) || (words[i].keys == 2 && (!sign(&s, ',') || !key(&s, &out->by)))) return false;
        return sign(&s, ')') && at_end(s);
    }
    const char *s = text + sizeof "score_dim(" - 1;
    *out = (mg_fallback){.kind = MG_FB_SCORE_DIM};
    if (strncmp(text, "score_dim(", sizeof "score_dim(" - 1) == 0) {
        if (!number(&s, &layers) || !sign(&s, ')')) return false;
        out->value = layers;
        return at_end(s);
    }
    s = text;
    *out = (mg_fallback){.kind = MG_FB_KEY};
    if (!key(&s, &out->key)) return false;
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++)
        if (sign(&s, signs[i].sign)) {
            out->kind = signs[i].kind;
            return key(&s, &out->by) && at_end(s);
        }
    return at_end(s);
}

/* ---- printing ---- */

static bool fits(int n, size_t size) {
    return n >= 0 && (size_t)n < size;
}

static bool print_factors(const mg_sym *s, const char *head, char *buf, size_t size) {
    char mul[16] = "", div[16] = "";
    if (s->mul > 1) snprintf(mul, sizeof mul, "*%" PRIu32, s->mul);
    if (s->div > 1) snprintf(div, sizeof div, "/%" PRIu32, s->div);
    return fits(snprintf(buf, size, "%s%s%s", head, mul, div), size);
}

bool mg_sym_print(const mg_sym *s, char *buf, size_t size) {
    char head[96];
    switch (s->kind) {
    case MG_SYM_LIT:
        return fits(snprintf(buf, size, "%" PRIu32, s->mul), size);
    case MG_SYM_KEY:
        return print_factors(s, mg_key_name(s->a), buf, size);
    case MG_SYM_KEYS:
        snprintf(head, sizeof head, "%s*%s", mg_key_name(s->a), mg_key_name(s->b));
        return print_factors(s, head, buf, size);
    case MG_SYM_SUM:
        snprintf(head, sizeof head, "%s+%s", mg_key_name(s->a), mg_key_name(s->b));
        if (s->c == MG_K_VOCAB) return print_factors(s, head, buf, size);
        if (!print_factors(s, head, buf, size)) return false;
        snprintf(head, sizeof head, "%s", buf);
        return fits(snprintf(buf, size, "(%s)*%s", head, mg_key_name(s->c)), size);
    case MG_SYM_EXPERT:
        return fits(snprintf(buf, size, "e"), size);
    case MG_SYM_EXPERT_KEY:
        return fits(snprintf(buf, size, "e*%s", mg_key_name(s->a)), size);
    case MG_SYM_NONE:
        break;
    }
    return false;
}

bool mg_fallback_print(const mg_fallback *fb, const mg_enum_name *names, char *buf, size_t size) {
    const char *a = mg_key_name(fb->key), *b = mg_key_name(fb->by), *value = NULL;
    char digits[MG_NUMBER_MAX], *end;
    switch (fb->kind) {
    case MG_FB_SAME:
        return false;
    case MG_FB_REQUIRED:
        return fits(snprintf(buf, size, "required"), size);
    case MG_FB_TOKENS:
        return fits(snprintf(buf, size, "tokens"), size);
    case MG_FB_TENSORS:
        return fits(snprintf(buf, size, "tensors"), size);
    case MG_FB_VALUE:
        value = names ? mg_enumerator_name(names, (int)fb->value) : NULL;
        if (value) return fits(snprintf(buf, size, "%s", value), size);
        mg_number_print(fb->value, digits);
        if ((end = strstr(digits, ".0")) && !end[2]) *end = 0; /* a whole number is written as one */
        return fits(snprintf(buf, size, "%s", digits), size);
    case MG_FB_KEY:
        return fits(snprintf(buf, size, "%s", a), size);
    case MG_FB_QUOTIENT:
        return fits(snprintf(buf, size, "%s/%s", a, b), size);
    case MG_FB_PRODUCT:
        return fits(snprintf(buf, size, "%s*%s", a, b), size);
    case MG_FB_SUM:
        return fits(snprintf(buf, size, "%s+%s", a, b), size);
    case MG_FB_MINUS:
        return fits(snprintf(buf, size, "%s-%s", a, b), size);
    case MG_FB_PART:
        return fits(snprintf(buf, size, "part(%s,%s)", a, b), size);
    case MG_FB_RATIO:
        return fits(snprintf(buf, size, "ratio(%s,%s)", a, b), size);
    case MG_FB_ROOT:
        return fits(snprintf(buf, size, "root(%s)", a), size);
    case MG_FB_SCORE_DIM:
        return fits(snprintf(buf, size, "score_dim(%.0f)", fb->value), size);
    }
    return false;
}
