/* same_tokenizer.h - do two models read text the same way? */
#ifndef MG_CONVERT_SAME_TOKENIZER_H
#define MG_CONVERT_SAME_TOKENIZER_H

#include "formats/checkpoint.h"

/* MG_ERR_CONFLICT naming the first token that differs, unless both models' tokenizers have the same tokens. Models
 * without tokenizer files are not compared. */
mg_status mg_same_tokenizer(const mg_checkpoint *a, const mg_checkpoint *b, mg_error *err) MG_MUST_CHECK;

#endif
