/* regex.h - regular expressions over UTF-8 text, in the syntax tokenizer.json files are written in. The only includer
 * of PCRE2.
 *
 * Patterns are Oniguruma's (Ruby syntax), because the tokenizers library runs them with it. They are parsed and written
 * anew for PCRE2 (regex_syntax.c), so that every construct means what it means there: `&&` in a class is an
 * intersection, `\s` is Unicode White_Space, `\p{Han}` the script itself, categories are those of Unicode 16 whatever
 * the installed PCRE2 knows. `\p{_word}` is ours: what Rust's regular expressions call `\w`. What has not been shown to
 * mean the same is MG_ERR_UNSUPPORTED by name.
 *
 * Bounded: patterns have a length and a depth, a search has a match limit and a heap limit (MG_ERR_LIMIT). */
#ifndef MG_BASE_REGEX_H
#define MG_BASE_REGEX_H

#include "formats/base/status.h"

/* A compiled pattern. Immutable: any number of threads may search with it. */
typedef struct mg_regex mg_regex;
mg_status mg_regex_new(mg_regex **out, const char *pattern, mg_error *err) MG_MUST_CHECK;
void mg_regex_free(mg_regex *r);

/* What one thread needs to search: match memory and the text. */
typedef struct mg_regex_run mg_regex_run;
mg_status mg_regex_run_new(mg_regex_run **out, mg_error *err) MG_MUST_CHECK;
void mg_regex_run_free(mg_regex_run *run);
/* The text of the following searches, borrowed. Checked here, once: MG_ERR_FORMAT when it is not UTF-8. */
mg_status mg_regex_run_text(mg_regex_run *run, const char *text, size_t n, mg_error *err) MG_MUST_CHECK;
/* The first match that begins at `from` (a character boundary) or later; look-behind sees the text before. begin ==
 * end: an empty match. */
mg_status mg_regex_search(const mg_regex *r, mg_regex_run *run, size_t from, bool *found, size_t *begin, size_t *end,
                          mg_error *err) MG_MUST_CHECK;

/* The pattern as PCRE2 syntax, malloc'ed (regex_syntax.c; for mg_regex_new and its tests). */
mg_status mg_regex_translate(char **out, const char *pattern, mg_error *err) MG_MUST_CHECK;

#endif
