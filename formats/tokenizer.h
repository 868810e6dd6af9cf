/* tokenizer.h - text to token ids and back, as the model's own tokenizer does it.
 *
 * Kinds understood: SentencePiece BPE (tokenizer.model, and GGUF vocabularies of model "llama"), merged by piece score;
 * and BPE with merges by rank, over characters or bytes (tokenizer.json; GGUF vocabularies of model "gpt2"), with the
 * normalizers, pre-tokenizers, post-processors and decoders listed in docs/tokenizer.md. Unigram vocabularies
 * of tokenizer.json too. Anything else (WordPiece, other steps, unknown constructs of regular expressions ...) is
 * MG_ERR_UNSUPPORTED by name. A malformed
 * vocabulary is MG_ERR_FORMAT. */
#ifndef MG_FORMATS_TOKENIZER_H
#define MG_FORMATS_TOKENIZER_H

#include "formats/base/status.h"
#include "formats/checkpoint.h"
#include "formats/kv.h"

typedef enum mg_token_type { /* the ids of GGUF's tokenizer.ggml.token_type and of SentencePiece */
                             MG_TOKEN_NORMAL = 1,
                             MG_TOKEN_UNKNOWN,
                             MG_TOKEN_CONTROL,
                             MG_TOKEN_USER_DEFINED,
                             MG_TOKEN_UNUSED,
                             MG_TOKEN_BYTE,
} mg_token_type;

typedef struct mg_token {
    const char *text; /* as stored ("\u2581the", "<0x0A>", "</s>"), NUL-terminated */
    uint32_t len;
    mg_token_type type;
    float score; /* 0 when the source has none */
} mg_token;

/* A growing list of token ids. {0} is empty. */
typedef struct mg_ids {
    int32_t *ids;
    size_t n, cap;
} mg_ids;
void mg_ids_release(mg_ids *l);
mg_status mg_ids_push(mg_ids *l, int32_t id, mg_error *err) MG_MUST_CHECK;

typedef struct mg_tokenizer mg_tokenizer;

/* The tokenizer of a Hugging Face directory: tokenizer.json, else tokenizer.model; flags and names of special tokens
 * from tokenizer_config.json and special_tokens_map.json. No tokenizer file: MG_OK and *out = NULL (models without one
 * exist). */
mg_status mg_tokenizer_open_dir(mg_tokenizer **out, const char *dir, mg_error *err) MG_MUST_CHECK;
/* One file alone, without side files. */
mg_status mg_tokenizer_open_json(mg_tokenizer **out, const char *path, mg_error *err) MG_MUST_CHECK;
mg_status mg_tokenizer_open_spm(mg_tokenizer **out, const char *path, mg_error *err) MG_MUST_CHECK;
/* From the metadata of a GGUF file; name is used in errors. No tokenizer keys: MG_OK and *out = NULL. kv may be
 * released afterwards. */
mg_status mg_tokenizer_open_kv(mg_tokenizer **out, const mg_kvs *kv, const char *name, mg_error *err) MG_MUST_CHECK;
/* Of an open model: a GGUF's own keys, else the side files of its directory. None: MG_OK and *out = NULL. */
mg_status mg_tokenizer_open_model(mg_tokenizer **out, const mg_checkpoint *c, mg_error *err) MG_MUST_CHECK;
/* PATH as users give it: a directory (weights need not be there), tokenizer.json, tokenizer.model, or any model file.
 * A path without a tokenizer is MG_ERR_UNSUPPORTED. */
mg_status mg_tokenizer_open_path(mg_tokenizer **out, const char *path, mg_error *err) MG_MUST_CHECK;
void mg_tokenizer_free(mg_tokenizer *t);

uint32_t mg_tokenizer_size(const mg_tokenizer *t);
const mg_token *mg_tokenizer_token(const mg_tokenizer *t, int32_t id); /* NULL when out of range */
/* Id of a token by its text, special ones included; -1 when there is none. */
int32_t mg_tokenizer_find(const mg_tokenizer *t, const char *text);
/* -1 when the model has none. */
int32_t mg_tokenizer_bos(const mg_tokenizer *t);
int32_t mg_tokenizer_eos(const mg_tokenizer *t);
bool mg_tokenizer_adds_bos(const mg_tokenizer *t);
bool mg_tokenizer_adds_eos(const mg_tokenizer *t);
/* Whether text is given a blank in front ("add_space_prefix"). */
bool mg_tokenizer_adds_blank(const mg_tokenizer *t);
/* scores[mg_tokenizer_size]: those under which merging by score gives the same ids; the stored ones, or for merges by
 * rank those SentencePiece would have had. MG_ERR_UNSUPPORTED when scores cannot express the merges. */
mg_status mg_tokenizer_scores(const mg_tokenizer *t, float *scores, mg_error *err) MG_MUST_CHECK;

/* Whether tokens are written in the byte alphabet of GPT-2 (byte-level BPE). */
bool mg_tokenizer_is_byte_level(const mg_tokenizer *t);
/* Merges in order of rank; none for tokenizers that merge by score. i < mg_tokenizer_n_merges. */
uint32_t mg_tokenizer_n_merges(const mg_tokenizer *t);
void mg_tokenizer_merge(const mg_tokenizer *t, uint32_t i, const mg_token **left, const mg_token **right);
/* The regular expressions that cut text into words under a name of GGUF's tokenizer.ggml.pre, one after the other, each
 * match a word; NULL-terminated. NULL: the name is unknown. */
const char *const *mg_tokenizer_pre_expressions(const char *name, bool *ignore_merges);
/* Is id an added token (looked for in the text as a whole)? Looks through all of them. */
bool mg_tokenizer_is_added(const mg_tokenizer *t, int32_t id, bool *special, bool *normalized);

enum {
    MG_ENCODE_BOS_EOS = 1, /* put BOS before and EOS after the text where the model's tokenizer does */
    MG_ENCODE_SPECIAL = 2, /* "<s>" in the text is the special token, not three characters */
    MG_ENCODE_DEFAULT = 3, /* what transformers' tokenizer(text) does */
};
/* Append the ids of text[0..n). The text may hold any bytes; those that are not UTF-8 become byte tokens.
 * n < 512 MiB. A regular expression that backtracks without end on the text is MG_ERR_LIMIT.
 * Thread safe: the tokenizer is not changed. */
mg_status mg_tokenizer_encode(const mg_tokenizer *t, const char *text, size_t n, unsigned flags, mg_ids *out,
                              mg_error *err) MG_MUST_CHECK;

enum {
    MG_DECODE_SKIP_SPECIAL = 1, /* leave control tokens and the unknown token out */
};
/* Text of ids: malloc'ed, NUL-terminated (the NUL not counted in *len). Byte tokens give their byte, so a sequence that
 * cuts a character in half gives bytes that are not UTF-8. The blank that encoding put before the text is taken off
 * again. MG_ERR_USAGE for an id outside the vocabulary. */
mg_status mg_tokenizer_decode(const mg_tokenizer *t, const int32_t *ids, size_t n, unsigned flags, char **out,
                              size_t *len, mg_error *err) MG_MUST_CHECK;

#endif
