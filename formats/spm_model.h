/* spm_model.h - tokenizer.model, SentencePiece's protobuf: the pieces and the few settings that change what text
 * becomes. */
#ifndef MG_FORMATS_SPM_MODEL_H
#define MG_FORMATS_SPM_MODEL_H

#include "formats/base/arena.h"
#include "formats/tokenizer.h"

typedef struct mg_spm_model {
    mg_arena arena;
    mg_token *pieces; /* in order of id; type and score as stored */
    uint32_t n;
    int32_t model_type;                     /* 1 unigram, 2 BPE, 3 word, 4 char */
    int32_t unk_id, bos_id, eos_id, pad_id; /* -1: none */
    bool byte_fallback;
    bool add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces, whitespace_as_suffix;
    const uint8_t *charsmap; /* the normalization table (charsmap.h), in the arena */
    uint64_t charsmap_bytes; /* its size; 0: none */
} mg_spm_model;

/* Read a file. MG_ERR_FORMAT (with offset) for bytes that are no such protobuf. Unknown fields are skipped. */
mg_status mg_spm_model_load(mg_spm_model *m, const char *path, mg_error *err) MG_MUST_CHECK;
void mg_spm_model_release(mg_spm_model *m);

#endif
