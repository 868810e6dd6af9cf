/* charsmap.h - the normalization table of SentencePiece ("precompiled_charsmap"): strings and what each becomes.
 *
 * Format: u32 little-endian, bytes of the table that follows; the table, a double-array trie of u32 units; then the
 * replacements, each ended by a NUL. A unit holds a label (bits 0-7), a leaf flag (8), a shift flag (9) and an offset
 * (10-31); the value of a leaf is where its replacement begins. */
#ifndef MG_FORMATS_CHARSMAP_H
#define MG_FORMATS_CHARSMAP_H

#include "formats/base/status.h"

typedef struct mg_charsmap {
    const uint8_t *units; /* borrowed, [n_units * 4], not aligned */
    uint32_t n_units;
    const char *texts; /* the replacements, the last one ended too */
    size_t n_texts;
} mg_charsmap;

/* Over bytes that stay where they are. MG_ERR_FORMAT: not such a table, or replacements that are no UTF-8. */
mg_status mg_charsmap_init(mg_charsmap *m, const uint8_t *bytes, size_t n, mg_error *err) MG_MUST_CHECK;
/* The prefixes of key[0..n) in the table, shortest or longest: its length (0: none), and what it becomes. */
size_t mg_charsmap_shortest(const mg_charsmap *m, const char *key, size_t n, const char **to);
size_t mg_charsmap_longest(const mg_charsmap *m, const char *key, size_t n, const char **to);

#endif
