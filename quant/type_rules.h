/* type_rules.h - "REGEX=TYPE" rules that give single tensors a type of their own (--tensor-type, --tensor-type-file).
 *
 * Meaning as in llama-quantize: the pattern is lower-cased and searched for anywhere in the tensor name, the first rule
 * that matches wins. llama-quantize uses ECMAScript patterns and we use POSIX extended ones of the C library; \d \w \s
 * (also inside brackets), lazy quantifiers and (?: ) are translated, which is exact because only "matches or not" is
 * asked. Look-ahead and \x / \u / \c escapes have no counterpart and are refused. */
#ifndef MG_QUANT_TYPE_RULES_H
#define MG_QUANT_TYPE_RULES_H

#include "formats/dtype.h"

typedef struct mg_type_rules {
    struct mg_type_rule *items; /* private */
    uint32_t n, cap;
} mg_type_rules;

void mg_type_rules_init(mg_type_rules *r);
void mg_type_rules_release(mg_type_rules *r);
/* One "REGEX=TYPE" (split at the first '='); TYPE is a ggml type name in any case. MG_ERR_USAGE, MG_ERR_UNSUPPORTED. */
mg_status mg_type_rules_add(mg_type_rules *r, const char *text, mg_error *err) MG_MUST_CHECK;
/* A file of such rules separated by white space (at most 16 MiB). */
mg_status mg_type_rules_load(mg_type_rules *r, const char *path, mg_error *err) MG_MUST_CHECK;
/* dtype of the first rule that matches name, MG_DTYPE_COUNT for none. r may be NULL. */
mg_dtype mg_type_rules_match(const mg_type_rules *r, const char *name);

#endif
