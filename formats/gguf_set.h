/* gguf_set.h - GGUF models in several files, NAME-00001-of-00003.gguf, as gguf-split makes them: their names, their
 * keys, and the rules by which files belong together. docs/format_gguf.md has them in words. */
#ifndef MG_FORMATS_GGUF_SET_H
#define MG_FORMATS_GGUF_SET_H

#include "formats/container.h"
#include "formats/kv.h"

#define MG_GGUF_MAX_PARTS 65535u /* split.count is a u16 */

/* Bytes of path that name a set: without a final ".gguf". */
size_t mg_gguf_stem(const char *path);
/* Name of part no (from 0) of count: stem[0..n) and "-%05u-of-%05u.gguf". Into buf; MG_ERR_LIMIT when it does not fit.
 */
mg_status mg_gguf_part_name(char *buf, size_t size, const char *stem, size_t n, uint32_t no, uint32_t count,
                            mg_error *err) MG_MUST_CHECK;
/* Whether name is such a name: its stem's length, no (from 0) and count. */
bool mg_gguf_is_part_name(const char *name, size_t *stem, uint32_t *no, uint32_t *count);

/* The keys of one part: all (may be NULL) without split.*, then split.no (u16), split.count (u16) and
 * split.tensors.count (i32); count_last: split.count after the others, as gguf-split leaves it. Part 0 carries a
 * model's keys, the others pass NULL. *out is initialised here and released by the caller. */
mg_status mg_gguf_part_keys(mg_kvs *out, const mg_kvs *all, uint32_t no, uint32_t count, uint32_t n_tensors,
                            bool count_last, mg_error *err) MG_MUST_CHECK;

/* c holds the first file, opened from path, with its keys and tensors: when split.count is over 1, add the others from
 * the same directory. MG_ERR_FORMAT: a part missing, from another set, twice, or with other numbers than its name and
 * the first part say; MG_ERR_USAGE: path is a later part. */
mg_status mg_gguf_add_parts(mg_files_ckpt *c, const char *path, mg_error *err) MG_MUST_CHECK;

#endif
