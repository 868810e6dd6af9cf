/* native_dir.h - releases in Mistral's or Meta's own form: params.json with consolidated.safetensors, its shards, or
 * consolidated.*.pth / .pt pickles whose dicts are united, or joined where each file holds a slice of every matrix
 * (slices.h). Names and rotary order of the tensors are native:
 * MG_LAYOUT_NATIVE of the family tables. */
#ifndef MG_FORMATS_NATIVE_DIR_H
#define MG_FORMATS_NATIVE_DIR_H

#include "formats/checkpoint.h"

/* Does dir hold a native release, and no Hugging Face model that counts first? */
bool mg_native_dir_is(const char *dir);
mg_status mg_native_dir_open(mg_checkpoint **out, const char *dir, mg_error *err) MG_MUST_CHECK;

#endif
