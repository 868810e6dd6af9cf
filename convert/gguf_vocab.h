/* gguf_vocab.h - the tokenizer.* keys of a GGUF made from a Hugging Face directory: names, order, types and values of
 * convert_hf_to_gguf.py for SentencePiece BPE (see docs/tokenizer.md for the one difference) and byte-level BPE, whose
 * tokenizer.ggml.pre is found as the converter finds it: by the hash of the ids of a fixed text. */
#ifndef MG_CONVERT_GGUF_VOCAB_H
#define MG_CONVERT_GGUF_VOCAB_H

#include "formats/kv.h"

/* Append the keys to kv. tokenizer.model is preferred, else tokenizer.json; added tokens, special ids, flags and the
 * chat template come from the side files. vocab_rows: config.json's vocab_size; the vocabulary is padded to it with
 * "[PADi]" and cut at it, 0 takes the tokenizer's own size. *had_tokenizer = false and no keys when there are no
 * tokenizer files. Kinds that the keys cannot hold are MG_ERR_UNSUPPORTED by name. */
mg_status mg_gguf_vocab_append(mg_kvs *kv, const char *hf_dir, uint64_t vocab_rows, bool *had_tokenizer,
                               mg_error *err) MG_MUST_CHECK;

#endif
