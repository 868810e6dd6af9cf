/* hash.h - the three digests of the project: XXH3-128 (per tensor and per unit, fast), SHA-256 (what people compare)
 * and MD5 (only to check other projects' md5sum lists). Text form is lower-case hex; XXH3 in its canonical byte order.
 */
#ifndef MG_BASE_HASH_H
#define MG_BASE_HASH_H

#include "formats/base/status.h"

typedef struct mg_xxh128 {
    uint8_t bytes[16]; /* canonical (big-endian) representation */
} mg_xxh128;

mg_xxh128 mg_xxh128_of(const void *data, size_t n);
/* XXH3-64 as a number: checksums of journal records. */
uint64_t mg_xxh64_of(const void *data, size_t n);
typedef struct mg_xxh128_state mg_xxh128_state;
mg_status mg_xxh128_new(mg_xxh128_state **out, mg_error *err) MG_MUST_CHECK;
void mg_xxh128_update(mg_xxh128_state *s, const void *data, size_t n);
mg_xxh128 mg_xxh128_final(const mg_xxh128_state *s);
void mg_xxh128_free(mg_xxh128_state *s);

typedef struct mg_sha256 {
    uint32_t h[8];
    uint64_t n; /* bytes so far */
    uint8_t block[64];
} mg_sha256;
/* FIPS 180-4. Uses the SHA instructions of the processor when it has them and MOEGRAFT_ISA allows more than scalar. */
void mg_sha256_init(mg_sha256 *s);
void mg_sha256_update(mg_sha256 *s, const void *data, size_t n);
void mg_sha256_final(mg_sha256 *s, uint8_t out[32]);

/* out: 2*n characters and a NUL. */
void mg_hex(const uint8_t *bytes, size_t n, char *out);

/* sha256 of a whole file as 64 hex characters (streamed). */
mg_status mg_sha256_file(const char *path, char hex[65], mg_error *err) MG_MUST_CHECK;

#endif
