/* unicode.c - see unicode.h. The only includer of utf8proc.
 *
 * The tokenizers library normalizes with the data of Unicode 12.0, utf8proc with that of its own version. Characters
 * that were assigned later are unassigned there: no decomposition, combining class 0, no part in compositions. So a
 * text is cut before and behind them, and what lies between is normalized by utf8proc; Unicode's stability policy makes
 * that the same. The text is also cut where nothing can interact, which bounds the memory. */
#include "formats/base/unicode.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "formats/base/utf8.h"

enum { SEGMENT = 4096, MAX_TEXT = 1 << 29 };

typedef struct range {
    uint32_t from, to;
} range;

/* Characters of Unicode 12.1 to 15.0 that decompose, compose or have a combining class. Found by comparing
 * utf8proc 2.8.0 with tokenizers 0.23.3 over all characters. */
static const range later[] = {
    {0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},     {0xC3C, 0xC3C},
    {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},   {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},
    {0x32FF, 0x32FF},   {0xA7F2, 0xA7F4},   {0xA82C, 0xA82C},   {0xAB69, 0xAB69},   {0x10781, 0x10785},
    {0x10787, 0x107B0}, {0x107B2, 0x107BA}, {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF},
    {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E},
    {0x11839, 0x1183A}, {0x11930, 0x11930}, {0x11938, 0x11938}, {0x1193D, 0x1193E}, {0x11943, 0x11943},
    {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42},
    {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x11F41, 0x11F42}, {0x16FF0, 0x16FF1}, {0x1E030, 0x1E06D},
    {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF},
    {0x1F16C, 0x1F16C}, {0x1FBF0, 0x1FBF9},
};

/* And U+11A7, which takes no part in compositions: utf8proc 2.8 swallows it behind a Hangul syllable (it stands where
 * the arithmetic of syllables has "no final consonant"). */
static bool stands_alone(uint32_t c) {
    size_t lo = 0, hi = sizeof later / sizeof *later;
    if (c < later[0].from) return false;
    if (c == 0x11A7) return true;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (c > later[mid].to)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < sizeof later / sizeof *later && c >= later[lo].from;
}

/* Characters that neither reorder nor compose with what stands before them: ASCII and ideographs. */
static bool begins_afresh(uint32_t c) {
    return c < 0x80 || (c >= 0x4E00 && c <= 0x9FFF);
}

typedef struct output {
    char *data;
    size_t n, cap;
} output;

static mg_status put(output *o, const void *bytes, size_t n, mg_error *err) {
    if (n >= o->cap - o->n) {
        size_t cap = (o->cap + n) * 2 + 64;
        char *data = realloc(o->data, cap);
        if (!data) return mg_fail_nomem(err, cap);
        o->data = data;
        o->cap = cap;
    }
    if (n) memcpy(o->data + o->n, bytes, n);
    o->n += n;
    o->data[o->n] = 0;
    return MG_OK;
}

static mg_status put_segment(output *o, mg_unicode_form form, const char *text, size_t n, mg_error *err) {
    static const int options[] = {
        [MG_UNICODE_NFC] = UTF8PROC_COMPOSE,
        [MG_UNICODE_NFD] = UTF8PROC_DECOMPOSE,
        [MG_UNICODE_NFKC] = UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
        [MG_UNICODE_NFKD] = UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT,
    };
    utf8proc_uint8_t *made = NULL;
    utf8proc_ssize_t len = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)n, &made,
                                        (utf8proc_option_t)(UTF8PROC_STABLE | options[form]));
    if (len == UTF8PROC_ERROR_NOMEM) return mg_fail_nomem(err, n * 4);
    if (len < 0) return mg_fail(err, MG_ERR_FORMAT, "normalization: %s", utf8proc_errmsg(len));
    mg_status s = put(o, made, (size_t)len, err);
    free(made);
    return s;
}

mg_status mg_unicode_normalize(mg_unicode_form form, const char *text, size_t n, char **out, size_t *len,
                               mg_error *err) {
    *out = NULL;
    *len = 0;
    if (n >= MAX_TEXT) return mg_fail(err, MG_ERR_LIMIT, "normalization: text of %zu bytes", n);
    output o = {0};
    mg_status s = put(&o, "", 0, err);
    size_t begin = 0;
    bool plain = true; /* text[begin..at) is ASCII, which no form changes */
    for (size_t at = 0; at <= n && !s;) {
        uint32_t c = 0;
        size_t size = at < n ? mg_utf8_decode((const uint8_t *)text + at, n - at, &c) : 1;
        if (size == 0) {
            s = mg_fail(err, MG_ERR_FORMAT, "normalization: text is not UTF-8 at byte %zu", at);
            break;
        }
        bool alone = at < n && stands_alone(c);
        if (at == n || alone || (at - begin >= SEGMENT && begins_afresh(c))) {
            s = plain ? put(&o, text + begin, at - begin, err) : put_segment(&o, form, text + begin, at - begin, err);
            if (!s && alone) s = put(&o, text + at, size, err);
            begin = alone ? at + size : at;
            plain = true;
        }
        if (!alone) plain = plain && c < 0x80;
        at += size;
    }
    if (s) {
        free(o.data);
        return s;
    }
    *out = o.data;
    *len = o.n;
    return MG_OK;
}

size_t mg_unicode_lower(uint32_t cp, uint32_t out[2]) {
    /* pairs of Unicode 15.1 to 17, which the library has and utf8proc 2.8 has not: from, to, distance */
    static const struct {
        uint32_t from, to;
        int32_t by;
    } added[] = {
        {0x1C89, 0x1C89, 1},    {0xA7CB, 0xA7CB, -42343}, {0xA7CC, 0xA7CC, 1}, {0xA7CE, 0xA7CE, 1},
        {0xA7D2, 0xA7D2, 1},    {0xA7D4, 0xA7D4, 1},      {0xA7DA, 0xA7DA, 1}, {0xA7DC, 0xA7DC, -42561},
        {0x10D50, 0x10D65, 32}, {0x16EA0, 0x16EB8, 27},
    };
    if (cp < 0x80) {
        out[0] = cp >= 'A' && cp <= 'Z' ? cp + 32 : cp;
        return 1;
    }
    if (cp == 0x130) { /* the one character whose lower case is two */
        out[0] = 'i';
        out[1] = 0x307;
        return 2;
    }
    for (size_t i = 0; i < sizeof added / sizeof *added; i++)
        if (cp >= added[i].from && cp <= added[i].to) {
            out[0] = (uint32_t)((int32_t)cp + added[i].by);
            return 1;
        }
    out[0] = cp <= 0x10FFFF ? (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp) : cp;
    return 1;
}

bool mg_unicode_is_space(uint32_t c) {
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
           c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

size_t mg_unicode_cluster(const char *text, size_t n) {
    uint32_t before, c;
    utf8proc_int32_t state = 0;
    size_t at = mg_utf8_decode((const uint8_t *)text, n, &before);
    for (size_t len; at < n; at += len, before = c) {
        len = mg_utf8_decode((const uint8_t *)text + at, n - at, &c);
        if (utf8proc_grapheme_break_stateful((utf8proc_int32_t)before, (utf8proc_int32_t)c, &state)) break;
    }
    return at;
}
