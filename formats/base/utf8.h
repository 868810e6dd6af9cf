/* utf8.h - UTF-8 in both directions, as Unicode 15 table 3-7 defines it: no overlong forms, no surrogates, at most
 * U+10FFFF. */
#ifndef MG_BASE_UTF8_H
#define MG_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Length (1..4) of the valid sequence at the start of s[0..n), its code point in *cp (may be NULL); 0 when it is not
 * valid. */
size_t mg_utf8_decode(const uint8_t *s, size_t n, uint32_t *cp);
/* Writes 1..4 bytes (no NUL) and returns how many; a surrogate or a value above U+10FFFF is written as U+FFFD. */
size_t mg_utf8_encode(uint32_t cp, char out[4]);
/* Bytes of the longest valid prefix of s[0..n): n when all of it is valid. */
size_t mg_utf8_valid_prefix(const uint8_t *s, size_t n);

#endif
