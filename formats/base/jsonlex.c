/* jsonlex.c - see jsonlex.h. A state machine over the text; the only memory is one bit per nesting level.
 *
 * states      VALUE        a value must follow (start of text, after ':' or after ',' in an array)
 *             FIRST_ELEM   after '[': a value or ']'
 *             FIRST_KEY    after '{': a key or '}'
 *             KEY          after ',' in an object: a key
 *             AFTER        after a value: ',' or the closing bracket, or the end of the text at depth 0 */
#include "formats/base/jsonlex.h"

#include <string.h>

#include "formats/base/number.h"
#include "formats/base/utf8.h"

enum { VALUE, FIRST_ELEM, FIRST_KEY, KEY, AFTER };

static mg_status bad(mg_error *err, size_t at, const char *what) {
    mg_status s = mg_fail(err, MG_ERR_FORMAT, "JSON: %s", what);
    mg_error_offset(err, at);
    return s;
}

void mg_jsonlex_init(mg_jsonlex *lx, mg_span text, unsigned max_depth) {
    memset(lx, 0, sizeof *lx);
    lx->text = text;
    lx->max_depth = max_depth == 0 ? 16 : max_depth > 64 ? 64 : max_depth;
    lx->state = VALUE;
}

/* Next byte without consuming it, or -1 at the end. */
static int peek(const mg_jsonlex *lx) {
    return lx->at < lx->text.size ? lx->text.data[lx->at] : -1;
}

static int peek_past_space(mg_jsonlex *lx) {
    int c;
    while ((c = peek(lx)) == ' ' || c == '\t' || c == '\n' || c == '\r') lx->at++;
    return c;
}

static int hex_digit(uint8_t c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The four hex digits at s[0..n), or -1. */
static int32_t hex4(const uint8_t *s, size_t n) {
    if (n < 4) return -1;
    int32_t v = 0;
    for (int i = 0; i < 4; i++) {
        int h = hex_digit(s[i]);
        if (h < 0) return -1;
        v = v << 4 | h;
    }
    return v;
}

/* The escape at s[0..n), s[0] == '\\': its length and code point; 0 with *why when it is not valid. */
static size_t escape(const uint8_t *s, size_t n, uint32_t *cp, const char **why) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    *why = "escape sequence that JSON does not have";
    if (n < 2) return 0;
    const char *p = s[1] ? strchr(from, s[1]) : NULL;
    if (p) {
        *cp = (uint8_t)to[p - from];
        return 2;
    }
    if (s[1] != 'u') return 0;
    int32_t hi = hex4(s + 2, n - 2);
    *why = "\\u needs four hexadecimal digits";
    if (hi < 0) return 0;
    *why = "\\u0000 in a string";
    if (hi == 0) return 0;
    *cp = (uint32_t)hi;
    if (hi < 0xD800 || hi > 0xDFFF) return 6;
    *why = "lone surrogate in a string";
    if (hi > 0xDBFF || n < 12 || s[6] != '\\' || s[7] != 'u') return 0;
    int32_t lo = hex4(s + 8, n - 8);
    if (lo < 0xDC00 || lo > 0xDFFF) return 0;
    *cp = 0x10000u + ((uint32_t)(hi - 0xD800) << 10) + (uint32_t)(lo - 0xDC00);
    return 12;
}

/* A string whose opening quote is at lx->at: validated whole, raw set, the closing quote consumed. */
static mg_status scan_string(mg_jsonlex *lx, mg_error *err) {
    const uint8_t *s = lx->text.data;
    size_t n = lx->text.size, at = lx->at + 1;
    lx->raw = (const char *)s + at;
    lx->has_escapes = false;
    while (at < n && s[at] != '"') {
        if (s[at] < 0x20) return bad(err, at, "control byte inside a string");
        size_t len = 1;
        if (s[at] == '\\') {
            uint32_t cp;
            const char *why;
            len = escape(s + at, n - at, &cp, &why);
            if (len == 0) return bad(err, at, why);
            lx->has_escapes = true;
        } else if (s[at] >= 0x80) {
            len = mg_utf8_decode(s + at, n - at, NULL);
            if (len == 0) return bad(err, at, "invalid UTF-8 inside a string");
        }
        at += len;
    }
    if (at >= n) return bad(err, lx->token_at, "string without an end");
    lx->raw_len = at - (lx->at + 1);
    lx->at = at + 1;
    return MG_OK;
}

static size_t count_digits(mg_jsonlex *lx) {
    size_t k = 0;
    for (int c; (c = peek(lx)) >= '0' && c <= '9'; k++) lx->at++;
    return k;
}

static mg_status scan_number(mg_jsonlex *lx, mg_error *err) {
    size_t begin = lx->at;
    if (peek(lx) == '-') lx->at++;
    bool zero = peek(lx) == '0';
    size_t k = count_digits(lx);
    if (k == 0 || (zero && k > 1))
        return bad(err, begin, "number outside the grammar (NaN, Infinity, +1, .5, 01 are not JSON)");
    if (peek(lx) == '.') {
        lx->at++;
        if (count_digits(lx) == 0) return bad(err, begin, "number without digits after the point");
    }
    if (peek(lx) == 'e' || peek(lx) == 'E') {
        lx->at++;
        if (peek(lx) == '+' || peek(lx) == '-') lx->at++;
        if (count_digits(lx) == 0) return bad(err, begin, "number without digits in the exponent");
    }
    lx->raw = (const char *)lx->text.data + begin;
    lx->raw_len = lx->at - begin;
    return MG_OK;
}

static mg_status scan_word(mg_jsonlex *lx, const char *word, mg_jtok is, mg_jtok *tok, mg_error *err) {
    size_t n = strlen(word);
    if (lx->text.size - lx->at < n || memcmp(lx->text.data + lx->at, word, n) != 0)
        return bad(err, lx->at, "a value was expected");
    lx->at += n;
    *tok = is;
    return MG_OK;
}

static mg_status open_level(mg_jsonlex *lx, bool object, mg_jtok *tok, mg_error *err) {
    if (lx->depth >= lx->max_depth) return bad(err, lx->at, "nested too deeply");
    uint64_t bit = UINT64_C(1) << lx->depth++;
    lx->stack = object ? lx->stack | bit : lx->stack & ~bit;
    lx->at++;
    lx->state = object ? FIRST_KEY : FIRST_ELEM;
    *tok = object ? MG_JTOK_OBJ_BEGIN : MG_JTOK_ARR_BEGIN;
    return MG_OK;
}

static bool in_object(const mg_jsonlex *lx) {
    return lx->depth > 0 && (lx->stack >> (lx->depth - 1) & 1);
}

static mg_status close_level(mg_jsonlex *lx, mg_jtok *tok) {
    *tok = in_object(lx) ? MG_JTOK_OBJ_END : MG_JTOK_ARR_END;
    lx->depth--;
    lx->at++;
    lx->state = AFTER;
    return MG_OK;
}

static mg_status scan_key(mg_jsonlex *lx, mg_jtok *tok, mg_error *err) {
    if (peek(lx) != '"') return bad(err, lx->at, "a member name in quotes was expected");
    mg_status s = scan_string(lx, err);
    if (s) return s;
    if (peek_past_space(lx) != ':') return bad(err, lx->at, "':' was expected after a member name");
    lx->at++;
    lx->state = VALUE;
    *tok = MG_JTOK_KEY;
    return MG_OK;
}

static mg_status scan_value(mg_jsonlex *lx, mg_jtok *tok, mg_error *err) {
    int c = peek(lx);
    lx->state = AFTER;
    switch (c) {
    case '{':
        return open_level(lx, true, tok, err);
    case '[':
        return open_level(lx, false, tok, err);
    case '"':
        *tok = MG_JTOK_STRING;
        return scan_string(lx, err);
    case 't':
        return scan_word(lx, "true", MG_JTOK_TRUE, tok, err);
    case 'f':
        return scan_word(lx, "false", MG_JTOK_FALSE, tok, err);
    case 'n':
        return scan_word(lx, "null", MG_JTOK_NULL, tok, err);
    case -1:
        return bad(err, lx->at, "the text ends where a value was expected");
    default:
        break;
    }
    if (c != '-' && c != '+' && c != '.' && (c < '0' || c > '9') && c != 'N' && c != 'I')
        return bad(err, lx->at, c == 0xEF ? "a value was expected (byte order mark?)" : "a value was expected");
    *tok = MG_JTOK_NUMBER;
    return scan_number(lx, err);
}

mg_status mg_jsonlex_next(mg_jsonlex *lx, mg_jtok *tok, mg_error *err) {
    int c = peek_past_space(lx);
    lx->token_at = lx->at;
    if (lx->state == AFTER && lx->depth == 0) {
        if (c != -1) return bad(err, lx->at, "bytes after the value");
        *tok = MG_JTOK_END;
        return MG_OK;
    }
    if (c == -1) return bad(err, lx->at, lx->depth ? "the text ends inside an object or array" : "empty text");
    if (lx->state != VALUE && lx->state != KEY && c == (in_object(lx) ? '}' : ']')) return close_level(lx, tok);
    if (lx->state == AFTER) {
        if (c != ',') return bad(err, lx->at, in_object(lx) ? "',' or '}' was expected" : "',' or ']' was expected");
        lx->at++;
        lx->state = in_object(lx) ? KEY : VALUE;
        peek_past_space(lx);
        lx->token_at = lx->at;
    }
    if (lx->state == KEY || lx->state == FIRST_KEY) return scan_key(lx, tok, err);
    return scan_value(lx, tok, err);
}

mg_status mg_jsonlex_skip(mg_jsonlex *lx, mg_jtok tok, mg_error *err) {
    if (tok != MG_JTOK_OBJ_BEGIN && tok != MG_JTOK_ARR_BEGIN) return MG_OK;
    unsigned outer = lx->depth - 1;
    while (lx->depth > outer) {
        mg_status s = mg_jsonlex_next(lx, &tok, err);
        if (s) return s;
    }
    return MG_OK;
}

mg_status mg_jsonlex_string(const mg_jsonlex *lx, char *dst, size_t cap, size_t *len, mg_error *err) {
    const uint8_t *s = (const uint8_t *)lx->raw;
    size_t n = lx->raw_len, out = 0, used = 1;
    bool fits = cap > 0;
    for (size_t at = 0; fits && at < n; at += used) {
        char buf[4] = {(char)s[at]};
        size_t made = used = 1;
        if (s[at] == '\\') {
            uint32_t cp = 0;
            const char *why;
            used = escape(s + at, n - at, &cp, &why);
            if (used == 0) return bad(err, lx->token_at, why);
            made = mg_utf8_encode(cp, buf);
        }
        fits = made < cap - out; /* out < cap always: the NUL has its place */
        if (fits) memcpy(dst + out, buf, made);
        out += fits ? made : 0;
    }
    if (!fits) {
        mg_status st = mg_fail(err, MG_ERR_LIMIT, "JSON: string of %zu bytes does not fit %zu", n, cap);
        mg_error_offset(err, lx->token_at);
        return st;
    }
    dst[out] = 0;
    if (len) *len = out;
    return MG_OK;
}

mg_status mg_jsonlex_u64(const mg_jsonlex *lx, uint64_t *out, mg_error *err) {
    uint64_t v = 0;
    for (size_t i = 0; i < lx->raw_len; i++) {
        char c = lx->raw[i];
        if (c < '0' || c > '9') return bad(err, lx->token_at, "a non-negative integer was expected");
        if (__builtin_mul_overflow(v, UINT64_C(10), &v) || __builtin_add_overflow(v, (uint64_t)(c - '0'), &v))
            return bad(err, lx->token_at, "integer does not fit 64 bits");
    }
    *out = v;
    return MG_OK;
}

mg_status mg_jsonlex_f64(const mg_jsonlex *lx, double *out, mg_error *err) {
    if (!mg_number_parse(lx->raw, lx->raw_len, out)) return bad(err, lx->token_at, "number does not fit a double");
    return MG_OK;
}
