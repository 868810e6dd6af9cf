/* zfile.h - whole-buffer and streaming zstd for fixtures and captures. The only includer of zstd.
 * Decompression is bounded: at most cap output bytes (MG_ERR_LIMIT beyond) and a 128 MiB window. */
#ifndef MG_BASE_ZFILE_H
#define MG_BASE_ZFILE_H

#include "formats/base/status.h"

/* Decompress a whole .zst file; *out malloc'ed. */
mg_status mg_zfile_read(const char *path, uint64_t cap, uint8_t **out, size_t *n, mg_error *err) MG_MUST_CHECK;

/* Streaming writer/reader of a temporary capture (reference logits): written once, then read once from the start. */
typedef struct mg_zcapture mg_zcapture;
/* An unlinked temporary file in dir (NULL: TMPDIR or /tmp). */
mg_status mg_zcapture_new(mg_zcapture **out, const char *dir, mg_error *err) MG_MUST_CHECK;
mg_status mg_zcapture_write(mg_zcapture *c, const void *data, size_t n, mg_error *err) MG_MUST_CHECK;
mg_status mg_zcapture_rewind(mg_zcapture *c,
                             mg_error *err) MG_MUST_CHECK; /* end writing, start reading; may be repeated */
mg_status mg_zcapture_read(mg_zcapture *c, void *data, size_t n, mg_error *err) MG_MUST_CHECK; /* exactly n bytes */
void mg_zcapture_free(mg_zcapture *c);

#endif
