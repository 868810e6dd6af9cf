/* jsonlex.h - strict pull lexer for JSON: safetensors headers, indexes, tokenizer.json, and validation of any text
 * before cJSON sees it. Linear time, constant memory, borrowed input.
 *
 * Refused (MG_ERR_FORMAT with the byte offset): BOM or control bytes outside strings, invalid UTF-8, unescaped control
 * bytes in strings, lone surrogates, \u0000, numbers outside the grammar (01, 1., .5, +1), bytes after the value,
 * nesting beyond max_depth. Duplicate keys are checked by the tree reader (json.h) and by callers that build indexes.
 */
#ifndef MG_BASE_JSONLEX_H
#define MG_BASE_JSONLEX_H

#include "formats/base/checked.h"
#include "formats/base/status.h"

typedef enum mg_jtok {
    MG_JTOK_END = 0, /* input exhausted after a complete value */
    MG_JTOK_OBJ_BEGIN,
    MG_JTOK_OBJ_END,
    MG_JTOK_ARR_BEGIN,
    MG_JTOK_ARR_END,
    MG_JTOK_KEY, /* string in key position; the ':' has been consumed */
    MG_JTOK_STRING,
    MG_JTOK_NUMBER,
    MG_JTOK_TRUE,
    MG_JTOK_FALSE,
    MG_JTOK_NULL,
} mg_jtok;

typedef struct mg_jsonlex {
    mg_span text;
    size_t at;                 /* offset of the next byte */
    size_t token_at;           /* offset of the current token */
    unsigned depth, max_depth; /* max_depth <= 64 */
    uint64_t stack;            /* one bit per level: 1 object, 0 array */
    unsigned state;            /* private */
    const char *raw;           /* STRING/KEY: bytes between the quotes, still escaped; NUMBER: its text */
    size_t raw_len;
    bool has_escapes;
} mg_jsonlex;

/* max_depth 0 means 16. */
void mg_jsonlex_init(mg_jsonlex *lx, mg_span text, unsigned max_depth);
/* Next token (commas and colons consumed and checked). */
mg_status mg_jsonlex_next(mg_jsonlex *lx, mg_jtok *tok, mg_error *err) MG_MUST_CHECK;
/* Skip the value that starts with tok (whole object or array). */
mg_status mg_jsonlex_skip(mg_jsonlex *lx, mg_jtok tok, mg_error *err) MG_MUST_CHECK;
/* Current STRING/KEY unescaped into dst (capacity cap, NUL-terminated); *len bytes. Never longer than raw_len. */
mg_status mg_jsonlex_string(const mg_jsonlex *lx, char *dst, size_t cap, size_t *len, mg_error *err) MG_MUST_CHECK;
/* Current NUMBER as an exact unsigned integer: no sign, fraction or exponent, must fit 64 bits. */
mg_status mg_jsonlex_u64(const mg_jsonlex *lx, uint64_t *out, mg_error *err) MG_MUST_CHECK;
mg_status mg_jsonlex_f64(const mg_jsonlex *lx, double *out, mg_error *err) MG_MUST_CHECK;

#endif
