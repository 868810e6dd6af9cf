/* json_section.h - members of a large JSON object found without building a tree of the whole: the vocabulary of a
 * tokenizer.json stays text, its small sections become trees. */
#ifndef MG_BASE_JSON_SECTION_H
#define MG_BASE_JSON_SECTION_H

#include "formats/base/json.h"

typedef struct mg_json_section {
    const char *name; /* in: the member wanted (without characters that JSON escapes) */
    mg_span text;     /* out: its value; data NULL when it is absent. Borrowed from the whole text */
    uint64_t at;      /* out: offset of the value in the file */
} mg_json_section;

/* Find the members want[0..n) of the object `text`, which lies at offset `at` of its file. The whole text is checked. A
 * member given twice is MG_ERR_FORMAT. Error offsets count from the start of the file. */
mg_status mg_json_sections(mg_span text, uint64_t at, mg_json_section *want, size_t n, mg_error *err) MG_MUST_CHECK;
/* The value as a tree of the caller's; NULL when it is absent or null. */
mg_status mg_json_section_tree(mg_json **out, const mg_json_section *k, mg_error *err) MG_MUST_CHECK;
/* Members or elements directly inside the value; 0 for a scalar. */
mg_status mg_json_section_count(const mg_json_section *k, size_t *n, mg_error *err) MG_MUST_CHECK;
/* Add `at` to the offset of an error raised inside a section; returns s. */
mg_status mg_json_section_moved(mg_status s, mg_error *err, uint64_t at);

#endif
