/* config_ckpt.h - a checkpoint that is a config.json alone: the tensors that the model would have, without their
 * values. Plans over it can be sized and printed, not executed. */
#ifndef MG_CONVERT_CONFIG_CKPT_H
#define MG_CONVERT_CONFIG_CKPT_H

#include "formats/checkpoint.h"

/* Is path a config.json, or a directory with one and without weights? */
bool mg_config_ckpt_is(const char *path);
/* Tensors of the Hugging Face layout in the type the config names (BF16 when it names none). Reading fails with
 * MG_ERR_USAGE. */
mg_status mg_config_ckpt_open(mg_checkpoint **out, const char *path, mg_error *err) MG_MUST_CHECK;

#endif
