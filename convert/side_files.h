/* side_files.h - what lies beside the weights in a Hugging Face directory: tokenizer files, templates, generation
 * config. */
#ifndef MG_CONVERT_SIDE_FILES_H
#define MG_CONVERT_SIDE_FILES_H

#include "convert/plan.h"

/* Add every tokenizer file, chat template and generation_config.json that lies in dir (NULL: none) to a directory
 * output, byte for byte. *had_tokenizer (may be NULL): a tokenizer.json or tokenizer.model was among them. */
mg_status mg_side_files_copy(mg_plan *p, uint32_t out, const char *dir, bool *had_tokenizer,
                             mg_error *err) MG_MUST_CHECK;

/* MG_ERR_CONFLICT naming the first token that differs, unless both models' tokenizers have the same tokens. Models
 * without tokenizer files are not compared. */
mg_status mg_side_files_same_tokenizer(mg_checkpoint *a, mg_checkpoint *b, mg_error *err) MG_MUST_CHECK;

#endif
