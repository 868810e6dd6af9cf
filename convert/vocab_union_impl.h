/* vocab_union_impl.h - what vocab_union.c and vocab_files.c share. */
#ifndef MG_CONVERT_VOCAB_UNION_IMPL_H
#define MG_CONVERT_VOCAB_UNION_IMPL_H

#include "convert/vocab_union.h"
#include "formats/base/arena.h"
#include "formats/base/strmap.h"
#include "formats/base/tempdir.h"
#include "formats/tokenizer.h"

typedef struct mg_vocab_model {
    mg_donor *donor;
    mg_tokenizer *tok; /* NULL: it has none, and is taken to have the base's */
    uint32_t rows;
    mg_strmap ids; /* text -> row */
} mg_vocab_model;

/* How a token came to the tokenizer: not at all, it was there; as a word of another vocabulary; as one that was added
 * there. */
typedef enum mg_vocab_added { MG_ADDED_NOT, MG_ADDED_WORD, MG_ADDED_USER, MG_ADDED_SPECIAL } mg_vocab_added;
typedef enum mg_vocab_kind { MG_ROW_OF, MG_ROW_ZERO, MG_ROW_MEAN } mg_vocab_kind;

typedef struct mg_vocab_token {
    const char *text;
    uint32_t len;
    mg_vocab_added added;
    mg_vocab_kind kind;   /* of models that lack it, with force of all */
    uint32_t source, row; /* MG_ROW_OF: a model's row */
    bool force;
} mg_vocab_token;

struct mg_vocab_union {
    mg_arena arena;
    mg_vocab_model *models; /* the base first; each once */
    uint32_t n_models, basis;
    mg_vocab_token *tokens; /* [n] by number */
    uint32_t n, cap, n_basis;
    mg_strmap ids;
    uint64_t rows;
    mg_tempdir dir; /* of vocab_files.c */
};

#endif
