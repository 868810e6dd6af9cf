/* text.h - questions about strings that the C library does not answer. */
#ifndef MG_BASE_TEXT_H
#define MG_BASE_TEXT_H

#include <stdbool.h>
#include <string.h>

/* Is tail the end of s, or all of it? */
static inline bool mg_ends_with(const char *s, const char *tail) {
    const size_t n = strlen(s), m = strlen(tail);
    return n >= m && strcmp(s + n - m, tail) == 0;
}

#endif
