/* token_class.h - what kind of text a token is, for saying on which kinds two models differ. */
#ifndef MG_VERIFY_TOKEN_CLASS_H
#define MG_VERIFY_TOKEN_CLASS_H

#include "formats/tokenizer.h"

typedef enum mg_token_class {
    MG_CLASS_WORD,        /* begins a word: a letter behind a blank */
    MG_CLASS_PIECE,       /* goes on with a word: a letter first, or a byte of another character */
    MG_CLASS_NUMBER,      /* a digit first, whatever blanks are before it */
    MG_CLASS_PUNCTUATION, /* any other ASCII character first */
    MG_CLASS_SPACE,       /* nothing but blanks and ends of line */
    MG_CLASS_SPECIAL,     /* control tokens, unknown and unused ones */
    MG_CLASS_COUNT
} mg_token_class;

const char *mg_token_class_name(mg_token_class c);
/* Class of every token: *out is malloc'ed, [n]. Ids beyond the tokenizer's are SPECIAL. */
mg_status mg_token_classes(uint8_t **out, uint64_t n, const mg_tokenizer *t, mg_error *err) MG_MUST_CHECK;

#endif
