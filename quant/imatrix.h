/* imatrix.h - importance matrices: how large the inputs of every weight matrix were on calibration text.
 *
 * Two file forms, told apart by their first bytes: GGUF (per expert: sum of squares and count) and the older .dat
 * (already averaged). Both are read into the numbers llama-quantize weights its encoders with:
 *   GGUF    value[e][i] = in_sum2[e][i] / counts[e], and 1 for an expert e that no token reached (count 0)
 *   .dat    value[i] = sum[i] / ncall, the sum itself when ncall is not positive
 * Non-finite values are refused: one would poison every scale search of its row. */
#ifndef MG_QUANT_IMATRIX_H
#define MG_QUANT_IMATRIX_H

#include "formats/base/arena.h"
#include "formats/base/strmap.h"
#include "formats/checkpoint.h"

typedef struct mg_imatrix_entry {
    const char *name;      /* of the weight: "blk.0.attn_q.weight" */
    uint64_t cols;         /* input channels of one matrix; .dat: all values */
    uint64_t n_mat;        /* experts, 1 for dense weights and in .dat files */
    const float *values;   /* [n_mat, cols] as above */
    const int64_t *counts; /* [n_mat] tokens seen, rounded to integers; .dat: the number of calls */
    uint64_t n_empty;      /* experts without a single token */
} mg_imatrix_entry;

typedef struct mg_imatrix {
    mg_arena arena;
    mg_imatrix_entry *entries; /* GGUF: sorted by name; .dat: file order */
    uint32_t n;
    mg_strmap by_name;
    const char *dataset; /* first dataset name, NULL when the file names none */
    const char **datasets;
    uint32_t n_datasets;
    int64_t chunk_count; /* chunks it was computed on; 0 or negative when unknown */
    uint64_t chunk_size; /* tokens of a chunk; 0 in .dat files, which do not say */
    bool legacy;
    bool raw; /* made by mg_imatrix_load_sums */
} mg_imatrix;

/* Read a file. Memory is at most a small multiple of the file's size. *out is the caller's (mg_imatrix_free). */
mg_status mg_imatrix_load(mg_imatrix **out, const char *path, mg_error *err) MG_MUST_CHECK;
/* The same with the numbers as stored, for merging and statistics: values are sums of squares (GGUF), or averages times
 * counts[0] calls (.dat). */
mg_status mg_imatrix_load_sums(mg_imatrix **out, const char *path, mg_error *err) MG_MUST_CHECK;
void mg_imatrix_free(mg_imatrix *m);

/* Keep only entries whose name contains (include) or does not contain (exclude) any of the n substrings; n = 0 keeps
 * all. */
mg_status mg_imatrix_filter(mg_imatrix *m, const char *const *substrings, size_t n, bool include,
                            mg_error *err) MG_MUST_CHECK;

/* NULL when there is none. m may be NULL. */
const mg_imatrix_entry *mg_imatrix_find(const mg_imatrix *m, const char *name);

#endif
