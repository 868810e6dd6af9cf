/* tokenizer_impl.h - the inside of mg_tokenizer, for the readers (tokenizer_json.c, tokenizer_steps.c, tokenizer_spm.c,
 * tokenizer_gpt2.c) and the engine (tokenizer.c, tokenizer_split.c, tokenizer_cut.c, tokenizer_bytes.c,
 * tokenizer_bpe.c). Not for anyone else. */
#ifndef MG_FORMATS_TOKENIZER_IMPL_H
#define MG_FORMATS_TOKENIZER_IMPL_H

#include "formats/base/arena.h"
#include "formats/base/regex.h"
#include "formats/base/json.h"
#include "formats/base/strmap.h"
#include "formats/base/unicode.h"
#include "formats/charsmap.h"
#include "formats/tokenizer.h"

#define MG_SPACE_MARK "\xE2\x96\x81" /* U+2581, what SentencePiece writes for a blank */

typedef enum mg_tok_opkind {
    MG_TOK_PREPEND,         /* `to` before every piece of text between special tokens that is not empty */
    MG_TOK_PREPEND_FIRST,   /* the same for the piece at offset 0 of the whole text only */
    MG_TOK_REPLACE,         /* every `from` by `to` */
    MG_TOK_NOT_TWICE,       /* `to` before the text unless it begins with it (Metaspace "always") */
    MG_TOK_NOT_TWICE_FIRST, /* the same at offset 0 only (Metaspace "first") */
    MG_TOK_REPLACE_MATCHES, /* every match of `regex` by `to` */
    MG_TOK_NORMALIZE,       /* Unicode normalization to `form` */
    MG_TOK_LOWERCASE,
    MG_TOK_CHARSMAP,         /* SentencePiece's table, as the tokenizers library applies it */
    MG_TOK_CHARSMAP_LONGEST, /* the same as SentencePiece does: the longest entry at every place, but where one of the
                                tokens that `leaves` looks for in normalized text stands */
    MG_TOK_SQUEEZE,          /* no blank at the ends, no two beside each other (remove_extra_whitespaces) */
    MG_TOK_TRIM,             /* white space off the left and right side */
} mg_tok_opkind;

typedef struct mg_tok_op {
    mg_tok_opkind kind;
    const char *from, *to;
    const mg_regex *regex;
    mg_unicode_form form;
    mg_charsmap charsmap;
    const mg_tokenizer *leaves; /* NULL: none */
    bool left, right;
} mg_tok_op;

/* ---- pre-tokenizer: steps that cut pieces into pieces, or rewrite them ---- */

typedef enum mg_tok_behavior { /* what becomes of a match */
                               MG_TOK_ISOLATED,
                               MG_TOK_REMOVED,
                               MG_TOK_CONTIGUOUS,      /* neighbouring matches are one piece */
                               MG_TOK_MERGED_PREVIOUS, /* it ends the piece before it */
                               MG_TOK_MERGED_NEXT,     /* it begins the piece behind it */
} mg_tok_behavior;

typedef enum mg_tok_prekind {
    MG_TOK_PRE_SPLIT,     /* at the matches of `regex`, or of the string `literal` */
    MG_TOK_PRE_BLANK,     /* a blank before every piece that does not begin with one */
    MG_TOK_PRE_BYTES,     /* every byte as the character that stands for it (tokenizer_bytes.c) */
    MG_TOK_PRE_METASPACE, /* blanks as marks, one before the piece as `blank` says (the kinds of mg_tok_op) */
} mg_tok_prekind;

typedef struct mg_tok_pre {
    mg_tok_prekind kind;
    mg_tok_behavior behavior;
    const mg_regex *regex;
    const char *literal;
    bool invert;         /* the text between the matches is what matches */
    mg_tok_opkind blank; /* MG_TOK_NOT_TWICE, MG_TOK_NOT_TWICE_FIRST or MG_TOK_REPLACE (none) */
    bool split;          /* Metaspace: every mark begins a piece */
} mg_tok_pre;

/* An added or special token: matched in the text before anything else happens to it. */
typedef struct mg_tok_added {
    int32_t id;
    const char *match; /* what is looked for: the content, normalized when `normalized`, unless the reader says so */
    size_t len;
    bool special;        /* looked for only with MG_ENCODE_SPECIAL */
    bool normalized;     /* looked for in the normalized text */
    bool lstrip, rstrip; /* takes the white space at its sides with it */
    bool single_word;    /* not beside a word character */
} mg_tok_added;

typedef struct mg_tok_merge { /* key of the pair map: these 8 bytes */
    int32_t left, right;
} mg_tok_merge;

typedef enum mg_tok_strip { MG_TOK_STRIP_NONE, MG_TOK_STRIP_ONE, MG_TOK_STRIP_MARKS } mg_tok_strip;

enum { MG_TOK_MAX_OPS = 8, MG_TOK_MAX_PRE = 16, MG_TOK_MAX_REGEX = 16 };

struct mg_tokenizer {
    mg_arena arena;
    mg_token *tokens;
    uint32_t n;
    mg_strmap by_text;    /* every token, the first of equal texts */
    mg_strmap pieces;     /* what text may be made of: NORMAL pieces (by score), the model's vocabulary (by rank) */
    int32_t byte_id[256]; /* -1 where there is none */
    bool byte_fallback;   /* all 256 exist and are used */
    int32_t unk, bos, eos;
    bool add_bos, add_eos;

    bool by_rank;         /* merges listed (tokenizer.json); else by score of the merged piece */
    mg_tok_merge *merges; /* in order of rank */
    int32_t *merged;      /* what each makes */
    uint32_t n_merges;
    mg_strmap pair; /* mg_tok_merge -> rank */
    bool fuse_unk, ignore_merges;

    bool sentencepiece;        /* unigram: sums are rounded to f32, and only NORMAL pieces are made of text */
    bool unigram;              /* no merges: the best path by scores (tokenizer_unigram.c) */
    uint32_t n_pieces;         /* tokens[0..n_pieces) are the model's vocabulary */
    double *scores;            /* [n_pieces] */
    uint32_t *sorted;          /* pieces by their bytes */
    uint32_t sorted_from[257]; /* sorted[sorted_from[b] .. sorted_from[b+1]) begin with byte b */
    uint32_t longest;          /* bytes of a piece */
    double unknown_score;
    bool byte_pieces; /* unknown text becomes byte tokens where all of its bytes have one */

    bool words;       /* no piece has a mark behind another character: words can be merged one by one */
    bool split_marks; /* Metaspace split: every mark begins a word of its own */

    mg_tok_op ops[MG_TOK_MAX_OPS]; /* normalizer */
    unsigned n_ops;
    mg_tok_op pre_ops[MG_TOK_MAX_OPS]; /* pre-tokenizer */
    unsigned n_pre_ops;
    mg_tok_pre pre[MG_TOK_MAX_PRE]; /* pre-tokenizers other than one Metaspace alone; n_pre_ops is 0 then */
    unsigned n_pre;
    mg_regex *regexes[MG_TOK_MAX_REGEX]; /* owned: those of ops and pre */
    unsigned n_regexes;
    const mg_regex *word;  /* one word character, for single_word */
    bool utf8_only;        /* a step needs UTF-8: bytes that are none go past all steps */
    bool byte_level;       /* tokens are written in the byte alphabet */
    bool raw_added_tokens; /* ... but not the added ones (GGUF) */
    mg_tok_added *added;   /* by first byte of match, then longest first */
    uint32_t n_added;
    uint32_t added_from[257]; /* added[added_from[b] .. added_from[b+1]) begin with byte b */

    bool marks_to_blanks; /* decoding */
    bool bytes_to_text;
    mg_tok_strip strip;
};

mg_status mg_tokenizer_new(mg_tokenizer **out, mg_error *err) MG_MUST_CHECK;
/* After tokens, merges and added tokens are in place: maps, byte tokens, checks. Added tokens whose `match` is NULL get
 * it. */
mg_status mg_tokenizer_finish(mg_tokenizer *t, mg_error *err) MG_MUST_CHECK;
mg_status mg_tokenizer_add_op(mg_tok_op *ops, unsigned *n, mg_tok_opkind kind, const char *from, const char *to,
                              mg_error *err) MG_MUST_CHECK;

/* Compile a pattern that t will own. */
mg_status mg_tokenizer_regex(mg_tokenizer *t, const char *pattern, const mg_regex **out, mg_error *err) MG_MUST_CHECK;
mg_status mg_tokenizer_add_pre(mg_tokenizer *t, mg_tok_pre step, mg_error *err) MG_MUST_CHECK;
/* Split by a regular expression. */
mg_status mg_tokenizer_add_split(mg_tokenizer *t, const char *pattern, mg_tok_behavior behavior, bool invert,
                                 mg_error *err) MG_MUST_CHECK;

/* ---- the byte alphabet (tokenizer_bytes.c) ---- */
/* The character that stands for a byte, as UTF-8 of 1 or 2 bytes; returns its length. */
size_t mg_tok_byte_char(uint8_t byte, char out[4]);
/* The byte a character stands for, or -1. */
int mg_tok_char_byte(uint32_t cp);
extern const char mg_tok_gpt2_pattern[]; /* what ByteLevel splits with */

/* Growing bytes, NUL-terminated when n > 0. {0} is empty. */
typedef struct mg_tok_text {
    char *data;
    size_t n, cap;
} mg_tok_text;
mg_status mg_tok_put(mg_tok_text *b, const char *s, size_t n, mg_error *err) MG_MUST_CHECK;

/* text normalized by ops into *out (overwritten). first: it begins at offset 0 of the whole text. */
mg_status mg_tokenizer_apply(const mg_tok_op *ops, unsigned n_ops, const char *text, size_t n, bool first,
                             mg_tok_text *out, mg_error *err) MG_MUST_CHECK;
/* The whole text: added tokens out, the rest normalized and merged. */
mg_status mg_tokenizer_split(const mg_tokenizer *t, const char *text, size_t n, bool special, mg_ids *out,
                             mg_error *err) MG_MUST_CHECK;

typedef struct mg_tok_piece {
    uint32_t begin, end; /* bytes of the text it belongs to */
} mg_tok_piece;
typedef struct mg_tok_pieces {
    mg_tok_piece *list;
    size_t n, cap;
} mg_tok_pieces;
/* A text cut by the pre-tokenizer, with the memory it needs. {0} is empty. */
typedef struct mg_tok_cut {
    mg_tok_text text, other_text;
    mg_tok_pieces pieces, other_pieces;
    mg_regex_run *run;
} mg_tok_cut;
void mg_tok_cut_release(mg_tok_cut *c);
/* text[0..n) (UTF-8) through t->pre: pieces of c->text in order, none empty. */
mg_status mg_tok_cut_text(mg_tok_cut *c, const mg_tokenizer *t, const char *text, size_t n, bool first,
                          mg_error *err) MG_MUST_CHECK;
/* Bytes past all steps: one piece, in the byte alphabet where the tokenizer has one. */
mg_status mg_tok_cut_bytes(mg_tok_cut *c, const mg_tokenizer *t, const char *bytes, size_t n,
                           mg_error *err) MG_MUST_CHECK;

/* Working memory of the search for the best path. {0} is empty. */
typedef struct mg_unigram {
    struct mg_unigram_node *nodes;
    size_t cap;
} mg_unigram;
void mg_unigram_release(mg_unigram *u);
/* After tokens and scores are in place: the index of the vocabulary. */
mg_status mg_unigram_finish(mg_tokenizer *t, mg_error *err) MG_MUST_CHECK;
/* Ids of a text that is not cut further; n > 0. */
mg_status mg_unigram_word(mg_unigram *u, const mg_tokenizer *t, const char *text, size_t n, mg_ids *out,
                          mg_error *err) MG_MUST_CHECK;

/* Working memory of the merge loop, kept from word to word. {0} is empty. */
typedef struct mg_bpe {
    struct mg_bpe_symbol *symbols;
    struct mg_bpe_entry *heap;
    size_t n_symbols, cap_symbols, n_heap, cap_heap;
    struct mg_bpe_known *cache; /* words seen before, of fixed size */
    mg_unigram unigram;
} mg_bpe;
void mg_bpe_release(mg_bpe *b);
/* Ids of normalized text (words of it one by one where that is the same). */
mg_status mg_bpe_text(mg_bpe *b, const mg_tokenizer *t, const char *text, size_t n, mg_ids *out,
                      mg_error *err) MG_MUST_CHECK;

/* ---- readers ---- */
/* Fill t (mg_tokenizer_finish is the caller's). */
mg_status mg_tokenizer_read_spm(mg_tokenizer *t, const char *path, mg_error *err) MG_MUST_CHECK;
mg_status mg_tokenizer_read_json(mg_tokenizer *t, const char *text, size_t n, mg_error *err) MG_MUST_CHECK;
mg_status mg_tokenizer_read_gpt2(mg_tokenizer *t, const mg_kvs *kv, mg_error *err) MG_MUST_CHECK;
/* The merge "text[0..left) text[left..n)" of by_rank tokenizers behind those there are; room for it is the caller's. */
mg_status mg_tokenizer_place_merge(mg_tokenizer *t, const char *text, size_t left, size_t n,
                                   mg_error *err) MG_MUST_CHECK;
/* The steps of a tokenizer.json (tokenizer_steps.c), NULL when absent; the last two once the vocabulary is there. */
mg_status mg_tokenizer_read_normalizer(mg_tokenizer *t, const mg_json *v, mg_error *err) MG_MUST_CHECK;
mg_status mg_tokenizer_read_pre_tokenizer(mg_tokenizer *t, const mg_json *v, mg_error *err) MG_MUST_CHECK;
mg_status mg_tokenizer_read_post_processor(mg_tokenizer *t, const mg_json *v, mg_error *err) MG_MUST_CHECK;
mg_status mg_tokenizer_read_decoder(mg_tokenizer *t, const mg_json *v, mg_error *err) MG_MUST_CHECK;

/* ---- values of GGUF keys (tokenizer_spm.c) ---- */
mg_status mg_tokenizer_kv_array(const mg_kvs *kv, const char *key, mg_kv_type elem, uint64_t n, const mg_kv **out,
                                mg_error *err) MG_MUST_CHECK;
mg_status mg_tokenizer_kv_id(const mg_kvs *kv, const char *key, int32_t *out, mg_error *err) MG_MUST_CHECK;
mg_status mg_tokenizer_kv_flag(const mg_kvs *kv, const char *key, bool *out, mg_error *err) MG_MUST_CHECK;
/* score may be NULL. */
mg_status mg_tokenizer_kv_tokens(mg_tokenizer *t, const mg_kv *text, const mg_kv *score, const mg_kv *type,
                                 mg_error *err) MG_MUST_CHECK;
/* Control and unknown tokens are looked for in the text on request, user-defined ones always. */
mg_status mg_tokenizer_add_specials(mg_tokenizer *t, mg_error *err) MG_MUST_CHECK;

#endif
