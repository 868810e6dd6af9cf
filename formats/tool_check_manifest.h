/* tool_check_manifest.h - the files of a model against a list of hashes: ours (NAME.manifest.json), sha256sum's or
 * md5sum's. Part of the check tool. */
#ifndef MG_FORMATS_TOOL_CHECK_MANIFEST_H
#define MG_FORMATS_TOOL_CHECK_MANIFEST_H

#include "formats/base/pool.h"
#include "formats/checkpoint.h"

/* path: as the user gave it, a directory or a file; entries about other files are passed over. ckpt: of path, to name
 * the tensors that changed, or NULL. *n_files: files that were compared. MG_ERR_INTEGRITY names the first that differs;
 * MG_ERR_FORMAT: no list of hashes, or one that names no file of path. */
mg_status mg_tool_manifest_check(const char *manifest, const char *path, mg_checkpoint *ckpt, mg_pool *pool,
                                 uint64_t *n_files, mg_error *err) MG_MUST_CHECK;

#endif
