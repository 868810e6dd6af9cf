/* tokenizer_impl.h - the inside of mg_tokenizer, for the readers (tokenizer_json.c, tokenizer_spm.c, tokenizer_gguf.c)
 * and the engine (tokenizer.c, tokenizer_split.c, tokenizer_bpe.c). Not for anyone else. */
#ifndef MG_FORMATS_TOKENIZER_IMPL_H
#define MG_FORMATS_TOKENIZER_IMPL_H

#include "formats/base/arena.h"
#include "formats/base/strmap.h"
#include "formats/tokenizer.h"

#define MG_SPACE_MARK "\xE2\x96\x81" /* U+2581, what SentencePiece writes for a blank */

typedef enum mg_tok_opkind {
    MG_TOK_PREPEND,         /* `to` before every piece of text between special tokens that is not empty */
    MG_TOK_PREPEND_FIRST,   /* the same for the piece at offset 0 of the whole text only */
    MG_TOK_REPLACE,         /* every `from` by `to` */
    MG_TOK_NOT_TWICE,       /* `to` before the text unless it begins with it (Metaspace "always") */
    MG_TOK_NOT_TWICE_FIRST, /* the same at offset 0 only (Metaspace "first") */
} mg_tok_opkind;

typedef struct mg_tok_op {
    mg_tok_opkind kind;
    const char *from, *to;
} mg_tok_op;

/* An added or special token: matched in the text before anything else happens to it. */
typedef struct mg_tok_added {
    int32_t id;
    const char *match; /* what is looked for: the content, normalized when `normalized` */
    size_t len;
    bool special;        /* looked for only with MG_ENCODE_SPECIAL */
    bool normalized;     /* looked for in the normalized text */
    bool lstrip, rstrip; /* takes the white space at its sides with it */
} mg_tok_added;

typedef struct mg_tok_merge { /* key of the pair map: these 8 bytes */
    int32_t left, right;
} mg_tok_merge;

typedef enum mg_tok_strip { MG_TOK_STRIP_NONE, MG_TOK_STRIP_ONE, MG_TOK_STRIP_MARKS } mg_tok_strip;

enum { MG_TOK_MAX_OPS = 8 };

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
    bool words;       /* no piece has a mark behind another character: words can be merged one by one */
    bool split_marks; /* Metaspace split: every mark begins a word of its own */

    mg_tok_op ops[MG_TOK_MAX_OPS]; /* normalizer */
    unsigned n_ops;
    mg_tok_op pre_ops[MG_TOK_MAX_OPS]; /* pre-tokenizer */
    unsigned n_pre_ops;
    mg_tok_added *added; /* by first byte of match, then longest first */
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

/* Working memory of the merge loop, kept from word to word. {0} is empty. */
typedef struct mg_bpe {
    struct mg_bpe_symbol *symbols;
    struct mg_bpe_entry *heap;
    size_t n_symbols, cap_symbols, n_heap, cap_heap;
} mg_bpe;
void mg_bpe_release(mg_bpe *b);
/* Ids of normalized text (words of it one by one where that is the same). */
mg_status mg_bpe_text(mg_bpe *b, const mg_tokenizer *t, const char *text, size_t n, mg_ids *out,
                      mg_error *err) MG_MUST_CHECK;

/* ---- readers ---- */
/* Fill t (mg_tokenizer_finish is the caller's). */
mg_status mg_tokenizer_read_spm(mg_tokenizer *t, const char *path, mg_error *err) MG_MUST_CHECK;
mg_status mg_tokenizer_read_json(mg_tokenizer *t, const char *text, size_t n, mg_error *err) MG_MUST_CHECK;

#endif
