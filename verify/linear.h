/* linear.h - y = x * W^T + b with W streamed from the checkpoint, tile by tile, decoded to f32 on the way or multiplied
 * as the codes it is stored as.
 *
 * A list of products runs as one set of tickets over blocks of output columns, so that many small matrices (the
 * experts of a layer) keep every thread busy. Each ticket reads its own rows of W once, whatever the number of rows
 * of x: run many tokens per call. Results follow rule G (docs/numerics.md) and depend on nothing but x, W and b. */
#ifndef MG_VERIFY_LINEAR_H
#define MG_VERIFY_LINEAR_H

#include "formats/base/pool.h"
#include "quant/math/gemm.h"
#include "quant/read_f32.h"
#include "verify/fbuf.h"
#include "verify/panels.h"

/* Rows of x packed for the kernels. Borrowed storage. */
typedef struct mg_xpack {
    const float *data;
    uint64_t m, k;
} mg_xpack;

typedef struct mg_linear_job {
    const mg_bound *w;    /* [n, k] */
    const mg_bound *bias; /* [n] or NULL */
    mg_xpack x;
    float *y; /* [m][ldy] */
    uint64_t ldy;
} mg_linear_job;

typedef struct mg_linear_worker {
    void *raw; /* stored rows of one tile */
    uint64_t raw_bytes;
    mg_fbuf rows, chunk; /* 16 decoded rows; packed panels */
} mg_linear_worker;

/* Threads and their scratch. */
typedef struct mg_linear {
    mg_pool *pool; /* borrowed; NULL = the caller's thread alone */
    unsigned workers;
    const mg_math *math;
    mg_linear_worker *per_worker;
    mg_fbuf biases;
    mg_panel_cache panels; /* budget 0: nothing is kept */
} mg_linear;

mg_status mg_linear_init(mg_linear *l, mg_pool *pool, mg_error *err) MG_MUST_CHECK;
void mg_linear_release(mg_linear *l);

/* Floats that packing m rows of k takes; false on overflow. */
static inline bool mg_linear_pack_floats(const mg_linear *l, uint64_t m, uint64_t k, uint64_t *out) {
    return mg_gemm_x_floats(l->math, m, k, out);
}
/* Pack m rows of x (rows NULL) or the rows named by rows[m] into dst; *out describes them. */
mg_status mg_linear_pack(mg_linear *l, mg_xpack *out, float *dst, const float *x, uint64_t ldx, const uint32_t *rows,
                         uint64_t m, uint64_t k, mg_error *err) MG_MUST_CHECK;
/* The same into a buffer that grows. */
mg_status mg_linear_pack_buf(mg_linear *l, mg_xpack *out, mg_fbuf *dst, const float *x, uint64_t ldx, uint64_t m,
                             uint64_t k, mg_error *err) MG_MUST_CHECK;

/* All products. MG_ERR_FORMAT when a weight's shape is not what its job needs. */
mg_status mg_linear_run(mg_linear *l, mg_model *m, const mg_linear_job *jobs, size_t n, mg_error *err) MG_MUST_CHECK;

#endif
