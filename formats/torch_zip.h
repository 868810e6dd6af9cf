/* torch_zip.h - where the entries of a zip archive lie, for archives as torch.save writes them.
 *
 * Only stored (uncompressed) entries of one plain or zip64 archive are accepted, because tensor data is read in place
 * by pread. Nothing is ever extracted: names are looked up, never used as paths. Why this is not done by libzip:
 * docs/format_torch.md. */
#ifndef MG_FORMATS_TORCH_ZIP_H
#define MG_FORMATS_TORCH_ZIP_H

#include "formats/base/arena.h"
#include "formats/base/file.h"
#include "formats/base/strmap.h"

#define MG_ZIP_MAX_DIRECTORY (64u << 20) /* bytes of central directory; a hundred bytes an entry */

typedef struct mg_zip_entry {
    const char *name;
    uint64_t header; /* of its local header */
    uint64_t offset; /* of its data */
    uint64_t size;
} mg_zip_entry;

typedef struct mg_zip {
    mg_zip_entry *entries; /* by position in the file */
    uint32_t n;
    mg_strmap by_name;
} mg_zip;

/* Read the directory of f and every local header. Entries do not overlap each other or the directory, and lie inside
 * the file. Names and entries are allocated in a. MG_ERR_FORMAT: malformed, truncated, overlapping, duplicate or unsafe
 * names; MG_ERR_UNSUPPORTED: compressed, encrypted or split; MG_ERR_LIMIT: directory too large. *z is initialised here
 * and released by the caller, also after a failure. */
mg_status mg_zip_open(mg_zip *z, const mg_file *f, mg_arena *a, mg_error *err) MG_MUST_CHECK;
void mg_zip_release(mg_zip *z);
/* NULL when there is none of this name. */
const mg_zip_entry *mg_zip_find(const mg_zip *z, const char *name);

#endif
