/* config_rules.h - do the files of a model say the same? A table of rules with the source of each, judged from headers
 * and side files alone: configurations, tokenizer, chat template, metadata, types stored. What the family's tables
 * check when a model is opened (formats/arch) is not repeated for families that are known. */
#ifndef MG_QUANT_CONFIG_RULES_H
#define MG_QUANT_CONFIG_RULES_H

#include "formats/arch/model.h"

/* Judge c as it is stored, dense its dense view (c itself when nothing is quantized; NULL when it could not be made),
 * m (of dense) NULL for a family that is not known or a model that could not be opened.
 *
 * Contradictions are appended to findings, objects with
 *   kind      "config", "vocabulary", "template", "quantization", "gguf"
 *   severity  "error": a loader refuses the model for it, or loads or runs it wrong; "warning": programs disagree
 *             about it, or a part of it is never used
 *   rule, source  its short name, and where the rule is from
 *   file, key, found, expected    and "tensor" where it is about one
 *   text      all of it in one sentence
 * and what is worth saying but no contradiction (rows of padding) to notes, as sentences. *n_errors: how many findings
 * are errors. MG_ERR_FORMAT: a side file is malformed. */
mg_status mg_config_rules(mg_json *findings, mg_json *notes, uint32_t *n_errors, mg_checkpoint *c, mg_checkpoint *dense,
                          mg_model *m, mg_error *err) MG_MUST_CHECK;

#endif
