/* outclean.h - what interrupted runs left in a directory (outfile.h), found and removed: journals and the part files
 * they name. Nothing that a process holds, and no set that is complete but for its names. */
#ifndef MG_BASE_OUTCLEAN_H
#define MG_BASE_OUTCLEAN_H

#include "formats/base/status.h"

typedef struct mg_clean_options {
    bool dry_run; /* say what would be done */
    bool orphans; /* also part files that no journal names (of small files, or of a journal that is gone) */
} mg_clean_options;

/* One file found. why: it stays, and the reason; NULL: removed (or would be). */
typedef void (*mg_clean_fn)(void *ctx, const char *dir, const char *name, uint64_t bytes, const char *why);

/* In order of names; not in directories below. MG_ERR_IO when the directory cannot be read or a file not removed. */
mg_status mg_outset_clean(const char *dir, const mg_clean_options *opt, mg_clean_fn fn, void *ctx,
                          mg_error *err) MG_MUST_CHECK;

#endif
