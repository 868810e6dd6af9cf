/* vocab_union.h - a vocabulary made of several models': mergekit's tokenizer_source: union, and its `tokenizer`
 * mapping.
 *
 * The result's tokenizer is one model's, with tokens added that others have and tokens that the recipe names: they are
 * found in text as whole strings, merges stay what they were. Rows of embeddings and heads are gathered by the text of
 * tokens. A model's row for a token that it lacks is: what the recipe says, else the row of the only model that has it,
 * else the base's, else the mean of those that have it. Rows that pad are the mean of all rows. */
#ifndef MG_CONVERT_VOCAB_UNION_H
#define MG_CONVERT_VOCAB_UNION_H

#include "convert/donors.h"
#include "convert/plan.h"
#include "formats/base/yaml.h"

/* tokenizer.tokens.X: where the row of a token comes from. */
typedef struct mg_vocab_rule {
    const char *token;
    const char *model;    /* resolved; NULL: a row of zeros */
    const char *of_token; /* that model's row of another token, or */
    int64_t of_id;        /* of a row by number; -1: of the token itself */
    bool force;           /* of models that have the token, too */
    unsigned line;
} mg_vocab_rule;

typedef struct mg_vocab_spec {
    bool rebuild;       /* else the base's vocabulary stays as it is */
    bool any_vocab;     /* tokenizer_source: base: models may have other tokens */
    bool unite;         /* tokens of all models */
    const char *source; /* whose tokenizer it is, resolved; NULL: the base's */
    mg_vocab_rule *rules;
    uint32_t n_rules;
    uint64_t multiple; /* of which the number of rows is made; 0: no padding */
} mg_vocab_spec;

/* tokenizer_source and tokenizer of a recipe in folder dir. */
mg_status mg_vocab_spec_read(mg_vocab_spec *s, mg_arena *arena, const char *dir, const mg_yaml *root,
                             mg_error *err) MG_MUST_CHECK;

typedef struct mg_vocab_union mg_vocab_union;

/* donors[0] is the base. MG_ERR_CONFLICT: a model without a tokenizer and with another number of rows, a rule for a
 * token that its model lacks, a source that is not among the models; MG_ERR_UNSUPPORTED: tokenizers that are not read,
 * or that have more tokens than their model has rows. *out is the caller's. */
mg_status mg_vocab_union_make(mg_vocab_union **out, const mg_vocab_spec *s, mg_donor *d, uint32_t n,
                              mg_error *err) MG_MUST_CHECK;
void mg_vocab_union_free(mg_vocab_union *u);

/* "1024 tokens of 'base', 3 more ..., 61 rows of padding" into buf. */
void mg_vocab_union_text(const mg_vocab_union *u, char *buf, size_t size);
/* Donor d's matrix of rows per token for the new vocabulary. rows(ctx, donor) gives any donor's own. F32 where rows
 * are means. Padding reads the matrix once while planning. */
typedef mg_status (*mg_vocab_rows_fn)(void *ctx, mg_donor *d, const mg_expr **out, mg_error *err);
mg_status mg_vocab_union_rows(mg_plan *p, mg_vocab_union *u, const mg_donor *d, mg_vocab_rows_fn rows, void *ctx,
                              const mg_expr **out, mg_error *err) MG_MUST_CHECK;

/* Its size, and the special tokens of its basis, into a config.json of family arch. */
void mg_vocab_union_config(const mg_vocab_union *u, mg_json *config, const struct mg_arch *arch);
/* The side files of the result into a directory output. */
mg_status mg_vocab_union_add_files(mg_plan *p, uint32_t out, mg_vocab_union *u, mg_error *err) MG_MUST_CHECK;
/* A folder that holds these files while u lives, for those who read a model that is not written. */
mg_status mg_vocab_union_dir(mg_vocab_union *u, const char **dir, mg_error *err) MG_MUST_CHECK;

#endif
