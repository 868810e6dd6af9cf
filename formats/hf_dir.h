/* hf_dir.h - a Hugging Face model directory: config.json, and weights as model.safetensors or
 * pytorch_model.bin, or as shards that model.safetensors.index.json or pytorch_model.bin.index.json names; safetensors
 * come first. Rules and refusals: docs/format_safetensors.md. */
#ifndef MG_FORMATS_HF_DIR_H
#define MG_FORMATS_HF_DIR_H

#include "formats/checkpoint.h"

#define MG_HF_CONFIG_CAP (16u << 20)  /* bytes of config.json */
#define MG_HF_INDEX_CAP  (100u << 20) /* bytes of an index */

/* Open a directory. Shard names must be plain file names; symbolic links must stay in the directory or follow the
 * layout of the Hugging Face cache (snapshots/REV/FILE -> ../../blobs/HASH). */
mg_status mg_hf_dir_open(mg_checkpoint **out, const char *dir, mg_error *err) MG_MUST_CHECK;

/* Open a single .safetensors file; a config.json beside it is used when present. */
mg_status mg_safetensors_open(mg_checkpoint **out, const char *path, mg_error *err) MG_MUST_CHECK;

/* MG_ERR_FORMAT when dir/name is a link that leaves the model (see above) or leads nowhere (interrupted download). */
mg_status mg_hf_check_link(const char *dir, const char *name, mg_error *err) MG_MUST_CHECK;

/* ---- shared with native_dir.c ---- */

struct mg_files_ckpt;
/* Weights under the names above in dir? */
bool mg_hf_has_weights(const char *dir);
/* Open dir/name (safetensors or torch, by its name) as the next file and append its tensors. */
mg_status mg_hf_add_shard(struct mg_files_ckpt *c, const char *dir, const char *name, mg_error *err) MG_MUST_CHECK;
/* All shards that dir/index names, which end in suffix, checked against it. single: a file that is there as well and
 * must then be named; NULL for none. */
mg_status mg_hf_add_indexed(struct mg_files_ckpt *c, const char *dir, const char *index, const char *suffix,
                            const char *single, mg_error *err) MG_MUST_CHECK;

#endif
