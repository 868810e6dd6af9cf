/* known_hashes.h - hashes of files that somebody recorded, found beside them, and the files compared with them.
 *
 * Looked for, in this order, for FILE in DIR:
 *   DIR/FILE.manifest.json, DIR/model.manifest.json     ours: sha256
 *   DIR/FILE -> .../blobs/HASH                          the Hugging Face cache: sha256 of large files
 *   DIR/.cache/huggingface/download/FILE.metadata       the same of a download into a folder: its second line
 *   lists of sha256sum and md5sum: DIR/FILE.sha256, DIR/FILE.md5, files of DIR called *sha256*, *md5*, checklist.chk or
 *   RELEASE; sha256 before MD5 */
#ifndef MG_FORMATS_KNOWN_HASHES_H
#define MG_FORMATS_KNOWN_HASHES_H

#include "formats/base/pool.h"
#include "formats/checkpoint.h"

typedef struct mg_known_hash {
    char hex[65];   /* 64 digits: sha256, 32: MD5; "" when none is known */
    char from[512]; /* where it was found */
} mg_known_hash;

/* Unreadable records count as absent. MG_ERR_FORMAT: a manifest of ours that is no JSON. */
mg_status mg_known_hash_find(mg_known_hash *k, const char *dir, const char *file, mg_error *err) MG_MUST_CHECK;

typedef struct mg_known_counts {
    uint64_t files, bytes; /* compared */
    uint64_t unknown;      /* without a record */
    char first_unknown[512];
} mg_known_counts;

/* Compare every file of the checkpoints, each once, several at a time, and the total of a safetensors index with its
 * tensors. share of of: every of-th file only, counted from share (of 0: all). MG_ERR_INTEGRITY names the file, what
 * was expected and what was found. */
mg_status mg_known_hashes_check(mg_checkpoint *const *c, uint32_t n, mg_pool *pool, uint32_t share, uint32_t of,
                                mg_known_counts *counts, mg_error *err) MG_MUST_CHECK;

#endif
