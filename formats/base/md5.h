/* md5.h - MD5 (RFC 1321), only to check lists that other projects published (md5sum). Never used for anything of ours.
 */
#ifndef MG_BASE_MD5_H
#define MG_BASE_MD5_H

#include "formats/base/status.h"

typedef struct mg_md5 {
    uint32_t h[4];
    uint64_t n; /* bytes so far */
    uint8_t block[64];
} mg_md5;
void mg_md5_init(mg_md5 *s);
void mg_md5_update(mg_md5 *s, const void *data, size_t n);
void mg_md5_final(mg_md5 *s, uint8_t out[16]);

/* MD5 of a whole file as 32 hex characters (streamed). */
mg_status mg_md5_file(const char *path, char hex[33], mg_error *err) MG_MUST_CHECK;

#endif
