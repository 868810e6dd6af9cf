/* builtin_text.h - the text verify scores when none is given: a page of our own prose, code, arithmetic and JSON, so
 * that a quick check needs no file. Its sha256 is part of the result, so figures from it are never confused with
 * others. */
#ifndef MG_VERIFY_BUILTIN_TEXT_H
#define MG_VERIFY_BUILTIN_TEXT_H

#include <stddef.h>

extern const char mg_builtin_text[];
extern const size_t mg_builtin_text_size; /* without the NUL */

#endif
