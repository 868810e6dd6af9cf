/* scan.h - one pass over the data of every tensor of a checkpoint: statistics of its values and digests of its bytes.
 * What inspect --stats, inspect --hash and check --deep stand on. */
#ifndef MG_QUANT_SCAN_H
#define MG_QUANT_SCAN_H

#include "formats/base/hash.h"
#include "formats/base/pool.h"
#include "formats/base/progress.h"
#include "formats/checkpoint.h"

#define MG_SCAN_BAD_ROWS 8u
#define MG_SCAN_BLOCK    32u

typedef struct mg_scan_stats {
    /* over the finite values, in double; all 0 without any */
    double min, max, mean, std; /* std: population standard deviation */
    uint64_t finite, zeros, nans, infs;
    uint64_t zero_blocks, zero_block;   /* aligned runs of MG_SCAN_BLOCK values that are all 0; the first one's value */
    uint64_t bad_rows;                  /* rows that hold a NaN or an infinity */
    uint64_t bad_row[MG_SCAN_BAD_ROWS]; /* the first of them */
} mg_scan_stats;

typedef struct mg_scan {
    mg_scan_stats stats;
    mg_xxh128 xxh3;
    uint8_t sha256[32];
} mg_scan;

enum { MG_SCAN_STATS = 1, MG_SCAN_HASH = 2 };

/* MG_ERR_FORMAT naming the element when one of n stored values (whole blocks) of a float or quantized dtype is a NaN or
 * an infinity; integers are never. */
mg_status mg_scan_finite(mg_dtype t, const void *stored, uint64_t n, mg_error *err) MG_MUST_CHECK;

/* Threads that fit a byte budget (0: no budget), at least 1: each needs MG_SCAN_THREAD_BYTES. */
#define MG_SCAN_THREAD_BYTES (UINT64_C(5) << 20)
unsigned mg_scan_threads(unsigned threads, uint64_t memory);

/* Fill out[c->n_tensors]; what is a set of MG_SCAN_ bits. Tensors are tickets of pool (NULL: the caller's thread), read
 * in tiles of at most 2 MiB, so memory is a few MiB per thread whatever the tensors' sizes, and the result does not
 * depend on the number of threads. Quantized values are their codec's f32. progress (may be NULL) counts bytes. */
mg_status mg_scan_checkpoint(mg_checkpoint *c, unsigned what, mg_pool *pool, mg_progress *progress, mg_scan *out,
                             mg_error *err) MG_MUST_CHECK;

#endif
