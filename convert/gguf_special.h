/* gguf_special.h - special token ids, add_* flags and chat template of a Hugging Face directory as GGUF keys: the
 * second half of gguf_vocab.h, whichever kind the vocabulary is. */
#ifndef MG_CONVERT_GGUF_SPECIAL_H
#define MG_CONVERT_GGUF_SPECIAL_H

#include "formats/base/json.h"
#include "formats/kv.h"

/* config: tokenizer_config.json, or NULL. n_vocab: tokens in the file; ids beyond are left out, as the converter does.
 */
mg_status mg_gguf_special_append(mg_kvs *kv, const char *hf_dir, const mg_json *config, uint64_t n_vocab,
                                 bool never_bos, mg_error *err) MG_MUST_CHECK;

#endif
