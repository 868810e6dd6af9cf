/* imatrix_set.h - importance matrices being made: sums of squares that grow, are merged, and are written.
 *
 * Sums are kept in f64, counts as integers; both become f32 once, when the file is written. A file that was read and is
 * written again is therefore the same file. Written forms (docs/calibrate.md):
 *   GGUF    names sorted by bytes; NAME.in_sum2 F32 [n_mat, cols], NAME.counts F32 [n_mat, 1]; keys general.type,
 *           imatrix.datasets, .chunk_count, .chunk_size
 *   .dat    per name ncall = ceil(largest count / chunk size) and (sum / count) * ncall in f32, where a matrix without
 *           tokens stands as ncall; names without any token are left out; then the chunks and the last dataset's name
 */
#ifndef MG_QUANT_IMATRIX_SET_H
#define MG_QUANT_IMATRIX_SET_H

#include "quant/imatrix.h"

typedef struct mg_imatrix_sums {
    const char *name; /* of the weight */
    uint64_t cols, n_mat;
    double *sums;    /* [n_mat, cols] */
    int64_t *counts; /* [n_mat] rows that went into each */
} mg_imatrix_sums;

typedef struct mg_imatrix_set {
    mg_arena arena;
    mg_imatrix_sums *items; /* in the order they came */
    uint32_t n, cap;
    mg_strmap by_name;
    const char **datasets;
    uint32_t n_datasets, cap_datasets;
    uint64_t chunk_count, chunk_size; /* chunk_size 0: not known yet */
    bool mixed_chunks;                /* files of different chunk sizes were added; chunk_size is the first's */
} mg_imatrix_set;

void mg_imatrix_set_init(mg_imatrix_set *s);
void mg_imatrix_set_release(mg_imatrix_set *s);

/* A new entry over the caller's arrays, which must outlive s and may serve several entries that are never added to.
 * The name is copied. MG_ERR_FORMAT when it exists. */
mg_status mg_imatrix_set_put(mg_imatrix_set *s, const mg_imatrix_sums *entry, mg_error *err) MG_MUST_CHECK;
/* Remember where the text came from; a name that is there already is kept once. */
mg_status mg_imatrix_set_dataset(mg_imatrix_set *s, const char *name, mg_error *err) MG_MUST_CHECK;

/* Add a file loaded with mg_imatrix_load_sums: sums and counts add, chunks add. legacy_chunk: tokens per chunk of .dat
 * files, which do not say; their values and calls are multiplied by it. MG_ERR_CONFLICT when a weight has another shape
 * in m (a .dat does not tell experts apart, so it joins only other .dat files there). */
mg_status mg_imatrix_set_add(mg_imatrix_set *s, const mg_imatrix *m, uint64_t legacy_chunk,
                             mg_error *err) MG_MUST_CHECK;

/* Write s to path, as .dat when the name ends so. Atomic (outfile.h); an existing file is replaced only under force.
 * MG_ERR_LIMIT: a sum beyond f32. size and sha256 (64 digits and a NUL) describe the file, either may be NULL. */
mg_status mg_imatrix_set_write(const mg_imatrix_set *s, const char *path, bool force, uint64_t *size, char *sha256,
                               mg_error *err) MG_MUST_CHECK;

#endif
