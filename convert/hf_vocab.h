/* hf_vocab.h - tokenizer.json and tokenizer_config.json made of the tokenizer.* keys of a GGUF, for SentencePiece BPE
 * ("llama") and byte-level BPE ("gpt2"): the tokenizer that the keys describe, ids equal to those of a reader of the
 * GGUF. What the keys do not hold (Unicode normalization, white space around added tokens) the files do not either. */
#ifndef MG_CONVERT_HF_VOCAB_H
#define MG_CONVERT_HF_VOCAB_H

#include "convert/plan.h"

/* Add the files to a directory output. *had = false, and nothing added, when kv has no tokenizer. MG_ERR_UNSUPPORTED
 * for a kind that is not read, and for pieces whose scores do not order their merges. */
mg_status mg_hf_vocab_add(mg_plan *p, uint32_t out, const mg_kvs *kv, bool *had, mg_error *err) MG_MUST_CHECK;
/* The two files as trees, the caller's; NULL when kv has no tokenizer. */
mg_status mg_hf_vocab_make(mg_json **tokenizer, mg_json **config, const mg_kvs *kv, mg_error *err) MG_MUST_CHECK;

#endif
