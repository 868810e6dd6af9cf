/* unicode.h - Unicode normalization and lower case, as the tokenizers library applies them: normalization forms of
 * Unicode 12.0 (later characters stay as they are), lower case character by character. The only includer of utf8proc.
 */
#ifndef MG_BASE_UNICODE_H
#define MG_BASE_UNICODE_H

#include "formats/base/status.h"

typedef enum mg_unicode_form { MG_UNICODE_NFC, MG_UNICODE_NFD, MG_UNICODE_NFKC, MG_UNICODE_NFKD } mg_unicode_form;

/* text[0..n) in the form: malloc'ed, NUL-terminated, *len bytes. MG_ERR_FORMAT when text is not UTF-8; MG_ERR_LIMIT
 * from 512 MiB. */
mg_status mg_unicode_normalize(mg_unicode_form form, const char *text, size_t n, char **out, size_t *len,
                               mg_error *err) MG_MUST_CHECK;
/* The lower case of a character: 1 or 2 code points, none of which depends on its neighbours. Returns how many. */
size_t mg_unicode_lower(uint32_t cp, uint32_t out[2]);
/* Bytes of the first grapheme cluster of text[0..n), which is UTF-8 and not empty. */
size_t mg_unicode_cluster(const char *text, size_t n);
/* The property White_Space. */
bool mg_unicode_is_space(uint32_t cp);

#endif
