/* sha256.h - private to sha256.c and its twin: the compression function of FIPS 180-4 and its round constants. */
#ifndef MG_BASE_SHA256_H
#define MG_BASE_SHA256_H

#include <stddef.h>
#include <stdint.h>

/* First 32 bits of the fractional parts of the cube roots of the first 64 primes (FIPS 180-4, 4.2.2). */
extern const uint32_t mg_sha256_k[64];

/* Fold n_blocks blocks of 64 bytes into h. */
typedef void (*mg_sha256_blocks_fn)(uint32_t h[8], const uint8_t *data, size_t n_blocks);

/* The portable one. */
void mg_sha256_blocks_ref(uint32_t h[8], const uint8_t *data, size_t n_blocks);

/* The twin for x86 SHA instructions, or NULL when this build or this processor has none. */
mg_sha256_blocks_fn mg_sha256_x86(void);

#endif
