/* hf_dir.h - a Hugging Face model directory: config.json, and weights as model.safetensors or as
 * model.safetensors.index.json with shards. Rules and refusals: docs/format_safetensors.md. */
#ifndef MG_FORMATS_HF_DIR_H
#define MG_FORMATS_HF_DIR_H

#include "formats/checkpoint.h"

#define MG_HF_CONFIG_CAP (16u << 20)  /* bytes of config.json */
#define MG_HF_INDEX_CAP (100u << 20)  /* bytes of an index */

/* Open a directory. Shard names must be plain file names; symbolic links must stay in the directory or follow the
 * layout of the Hugging Face cache (snapshots/REV/FILE -> ../../blobs/HASH). */
mg_status mg_hf_dir_open(mg_checkpoint **out, const char *dir, mg_error *err) MG_MUST_CHECK;

/* Open a single .safetensors file; a config.json beside it is used when present. */
mg_status mg_safetensors_open(mg_checkpoint **out, const char *path, mg_error *err) MG_MUST_CHECK;

/* MG_ERR_FORMAT when dir/name is a link that leaves the model (see above) or leads nowhere (interrupted download). */
mg_status mg_hf_check_link(const char *dir, const char *name, mg_error *err) MG_MUST_CHECK;

#endif
